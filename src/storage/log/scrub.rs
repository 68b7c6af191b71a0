//! The scrub: reads a segment again, all of it, and computes every checksum and hash again.

use std::ops::Range;

use indelible_core::{Chain, Entry, Hash, chain};
use sha3::{Digest, Sha3_256};

use super::state::{Shared, State};
use super::{Log, LogError};
use crate::disk::DiskError;
use crate::storage::frame::{FrameFault, Location};
use crate::storage::mend::{Common, Damage, DamageKind, Found, Own};
use crate::storage::recovery::{self, Reader};
use crate::storage::segment::{self, SEGMENT_HEADER_SIZE, SegmentHeader, SegmentInfo, Summary};

/// What a digest begins with (docs/FORMAT.md, "Digest").
const DIGEST_TAG: u8 = 0x13;

/// Why a scrub has no digest.
#[derive(Debug, thiserror::Error)]
pub enum ScrubError {
    /// The segment is damaged; [`Log::mend_segment`] mends it.
    #[error("{0}; hint: a peer has these entries")]
    Damaged(Box<Damage>),
    /// There is no such segment, or no longer.
    #[error("there is no segment {first} any more")]
    Gone {
        /// The first entry asked for.
        first: u64,
    },
}

/// A segment of an open log, as far as it is durable.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) summary: Summary,
    pub(super) sealed: bool,
    /// Truncations before.
    pub(super) epoch: u64,
    /// One past the last durable entry, and where its frame ends.
    pub(super) durable: (u64, u64),
}

impl Part {
    /// Entries that are durable.
    fn entries(&self) -> Range<u64> {
        self.summary.first..self.durable.0
    }

    pub(super) fn header(&self, common: &Common) -> SegmentHeader {
        SegmentHeader {
            trail_id: common.trail_id,
            first: self.summary.first,
            segment_bytes: common.segment_bytes,
            chain_before: self.summary.chain_before,
        }
    }
}

impl State {
    /// A segment that has durable entries.
    pub(super) fn part(&self, first: u64) -> Option<Part> {
        let segment = self.segments.get(&first)?;
        let summary = segment.summary.clone();
        let durable = match self.durable >= summary.next {
            true => (summary.next, summary.frames_end),
            false => (self.durable, self.durable_end.offset),
        };
        (durable.0 > first).then_some(Part {
            summary,
            sealed: segment.sealed,
            epoch: self.epoch,
            durable,
        })
    }
}

impl Log {
    /// All segments, as far as they are chained.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let state = self.shared.lock();
        state.segments.values().map(|segment| segment.summary.info(segment.sealed)).collect()
    }

    /// Segments that never change any more.
    pub fn sealed_segments(&self) -> Vec<SegmentInfo> {
        self.segments().into_iter().filter(|segment| segment.sealed).collect()
    }

    /// Reads all that is durable of the segment that starts with entry `first` from the disk, past
    /// the system's memory where it can be told so, and computes again every checksum, every link
    /// of the chain and every commitment. Returns the digest of what was read: the same on every
    /// node for a sealed segment. `throttle` is told how many bytes were read since the last call,
    /// and may wait. Blocks.
    pub fn scrub_segment(
        &self,
        first: u64,
        throttle: &mut dyn FnMut(usize),
    ) -> Result<Hash, ScrubError> {
        loop {
            let part = self.shared.lock().part(first).ok_or(ScrubError::Gone { first })?;
            let result = self.shared.scrub(&part, throttle);
            let state = self.shared.lock();
            if !part.sealed && state.epoch != part.epoch {
                continue; // it was cut while it was read
            }
            drop(state);
            return result;
        }
    }

    /// The entry at an index and its link of the chain, as the disk or the memory has them.
    pub fn entry_raw(&self, index: u64) -> Result<(Entry, Chain), LogError> {
        self.read_at(self.locate(index)?)
    }

    /// Reads an entry and computes everything again that binds it: checksums, commitments, and its
    /// link with that before. [`LogError::Corrupt`] if something does not fit.
    pub fn check_entry(&self, index: u64) -> Result<(), LogError> {
        let location = self.locate(index)?;
        let (entry, link) = self.read_at(location)?;
        let before = match index.checked_sub(1) {
            None => self.genesis(),
            Some(before) => self.chain_at(before)?,
        };
        let fault = match crate::storage::mend::check_entry(&entry) {
            Err(_) => FrameFault::Commitment,
            Ok(()) if chain::link_entry(&before, &entry) != link => FrameFault::Chain,
            Ok(()) => return Ok(()),
        };
        let name = segment::file_name(location.segment);
        let file = self.shared.files.dir().path().join(name);
        Err(LogError::Corrupt { index, file, offset: location.offset, fault })
    }
}

