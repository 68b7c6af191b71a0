//! What the index holds, as values and as bytes (docs/FORMAT.md).
//!
//! Rows are what apply computed from the log, in a form that is quick to find again: where each
//! entry is and which leaves it gave, where each producer stands, where each of its records is.
//! They hold no event bytes, no salts and no names.

use bytes::Bytes;
use indelible_core::{EntryId, EntryKind, Hash, LeafIndex, ProducerId, TrailId};

use super::fields::Fields;
use super::frame::Location;

/// The only version of these rows so far. Another one is thrown away and computed again.
pub const ROWS_VERSION: u32 = 1;
/// Entries in one block row at most: a lookup walks half of them.
pub const BLOCK_ENTRIES_MAX: usize = 32;
/// Stretches of rejected positions in one block row at most, unless one entry alone has more.
pub const BLOCK_RANGES_MAX: usize = 1024;
/// Runs in one runs row. A producer row holds the newest ones, at most as many.
pub const RUNS_PER_ROW: usize = 16;

const BLOCK_HEADER_SIZE: usize = 24;
const ENTRY_SIZE: usize = 40;
const RANGE_SIZE: usize = 8;
const PRODUCER_SIZE: usize = 40;
const RUN_SIZE: usize = 16;
const STATE_SIZE: usize = 144;
const ID_SIZE: usize = 24;

/// What apply made of one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryRow {
    /// The entry.
    pub index: u64,
    /// What it is.
    pub kind: EntryKind,
    /// Size of the tree before it: index of its first leaf, if it has any.
    pub first_leaf: LeafIndex,
    /// Leaves that it added.
    pub accepted: u32,
    /// Stretches of positions in the batch that gave no leaf, in order, not touching.
    pub rejected: Vec<Positions>,
    /// Where its frame is.
    pub location: Location,
    /// `received` of the newest leaf after it, in Unix nanoseconds.
    pub received: u64,
}

/// Consecutive positions in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Positions {
    /// The first of them.
    pub first: u32,
    /// How many; at least one.
    pub count: u32,
}

impl EntryRow {
    /// One past its last leaf.
    pub fn leaves_end(&self) -> LeafIndex {
        self.first_leaf + u64::from(self.accepted)
    }

    /// Position in the batch of the entry's leaf number `nth` (from 0).
    pub fn position_of(&self, nth: u32) -> u32 {
        assert!(nth < self.accepted, "entry {} has no leaf number {nth}", self.index);
        self.rejected.iter().fold(nth, |position, rejected| {
            if position >= rejected.first { position + rejected.count } else { position }
        })
    }

    /// Records in the batch, accepted or not.
    pub fn records(&self) -> u64 {
        let rejected: u64 = self.rejected.iter().map(|range| u64::from(range.count)).sum();
        u64::from(self.accepted) + rejected
    }
}

/// Consecutive records of one producer at consecutive leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Leaf of the first.
    pub first_leaf: LeafIndex,
    /// How many; at least one.
    pub count: u64,
}

/// A producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerRow {
    /// Leaf of its newest opening.
    pub opened: LeafIndex,
    /// Number of that opening, from 1.
    pub epoch: u64,
    /// Number of its newest record; 0 if it has none.
    pub last_seq: u64,
    /// Leaf of its first opening: its short name in other rows.
    pub first_opened: LeafIndex,
    /// Number of the first record in `runs`.
    pub runs_seq: u64,
    /// Its newest runs; records before them are in runs rows.
    pub runs: Vec<Run>,
}

/// Up to where the other rows go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateRow {
    /// Whose trail.
    pub trail_id: TrailId,
    /// The newest applied entry.
    pub id: EntryId,
    /// Its link of the chain.
    pub chain: Hash,
    /// Size of the tree after it.
    pub tree_size: u64,
    /// Root of that tree.
    pub root: Hash,
    /// `received` of the newest leaf.
    pub last_received: u64,
    /// Highest node id that was ever in a membership.
    pub max_node_id: u64,
}

