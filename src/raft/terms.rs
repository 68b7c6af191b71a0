//! Terms that make no sense.
//!
//! An election raises the term by one. A message whose term is far above all that this node knows
//! is no peer's that works: taken, it would be durable, and with terms used up nobody could ever be
//! elected again.

use std::path::Path;

use indelible_core::limits::TERM_JUMP_MAX;
use tonic::Status;

use super::peers::Peers;
use crate::storage::evidence;
use crate::storage::log::Log;

/// Whether a term that `peer` names may be taken.
pub(super) fn check(log: &Log, peers: &Peers, peer: u64, term: u64) -> Result<(), Status> {
    let voted = log.vote().map_or(0, |vote| vote.term);
    let known = voted.max(log.last().map_or(0, |last| last.term));
    // A node that was added to an old trail has yet to learn how far its terms are.
    let is_new = known == 0 && peers.genesis().is_empty();
    if is_new || term <= known.saturating_add(TERM_JUMP_MAX) {
        return Ok(());
    }
    Err(Status::invalid_argument(format!(
        "node {peer} names term {term}, this node knows of {known}: the limit is {TERM_JUMP_MAX} more"
    )))
}

/// Keeps what shows that a peer named such a term.
pub(super) fn keep_evidence(data_dir: &Path, peer: u64, status: &Status) {
    tracing::error!(
        peer,
        what = status.message(),
        "a term that no election leads to; evidence kept"
    );
    let name = format!("term-of-node-{peer}.txt");
    if let Err(error) = evidence::keep(data_dir, &name, status.message().as_bytes()) {
        tracing::error!(%error, "cannot keep the evidence");
    }
}
