//! The Merkle tree on disk: one file for each level, an array of the hashes of its complete nodes.
//!
//! `derived/tree/NN` holds the nodes of level NN, 32 bytes each; level 00 holds the leaf hashes.
//! Complete nodes never change, so the files only grow, and any root or proof of any size is a
//! handful of positioned reads. New nodes stay in memory until [`Tree::write_out`], which makes
//! them durable; only then does the index say that they are there. Only [`Tree::overwrite`], which
//! mends, writes over anything.
//!
//! Appending is for one thread at a time; reading is for all.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use indelible_core::merkle::{self, Frontier};
use indelible_core::{Hash, LeafIndex};

use crate::disk::{Dir, DiskError, File};

/// Levels that a tree can have.
pub const LEVELS: usize = 64;

const HASH_SIZE: u64 = Hash::SIZE as u64;

/// The tree files do not hold the tree that they should.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A level's file has fewer nodes than a tree of this size.
    #[error("{}: {actual} nodes, a tree of {size} leaves has {expected}", path.display())]
    Short {
        /// The file.
        path: PathBuf,
        /// The size.
        size: u64,
        /// Nodes that the level has at that size.
        expected: u64,
        /// Nodes that the file holds.
        actual: u64,
    },
    /// The disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// The tree files, and the nodes that are not yet in them.
#[derive(Debug)]
pub struct Tree {
    dir: Dir,
    /// What appending needs; whoever holds it is the one appender.
    appender: Mutex<Appender>,
    /// What readers see.
    stored: RwLock<Stored>,
}

#[derive(Debug)]
struct Appender {
    frontier: Frontier,
    /// New nodes by level, before readers see them; kept for its memory.
    completed: Vec<Vec<Hash>>,
}

#[derive(Debug)]
struct Stored {
    /// Leaves that readers may ask for.
    size: u64,
    /// Leaves whose nodes are all in the files.
    written: u64,
    levels: Vec<Level>,
}

/// One level.
#[derive(Debug, Clone, Default)]
struct Level {
    /// None as long as no node of this level was written.
    file: Option<Arc<File>>,
    /// Nodes in the file.
    written: u64,
    /// Nodes after those, in memory.
    tail: Vec<Hash>,
}

/// Consecutive nodes of one level.
#[derive(Debug)]
struct Part {
    file: Option<Arc<File>>,
    /// Those to read from the file.
    in_file: Range<u64>,
    /// Those after them, out of memory.
    tail: Vec<Hash>,
}

impl Tree {
    /// Opens the tree files in `dir` at a size at which they were written out. Nodes beyond it are
    /// cut off: whoever wrote them crashed before the index knew.
    pub fn open(dir: Dir, size: u64) -> Result<Tree, TreeError> {
        let mut levels = Vec::with_capacity(LEVELS);
        for level in 0..LEVELS {
            levels.push(Level::open(&dir, level, size)?);
        }
        let stored = Stored { size, written: size, levels };
        // The peaks, largest first: the last node of every level that has an odd number of them.
        let peaks = (0..LEVELS as u8)
            .rev()
            .filter(|level| size >> level & 1 == 1)
            .map(|level| stored.part(level, (size >> level) - 1..size >> level).nodes())
            .collect::<Result<Vec<_>, _>>()?;
        let frontier =
            Frontier::from_peaks(size, &peaks.concat()).expect("one peak for each set bit");
        let completed = vec![Vec::new(); LEVELS];
        let appender = Mutex::new(Appender { frontier, completed });
        Ok(Tree { dir, appender, stored: RwLock::new(stored) })
    }

