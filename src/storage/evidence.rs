//! Evidence: offending bytes, kept for people.

use std::path::Path;

use indelible_core::limits::EVIDENCE_OF_A_SORT_MAX;

use crate::disk::{Dir, DiskError};

/// Folder of the data directory.
const EVIDENCE_DIR: &str = "evidence";

/// Keeps a piece of evidence under a name. The first under a name stays, and so do the first
/// [`EVIDENCE_OF_A_SORT_MAX`] of a sort, which is what its name says up to the first `-`: some can
/// be made at will, and must neither fill the disk nor leave no room for those that cannot.
pub fn keep(data_dir: &Path, name: &str, bytes: &[u8]) -> Result<(), DiskError> {
    let dir = Dir::open(data_dir, true)?.subdir(EVIDENCE_DIR)?;
    if dir.exists(name)? {
        return Ok(());
    }
    let alike = dir.list()?.iter().filter(|kept| sort(kept) == sort(name)).count();
    if alike >= EVIDENCE_OF_A_SORT_MAX {
        tracing::warn!(name, kept = alike, "evidence of this sort is kept already: not this one");
        return Ok(());
    }
    // Crash before the rename inside: the evidence is lost, the reason for it will show again.
    dir.write_new(name, 0o600, bytes)
}

fn sort(name: &str) -> &str {
    name.split('-').next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_made_at_will_fills_no_disk_and_leaves_room() {
        let temp = tempfile::tempdir().unwrap();
        for size in 0..EVIDENCE_OF_A_SORT_MAX + 9 {
            keep(temp.path(), &format!("asked-{size}.txt"), b"a root").unwrap();
        }
        keep(temp.path(), "asked-0.txt", b"another one").unwrap();
        keep(temp.path(), "note-7.txt", b"a note").unwrap();
        let dir = Dir::open(&temp.path().join(EVIDENCE_DIR), false).unwrap();
        let kept = dir.list().unwrap();
        assert_eq!(kept.len(), EVIDENCE_OF_A_SORT_MAX + 1);
        assert!(kept.contains(&"note-7.txt".into()) && kept.contains(&"asked-63.txt".into()));
        assert_eq!(dir.read_file("asked-0.txt").unwrap().unwrap(), b"a root");
    }
}
