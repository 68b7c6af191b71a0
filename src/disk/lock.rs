//! One process per data directory.

use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::DiskError;
use super::error::At;

/// Name of the file that carries the lock. It stays when the lock goes: removing it would race with
/// the next owner.
pub const LOCK_FILE: &str = "LOCK";

/// Holds a directory until dropped. The system releases it when the process dies, however it dies.
#[derive(Debug)]
pub struct DirLock {
    /// The lock belongs to this open file.
    _file: std::fs::File,
}

/// Why a directory could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process, or another part of this one, holds it.
    #[error(
        "{} is in use by another process; hint: one node per data directory, stop the other one",
        path.display()
    )]
    Held {
        /// The directory.
        path: PathBuf,
    },
    /// The lock file could not be opened or locked.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl DirLock {
    /// Takes the lock of the directory at `path`, at once or not at all.
    pub fn acquire(path: &Path) -> Result<DirLock, LockError> {
        let file_path = path.join(LOCK_FILE);
        let mut options = std::fs::OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(&file_path);
        let file = file.at("open", &file_path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(DirLock { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(LockError::Held { path: path.to_owned() }),
            Err(error) => Err(DiskError::new("lock", &file_path, error).into()),
        }
    }
}
