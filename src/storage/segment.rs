//! Segment files: what is before the first frame and, once sealed, after the last
//! (docs/FORMAT.md, "Segment").
//!
//! A segment closes by a pure function of its frames ([`is_closed`]), and its footer is one too, so
//! a sealed segment has the same bytes on every node. The footer spares the start from reading it:
//! it lists the last entry of every leader, and the offset of one frame in each stretch of
//! [`SAMPLE_STRIDE`] bytes.

use indelible_core::limits::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
use indelible_core::{Chain, EntryId, Hash, TrailId};

use super::frame::{FRAME_ALIGNMENT, FRAME_BYTES_MAX, FRAME_HEADER_SIZE, u32_at, u64_at};

/// Bytes of a segment's header; the first frame follows.
pub const SEGMENT_HEADER_SIZE: usize = 96;
/// Offset of the first frame.
pub const FRAMES_START: u64 = SEGMENT_HEADER_SIZE as u64;
/// The table of offsets has one frame for each stretch of this many bytes.
pub const SAMPLE_STRIDE: u64 = 256 * 1024;
/// Bytes of a footer without its tables.
pub const FOOTER_SIZE_MIN: usize = FOOTER_HEADER_SIZE + FOOTER_TAIL_SIZE;

/// Space reserved past the size that closes a segment, for the entry that closes it, in bytes.
const SLACK_MAX: u64 = 64 * 1024;
const SEGMENT_MAGIC: [u8; 8] = *b"INDSEGMT";
const SEGMENT_VERSION: u32 = 1;
const FOOTER_MAGIC: [u8; 8] = *b"INDSEALD";
const FOOTER_HEADER_SIZE: usize = 64;
/// size(4), crc(4), magic(8).
const FOOTER_TAIL_SIZE: usize = 16;
const LEADER_SIZE: usize = 24;
const SAMPLE_SIZE: usize = 8;
const SUFFIX: &str = ".seg";

const _: () = {
    assert!(FRAMES_START.is_multiple_of(FRAME_ALIGNMENT));
    assert!(SEGMENT_BYTES_MIN > FRAMES_START);
    // Offsets fit the u32 of a sample.
    assert!(SEGMENT_BYTES_MAX + FRAME_BYTES_MAX < u32::MAX as u64);
};

/// A segment, as others need to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Index of its first entry.
    pub first: u64,
    /// One past the index of its last entry.
    pub next: u64,
    /// Size of its file in bytes, once sealed.
    pub bytes: u64,
    /// The chain's link of its last entry.
    pub chain: Chain,
    /// Whether it is sealed: it never changes any more.
    pub sealed: bool,
}

/// Whether a segment whose frames end at `frames_end` takes no more entries: the one that took it
/// this far was its last.
pub fn is_closed(frames_end: u64, segment_bytes: u64) -> bool {
    frames_end >= segment_bytes
}

/// Length in bytes of the file of a segment that is not sealed and whose frames end at
/// `frames_end`. Not a multiple of eight, so that it is never that of a sealed one.
pub fn reserved(frames_end: u64, segment_bytes: u64) -> u64 {
    let usual = (segment_bytes + segment_bytes.min(SLACK_MAX)).next_multiple_of(4096) + 4;
    // Only the entry that closes a segment can get past it. The file stays longer than its frames,
    // so that a sealed segment is the only one that ends with something.
    if frames_end < usual { usual } else { frames_end.next_multiple_of(4096) + 4096 + 4 }
}

/// Name of the segment that starts with entry `first`: names sort like indexes.
pub fn file_name(first: u64) -> String {
    format!("{first:020}{SUFFIX}")
}

/// The first entry of the segment with this name; none if it is no segment's name.
pub fn parse_file_name(name: &str) -> Option<u64> {
    let first = name.strip_suffix(SUFFIX)?.parse().ok()?;
    (file_name(first) == name).then_some(first)
}

/// What a segment starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Whose trail it belongs to.
    pub trail_id: TrailId,
    /// Index of its first entry.
    pub first: u64,
    /// The size that closes it, fixed by `init`.
    pub segment_bytes: u64,
    /// The chain's link before the first entry.
    pub chain_before: Chain,
}

