//! Opening: from the last commit that fits the log, or from nothing.
//!
//! What is on disk is believed only if it agrees with the log (the chain at the applied entry) and
//! with itself (the root out of the tree files). If it does, only entries after it are applied,
//! through the same code as ever. If not, or if sled does not open, all derived state goes and
//! everything is applied from entry 0: slower, and the same result, for the log is the only truth.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use indelible_core::{Chain, Entry, TrailId, chain};
use tokio::sync::watch;

use super::commit::{Committer, Pending};
use super::machine::Machine;
use super::{
    AppliedState, CommitPolicy, DERIVED_DIR, Head, INDEX_DIR, Inner, Ledger, LedgerError, Shared,
    TREE_DIR, Writer, head_of, sums,
};
use crate::disk::{self, Dir, DiskError};
use crate::storage::frame::{Location, frame_size};
use crate::storage::index::{Index, IndexError};
use crate::storage::log::{Log, LogError};
use crate::storage::tree::{Tree, TreeError};

/// Counts openings that did not come to an end. Each opening makes it longer by a byte and removes
/// it when it is done.
pub(crate) const OPENING_FILE: &str = "opening";
/// After so many of them the derived state is taken to be what kills the process.
const OPENINGS_MAX: usize = 2;
/// Head and body of entries that are applied again at a time, in bytes.
const REPLAY_BYTES: usize = 4 * 1024 * 1024;

/// Why derived state is thrown away.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("the process died {0} times while opening it")]
    Deadly(usize),
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error("the tree files do not give the root of the index")]
    Root,
    #[error("the index is of another trail")]
    OtherTrail,
    #[error("the index is ahead of the log, or of another one")]
    OtherLog,
    #[error("some of its files are missing")]
    Missing,
}

/// Derived state that agrees with the log.
struct Usable {
    index: Index,
    tree: Tree,
    machine: Machine,
    applied: Option<AppliedState>,
}

/// Opens the ledger of a data directory.
pub(super) fn open(
    log: Log,
    dir: &Path,
    trail_id: TrailId,
    policy: CommitPolicy,
) -> Result<Ledger, LedgerError> {
    let derived = Dir::open(dir, true)?.subdir(DERIVED_DIR)?;
    // Before anything is changed: the manifest holds only as long as the node is down.
    sums::remove(&derived)?;
    let attempts = begin(&derived)?;
    let usable = match load(&log, &derived, trail_id, attempts)? {
        Ok(usable) => usable,
        Err(unusable) => {
            tracing::warn!(reason = %unusable, "derived state is computed again from the segments");
            wipe(&derived)?;
            empty(&derived, trail_id)?
        }
    };
    derived.remove(OPENING_FILE)?;
    let ledger = assemble(log, derived, usable, policy);
    ledger.replay()?;
    Ok(ledger)
}

/// Notes that an opening began; returns how many before it did not end. Not durable: a crash of the
/// system is no sign of a process that dies of its files.
fn begin(derived: &Dir) -> Result<usize, DiskError> {
    let attempts = derived.read_file(OPENING_FILE)?.map_or(0, |bytes| bytes.len());
    derived.create_file(OPENING_FILE, 0o600)?.write_all_at(&vec![b'.'; attempts + 1], 0)?;
    Ok(attempts)
}

/// Opens what is there and compares it with the log. The outer error is one of the disk or the log
/// themselves.
fn load(
    log: &Log,
    derived: &Dir,
    trail_id: TrailId,
    attempts: usize,
) -> Result<Result<Usable, Unusable>, LedgerError> {
    if attempts >= OPENINGS_MAX {
        return Ok(Err(Unusable::Deadly(attempts)));
    }
    let known = (derived.exists(INDEX_DIR)?, derived.exists(TREE_DIR)?);
    match known {
        (true, true) => {}
        (false, false) => return Ok(Ok(empty(derived, trail_id)?)),
        _ => return Ok(Err(Unusable::Missing)),
    }
    let loaded = Index::open(&derived.path().join(INDEX_DIR)).and_then(|index| {
        let loaded = index.load()?;
        Ok((index, loaded))
    });
    let (index, loaded) = match loaded {
        Ok((index, Some(loaded))) => (index, loaded),
        // Nothing was committed. Tree files may be left of a first commit that was cut short.
        Ok((index, None)) => return Ok(Ok(start(derived, trail_id, index)?)),
        Err(error) => return Ok(Err(error.into())),
    };
    let state = loaded.state;
    if state.trail_id != trail_id {
        return Ok(Err(Unusable::OtherTrail));
    }
    if !in_log(log, state.id.index, &state.chain)? {
        return Ok(Err(Unusable::OtherLog));
    }
    let machine = match Machine::load(loaded) {
        Ok(machine) => machine,
        Err(error) => return Ok(Err(error.into())),
    };
    let tree = match Tree::open(derived.subdir(TREE_DIR)?, state.tree_size) {
        Ok(tree) if tree.root() == state.root => tree,
        Ok(_) => return Ok(Err(Unusable::Root)),
        Err(TreeError::Disk(error)) => return Err(error.into()),
        Err(error) => return Ok(Err(error.into())),
    };
    let applied = AppliedState {
        id: state.id,
        chain: state.chain,
        tree_size: state.tree_size,
        root: state.root,
        last_received: state.last_received,
    };
    Ok(Ok(Usable { index, tree, machine, applied: Some(applied) }))
}

