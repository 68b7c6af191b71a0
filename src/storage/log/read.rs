//! Reading: from memory if possible, else from the segments, never under the lock.

use std::io::ErrorKind;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use indelible_core::{Chain, Entry};

use super::LogError;
use super::files::Key;
use super::state::{Kept, Shared};
use crate::disk::{DiskError, File};
use crate::storage::frame::{self, FRAME_HEADER_SIZE, FrameFault, FrameHeader, Location};
use crate::storage::recovery::{self, OpenError, Reader, Stop};
use crate::storage::segment::{FRAMES_START, Sample, SegmentHeader, Summary};
use crate::storage::synced::Synced;

/// Bytes that a search for a frame reads at once.
const SEARCH_BYTES: usize = 64 * 1024;
/// Bytes that a read of one entry asks for before its size is known.
const ENTRY_READ_BYTES: usize = 16 * 1024;
/// Bytes that a read of many entries asks for at once, at most.
const RANGE_READ_BYTES_MAX: usize = 1024 * 1024;

/// Where to look for an entry on the disk.
struct Search {
    key: Key,
    /// A frame that is not after the entry's, and its entry.
    from: (u64, u64),
    /// Offset at which the segment's frames end.
    frames_end: u64,
    /// One past the segment's last entry.
    next: u64,
}

