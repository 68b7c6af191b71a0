//! A recorded run of disk operations: what crash tests replay, and where they let a sync fail.
//!
//! The operations are done for real; the recorder only listens. From the list a test rebuilds the
//! directory as it could be after a crash at any point: with what was not synced kept, dropped or
//! torn.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::DiskError;

/// One operation on a file or directory, named by its path below the recorded directory ("" for
/// that directory itself).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// On what.
    pub name: String,
    /// What.
    pub op: Op,
}

/// What was done. Names in an operation are relative to the directory of the event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// An empty file was made in the directory.
    Create {
        /// Its name.
        name: String,
    },
    /// A directory was made in the directory.
    MakeDir {
        /// Its name.
        name: String,
    },
    /// Bytes were written.
    Write {
        /// From here, in bytes.
        offset: u64,
        /// These.
        bytes: Vec<u8>,
    },
    /// Space was reserved, and the file made at least this long.
    Allocate {
        /// In bytes.
        length: u64,
    },
    /// The file was cut or extended.
    SetLength {
        /// In bytes.
        length: u64,
    },
    /// The file's bytes and length became durable.
    Sync,
    /// A file in the directory got another name.
    Rename {
        /// The old one.
        from: String,
        /// The new one.
        to: String,
    },
    /// A file in the directory got a second name.
    Link {
        /// Its name in the directory.
        name: String,
        /// The other one, below the recorded directory.
        to: String,
    },
    /// A file was removed from the directory.
    Remove {
        /// Its name.
        name: String,
    },
    /// The directory's names became durable.
    SyncDir,
    /// A remark of the test or of the code under test, in order with the operations.
    Note(String),
}

impl Op {
    /// A write of all slices.
    pub(super) fn write(slices: &[IoSlice<'_>], offset: u64) -> Op {
        Op::Write { offset, bytes: slices.iter().flat_map(|slice| slice.iter().copied()).collect() }
    }
}

/// Listens to a directory and all below it. Shared by the test and the code under test.
#[derive(Debug, Default)]
pub struct Recorder {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    events: Vec<Event>,
    /// Syncs until one fails; none = never.
    syncs_left: Option<usize>,
    /// Set by the failed sync: everything fails from then on.
    failed: bool,
}

impl Recorder {
    /// A recorder with nothing recorded.
    pub fn new() -> Arc<Recorder> {
        Arc::default()
    }

    /// All events so far.
    pub fn events(&self) -> Vec<Event> {
        self.lock().events.clone()
    }

    /// All events so far; forgets them.
    pub fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.lock().events)
    }

    /// Adds a remark in order with the operations.
    pub fn note(&self, text: impl Into<String>) {
        self.lock().events.push(Event { name: String::new(), op: Op::Note(text.into()) });
    }

    /// Lets `count` more syncs succeed; the next fails, and so does every operation after it.
    pub fn fail_sync_after(&self, count: usize) {
        self.lock().syncs_left = Some(count);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic of a test thread leaves the list as good as it was.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in a recorded tree, or nowhere: what a file or directory reports to.
#[derive(Debug, Clone, Default)]
pub(super) struct Tap {
    recorder: Option<Arc<Recorder>>,
    /// Path below the recorded directory; empty when nothing is recorded.
    name: String,
}

impl Tap {
    pub(super) fn new(recorder: Arc<Recorder>) -> Tap {
        Tap { recorder: Some(recorder), name: String::new() }
    }

    /// The tap of `name` in this directory.
    pub(super) fn of(&self, name: &str) -> Tap {
        Tap { recorder: self.recorder.clone(), name: self.name(name) }
    }

    /// Path of `name` in this directory, below the recorded one.
    pub(super) fn name(&self, name: &str) -> String {
        match &self.recorder {
            Some(_) if self.name.is_empty() => name.to_owned(),
            Some(_) => format!("{}/{name}", self.name),
            None => String::new(),
        }
    }

    /// Reports an operation that is about to happen; an error if it is to fail.
    pub(super) fn before(
        &self,
        operation: &'static str,
        path: &Path,
        op: impl FnOnce() -> Op,
    ) -> Result<(), DiskError> {
        self.report(operation, path, false, op)
    }

    /// As [`Self::before`], for what counts as a sync.
    pub(super) fn before_sync(
        &self,
        operation: &'static str,
        path: &Path,
        op: impl FnOnce() -> Op,
    ) -> Result<(), DiskError> {
        self.report(operation, path, true, op)
    }

    fn report(
        &self,
        operation: &'static str,
        path: &Path,
        sync: bool,
        op: impl FnOnce() -> Op,
    ) -> Result<(), DiskError> {
        let Some(recorder) = &self.recorder else { return Ok(()) };
        let mut state = recorder.lock();
        if sync && state.syncs_left.is_some() {
            state.syncs_left = state.syncs_left.and_then(|left| left.checked_sub(1));
            state.failed |= state.syncs_left.is_none();
        }
        if state.failed {
            return Err(DiskError::new(operation, path, io::Error::other("failed on request")));
        }
        state.events.push(Event { name: self.name.clone(), op: op() });
        Ok(())
    }
}
