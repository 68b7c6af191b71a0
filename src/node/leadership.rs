//! Who leads, and whether this node may propose.
//!
//! A new leader proposes nothing of its own before the blank entry of its term is applied here:
//! then everything that an earlier leader has committed is applied too, and the last stamp and
//! every producer's last seq are known.

use std::time::Duration;

use indelible_proto::reason::{LeaderHint, Reason, Rejected};
use openraft::RaftMetrics;
use openraft::async_runtime::{Instant as _, WatchReceiver as _};
use openraft::errors::{ForwardReason, ForwardToLeader};
use tokio::sync::watch;

use crate::raft::TypeConfig;
use crate::raft::membership as payload;
use crate::raft::peers::Known;
use crate::raft::types::{LeaderId, Membership, Raft};
use crate::storage::ledger::Ledger;

/// What a node believes about leadership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leadership {
    /// This node leads and may propose under this leader id.
    Ready(LeaderId),
    /// This node leads, but its blank entry is not applied yet.
    Preparing(LeaderId),
    /// Another node leads.
    Follower(LeaderHint),
    /// No leader is known.
    NoLeader,
}

impl Leadership {
    /// Why this node cannot take an append, for the answer.
    pub fn rejection(&self) -> Rejected {
        match self {
            Leadership::Follower(leader) => {
                let message = format!("node {} leads; hint: append there", leader.id);
                Rejected::new(Reason::NotLeader, message).leader(leader.clone())
            }
            Leadership::Ready(_) | Leadership::Preparing(_) | Leadership::NoLeader => {
                let message = "no leader is known; hint: an election is under way, try again";
                Rejected::new(Reason::NoLeader, message).retry_after(Duration::from_millis(50))
            }
        }
    }
}

/// openraft's refusal to append, as an answer. It was not appended.
pub fn forward_rejection(forward: &ForwardToLeader<TypeConfig>, term: u64) -> Rejected {
    let hint = forward.leader_id.map(|id| LeaderHint {
        id,
        addr: forward.leader_node.as_ref().map(|peer| peer.client_addr.clone()).unwrap_or_default(),
        term,
    });
    let (reason, message) = match (forward.reason, &hint) {
        (ForwardReason::LeadershipTransfer, _) => {
            (Reason::LeaderTransferring, "leadership is being handed over; hint: try again")
        }
        (ForwardReason::LeaseExpired, _) => (
            Reason::LeaseExpired,
            "the leader has not heard from a majority; hint: try again, on another node first",
        ),
        (ForwardReason::NotLeader, Some(_)) => (Reason::NotLeader, "another node leads"),
        (ForwardReason::NotLeader, None) => {
            (Reason::NoLeader, "no leader is known; hint: try again")
        }
    };
    let rejected = Rejected::new(reason, message);
    match hint {
        Some(hint) if reason != Reason::LeaseExpired => rejected.leader(hint),
        _ => rejected.retry_after(Duration::from_millis(20)),
    }
}

/// How long ago a majority last answered this leader; none on other nodes.
///
/// NB: openraft notes the time of a majority when another voter answers. A leader that is the only
/// voter is a majority by itself, at any time.
pub fn quorum_ack_age(metrics: &RaftMetrics<TypeConfig>) -> Option<Duration> {
    if !metrics.state.is_leader() {
        return None;
    }
    if metrics.membership_config.membership().voter_ids().all(|voter| voter == metrics.id) {
        return Some(Duration::ZERO);
    }
    metrics.last_quorum_acked.as_ref().map(|acked| acked.elapsed())
}

/// The newest membership that is applied.
pub fn applied(ledger: &Ledger) -> Membership {
    let membership = ledger.membership().map(|(_, bytes)| {
        payload::decode(&bytes).expect("a membership is decoded before it is appended")
    });
    membership.unwrap_or_default()
}

/// Follows openraft and the ledger, and publishes what the rest of the node needs: leadership, and
/// the newest membership for the handshake. Ends when openraft does.
pub async fn watch(
    raft: Raft,
    ledger: Ledger,
    known: watch::Sender<Known>,
    leadership: watch::Sender<Leadership>,
) {
    let mut server = raft.server_metrics();
    let mut head = ledger.head();
    loop {
        let state = server.borrow_watched().clone();
        let membership = state.membership_config.membership();
        // What the ledger applies from now on wakes this loop. The highest id is read first: an id
        // that comes in between must not look as if it had been removed.
        head.mark_unchanged();
        let applied_id_max = ledger.max_node_id();
        let applied = applied(&ledger);
        let lagging = applied != *membership;
        known.send_if_modified(|known| {
            let max = membership.nodes().map(|(id, _)| *id).max().unwrap_or(0);
            let node_id_max = max.max(applied_id_max).max(known.node_id_max);
            let membership = membership.clone();
            let now = Known { membership, applied, applied_id_max, node_id_max };
            let changed = *known != now;
            if changed {
                *known = now;
            }
            changed
        });
        let now = match (state.state.is_leader(), state.current_leader) {
            (true, _) => {
                let leader = state.vote.leader_id;
                let applied = head.borrow().applied_id;
                let ready =
                    applied.is_some_and(|id| (id.term, id.leader) == (leader.term, leader.node_id));
                if ready { Leadership::Ready(leader) } else { Leadership::Preparing(leader) }
            }
            (false, Some(id)) if id != state.id => {
                let addr = membership.get_node(&id).map(|peer| peer.client_addr.clone());
                let term = state.vote.leader_id.term;
                Leadership::Follower(LeaderHint { id, addr: addr.unwrap_or_default(), term })
            }
            _ => Leadership::NoLeader,
        };
        let preparing = matches!(now, Leadership::Preparing(_));
        leadership.send_if_modified(|leadership| {
            let changed = *leadership != now;
            if changed {
                tracing::info!(?now, "leadership");
                *leadership = now;
            }
            changed
        });
        tokio::select! {
            changed = server.changed() => if changed.is_err() { return },
            changed = head.changed(), if preparing || lagging => if changed.is_err() { return },
        }
    }
}
