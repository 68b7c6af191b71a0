//! What is on the disk at start: reading the segments, and telling a torn tail from damage.
//!
//! Sealed segments below the `synced` marker are taken by header and footer, so that a start does
//! not read the whole trail; everything else is read frame by frame, checksums and chain checked.
//! The first frame that is not right decides:
//!
//! * in a segment that has a successor, or below the marker: *corrupt*. It was durable.
//! * above the marker, and the file ends inside the frame, or it is zeros from a sector boundary on
//!   and nothing follows: a *tear*. A crash leaves that, and nobody was told that the entry is
//!   durable.
//! * any other above the marker: *ambiguous*. Perhaps a crash, perhaps damage to what was
//!   acknowledged in the last moment.
//!
//! A tear is copied to `quarantine/` and cut. Corrupt and ambiguous are refused, and nothing is
//! touched.

use std::path::{Path, PathBuf};

use indelible_core::{Chain, EntryId, TrailId, chain};
use indelible_lineage::StartRefusal;

use crate::disk::{Dir, DiskError, File, LockError, SlotsError};

use super::frame::{self, FRAME_HEADER_SIZE, FrameFault, FrameHeader, Location};
use super::segment::{
    self, FOOTER_SIZE_MIN, FRAMES_START, SEGMENT_HEADER_SIZE, SegmentHeader, Summary,
};
use super::synced::{Synced, SyncedFile};

/// Name of the directory of segments.
pub const SEGMENTS_DIR: &str = "segments";
/// Name of the directory of what was cut.
pub const QUARANTINE_DIR: &str = "quarantine";

/// A disk writes a sector whole or not at all.
const SECTOR: u64 = 512;
/// Bytes that one read of a scan asks for.
const READ_BYTES: usize = 1024 * 1024;
static ZEROS: [u8; 4096] = [0; 4096];

/// Why a log could not be opened. Nothing was changed on the disk.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the directory.
    #[error(transparent)]
    Locked(LockError),
    /// A file could not be read or written.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The hard state is damaged: without the vote this node could vote twice in a term.
    #[error(
        "{} cannot be read; hint: this node must not vote again under its id, remove it from the \
         group and join as a new node",
        path.display()
    )]
    NoHardState {
        /// The hard state's file.
        path: PathBuf,
    },
    /// Files on the disk are of different ages.
    #[error(transparent)]
    OldFiles(#[from] StartRefusal),
    /// The two copies of the lineage are not of one node.
    #[error(
        "{} and its copy differ at boot {boot}: one of them was put there from another disk; hint: \
         put back the newer one under both names, or add the node under a new id",
        path.display()
    )]
    TwoLineages {
        /// The first copy.
        path: PathBuf,
        /// The first boot at which they differ.
        boot: u64,
    },
    /// What was durable is not there, or not as it was written.
    #[error(
        "{} is damaged at offset {offset}, entries {first} to {last}: {what}; hint: nothing was \
         changed, and a peer has these entries",
        file.display()
    )]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// The first entry that is affected.
        first: u64,
        /// The last entry that is affected, as far as known.
        last: u64,
        /// What is wrong.
        what: String,
    },
    /// The end of the log is neither whole nor what a crash leaves.
    #[error(
        "{} has bytes at offset {offset}, entries {first} to {last}, that are neither a frame nor \
         what a crash leaves: {what}; hint: nothing was changed; a peer knows whether these \
         entries were acknowledged",
        file.display()
    )]
    Ambiguous {
        /// The file.
        file: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// The first entry that is affected.
        first: u64,
        /// The last entry that is affected, as far as known.
        last: u64,
        /// What is wrong.
        what: String,
    },
    /// A segment of another trail, or written with another segment size.
    #[error(
        "{} belongs to another log: {what}; hint: every node has a data directory of its own",
        file.display()
    )]
    Foreign {
        /// The file.
        file: PathBuf,
        /// What differs.
        what: String,
    },
}

impl From<LockError> for OpenError {
    fn from(error: LockError) -> OpenError {
        match error {
            LockError::Disk(error) => OpenError::Disk(error),
            held @ LockError::Held { .. } => OpenError::Locked(held),
        }
    }
}

/// What must be known to judge segments.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    /// The trail that they belong to.
    pub trail_id: TrailId,
    /// The size in bytes that closes them.
    pub segment_bytes: u64,
    /// Whether the log may start anywhere: only in tests.
    pub first_index_any: bool,
    /// Whether to read sealed segments too.
    pub read_all: bool,
}

