//! Commits: what apply has in memory goes to the tree files and to the index, now and then and all
//! at once.
//!
//! A commit is taken by the applying thread, which only copies, and written by the committer's own
//! thread. Its order makes recovery simple: tree nodes are durable before the index speaks of them,
//! and all rows of a commit become visible together, with the state that they belong to. A crash
//! therefore leaves some earlier commit, whole. What follows it is in the segments.
//!
//! Memory holds at most three commits: one being written, one waiting, one growing. Then apply
//! waits.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, PoisonError, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;

use super::machine::Machine;
use super::producers::Prune;
use super::{AppliedState, Ledger, LedgerError, Shared, Writer};
use crate::storage::index::{Changes, Index};
use crate::storage::rows::{self, EntryRow, StateRow};

/// When a commit is due: as soon as any of these is reached. Restart after a crash applies about
/// two commits again.
#[derive(Debug, Clone, Copy)]
pub struct CommitPolicy {
    /// Leaves.
    pub leaves: u64,
    /// Entries.
    pub entries: u64,
    /// Head and body of entries, in bytes.
    pub bytes: u64,
    /// Producers that changed.
    pub producers: usize,
    /// Whether apply waits until the commit is written: for tests, where what happens when must not
    /// vary.
    pub wait: bool,
}

impl Default for CommitPolicy {
    fn default() -> Self {
        let (leaves, entries, bytes, producers) = (64 * 1024, 4096, 32 * 1024 * 1024, 16 * 1024);
        CommitPolicy { leaves, entries, bytes, producers, wait: false }
    }
}

impl CommitPolicy {
    pub(super) fn is_due(&self, pending: &Pending, producers: usize) -> bool {
        pending.leaves >= self.leaves
            || pending.entries >= self.entries
            || pending.bytes >= self.bytes
            || producers >= self.producers
    }
}

/// What was applied since the last commit.
#[derive(Debug, Default)]
pub(super) struct Pending {
    leaves: u64,
    entries: u64,
    bytes: u64,
}

impl Pending {
    pub(super) fn add(&mut self, bytes: usize, leaves: u32) {
        self.entries += 1;
        self.leaves += u64::from(leaves);
        self.bytes += bytes as u64;
    }
}

/// Everything that changed since the commit before.
#[derive(Debug)]
struct Commit {
    /// Entries before this one are in it or in an earlier one.
    next: u64,
    tree_size: u64,
    changes: Changes,
    prunes: Vec<Prune>,
}

#[derive(Debug)]
enum Job {
    Commit(Box<Commit>),
    /// Answered when all commits before it are written.
    Wait(SyncSender<()>),
}

/// The committing thread.
#[derive(Debug)]
pub(super) struct Committer {
    jobs: SyncSender<Job>,
    thread: JoinHandle<()>,
}

impl Committer {
    pub(super) fn start(shared: Arc<Shared>) -> Committer {
        let (jobs, queue) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("ledger-commit".into())
            .spawn(move || run(&shared, &queue))
            .expect("the system can start a thread");
        Committer { jobs, thread }
    }

    fn send(&self, job: Job) {
        // The thread ends only when this sender is gone, unless it panicked: then `check` has
        // nothing to report, and waiting for its answer fails.
        self.jobs.send(job).expect("the committing thread has panicked");
    }

    /// Returns when all commits so far are written, or have failed.
    fn wait(&self) {
        let (answer, answered) = sync_channel(1);
        self.send(Job::Wait(answer));
        answered.recv().expect("the committing thread has panicked");
    }

    /// Writes what is queued and ends the thread; false if it had panicked.
    pub(super) fn stop(self) -> bool {
        drop(self.jobs);
        self.thread.join().is_ok()
    }
}

impl Ledger {
    /// Takes a commit of everything that is applied, and hands it to the committing thread.
    pub(super) fn commit(&self, writer: &mut Writer) -> Result<(), LedgerError> {
        let shared = &self.inner.shared;
        shared.check()?;
        let (Some(committer), Some(state)) = (&writer.committer, writer.applied) else {
            return Ok(());
        };
        if state.id.index + 1 > writer.committed_next {
            let commit = take(shared, &state, writer.committed_next);
            writer.committed_next = commit.next;
            writer.pending = Pending::default();
            committer.send(Job::Commit(Box::new(commit)));
        }
        if writer.policy.wait {
            committer.wait();
            shared.check()?;
        }
        Ok(())
    }
}