/// Consecutive entries in blocks, each for one row.
pub fn blocks(entries: &[EntryRow]) -> impl Iterator<Item = &[EntryRow]> {
    let mut rest = entries;
    std::iter::from_fn(move || {
        let mut ranges = 0;
        let fits = |entry: &&EntryRow| {
            ranges += entry.rejected.len();
            ranges <= BLOCK_RANGES_MAX
        };
        let count = rest.iter().take(BLOCK_ENTRIES_MAX).take_while(fits).count().max(1);
        let (block, after) = rest.split_at_checked(count)?;
        rest = after;
        Some(block)
    })
}

/// A block of entries, for its row. They are consecutive, in order, at least one.
pub fn encode_block(entries: &[EntryRow]) -> Vec<u8> {
    let first = entries.first().expect("a block has entries");
    assert!(entries.len() <= BLOCK_ENTRIES_MAX);
    let mut out = Vec::with_capacity(BLOCK_HEADER_SIZE + entries.len() * ENTRY_SIZE);
    put_u64(&mut out, first.index);
    put_u64(&mut out, first.first_leaf);
    put_u32(&mut out, entries.len() as u32);
    put_u32(&mut out, 0);
    for (position, entry) in entries.iter().enumerate() {
        assert_eq!(entry.index, first.index + position as u64, "entries of a block have no gaps");
        put_u32(&mut out, entry.accepted);
        put_u32(&mut out, entry.rejected.len() as u32);
        put_u32(&mut out, entry.kind.as_u8().into());
        put_u32(&mut out, 0);
        put_u64(&mut out, entry.location.segment);
        put_u64(&mut out, entry.location.offset);
        put_u64(&mut out, entry.received);
    }
    for range in entries.iter().flat_map(|entry| &entry.rejected) {
        put_u32(&mut out, range.first);
        put_u32(&mut out, range.count);
    }
    out
}

/// The entries of a block row; none if the bytes are not one.
pub fn decode_block(bytes: &[u8]) -> Option<Vec<EntryRow>> {
    let mut fields = Fields(bytes);
    let (first_index, mut first_leaf) = (fields.u64()?, fields.u64()?);
    let (count, reserved) = (fields.u32()? as usize, fields.u32()?);
    if count == 0 || count > BLOCK_ENTRIES_MAX || reserved != 0 {
        return None;
    }
    let mut ranges = Fields(fields.0.get(count * ENTRY_SIZE..)?);
    let mut entries = Vec::with_capacity(count);
    for position in 0..count as u64 {
        let accepted = fields.u32()?;
        let rejected = fields.u32()? as usize;
        let kind = EntryKind::from_u8(u8::try_from(fields.u32()?).ok()?)?;
        if fields.u32()? != 0 || rejected > ranges.0.len() / RANGE_SIZE {
            return None;
        }
        let location = Location { segment: fields.u64()?, offset: fields.u64()? };
        let received = fields.u64()?;
        let rejected = (0..rejected)
            .map(|_| Some(Positions { first: ranges.u32()?, count: ranges.u32()? }))
            .collect::<Option<Vec<_>>>()?;
        if !positions_fit(accepted, &rejected) {
            return None;
        }
        let index = first_index.checked_add(position)?;
        entries.push(EntryRow { index, kind, first_leaf, accepted, rejected, location, received });
        first_leaf = first_leaf.checked_add(accepted.into())?;
    }
    ranges.0.is_empty().then_some(entries)
}

/// Whether the stretches are in order, apart, and within a batch of their sum and `accepted`.
fn positions_fit(accepted: u32, rejected: &[Positions]) -> bool {
    let mut records = u64::from(accepted);
    let mut end = None;
    for range in rejected {
        let first = u64::from(range.first);
        if range.count == 0 || end.is_some_and(|end| first <= end) {
            return false;
        }
        end = Some(first + u64::from(range.count));
        records += u64::from(range.count);
    }
    records <= u64::from(u32::MAX) && end.is_none_or(|end| end <= records)
}

