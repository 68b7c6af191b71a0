//! The index: rows in sled, found by leaf, by producer, by seq. The only file that names sled.
//!
//! Sled is a beta by its authors' word, so nothing depends on it: every row can be computed again
//! from the segments, and is, whenever sled does not open, does not answer or does not agree with
//! them. It panics on some damage; where panics unwind, opening catches that. Where they abort, the
//! ledger counts attempts instead (see `ledger::recover`).
//!
//! Cost: sled keeps 16 rows in a leaf page and copies the page for each insert, about 12 us a row,
//! and its unwritten buffers grow without bound if rows come faster than it writes them. A row for
//! each entry made a node of one-event entries use 50 us and more than 1 KiB of memory an entry. So
//! rows come in blocks, and only with a commit (see `ledger::commit`).
//!
//! Keys (docs/FORMAT.md): a letter, then big-endian integers, so that they sort like what
//! they name.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use bytes::Bytes;
use indelible_core::{EntryId, LeafIndex, ProducerId};

use super::rows::{
    EntryRow, ProducerRow, Run, StateRow, decode_block, decode_membership, decode_producer_id,
    decode_runs, encode_block, encode_membership, encode_runs,
};
use crate::disk::{self, DiskError};

/// Pages that sled keeps in memory, in bytes. Blocks are read through the system's page cache
/// anyway.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;

/// The file in its directory on which sled holds a lock for as long as it writes.
const LOCKED_FILE: &str = "db";

const BLOCK: u8 = b'b';
const MEMBERSHIP: u8 = b'm';
const OPENING: u8 = b'o';
const PRODUCER: u8 = b'p';
const RUNS: u8 = b'r';
const STATE: u8 = b's';

/// Why the index did not answer. Local to this node; the index can be computed again.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// Sled said so.
    #[error("index: {0}")]
    Sled(#[from] sled::Error),
    /// The disk, outside of sled.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Sled panicked.
    #[error("index: sled panicked on its files")]
    Panicked,
    /// A row that cannot be.
    #[error("index: row {key} is damaged")]
    Row {
        /// Its key in hex.
        key: String,
    },
}

/// Everything that the ledger keeps in memory, as the index has it.
#[derive(Debug)]
pub struct Loaded {
    /// Up to where the rows go.
    pub state: StateRow,
    /// The newest membership entry.
    pub membership: (EntryId, Bytes),
    /// Every producer, in order of id.
    pub producers: Vec<(ProducerId, ProducerRow)>,
    /// Every opening of a producer, in order of leaf.
    pub openings: Vec<(LeafIndex, ProducerId)>,
}

/// An open index.
#[derive(Debug)]
pub struct Index {
    db: sled::Db,
}

/// Rows that become visible together.
#[derive(Debug, Default)]
pub struct Changes(sled::Batch);

impl Changes {
    /// A block of entries.
    pub fn block(&mut self, entries: &[EntryRow]) {
        let first = entries.first().expect("a block has entries");
        self.0.insert(&key2(BLOCK, first.first_leaf, first.index), encode_block(entries));
    }

    /// Where a producer stands.
    pub fn producer(&mut self, id: &ProducerId, row: &ProducerRow) {
        self.0.insert([&[PRODUCER][..], &id.0].concat(), row.encode());
    }

    /// An opening of a producer.
    pub fn opening(&mut self, leaf: LeafIndex, id: &ProducerId) {
        self.0.insert(&key1(OPENING, leaf), &id.0);
    }

    /// Older runs of a producer; the first of them starts with `seq`.
    pub fn runs(&mut self, first_opened: LeafIndex, seq: u64, runs: &[Run]) {
        self.0.insert(&key2(RUNS, first_opened, seq), encode_runs(runs));
    }

    /// The newest membership entry.
    pub fn membership(&mut self, id: EntryId, payload: &[u8]) {
        self.0.insert(&[MEMBERSHIP], encode_membership(id, payload));
    }

