//! The ledger: turns committed entries into the trail, and answers what is in it.
//!
//! Each committed entry goes through [`Ledger::apply`] once, in order. The rules decide which of
//! its records become leaves (`rules`), blank and membership entries get a derived record
//! (`derived`), the leaf hashes go to the tree, and the entry's place goes to the index, so that
//! any leaf is found again with one lookup and one positioned read (`reads`, `tiles`, `keys`).
//!
//! Everything here is computed from the log and can be thrown away. So apply keeps it in memory,
//! and a thread of the ledger writes it out now and then (`commit`): tree files first, then one
//! batch of index rows that says how far they go. After a crash the ledger goes back to the last
//! commit and applies what follows; where derived state is missing, damaged or belongs to another
//! log, it starts from nothing (`recover`).
//!
//! Invariant: derived state is never ahead of what is durable in the segments, and a record is
//! returned only if its commitment and its leaf hash are right.

mod commit;
mod derived;
mod error;
mod keys;
pub(in crate::storage) mod machine;
mod producers;
mod reads;
mod recover;
mod rules;
mod scrub;
pub(in crate::storage) mod sums;
mod tiles;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use bytes::Bytes;
use indelible_core::{Chain, Entry, EntryId, Hash, ProducerId, TrailId};
use tokio::sync::watch;

use super::frame::Location;
use super::index::Index;
use super::log::Log;
use super::rows::EntryRow;
use super::tree::Tree;
use crate::disk::Dir;
use commit::{Committer, Pending};
use keys::KeyRecords;
use machine::{Machine, Prepared};

pub use commit::CommitPolicy;
pub use error::{EntryFault, LedgerError};
pub use machine::Applied;
pub use producers::{ProducerState, SeqRun};
pub use reads::StoredRecord;
pub use rules::Rejection;
pub use scrub::TreeMended;

pub(crate) use derived::Derived;

/// Name of the directory of derived state in the data directory.
pub const DERIVED_DIR: &str = "derived";
/// Name of the directory of tree files in it.
pub const TREE_DIR: &str = "tree";
/// Name of the index's directory in it.
pub const INDEX_DIR: &str = "index";

/// The applied part of the trail. Cloning gives another handle to it.
#[derive(Debug, Clone)]
pub struct Ledger {
    inner: Arc<Inner>,
}

/// Up to where the trail goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Entries applied: index of the next one.
    pub applied: u64,
    /// The newest applied entry.
    pub applied_id: Option<EntryId>,
    /// Leaves.
    pub tree_size: u64,
    /// Root over them.
    pub root: Hash,
    /// `received` of the newest leaf, in Unix nanoseconds; 0 before the first.
    pub last_received: u64,
}

/// The newest applied entry, and the trail after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppliedState {
    /// The entry.
    pub id: EntryId,
    /// Its link of the chain.
    pub chain: Chain,
    /// Leaves.
    pub tree_size: u64,
    /// Root over them.
    pub root: Hash,
    /// `received` of the newest leaf, in Unix nanoseconds.
    pub last_received: u64,
}

#[derive(Debug)]
struct Inner {
    log: Log,
    shared: Arc<Shared>,
    /// `derived` in the data directory.
    derived: Dir,
    /// Whoever holds it is the one who applies.
    writer: Mutex<Writer>,
    head: watch::Sender<Head>,
    /// Where the records about keys are, as far as somebody has asked.
    key_records: Mutex<KeyRecords>,
}

/// What the applying thread, readers and the committing thread share.
#[derive(Debug)]
struct Shared {
    trail_id: TrailId,
    machine: RwLock<Machine>,
    tree: Tree,
    /// Entries that the index may not have yet, in order. Readers look here first.
    recent: RwLock<VecDeque<EntryRow>>,
    /// None once closed. Locked for writing only then.
    index: RwLock<Option<Index>>,
    /// Why nothing can be applied any more.
    failed: OnceLock<LedgerError>,
}

#[derive(Debug)]
struct Writer {
    /// None once closed.
    committer: Option<Committer>,
    policy: CommitPolicy,
    /// Applied since the last commit.
    pending: Pending,
    /// Entries before this one are in a commit.
    committed_next: u64,
    /// The newest applied entry.
    applied: Option<AppliedState>,
    /// Leaf hashes of one entry; kept for its memory.
    leaf_hashes: Vec<Hash>,
}

impl Ledger {
    /// Opens the ledger of a data directory: goes back to the last commit that fits the log and
    /// applies what the log knows to be committed and durable. Blocks; reads all of the log if the
    /// derived state is unusable.
    pub fn open(log: Log, dir: &Path, trail_id: TrailId) -> Result<Ledger, LedgerError> {
        Self::open_with(log, dir, trail_id, CommitPolicy::default())
    }