impl ProducerRow {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(PRODUCER_SIZE + self.runs.len() * RUN_SIZE);
        put_u64(&mut out, self.opened);
        put_u64(&mut out, self.epoch);
        put_u64(&mut out, self.last_seq);
        put_u64(&mut out, self.first_opened);
        put_u64(&mut out, self.runs_seq);
        out.extend_from_slice(&encode_runs(&self.runs));
        out
    }

    /// From its bytes; none if they are no producer row.
    pub fn decode(bytes: &[u8]) -> Option<ProducerRow> {
        let (fixed, runs) = bytes.split_at_checked(PRODUCER_SIZE)?;
        let mut fields = Fields(fixed);
        let row = ProducerRow {
            opened: fields.u64()?,
            epoch: fields.u64()?,
            last_seq: fields.u64()?,
            first_opened: fields.u64()?,
            runs_seq: fields.u64()?,
            runs: decode_runs(runs)?,
        };
        let recorded: u64 = row.runs.iter().map(|run| run.count).sum();
        (row.runs_seq.checked_add(recorded)? == row.last_seq.checked_add(1)?).then_some(row)
    }
}

/// Runs, for a row.
pub fn encode_runs(runs: &[Run]) -> Vec<u8> {
    let mut out = Vec::with_capacity(runs.len() * RUN_SIZE);
    for run in runs {
        put_u64(&mut out, run.first_leaf);
        put_u64(&mut out, run.count);
    }
    out
}

/// The runs of a row; none if the bytes are none.
pub fn decode_runs(bytes: &[u8]) -> Option<Vec<Run>> {
    let (chunks, rest) = bytes.as_chunks::<RUN_SIZE>();
    let run = |chunk: &[u8; RUN_SIZE]| {
        let mut fields = Fields(chunk);
        let run = Run { first_leaf: fields.u64()?, count: fields.u64()? };
        // Small enough that no sum of the counts of a row overflows.
        (run.count > 0 && run.count < 1 << 56).then_some(run)
    };
    if rest.is_empty() { chunks.iter().map(run).collect() } else { None }
}

impl StateRow {
    /// Its bytes.
    pub fn encode(&self) -> [u8; STATE_SIZE] {
        let mut out = Vec::with_capacity(STATE_SIZE);
        put_u32(&mut out, ROWS_VERSION);
        put_u32(&mut out, 0);
        out.extend_from_slice(&self.trail_id.0);
        out.extend_from_slice(&encode_id(self.id));
        out.extend_from_slice(&self.chain.0);
        put_u64(&mut out, self.tree_size);
        out.extend_from_slice(&self.root.0);
        put_u64(&mut out, self.last_received);
        put_u64(&mut out, self.max_node_id);
        put_u64(&mut out, 0);
        out.try_into().expect("the fields make up the row")
    }

    /// From its bytes; none if they are no state row of this version.
    pub fn decode(bytes: &[u8]) -> Option<StateRow> {
        if bytes.len() != STATE_SIZE {
            return None;
        }
        let mut fields = Fields(bytes);
        if fields.u32()? != ROWS_VERSION || fields.u32()? != 0 {
            return None;
        }
        let row = StateRow {
            trail_id: TrailId(fields.array()?),
            id: entry_id(&mut fields)?,
            chain: Hash(fields.array()?),
            tree_size: fields.u64()?,
            root: Hash(fields.array()?),
            last_received: fields.u64()?,
            max_node_id: fields.u64()?,
        };
        (fields.u64()? == 0).then_some(row)
    }
}

/// A membership entry and its payload, for their row.
pub fn encode_membership(id: EntryId, payload: &[u8]) -> Vec<u8> {
    let mut out = encode_id(id).to_vec();
    out.extend_from_slice(payload);
    out
}

/// The membership of its row; none if the bytes are too few.
pub fn decode_membership(bytes: &[u8]) -> Option<(EntryId, Bytes)> {
    let id = entry_id(&mut Fields(bytes))?;
    Some((id, Bytes::copy_from_slice(&bytes[ID_SIZE..])))
}

