//! Derived files against what the apply rules give when they run again.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::vec::IntoIter;

use indelible_core::{Hash, ProducerId};

use super::files::Files;
use super::{Problem, Problems};
use crate::disk::{Dir, DiskError, File, ScratchDir, files_below};
use crate::storage::index::{Index, IndexError, Loaded};
use crate::storage::ledger::machine::Machine;
use crate::storage::ledger::{DERIVED_DIR, INDEX_DIR, TREE_DIR, sums};
use crate::storage::rows::{EntryRow, ProducerRow, Run, StateRow};
use crate::storage::tree::{self, LEVELS};

const HASH_SIZE: u64 = Hash::SIZE as u64;
/// Hashes of a tree file that are read at a time.
const READ_HASHES: u64 = 4096;

/// Derived files, open for comparison.
pub(super) struct Derived {
    index: Option<IndexCopy>,
    tree: Vec<Level>,
    /// Size of the tree up to which the files count.
    tree_size: u64,
}

/// The index, as a copy.
struct IndexCopy {
    index: Index,
    /// Where the original is: for problems.
    path: PathBuf,
    loaded: Loaded,
    /// Rows of entries that are not compared yet: those of the current block, and how many blocks
    /// there were.
    rows: IntoIter<EntryRow>,
    blocks: Box<dyn Iterator<Item = Result<Vec<EntryRow>, IndexError>>>,
    block_count: u64,
    /// Last, so that sled is gone when its directory goes.
    _scratch: ScratchDir,
}

/// A tree file.
struct Level {
    path: PathBuf,
    file: Option<File>,
    /// Nodes in the file that count.
    count: u64,
    /// Nodes from `start` on.
    buffer: Vec<u8>,
    start: u64,
}

impl Derived {
    /// Compares the manifest and opens the rest. Opens the index only if the manifest has nothing
    /// against its files: on damaged ones sled may do anything.
    pub(super) fn open(
        data: &Dir,
        scratch: Option<&Path>,
        files: &Files,
        problems: &mut Problems,
    ) -> Result<Derived, DiskError> {
        let mut derived = Derived { index: None, tree: Vec::new(), tree_size: 0 };
        if !data.exists(DERIVED_DIR)? {
            return Ok(derived);
        }
        let dir = Dir::open(&data.path().join(DERIVED_DIR), true)?;
        let index_sound = !files.closed || check_sums(&dir, problems)?;
        if let Some(scratch) = scratch
            && index_sound
            && dir.exists(INDEX_DIR)?
        {
            derived.index = IndexCopy::open(&dir.path().join(INDEX_DIR), scratch, problems)?;
        }
        if !dir.exists(TREE_DIR)? {
            return Ok(derived);
        }
        let tree = Dir::open(&dir.path().join(TREE_DIR), true)?;
        derived.tree_size = match (derived.state(), files.closed) {
            (Some(state), _) => state.tree_size,
            (None, true) => leaves_in(&tree)?,
            // Nothing says how far they count, and the next start throws them away.
            (None, false) => return Ok(derived),
        };
        for name in tree.list()? {
            if (0..LEVELS).all(|level| tree::file_name(level) != name) {
                problems.push(Problem::new(tree.path().join(name), "no such file belongs here"));
            }
        }
        for number in 0..LEVELS {
            let level = Level::open(&tree, number, derived.tree_size, files.closed, problems)?;
            derived.tree.push(level);
        }
        Ok(derived)
    }

    /// Up to where the index goes.
    pub(super) fn state(&self) -> Option<StateRow> {
        self.index.as_ref().map(|copy| copy.loaded.state)
    }

    /// Index of the first entry that the index does not have.
    pub(super) fn next(&self) -> u64 {
        self.state().map_or(0, |state| state.id.index + 1)
    }

    /// Compares a complete node with the tree files.
    pub(super) fn node(
        &mut self,
        level: u8,
        index: u64,
        hash: &Hash,
        problems: &mut Problems,
    ) -> Result<(), DiskError> {
        let Some(file) = self.tree.get_mut(level as usize) else { return Ok(()) };
        if file.node(index)?.is_some_and(|stored| stored != *hash) {
            let leaves = index << level..=((index + 1) << level) - 1;
            let what = "the hash is not that of the leaves below it";
            let problem = Problem::new(&file.path, what).at(index * HASH_SIZE);
            problems.push(problem.leaves(leaves));
        }
        Ok(())
    }