    /// As [`Self::open`], with another policy for commits: for tests.
    pub fn open_with(
        log: Log,
        dir: &Path,
        trail_id: TrailId,
        policy: CommitPolicy,
    ) -> Result<Ledger, LedgerError> {
        recover::open(log, dir, trail_id, policy)
    }

    /// Applies the next entry, which the caller knows to be committed and durable here. Blocks for
    /// the time of its hashes, and for the disk only if commits cannot keep up. After an error
    /// nothing more can be applied: the node must stop.
    pub fn apply(&self, entry: &Entry) -> Result<Applied, LedgerError> {
        let chain = self.inner.log.chain_at(entry.id.index)?;
        let location = self.inner.log.locate(entry.id.index)?;
        self.apply_at(entry, chain, location)
    }

    /// Applies an entry with its link of the chain and its frame's place.
    fn apply_at(
        &self,
        entry: &Entry,
        chain: Chain,
        location: Location,
    ) -> Result<Applied, LedgerError> {
        let shared = &self.inner.shared;
        let mut writer = self.writer();
        shared.check()?;
        if writer.committer.is_none() {
            return Err(LedgerError::Closed);
        }
        let (expected, actual) = (shared.machine().next(), entry.id.index);
        if expected != actual {
            return Err(LedgerError::OutOfOrder { expected, actual });
        }
        let fault = |fault| LedgerError::Entry { index: actual, fault };
        let prepared = Prepared::new(entry, chain, location).map_err(fault)?;
        let step = shared.machine_mut().apply(prepared).map_err(fault)?;
        step.leaf_hashes(&mut writer.leaf_hashes);
        let (tree_size, root) = shared.tree.append(&writer.leaf_hashes);
        assert_eq!(tree_size, step.row.leaves_end(), "tree and rows agree on the size");
        let last_received = step.row.received;
        shared.recent_mut().push_back(step.row);
        let state = AppliedState { id: entry.id, chain, tree_size, root, last_received };
        writer.applied = Some(state);
        // Last, so that whoever sees the new head finds everything below it.
        self.inner.head.send_replace(head_of(&state));
        self.inner.log.set_applied(actual + 1);
        writer.pending.add(entry.payload_bytes(), step.applied.accepted);
        if writer.policy.is_due(&writer.pending, shared.machine().producers.touched()) {
            self.commit(&mut writer)?;
        }
        Ok(step.applied)
    }

    /// Up to where the trail goes; changes with every entry.
    pub fn head(&self) -> watch::Receiver<Head> {
        self.inner.head.subscribe()
    }

    /// The newest applied entry; none before the first.
    pub fn applied(&self) -> Option<AppliedState> {
        self.writer().applied
    }

    /// The newest applied membership entry and its payload.
    pub fn membership(&self) -> Option<(EntryId, Bytes)> {
        self.inner.shared.machine().membership.clone()
    }

    /// Highest node id that was ever in a membership: ids are never used again.
    pub fn max_node_id(&self) -> u64 {
        self.inner.shared.machine().max_node_id
    }

    /// Where a producer stands; none if it was never opened. May be one entry ahead of
    /// [`Self::head`].
    pub fn producer(&self, id: &ProducerId) -> Option<ProducerState> {
        self.inner.shared.machine().producers.get(id)
    }

    /// How many producers there are.
    pub fn producers(&self) -> usize {
        self.inner.shared.machine().producers.count()
    }

    /// Writes everything out, closes all files and writes the manifest of derived files (`sums`).
    /// Without it the next start finds a ledger that crashed, which costs little. Failures are
    /// logged: nothing is lost by them.
    pub fn close(&self) {
        let mut writer = self.writer();
        if writer.committer.is_none() {
            return;
        }
        if let Err(error) = self.close_files(&mut writer) {
            tracing::error!(%error, "the ledger was not closed cleanly, the next start recovers");
        }
    }

    fn close_files(&self, writer: &mut Writer) -> Result<(), LedgerError> {
        let committed = self.commit(writer);
        if let Some(committer) = writer.committer.take() {
            assert!(committer.stop(), "the committing thread has panicked");
        }
        let index = self.inner.shared.index.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(index) = index {
            let closed = index.close(&self.inner.derived.path().join(INDEX_DIR));
            closed.map_err(|error| LedgerError::Index(Arc::new(error)))?;
        }
        committed?;
        self.inner.shared.check()?;
        Ok(sums::write(&self.inner.derived)?)
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.inner.writer.lock().expect("whoever panics while applying takes the node with it")
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Dropped without being closed, as after a crash: what is queued is still written, so that
        // nobody writes files that the next owner has opened.
        let writer = self.writer.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(committer) = writer.committer.take() {
            committer.stop();
        }
    }
}

fn head_of(state: &AppliedState) -> Head {
    Head {
        applied: state.id.index + 1,
        applied_id: Some(state.id),
        tree_size: state.tree_size,
        root: state.root,
        last_received: state.last_received,
    }
}
