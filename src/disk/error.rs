//! What went wrong, with what, where.

use std::io;
use std::path::{Path, PathBuf};

/// A failed operation on a file or directory. Local to this node; never an answer to a client.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}: {source}", path.display())]
pub struct DiskError {
    /// What was tried: a verb phrase.
    pub operation: &'static str,
    /// On what.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl DiskError {
    /// An error of `operation` on `path`.
    pub fn new(operation: &'static str, path: &Path, source: impl Into<io::Error>) -> DiskError {
        DiskError { operation, path: path.to_owned(), source: source.into() }
    }

    /// Whether the disk or a quota is full: the caller may go read-only, and recover without a
    /// restart once there is space.
    pub fn is_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// Turns an I/O result into ours: `.at("read", path)`.
pub(super) trait At<T> {
    /// Adds operation and path to the error.
    fn at(self, operation: &'static str, path: &Path) -> Result<T, DiskError>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, operation: &'static str, path: &Path) -> Result<T, DiskError> {
        self.map_err(|source| DiskError::new(operation, path, source))
    }
}