    /// Up to where the rows go.
    pub fn state(&mut self, state: &StateRow) {
        self.0.insert(&[STATE], state.encode().to_vec());
    }
}

impl Index {
    /// Opens the index in this directory, or makes one.
    pub fn open(path: &Path) -> Result<Index, IndexError> {
        // A handle that this process has just dropped may still be busy with its last writes.
        disk::wait_unlocked(&path.join(LOCKED_FILE))?;
        // Sled's own flush thread stays off: the ledger says when.
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(CACHE_BYTES)
            .mode(sled::Mode::HighThroughput)
            .flush_every_ms(None);
        Ok(Index { db: guarded(|| config.open())? })
    }

    /// What the ledger keeps in memory; none if the index is empty.
    pub fn load(&self) -> Result<Option<Loaded>, IndexError> {
        guarded_rows(|| {
            let Some(state) = self.db.get([STATE])? else { return Ok(None) };
            let state = StateRow::decode(&state).ok_or_else(|| damaged(&[STATE]))?;
            self.check_last_block(&state)?;
            let membership = self.db.get([MEMBERSHIP])?.as_deref().and_then(decode_membership);
            let membership = membership.ok_or_else(|| damaged(&[MEMBERSHIP]))?;
            let producers = self.producers().collect::<Result<_, _>>()?;
            let openings = self.openings().collect::<Result<_, _>>()?;
            Ok(Some(Loaded { state, membership, producers, openings }))
        })
    }

    /// Rows come in batches that are whole or not there; this is what shows if one is not.
    fn check_last_block(&self, state: &StateRow) -> Result<(), IndexError> {
        let last = self.db.scan_prefix([BLOCK]).next_back();
        let last = last.map(|row| decode(row, decode_block)).transpose()?;
        let last = last.as_deref().and_then(<[EntryRow]>::last);
        match last.map(|row| (row.index, row.leaves_end(), row.received)) {
            Some(end) if end == (state.id.index, state.tree_size, state.last_received) => Ok(()),
            _ => Err(damaged(&[BLOCK])),
        }
    }

    /// The block with the entry that added `leaf`; none if there is no such block. The caller knows
    /// that the leaf exists.
    pub fn block_of(&self, leaf: LeafIndex) -> Result<Option<Vec<EntryRow>>, IndexError> {
        // Of several blocks that start at one leaf, the last is the one with an entry that added
        // it.
        let to = key2(BLOCK, leaf, u64::MAX);
        let found = self.db.range(&[BLOCK][..]..=&to[..]).next_back();
        found.map(|row| decode(row, decode_block)).transpose()
    }

    /// All blocks, in order of leaf and entry.
    pub fn blocks(&self) -> impl Iterator<Item = Result<Vec<EntryRow>, IndexError>> + use<> {
        self.db.scan_prefix([BLOCK]).map(|row| decode(row, decode_block))
    }

    /// Blocks in order, beginning with the one that has this entry, which comes after `leaf`
    /// leaves.
    pub fn blocks_from(
        &self,
        leaf: LeafIndex,
        entry: u64,
    ) -> Result<impl Iterator<Item = Result<Vec<EntryRow>, IndexError>> + use<>, IndexError> {
        let at = key2(BLOCK, leaf, entry);
        let first = self.db.range(&[BLOCK][..]..=&at[..]).next_back().transpose()?;
        let from = first.map_or(at.to_vec(), |(key, _)| key.to_vec());
        Ok(self.db.range(from..vec![BLOCK + 1]).map(|row| decode(row, decode_block)))
    }

    /// Where a producer stands.
    pub fn producer(&self, id: &ProducerId) -> Result<Option<ProducerRow>, IndexError> {
        let key = [&[PRODUCER][..], &id.0].concat();
        let row = self.db.get(&key)?;
        row.map(|row| ProducerRow::decode(&row).ok_or_else(|| damaged(&key))).transpose()
    }

