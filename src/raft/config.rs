//! Timeouts, and what openraft is told once and for all.

use openraft::{Config, ConfigError, SnapshotPolicy};
use serde::{Deserialize, Serialize};

/// How fast a group notices that its leader is gone, and how much disk and scheduling delay it
/// tolerates before it believes so wrongly. All in milliseconds. docs/performance.md says how the
/// defaults were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RaftTimeouts {
    /// Between two heartbeats of a leader.
    pub heartbeat_ms: u64,
    /// Least time that a follower adds, at random, after the leader's lease has run out.
    pub election_timeout_min_ms: u64,
    /// Most time of that; also the leader's lease.
    pub election_timeout_max_ms: u64,
}

impl Default for RaftTimeouts {
    fn default() -> Self {
        RaftTimeouts {
            heartbeat_ms: 100,
            election_timeout_min_ms: 300,
            election_timeout_max_ms: 600,
        }
    }
}

/// openraft's configuration: no purge and no snapshot ever, pre-vote on, a restarted leader is
/// elected anew.
pub fn openraft_config(
    cluster_name: String,
    timeouts: &RaftTimeouts,
) -> Result<Config, ConfigError> {
    Config {
        cluster_name,
        heartbeat_interval: timeouts.heartbeat_ms,
        heartbeat_min_interval: Some(0),
        election_timeout_min: timeouts.election_timeout_min_ms,
        election_timeout_max: timeouts.election_timeout_max_ms,
        // Without it a partition that leaves a bridge node can keep a useless leader (openraft
        // #2080).
        quorum_loss_probe_interval: Some(
            timeouts.election_timeout_max_ms * 2 + timeouts.heartbeat_ms,
        ),
        enable_pre_vote: Some(true),
        // A restarted leader has no proof that it still leads.
        enable_leader_restore: Some(false),
        // A voter whose log went backwards has lost data: that is for an operator.
        allow_log_reversion: Some(false),
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        // Bytes are capped in `LogStore`; these only bound the number of entries.
        max_payload_entries: 256,
        max_append_entries: Some(256),
        api_batch_capacity: 64,
        // Batching happens in the node's batcher; waiting inside openraft would delay heartbeats
        // too.
        api_batch_linger_ms: 0,
        broadcast_submitted_on_append: Some(true),
        api_channel_size: Some(1024),
        state_machine_channel_size: Some(256),
        ..Default::default()
    }
    .validate()
}
