//! New bytes for damaged ones: written beside them, made durable, and put in their place at once.
//!
//! A crash at any point leaves the damaged segment, which the next start mends again, or the whole
//! one. The damaged file keeps a second name in `quarantine/`.

use std::path::PathBuf;

use indelible_core::Entry;

use crate::disk::{Dir, DiskError, File};
use crate::storage::frame::{FRAME_ALIGNMENT, FrameHeader, Location};
use crate::storage::recovery::QUARANTINE_DIR;
use crate::storage::segment::{self, SegmentHeader, Summary};

/// What ends the name of a segment that is being mended. A start removes what a crash has left.
const SUFFIX: &str = ".mend";
/// Bytes that are written together.
const WRITE_BYTES: usize = 1024 * 1024;

/// A segment that is being written anew.
#[derive(Debug)]
pub(in crate::storage) struct NewSegment {
    first: u64,
    file: File,
    buffer: Vec<u8>,
    /// Where the buffer goes.
    offset: u64,
}

impl NewSegment {
    /// Begins one. Its name is not durable and need not be.
    pub(in crate::storage) fn create(
        segments: &Dir,
        header: &SegmentHeader,
    ) -> Result<NewSegment, DiskError> {
        let file = segments.create_file(&temporary_name(header.first), 0o600)?;
        let buffer = header.encode().to_vec();
        Ok(NewSegment { first: header.first, file, buffer, offset: 0 })
    }

    /// Adds a frame.
    pub(in crate::storage) fn put(
        &mut self,
        entry: &Entry,
        header: &FrameHeader,
        location: Location,
    ) -> Result<(), DiskError> {
        assert_eq!(location.segment, self.first, "a frame of another segment");
        assert_eq!(location.offset, self.offset + self.buffer.len() as u64, "frames have no gaps");
        push_frame(&mut self.buffer, entry, header, location);
        if self.buffer.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        self.file.write_all_at(&self.buffer, self.offset)?;
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Adds the footer of a sealed segment, or the reserved space of one that is not, and makes all
    /// of it durable.
    pub(in crate::storage) fn finish(
        mut self,
        summary: &Summary,
        sealed: bool,
        segment_bytes: u64,
    ) -> Result<(), DiskError> {
        if sealed {
            self.buffer.extend_from_slice(&summary.encode_footer());
        }
        self.flush()?;
        if !sealed {
            self.file.allocate(segment::reserved(summary.frames_end, segment_bytes))?;
        }
        // Crash before or after: nothing refers to this file, a start removes it.
        self.file.sync_all()
    }
}

/// Appends the bytes of a frame.
pub(in crate::storage) fn push_frame(
    buffer: &mut Vec<u8>,
    entry: &Entry,
    header: &FrameHeader,
    location: Location,
) {
    let end = buffer.len() + header.frame_size() as usize;
    buffer.extend_from_slice(&header.encode(location));
    buffer.extend_from_slice(&entry.head);
    buffer.extend_from_slice(&entry.body);
    assert!(end - buffer.len() < FRAME_ALIGNMENT as usize, "head and body are those of the header");
    buffer.resize(end, 0);
}

/// Puts a finished segment in its place; returns where the file is that had it, if there was one.
pub(in crate::storage) fn replace(
    data: &Dir,
    segments: &Dir,
    first: u64,
) -> Result<Option<PathBuf>, DiskError> {
    let name = segment::file_name(first);
    let kept = match segments.exists(&name)? {
        true => Some(keep(data, segments, first)?),
        false => None,
    };
    // Crash before this is durable: the damaged file, which is mended again, and kept twice.
    segments.rename(&temporary_name(first), &name)?;
    segments.sync()?;
    // Crash after: the whole one.
    Ok(kept)
}

/// Removes a segment file that does not belong to the log; returns where it is now.
pub(in crate::storage) fn remove(
    data: &Dir,
    segments: &Dir,
    first: u64,
) -> Result<PathBuf, DiskError> {
    let kept = keep(data, segments, first)?;
    // Crash before this is durable: it is found again, and kept twice.
    segments.remove(&segment::file_name(first))?;
    segments.sync()?;
    Ok(kept)
}

/// Gives a segment file a second name in `quarantine/`, durably.
fn keep(data: &Dir, segments: &Dir, first: u64) -> Result<PathBuf, DiskError> {
    let quarantine = data.subdir(QUARANTINE_DIR)?;
    let name = free_name(&quarantine, &format!("{first:020}"))?;
    segments.keep_in(&segment::file_name(first), &quarantine, &name)?;
    Ok(quarantine.path().join(name))
}

/// Keeps bytes that are about to be written over, durably.
pub(in crate::storage) fn keep_bytes(
    data: &Dir,
    location: Location,
    bytes: &[u8],
) -> Result<PathBuf, DiskError> {
    let quarantine = data.subdir(QUARANTINE_DIR)?;
    let name = free_name(&quarantine, &format!("{:020}-{}", location.segment, location.offset))?;
    quarantine.write_new(&name, 0o600, bytes)?;
    Ok(quarantine.path().join(name))
}

fn free_name(quarantine: &Dir, stem: &str) -> Result<String, DiskError> {
    let mut number = quarantine.list()?.len();
    loop {
        let name = format!("{stem}-{number}.damaged");
        if !quarantine.exists(&name)? {
            return Ok(name);
        }
        number += 1;
    }
}

/// Forgets a segment that was begun.
pub(in crate::storage) fn discard(segments: &Dir, first: u64) -> Result<(), DiskError> {
    segments.remove(&temporary_name(first))
}

/// Removes what a mending that was cut short has left.
pub(in crate::storage) fn clean(segments: &Dir) -> Result<(), DiskError> {
    for name in segments.list()?.iter().filter(|name| is_temporary(name)) {
        // Not made durable: it is removed again if it comes back.
        segments.remove(name)?;
    }
    Ok(())
}

/// Whether this is the name of a segment that is being mended.
pub(in crate::storage) fn is_temporary(name: &str) -> bool {
    name.ends_with(SUFFIX)
}

fn temporary_name(first: u64) -> String {
    format!("{first:020}{SUFFIX}")
}