    /// Adds leaves and returns size and root after them. Readers see all of them or none.
    pub fn append(&self, leaf_hashes: &[Hash]) -> (u64, Hash) {
        let mut appender = self.appender();
        let Appender { frontier, completed } = &mut *appender;
        for leaf_hash in leaf_hashes {
            frontier
                .append_with(*leaf_hash, |level, _, hash| completed[level as usize].push(*hash));
        }
        let mut stored = write(&self.stored);
        for (level, new) in stored.levels.iter_mut().zip(completed) {
            level.tail.append(new);
        }
        stored.size += leaf_hashes.len() as u64;
        assert_eq!(stored.size, frontier.size(), "readers and appender agree");
        (stored.size, frontier.root())
    }

    /// Leaves so far.
    pub fn size(&self) -> u64 {
        self.read().size
    }

    /// Root over all leaves so far.
    pub fn root(&self) -> Hash {
        self.appender().frontier.root()
    }

    /// Hash of a complete node. The caller knows that the tree has it.
    pub fn node(&self, level: u8, index: u64) -> Result<Hash, DiskError> {
        // The lock is not held while the disk is read: nodes only ever move from memory to the
        // file.
        let part = self.read().part(level, index..index + 1);
        Ok(part.nodes()?[0])
    }

    /// Hashes of consecutive complete nodes. The caller knows that the tree has them.
    pub fn nodes(&self, level: u8, nodes: Range<u64>) -> Result<Vec<Hash>, DiskError> {
        let part = self.read().part(level, nodes);
        part.nodes()
    }

    /// Hashes of consecutive leaves. The caller knows that the tree has them.
    pub fn leaf_hashes(&self, leaves: Range<LeafIndex>) -> Result<Vec<Hash>, DiskError> {
        self.nodes(0, leaves)
    }

    /// Root of the first `size` leaves. The caller knows that there are so many.
    pub fn root_at(&self, size: u64) -> Result<Hash, DiskError> {
        merkle::root_at(size, |level, index| self.node(level, index))
    }

    /// Proof that a leaf is in the first `size` leaves. The caller knows that it is.
    pub fn inclusion_proof(&self, leaf: LeafIndex, size: u64) -> Result<Vec<Hash>, DiskError> {
        merkle::inclusion_proof(leaf, size, |level, index| self.node(level, index))
    }

    /// Proof that the first `old` leaves are a prefix of the first `new`. The caller knows that
    /// there are so many.
    pub fn consistency_proof(&self, old: u64, new: u64) -> Result<Vec<Hash>, DiskError> {
        merkle::consistency_proof(old, new, |level, index| self.node(level, index))
    }

    /// Moves the nodes of the first `size` leaves to the files and makes them durable. For one
    /// thread at a time; appending and reading go on meanwhile.
    pub fn write_out(&self, size: u64) -> Result<(), DiskError> {
        let mut made = false;
        for number in 0..LEVELS {
            let level = self.unwritten(number, size);
            if level.tail.is_empty() {
                continue;
            }
            let file = match level.file {
                Some(file) => file,
                None => {
                    made = true;
                    Arc::new(self.dir.create_file(&file_name(number), 0o600)?)
                }
            };
            file.write_all_at(&bytes_of(&level.tail), level.written * HASH_SIZE)?;
            // Crash before or after: the index still names a size that was written out earlier.
            // Opening cuts the file there, and the leaves after it are applied again.
            file.sync_data()?;
            let mut stored = write(&self.stored);
            let in_memory = &mut stored.levels[number];
            in_memory.tail.drain(..level.tail.len());
            in_memory.written += level.tail.len() as u64;
            in_memory.file = Some(file);
        }
        // Crash before: as above; the name of a file that the index counts on is durable before the
        // index says so.
        if made {
            self.dir.sync()?;
        }
        write(&self.stored).written = size;
        Ok(())
    }

    /// Leaves whose nodes are all in the files.
    pub fn written_size(&self) -> u64 {
        self.read().written
    }

    /// Puts a node that is in its file right. Whoever reads it meanwhile finds either hash.
    pub fn overwrite(&self, level: u8, index: u64, hash: &Hash) -> Result<(), DiskError> {
        let file = self.file_with(level, index);
        // Not durable yet: see `sync_levels`.
        file.write_all_at(&hash.0, index * HASH_SIZE)
    }

