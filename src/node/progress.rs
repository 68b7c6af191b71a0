//! How far the other nodes have copied the log, as their leader knows.

use std::ops::Range;
use std::time::Duration;

use indelible_proto::reason::{Reason, Rejected};
use openraft::async_runtime::WatchReceiver as _;

use crate::raft::types::{Membership, Raft};

/// How long a node may take to copy the log, as far as one call waits for it. Calling again goes
/// on waiting.
const CATCH_UP: Duration = Duration::from_secs(60);

/// When a caller that has waited in vain may call again.
const CALL_AGAIN: Duration = Duration::from_secs(1);

/// How far a node has copied the log.
pub(super) struct Progress {
    /// The last entry that it is known to have; none before its first answer.
    matched: Option<u64>,
    /// The leader's last one.
    pub(super) last: u64,
}

impl Progress {
    /// That of a member, as this leader knows it.
    pub(super) fn of(raft: &Raft, id: u64) -> Result<Progress, Rejected> {
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        if metrics.membership_config.membership().get_node(&id).is_none() {
            return Err(removed_meanwhile(id));
        }
        let replication = metrics.replication.as_ref().ok_or_else(leads_no_longer)?;
        let matched = replication.get(&id).and_then(|matched| matched.as_ref());
        let last = metrics.last_log_index.unwrap_or(0);
        Ok(Progress { matched: matched.map(|matched| matched.index), last })
    }

    /// Entries that it lacks.
    pub(super) fn lag(&self) -> u64 {
        self.matched.map_or(u64::MAX, |matched| self.last.saturating_sub(matched))
    }

    /// Those entries, of a node that has answered.
    pub(super) fn missing(&self) -> Range<u64> {
        self.matched.map_or(0, |matched| matched + 1)..self.last + 1
    }
}

/// Until a node lacks at most `lag_max` entries.
pub(super) async fn wait_for_log(raft: &Raft, id: u64, lag_max: u64) -> Result<(), Rejected> {
    let mut metrics = raft.metrics();
    let near = async {
        while Progress::of(raft, id)?.lag() > lag_max {
            metrics.changed().await.map_err(|_| leads_no_longer())?;
        }
        Ok(())
    };
    caught_up(id, near).await
}

/// Ends a wait for a node that copies the log.
pub(super) async fn caught_up(
    id: u64,
    near: impl Future<Output = Result<(), Rejected>>,
) -> Result<(), Rejected> {
    tokio::time::timeout(CATCH_UP, near).await.unwrap_or_else(|_| {
        let message = format!(
            "node {id} has not caught up in {CATCH_UP:?}; hint: is it running? It stays a learner: call again"
        );
        Err(Rejected::new(Reason::Busy, message).retry_after(CALL_AGAIN))
    })
}

/// The newest membership in the log.
pub(super) fn current_membership(raft: &Raft) -> Membership {
    raft.server_metrics().borrow_watched().membership_config.membership().clone()
}

/// Why a change of the group is not made.
pub(super) fn refused(message: String) -> Rejected {
    Rejected::new(Reason::Membership, message)
}

/// Of a node that is no member any more.
pub(super) fn removed_meanwhile(id: u64) -> Rejected {
    refused(format!("node {id} was removed while it copied the log"))
}

/// Of a node that cannot finish what it was asked.
pub(super) fn stopping() -> Rejected {
    Rejected::new(Reason::Stopping, "the node is stopping")
}

fn leads_no_longer() -> Rejected {
    Rejected::new(Reason::NoLeader, "this node leads no longer; hint: try again")
}
