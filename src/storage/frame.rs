//! One entry on disk: a header of fixed size, the head, the body (docs/FORMAT.md, "Frame").
//!
//! The header has a checksum of its own, so that a scan can step over a damaged payload. All
//! checksums are seeded with the place of the frame: bytes that ended up elsewhere do not validate.

use bytes::Bytes;
use indelible_core::limits::{ENTRY_BYTES_MAX, MEMBERSHIP_BYTES_MAX};
use indelible_core::{Chain, Entry, EntryId, EntryKind, Hash};

/// Bytes of a frame's header.
pub const FRAME_HEADER_SIZE: usize = 96;
/// Frames start at multiples of this many bytes.
pub const FRAME_ALIGNMENT: u64 = 8;
/// The largest frame in bytes.
pub const FRAME_BYTES_MAX: u64 =
    (FRAME_HEADER_SIZE + ENTRY_BYTES_MAX).next_multiple_of(FRAME_ALIGNMENT as usize) as u64;

const FRAME_MAGIC: [u8; 4] = *b"INDF";
const FRAME_VERSION: u8 = 1;

const _: () = {
    assert!((FRAME_HEADER_SIZE as u64).is_multiple_of(FRAME_ALIGNMENT));
    assert!(MEMBERSHIP_BYTES_MAX <= ENTRY_BYTES_MAX);
    assert!(FRAME_BYTES_MAX < u32::MAX as u64);
};

/// Where a frame is: the place names it for ever, since a committed entry never moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// Index of the first entry of its segment.
    pub segment: u64,
    /// Offset of the frame in the segment file, in bytes.
    pub offset: u64,
}

impl Location {
    /// What all checksums of the frame at this place start from.
    fn seed(self) -> u32 {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.segment.to_le_bytes());
        bytes[8..].copy_from_slice(&self.offset.to_le_bytes());
        crc32c::crc32c(&bytes)
    }
}

/// What is wrong with the bytes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameFault {
    /// Fewer bytes than the frame has.
    #[error("the file ends inside the frame")]
    Short,
    /// The header is not one, or not one of this place.
    #[error("the frame's header is damaged or belongs elsewhere")]
    Header,
    /// A valid header with values that this build does not know.
    #[error("the frame's header has a version, kind or flag that is unknown")]
    Unknown,
    /// The head does not have its checksum.
    #[error("the frame's head is damaged")]
    Head,
    /// The body does not have its checksum.
    #[error("the frame's body is damaged")]
    Body,
    /// The bytes after the body are not zero.
    #[error("the frame's padding is not zero")]
    Padding,
    /// A valid frame of another entry than the one that belongs here.
    #[error("the frame holds entry {actual}, entry {expected} belongs here")]
    Index {
        /// The entry that belongs here.
        expected: u64,
        /// The entry that is here.
        actual: u64,
    },
    /// The chain does not lead from the entry before to this one.
    #[error("the frame's chain does not follow from the entry before")]
    Chain,
    /// The body is not what the leaves in the head commit to.
    #[error("the frame's events are not those that its leaves commit to")]
    Commitment,
    /// The disk cannot read it, or the file is gone.
    #[error("the frame cannot be read")]
    Unreadable,
    /// Zeros where an entry belongs.
    #[error("zeros where an entry belongs")]
    Missing,
}

/// A decoded header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Which entry.
    pub id: EntryId,
    /// What it is.
    pub kind: EntryKind,
    /// Bytes of the head.
    pub head_size: u32,
    /// Bytes of the body.
    pub body_size: u32,
    /// The entry's link of the chain.
    pub chain: Chain,
    head_crc: u32,
    body_crc: u32,
}

impl FrameHeader {
    /// The header of an entry at its place.
    pub fn new(entry: &Entry, chain: Chain, location: Location) -> FrameHeader {
        assert!(entry.payload_bytes() <= ENTRY_BYTES_MAX, "entry {:?} is too large", entry.id);
        let seed = location.seed();
        FrameHeader {
            id: entry.id,
            kind: entry.kind,
            head_size: entry.head.len() as u32,
            body_size: entry.body.len() as u32,
            chain,
            head_crc: crc32c::crc32c_append(seed, &entry.head),
            body_crc: crc32c::crc32c_append(seed, &entry.body),
        }
    }