impl Shared {
    /// Entries of a range; see [`super::Log::read`].
    pub(super) fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<Entry>, LogError> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        let mut index = range.start;
        while index < range.end {
            let state = self.lock();
            if index >= state.next {
                let next = state.next;
                // The range ends past the log, or it was cut meanwhile: what is there was there.
                return if entries.is_empty() { Err(missing(index, next)) } else { Ok(entries) };
            }
            let range = index..range.end.min(state.next);
            let in_memory = state.window_first();
            if index >= in_memory {
                let rest = state.read_cached(range, bytes_max - bytes).unwrap_or_default();
                let fits = |entry: &Entry| bytes + entry.payload_bytes() <= bytes_max;
                if entries.is_empty() || rest.first().is_some_and(fits) {
                    entries.extend(rest);
                }
                return Ok(entries);
            }
            let epoch = state.epoch;
            drop(state);
            let read = self.read_disk(range.start..range.end.min(in_memory), bytes_max - bytes);
            if self.lock().epoch != epoch {
                // The log was cut while the disk was read: what was read, or not found, may be what
                // replaced it.
                continue;
            }
            for entry in read? {
                bytes += entry.payload_bytes();
                if bytes > bytes_max && !entries.is_empty() {
                    return Ok(entries);
                }
                index = entry.id.index + 1;
                entries.push(entry);
            }
            if bytes >= bytes_max {
                break;
            }
        }
        Ok(entries)
    }

    /// Entries from the disk: at least one, all of one segment.
    fn read_disk(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<Entry>, LogError> {
        let search = self.search(range.start)?;
        let file = self.open(search.key, range.start)?;
        let mut location = self.find(&search, &file, range.start)?.1;
        let last = range.end.min(search.next);
        let mut entries = Vec::new();
        let mut bytes_left = bytes_max;
        let mut index = range.start;
        while index < last && (bytes_left > 0 || entries.is_empty()) {
            let room = (search.frames_end - location.offset) as usize;
            let wanted = bytes_left.saturating_add(ENTRY_READ_BYTES).min(RANGE_READ_BYTES_MAX);
            let buffer = read_bytes(&file, location.offset, wanted.min(room))
                .map_err(|error| unreadable(error, &file, index, location))?;
            let before = index;
            let mut rest = buffer;
            while index < last && whole_frame(&rest, location) {
                let (entry, header) = frame::decode(&rest, location)
                    .and_then(|decoded| expect_index(decoded, index))
                    .map_err(|fault| corrupt(&file, index, location, fault))?;
                rest = rest.slice(header.frame_size() as usize..);
                location.offset += header.frame_size();
                index += 1;
                bytes_left = bytes_left.saturating_sub(entry.payload_bytes());
                entries.push(entry);
            }
            if index == before {
                // A frame that is larger than what was read.
                let (entry, header) = read_entry(&file, location, || index)?;
                let (entry, _) = expect_index((entry, header), index)
                    .map_err(|fault| corrupt(&file, index, location, fault))?;
                location.offset += header.frame_size();
                index += 1;
                bytes_left = bytes_left.saturating_sub(entry.payload_bytes());
                entries.push(entry);
            }
        }
        Ok(entries)
    }

    /// Where to look for an entry.
    fn search(&self, index: u64) -> Result<Search, LogError> {
        let state = self.lock();
        let segment = state.segments.range(..=index).next_back().map(|(_, segment)| segment);
        let segment = segment.filter(|segment| index < segment.summary.next);
        let Some(segment) = segment else { return Err(missing(index, state.next)) };
        let summary = &segment.summary;
        Ok(Search {
            key: (summary.first, segment.epoch),
            from: summary.sample_before(index),
            frames_end: summary.frames_end,
            next: summary.next,
        })
    }

    /// Header and place of an entry's frame.
    fn find(
        &self,
        search: &Search,
        file: &File,
        index: u64,
    ) -> Result<(FrameHeader, Location), LogError> {
        let mut reader = Reader::new(file)?.reading(SEARCH_BYTES);
        let (mut at, offset) = search.from;
        let mut location = Location { segment: search.key.0, offset };
        loop {
            let bytes = reader
                .bytes(location.offset, FRAME_HEADER_SIZE)
                .map_err(|error| unreadable(error, file, at, location))?;
            let header = FrameHeader::decode(bytes, location)
                .and_then(|header| match header.id.index {
                    actual if actual == at => Ok(header),
                    actual => Err(FrameFault::Index { expected: at, actual }),
                })
                .map_err(|fault| corrupt(file, at, location, fault))?;
            if at == index {
                return Ok((header, location));
            }
            at += 1;
            location.offset += header.frame_size();
        }
    }

    /// Link and place of an entry. Waits for the chain thread; reads the disk if the entry is not
    /// in memory.
    pub(super) fn kept(&self, index: u64) -> Result<Kept, LogError> {
        loop {
            let mut state = self.lock();
            while let Some(slot) = state.slot(index) {
                if let Some(placed) = slot.placed {
                    let size = frame::frame_size(slot.entry.payload_bytes());
                    let frame_end = placed.location.offset + size;
                    let (chain, location) = (placed.chain, placed.location);
                    return Ok(Kept { id: slot.entry.id, chain, location, frame_end });
                }
                if let Some(failure) = &state.failure {
                    return Err(LogError::Stopped(failure.clone()));
                }
                state = self.wait_placed(state);
            }
            let epoch = state.epoch;
            drop(state);
            let found = self.search(index).and_then(|search| {
                let file = self.open(search.key, index)?;
                self.find(&search, &file, index)
            });
            if self.lock().epoch == epoch {
                let (header, location) = found?;
                let frame_end = location.offset + header.frame_size();
                return Ok(Kept { id: header.id, chain: header.chain, location, frame_end });
            }
        }
    }

    /// The entry at a place; see [`super::Log::read_at`].
    pub(super) fn read_at(&self, location: Location) -> Result<(Entry, Chain), LogError> {
        self.at(
            location,
            |entry, chain| Ok((entry.clone(), chain)),
            |file| {
                let read = read_entry(file, location, || location.segment);
                read.map(|(entry, header)| (entry, header.chain))
            },
        )
    }

    /// What `memory` makes of the entry at a place, or `disk` of the file that has it.
    pub(super) fn at<T>(
        &self,
        location: Location,
        memory: impl Fn(&Entry, Chain) -> Result<T, LogError>,
        disk: impl Fn(&File) -> Result<T, LogError>,
    ) -> Result<T, LogError> {
        loop {
            let state = self.lock();
            if let Some(slot) = state.slot_at(location)
                && let Some(placed) = slot.placed
            {
                let entry = slot.entry.clone();
                drop(state);
                return memory(&entry, placed.chain);
            }
            let segment = state.segments.get(&location.segment);
            let segment = segment.filter(|s| location.offset < s.summary.frames_end);
            let Some(key) = segment.map(|segment| (segment.summary.first, segment.epoch)) else {
                return Err(missing(location.segment, state.next));
            };
            let epoch = state.epoch;
            drop(state);
            let read = self.open(key, location.segment);
            let read = read.and_then(|file| disk(&file)).map_err(|error| match error {
                LogError::Corrupt { file, offset, fault, .. } => {
                    LogError::Corrupt { index: self.index_at(location), file, offset, fault }
                }
                error => error,
            });
            if self.lock().epoch == epoch {
                return read;
            }
        }
    }

    /// A segment's file, of which entry `index` is asked for. That it is gone is damage.
    fn open(&self, key: Key, index: u64) -> Result<Arc<File>, LogError> {
        self.files.get(key).map_err(|error| match error.source.kind() {
            ErrorKind::NotFound => {
                let fault = FrameFault::Unreadable;
                LogError::Corrupt { index, file: error.path, offset: 0, fault }
            }
            _ => error.into(),
        })
    }

    /// Which entry's frame is at a place where something is damaged; the first damaged one on the
    /// way there, if there is one.
    fn index_at(&self, location: Location) -> u64 {
        let state = self.lock();
        let Some(segment) = state.segments.get(&location.segment) else { return location.segment };
        let key = (location.segment, segment.epoch);
        let summary = &segment.summary;
        let before = |sample: &&Sample| u64::from(sample.offset) <= location.offset;
        let sample = summary.samples.iter().take_while(before).last();
        let (mut index, mut offset) = sample.map_or((summary.first, FRAMES_START), |sample| {
            (summary.first + u64::from(sample.position), sample.offset.into())
        });
        drop(state);
        let Ok(file) = self.files.get(key) else { return index };
        let Ok(reader) = Reader::new(&file) else { return index };
        let mut reader = reader.reading(SEARCH_BYTES);
        while offset < location.offset {
            let Ok(bytes) = reader.bytes(offset, FRAME_HEADER_SIZE) else { return index };
            let here = Location { offset, ..location };
            let Ok(header) = FrameHeader::decode(bytes, here) else { return index };
            index += 1;
            offset += header.frame_size();
        }
        index
    }

    /// Checks everything that is durable; see [`super::Log::scan_all`].
    pub(super) fn scan_all(&self) -> Result<u64, OpenError> {
        loop {
            let state = self.lock();
            let epoch = state.epoch;
            let (durable, durable_end) = (state.durable, state.durable_end);
            let segments: Vec<_> = state
                .segments
                .values()
                .filter(|segment| segment.summary.first < durable)
                .map(|segment| (segment.summary.clone(), segment.sealed, segment.epoch))
                .collect();
            drop(state);
            let count = segments.into_iter().try_fold(0, |count, (summary, sealed, epoch)| {
                let file = self.files.get((summary.first, epoch))?;
                let last = summary.first == durable_end.segment;
                let until = if last { durable_end.offset } else { summary.frames_end };
                Ok(count + self.scan_segment(&file, &summary, until, sealed)?)
            });
            if self.lock().epoch == epoch {
                return count;
            }
        }
    }

    fn scan_segment(
        &self,
        file: &Arc<File>,
        expected: &Summary,
        until: u64,
        sealed: bool,
    ) -> Result<u64, OpenError> {
        let damaged = |offset, first, what: String| OpenError::Corrupt {
            file: file.path().to_owned(),
            offset,
            first,
            last: expected.next.max(first + 1) - 1,
            what,
        };
        let header = SegmentHeader {
            trail_id: self.options.trail_id,
            first: expected.first,
            segment_bytes: self.options.segment_bytes,
            chain_before: expected.chain_before,
        };
        let mut reader = Reader::new(file)?;
        if *reader.bytes(0, FRAMES_START as usize)? != header.encode() {
            return Err(damaged(0, expected.first, "the segment's header is damaged".into()));
        }
        let (summary, stop) =
            recovery::scan(&mut reader, &header, until, &Synced::EMPTY, &mut |_| {})?;
        if let Stop::Bad(fault) = stop {
            return Err(damaged(summary.frames_end, summary.next, fault.to_string()));
        }
        if sealed && recovery::judge_footer(&mut reader, &summary)? != Some(true) {
            let what = "the segment's footer is damaged";
            return Err(damaged(summary.frames_end, summary.first, what.into()));
        }
        Ok(summary.next - summary.first)
    }
}

