//! The offline check: reads a data directory again, all of it, and says what is not as it should
//! be.
//!
//! It believes nothing. Every frame's checksums, the chain through all of them, every commitment;
//! then the apply rules run again from entry 0, and every hash of the tree files and every row of
//! the index is compared with what they give. It changes nothing in the directory: sled writes when
//! it opens, so it opens a copy.
//!
//! A node that was closed left a manifest (`ledger::sums`), and with it every byte of derived files
//! counts, used or not. After a crash there is none, and derived files count as far as the last
//! commit goes.

mod compare;
mod files;
mod segments;
mod trail;

#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use indelible_core::{Chain, Hash, LeafIndex};

use crate::disk::{Dir, DirLock, DiskError, LOCK_FILE, LockError};

/// What a check found.
#[derive(Debug, Clone)]
pub struct Report {
    /// What is not as it should be, in the order in which it was found. The directory is sound if
    /// there is nothing.
    pub problems: Vec<Problem>,
    /// What a crash left and the next start repairs. No problem: nobody was told that it is
    /// durable.
    pub notes: Vec<String>,
    /// Whether the node was closed, so that its manifest covers every byte of derived files.
    pub closed: bool,
    /// Segment files.
    pub segments: u64,
    /// Entries in them.
    pub entries: u64,
    /// How many of those are known to be committed, and were applied.
    pub applied: u64,
    /// Leaves that they gave.
    pub leaves: u64,
    /// Root over those leaves.
    pub root: Hash,
    /// The chain's link of the last entry.
    pub chain: Chain,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// In which file.
    pub file: PathBuf,
    /// Where in it, in bytes, if that is known.
    pub offset: Option<u64>,
    /// What.
    pub what: String,
    /// Entries that are affected, if that is known.
    pub entries: Option<RangeInclusive<u64>>,
    /// Leaves that are affected, if that is known.
    pub leaves: Option<RangeInclusive<LeafIndex>>,
}

/// Why a directory could not be checked.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// A node runs on it.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A file could not be read.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Checks a data directory while no node runs on it. `scratch` is a directory outside of it for a
/// copy of the index, which is removed again; without one the index is compared with the manifest
/// alone. The error is one of reading at all; damage is in the report.
pub fn check(dir: &Path, scratch: Option<&Path>) -> Result<Report, CheckError> {
    let data = Dir::open(dir, true)?;
    // Taking the lock makes its file if there is none; where no node has ever been, none runs.
    let _lock = match data.exists(LOCK_FILE)? {
        true => Some(DirLock::acquire(dir)?),
        false => None,
    };
    Ok(check_unlocked(&data, scratch)?)
}

/// As [`check`], whoever runs on the directory: for tests.
pub(in crate::storage) fn check_unlocked(
    data: &Dir,
    scratch: Option<&Path>,
) -> Result<Report, DiskError> {
    let mut problems = Problems::default();
    let files = files::check(data, &mut problems)?;
    let derived = compare::Derived::open(data, scratch, &files, &mut problems)?;
    trail::check(data, &files, derived, problems)
}

impl Report {
    /// Whether everything is as it should be.
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }
}

impl Problem {
    pub(in crate::storage) fn new(file: impl Into<PathBuf>, what: impl fmt::Display) -> Problem {
        let (file, what) = (file.into(), what.to_string());
        Problem { file, offset: None, what, entries: None, leaves: None }
    }

    fn at(self, offset: u64) -> Problem {
        Problem { offset: Some(offset), ..self }
    }

    fn entries(self, entries: RangeInclusive<u64>) -> Problem {
        Problem { entries: Some(entries), ..self }
    }

    fn leaves(self, leaves: RangeInclusive<LeafIndex>) -> Problem {
        Problem { leaves: Some(leaves), ..self }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(offset) = self.offset {
            write!(f, " at offset {offset}")?;
        }
        write!(f, ": {}", self.what)?;
        if let Some(entries) = &self.entries {
            write!(f, " (entries {} to {})", entries.start(), entries.end())?;
        }
        if let Some(leaves) = &self.leaves {
            write!(f, " (leaves {} to {})", leaves.start(), leaves.end())?;
        }
        Ok(())
    }
}

/// Problems so far. One damaged file can give a problem for each of its entries; after so many of a
/// file the rest of them say nothing new.
#[derive(Debug, Default)]
struct Problems(Vec<Problem>);

impl Problems {
    const OF_ONE_FILE_MAX: usize = 20;

    fn push(&mut self, problem: Problem) {
        let of_file = self.0.iter().rev().filter(|known| known.file == problem.file);
        if of_file.take(Self::OF_ONE_FILE_MAX).count() < Self::OF_ONE_FILE_MAX {
            self.0.push(problem);
        }
    }
}