/// The log as it was found.
#[derive(Debug)]
pub struct Found {
    /// All segments, in order, and whether each is sealed.
    pub segments: Vec<(Summary, bool)>,
    /// The segments that were read frame by frame, by first entry: their bytes may not be durable
    /// yet.
    pub scanned: Vec<u64>,
    /// A torn tail in the last segment.
    pub tear: Option<Tear>,
}

/// Bytes at the end of the last segment that a crash left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tear {
    /// Where they start.
    pub location: Location,
    /// Where they end: zeros, or the file's end.
    pub end: u64,
    /// The entry that they were going to be.
    pub index: u64,
}

/// A frame as a scan passes it.
#[derive(Debug)]
pub struct Scanned<'a> {
    /// Its header.
    pub header: FrameHeader,
    /// Its place.
    pub location: Location,
    /// The entry's head.
    pub head: &'a [u8],
    /// The entry's body.
    pub body: &'a [u8],
}

/// Reads what is there and judges it; changes nothing. `visit` sees every frame that is read.
pub fn find(
    segments: &Dir,
    expected: &Expected,
    marker: &Synced,
    visit: &mut dyn FnMut(&Scanned<'_>),
) -> Result<Found, OpenError> {
    let firsts: Vec<u64> =
        segments.list()?.iter().filter_map(|name| segment::parse_file_name(name)).collect();
    let mut found = Found { segments: Vec::new(), scanned: Vec::new(), tear: None };
    let mut next = None;
    for (position, first) in firsts.iter().enumerate() {
        let successor = firsts.get(position + 1).copied();
        let judged = judge(segments, expected, marker, *first, next, successor, visit)?;
        next = Some((judged.summary.next, judged.summary.chain_after));
        found.tear = judged.tear;
        if judged.scanned {
            found.scanned.push(*first);
        }
        found.segments.push((judged.summary, judged.sealed));
    }
    let end = next.map_or(0, |(next, _)| next);
    if end < marker.next {
        let last = firsts.last().copied().unwrap_or(0);
        return Err(OpenError::Corrupt {
            file: segments.path().join(segment::file_name(last)),
            offset: found.segments.last().map_or(0, |(summary, _)| summary.frames_end),
            first: end,
            last: marker.next - 1,
            what: "the log is shorter than the synced marker says".into(),
        });
    }
    Ok(found)
}

/// Reads a whole log that is not open, sealed segments included, and judges it as a start would;
/// changes nothing. `visit` sees every frame.
pub fn verify(
    data: &Path,
    trail_id: TrailId,
    segment_bytes: u64,
    visit: &mut dyn FnMut(&Scanned<'_>),
) -> Result<Found, OpenError> {
    let data = Dir::open(data, true)?;
    let marker = match SyncedFile::read(&data) {
        Ok(marker) => marker,
        Err(SlotsError::Damaged { path }) => return Err(damaged_marker(path)),
        Err(SlotsError::Disk(error)) => return Err(error.into()),
    };
    let segments = Dir::open(&data.path().join(SEGMENTS_DIR), true)?;
    let expected = Expected { trail_id, segment_bytes, first_index_any: false, read_all: true };
    find(&segments, &expected, &marker, visit)
}

/// Without a marker nothing says what was durable.
pub fn damaged_marker(file: PathBuf) -> OpenError {
    let what = "the synced marker cannot be read, so a torn tail cannot be told from damage".into();
    OpenError::Corrupt { file, offset: 0, first: 0, last: 0, what }
}

/// One segment, judged.
pub(super) struct Judged {
    pub(super) summary: Summary,
    sealed: bool,
    scanned: bool,
    tear: Option<Tear>,
}

/// Judges the segment that starts with entry `first`. `before` is the end of the one before it
/// (next entry, chain), and `successor` the first entry of the one after it.
pub(super) fn judge(
    segments: &Dir,
    expected: &Expected,
    marker: &Synced,
    first: u64,
    before: Option<(u64, Chain)>,
    successor: Option<u64>,
    visit: &mut dyn FnMut(&Scanned<'_>),
) -> Result<Judged, OpenError> {
    let file = segments.open_file_read_only(&segment::file_name(first))?;
    let corrupt = |offset, from, what: String| OpenError::Corrupt {
        file: file.path().to_owned(),
        offset,
        first: from,
        last: successor.unwrap_or(marker.next).max(from + 1) - 1,
        what,
    };
    let header = read_header(&file, first, expected)?
        .ok_or_else(|| corrupt(0, first, "the segment's header is damaged".into()))?;
    let start = before.unwrap_or_else(|| {
        let first = if expected.first_index_any { first } else { 0 };
        (first, chain::genesis(&expected.trail_id))
    });
    if start.0 != first {
        let missing = start.0.min(first);
        return Err(corrupt(0, missing, format!("entries {} to {first} are missing", start.0)));
    }
    if header.chain_before != start.1 {
        return Err(corrupt(0, first, "the chain does not follow from the segment before".into()));
    }

    let mut reader = Reader::new(&file)?;
    if !expected.read_all
        && let Some(summary) = read_footer(&mut reader, &header)?
        && summary.next <= marker.next
    {
        return Ok(Judged { summary, sealed: true, scanned: false, tear: None });
    }
    let (summary, stop) = scan(&mut reader, &header, u64::MAX, marker, visit)?;
    let at = (summary.frames_end, summary.next);
    let (sealed, tear) = match stop {
        Stop::Closed => match judge_footer(&mut reader, &summary)? {
            Some(sealed) => (sealed, None),
            None => return Err(corrupt(at.0, at.1, "the segment's footer is damaged".into())),
        },
        Stop::Bad(fault) if successor.is_some() || summary.next < marker.next => {
            return Err(corrupt(at.0, at.1, fault.to_string()));
        }
        Stop::Bad(fault) => (false, judge_tail(&mut reader, &summary, fault)?),
    };
    Ok(Judged { summary, sealed, scanned: true, tear })
}

/// The header of a segment file; none if it is damaged.
pub(super) fn read_header(
    file: &File,
    first: u64,
    expected: &Expected,
) -> Result<Option<SegmentHeader>, OpenError> {
    let mut bytes = [0; SEGMENT_HEADER_SIZE];
    let count = file.read_at(&mut bytes, 0)?;
    let Some(header) = SegmentHeader::decode(&bytes[..count]) else { return Ok(None) };
    let foreign = |what| Err(OpenError::Foreign { file: file.path().to_owned(), what });
    if header.trail_id != expected.trail_id {
        return foreign(format!("trail {}, not {}", header.trail_id, expected.trail_id));
    }
    if header.segment_bytes != expected.segment_bytes {
        let (theirs, ours) = (header.segment_bytes, expected.segment_bytes);
        return foreign(format!("segments of {theirs} bytes, not {ours}"));
    }
    Ok((header.first == first).then_some(header))
}

/// The summary in the footer of a sealed segment; none if the file does not end with a valid one.
pub(super) fn read_footer(
    reader: &mut Reader<'_>,
    header: &SegmentHeader,
) -> Result<Option<Summary>, DiskError> {
    let length = reader.length;
    let Some(tail) = length.checked_sub(FOOTER_SIZE_MIN as u64) else { return Ok(None) };
    let mut bytes = vec![0; FOOTER_SIZE_MIN];
    reader.file.read_exact_at(&mut bytes, tail)?;
    let Some(size) = segment::footer_size(&bytes) else { return Ok(None) };
    let Some(start) = length.checked_sub(size as u64) else { return Ok(None) };
    bytes.resize(size, 0);
    reader.file.read_exact_at(&mut bytes, start)?;
    let summary = Summary::decode_footer(header, &bytes);
    Ok(summary.filter(|summary| summary.frames_end == start))
}

/// Where a scan stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The segment is closed, or the scan's limit is reached: nothing more belongs here.
    Closed,
    /// The bytes here are not the next entry's frame.
    Bad(FrameFault),
}

/// Reads frames until the segment is closed, `until` is reached, or one is not right.
pub fn scan(
    reader: &mut Reader<'_>,
    header: &SegmentHeader,
    until: u64,
    marker: &Synced,
    visit: &mut dyn FnMut(&Scanned<'_>),
) -> Result<(Summary, Stop), OpenError> {
    let mut summary = Summary::new(header.first, header.chain_before);
    loop {
        let location = Location { segment: header.first, offset: summary.frames_end };
        if segment::is_closed(location.offset, header.segment_bytes) || location.offset >= until {
            return Ok((summary, Stop::Closed));
        }
        let checked = reader.frame(location)?;
        let frame = match checked.and_then(|frame| follows(frame, &summary)) {
            Ok(frame) => frame,
            Err(fault) => return Ok((summary, Stop::Bad(fault))),
        };
        summary.push(frame.header.id, frame.header.chain, frame.header.frame_size());
        visit(&frame);
        let end = Location { segment: header.first, offset: summary.frames_end };
        if summary.next == marker.next && marker.end != end {
            return Err(OpenError::Corrupt {
                file: reader.file.path().to_owned(),
                offset: location.offset,
                first: location.segment,
                last: summary.next - 1,
                what: format!("the synced marker has this entry end at {:?}", marker.end),
            });
        }
    }
}

/// A frame that is right in itself: is it the next one?
fn follows<'a>(frame: Scanned<'a>, summary: &Summary) -> Result<Scanned<'a>, FrameFault> {
    let header = &frame.header;
    if header.id.index != summary.next {
        return Err(FrameFault::Index { expected: summary.next, actual: header.id.index });
    }
    if chain::link(&summary.chain_after, header.id, header.kind, frame.head) != header.chain {
        return Err(FrameFault::Chain);
    }
    Ok(frame)
}

/// What follows the last frame of a closed segment: the footer (true), zeros or a part of the
/// footer (false: sealing was interrupted, or has not begun), or something else (none).
pub fn judge_footer(reader: &mut Reader<'_>, summary: &Summary) -> Result<Option<bool>, DiskError> {
    let footer = summary.encode_footer();
    let end = summary.frames_end + footer.len() as u64;
    let here = reader.bytes(summary.frames_end, footer.len())?;
    let whole = here == footer;
    let part = here.iter().zip(&footer).all(|(here, footer)| *here == 0 || here == footer);
    if reader.length == end {
        return Ok(whole.then_some(true));
    }
    Ok((part && reader.nonzero_end(end)? <= end).then_some(false))
}

/// Judges what follows the last good frame of the last segment, above the marker: nothing, a tear,
/// or ambiguous.
pub(super) fn judge_tail(
    reader: &mut Reader<'_>,
    summary: &Summary,
    fault: FrameFault,
) -> Result<Option<Tear>, OpenError> {
    let location = Location { segment: summary.first, offset: summary.frames_end };
    let nonzero_end = reader.nonzero_end(location.offset)?;
    if nonzero_end <= location.offset {
        return Ok(None);
    }
    // Up to here the disk has written: a file's end cuts anywhere, missing sectors cut at a
    // boundary.
    let written = nonzero_end.next_multiple_of(SECTOR).min(reader.length);
    let bytes = reader.bytes(location.offset, FRAME_HEADER_SIZE)?.to_vec();
    let torn = match FrameHeader::decode(&bytes, location) {
        Err(_) => {
            let begun = &bytes[..bytes.len().min((written - location.offset) as usize)];
            frame::may_begin(begun) && begun.len() < FRAME_HEADER_SIZE
        }
        Ok(header) => {
            let body = location.offset + header.body_offset() as u64;
            let part_bad = fault == FrameFault::Head && body <= written;
            let own = !matches!(fault, FrameFault::Index { .. } | FrameFault::Chain);
            own && !part_bad && written < location.offset + header.frame_size()
        }
    };
    if torn {
        return Ok(Some(Tear { location, end: written, index: summary.next }));
    }
    Err(OpenError::Ambiguous {
        file: reader.file.path().to_owned(),
        offset: location.offset,
        first: summary.next,
        last: summary.next,
        what: fault.to_string(),
    })
}

/// Copies a tear to `quarantine/` and cuts it; the caller syncs the segment. Returns the copy's
/// path.
pub fn quarantine(data: &Dir, segments: &Dir, tear: &Tear) -> Result<PathBuf, DiskError> {
    let file = segments.open_file(&segment::file_name(tear.location.segment))?;
    assert!(tear.location.offset >= FRAMES_START && tear.location.offset < tear.end);
    let mut bytes = vec![0; (tear.end - tear.location.offset) as usize];
    file.read_exact_at(&mut bytes, tear.location.offset)?;
    let quarantine = data.subdir(QUARANTINE_DIR)?;
    let number = quarantine.list()?.len();
    let Location { segment, offset } = tear.location;
    let name = format!("{segment:020}-{offset}-{number}.torn");
    // Crash before the cut is durable: the tear is found again and copied once more.
    quarantine.write_new(&name, 0o600, &bytes)?;
    // Crash before this is durable, which the caller makes it: as above. After: the log ends here,
    // as if the write had never begun.
    file.set_len(offset)?;
    Ok(quarantine.path().join(name))
}

/// The last entry of every leader in all segments.
pub fn leaders(segments: &[(Summary, bool)]) -> Vec<EntryId> {
    let mut leaders = Vec::new();
    for (summary, _) in segments {
        summary.leaders.iter().for_each(|id| segment::push_leader(&mut leaders, *id));
    }
    leaders
}

/// Reads a file mostly front to back, through a buffer.
#[derive(Debug)]
pub struct Reader<'a> {
    file: &'a File,
    /// The file's length in bytes when the reader was made.
    pub length: u64,
    buffer: Vec<u8>,
    /// Offset in the file of the buffer's first byte.
    start: u64,
    /// Bytes that one read asks for.
    read_bytes: usize,
    /// Whether what the disk cannot read is taken for zeros, a page at a time.
    lenient: bool,
}