fn missing(index: u64, next: u64) -> LogError {
    LogError::Missing { index, next }
}

pub(super) fn corrupt(file: &File, index: u64, location: Location, fault: FrameFault) -> LogError {
    LogError::Corrupt { index, file: file.path().to_owned(), offset: location.offset, fault }
}

/// A sector that is lost is damage, like any other; a system without memory, say, is not.
pub(super) fn unreadable(
    error: DiskError,
    file: &File,
    index: u64,
    location: Location,
) -> LogError {
    let lost = rustix::io::Errno::IO.raw_os_error();
    match error.source.raw_os_error() == Some(lost) {
        true => corrupt(file, index, location, FrameFault::Unreadable),
        false => error.into(),
    }
}

fn expect_index(
    decoded: (Entry, FrameHeader),
    expected: u64,
) -> Result<(Entry, FrameHeader), FrameFault> {
    let actual = decoded.0.id.index;
    if actual == expected { Ok(decoded) } else { Err(FrameFault::Index { expected, actual }) }
}

/// Whether `bytes` starts with a whole frame, or with something that is none and never will be.
fn whole_frame(bytes: &[u8], location: Location) -> bool {
    match FrameHeader::decode(bytes, location) {
        Ok(header) => header.frame_size() <= bytes.len() as u64,
        Err(fault) => fault != FrameFault::Short,
    }
}

/// Up to `size` bytes from `offset`.
pub(super) fn read_bytes(file: &File, offset: u64, size: usize) -> Result<Bytes, DiskError> {
    let mut buffer = vec![0; size];
    let count = file.read_at(&mut buffer, offset)?;
    buffer.truncate(count);
    Ok(buffer.into())
}

/// The entry whose frame is at this place; `index` says which one that is, if something is wrong.
fn read_entry(
    file: &File,
    location: Location,
    index: impl Fn() -> u64,
) -> Result<(Entry, FrameHeader), LogError> {
    let fail = |fault| corrupt(file, index(), location, fault);
    let lost = |error| unreadable(error, file, index(), location);
    let mut bytes = read_bytes(file, location.offset, ENTRY_READ_BYTES).map_err(lost)?;
    let size = FrameHeader::decode(&bytes, location).map_err(fail)?.frame_size() as usize;
    if size > bytes.len() {
        bytes = read_bytes(file, location.offset, size).map_err(lost)?;
    }
    frame::decode(&bytes, location).map_err(fail)
}