    /// Compares an entry with its row.
    pub(super) fn row(&mut self, expected: &EntryRow, problems: &mut Problems) {
        let Some(copy) = &mut self.index else { return };
        if expected.index > copy.loaded.state.id.index {
            return;
        }
        let fault = match copy.next_row() {
            Ok(Some(row)) if row == *expected => return,
            Ok(Some(_)) => "the entry's row is not what applying it gives".to_owned(),
            Ok(None) => "the entry has no row".to_owned(),
            Err(error) => error.to_string(),
        };
        let problem = Problem::new(&copy.path, fault);
        problems.push(problem.entries(expected.index..=expected.index));
    }

    /// Compares everything else in the index, once the entries that it has are applied again.
    pub(super) fn state_reached(&mut self, machine: &Machine, root: Hash, problems: &mut Problems) {
        let Some(copy) = &mut self.index else { return };
        let path = copy.path.clone();
        let mut problem = |what: String| problems.push(Problem::new(&path, what));
        let expected = StateRow {
            trail_id: machine.trail_id,
            id: machine.id.expect("entries were applied"),
            chain: machine.chain,
            tree_size: machine.tree_size,
            root,
            last_received: machine.last_received,
            max_node_id: machine.max_node_id,
        };
        let state = copy.loaded.state;
        if state != expected {
            problem(format!("its state is {state:?}, applying the log gives {expected:?}"));
        }
        if machine.membership.as_ref() != Some(&copy.loaded.membership) {
            problem("its membership is not the newest one".into());
        }
        match copy.next_row() {
            Ok(None) => {}
            Ok(Some(row)) => problem(format!("it has a row for entry {} too many", row.index)),
            Err(error) => problem(error.to_string()),
        }
        let mut openings: Vec<_> =
            machine.producers.openings().map(|(leaf, id)| (leaf, *id)).collect();
        openings.sort_unstable();
        if openings != copy.loaded.openings {
            problem("its openings are not those of the trail".into());
        }
        match copy.check_producers(machine, &mut problem) {
            Ok(runs_rows) => {
                let rows = 2
                    + copy.block_count
                    + runs_rows
                    + copy.loaded.producers.len() as u64
                    + copy.loaded.openings.len() as u64;
                let count = copy.index.count();
                if count != rows {
                    problem(format!("it has {count} rows, {rows} of which are known"));
                }
            }
            Err(error) => problem(error.to_string()),
        }
    }
}

impl IndexCopy {
    fn open(
        path: &Path,
        scratch: &Path,
        problems: &mut Problems,
    ) -> Result<Option<IndexCopy>, DiskError> {
        let copy = ScratchDir::create_unique(scratch, "indelible-check")?;
        copy.copy_from(path)?;
        let opened = Index::open(copy.path()).and_then(|index| Ok((index.load()?, index)));
        match opened {
            Ok((Some(loaded), index)) => Ok(Some(IndexCopy {
                blocks: Box::new(index.blocks()),
                block_count: 0,
                rows: Vec::new().into_iter(),
                index,
                _scratch: copy,
                path: path.to_owned(),
                loaded,
            })),
            // Nothing was committed yet.
            Ok((None, _)) => Ok(None),
            Err(error) => {
                problems.push(Problem::new(path, error));
                Ok(None)
            }
        }
    }

    fn next_row(&mut self) -> Result<Option<EntryRow>, IndexError> {
        loop {
            if let Some(row) = self.rows.next() {
                return Ok(Some(row));
            }
            let Some(block) = self.blocks.next().transpose()? else { return Ok(None) };
            self.rows = block.into_iter();
            self.block_count += 1;
        }
    }

