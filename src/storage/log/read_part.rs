//! Reading less than an entry: its head, or one record of a batch.
//!
//! An entry may have a mebibyte, and whoever wants one record of it should not pay for reading and
//! checking the other ones. The checksums of head and body cover all of them, so a record that is
//! read alone is not checked against them. It need not be: a leaf in the tree binds it.

use std::ops::Range;

use bytes::Bytes;
use indelible_core::batch::RecordPlace;
use indelible_core::leaf::LEAF_SIZE;
use indelible_core::{Entry, EntryId, EntryKind, Salt};

use super::LogError;
use super::read::{corrupt, read_bytes, unreadable};
use super::state::Shared;
use crate::disk::File;
use crate::storage::frame::{FRAME_HEADER_SIZE, FrameFault, FrameHeader, Location};

/// Bytes that are read before the frame's sizes are known: enough for all of a small entry.
const FIRST_READ_BYTES: usize = 4 * 1024;

/// A record as its frame holds it: see [`super::Log::read_record_at`] for what is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawRecord {
    /// The entry that has it.
    pub id: EntryId,
    /// Its leaf.
    pub leaf: [u8; LEAF_SIZE],
    /// What its commitment was made with.
    pub salt: Salt,
    /// The producer's bytes.
    pub event: Bytes,
}

/// An entry without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryHead {
    /// Which entry.
    pub id: EntryId,
    /// What it is.
    pub kind: EntryKind,
    /// What the chain covers.
    pub head: Bytes,
}

impl Shared {
    /// See [`super::Log::read_record_at`].
    pub(super) fn read_record_at(
        &self,
        location: Location,
        position: usize,
    ) -> Result<RawRecord, LogError> {
        self.at(
            location,
            |entry, _| {
                in_memory(entry, position)
                    .ok_or(LogError::Missing { index: entry.id.index, next: entry.id.index })
            },
            |file| read_record(file, location, position),
        )
    }

    /// See [`super::Log::read_head_at`].
    pub(super) fn read_head_at(&self, location: Location) -> Result<EntryHead, LogError> {
        self.at(
            location,
            |entry, _| Ok(EntryHead { id: entry.id, kind: entry.kind, head: entry.head.clone() }),
            |file| read_head(file, location),
        )
    }
}

/// A record of an entry in memory; none if the entry is no batch or has no such record.
fn in_memory(entry: &Entry, position: usize) -> Option<RawRecord> {
    if entry.kind != EntryKind::Batch {
        return None;
    }
    let RecordPlace { leaf, salt, event } =
        RecordPlace::find(&entry.head, entry.head.len(), position).ok()?;
    let salt = Salt::from_slice(entry.body.get(salt)?)?;
    let event = (event.end <= entry.body.len()).then(|| entry.body.slice(event))?;
    Some(RawRecord { id: entry.id, leaf, salt, event })
}

fn read_record(file: &File, location: Location, position: usize) -> Result<RawRecord, LogError> {
    let fail = |fault| corrupt(file, location.segment, location, fault);
    let lost = |error| unreadable(error, file, location.segment, location);
    let (header, start) = read_start(file, location, RecordPlace::head_bytes(position))?;
    if header.kind != EntryKind::Batch {
        return Err(fail(FrameFault::Unknown));
    }
    let head_size = header.head_size as usize;
    let head = &start[FRAME_HEADER_SIZE..start.len().min(header.body_offset())];
    let place = RecordPlace::find(head, head_size, position).map_err(|_| fail(FrameFault::Head))?;
    if place.event.end > header.body_size as usize {
        return Err(fail(FrameFault::Head));
    }
    let part = |range: Range<usize>| {
        let range = header.body_offset() + range.start..header.body_offset() + range.end;
        if range.end <= start.len() {
            return Ok(start.slice(range));
        }
        let at = location.offset + range.start as u64;
        let bytes = read_bytes(file, at, range.len()).map_err(lost)?;
        if bytes.len() == range.len() { Ok(bytes) } else { Err(fail(FrameFault::Short)) }
    };
    let salt = Salt::from_slice(&part(place.salt)?).expect("the range is that of a salt");
    let event = part(place.event)?;
    Ok(RawRecord { id: header.id, leaf: place.leaf, salt, event })
}

fn read_head(file: &File, location: Location) -> Result<EntryHead, LogError> {
    let fail = |fault| corrupt(file, location.segment, location, fault);
    let (header, start) = read_start(file, location, usize::MAX)?;
    let head = start.slice(FRAME_HEADER_SIZE..header.body_offset());
    header.check_head(&head, location).map_err(fail)?;
    Ok(EntryHead { id: header.id, kind: header.kind, head })
}

/// The header of the frame at this place, and the frame's bytes up to `head_bytes` of its head, or
/// more.
fn read_start(
    file: &File,
    location: Location,
    head_bytes: usize,
) -> Result<(FrameHeader, Bytes), LogError> {
    let fail = |fault| corrupt(file, location.segment, location, fault);
    let lost = |error| unreadable(error, file, location.segment, location);
    let mut start = read_bytes(file, location.offset, FIRST_READ_BYTES).map_err(lost)?;
    let header = FrameHeader::decode(&start, location).map_err(fail)?;
    let wanted = FRAME_HEADER_SIZE + head_bytes.min(header.head_size as usize);
    if start.len() < wanted {
        start = read_bytes(file, location.offset, wanted).map_err(lost)?;
    }
    if start.len() < wanted { Err(fail(FrameFault::Short)) } else { Ok((header, start)) }
}
