//! Reading the trail: records, roots and proofs. Nothing is returned that was not checked.
//!
//! A leaf is found in memory or in the index, its entry read from the segments with one positioned
//! read, and the record compared twice: its salt and event with its leaf, and its leaf with the
//! tree. So damage in any of the three files makes an error and never a wrong byte.

use std::ops::Range;

use bytes::Bytes;
use indelible_core::leaf::{LEAF_SIZE, commit, leaf_hash};
use indelible_core::merkle::{empty_root, verify_consistency, verify_inclusion};
use indelible_core::{
    Batch, Chain, Entry, EntryId, EntryKind, Hash, Leaf, LeafIndex, ProducerId, RangeProof, Salt,
    chain,
};

use super::producers::{SeqRun, with_seqs};
use super::{Derived, Ledger, LedgerError};
use crate::storage::rows::EntryRow;

/// A record as it is stored, or derived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRecord {
    /// Where in the trail.
    pub index: LeafIndex,
    /// The leaf.
    pub leaf: [u8; LEAF_SIZE],
    /// What its commitment was made with.
    pub salt: Salt,
    /// The producer's bytes.
    pub event: Bytes,
}

impl Ledger {
    /// The record of a leaf; none if the trail does not go so far. Blocks: a few positioned reads
    /// if nothing is cached, of the record and not of all its entry.
    pub fn record(&self, leaf: LeafIndex) -> Result<Option<StoredRecord>, LedgerError> {
        if leaf >= self.inner.head.borrow().tree_size {
            return Ok(None);
        }
        match self.read_alone(leaf) {
            Ok(Some(record)) => Ok(Some(record)),
            // It is derived; or there is damage, and the checksums of its whole entry tell where.
            Ok(None) | Err(_) => Ok(self.records(leaf..leaf + 1, 0, 1)?.pop()),
        }
    }

    /// Consecutive records, from the first of `range` to its last or the end of the trail, or until
    /// the next one would take the events past `bytes_max` bytes or the records past `records_max`.
    /// At least one, if there is one and `records_max` is not 0. Blocks: one positioned read for
    /// each entry.
    pub fn records(
        &self,
        range: Range<LeafIndex>,
        bytes_max: usize,
        records_max: usize,
    ) -> Result<Vec<StoredRecord>, LedgerError> {
        let end = range.end.min(self.inner.head.borrow().tree_size);
        let mut records = Vec::new();
        let mut bytes = 0;
        let mut rows = Vec::new().into_iter();
        while records.len() < records_max {
            let next = range.start + records.len() as u64;
            if next >= end {
                break;
            }
            let row = match rows.find(|row: &EntryRow| row.leaves_end() > next) {
                Some(row) => row,
                None => {
                    rows = self.rows_from(next)?.into_iter();
                    continue;
                }
            };
            let before = records.len();
            let leaves = next..row.leaves_end().min(end);
            self.read_entry(&row, leaves, |record| {
                let full = records.len() >= records_max
                    || (!records.is_empty() && bytes + record.event.len() > bytes_max);
                if !full {
                    bytes += record.event.len();
                    records.push(record);
                }
                !full
            })
            .inspect_err(|error| self.suspect(&row, error))?;
            if records.len() as u64 + range.start < row.leaves_end().min(end) {
                break;
            }
            assert!(records.len() > before, "an entry that has the leaf gives a record");
        }
        Ok(records)
    }

    /// A record that does not fit its leaf or the tree: its segment is looked at, and everything
    /// else.
    fn suspect(&self, row: &EntryRow, error: &LedgerError) {
        if matches!(error, LedgerError::Damaged { .. } | LedgerError::Entry { .. }) {
            self.inner.log.suspect(Some(row.location.segment));
            self.inner.log.suspect(None);
        }
    }

    /// Nodes out of the tree files that do not lead to the root in memory: the files are looked at.
    pub(super) fn unproven(&self, leaf: LeafIndex) -> LedgerError {
        self.inner.log.suspect(None);
        LedgerError::Damaged { leaf, what: "the tree files do not prove it" }
    }

