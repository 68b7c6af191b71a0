//! The `synced` marker: how far the log is known to be durable (docs/FORMAT.md, "Marker").
//!
//! At start it tells a torn tail, which a crash leaves, from damage to what was acknowledged, which
//! nothing but a fault leaves. It never claims more than is durable; that it may claim less is why
//! a bad frame above it can be ambiguous.
//!
//! It also names the promise under which the log was changed last, before the change: beside it, a
//! hard state that was put back with an older promise gives itself away (docs/adr/0011).

use crate::disk::{Dir, DiskError, SlotFile, SlotKind, SlotsError};

use super::frame::{Location, u64_at};

/// Name of the file.
pub const SYNCED_FILE: &str = "synced";
/// How it is stored: one sector for each slot.
pub(super) const SYNCED_SLOTS: SlotKind =
    SlotKind { name: SYNCED_FILE, magic: *b"INDSYNCD", slot_size: 512 };

/// What the marker says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Synced {
    /// One past the index of the last durable entry.
    pub next: u64,
    /// Where the frame of that entry ends; where the first segment's first frame starts if there is
    /// none.
    pub end: Location,
    /// One past the index of the last entry known to be committed: a lower bound.
    pub committed: u64,
    /// The promise under which the log was changed last.
    pub promise: Promise,
}

/// Whom a node has promised to follow: no entry of a lower promise is taken, and no vote given for
/// one. The greater one is the later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Promise {
    /// The term.
    pub term: u64,
    /// Who leads in it.
    pub leader: u64,
}

/// The marker's file.
#[derive(Debug)]
pub struct SyncedFile {
    slots: SlotFile,
}

impl Synced {
    /// The marker of an empty log.
    pub const EMPTY: Synced = Synced {
        next: 0,
        end: Location { segment: 0, offset: 0 },
        committed: 0,
        promise: Promise { term: 0, leader: 0 },
    };

    fn encode(&self) -> [u8; 48] {
        let mut out = [0; 48];
        out[0..8].copy_from_slice(&self.next.to_le_bytes());
        out[8..16].copy_from_slice(&self.end.segment.to_le_bytes());
        out[16..24].copy_from_slice(&self.end.offset.to_le_bytes());
        out[24..32].copy_from_slice(&self.committed.to_le_bytes());
        out[32..40].copy_from_slice(&self.promise.term.to_le_bytes());
        out[40..48].copy_from_slice(&self.promise.leader.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Synced {
        Synced {
            next: u64_at(bytes, 0),
            end: Location { segment: u64_at(bytes, 8), offset: u64_at(bytes, 16) },
            committed: u64_at(bytes, 24),
            promise: Promise { term: u64_at(bytes, 32), leader: u64_at(bytes, 40) },
        }
    }
}

impl SyncedFile {
    /// Makes the marker of an empty log.
    pub fn create(dir: &Dir) -> Result<SyncedFile, DiskError> {
        let slots = SlotFile::create(dir, SYNCED_SLOTS, &Synced::EMPTY.encode())?;
        Ok(SyncedFile { slots })
    }

    /// Makes the marker anew, for a log of which the caller knows that it is durable so far.
    pub fn create_as(dir: &Dir, synced: &Synced) -> Result<(), DiskError> {
        assert!(synced.committed <= synced.next, "committed past the durable end: {synced:?}");
        SlotFile::create(dir, SYNCED_SLOTS, &synced.encode()).map(|_| ())
    }

    /// Opens the marker and reads it.
    pub fn open(dir: &Dir) -> Result<(SyncedFile, Synced), SlotsError> {
        let (slots, payload) = SlotFile::open(dir, SYNCED_SLOTS)?;
        Ok((SyncedFile { slots }, Synced::decode(&payload)))
    }

    /// Reads the marker of a log that stays closed.
    pub fn read(dir: &Dir) -> Result<Synced, SlotsError> {
        Ok(Synced::decode(&SlotFile::read(dir, SYNCED_SLOTS)?))
    }

    /// Replaces what the marker says, durably. Crash before the return: the old marker or the new
    /// one; the caller sees to it that both are true.
    pub fn write(&mut self, synced: &Synced) -> Result<(), DiskError> {
        assert!(synced.committed <= synced.next, "committed past the durable end: {synced:?}");
        self.slots.write(&synced.encode())
    }
}
