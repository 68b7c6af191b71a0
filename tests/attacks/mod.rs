//! What reviewers did to the ports of a node, and what must come of it now.
//!
//! Named as in the threat table of SECURITY.md's history: A1 to A28. [`peers`] attacks the raft port as
//! a stranger, a client, another node or a thief; [`ports`] the limits of all ports; [`rotation`]
//! certificates that change while nodes run.

mod peers;
mod ports;
mod rotation;