    /// Compares producers and all their runs; returns how many runs rows there are.
    fn check_producers(
        &self,
        machine: &Machine,
        problem: &mut impl FnMut(String),
    ) -> Result<u64, IndexError> {
        let known: HashMap<&ProducerId, &ProducerRow> =
            self.loaded.producers.iter().map(|(id, row)| (id, row)).collect();
        if known.len() != machine.producers.count() {
            let count = machine.producers.count();
            problem(format!("it has {} producers, the trail has {count}", known.len()));
        }
        let mut runs_rows = 0;
        for (id, state, _, runs) in machine.producers.iter() {
            let Some(row) = known.get(id) else {
                problem(format!("it does not have producer {id}"));
                continue;
            };
            let stands = (row.opened, row.epoch, row.last_seq, row.first_opened);
            if stands != (state.opened, state.epoch, state.last_seq, state.first_opened) {
                problem(format!("producer {id} is not where the trail has it"));
            }
            let mut stored: Vec<Run> = Vec::new();
            let mut seq = 1;
            for older in self.index.runs_from(row.first_opened, 0)? {
                let (first_seq, older) = older?;
                if first_seq != seq {
                    problem(format!("runs of producer {id} have a gap before seq {first_seq}"));
                }
                seq = first_seq + older.iter().map(|run| run.count).sum::<u64>();
                stored.extend(older);
                runs_rows += 1;
            }
            stored.extend(&row.runs);
            if row.runs_seq != seq || stored != runs {
                problem(format!("runs of producer {id} are not those of the trail"));
            }
        }
        Ok(runs_rows)
    }
}

impl Level {
    fn open(
        tree: &Dir,
        number: usize,
        size: u64,
        closed: bool,
        problems: &mut Problems,
    ) -> Result<Level, DiskError> {
        let name = tree::file_name(number);
        let path = tree.path().join(&name);
        let count = size >> number;
        let file = match tree.exists(&name)? {
            true => Some(tree.open_file_read_only(&name)?),
            false => None,
        };
        let length = file.as_ref().map_or(Ok(0), File::len)?;
        let expected = count * HASH_SIZE;
        if length < expected || (closed && length != expected) {
            let what = format!("{length} bytes, the level of {size} leaves has {expected}");
            problems.push(Problem::new(&path, what));
        }
        let count = count.min(length / HASH_SIZE);
        Ok(Level { path, file, count, buffer: Vec::new(), start: 0 })
    }

    /// The node as it is stored; none if the file does not count so far. Quick if they are asked
    /// for in order.
    fn node(&mut self, index: u64) -> Result<Option<Hash>, DiskError> {
        let Some(file) = self.file.as_ref().filter(|_| index < self.count) else { return Ok(None) };
        let buffered = self.buffer.len() as u64 / HASH_SIZE;
        if index < self.start || index >= self.start + buffered {
            let hashes = READ_HASHES.min(self.count - index);
            self.buffer.resize((hashes * HASH_SIZE) as usize, 0);
            file.read_exact_at(&mut self.buffer, index * HASH_SIZE)?;
            self.start = index;
        }
        let offset = ((index - self.start) * HASH_SIZE) as usize;
        Ok(Hash::from_slice(&self.buffer[offset..offset + Hash::SIZE]))
    }
}

/// Leaves in the file of leaf hashes.
fn leaves_in(tree: &Dir) -> Result<u64, DiskError> {
    let name = tree::file_name(0);
    if !tree.exists(&name)? {
        return Ok(0);
    }
    Ok(tree.open_file_read_only(&name)?.len()? / HASH_SIZE)
}

/// Compares the manifest with what is there. Returns whether it has nothing against the files of
/// the index.
fn check_sums(derived: &Dir, problems: &mut Problems) -> Result<bool, DiskError> {
    let path = derived.path().join(sums::SUMS_FILE);
    let Some(listed) = derived.read_file(sums::SUMS_FILE)?.as_deref().and_then(sums::parse) else {
        problems.push(Problem::new(path, "the manifest is damaged"));
        return Ok(true);
    };
    let mut index_sound = true;
    let mut problem = |name: &str, what: String| {
        index_sound &= !name.starts_with(INDEX_DIR);
        problems.push(Problem::new(derived.path().join(name), what));
    };
    let mut present: HashMap<String, _> = HashMap::new();
    for file in files_below(derived.path())? {
        present.insert(file.name.clone(), file);
    }
    present.remove(sums::SUMS_FILE);
    for listed in listed {
        let Some(file) = present.remove(&listed.name) else {
            problem(&listed.name, "the file is missing".into());
            continue;
        };
        let sum = sums::sum(derived, &file)?;
        if sum.length != listed.length {
            let (actual, expected) = (sum.length, listed.length);
            problem(&listed.name, format!("{actual} bytes, it was closed with {expected}"));
        } else if sum.crc != listed.crc {
            problem(&listed.name, "its bytes have changed since it was closed".into());
        }
    }
    let mut unlisted: Vec<_> = present.into_keys().collect();
    unlisted.sort_unstable();
    unlisted
        .iter()
        .for_each(|name| problem(name, "it was not there when the node was closed".into()));
    Ok(index_sound)
}