    /// Makes what was put right in these levels durable.
    pub fn sync_levels(&self, levels: &BTreeSet<u8>) -> Result<(), DiskError> {
        // Crash before: some of it is still wrong, and the next scrub finds it again.
        levels.iter().try_for_each(|level| self.file_with(*level, 0).sync_data())
    }

    fn file_with(&self, level: u8, index: u64) -> Arc<File> {
        let level = &self.read().levels[usize::from(level)];
        assert!(index < level.written, "node {index} is not in the file yet");
        level.file.clone().expect("it has nodes")
    }

    /// A copy of the level, with only those nodes in memory that a tree of `size` leaves has.
    fn unwritten(&self, number: usize, size: u64) -> Level {
        let stored = self.read();
        let Level { file, written, tail } = &stored.levels[number];
        let count = (size >> number).saturating_sub(*written) as usize;
        Level { file: file.clone(), written: *written, tail: tail[..count].to_vec() }
    }

    fn appender(&self) -> MutexGuard<'_, Appender> {
        self.appender.lock().expect("an appender that panicked takes the node with it")
    }

    fn read(&self) -> RwLockReadGuard<'_, Stored> {
        // A panic while it was locked left it whole: nothing in between panics but allocation.
        self.stored.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stored {
    /// Consecutive nodes of a level, still partly in the file.
    fn part(&self, level: u8, range: Range<u64>) -> Part {
        let size = self.size;
        assert!(range.start <= range.end && range.end <= size >> level, "{range:?} of {size}");
        let Level { file, written, tail } = &self.levels[level as usize];
        let in_file = range.start..range.end.clamp(range.start, (*written).max(range.start));
        let position = |index: u64| (index - written) as usize;
        let tail = match in_file.end < range.end {
            true => tail[position(in_file.end)..position(range.end)].to_vec(),
            false => Vec::new(),
        };
        Part { file: file.clone(), in_file, tail }
    }
}

impl Part {
    /// Reads what is in the file.
    fn nodes(self) -> Result<Vec<Hash>, DiskError> {
        let Part { file: Some(file), in_file, tail } = self else { return Ok(self.tail) };
        if in_file.is_empty() {
            return Ok(tail);
        }
        let mut bytes = vec![0; ((in_file.end - in_file.start) * HASH_SIZE) as usize];
        file.read_exact_at(&mut bytes, in_file.start * HASH_SIZE)?;
        Ok(bytes.as_chunks().0.iter().map(|bytes| Hash(*bytes)).chain(tail).collect())
    }
}

impl Level {
    /// Opens the file of a level, cut to what a tree of `size` leaves has.
    fn open(dir: &Dir, number: usize, size: u64) -> Result<Level, TreeError> {
        let expected = size >> number;
        let name = file_name(number);
        if !dir.exists(&name)? {
            return match expected {
                0 => Ok(Level::default()),
                _ => {
                    Err(TreeError::Short { path: dir.path().join(name), size, expected, actual: 0 })
                }
            };
        }
        let file = dir.open_file(&name)?;
        let length = file.len()?;
        if length < expected * HASH_SIZE {
            let actual = length / HASH_SIZE;
            return Err(TreeError::Short { path: file.path().to_owned(), size, expected, actual });
        }
        if length > expected * HASH_SIZE {
            // Crash before or after: the next opening cuts again. Nothing relies on the length
            // being durable.
            file.set_len(expected * HASH_SIZE)?;
        }
        Ok(Level { file: Some(Arc::new(file)), written: expected, tail: Vec::new() })
    }
}

/// Name of a level's file.
pub fn file_name(level: usize) -> String {
    format!("{level:02}")
}

fn bytes_of(hashes: &[Hash]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| hash.0).collect()
}

fn write(stored: &RwLock<Stored>) -> RwLockWriteGuard<'_, Stored> {
    stored.write().unwrap_or_else(PoisonError::into_inner)
}
