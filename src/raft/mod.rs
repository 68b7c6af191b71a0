//! Consensus: everything that speaks openraft, and both ends of the wire between nodes.
//!
//! Reading order: [`types`] fixes what an entry, a peer and a result are; [`membership`] is the one
//! payload that openraft makes itself; [`log_store`] and [`state_machine`] put openraft on top of
//! [`crate::storage`]; [`peers`] decides who may speak, by what `proof` proves; [`network`] is the
//! calling side of the wire and [`service`] the answering side; [`publication`] is both, for
//! checkpoints.
//!
//! Invariants: nothing is ever purged and no snapshot exists (docs/adr/0001). An entry is applied
//! only when it is durable here. openraft's types do not leave this folder and [`crate::node`], and
//! no byte of theirs reaches the disk.

mod acknowledged;
mod admission;
mod boots;
pub mod config;
pub mod link;
pub mod log_store;
pub mod membership;
pub mod mending;
pub mod network;
pub mod peers;
mod proof;
pub mod publication;
mod refusal;
pub mod removals;
pub mod reports;
pub mod service;
mod slot;
pub mod state_machine;
#[cfg(test)]
mod suite;
mod terms;
pub mod types;
pub mod verify;
mod votes;
mod wire;

pub use config::RaftTimeouts;
pub use types::{BatchPayload, Peer, Raft, TypeConfig};
