//! What is left of a segment: its frames where they are whole, and what follows damage.

use bytes::Bytes;
use indelible_core::{Chain, Entry, chain};

use super::{Common, check_entry};
use crate::disk::{DiskError, File};
use crate::storage::frame::{
    self, FRAME_ALIGNMENT, FRAME_HEADER_SIZE, FrameFault, FrameHeader, Location,
};
use crate::storage::recovery::{self, OpenError, Reader};
use crate::storage::segment::{SEGMENT_HEADER_SIZE, SegmentHeader, Summary};

/// Bytes of a search for a frame that are looked at together.
const SEARCH_BYTES: usize = 64 * 1024;

/// One segment file, which may be damaged, of another trail, or missing.
#[derive(Debug)]
pub(in crate::storage) struct Own<'a> {
    first: u64,
    /// None if there is no file, or one of another trail.
    reader: Option<Reader<'a>>,
    /// None if it is damaged.
    header: Option<SegmentHeader>,
}

/// What is where an entry's frame belongs.
#[derive(Debug)]
pub(in crate::storage) enum Found {
    /// The entry, sound, and following from the one before, with its frame's header.
    Next(Entry, FrameHeader),
    /// An entry of this index, sound in itself, that does not follow.
    Other,
    /// No sound frame of this index.
    Nothing(FrameFault),
}