/// Whether the log's durable part has an entry with this link of the chain.
fn in_log(log: &Log, index: u64, chain: &Chain) -> Result<bool, LogError> {
    if index >= *log.durable().borrow() {
        return Ok(false);
    }
    Ok(log.chain_at(index)? == *chain)
}

/// Removes all derived state.
fn wipe(derived: &Dir) -> Result<(), DiskError> {
    disk::remove_tree(&derived.path().join(INDEX_DIR))?;
    disk::remove_tree(&derived.path().join(TREE_DIR))?;
    // Crash before: some of it is left and fails to fit the log again, or fits.
    derived.sync()
}

/// Derived state of the trail without entries.
fn empty(derived: &Dir, trail_id: TrailId) -> Result<Usable, LedgerError> {
    let path = derived.subdir(INDEX_DIR)?.path().to_owned();
    let index = Index::open(&path).map_err(|error| LedgerError::Index(Arc::new(error)))?;
    start(derived, trail_id, index)
}

/// As [`empty`], with an index that has no rows.
fn start(derived: &Dir, trail_id: TrailId, index: Index) -> Result<Usable, LedgerError> {
    let tree = match Tree::open(derived.subdir(TREE_DIR)?, 0) {
        Ok(tree) => tree,
        Err(TreeError::Disk(error)) => return Err(error.into()),
        Err(TreeError::Short { .. }) => unreachable!("no file is shorter than nothing"),
    };
    Ok(Usable { index, tree, machine: Machine::new(trail_id), applied: None })
}

fn assemble(log: Log, derived: Dir, usable: Usable, policy: CommitPolicy) -> Ledger {
    let Usable { index, tree, machine, applied } = usable;
    let head = applied.as_ref().map_or_else(
        || Head { applied: 0, applied_id: None, tree_size: 0, root: tree.root(), last_received: 0 },
        head_of,
    );
    let shared = Arc::new(Shared {
        trail_id: machine.trail_id,
        machine: RwLock::new(machine),
        tree,
        recent: RwLock::new(VecDeque::new()),
        index: RwLock::new(Some(index)),
        failed: OnceLock::new(),
    });
    let writer = Writer {
        committer: Some(Committer::start(shared.clone())),
        policy,
        pending: Pending::default(),
        committed_next: head.applied,
        applied,
        leaf_hashes: Vec::new(),
    };
    let (writer, head) = (Mutex::new(writer), watch::Sender::new(head));
    let key_records = Mutex::default();
    Ledger { inner: Arc::new(Inner { log, shared, derived, writer, head, key_records }) }
}

impl Ledger {
    /// Applies what the log knows to be committed and durable and the ledger has not.
    fn replay(&self) -> Result<(), LedgerError> {
        let log = &self.inner.log;
        let (mut next, mut chain) = {
            let machine = self.inner.shared.machine();
            (machine.next(), machine.chain)
        };
        // What was applied was committed, even if the marker in the log does not say so yet.
        log.set_committed(next.max(log.committed()));
        log.set_applied(next);
        let end = log.committed().min(*log.durable().borrow());
        while next < end {
            let entries = log.read(next..end, REPLAY_BYTES)?;
            let locations = locate(log, &entries)?;
            for (entry, location) in entries.iter().zip(locations) {
                chain = chain::link_entry(&chain, entry);
                self.apply_at(entry, chain, location)?;
            }
            next += entries.len() as u64;
            // Entries that the segments hold but the chain does not: somebody changed them and
            // their checksums.
            if log.chain_at(next - 1)? != chain {
                let what = "the chain in the segments does not follow from their entries";
                return Err(LedgerError::Damaged {
                    leaf: self.inner.head.borrow().tree_size,
                    what,
                });
            }
        }
        Ok(())
    }
}

/// Places of consecutive entries. Frames follow each other within a segment, so a few questions to
/// the log are enough.
fn locate(log: &Log, entries: &[Entry]) -> Result<Vec<Location>, LogError> {
    let mut locations = Vec::with_capacity(entries.len());
    while locations.len() < entries.len() {
        let rest = &entries[locations.len()..];
        let first = log.locate(rest[0].id.index)?;
        // How many of the rest are in the same segment: a binary search, as segments follow each
        // other too.
        let (mut inside, mut outside) = (0, rest.len());
        if log.locate(rest[outside - 1].id.index)?.segment == first.segment {
            inside = outside - 1;
        }
        while inside + 1 < outside {
            let middle = inside.midpoint(outside);
            match log.locate(rest[middle].id.index)?.segment == first.segment {
                true => inside = middle,
                false => outside = middle,
            }
        }
        let mut offset = first.offset;
        for entry in &rest[..=inside] {
            locations.push(Location { segment: first.segment, offset });
            offset += frame_size(entry.payload_bytes());
        }
    }
    Ok(locations)
}