    /// Where recorded seqs of a producer are, in order, clipped to `seqs`. Empty for a producer
    /// that was never opened.
    pub fn runs(&self, id: &ProducerId, seqs: Range<u64>) -> Result<Vec<SeqRun>, LedgerError> {
        // Memory first: what leaves it meanwhile is in the index by then.
        let Some((state, newest)) = self.inner.shared.machine().producers.runs(id) else {
            return Ok(Vec::new());
        };
        let newest_seq = newest.first().map_or(1, |run| run.first_seq);
        let mut runs = Vec::new();
        if seqs.start < newest_seq {
            self.inner.shared.with_index(|index| {
                for row in index.runs_from(state.first_opened, seqs.start)? {
                    let (seq, row) = row?;
                    if seq >= seqs.end.min(newest_seq) {
                        break;
                    }
                    runs.extend(with_seqs(seq, &row));
                }
                Ok(())
            })?;
        }
        runs.extend(newest);
        Ok(runs.into_iter().filter_map(|run| clip(run, &seqs)).collect())
    }

    /// The entry that added a leaf, with its link of the chain. Blocks.
    pub fn entry_of(&self, leaf: LeafIndex) -> Result<(EntryId, Chain), LedgerError> {
        self.reach(leaf.saturating_add(1))?;
        let rows = self.rows_from(leaf)?;
        let row = rows.first().expect("a row that added the leaf");
        let (entry, chain) = self.read_row(row)?;
        Ok((entry.id, chain))
    }

    /// The entry of a row, with its link of the chain.
    pub(super) fn read_row(&self, row: &EntryRow) -> Result<(Entry, Chain), LedgerError> {
        let (entry, chain) = self.inner.log.read_at(row.location)?;
        if entry.id.index != row.index || entry.kind != row.kind {
            let what = "the index names another entry's place";
            return Err(LedgerError::Damaged { leaf: row.first_leaf, what });
        }
        Ok((entry, chain))
    }

    /// Gives `each` every row that has some of these leaves, which exist, with those it has.
    pub(super) fn each_row(
        &self,
        leaves: Range<LeafIndex>,
        mut each: impl FnMut(&EntryRow, Range<LeafIndex>) -> Result<(), LedgerError>,
    ) -> Result<(), LedgerError> {
        let mut next = leaves.start;
        while next < leaves.end {
            for row in self.rows_from(next)? {
                if next < leaves.end {
                    let end = row.leaves_end().min(leaves.end);
                    each(&row, next..end)?;
                    next = end;
                }
            }
        }
        Ok(())
    }

    /// Root of the first `size` leaves. It is that of a prefix of the head's tree, whose root is in
    /// memory since it was computed: damaged tree files give an error and no other root.
    pub fn root_at(&self, size: u64) -> Result<Hash, LedgerError> {
        let head = self.reach(size)?;
        if size == 0 {
            return Ok(empty_root());
        }
        if size == head.tree_size {
            return Ok(head.root);
        }
        let tree = &self.inner.shared.tree;
        let root = tree.root_at(size)?;
        let proof = tree.consistency_proof(size, head.tree_size)?;
        verify_consistency(size, head.tree_size, &proof, &root, &head.root)
            .map_err(|_| self.unproven(size - 1))?;
        Ok(root)
    }

    /// Proof that a leaf is in the tree of the first `size` leaves (RFC 6962 section 2.1.1),
    /// verified.
    pub fn prove(&self, leaf: LeafIndex, size: u64) -> Result<Vec<Hash>, LedgerError> {
        let root = self.root_at(size)?;
        if leaf >= size {
            return Err(LedgerError::OutOfRange { asked: leaf, size });
        }
        let tree = &self.inner.shared.tree;
        let leaf_hash = tree.node(0, leaf)?;
        let proof = tree.inclusion_proof(leaf, size)?;
        verify_inclusion(leaf, size, &leaf_hash, &proof, &root).map_err(|_| self.unproven(leaf))?;
        Ok(proof)
    }

    /// Proof that these records, which follow each other, are in the tree of `size` leaves with
    /// this root: of a checkpoint. Verified.
    ///
    /// Panics if there is no record.
    pub fn prove_records(
        &self,
        records: &[StoredRecord],
        size: u64,
        root: &Hash,
    ) -> Result<RangeProof, LedgerError> {
        let from = records.first().expect("something to prove").index;
        let hashes = records.iter().map(|record| leaf_hash(&record.leaf));
        self.prove_hashes(from..from + records.len() as u64, hashes, size, root)
    }

