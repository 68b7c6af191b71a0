//! Segment files that are open for reading.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::disk::{Dir, DiskError, File};
use crate::storage::segment;

/// Files that stay open at most.
const FILES_MAX: usize = 64;

/// A cache of open files: the one opened longest ago leaves first.
#[derive(Debug)]
pub(super) struct Files {
    segments: Dir,
    open: Mutex<VecDeque<(Key, Arc<File>)>>,
}

/// A segment's first entry, and the epoch in which it was begun: a truncation may remove a file and
/// a later append make another of the same name.
pub(super) type Key = (u64, u64);

impl Files {
    pub(super) fn new(segments: Dir) -> Files {
        Files { segments, open: Mutex::default() }
    }

    /// The directory that they are in.
    pub(super) fn dir(&self) -> &Dir {
        &self.segments
    }

    /// Has the file of this segment opened anew: another one has its name now. Whoever reads the
    /// old one goes on with it.
    pub(super) fn forget(&self, first: u64) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|((open, _), _)| *open != first);
    }

    /// The segment's file, opened if it is not open.
    pub(super) fn get(&self, key: Key) -> Result<Arc<File>, DiskError> {
        let open = || self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, file)) = open().iter().find(|(open, _)| *open == key) {
            return Ok(file.clone());
        }
        let file = Arc::new(self.segments.open_file_read_only(&segment::file_name(key.0))?);
        let mut open = open();
        if open.len() == FILES_MAX {
            open.pop_front();
        }
        open.push_back((key, file.clone()));
        Ok(file)
    }
}