impl<'a> Own<'a> {
    /// The segment that starts with entry `first`, if it has a file.
    pub(in crate::storage) fn new(
        first: u64,
        file: Option<&'a File>,
        common: &Common,
    ) -> Result<Own<'a>, DiskError> {
        let Some(file) = file else { return Ok(Own { first, reader: None, header: None }) };
        let mut reader = Reader::new(file)?.lenient();
        let header = SegmentHeader::decode(reader.bytes(0, SEGMENT_HEADER_SIZE)?);
        let ours = |header: &SegmentHeader| {
            header.trail_id == common.trail_id && header.segment_bytes == common.segment_bytes
        };
        if header.as_ref().is_some_and(|header| !ours(header)) {
            return Ok(Own { first, reader: None, header: None });
        }
        let header = header.filter(|header| header.first == first);
        Ok(Own { first, reader: Some(reader), header })
    }

    /// A segment file whose header the caller has found to be right. What cannot be read is an
    /// error.
    pub(in crate::storage) fn with(reader: Reader<'a>, first: u64) -> Own<'a> {
        Own { first, reader: Some(reader), header: None }
    }

    /// Bytes of the file, as far as it has them.
    pub(in crate::storage) fn bytes(
        &mut self,
        offset: u64,
        size: usize,
    ) -> Result<Vec<u8>, DiskError> {
        self.reader.as_mut().map_or(Ok(Vec::new()), |r| Ok(r.bytes(offset, size)?.to_vec()))
    }

    /// The segment's header; none if it is damaged.
    pub(in crate::storage) fn header(&self) -> Option<&SegmentHeader> {
        self.header.as_ref()
    }

    /// What is at an offset, where the frame of entry `index` belongs and the chain has come to
    /// `before`.
    pub(in crate::storage) fn look(
        &mut self,
        offset: u64,
        index: u64,
        before: &Chain,
    ) -> Result<Found, DiskError> {
        let Some(reader) = &mut self.reader else { return Ok(Found::Nothing(FrameFault::Missing)) };
        let location = Location { segment: self.first, offset };
        let frame = match reader.frame(location)? {
            Ok(frame) => frame,
            Err(fault) => return Ok(Found::Nothing(fault)),
        };
        let FrameHeader { id, kind, chain, .. } = frame.header;
        if id.index != index {
            let fault = FrameFault::Index { expected: index, actual: id.index };
            return Ok(Found::Nothing(fault));
        }
        if chain::link(before, id, kind, frame.head) != chain {
            return Ok(Found::Other);
        }
        let (head, body) = (Bytes::copy_from_slice(frame.head), Bytes::copy_from_slice(frame.body));
        let entry = Entry { id, kind, head, body };
        // A body that somebody changed with its checksum.
        Ok(match check_entry(&entry) {
            Ok(()) => Found::Next(entry, frame.header),
            Err(_) => Found::Nothing(FrameFault::Commitment),
        })
    }

    /// The frame at an offset, if it is whole in itself.
    pub(super) fn frame(&mut self, offset: u64) -> Result<Option<(FrameHeader, Entry)>, DiskError> {
        let Some(reader) = &mut self.reader else { return Ok(None) };
        let Ok(frame) = reader.frame(Location { segment: self.first, offset })? else {
            return Ok(None);
        };
        let FrameHeader { id, kind, .. } = frame.header;
        let (head, body) = (Bytes::copy_from_slice(frame.head), Bytes::copy_from_slice(frame.body));
        Ok(Some((frame.header, Entry { id, kind, head, body })))
    }

    /// The footer's summary, if the file ends with a sound one.
    pub(super) fn footer(&mut self) -> Result<Option<Summary>, DiskError> {
        match (&mut self.reader, &self.header) {
            (Some(reader), Some(header)) => recovery::read_footer(reader, header),
            _ => Ok(None),
        }
    }

    /// Index and offset of the first whole frame behind an offset, where the frame of entry `index`
    /// belongs and is not.
    pub(in crate::storage) fn following(
        &mut self,
        offset: u64,
        index: u64,
    ) -> Result<Option<(u64, u64)>, DiskError> {
        let Some(reader) = &mut self.reader else { return Ok(None) };
        let mut at = offset;
        while at < reader.length {
            let location = Location { segment: self.first, offset: at };
            let bytes = reader.bytes(at, FRAME_HEADER_SIZE)?;
            if frame::may_begin(bytes)
                && let Ok(header) = FrameHeader::decode(bytes, location)
                && may_be(&header, at - offset, index)
            {
                if at > offset && reader.frame(location)?.is_ok() {
                    return Ok(Some((header.id.index, at)));
                }
                at += header.frame_size();
            } else {
                at = search(reader, at + FRAME_ALIGNMENT)?;
            }
        }
        Ok(None)
    }

    /// What a start makes of the end of this segment, the last one, whose whole frames are those
    /// of `summary`: true if the log ends here, false if there may have been more.
    pub(in crate::storage) fn ends(
        &mut self,
        summary: &Summary,
        fault: FrameFault,
    ) -> Result<bool, DiskError> {
        let Some(reader) = &mut self.reader else { return Ok(true) };
        match recovery::judge_tail(reader, summary, fault) {
            Ok(_) => Ok(true),
            Err(OpenError::Disk(error)) => Err(error),
            Err(_) => Ok(false),
        }
    }

    /// Whether the file is what a log leaves behind that has these frames: only used to spare it
    /// from being replaced by its like.
    pub(in crate::storage) fn is_whole(
        &mut self,
        summary: &Summary,
        sealed: bool,
    ) -> Result<bool, DiskError> {
        let header = self.header.is_some_and(|h| h.chain_before == summary.chain_before);
        let Some(reader) = self.reader.as_mut().filter(|_| header) else { return Ok(false) };
        if !sealed {
            return Ok(reader.nonzero_end(summary.frames_end)? <= summary.frames_end);
        }
        Ok(recovery::judge_footer(reader, summary)? == Some(true))
    }
}

/// Whether a frame so many bytes behind where entry `index` belongs can be that of its index.
fn may_be(header: &FrameHeader, distance: u64, index: u64) -> bool {
    let frames = distance / FRAME_HEADER_SIZE as u64;
    header.id.index.checked_sub(index).is_some_and(|ahead| {
        // Without distance it is the entry itself, its payload damaged.
        if distance == 0 { ahead == 0 } else { (1..=frames).contains(&ahead) }
    })
}

/// The next place, from `at` on, with what a frame begins with; the file's end if there is none.
fn search(reader: &mut Reader<'_>, mut at: u64) -> Result<u64, DiskError> {
    while at < reader.length {
        let bytes = reader.bytes(at, SEARCH_BYTES)?;
        let step = FRAME_ALIGNMENT as usize;
        let begins = |place: &[u8]| place.len() >= 4 && frame::may_begin(&place[..4]);
        match bytes.chunks(step).position(begins) {
            Some(position) => return Ok(at + (position * step) as u64),
            None => at += bytes.len() as u64,
        }
    }
    Ok(reader.length)
}
