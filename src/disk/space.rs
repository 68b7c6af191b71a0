//! How much room is left.

use std::path::Path;

use super::DiskError;
use super::error::At;

/// Bytes that this process may still allocate on the file system of `path`.
pub fn free_bytes(path: &Path) -> Result<u64, DiskError> {
    let stat = rustix::fs::statvfs(path).at("ask for the free space of", path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
