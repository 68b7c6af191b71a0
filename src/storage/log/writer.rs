//! The segment that is being written, and the files around it.

use std::io::IoSlice;
use std::ops::Range;

use bytes::Bytes;
use indelible_core::{Chain, TrailId};

use super::io::Frame;
use crate::disk::{Dir, DiskError, File};
use crate::storage::frame::{FRAME_ALIGNMENT, Location};
use crate::storage::segment::{self, FRAMES_START, SegmentHeader, Summary};

/// Name of the file that is prepared to become the next segment. It holds no entries, so a start
/// removes it.
pub(in crate::storage) const NEXT_FILE: &str = "next";

/// Parts of a frame up to this size are copied together, larger ones are written from where they
/// are.
const COPY_BYTES_MAX: usize = 16 * 1024;
/// The buffer for copies is given back if a group made it larger than this, in bytes.
const BUFFER_BYTES_MAX: usize = 4 * 1024 * 1024;
static PADDING: [u8; FRAME_ALIGNMENT as usize] = [0; FRAME_ALIGNMENT as usize];

/// What a segment's file is and where it ends.
#[derive(Debug)]
struct Active {
    file: File,
    /// Index of its first entry.
    first: u64,
    /// The file's length in bytes.
    allocated: u64,
}

/// Writes frames where the chain thread has placed them.
#[derive(Debug)]
pub(super) struct Writer {
    segments: Dir,
    trail_id: TrailId,
    segment_bytes: u64,
    /// None before the first entry, and when the last segment is closed.
    active: Option<Active>,
    /// The file named [`NEXT_FILE`].
    prepared: Option<File>,
    /// Index after the last staged frame.
    next: u64,
    /// Where that frame ends.
    end: Location,
    /// Whether there is something that is staged or written and not durable.
    dirty: bool,
    staged: Staged,
}

/// Frames that follow each other, not written yet.
#[derive(Debug, Default)]
struct Staged {
    /// Offset of the first byte in the file.
    offset: u64,
    /// Total, in bytes.
    bytes: u64,
    buffer: Vec<u8>,
    pieces: Vec<Piece>,
}

#[derive(Debug)]
enum Piece {
    /// Of the buffer.
    Copied(Range<usize>),
    Shared(Bytes),
}

impl Writer {
    /// A writer that goes on after `last`, the last segment of an opened log.
    pub(super) fn resume(
        segments: Dir,
        trail_id: TrailId,
        segment_bytes: u64,
        last: Option<&Summary>,
    ) -> Result<Writer, DiskError> {
        let mut writer = Writer {
            segments,
            trail_id,
            segment_bytes,
            active: None,
            prepared: None,
            next: last.map_or(0, |last| last.next),
            end: Location { segment: 0, offset: 0 },
            dirty: false,
            staged: Staged::default(),
        };
        if let Some(last) = last {
            writer.end = Location { segment: last.first, offset: last.frames_end };
            writer.reopen()?;
        }
        Ok(writer)
    }

    /// Opens the segment of `end` for writing, unless it is closed, and sees to it that its space
    /// is reserved.
    fn reopen(&mut self) -> Result<(), DiskError> {
        if segment::is_closed(self.end.offset, self.segment_bytes) {
            self.active = None;
            return Ok(());
        }
        let file = self.segments.open_file(&segment::file_name(self.end.segment))?;
        let mut allocated = file.len()?;
        if allocated < segment::reserved(0, self.segment_bytes) {
            allocated = segment::reserved(0, self.segment_bytes);
            file.allocate(allocated)?;
            // Crash before: the file is shorter, and is extended at the next start.
            file.sync_all()?;
        }
        self.active = Some(Active { file, first: self.end.segment, allocated });
        Ok(())
    }

    /// How far the log is durable: one past the last entry, and where its frame ends.
    pub(super) fn durable(&self) -> (u64, Location) {
        assert!(!self.dirty, "asked between a write and its sync");
        (self.next, self.end)
    }

    /// Takes a frame. What came before it in another segment is durable when this returns.
    pub(super) fn stage(&mut self, frame: Frame) -> Result<(), DiskError> {
        if let Some(chain_before) = frame.opens {
            self.finish()?;
            self.open_segment(frame.index, chain_before)?;
        }
        let active = self.active.as_ref().expect("a frame that opens no segment has one open");
        assert_eq!(active.first, frame.location.segment, "frames come in order");
        assert_eq!(self.end, frame.location, "frames have no gaps");
        if self.staged.bytes == 0 {
            self.staged.offset = frame.location.offset;
        }
        let size = self.staged.push(&frame);
        self.end.offset += size;
        self.next = frame.index + 1;
        self.dirty = true;
        Ok(())
    }

    /// Writes what is staged and makes it durable.
    pub(super) fn finish(&mut self) -> Result<(), DiskError> {
        if !self.dirty {
            return Ok(());
        }
        let active = self.active.as_mut().expect("staged frames have a segment");
        let end = self.staged.offset + self.staged.bytes;
        assert_eq!(end, self.end.offset, "all that is staged belongs to the active segment");
        if end >= active.allocated {
            // Only the entry that closes a segment can get here.
            active.allocated = segment::reserved(end, self.segment_bytes);
            active.file.allocate(active.allocated)?;
        }
        self.staged.write(&active.file)?;
        // Crash before: any part of the frames may be on the disk, and nobody has been told.
        // Recovery keeps the whole ones and cuts the torn one. After: the frames are there, and the
        // callbacks may say so.
        active.file.sync_data()?;
        self.dirty = false;
        if segment::is_closed(end, self.segment_bytes) {
            self.active = None;
        }
        Ok(())
    }