impl SegmentHeader {
    /// Its bytes.
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_SIZE] {
        let mut out = [0; SEGMENT_HEADER_SIZE];
        out[0..8].copy_from_slice(&SEGMENT_MAGIC);
        out[8..12].copy_from_slice(&SEGMENT_VERSION.to_le_bytes());
        out[16..32].copy_from_slice(&self.trail_id.0);
        out[32..40].copy_from_slice(&self.first.to_le_bytes());
        out[40..48].copy_from_slice(&self.segment_bytes.to_le_bytes());
        out[48..80].copy_from_slice(&self.chain_before.0);
        let crc = crc32c::crc32c(&out[..92]);
        out[92..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// From the first bytes of a file; none if they are not a header of this version.
    pub fn decode(bytes: &[u8]) -> Option<SegmentHeader> {
        let bytes: &[u8; SEGMENT_HEADER_SIZE] = bytes.first_chunk()?;
        let known = bytes[0..8] == SEGMENT_MAGIC
            && u32_at(bytes, 8) == SEGMENT_VERSION
            && u32_at(bytes, 92) == crc32c::crc32c(&bytes[..92])
            && bytes[12..16].iter().chain(&bytes[80..92]).all(|byte| *byte == 0);
        known.then(|| SegmentHeader {
            trail_id: TrailId::from_slice(&bytes[16..32]).expect("16 bytes"),
            first: u64_at(bytes, 32),
            segment_bytes: u64_at(bytes, 40),
            chain_before: Hash::from_slice(&bytes[48..80]).expect("32 bytes"),
        })
    }
}

/// One frame's place: where a search for its neighbours starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Its entry's index, less that of the segment's first entry.
    pub position: u32,
    /// Its offset in the file, in bytes.
    pub offset: u32,
}

/// What is known of a segment without reading its frames; the footer is made of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Index of its first entry.
    pub first: u64,
    /// One past the index of its last entry.
    pub next: u64,
    /// Offset at which its frames end.
    pub frames_end: u64,
    /// The chain's link before its first entry.
    pub chain_before: Chain,
    /// The chain's link of its last entry.
    pub chain_after: Chain,
    /// Last entry of every leader in it, in order.
    pub leaders: Vec<EntryId>,
    /// The first frame that starts in each stretch after the first. In memory for all segments: 8
    /// bytes for 256 KiB of log, 32 MB for a terabyte.
    pub samples: Vec<Sample>,
}

impl Summary {
    /// A segment without entries.
    pub fn new(first: u64, chain_before: Chain) -> Summary {
        Summary {
            first,
            next: first,
            frames_end: FRAMES_START,
            chain_before,
            chain_after: chain_before,
            leaders: Vec::new(),
            samples: Vec::new(),
        }
    }

    /// Adds the entry whose frame starts where the last one ended.
    pub fn push(&mut self, id: EntryId, chain: Chain, frame_bytes: u64) {
        assert_eq!(id.index, self.next, "entries of a segment have no gaps");
        assert!(frame_bytes >= FRAME_HEADER_SIZE as u64);
        let stretch = self.frames_end / SAMPLE_STRIDE;
        if stretch > self.samples.last().map_or(0, |s| u64::from(s.offset) / SAMPLE_STRIDE) {
            let position = (id.index - self.first) as u32;
            self.samples.push(Sample { position, offset: self.frames_end as u32 });
        }
        push_leader(&mut self.leaders, id);
        self.next = id.index + 1;
        self.frames_end += frame_bytes;
        self.chain_after = chain;
    }

    /// Takes back all entries after `kept`, the last of which is that entry; its frame ends at
    /// `frames_end`.
    pub fn truncate(&mut self, kept: EntryId, chain: Chain, frames_end: u64) {
        assert!(kept.index >= self.first && kept.index < self.next, "the kept entry is in here");
        self.next = kept.index + 1;
        self.frames_end = frames_end;
        self.chain_after = chain;
        self.samples.retain(|sample| u64::from(sample.offset) < frames_end);
        truncate_leaders(&mut self.leaders, kept.index);
    }

    /// Offset of the frame nearest to entry `index` that is not after it, and that frame's entry.
    pub fn sample_before(&self, index: u64) -> (u64, u64) {
        assert!(index >= self.first);
        let position = index - self.first;
        let count = self.samples.partition_point(|sample| u64::from(sample.position) <= position);
        match count.checked_sub(1).map(|last| self.samples[last]) {
            Some(sample) => (self.first + u64::from(sample.position), sample.offset.into()),
            None => (self.first, FRAMES_START),
        }
    }

    /// What others need to know.
    pub fn info(&self, sealed: bool) -> SegmentInfo {
        let Summary { first, next, chain_after: chain, .. } = *self;
        SegmentInfo { first, next, bytes: self.sealed_bytes(), chain, sealed }
    }

    /// Size in bytes of the file once it is sealed.
    pub fn sealed_bytes(&self) -> u64 {
        self.frames_end + self.footer_bytes() as u64
    }