/// A producer id out of a row's key or value; none if the length is wrong.
pub fn decode_producer_id(bytes: &[u8]) -> Option<ProducerId> {
    ProducerId::from_slice(bytes)
}

fn encode_id(id: EntryId) -> [u8; ID_SIZE] {
    let mut out = [0; ID_SIZE];
    out[0..8].copy_from_slice(&id.index.to_le_bytes());
    out[8..16].copy_from_slice(&id.term.to_le_bytes());
    out[16..24].copy_from_slice(&id.leader.to_le_bytes());
    out
}

fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn entry_id(fields: &mut Fields<'_>) -> Option<EntryId> {
    Some(EntryId { index: fields.u64()?, term: fields.u64()?, leader: fields.u64()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, ranges: u32) -> EntryRow {
        EntryRow {
            index,
            kind: EntryKind::Batch,
            first_leaf: 100 + index * 3,
            accepted: 3,
            rejected: (0..ranges).map(|n| Positions { first: 2 * n, count: 1 }).collect(),
            location: Location { segment: 5, offset: 96 + index },
            received: 1000 + index,
        }
    }

    /// Blocks lose nothing, have no more entries and ranges than they may, and are read as they
    /// were written.
    #[test]
    fn blocks_hold_everything() {
        let mut entries: Vec<_> = (0..100).map(|index| entry(index, 0)).collect();
        entries[40] = entry(40, 3);
        entries[41] = entry(41, 2);
        entries[60] = EntryRow { rejected: entry(0, 2000).rejected, accepted: 3, ..entry(60, 0) };
        entries[60].accepted = 2000;
        for (entry, first_leaf) in entries[61..].iter_mut().zip((100 + 60 * 3 + 2000..).step_by(3))
        {
            entry.first_leaf = first_leaf;
        }
        let mut read = Vec::new();
        for block in blocks(&entries) {
            assert!(!block.is_empty() && block.len() <= BLOCK_ENTRIES_MAX);
            let ranges: usize = block.iter().map(|entry| entry.rejected.len()).sum();
            assert!(ranges <= BLOCK_RANGES_MAX || block.len() == 1);
            read.extend(decode_block(&encode_block(block)).expect("a block"));
        }
        assert_eq!(read, entries);
        assert_eq!(blocks(&[]).count(), 0);
    }

    /// Cut or changed rows are refused, or read as other values; they never panic.
    #[test]
    fn damaged_rows() {
        let block = encode_block(&[entry(7, 2), entry(8, 0), entry(9, 1)]);
        for length in 0..block.len() {
            assert_eq!(decode_block(&block[..length]), None, "cut at {length}");
        }
        for position in 0..block.len() * 8 {
            let mut changed = block.clone();
            changed[position / 8] ^= 1 << (position % 8);
            let Some(entries) = decode_block(&changed) else { continue };
            assert_ne!(entries, decode_block(&block).expect("a block"), "bit {position}");
            for entry in entries.iter().filter(|entry| entry.accepted > 0) {
                assert!(u64::from(entry.position_of(entry.accepted - 1)) < entry.records());
            }
        }
        let runs = vec![Run { first_leaf: 3, count: 2 }, Run { first_leaf: 9, count: 1 }];
        let (opened, epoch, first_opened) = (1, 1, 1);
        let row = ProducerRow { opened, epoch, last_seq: 4, first_opened, runs_seq: 2, runs };
        let bytes = row.encode();
        assert_eq!(ProducerRow::decode(&bytes), Some(row));
        for length in 0..bytes.len() {
            assert_eq!(ProducerRow::decode(&bytes[..length]), None, "cut at {length}");
        }
    }

    #[test]
    fn positions_skip_what_was_rejected() {
        let rejected = vec![Positions { first: 0, count: 2 }, Positions { first: 4, count: 1 }];
        let entry = EntryRow { accepted: 4, rejected, ..entry(1, 0) };
        assert_eq!([0, 1, 2, 3].map(|nth| entry.position_of(nth)), [2, 3, 5, 6]);
        assert_eq!((entry.records(), entry.leaves_end()), (7, 107));
    }
}
