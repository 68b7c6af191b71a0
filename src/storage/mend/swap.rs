//! New bytes for damaged ones: written beside them, made durable, and put in their place at once.
//!
//! A crash at any point leaves the damaged segment, which the next start mends again, or the whole
//! one. The damaged file keeps a second name in `quarantine/`, as long as there is room: the oldest
//! evidence is worth most, of the rest a digest is noted.

use std::path::PathBuf;

use indelible_core::limits::{QUARANTINE_BYTES_MAX, QUARANTINE_FILES_MAX};
use indelible_core::{Entry, Hash};
use sha3::{Digest, Sha3_256};

use crate::disk::{Dir, DiskError, File};
use crate::storage::frame::{FRAME_ALIGNMENT, FrameHeader, Location};
use crate::storage::recovery::QUARANTINE_DIR;
use crate::storage::segment::{self, SegmentHeader, Summary};

/// What ends the name of a segment that is being mended. A start removes what a crash has left.
const SUFFIX: &str = ".mend";
/// Bytes that are written together.
const WRITE_BYTES: usize = 1024 * 1024;

/// What became of damaged bytes.
#[derive(Debug)]
pub(in crate::storage) enum Kept {
    /// They are there.
    At(PathBuf),
    /// `quarantine/` is full: what they were. For people.
    Noted(String),
}

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

/// Puts a finished segment in its place; returns what became of the file that had it, if there was
/// one.
pub(in crate::storage) fn replace(
    data: &Dir,
    segments: &Dir,
    first: u64,
) -> Result<Option<Kept>, DiskError> {
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

/// Removes a segment file that does not belong to the log; returns what became of it.
pub(in crate::storage) fn remove(
    data: &Dir,
    segments: &Dir,
    first: u64,
) -> Result<Kept, DiskError> {
    let kept = keep(data, segments, first)?;
    // Crash before this is durable: it is found again, and kept twice.
    segments.remove(&segment::file_name(first))?;
    segments.sync()?;
    Ok(kept)
}

/// Gives a segment file a second name in `quarantine/`, durably, if there is room.
fn keep(data: &Dir, segments: &Dir, first: u64) -> Result<Kept, DiskError> {
    let quarantine = data.subdir(QUARANTINE_DIR)?;
    let segment = segment::file_name(first);
    // A file that cannot be read is kept all the same.
    let file = segments.open_file_read_only(&segment).ok();
    let bytes = file.as_ref().and_then(|file| file.len().ok()).unwrap_or(0);
    if !has_room(&quarantine, bytes)? {
        return Ok(Kept::Noted(format!("{segment}, {bytes} bytes, {}", digest_of(file.as_ref()))));
    }
    let name = free_name(&quarantine, &format!("{first:020}"))?;
    segments.keep_in(&segment, &quarantine, &name)?;
    Ok(Kept::At(quarantine.path().join(name)))
}

/// Keeps bytes that are about to be written over, durably, if there is room.
pub(in crate::storage) fn keep_bytes(
    data: &Dir,
    location: Location,
    bytes: &[u8],
) -> Result<Kept, DiskError> {
    let quarantine = data.subdir(QUARANTINE_DIR)?;
    let Location { segment, offset } = location;
    if !has_room(&quarantine, bytes.len() as u64)? {
        let digest = Hash(Sha3_256::digest(bytes).into());
        let (segment, bytes) = (segment::file_name(segment), bytes.len());
        return Ok(Kept::Noted(format!("{segment} at {offset}, {bytes} bytes, SHA3-256 {digest}")));
    }
    let name = free_name(&quarantine, &format!("{segment:020}-{offset}"))?;
    quarantine.write_new(&name, 0o600, bytes)?;
    Ok(Kept::At(quarantine.path().join(name)))
}

/// Whether so many bytes more may be kept.
fn has_room(quarantine: &Dir, bytes: u64) -> Result<bool, DiskError> {
    let names = quarantine.list()?;
    // What cannot be read any more is no reason not to mend.
    let length = |name: &String| quarantine.open_file_read_only(name)?.len();
    let kept: u64 = names.iter().filter_map(|name| length(name).ok()).sum();
    Ok(names.len() < QUARANTINE_FILES_MAX && kept + bytes <= QUARANTINE_BYTES_MAX)
}

/// The digest of a damaged file, for people; a disk may refuse to read it.
fn digest_of(file: Option<&File>) -> String {
    let Some(file) = file else { return "unreadable".into() };
    let (mut hasher, mut offset) = (Sha3_256::new(), 0);
    let mut buffer = vec![0; WRITE_BYTES];
    loop {
        match file.read_at(&mut buffer, offset) {
            Ok(0) => return format!("SHA3-256 {}", Hash(hasher.finalize().into())),
            Ok(read) => {
                hasher.update(&buffer[..read]);
                offset += read as u64;
            }
            Err(error) => return error.to_string(),
        }
    }
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