impl<'a> Reader<'a> {
    /// A reader of this file.
    pub fn new(file: &'a File) -> Result<Reader<'a>, DiskError> {
        Ok(Reader {
            file,
            length: file.len()?,
            buffer: Vec::new(),
            start: 0,
            read_bytes: READ_BYTES,
            lenient: false,
        })
    }

    /// The same reader, asking for this many bytes at once.
    pub fn reading(mut self, read_bytes: usize) -> Reader<'a> {
        self.read_bytes = read_bytes;
        self
    }

    /// The same reader, for files whose sectors may be lost: they read as zeros.
    pub fn lenient(mut self) -> Reader<'a> {
        self.lenient = true;
        self
    }

    /// `size` bytes from `offset`; fewer at the end of the file.
    pub fn bytes(&mut self, offset: u64, size: usize) -> Result<&[u8], DiskError> {
        let left = self.length.saturating_sub(offset);
        let size = (size as u64).min(left) as usize;
        let end = self.start + self.buffer.len() as u64;
        if offset < self.start || offset + size as u64 > end {
            self.buffer.resize(size.max(left.min(self.read_bytes as u64) as usize), 0);
            let count = match self.file.read_at(&mut self.buffer, offset) {
                Ok(count) => count,
                Err(_) if self.lenient => {
                    self.read_pages(offset);
                    self.buffer.len()
                }
                Err(error) => {
                    self.buffer.clear();
                    return Err(error);
                }
            };
            self.buffer.truncate(count);
            self.start = offset;
        }
        let from = (offset - self.start) as usize;
        Ok(&self.buffer[from..self.buffer.len().min(from + size)])
    }

    /// Fills the buffer page by page, with zeros where that fails.
    fn read_pages(&mut self, offset: u64) {
        for (page, at) in self.buffer.chunks_mut(ZEROS.len()).zip((offset..).step_by(ZEROS.len())) {
            page.fill(0);
            if self.file.read_at(page, at).is_err() {
                page.fill(0);
            }
        }
    }

    /// The frame at this place, if its checksums are right.
    pub(super) fn frame(
        &mut self,
        location: Location,
    ) -> Result<Result<Scanned<'_>, FrameFault>, DiskError> {
        let bytes = self.bytes(location.offset, FRAME_HEADER_SIZE)?;
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(Err(FrameFault::Missing));
        }
        let size = match FrameHeader::decode(bytes, location) {
            Ok(header) => header.frame_size() as usize,
            Err(fault) => return Ok(Err(fault)),
        };
        let bytes = self.bytes(location.offset, size)?;
        Ok(frame::check(bytes, location).map(|header| {
            let body_end = header.body_offset() + header.body_size as usize;
            let head = &bytes[FRAME_HEADER_SIZE..header.body_offset()];
            Scanned { header, location, head, body: &bytes[header.body_offset()..body_end] }
        }))
    }

    /// One past the last byte from `from` on that is not zero; `from` if there is none.
    pub(super) fn nonzero_end(&mut self, from: u64) -> Result<u64, DiskError> {
        let mut end = self.length;
        while end > from {
            let start = end.saturating_sub(READ_BYTES as u64).max(from);
            let bytes = self.bytes(start, (end - start) as usize)?;
            // In blocks, because comparing memory is fast in every build.
            let mut block_end = bytes.len();
            for block in bytes.rchunks(ZEROS.len()) {
                if block != &ZEROS[..block.len()] {
                    let last = block.iter().rposition(|byte| *byte != 0);
                    let zeros = last.map_or(block.len(), |last| block.len() - 1 - last);
                    return Ok(start + (block_end - zeros) as u64);
                }
                block_end -= block.len();
            }
            end = start;
        }
        Ok(from)
    }
}