    /// As [`Self::prove_records`], for leaves of 64 bytes, one after the other, the first of which
    /// is at `from`.
    pub fn prove_leaves(
        &self,
        from: LeafIndex,
        leaves: &[u8],
        size: u64,
        root: &Hash,
    ) -> Result<RangeProof, LedgerError> {
        let (leaves, rest) = leaves.as_chunks::<LEAF_SIZE>();
        assert!(rest.is_empty(), "leaves have {LEAF_SIZE} bytes");
        let range = from..from + leaves.len() as u64;
        self.prove_hashes(range, leaves.iter().map(leaf_hash), size, root)
    }

    /// Proof that these leaves are in the first `size`, verified, with their hashes and the root.
    pub fn prove_range(
        &self,
        leaves: Range<LeafIndex>,
        size: u64,
    ) -> Result<(RangeProof, Vec<Hash>, Hash), LedgerError> {
        let root = self.root_at(size)?;
        if leaves.end > size {
            return Err(LedgerError::OutOfRange { asked: leaves.end, size });
        }
        let hashes = self.inner.shared.tree.leaf_hashes(leaves.clone())?;
        let proof = self.prove_hashes(leaves, hashes.iter().copied(), size, &root)?;
        Ok((proof, hashes, root))
    }

    fn prove_hashes(
        &self,
        leaves: Range<LeafIndex>,
        hashes: impl Iterator<Item = Hash>,
        size: u64,
        root: &Hash,
    ) -> Result<RangeProof, LedgerError> {
        self.reach(size)?;
        let Range { start: from, end: to } = leaves;
        if to > size {
            return Err(LedgerError::OutOfRange { asked: to, size });
        }
        let tree = &self.inner.shared.tree;
        let proof = RangeProof::prove(from, to, size, |level, index| tree.node(level, index))?;
        match proof.root(hashes) {
            Ok(computed) if computed == *root => Ok(proof),
            _ => Err(self.unproven(from)),
        }
    }

    /// Proof that the first `old` leaves are a prefix of the first `new` (RFC 6962 section 2.1.2),
    /// verified.
    pub fn prove_consistency(&self, old: u64, new: u64) -> Result<Vec<Hash>, LedgerError> {
        let new_root = self.root_at(new)?;
        if old > new {
            return Err(LedgerError::OutOfRange { asked: old, size: new });
        }
        let old_root = self.root_at(old)?;
        let proof = self.inner.shared.tree.consistency_proof(old, new)?;
        verify_consistency(old, new, &proof, &old_root, &new_root)
            .map_err(|_| self.unproven(old))?;
        Ok(proof)
    }

    /// The head, if it has `size` leaves.
    pub(super) fn reach(&self, size: u64) -> Result<super::Head, LedgerError> {
        let head = *self.inner.head.borrow();
        if size > head.tree_size {
            return Err(LedgerError::OutOfRange { asked: size, size: head.tree_size });
        }
        Ok(head)
    }

    /// Rows of consecutive entries, the first of which added `leaf`, which exists.
    pub(super) fn rows_from(&self, leaf: LeafIndex) -> Result<Vec<EntryRow>, LedgerError> {
        let recent = self.inner.shared.recent();
        if recent.front().is_some_and(|row| row.first_leaf <= leaf) {
            let first = recent.partition_point(|row| row.leaves_end() <= leaf);
            // Few: the caller comes again.
            return Ok(recent.range(first..).take(16).cloned().collect());
        }
        // Rows leave memory only once they are in the index.
        drop(recent);
        let mut rows = self.inner.shared.with_index(|index| index.block_of(leaf))?;
        let rows = rows.get_or_insert_default();
        rows.retain(|row| row.leaves_end() > leaf);
        match rows.first() {
            Some(row) if row.first_leaf <= leaf => Ok(std::mem::take(rows)),
            _ => Err(LedgerError::Damaged { leaf, what: "the index has no entry that added it" }),
        }
    }

