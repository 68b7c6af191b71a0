//! The tree in tiles of 256 hashes, and its leaves in bundles, as C2SP tlog-tiles has them.
//!
//! A tile is read from one level's file and could be damaged there. So it is put into the place
//! that it has in the tree, between the nodes to its left and to its right, and must give the root
//! that the caller knows from elsewhere: a tile that does not belong to that tree is not returned.
//! That takes about 300 hashes.

use std::ops::Range;

use indelible_core::batch::RecordPlace;
use indelible_core::leaf::{LEAF_SIZE, leaf_hash};
use indelible_core::{EntryKind, Hash, LeafIndex, RangeProof};

use super::{Ledger, LedgerError};
use crate::disk::DiskError;
use crate::storage::rows::EntryRow;
use crate::storage::tree::Tree;

/// Hashes of a full tile.
pub(super) const TILE_WIDTH: u16 = 256;
/// Levels of the tree that a tile's hashes stand for.
const TILE_HEIGHT: u8 = 8;

impl Ledger {
    /// The hashes of a tile that is within the first `size` leaves, checked against their root:
    /// hash `i` is node `(8 * level, 256 * index + i)`. None if the tree of that size does not have
    /// `width` of them. Blocks.
    pub fn tile(
        &self,
        (level, index, width): (u8, u64, u16),
        size: u64,
        root: &Hash,
    ) -> Result<Option<Vec<Hash>>, LedgerError> {
        self.reach(size)?;
        let Some((level, nodes)) = tile_nodes(level, index, width, size) else { return Ok(None) };
        let tree = &self.inner.shared.tree;
        let hashes = tree.nodes(level, nodes.clone())?;
        if root_with(tree, level, &nodes, &hashes, size)? != *root {
            return Err(self.unproven(nodes.start << level));
        }
        Ok(Some(hashes))
    }

    /// The leaves under tile `(0, index)`, checked as [`Self::tile`] does. Blocks; reads the heads
    /// of their entries, no event.
    pub fn leaves(
        &self,
        index: u64,
        width: u16,
        size: u64,
        root: &Hash,
    ) -> Result<Option<Vec<[u8; LEAF_SIZE]>>, LedgerError> {
        let Some(hashes) = self.tile((0, index, width), size, root)? else { return Ok(None) };
        let first = index * u64::from(TILE_WIDTH);
        let end = first + u64::from(width);
        let mut leaves: Vec<[u8; LEAF_SIZE]> = Vec::with_capacity(width.into());
        self.each_row(first..end, |row, range| self.leaves_of(row, range, &mut leaves))?;
        for (position, (leaf, expected)) in leaves.iter().zip(&hashes).enumerate() {
            if leaf_hash(leaf) != *expected {
                let leaf = first + position as u64;
                return Err(LedgerError::Damaged {
                    leaf,
                    what: "its leaf is not the one in the tree",
                });
            }
        }
        Ok(Some(leaves))
    }

    /// Appends these leaves of one entry, which has them.
    fn leaves_of(
        &self,
        row: &EntryRow,
        range: Range<LeafIndex>,
        leaves: &mut Vec<[u8; LEAF_SIZE]>,
    ) -> Result<(), LedgerError> {
        let damaged = |what| LedgerError::Damaged { leaf: range.start, what };
        if row.kind != EntryKind::Batch {
            let record = self.record(range.start)?;
            leaves.push(record.ok_or(damaged("its entry has no such record"))?.leaf);
            return Ok(());
        }
        let entry = self.inner.log.read_head_at(row.location)?;
        if entry.id.index != row.index || entry.kind != row.kind {
            return Err(damaged("the index names another entry's place"));
        }
        for leaf in range.clone() {
            let position = row.position_of((leaf - row.first_leaf) as u32) as usize;
            let end = RecordPlace::head_bytes(position);
            let bytes = entry.head.get(end - LEAF_SIZE..end);
            let bytes = bytes.ok_or(damaged("its entry has no such record"))?;
            leaves.push(bytes.try_into().expect("the length is LEAF_SIZE"));
        }
        Ok(())
    }
}

/// Level and nodes of a tile; none if a tree of `size` leaves does not have them, or if there is no
/// such tile.
fn tile_nodes(level: u8, index: u64, width: u16, size: u64) -> Option<(u8, Range<u64>)> {
    let level = level.checked_mul(TILE_HEIGHT).filter(|level| u32::from(*level) < u64::BITS)?;
    if width == 0 || width > TILE_WIDTH {
        return None;
    }
    let start = index.checked_mul(TILE_WIDTH.into())?;
    let end = start.checked_add(width.into())?;
    (end <= size >> level).then_some((level, start..end))
}

/// Root of the first `size` leaves, with these hashes in the place of these nodes.
fn root_with(
    tree: &Tree,
    level: u8,
    nodes: &Range<u64>,
    hashes: &[Hash],
    size: u64,
) -> Result<Hash, DiskError> {
    let (from, to) = (nodes.start << level, nodes.end << level);
    let around = RangeProof::prove(from, to, size, |level, index| tree.node(level, index))?;
    let fits = "the proof was made for this range";
    let mut frontier = around.start().expect(fits);
    for hash in hashes {
        frontier.append_subtree(level, *hash);
    }
    Ok(around.finish(frontier).expect(fits))
}
