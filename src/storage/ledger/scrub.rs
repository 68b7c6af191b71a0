//! The scrub of the tree files: every hash is read again and compared with what it is the hash of.
//!
//! The root in memory is known to be right: it was computed from the log, and compared with the
//! commit's at every opening. So hashes of leaves that lead to it are right, and with them every
//! node above. Where the files do not lead to it the leaves are taken from the segments instead.
//! Nothing is written before the root is met: what cannot be mended is left as it is.

use std::collections::BTreeSet;
use std::ops::Range;

use indelible_core::leaf::leaf_hash;
use indelible_core::merkle::Frontier;
use indelible_core::{Hash, RangeProof};

use super::reads::Records;
use super::{Ledger, LedgerError};
use crate::disk::DiskError;
use crate::storage::tree::{LEVELS, Tree};

/// Leaves that are looked at at a time: 128 KiB of hashes, and as much of the nodes above.
const CHUNK: u64 = 4096;

/// What was wrong with the tree files, and is right again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeMended {
    /// Hashes that were not what they had to be.
    pub nodes: u64,
    /// Levels whose files held them.
    pub levels: BTreeSet<u8>,
    /// The leaves that they stand for, from the first to the last.
    pub leaves: Range<u64>,
}

/// Where hashes of leaves come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaves {
    /// The file of level 0.
    File,
    /// The same, except where it does not fit the nodes above it: there from the segments.
    Doubted,
    /// The segments.
    Segments,
}

impl Ledger {
    /// Reads the tree files, all that was written out, and mends what is wrong in them; none if
    /// nothing was. `throttle` is told how many bytes were read since the last call, and may wait.
    /// Blocks.
    ///
    /// [`LedgerError::Damaged`] or [`LedgerError::Log`] if the segments do not give the tree: they
    /// have to be mended first.
    pub fn scrub_tree(
        &self,
        throttle: &mut dyn FnMut(usize),
    ) -> Result<Option<TreeMended>, LedgerError> {
        let size = self.inner.shared.tree.written_size();
        for leaves in [Leaves::File, Leaves::Doubted, Leaves::Segments] {
            let seen = Walk::new(self, leaves, throttle).run(size)?;
            if self.leads_to_the_root(seen.frontier)? {
                let Some(found) = seen.found else { return Ok(None) };
                let mut again = Walk::new(self, leaves, throttle);
                again.writes = true;
                again.run(size)?;
                self.inner.shared.tree.sync_levels(&found.levels)?;
                return Ok(Some(found));
            }
        }
        Err(LedgerError::Damaged { leaf: 0, what: "the segments do not give the tree's root" })
    }

    /// Whether a tree of fewer leaves is a prefix of the one in memory.
    fn leads_to_the_root(&self, frontier: Frontier) -> Result<bool, DiskError> {
        let (head, tree) = (*self.inner.head.borrow(), &self.inner.shared.tree);
        let size = frontier.size();
        let rest = RangeProof::prove(0, size, head.tree_size, |level, at| tree.node(level, at))?;
        Ok(rest.finish(frontier).expect("the proof was made for this size") == head.root)
    }

    /// Hashes of consecutive leaves, out of the segments and nothing else.
    fn leaf_hashes_of_segments(&self, leaves: Range<u64>) -> Result<Vec<Hash>, LedgerError> {
        let mut hashes: Vec<Hash> = Vec::with_capacity((leaves.end - leaves.start) as usize);
        self.each_row(leaves, |row, leaves| {
            let records = Records::new(self, row, self.read_row(row)?.0)?;
            for leaf in leaves {
                let what = "its entry has no such record";
                let record = records.get(leaf).ok_or(LedgerError::Damaged { leaf, what })?;
                hashes.push(leaf_hash(&record.leaf));
            }
            Ok(())
        })?;
        Ok(hashes)
    }
}

/// Once through the tree, from the left.
struct Walk<'a> {
    ledger: &'a Ledger,
    tree: &'a Tree,
    leaves: Leaves,
    /// Writes what is right over what is not.
    writes: bool,
    throttle: &'a mut dyn FnMut(usize),
    frontier: Frontier,
    found: Option<TreeMended>,
}

/// Consecutive nodes of one level.
#[derive(Debug, Default)]
struct Nodes {
    first: u64,
    hashes: Vec<Hash>,
}

impl<'a> Walk<'a> {
    fn new(ledger: &'a Ledger, leaves: Leaves, throttle: &'a mut dyn FnMut(usize)) -> Walk<'a> {
        let (tree, frontier) = (&ledger.inner.shared.tree, Frontier::default());
        Walk { ledger, tree, leaves, writes: false, throttle, frontier, found: None }
    }

    fn run(mut self, size: u64) -> Result<Walk<'a>, LedgerError> {
        while self.frontier.size() < size {
            let from = self.frontier.size();
            let leaves = from..(from + CHUNK).min(size);
            let mut from_file = self.leaves != Leaves::Segments;
            let (frontier, nodes, differing) = loop {
                let (frontier, nodes) = self.nodes_over(&match from_file {
                    true => self.tree.leaf_hashes(leaves.clone())?,
                    false => self.ledger.leaf_hashes_of_segments(leaves.clone())?,
                });
                // Leaves of the file do not differ from themselves.
                let differing = self.differing(&nodes, usize::from(from_file))?;
                if !from_file || self.leaves == Leaves::File || differing.is_empty() {
                    break (frontier, nodes, differing);
                }
                from_file = false;
            };
            for (level, index, hash) in differing {
                self.note(level, index);
                if self.writes {
                    self.tree.overwrite(level, index, &hash)?;
                }
            }
            self.frontier = frontier;
            let read: usize = nodes.iter().map(|nodes| nodes.hashes.len() * Hash::SIZE).sum();
            (self.throttle)(read);
        }
        Ok(self)
    }

    /// The tree with these leaves after those so far, and every node that they complete, by level.
    fn nodes_over(&self, leaf_hashes: &[Hash]) -> (Frontier, Vec<Nodes>) {
        let mut frontier = self.frontier.clone();
        let mut levels: Vec<Nodes> = (0..LEVELS).map(|_| Nodes::default()).collect();
        for leaf_hash in leaf_hashes {
            frontier.append_with(*leaf_hash, |level, index, hash| {
                let nodes = &mut levels[usize::from(level)];
                if nodes.hashes.is_empty() {
                    nodes.first = index;
                }
                nodes.hashes.push(*hash);
            });
        }
        (frontier, levels)
    }

    /// Those nodes of level `lowest` and above that the files have otherwise.
    fn differing(
        &self,
        computed: &[Nodes],
        lowest: usize,
    ) -> Result<Vec<(u8, u64, Hash)>, DiskError> {
        let mut differing = Vec::new();
        for (level, Nodes { first, hashes }) in (0u8..).zip(computed).skip(lowest) {
            let filed = self.tree.nodes(level, *first..first + hashes.len() as u64)?;
            for ((index, hash), filed) in (*first..).zip(hashes).zip(filed) {
                if *hash != filed {
                    differing.push((level, index, *hash));
                }
            }
        }
        Ok(differing)
    }

    fn note(&mut self, level: u8, index: u64) {
        let leaves = index << level..(index + 1) << level;
        let found = self.found.get_or_insert_with(|| TreeMended {
            nodes: 0,
            levels: BTreeSet::new(),
            leaves: leaves.clone(),
        });
        found.nodes += 1;
        found.levels.insert(level);
        found.leaves.start = found.leaves.start.min(leaves.start);
        found.leaves.end = found.leaves.end.max(leaves.end);
    }
}
