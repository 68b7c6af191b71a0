//! Evidence: offending bytes, kept for people.

use std::path::Path;

use crate::disk::{Dir, DiskError};

/// Folder of the data directory.
const EVIDENCE_DIR: &str = "evidence";

/// Keeps a piece of evidence under a name. The first under a name stays.
pub fn keep(data_dir: &Path, name: &str, bytes: &[u8]) -> Result<(), DiskError> {
    let dir = Dir::open(data_dir, true)?.subdir(EVIDENCE_DIR)?;
    if dir.exists(name)? {
        return Ok(());
    }
    // Crash before the rename inside: the evidence is lost, the reason for it will show again.
    dir.write_new(name, 0o600, bytes)
}
