//! Who may vote at all. openraft lets every node vote, a learner and an empty one too.

use std::sync::Once;

use openraft::async_runtime::WatchReceiver as _;
use openraft::raft::VoteResponse;

use super::peers::Peers;
use super::types::{Raft, TypeConfig};

/// The answer of a node that votes for nobody: one that knows no group, neither by a membership in
/// its log nor by a genesis file. A voter that has lost its disk is such a node, whatever it was
/// left with to say who it is: with its vote a node that lacks what it had acknowledged could lead.
pub(super) fn refusal(raft: &Raft, peers: &Peers) -> Option<VoteResponse<TypeConfig>> {
    static SAY_IT: Once = Once::new();
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let knows_voters = metrics.membership_config.membership().voter_ids().next().is_some();
    if knows_voters || !peers.genesis().is_empty() {
        return None;
    }
    SAY_IT.call_once(|| {
        tracing::error!(
            "this node was asked for its vote and knows no group: it votes for nobody; hint: if it has lost its disk, \
             remove it and add it under a new id"
        );
    });
    Some(VoteResponse::new(metrics.vote, None, false))
}
