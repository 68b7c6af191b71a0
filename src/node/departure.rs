//! A node that was removed from the group stops: it would serve an old trail for ever.
//!
//! Its own log may say so. It rarely does, as nothing is replicated to a node from the entry on
//! that removes it; then a majority of the voters that it knows has to say so, each on a connection
//! with a certificate of its own. A single voter may be wrong, or lie.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::WatchReceiver as _;
use tokio::sync::watch;

use super::fatal::{Fatal, Stop};
use super::progress::current_membership;
use crate::raft::network::Network;
use crate::raft::peers::{Known, Peers};
use crate::raft::removals::Removals;
use crate::raft::types::Raft;

/// Between two introductions of a node that hears from no leader, or has no vote: it would not
/// dial anybody otherwise.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// How long one voter may take to answer.
const ANSWER: Duration = Duration::from_secs(2);

/// Whether this node was removed, as its own log says. To be asked before anything is served.
pub fn is_removed(node_id: u64, known: &Known) -> Option<String> {
    known.is_removed(node_id).then(|| message(node_id, "its own log says so"))
}

/// What the watch works with.
pub struct Options {
    /// The node's openraft.
    pub raft: Raft,
    /// To the voters.
    pub network: Network,
    /// What they have said.
    pub peers: Arc<Peers>,
    /// Memberships of the node's own log.
    pub known: watch::Receiver<Known>,
    /// Stops the node.
    pub stop: Stop,
}

/// Stops the node once it was removed.
pub async fn watch(options: Options) {
    let Options { raft, network, peers, mut known, stop } = options;
    let me = *raft.node_id();
    loop {
        if let Some(why) = is_removed(me, &known.borrow_and_update()) {
            return stop.stop(Fatal::Removed(why));
        }
        peers.forget_removed();
        let voters = peers.voters();
        if let Some(by) = peers.removals().majority_besides(me, &voters) {
            return stop.stop(Fatal::Removed(message(me, &so_say(&by))));
        }
        tokio::select! {
            changed = known.changed() => if changed.is_err() { return },
            () = peers.removals().news() => {}
            () = tokio::time::sleep(ASK_EVERY) => if hears_nobody(&raft) {
                introduce(&raft, &network).await;
            },
        }
    }
}

/// Whether this node would not find out by an election or by its followers.
fn hears_nobody(raft: &Raft) -> bool {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    metrics.state == ServerState::Learner || metrics.current_leader.is_none()
}

/// On new connections, one after the other: those that there are may be of before the removal. What
/// a voter answers is noted where the connection is made.
async fn introduce(raft: &Raft, network: &Network) {
    let (membership, me) = (current_membership(raft), *raft.node_id());
    for id in membership.voter_ids().filter(|id| *id != me) {
        if let Some(peer) = membership.get_node(&id) {
            let _ = network.prove(id, peer, ANSWER).await;
        }
    }
}

/// Completes, with the reason to stop, once a majority of these voters has said that the node was
/// removed.
pub async fn removed_by(node_id: u64, removals: &Removals, voters: &BTreeSet<u64>) -> String {
    loop {
        if let Some(by) = removals.majority_besides(node_id, voters) {
            return message(node_id, &so_say(&by));
        }
        removals.news().await;
    }
}

fn so_say(by: &[u64]) -> String {
    let by: Vec<String> = by.iter().map(u64::to_string).collect();
    format!("so say nodes {}", by.join(", "))
}

fn message(node_id: u64, who: &str) -> String {
    format!(
        "node {node_id} was removed from the group: {who}; hint: do not start it again. Node ids are never reused: to come \
         back it needs an empty data folder and a new id"
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::raft::peers::Introduction;
    use crate::raft::types::{Membership, Peer};
    use crate::storage::ledger::tests::trail::{NEVER, SEGMENT_BYTES, TRAIL, Trail};

    /// Ids are never used again: what was known of each node that ever was would grow for ever.
    #[test]
    fn nothing_is_remembered_of_a_node_that_was_removed() {
        let trail = Trail::new(NEVER);
        let me = Introduction {
            node_id: 1,
            trail_id: TRAIL,
            key: ed25519_dalek::SigningKey::from_bytes(&[1; 32]),
            segment_bytes: SEGMENT_BYTES,
            data_dir: std::env::temp_dir(),
        };
        let members = |ids: &[u64]| {
            let nodes: BTreeMap<u64, Peer> = ids.iter().map(|id| (*id, Peer::default())).collect();
            Membership::new(vec![ids.iter().copied().collect()], nodes).expect("voters are nodes")
        };
        let of = |ids: &[u64]| Known {
            membership: members(ids),
            applied: members(ids),
            applied_id_max: 3,
            node_id_max: 3,
        };
        let (change, known) = watch::channel(of(&[1, 2, 3]));
        let peers = Peers::new(me, trail.log.clone(), Default::default(), known);
        for node in [2, 3] {
            peers.observe_report(node, false, true);
            peers.set_refused_by(node, Some("a test".into()));
        }
        peers.forget_removed();
        assert!(peers.report(2).is_some() && peers.report(3).is_some());
        assert!(peers.refused().is_some());
        change.send_replace(of(&[1, 3]));
        peers.forget_removed();
        assert!(peers.report(2).is_none() && peers.report(3).is_some());
        // It was there, and is news again.
        assert!(peers.set_refused_by(2, Some("a test".into())));
    }
}
