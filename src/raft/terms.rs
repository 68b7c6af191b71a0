//! Terms that make no sense.
//!
//! An election raises the term by one. A message whose term is far above all that this node knows
//! is no peer's that works: taken, it would be durable, and with terms used up nobody could ever be
//! elected again.

use indelible_core::limits::TERM_JUMP_MAX;
use tonic::Status;

use super::peers::Peers;
use crate::storage::hard_state::StoredVote;
use crate::storage::log::Log;

/// Whether a term that `peer` names may be taken; evidence is kept of one that may not.
pub(super) async fn check(log: &Log, peers: &Peers, peer: u64, term: u64) -> Result<(), Status> {
    let voted = log.vote().map_or(0, |vote| vote.term);
    let known = voted.max(log.last().map_or(0, |last| last.term));
    // A node that was added to an old trail has yet to learn how far its terms are.
    let is_new = known == 0 && peers.genesis().is_empty();
    if is_new || term <= known.saturating_add(TERM_JUMP_MAX) {
        return Ok(());
    }
    let what = format!(
        "node {peer} names term {term}, this node knows of {known}: the limit is {TERM_JUMP_MAX} more"
    );
    peers.keep_evidence(peer, "term", &what).await;
    Err(Status::invalid_argument(what))
}

/// Whether a vote may be taken that `peer` knows of and this node does not.
pub(super) async fn check_higher(
    log: &Log,
    peers: &Peers,
    peer: u64,
    vote: StoredVote,
) -> Result<(), Status> {
    check(log, peers, peer, vote.term).await?;
    let me = peers.node_id();
    // Votes for this node are made here, and durable before anybody hears of them.
    let is_known = log.vote().is_some_and(|own| {
        let earlier = vote.term < own.term;
        earlier || vote.term == own.term && own.node_id == me && (own.committed || !vote.committed)
    });
    if vote.node_id != me || is_known {
        return Ok(());
    }
    let what = format!(
        "node {peer} says that this node was voted for in term {}, which it was not",
        vote.term
    );
    peers.keep_evidence(peer, "vote", &what).await;
    Err(Status::invalid_argument(what))
}
