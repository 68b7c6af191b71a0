//! The right edge of the tree: all that is needed to append leaves and to know the root.

use crate::merkle::{empty_root, node_hash};
use crate::{FormatError, Hash};

/// Levels of a tree whose size is a `u64`.
const LEVELS: usize = 64;

/// The peaks of a growing tree: the roots of the complete subtrees that its size, written in
/// binary, names.
///
/// An append costs two hashes on average (leaf hash not counted) and allocates nothing.
#[derive(Clone)]
pub struct Frontier {
    /// Leaves so far. Bit `n` is set exactly if `peaks[n]` holds the root of a subtree of `1 << n`
    /// leaves.
    size: u64,
    /// By level. Slots whose bit in `size` is clear hold whatever was there before.
    peaks: [Hash; LEVELS],
}

impl Frontier {
    /// The frontier of the empty tree.
    pub fn new() -> Frontier {
        Frontier { size: 0, peaks: [Hash::default(); LEVELS] }
    }

    /// The frontier of a tree of `size` leaves, from what [`Frontier::peaks`] gave. The hashes are
    /// believed: compare [`Frontier::root`] with a root that is known. Refuses a number of peaks
    /// that `size` does not have.
    pub fn from_peaks(size: u64, peaks: &[Hash]) -> Result<Frontier, FormatError> {
        let expected = size.count_ones() as usize;
        if peaks.len() != expected {
            let actual = peaks.len();
            return Err(FormatError::Length { what: "frontier peaks", expected, actual });
        }
        let mut frontier = Frontier { size, ..Frontier::new() };
        let mut largest_first = peaks.iter();
        for level in frontier.levels().rev() {
            frontier.peaks[level] = *largest_first.next().expect("one peak for each set bit");
        }
        Ok(frontier)
    }

    /// Appends the hash of a leaf.
    pub fn append(&mut self, leaf_hash: Hash) {
        self.append_with(leaf_hash, |_, _, _| {});
    }

    /// Appends the hash of a leaf and reports every node that it completes, as `(level, index,
    /// hash)`, from the leaf upwards: what a store of complete nodes has to add.
    pub fn append_with(&mut self, leaf_hash: Hash, mut completed: impl FnMut(u8, u64, &Hash)) {
        assert!(self.size < u64::MAX, "the tree is full");
        let mut hash = leaf_hash;
        completed(0, self.size, &hash);
        let merges = self.size.trailing_ones();
        for level in 0..merges {
            hash = node_hash(&self.peaks[level as usize], &hash);
            let above = level + 1;
            completed(above as u8, self.size >> above, &hash);
        }
        self.peaks[merges as usize] = hash;
        self.size += 1;
    }

    /// Appends a complete subtree of `1 << level` leaves by its root. The root is believed.
    ///
    /// Panics unless the size so far is a multiple of `1 << level`: elsewhere there is no such
    /// subtree.
    pub fn append_subtree(&mut self, level: u8, root: Hash) {
        let leaves = 1u64 << level;
        assert!(self.size.is_multiple_of(leaves), "no subtree of {leaves} at {}", self.size);
        let size = self.size.checked_add(leaves).expect("the tree is full");
        let merges = (self.size >> level).trailing_ones();
        let end = u32::from(level) + merges;
        self.peaks[end as usize] = (u32::from(level)..end)
            .fold(root, |hash, level| node_hash(&self.peaks[level as usize], &hash));
        self.size = size;
    }

    /// Leaves so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Root over all leaves so far.
    pub fn root(&self) -> Hash {
        self.levels()
            .map(|level| self.peaks[level])
            .reduce(|right, left| node_hash(&left, &right))
            .unwrap_or_else(empty_root)
    }

    /// The peaks, largest subtree first: with the size, all that [`Frontier::from_peaks`] needs.
    pub fn peaks(&self) -> Vec<Hash> {
        self.levels().rev().map(|level| self.peaks[level]).collect()
    }

    /// Levels that have a peak, smallest first.
    fn levels(&self) -> impl DoubleEndedIterator<Item = usize> + use<> {
        let size = self.size;
        (0..LEVELS).filter(move |level| size >> level & 1 == 1)
    }
}

impl Default for Frontier {
    fn default() -> Self {
        Frontier::new()
    }
}

/// Equal if they are frontiers of the same leaves; slots without a peak do not count.
impl PartialEq for Frontier {
    fn eq(&self, other: &Frontier) -> bool {
        self.size == other.size
            && self.levels().all(|level| self.peaks[level] == other.peaks[level])
    }
}

impl Eq for Frontier {}

impl std::fmt::Debug for Frontier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frontier").field("size", &self.size).field("peaks", &self.peaks()).finish()
    }
}