    fn footer_bytes(&self) -> usize {
        FOOTER_SIZE_MIN + self.leaders.len() * LEADER_SIZE + self.samples.len() * SAMPLE_SIZE
    }

    /// The bytes that seal the segment.
    pub fn encode_footer(&self) -> Vec<u8> {
        let size = self.footer_bytes();
        let mut out = Vec::with_capacity(size);
        out.extend_from_slice(&FOOTER_MAGIC);
        out.extend_from_slice(&(self.leaders.len() as u32).to_le_bytes());
        out.extend_from_slice(&(self.samples.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.next.to_le_bytes());
        out.extend_from_slice(&self.frames_end.to_le_bytes());
        out.extend_from_slice(&self.chain_after.0);
        for leader in &self.leaders {
            out.extend_from_slice(&leader.index.to_le_bytes());
            out.extend_from_slice(&leader.term.to_le_bytes());
            out.extend_from_slice(&leader.leader.to_le_bytes());
        }
        for sample in &self.samples {
            out.extend_from_slice(&sample.position.to_le_bytes());
            out.extend_from_slice(&sample.offset.to_le_bytes());
        }
        out.extend_from_slice(&(size as u32).to_le_bytes());
        let crc = crc32c::crc32c_append(footer_seed(self.first), &out);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&FOOTER_MAGIC);
        assert_eq!(out.len(), size, "the size was known before");
        out
    }

    /// From a segment's header and the footer that its file ends with; none if that is no footer of
    /// this segment.
    pub fn decode_footer(header: &SegmentHeader, bytes: &[u8]) -> Option<Summary> {
        if bytes.len() < FOOTER_SIZE_MIN || bytes[..8] != FOOTER_MAGIC {
            return None;
        }
        let covered = &bytes[..bytes.len() - 12];
        let crc = crc32c::crc32c_append(footer_seed(header.first), covered);
        let leaders_size = u32_at(bytes, 8) as usize * LEADER_SIZE;
        let samples_size = u32_at(bytes, 12) as usize * SAMPLE_SIZE;
        let fits = footer_size(bytes) == Some(bytes.len())
            && u32_at(bytes, bytes.len() - 12) == crc
            && bytes.len() == FOOTER_SIZE_MIN + leaders_size + samples_size;
        if !fits {
            return None;
        }
        let (leaders, samples) =
            bytes[FOOTER_HEADER_SIZE..bytes.len() - FOOTER_TAIL_SIZE].split_at(leaders_size);
        Some(Summary {
            first: header.first,
            next: u64_at(bytes, 16),
            frames_end: u64_at(bytes, 24),
            chain_before: header.chain_before,
            chain_after: Hash::from_slice(&bytes[32..64]).expect("32 bytes"),
            leaders: leaders.chunks_exact(LEADER_SIZE).map(decode_leader).collect(),
            samples: samples.chunks_exact(SAMPLE_SIZE).map(decode_sample).collect(),
        })
    }
}

/// Size in bytes of the footer that a file with these last bytes ends with; none if it ends with
/// none.
pub fn footer_size(end: &[u8]) -> Option<usize> {
    let tail: &[u8; FOOTER_TAIL_SIZE] = end.last_chunk()?;
    let size = u32_at(tail, 0) as usize;
    (tail[8..] == FOOTER_MAGIC && size >= FOOTER_SIZE_MIN).then_some(size)
}

/// A footer copied to another segment does not validate there.
fn footer_seed(first: u64) -> u32 {
    crc32c::crc32c(&first.to_le_bytes())
}

fn decode_leader(bytes: &[u8]) -> EntryId {
    EntryId { index: u64_at(bytes, 0), term: u64_at(bytes, 8), leader: u64_at(bytes, 16) }
}

fn decode_sample(bytes: &[u8]) -> Sample {
    Sample { position: u32_at(bytes, 0), offset: u32_at(bytes, 4) }
}

/// Adds an entry to a list of the last entry of every leader.
pub fn push_leader(leaders: &mut Vec<EntryId>, id: EntryId) {
    match leaders.last_mut() {
        Some(last) if (last.term, last.leader) == (id.term, id.leader) => *last = id,
        _ => leaders.push(id),
    }
}

/// Takes all entries after index `last_kept`, which has a leader in the list, back from it.
pub fn truncate_leaders(leaders: &mut Vec<EntryId>, last_kept: u64) {
    // The leader of the kept entry is the first whose last entry is not before it.
    let position = leaders.partition_point(|leader| leader.index < last_kept);
    leaders.truncate(position + 1);
    leaders.get_mut(position).expect("the kept entry has a leader").index = last_kept;
}