    /// Makes the file of a new segment.
    fn open_segment(&mut self, first: u64, chain_before: Chain) -> Result<(), DiskError> {
        assert!(!self.dirty && self.active.is_none(), "the segment before is closed and durable");
        let file = match self.prepared.take() {
            Some(file) => file,
            None => self.make_next()?,
        };
        let header = SegmentHeader {
            trail_id: self.trail_id,
            first,
            segment_bytes: self.segment_bytes,
            chain_before,
        };
        file.write_all_at(&header.encode(), 0)?;
        // Crash before the rename is durable: there is no such segment, and all before it is whole.
        // After: there is one, with a valid header and no entries.
        file.sync_all()?;
        let name = segment::file_name(first);
        self.segments.rename(NEXT_FILE, &name)?;
        self.segments.sync()?;
        // Opened anew, so that errors name it right.
        let file = self.segments.open_file(&name)?;
        self.active =
            Some(Active { file, first, allocated: segment::reserved(0, self.segment_bytes) });
        self.end = Location { segment: first, offset: FRAMES_START };
        Ok(())
    }

    fn make_next(&self) -> Result<File, DiskError> {
        let file = self.segments.create_file(NEXT_FILE, 0o600)?;
        file.allocate(segment::reserved(0, self.segment_bytes))?;
        Ok(file)
    }

    /// Reserves space for the next segment once the active one is half full; true if that was to be
    /// done.
    pub(super) fn prepare_next(&mut self) -> Result<bool, DiskError> {
        if self.prepared.is_some() || self.end.offset < self.segment_bytes / 2 {
            return Ok(false);
        }
        let file = self.make_next()?;
        // Nothing depends on this file, and its name is never durable: a start removes it.
        file.sync_all()?;
        self.prepared = Some(file);
        Ok(true)
    }

    /// Removes all frames from entry `next` on; the frame before it ends at `end`.
    pub(super) fn truncate(&mut self, next: u64, end: Location) -> Result<(), DiskError> {
        assert!(!self.dirty, "what came before the truncation is durable");
        assert!(next <= self.next, "there is something to keep");
        if next == self.next {
            return Ok(());
        }
        self.active = None;
        let names = self.segments.list()?;
        let firsts = names.iter().rev().filter_map(|name| segment::parse_file_name(name));
        for first in firsts.take_while(|first| *first >= next) {
            self.segments.remove(&segment::file_name(first))?;
            // Crash: the log ends with the segment before this one. Last first, so that it never
            // has a hole.
            self.segments.sync()?;
        }
        self.next = next;
        self.end = end;
        if next == 0 || segment::is_closed(end.offset, self.segment_bytes) {
            return Ok(());
        }
        let file = self.segments.open_file(&segment::file_name(end.segment))?;
        file.set_len(end.offset)?;
        // Crash before: the removed entries are there, whole, and nobody has been told that they
        // are gone. After: they are not, and new frames may be written in their place.
        file.sync_all()?;
        self.reopen()
    }

    /// Seals a closed segment whose entries are all durable and applied: adds the footer and gives
    /// back the reserved space.
    pub(super) fn seal(&mut self, summary: &Summary) -> Result<(), DiskError> {
        assert!(segment::is_closed(summary.frames_end, self.segment_bytes), "only closed ones");
        assert!(summary.next <= self.next, "only what is written");
        let file = self.segments.open_file(&segment::file_name(summary.first))?;
        let footer = summary.encode_footer();
        let end = summary.frames_end + footer.len() as u64;
        if file.len()? <= end {
            // The last entry took the reserved space. Only the cut below may give the file its
            // final length: that says that the footer is whole.
            file.allocate(end.next_multiple_of(4096) + 4)?;
        }
        file.write_all_at(&footer, summary.frames_end)?;
        // Crash before: a part of the footer follows the frames. It says nothing that they don't,
        // and is written again.
        file.sync_data()?;
        file.set_len(end)?;
        // Crash before: the whole footer, and zeros after it. After: the segment is sealed and
        // never changes.
        file.sync_all()
    }
}

impl Staged {
    /// Takes the bytes of a frame; returns how many.
    fn push(&mut self, frame: &Frame) -> u64 {
        let before = self.bytes;
        self.copy(&frame.header);
        self.part(&frame.head);
        self.part(&frame.body);
        let padding = self.bytes.next_multiple_of(FRAME_ALIGNMENT) - self.bytes;
        self.copy(&PADDING[..padding as usize]);
        self.bytes - before
    }

    fn part(&mut self, part: &Bytes) {
        if part.len() <= COPY_BYTES_MAX {
            self.copy(part);
        } else {
            self.pieces.push(Piece::Shared(part.clone()));
            self.bytes += part.len() as u64;
        }
    }

    fn copy(&mut self, part: &[u8]) {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(part);
        self.bytes += part.len() as u64;
        match self.pieces.last_mut() {
            Some(Piece::Copied(range)) if range.end == start => range.end = self.buffer.len(),
            _ => self.pieces.push(Piece::Copied(start..self.buffer.len())),
        }
    }

    /// Writes everything in as few calls as possible, and forgets it.
    fn write(&mut self, file: &File) -> Result<(), DiskError> {
        let mut slices: Vec<IoSlice<'_>> = self
            .pieces
            .iter()
            .map(|piece| match piece {
                Piece::Copied(range) => IoSlice::new(&self.buffer[range.clone()]),
                Piece::Shared(bytes) => IoSlice::new(bytes),
            })
            .collect();
        file.write_gathered_at(&mut slices, self.offset)?;
        self.pieces.clear();
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_BYTES_MAX);
        self.bytes = 0;
        Ok(())
    }
}