impl Shared {
    pub(super) fn common(&self) -> Common {
        let (trail_id, segment_bytes) = (self.options.trail_id, self.options.segment_bytes);
        Common { trail_id, segment_bytes }
    }

    fn scrub(&self, part: &Part, throttle: &mut dyn FnMut(usize)) -> Result<Hash, ScrubError> {
        let first = part.summary.first;
        let path = self.files.dir().path().join(segment::file_name(first));
        let damaged = |offset, from, to, what: String| {
            let (kind, file) = (DamageKind::Segment, path.clone());
            Err(ScrubError::Damaged(Box::new(Damage::new(kind, file, offset, from, to, what))))
        };
        let unreadable = |error: DiskError| damaged(0, first, None, error.to_string());
        // Opened anew: a file that was replaced or removed by hand shows.
        let file = match self.files.dir().open_file_read_only(&segment::file_name(first)) {
            Ok(file) => file,
            Err(error) => return unreadable(error),
        };
        file.forget(0, part.summary.sealed_bytes());
        let result = self.scrub_file(&file, part, throttle);
        file.forget(0, part.summary.sealed_bytes());
        match result {
            Ok(Ok(digest)) => Ok(digest),
            Ok(Err(Bad { offset, from, what })) => {
                let following = Own::new(first, Some(&file), &self.common())
                    .and_then(|mut own| own.following(offset.max(segment::FRAMES_START), from));
                let to = following.ok().flatten().map(|(index, _)| index);
                damaged(offset, from, to, what)
            }
            Err(error) => unreadable(error),
        }
    }

    fn scrub_file(
        &self,
        file: &crate::disk::File,
        part: &Part,
        throttle: &mut dyn FnMut(usize),
    ) -> Result<Result<Hash, Bad>, DiskError> {
        let Summary { first, chain_before, .. } = part.summary;
        let bad = |offset, from, what: &str| Ok(Err(Bad { offset, from, what: what.into() }));
        let mut reader = Reader::new(file)?;
        let header = part.header(&self.common()).encode();
        if *reader.bytes(0, SEGMENT_HEADER_SIZE)? != header {
            return bad(0, first, "the segment's header is damaged");
        }
        let mut digest = Sha3_256::new();
        digest.update([DIGEST_TAG]);
        digest.update(header);
        let mut own = Own::with(reader, first);
        let mut summary = Summary::new(first, chain_before);
        let mut told = 0;
        for index in part.entries() {
            let offset = summary.frames_end;
            let (id, link, frame) = match own.look(offset, index, &summary.chain_after)? {
                Found::Next(entry, frame) => (entry.id, frame.chain, frame),
                Found::Other => return bad(offset, index, &FrameFault::Chain.to_string()),
                Found::Nothing(fault) => return bad(offset, index, &fault.to_string()),
            };
            digest.update(frame.encode(Location { segment: first, offset }));
            summary.push(id, link, frame.frame_size());
            if summary.frames_end - told >= THROTTLE_BYTES {
                throttle((summary.frames_end - told) as usize);
                told = summary.frames_end;
            }
        }
        throttle((summary.frames_end - told) as usize);
        if summary.frames_end != part.durable.1
            || (summary.next == part.summary.next && summary != part.summary)
        {
            return bad(
                segment::FRAMES_START,
                first,
                "its entries are not those that were written",
            );
        }
        let mut reader = Reader::new(file)?;
        if part.sealed && recovery::judge_footer(&mut reader, &summary)? != Some(true) {
            return bad(summary.frames_end, summary.next, "the segment's footer is damaged");
        }
        Ok(Ok(Hash(digest.finalize().into())))
    }
}

/// Bytes between two calls of a throttle.
const THROTTLE_BYTES: u64 = 256 * 1024;

/// What a scrub has found.
struct Bad {
    offset: u64,
    from: u64,
    what: String,
}