    /// A record of a batch, checked, without the other records of its entry. None if it is not one
    /// of a batch.
    ///
    /// Leaving the entry's own checksums aside is sound: the leaf's hash is compared with the tree
    /// at this very position, and the leaf's commitment with salt and event. A wrong size of an
    /// event before it, a wrong row or a wrong place gives other bytes, and those do not fit.
    fn read_alone(&self, leaf: LeafIndex) -> Result<Option<StoredRecord>, LedgerError> {
        let rows = self.rows_from(leaf)?;
        let row = rows.first().expect("a row that added the leaf");
        if row.kind != EntryKind::Batch {
            return Ok(None);
        }
        let position = row.position_of((leaf - row.first_leaf) as u32) as usize;
        let found = self.inner.log.read_record_at(row.location, position)?;
        let record =
            StoredRecord { index: leaf, leaf: found.leaf, salt: found.salt, event: found.event };
        check(&record, &self.inner.shared.tree.node(0, leaf)?)?;
        Ok(Some(record))
    }

    /// Gives the records of these leaves of an entry to `each`, checked, until it says that it has
    /// enough.
    fn read_entry(
        &self,
        row: &EntryRow,
        leaves: Range<LeafIndex>,
        mut each: impl FnMut(StoredRecord) -> bool,
    ) -> Result<(), LedgerError> {
        let damaged = |what| LedgerError::Damaged { leaf: leaves.start, what };
        let records = Records::new(self, row, self.read_row(row)?.0)?;
        let hashes = self.inner.shared.tree.leaf_hashes(leaves.clone())?;
        for (index, expected) in leaves.clone().zip(hashes) {
            let record = records.get(index).ok_or(damaged("its entry has no such record"))?;
            check(&record, &expected)?;
            if !each(record) {
                break;
            }
        }
        Ok(())
    }
}

/// The records of one entry.
pub(super) enum Records<'a> {
    Derived(Derived, LeafIndex),
    Batch(Batch, &'a EntryRow),
}

impl Records<'_> {
    pub(super) fn new<'a>(
        ledger: &Ledger,
        row: &'a EntryRow,
        entry: Entry,
    ) -> Result<Records<'a>, LedgerError> {
        let index = entry.id.index;
        if row.kind == EntryKind::Batch {
            let batch = Batch::decode(&entry.head, &entry.body)
                .map_err(|fault| LedgerError::Entry { index, fault: fault.into() })?;
            return Ok(Records::Batch(batch, row));
        }
        let previous_chain = match index {
            0 => chain::genesis(&ledger.inner.shared.trail_id),
            _ => ledger.inner.log.chain_at(index - 1)?,
        };
        // A derived leaf repeats the time of the leaf before it, so the row has both.
        let derived = Derived::of(&entry, &previous_chain, row.received);
        Ok(Records::Derived(derived.expect("it is no batch"), row.first_leaf))
    }

    /// The record of a leaf, if the entry has it.
    pub(super) fn get(&self, index: LeafIndex) -> Option<StoredRecord> {
        match self {
            Records::Derived(Derived { leaf, event }, first) => (index == *first).then(|| {
                StoredRecord { index, leaf: *leaf, salt: Derived::SALT, event: event.clone() }
            }),
            Records::Batch(batch, row) => {
                let nth =
                    index.checked_sub(row.first_leaf).filter(|nth| *nth < row.accepted.into())?;
                let position = row.position_of(nth as u32) as usize;
                (position < batch.count()).then(|| StoredRecord {
                    index,
                    leaf: *batch.leaf_bytes(position),
                    salt: batch.salt(position),
                    event: batch.event(position),
                })
            }
        }
    }
}

/// Compares a record with itself and with the tree.
fn check(record: &StoredRecord, expected: &Hash) -> Result<(), LedgerError> {
    let damaged = |what| LedgerError::Damaged { leaf: record.index, what };
    let leaf = Leaf::decode(&record.leaf).map_err(|_| damaged("its leaf cannot be decoded"))?;
    if commit(&record.salt, &record.event) != leaf.commitment {
        return Err(damaged("its event is not the one that its leaf commits to"));
    }
    if leaf_hash(&record.leaf) != *expected {
        return Err(damaged("its leaf is not the one in the tree"));
    }
    Ok(())
}

/// The part of a run that is in `seqs`.
fn clip(run: SeqRun, seqs: &Range<u64>) -> Option<SeqRun> {
    let first_seq = run.first_seq.max(seqs.start);
    let end = (run.first_seq + run.count).min(seqs.end);
    (first_seq < end).then(|| SeqRun {
        first_seq,
        first_leaf: run.first_leaf + (first_seq - run.first_seq),
        count: end - first_seq,
    })
}