    /// All producers, in order of id.
    pub fn producers(
        &self,
    ) -> impl Iterator<Item = Result<(ProducerId, ProducerRow), IndexError>> + use<> {
        self.db.scan_prefix([PRODUCER]).map(|row| {
            let (key, value) = row?;
            let id = decode_producer_id(&key[1..]).ok_or_else(|| damaged(&key))?;
            Ok((id, ProducerRow::decode(&value).ok_or_else(|| damaged(&key))?))
        })
    }

    /// All openings, in order of leaf.
    pub fn openings(
        &self,
    ) -> impl Iterator<Item = Result<(LeafIndex, ProducerId), IndexError>> + use<> {
        self.db.scan_prefix([OPENING]).map(|row| {
            let (key, value) = row?;
            let leaf = u64_be(&key[1..]).ok_or_else(|| damaged(&key))?;
            Ok((leaf, decode_producer_id(&value).ok_or_else(|| damaged(&key))?))
        })
    }

    /// Older runs of a producer, in order, each with the seq that it starts with; the first row is
    /// the one that `seq` is in, if it is in any.
    pub fn runs_from(
        &self,
        first_opened: LeafIndex,
        seq: u64,
    ) -> Result<impl Iterator<Item = Result<(u64, Vec<Run>), IndexError>> + use<>, IndexError> {
        let prefix = key1(RUNS, first_opened);
        let at = key2(RUNS, first_opened, seq);
        let first = self.db.range(&prefix[..]..=&at[..]).next_back().transpose()?;
        let from = first.map_or(at.to_vec(), |(key, _)| key.to_vec());
        let to = key2(RUNS, first_opened, u64::MAX).to_vec();
        Ok(self.db.range(from..=to).map(|row| {
            let (key, value) = row?;
            let seq = key.get(9..).and_then(u64_be).ok_or_else(|| damaged(&key))?;
            Ok((seq, decode_runs(&value).ok_or_else(|| damaged(&key))?))
        }))
    }

    /// Rows of all kinds.
    pub fn count(&self) -> u64 {
        self.db.iter().count() as u64
    }

    /// Makes these rows visible, all or, after a crash, possibly none of them.
    pub fn apply(&self, changes: Changes) -> Result<(), IndexError> {
        Ok(self.db.apply_batch(changes.0)?)
    }

    /// Closes the index; returns when sled has let go of its files, which is some time after its
    /// handle is gone.
    pub fn close(self, path: &Path) -> Result<(), IndexError> {
        drop(self.db);
        Ok(disk::wait_unlocked(&path.join(LOCKED_FILE))?)
    }

    /// Makes all rows durable.
    pub fn flush(&self) -> Result<(), IndexError> {
        self.db.flush()?;
        Ok(())
    }
}

/// Runs what may panic on damaged files.
fn guarded<T>(work: impl FnOnce() -> Result<T, sled::Error>) -> Result<T, IndexError> {
    guarded_rows(|| Ok(work()?))
}

fn guarded_rows<T>(work: impl FnOnce() -> Result<T, IndexError>) -> Result<T, IndexError> {
    // Unwind safe: after a panic the handle is dropped and the files are thrown away.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(IndexError::Panicked))
}

type RowResult = sled::Result<(sled::IVec, sled::IVec)>;

fn decode<T>(row: RowResult, decode: impl FnOnce(&[u8]) -> Option<T>) -> Result<T, IndexError> {
    let (key, value) = row?;
    decode(&value).ok_or_else(|| damaged(&key))
}

fn damaged(key: &[u8]) -> IndexError {
    IndexError::Row { key: hex::encode(key) }
}

fn key1(kind: u8, first: u64) -> [u8; 9] {
    let mut key = [kind; 9];
    key[1..].copy_from_slice(&first.to_be_bytes());
    key
}

fn key2(kind: u8, first: u64, second: u64) -> [u8; 17] {
    let mut key = [kind; 17];
    key[1..9].copy_from_slice(&first.to_be_bytes());
    key[9..].copy_from_slice(&second.to_be_bytes());
    key
}

fn u64_be(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}
