//! One open file: explicit positions, explicit syncs, errors that carry the path.

use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

use super::error::At;
use super::recorder::{Op, Tap};
use super::{Dir, DiskError};

/// Slices that one gathered write may have (IOV_MAX on Linux).
const GATHER_MAX: usize = 1024;

/// An open file. Reads and writes name their offset, so that threads can share it.
#[derive(Debug)]
pub struct File {
    file: std::fs::File,
    /// For errors.
    path: PathBuf,
    /// Where operations are reported in tests.
    tap: Tap,
    /// False only where tests trade durability for speed: syncs do nothing.
    syncs: bool,
}

impl File {
    /// Wraps what `dir` has just opened as `name`.
    pub(super) fn new(file: std::fs::File, dir: &Dir, name: &str) -> File {
        File { file, path: dir.path().join(name), tap: dir.tap().of(name), syncs: dir.syncs() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length in bytes, preallocated part included.
    pub fn len(&self) -> Result<u64, DiskError> {
        Ok(self.file.metadata().at("stat", &self.path)?.len())
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> Result<bool, DiskError> {
        Ok(self.len()? == 0)
    }

    /// Fills `buffer` from `offset`; an error if the file ends before.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DiskError> {
        self.file.read_exact_at(buffer, offset).at("read", &self.path)
    }

    /// Reads from `offset` until `buffer` is full or the file ends; returns how many bytes were
    /// read.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, DiskError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(DiskError::new("read", &self.path, error)),
            }
        }
        Ok(filled)
    }

    /// Tells the system that these bytes need not stay in its memory: they are read from the disk
    /// next time. Advice only.
    pub fn forget(&self, offset: u64, length: u64) {
        // Not every file system takes advice, and none has to.
        let length = std::num::NonZeroU64::new(length);
        let _ = rustix::fs::fadvise(&self.file, offset, length, rustix::fs::Advice::DontNeed);
    }

    /// Writes all of `bytes` at `offset`. Not durable before a sync.
    pub fn write_all_at(&self, bytes: &[u8], offset: u64) -> Result<(), DiskError> {
        self.tap.before("write", &self.path, || Op::write(&[IoSlice::new(bytes)], offset))?;
        self.file.write_all_at(bytes, offset).at("write", &self.path)
    }

    /// Writes all slices one after the other from `offset`, in as few calls as the system allows.
    /// Not durable before a sync.
    pub fn write_gathered_at(
        &self,
        mut slices: &mut [IoSlice<'_>],
        mut offset: u64,
    ) -> Result<(), DiskError> {
        self.tap.before("write", &self.path, || Op::write(slices, offset))?;
        IoSlice::advance_slices(&mut slices, 0); // drops empty slices at the front
        while !slices.is_empty() {
            let count = slices.len().min(GATHER_MAX);
            let written = match rustix::io::pwritev(&self.file, &slices[..count], offset) {
                Ok(0) => Err(io::Error::from(io::ErrorKind::WriteZero)).at("write", &self.path)?,
                Ok(written) => written,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(DiskError::new("write", &self.path, error)),
            };
            offset += written as u64;
            IoSlice::advance_slices(&mut slices, written);
        }
        Ok(())
    }

    /// Reserves space for the first `length` bytes and makes the file at least that long; new bytes
    /// read as zeros. Saves later writes the cost of growing the file. The length is not durable
    /// before [`Self::sync_all`].
    pub fn allocate(&self, length: u64) -> Result<(), DiskError> {
        self.tap.before("allocate", &self.path, || Op::Allocate { length })?;
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, length) {
            // A file system that cannot reserve can still make the file long enough; only speed is
            // lost.
            Err(rustix::io::Errno::OPNOTSUPP) if self.len()? < length => {
                self.file.set_len(length).at("allocate", &self.path)
            }
            Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            result => result.at("allocate", &self.path),
        }
    }

    /// Cuts or extends the file to `length` bytes. Not durable before [`Self::sync_all`].
    pub fn set_len(&self, length: u64) -> Result<(), DiskError> {
        self.tap.before("set length", &self.path, || Op::SetLength { length })?;
        self.file.set_len(length).at("set the length of", &self.path)
    }

    /// Makes everything written so far durable (fdatasync). After an error nothing is known about
    /// what the disk holds: the caller must not try again.
    pub fn sync_data(&self) -> Result<(), DiskError> {
        self.tap.before_sync("sync", &self.path, || Op::Sync)?;
        if self.syncs { self.file.sync_data().at("sync", &self.path) } else { Ok(()) }
    }

    /// As [`Self::sync_data`], with length and all metadata (fsync).
    pub fn sync_all(&self) -> Result<(), DiskError> {
        self.tap.before_sync("sync", &self.path, || Op::Sync)?;
        if self.syncs { self.file.sync_all().at("sync", &self.path) } else { Ok(()) }
    }
}