/// Copies everything that changed since entry `from`.
fn take(shared: &Shared, state: &AppliedState, from: u64) -> Commit {
    let mut changes = Changes::default();
    let recent = shared.recent();
    let first = recent.partition_point(|row| row.index < from);
    let rows: Vec<EntryRow> = recent.range(first..).cloned().collect();
    drop(recent);
    rows::blocks(&rows).for_each(|block| changes.block(block));
    let mut machine = shared.machine_mut();
    assert_eq!(machine.id, Some(state.id), "nobody applies while a commit is taken");
    let prunes = machine.producers.commit(&mut changes);
    if std::mem::take(&mut machine.membership_changed)
        && let Some((id, payload)) = &machine.membership
    {
        changes.membership(*id, payload);
    }
    changes.state(&StateRow {
        trail_id: shared.trail_id,
        id: state.id,
        chain: state.chain,
        tree_size: state.tree_size,
        root: state.root,
        last_received: state.last_received,
        max_node_id: machine.max_node_id,
    });
    Commit { next: state.id.index + 1, tree_size: state.tree_size, changes, prunes }
}

fn run(shared: &Shared, queue: &Receiver<Job>) {
    for job in queue {
        match job {
            // After a failure the files may hold half a commit: nothing is written after it.
            Job::Commit(commit) if shared.failed.get().is_none() => {
                if let Err(error) = write(shared, *commit) {
                    // The first failure counts.
                    let _ = shared.failed.set(error);
                }
            }
            Job::Commit(_) => {}
            // Whoever asked may be gone.
            Job::Wait(answer) => drop(answer.send(())),
        }
    }
}

fn write(shared: &Shared, commit: Commit) -> Result<(), LedgerError> {
    shared.tree.write_out(commit.tree_size)?;
    shared.with_index(|index| {
        index.apply(commit.changes)?;
        // Crash before: the index has the commit before; the tree files are cut to its size when
        // they are opened. Crash after: it has this one, and the tree files hold all that it speaks
        // of.
        index.flush()
    })?;
    // Readers that still look in memory find the same there.
    shared.machine_mut().producers.prune(&commit.prunes);
    let mut recent = shared.recent_mut();
    while recent.front().is_some_and(|row| row.index < commit.next) {
        recent.pop_front();
    }
    Ok(())
}

impl Shared {
    /// The failure after which nothing can be applied, if there was one.
    pub(super) fn check(&self) -> Result<(), LedgerError> {
        self.failed.get().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Asks the index.
    pub(super) fn with_index<T>(
        &self,
        ask: impl FnOnce(&Index) -> Result<T, crate::storage::index::IndexError>,
    ) -> Result<T, LedgerError> {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let index = index.as_ref().ok_or(LedgerError::Closed)?;
        ask(index).map_err(|error| LedgerError::Index(Arc::new(error)))
    }

    pub(super) fn machine(&self) -> RwLockReadGuard<'_, Machine> {
        self.machine.read().expect("whoever panics while applying takes the node with it")
    }

    pub(super) fn machine_mut(&self) -> RwLockWriteGuard<'_, Machine> {
        self.machine.write().expect("whoever panics while applying takes the node with it")
    }

    pub(super) fn recent(&self) -> RwLockReadGuard<'_, VecDeque<EntryRow>> {
        self.recent.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn recent_mut(&self) -> RwLockWriteGuard<'_, VecDeque<EntryRow>> {
        self.recent.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
impl Ledger {
    /// Commits what is applied and waits until it is written.
    pub(crate) fn commit_now(&self) -> Result<(), LedgerError> {
        let mut writer = self.writer();
        self.commit(&mut writer)?;
        if let Some(committer) = &writer.committer {
            committer.wait();
        }
        self.inner.shared.check()
    }
}
