//! A change of voters: joint consensus, and between its two steps the checkpoint by which auditors
//! follow the voters.
//!
//! openraft makes both steps in one call. Here they are apart: the joint configuration stays until
//! a checkpoint is stored that covers its record, which takes a majority of the old voters and one
//! of the new. So whoever trusts the old ones sees them vouch for the new ones. Such a checkpoint
//! may never come (no log key, a rollback that nobody has accepted): after [`SIGNED`] the group
//! changes its voters without it, and says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, Precondition};

use super::publish::Publication;
use crate::raft::TypeConfig;
use crate::raft::types::{Membership, Payload, Raft};
use crate::storage::ledger::Ledger;

/// How long a joint configuration waits for its checkpoint. As long as it lasts, two majorities
/// have to answer.
const SIGNED: Duration = Duration::from_secs(10);

/// Why a step was not made.
pub(super) type StepError = RaftError<TypeConfig, ClientWriteError<TypeConfig>>;

/// Who becomes a voter, or is one no longer.
#[derive(Debug, Clone, Copy)]
pub(super) enum VoterChange {
    Add(u64),
    Remove(u64),
}

/// Changes voters. Cheap to clone.
#[derive(Clone)]
pub(super) struct Joint {
    pub(super) raft: Raft,
    pub(super) ledger: Ledger,
    pub(super) publication: Publication,
    /// See [`Self::unsigned`].
    unsigned: Arc<AtomicU64>,
}

impl Joint {
    /// Of a node.
    pub(super) fn new(raft: Raft, ledger: Ledger, publication: Publication) -> Joint {
        Joint { raft, ledger, publication, unsigned: Arc::default() }
    }

    /// Both steps. openraft remembers the first one in the log: a later leader finishes the change.
    pub(super) async fn change(&self, change: VoterChange) -> Result<(), StepError> {
        if is_joint(&self.membership()) {
            self.finish().await?;
        }
        let stored = self.raft.server_metrics().borrow_watched().membership_config.clone();
        let old: BTreeSet<u64> = stored.membership().voter_ids().collect();
        let mut new = old.clone();
        let is_change = match change {
            VoterChange::Add(id) => new.insert(id),
            VoterChange::Remove(id) => new.remove(&id),
        };
        if !is_change {
            return Ok(());
        }
        let nodes: BTreeMap<_, _> =
            stored.membership().nodes().map(|(id, peer)| (*id, peer.clone())).collect();
        let joint = Membership::new(vec![old, new], nodes).map_err(|error| {
            RaftError::APIError(ClientWriteError::ChangeMembershipError(error.into()))
        })?;
        let unchanged =
            Precondition::LastMembershipLogId { last_membership_log_id: *stored.log_id() };
        self.raft.append_membership(joint, Payload::Blank, [unchanged]).await?;
        self.finish().await
    }

    /// Removes a node that has no vote. A change of voters that is under way is finished first:
    /// openraft would end it with this, unsigned.
    pub(super) async fn remove_learner(&self, id: u64) -> Result<(), StepError> {
        if is_joint(&self.membership()) {
            self.finish().await?;
        }
        let ids = ChangeMembers::RemoveNodes(BTreeSet::from([id]));
        self.raft.change_membership(ids, false).await.map(drop)
    }

    /// The second step, once the first one is signed for.
    pub(super) async fn finish(&self) -> Result<(), StepError> {
        // The first step is applied: it was waited for, or this leader is ready.
        let size = self.ledger.head().borrow().tree_size;
        let signed = self.publication.wait(size, false, SIGNED).await.is_some();
        self.unsigned.store(if signed { 0 } else { size }, Ordering::Relaxed);
        if !signed {
            tracing::error!(
                size,
                "no checkpoint that covers the change of voters was signed by both majorities in {SIGNED:?}: the group \
                 goes on without; hint: does the leader have the log key? Auditors may need a new policy"
            );
        }
        let flatten = ChangeMembers::AddVoterIds(BTreeSet::new());
        self.raft.change_membership(flatten, false).await.map(drop)
    }

    /// The tree size that no checkpoint of both majorities covers, if the last change of voters
    /// that this process has finished ended so; 0 otherwise.
    pub(super) fn unsigned(&self) -> u64 {
        self.unsigned.load(Ordering::Relaxed)
    }

    fn membership(&self) -> Membership {
        super::progress::current_membership(&self.raft)
    }
}

/// Whether a change of voters is under way.
pub(super) fn is_joint(membership: &Membership) -> bool {
    membership.get_joint_config().len() > 1
}
