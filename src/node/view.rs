//! What a node sees of the group, for clients and for `indelible status`.

use std::time::Duration;

use bytes::Bytes;
use indelible_proto::v1;
use openraft::async_runtime::WatchReceiver as _;
use openraft::{RaftMetrics, ServerState};

use super::leadership::quorum_ack_age;
use super::start::Node;
use crate::raft::TypeConfig;

/// A push at least this often, so that a client notices a dead node.
pub const PUSH_EVERY: Duration = Duration::from_millis(500);

impl Node {
    /// What this node sees now.
    pub fn view(&self) -> v1::ClusterView {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let head = *self.ledger.head().borrow();
        let quorum_ack_age_ms =
            quorum_ack_age(&metrics).map(|age| u32::try_from(age.as_millis()).unwrap_or(u32::MAX));
        let checkpoint = self.publication.newest();
        let clock = self.clock.view();
        v1::ClusterView {
            trail_id: Bytes::copy_from_slice(&self.identity.trail_id.0),
            origin: self.identity.origin.clone(),
            node_id: self.identity.node_id,
            role: role(&metrics).into(),
            state: self.serving_state(&metrics).into(),
            term: metrics.vote.leader_id.term,
            leader_id: metrics.current_leader.unwrap_or(0),
            quorum_ack_age_ms,
            boot_count: self.log.boot().number,
            last_log_index: metrics.last_log_index.unwrap_or(0),
            committed_index: metrics.cluster_committed.map_or(0, |id| id.index),
            applied_index: head.applied.saturating_sub(1),
            tree_size: head.tree_size,
            root: Bytes::copy_from_slice(&head.root.0),
            nodes: self.nodes(&metrics),
            next_node_id: self.membership_changes.next_node_id(),
            segment_bytes: self.identity.segment_bytes,
            version: env!("CARGO_PKG_VERSION").into(),
            mended: self.mend_numbers.mended.get(),
            unsigned_change: self.membership_changes.unsigned(),
            joint: metrics.membership_config.membership().get_joint_config().len() > 1,
            checkpoint_size: checkpoint.as_ref().map_or(0, |newest| newest.checkpoint.size),
            checkpoint_unix_s: checkpoint.as_ref().map_or(0, |newest| newest.unix_s),
            rolled_back_from: self.publication.rolled_back().unwrap_or(0),
            log_bytes: self.log.sizes().bytes,
            clock_hold: clock.hold.map(|hold| hold.name().to_owned()).unwrap_or_default(),
            clock_offset_ms: clock.offset_ns.map(|offset| offset / 1_000_000),
            stamps_ahead_ms: clock.ahead_ns.unwrap_or(0) / 1_000_000,
            checkpoint_clocks: checkpoint.as_ref().map_or(0, |newest| newest.clocks()),
            log_key: self.publication.log_key().map(ToString::to_string).unwrap_or_default(),
        }
    }

    fn nodes(&self, metrics: &RaftMetrics<TypeConfig>) -> Vec<v1::Node> {
        let membership = metrics.membership_config.membership();
        let voters: Vec<u64> = membership.voter_ids().collect();
        membership
            .nodes()
            .map(|(id, peer)| v1::Node {
                id: *id,
                client_addr: peer.client_addr.clone(),
                raft_addr: peer.raft_addr.clone(),
                http_addr: peer.http_addr.clone(),
                public_key: Bytes::copy_from_slice(&peer.public_key),
                voter: voters.contains(id),
                matched_index: metrics
                    .replication
                    .as_ref()
                    .and_then(|replication| replication.get(id))
                    .and_then(|matched| matched.as_ref().map(|matched| matched.index)),
                has_log_key: self.has_log_key(*id, metrics),
            })
            .collect()
    }

    /// Whether a node has the log key; none if this node does not know. Only a leader is told.
    fn has_log_key(&self, id: u64, metrics: &RaftMetrics<TypeConfig>) -> Option<bool> {
        if id == self.identity.node_id {
            return Some(self.publication.log_key().is_some());
        }
        let report = self.peers.report(id).filter(|_| metrics.state.is_leader());
        report.map(|report| report.log_key)
    }

    fn serving_state(&self, metrics: &RaftMetrics<TypeConfig>) -> v1::ServingState {
        if *self.draining().borrow() {
            return v1::ServingState::Draining;
        }
        let is_held = metrics.state.is_leader() && self.clock.view().hold.is_some();
        if *self.read_only.borrow() || is_held {
            return v1::ServingState::ReadOnly;
        }
        let committed = metrics.cluster_committed.map_or(0, |id| id.index + 1);
        let applied = self.ledger.head().borrow().applied;
        // A follower is always a little behind; a recovering one is far behind, or knows no leader
        // yet. One that has nothing of the trail does not even know who may elect.
        let behind =
            applied == 0 || committed > applied + self.raft.config().replication_lag_threshold;
        if behind || metrics.current_leader.is_none() {
            return v1::ServingState::CatchingUp;
        }
        v1::ServingState::Serving
    }
}

fn role(metrics: &RaftMetrics<TypeConfig>) -> v1::Role {
    match metrics.state {
        ServerState::Leader => v1::Role::Leader,
        ServerState::Follower => v1::Role::Follower,
        ServerState::Candidate => v1::Role::Candidate,
        _ => v1::Role::Learner,
    }
}
