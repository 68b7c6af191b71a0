//! Where the records are that say whose keys count: memberships (kind 3).
//!
//! The index knows of every entry what it was, so a walk over its rows finds them without reading
//! the trail. What was found is kept, and the next walk goes on where the last one ended. Records
//! of kind 12 belong to them too, but no apply rules accept any yet; the rules that will have to
//! note where they are.

use std::sync::PoisonError;

use indelible_core::{EntryKind, LeafIndex};

use super::{Ledger, LedgerError};
use crate::storage::rows::EntryRow;

/// What walks have found so far.
#[derive(Debug, Default)]
pub(super) struct KeyRecords {
    /// Entries before this one have been looked at.
    next_entry: u64,
    /// Leaves before that entry.
    next_leaf: LeafIndex,
    /// The records, in order.
    leaves: Vec<LeafIndex>,
}

impl KeyRecords {
    /// Looks at the next entry; rows of earlier ones are passed over.
    fn note(&mut self, row: &EntryRow) -> Result<(), LedgerError> {
        if row.index < self.next_entry {
            return Ok(());
        }
        if (row.index, row.first_leaf) != (self.next_entry, self.next_leaf) {
            return Err(incomplete(self.next_leaf));
        }
        if row.kind == EntryKind::Membership && row.accepted > 0 {
            self.leaves.push(row.first_leaf);
        }
        self.next_entry = row.index + 1;
        self.next_leaf = row.leaves_end();
        Ok(())
    }
}

impl Ledger {
    /// Leaves of all records about keys among the first `size`, in order. Blocks: the first call
    /// walks over all rows of the index, about 3 us for 32 entries.
    pub fn key_records(&self, size: u64) -> Result<Vec<LeafIndex>, LedgerError> {
        self.reach(size)?;
        let mut known = self.inner.key_records.lock().unwrap_or_else(PoisonError::into_inner);
        if known.next_leaf < size {
            self.walk(&mut known)?;
        }
        if known.next_leaf < size {
            return Err(incomplete(known.next_leaf));
        }
        Ok(known.leaves.iter().copied().take_while(|leaf| *leaf < size).collect())
    }

    fn walk(&self, known: &mut KeyRecords) -> Result<(), LedgerError> {
        // Memory first: rows leave it only once they are in the index.
        let recent = self.inner.shared.recent();
        let first = recent.partition_point(|row| row.index < known.next_entry);
        let in_memory: Vec<EntryRow> = recent.range(first..).cloned().collect();
        drop(recent);
        let from_memory = in_memory.first().map_or(u64::MAX, |row| row.index);
        if known.next_entry < from_memory {
            let (leaf, entry) = (known.next_leaf, known.next_entry);
            let mut noted = Ok(());
            self.inner.shared.with_index(|index| {
                for block in index.blocks_from(leaf, entry)? {
                    let block = block?;
                    let mut rows = block.iter().filter(|row| row.index < from_memory);
                    noted = rows.try_for_each(|row| known.note(row));
                    if noted.is_err() {
                        break;
                    }
                }
                Ok(())
            })?;
            noted?;
        }
        in_memory.iter().try_for_each(|row| known.note(row))
    }
}

fn incomplete(leaf: LeafIndex) -> LedgerError {
    LedgerError::Damaged { leaf, what: "the index has no entry that added it" }
}
