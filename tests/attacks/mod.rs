//! What reviewers did to the ports of a node, and what must come of it now.
//!
//! The names begin as the attacks were numbered: A1 to A28, S4 to S15. [`peers`], [`entries`] and
//! [`membership`] attack the raft port as a stranger, a client, another node or a thief;
//! [`callers`] the client port; [`ports`], [`flood`] and [`memory`] the limits of all ports;
//! [`rotation`] and [`trust`] are about certificates that change while nodes run, [`migration`]
//! about the way from clear text to TLS, [`files`] about files and addresses.
//!
//! The attackers: [`stranger`] dials with any certificate, [`impostor`] answers with any, [`wire`]
//! speaks half of a protocol; the thief with a node's disk is `crate::thief`. [`load`] is the caller
//! who must not notice. Every test asserts that its attack fails, and that [`group`] still works.

mod any_server;
mod callers;
mod entries;
mod files;
mod flood;
pub mod group;
mod impostor;
mod load;
pub mod membership;
mod memory;
mod migration;
mod peers;
mod ports;
pub mod relay;
mod rotation;
mod stranger;
mod trust;
pub mod wire;
