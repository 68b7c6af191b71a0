//! The `signed` marker: the largest checkpoint that this node has signed (docs/FORMAT.md,
//! "Signed").
//!
//! It is what keeps a node from signing two histories across a restart: it never signs a smaller
//! size than this one, nor another root at it, nor anything if its own tree has another root there.
//! It has a file of its own because a signature every 50 ms must not queue behind appends, as a
//! change of the hard state does.
//!
//! A slot that rots may bring back the signature before the newest: the peers' notes carry this
//! node's signatures, and a start asks for them before it signs again.

use std::path::{Path, PathBuf};

use indelible_core::Hash;

use super::frame::u64_at;
use crate::disk::{Dir, DiskError, SlotFile, SlotKind, SlotsError};

/// Name of the file.
pub const SIGNED_FILE: &str = "signed";
/// How it is stored.
pub(super) const SIGNED_SLOTS: SlotKind =
    SlotKind { name: SIGNED_FILE, magic: *b"INDSIGND", slot_size: 512 };

/// Why the marker cannot be used. Until it can, this node must not sign.
#[derive(Debug, thiserror::Error)]
pub enum SignedError {
    /// There is no such file, and the node has been started before.
    #[error(
        "{} does not exist; hint: the node must not sign before it knows what it has signed: its \
         newest signature is in its peers' notes",
        path.display()
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// Neither slot is valid.
    #[error(
        "{} is damaged; hint: the node must not sign before it knows what it has signed: its \
         newest signature is in its peers' notes",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The file could not be read or written.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// The file, and what it says. Whoever decides about a signature owns it.
#[derive(Debug)]
pub struct SignedMarker {
    slots: SlotFile,
    last: Option<(u64, Hash)>,
}

impl SignedMarker {
    /// Opens the marker of a data directory that [`super::Storage::open`] has opened, which makes
    /// it at the very first start.
    pub fn open(dir: &Path) -> Result<SignedMarker, SignedError> {
        let dir = Dir::open(dir, true)?;
        if !dir.exists(SIGNED_FILE)? {
            return Err(SignedError::Missing { path: dir.path().join(SIGNED_FILE) });
        }
        let (slots, payload) = SlotFile::open(&dir, SIGNED_SLOTS).map_err(slots_error)?;
        Ok(SignedMarker { slots, last: decode(&payload) })
    }

    /// Makes the marker anew, with what the caller found out about this node's last signature from
    /// a majority of its peers; replaces a damaged one. None: it has never signed.
    pub fn restore(dir: &Path, last: Option<(u64, Hash)>) -> Result<SignedMarker, SignedError> {
        Ok(Self::create(&Dir::open(dir, true)?, last)?)
    }

    pub(super) fn create(dir: &Dir, last: Option<(u64, Hash)>) -> Result<SignedMarker, DiskError> {
        // Crash before the rename inside: there is no marker, or the damaged one, and the caller
        // finds out again.
        let slots = SlotFile::create(dir, SIGNED_SLOTS, &encode(last))?;
        Ok(SignedMarker { slots, last })
    }

    /// Reads the marker of a node that is not running.
    pub fn read(dir: &Dir) -> Result<Option<(u64, Hash)>, SignedError> {
        Ok(decode(&SlotFile::read(dir, SIGNED_SLOTS).map_err(slots_error)?))
    }

    /// Size and root of the last checkpoint that was signed.
    pub fn last(&self) -> Option<(u64, Hash)> {
        self.last
    }

    /// Notes what is about to be signed; durable on return, and only then may the signature leave
    /// the node. The caller has compared it with [`Self::last`] and with its own tree. After an
    /// error the node must stop.
    pub fn save(&mut self, size: u64, root: Hash) -> Result<(), SignedError> {
        if let Some((last, last_root)) = self.last {
            assert!(size >= last, "size {size} is signed after size {last}");
            assert!(size > last || root == last_root, "two roots are signed at size {size}");
        }
        assert!(size > 0, "the tree without leaves is never signed");
        if self.last == Some((size, root)) {
            return Ok(()); // the same checkpoint, at a later time
        }
        // Crash before the return: the marker before, and no signature has left; or this one, for
        // a signature that nobody has seen, which only forbids what would be wrong anyway.
        self.slots.write(&encode(Some((size, root))))?;
        self.last = Some((size, root));
        Ok(())
    }
}

fn slots_error(error: SlotsError) -> SignedError {
    match error {
        SlotsError::Damaged { path } => SignedError::Damaged { path },
        SlotsError::Disk(error) => error.into(),
    }
}

fn encode(last: Option<(u64, Hash)>) -> [u8; 40] {
    let mut out = [0; 40];
    if let Some((size, root)) = last {
        out[..8].copy_from_slice(&size.to_le_bytes());
        out[8..].copy_from_slice(&root.0);
    }
    out
}

fn decode(bytes: &[u8]) -> Option<(u64, Hash)> {
    let size = u64_at(bytes, 0);
    (size > 0).then(|| (size, Hash::from_slice(&bytes[8..40]).expect("32 bytes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn temp() -> (tempfile::TempDir, SignedMarker) {
        let temp = tempfile::tempdir().unwrap();
        let marker = SignedMarker::restore(temp.path(), None).unwrap();
        (temp, marker)
    }

    #[test]
    fn the_last_signature_survives_a_restart() {
        let (temp, mut marker) = temp();
        assert_eq!(marker.last(), None);
        for size in [1, 5, 5, 9] {
            marker.save(size, Hash([size as u8; 32])).unwrap();
            let read = SignedMarker::open(temp.path()).unwrap().last();
            assert_eq!(read, Some((size, Hash([size as u8; 32]))));
            assert_eq!(read, marker.last());
        }
    }

    #[test]
    fn a_torn_write_leaves_the_signature_before() {
        let (temp, mut marker) = temp();
        marker.save(3, Hash([3; 32])).unwrap();
        let before = std::fs::read(temp.path().join(SIGNED_FILE)).unwrap();
        marker.save(4, Hash([4; 32])).unwrap();
        let mut torn = std::fs::read(temp.path().join(SIGNED_FILE)).unwrap();
        let changed = (0..torn.len()).filter(|at| torn[*at] != before[*at]).collect::<Vec<_>>();
        torn[*changed.last().unwrap()] ^= 1;
        std::fs::write(temp.path().join(SIGNED_FILE), torn).unwrap();
        let read = SignedMarker::open(temp.path()).unwrap().last();
        assert_eq!(read, Some((3, Hash([3; 32]))));
    }

    #[test]
    fn missing_or_damaged_it_is_refused_until_restored() {
        let (temp, _) = temp();
        let path = temp.path().join(SIGNED_FILE);
        std::fs::write(&path, [7; 8192]).unwrap();
        let error = SignedMarker::open(temp.path()).unwrap_err();
        assert!(matches!(error, SignedError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("hint: "));
        std::fs::remove_file(&path).unwrap();
        let error = SignedMarker::open(temp.path()).unwrap_err();
        assert!(matches!(error, SignedError::Missing { .. }), "{error}");
        let last = Some((12, Hash([2; 32])));
        SignedMarker::restore(temp.path(), last).unwrap();
        assert_eq!(SignedMarker::open(temp.path()).unwrap().last(), last);
    }

    #[test]
    #[should_panic(expected = "two roots are signed at size 7")]
    fn two_roots_at_one_size_are_a_broken_invariant() {
        let (_temp, mut marker) = temp();
        marker.save(7, Hash([1; 32])).unwrap();
        let _ = marker.save(7, Hash([2; 32]));
    }
}