    /// Its bytes.
    pub fn encode(&self, location: Location) -> [u8; FRAME_HEADER_SIZE] {
        let mut out = [0; FRAME_HEADER_SIZE];
        out[0..4].copy_from_slice(&FRAME_MAGIC);
        out[8] = FRAME_VERSION;
        out[9] = self.kind.as_u8();
        out[12..16].copy_from_slice(&self.head_size.to_le_bytes());
        out[16..20].copy_from_slice(&self.body_size.to_le_bytes());
        out[20..24].copy_from_slice(&self.head_crc.to_le_bytes());
        out[24..28].copy_from_slice(&self.body_crc.to_le_bytes());
        out[32..40].copy_from_slice(&self.id.index.to_le_bytes());
        out[40..48].copy_from_slice(&self.id.term.to_le_bytes());
        out[48..56].copy_from_slice(&self.id.leader.to_le_bytes());
        out[56..88].copy_from_slice(&self.chain.0);
        let crc = crc32c::crc32c_append(location.seed(), &out[8..]);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// From the first bytes of a frame; its checksum, place and values are checked.
    pub fn decode(bytes: &[u8], location: Location) -> Result<FrameHeader, FrameFault> {
        let bytes: &[u8; FRAME_HEADER_SIZE] = bytes.first_chunk().ok_or(FrameFault::Short)?;
        let crc = crc32c::crc32c_append(location.seed(), &bytes[8..]);
        if bytes[0..4] != FRAME_MAGIC || bytes[4..8] != crc.to_le_bytes() {
            return Err(FrameFault::Header);
        }
        let kind = EntryKind::from_u8(bytes[9]).ok_or(FrameFault::Unknown)?;
        let reserved = bytes[10..12].iter().chain(&bytes[28..32]).chain(&bytes[88..96]);
        if bytes[8] != FRAME_VERSION || !reserved.copied().all(|byte| byte == 0) {
            return Err(FrameFault::Unknown);
        }
        let header = FrameHeader {
            id: EntryId {
                index: u64_at(bytes, 32),
                term: u64_at(bytes, 40),
                leader: u64_at(bytes, 48),
            },
            kind,
            head_size: u32_at(bytes, 12),
            body_size: u32_at(bytes, 16),
            chain: Hash::from_slice(&bytes[56..88]).expect("32 bytes"),
            head_crc: u32_at(bytes, 20),
            body_crc: u32_at(bytes, 24),
        };
        if u64::from(header.head_size) + u64::from(header.body_size) > ENTRY_BYTES_MAX as u64 {
            return Err(FrameFault::Unknown);
        }
        Ok(header)
    }

    /// Bytes of the whole frame, padding included.
    pub fn frame_size(&self) -> u64 {
        frame_size(self.head_size as usize + self.body_size as usize)
    }

    /// Offset of the body in the frame.
    pub fn body_offset(&self) -> usize {
        FRAME_HEADER_SIZE + self.head_size as usize
    }

    /// Checks a head against its checksum.
    pub fn check_head(&self, head: &[u8], location: Location) -> Result<(), FrameFault> {
        let fits = crc32c::crc32c_append(location.seed(), head) == self.head_crc;
        if fits { Ok(()) } else { Err(FrameFault::Head) }
    }

    /// Checks a body against its checksum.
    pub fn check_body(&self, body: &[u8], location: Location) -> Result<(), FrameFault> {
        let fits = crc32c::crc32c_append(location.seed(), body) == self.body_crc;
        if fits { Ok(()) } else { Err(FrameFault::Body) }
    }
}

/// Bytes of a frame whose head and body together have `payload_bytes`.
pub fn frame_size(payload_bytes: usize) -> u64 {
    ((FRAME_HEADER_SIZE + payload_bytes) as u64).next_multiple_of(FRAME_ALIGNMENT)
}

/// Whether these bytes, which may be too few for a header, can be the first ones of a frame.
pub fn may_begin(bytes: &[u8]) -> bool {
    bytes.iter().zip(FRAME_MAGIC).all(|(byte, magic)| *byte == magic)
}

/// Checks everything about the frame at the start of `bytes` that the frame itself can tell. More
/// bytes may follow.
pub fn check(bytes: &[u8], location: Location) -> Result<FrameHeader, FrameFault> {
    let header = FrameHeader::decode(bytes, location)?;
    let frame = bytes.get(..header.frame_size() as usize).ok_or(FrameFault::Short)?;
    let (head, rest) = frame[FRAME_HEADER_SIZE..].split_at(header.head_size as usize);
    let (body, padding) = rest.split_at(header.body_size as usize);
    header.check_head(head, location)?;
    header.check_body(body, location)?;
    if padding.iter().any(|byte| *byte != 0) {
        return Err(FrameFault::Padding);
    }
    Ok(header)
}

/// The entry of the frame at the start of `bytes`, checked; shares the buffer. More bytes may
/// follow.
pub fn decode(bytes: &Bytes, location: Location) -> Result<(Entry, FrameHeader), FrameFault> {
    let header = check(bytes, location)?;
    let body_end = header.body_offset() + header.body_size as usize;
    let head = bytes.slice(FRAME_HEADER_SIZE..header.body_offset());
    let body = bytes.slice(header.body_offset()..body_end);
    Ok((Entry { id: header.id, kind: header.kind, head, body }, header))
}

pub(super) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("four bytes"))
}

pub(super) fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().expect("eight bytes"))
}
