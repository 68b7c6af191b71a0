//! openraft's state machine on top of [`Ledger`]. It applies only what is durable here, and knows
//! no snapshot.

use std::io;

use futures_util::{Stream, TryStreamExt};
use indelible_core::EntryKind;
use openraft::StoredMembership;
use openraft::alias::{SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use tokio::sync::watch;

use super::membership;
use super::types::{LogId, TypeConfig, log_id};
use crate::storage::ledger::Ledger;
use crate::storage::log::Log;

/// Leaves from which on an entry is applied off the runtime's threads: hashing them takes longer
/// than the hop.
const INLINE_HEAD_BYTES_MAX: usize = 8 * 1024;

/// The ledger as openraft drives it.
pub struct StateMachine {
    ledger: Ledger,
    /// One past the last index that fdatasync covers.
    durable: watch::Receiver<u64>,
}

impl StateMachine {
    /// Applies to `ledger` what `log` has made durable.
    pub fn new(ledger: Ledger, log: &Log) -> Self {
        StateMachine { ledger, durable: log.durable() }
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = ();
    type SnapshotBuilder = NoSnapshot;

    async fn applied_state(
        &mut self,
    ) -> io::Result<(Option<LogId>, StoredMembershipOf<TypeConfig>)> {
        let applied = self.ledger.head().borrow().applied_id.map(log_id);
        let membership = match self.ledger.membership() {
            None => StoredMembership::default(),
            Some((id, bytes)) => {
                let membership = membership::decode(&bytes).map_err(io::Error::other)?;
                StoredMembership::new(Some(log_id(id)), membership)
            }
        };
        Ok((applied, membership))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + Send,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let entry = entry.to_log();
            let index = entry.id.index;
            // openraft may commit through the other nodes' disks alone. Derived state must not get
            // ahead of this node's segments: after a crash there would be a hole.
            self.durable.wait_for(|durable| *durable > index).await.map_err(io::Error::other)?;
            let small = entry.kind != EntryKind::Batch || entry.head.len() <= INLINE_HEAD_BYTES_MAX;
            let applied = if small {
                self.ledger.apply(&entry)
            } else {
                let ledger = self.ledger.clone();
                tokio::task::spawn_blocking(move || ledger.apply(&entry))
                    .await
                    .map_err(io::Error::other)?
            }
            .map_err(io::Error::other)?;
            if let Some(responder) = responder {
                responder.send(applied);
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<NoSnapshot> {
        None
    }

    async fn get_snapshot_builder(&mut self) -> NoSnapshot {
        NoSnapshot
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMetaOf<TypeConfig>,
        _snapshot: (),
    ) -> io::Result<()> {
        Err(no_snapshot())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<TypeConfig, ()>>> {
        Ok(None)
    }
}

/// Builds nothing: the log is the trail and stays whole.
pub struct NoSnapshot;

impl RaftSnapshotBuilder<TypeConfig> for NoSnapshot {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<TypeConfig, ()>> {
        Err(no_snapshot())
    }
}

fn no_snapshot() -> io::Error {
    io::Error::other("there are no snapshots: the log is the trail and stays whole")
}
