//! What reviewers did to the ports of a node, and what must come of it now.
//!
//! Named as in the threat table of SECURITY.md's history: A1 to A28, S4 to S9. [`peers`],
//! [`entries`] and [`membership`] attack the raft port as a stranger, a client, another node or a
//! thief; [`callers`] the client port; [`ports`] the limits of all ports; [`rotation`] certificates
//! that change while nodes run.
//!
//! The attackers: [`stranger`] dials with any certificate, [`impostor`] answers with any; the thief
//! with a node's disk is `crate::thief`. Every test asserts that its attack fails, and that [`group`]
//! still works.

mod callers;
mod entries;
mod group;
mod impostor;
mod membership;
mod peers;
mod ports;
mod relay;
mod rotation;
mod stranger;
