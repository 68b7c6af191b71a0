//! Range proofs: that consecutive leaves are in a tree (docs/FORMAT.md, "Range proof").
//!
//! One proof for a whole range costs no more than an inclusion proof for one leaf: the leaves
//! themselves give every hash between them. It holds the roots of the subtrees to the left of the
//! range and to its right; positions and order of both follow from the three numbers, so there is
//! one proof for each question and nothing in it to interpret.

use crate::merkle::{Frontier, ProofError, inclusion_proof, node_hash};
use crate::{Checkpoint, Hash};

/// Binds the leaves `from..to` to the root of the tree with `size` leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeProof {
    /// First leaf.
    pub from: u64,
    /// One past the last leaf; not below `from`.
    pub to: u64,
    /// Leaves of the tree; not below `to`.
    pub size: u64,
    /// Roots of the largest complete subtrees that cover `0..from`, from left to right.
    pub left: Vec<Hash>,
    /// Roots of the largest complete subtrees that cover `to..size`, from left to right.
    pub right: Vec<Hash>,
}

impl RangeProof {
    /// The proof for a range, from a source of complete nodes as [`crate::merkle::prove`] has them.
    ///
    /// Panics unless `from <= to <= size`: whoever takes them from outside checks them first.
    pub fn prove<E>(
        from: u64,
        to: u64,
        size: u64,
        mut node: impl FnMut(u8, u64) -> Result<Hash, E>,
    ) -> Result<RangeProof, E> {
        assert!(from <= to && to <= size, "{from}..{to} is no range of a tree of size {size}");
        let mut roots = |from, to| {
            cover(from, to).map(|(level, index)| node(level, index)).collect::<Result<Vec<_>, E>>()
        };
        let (left, right) = (roots(0, from)?, roots(to, size)?);
        Ok(RangeProof { from, to, size, left, right })
    }

    /// Checks that the numbers are a range of a tree.
    pub(crate) fn check_numbers(&self) -> Result<(), ProofError> {
        let RangeProof { from, to, size, .. } = *self;
        if from > to || to > size {
            return Err(ProofError::Range { from, to, size });
        }
        Ok(())
    }

    /// Checks that the numbers make sense and that the proof has the hashes that they ask for.
    pub fn check_form(&self) -> Result<(), ProofError> {
        self.check_numbers()?;
        let RangeProof { from, to, size, .. } = *self;
        let expected = cover(0, from).count() + cover(to, size).count();
        let actual = self.left.len() + self.right.len();
        if self.left.len() != cover(0, from).count() || actual != expected {
            return Err(ProofError::Length { expected, actual });
        }
        Ok(())
    }

    /// The tree of size `from`, to which the leaves of the range can be appended.
    pub fn start(&self) -> Result<Frontier, ProofError> {
        self.check_form()?;
        Ok(Frontier::from_peaks(self.from, &self.left).expect("the number of peaks was checked"))
    }

    /// The root of the whole tree, from that of size `to`: [`RangeProof::start`] with the leaves of
    /// the range.
    ///
    /// Panics if `frontier` has another size than `to`.
    pub fn finish(&self, mut frontier: Frontier) -> Result<Hash, ProofError> {
        self.check_form()?;
        assert_eq!(frontier.size(), self.to, "the frontier of another tree");
        for ((level, _), hash) in cover(self.to, self.size).zip(&self.right) {
            frontier.append_subtree(level, *hash);
        }
        Ok(frontier.root())
    }

    /// The root that these leaves lead to, with this proof: compare it with one that is known, of a
    /// tree of the same size.
    pub fn root(&self, leaf_hashes: impl IntoIterator<Item = Hash>) -> Result<Hash, ProofError> {
        let mut frontier = self.start()?;
        let expected = self.to - self.from;
        for hash in leaf_hashes {
            if frontier.size() == self.to {
                return Err(ProofError::Leaves { expected, actual: expected.saturating_add(1) });
            }
            frontier.append(hash);
        }
        if frontier.size() != self.to {
            return Err(ProofError::Leaves { expected, actual: frontier.size() - self.from });
        }
        self.finish(frontier)
    }

    /// Checks that these are the leaves `from..to` of the checkpoint's tree.
    pub fn verify(
        &self,
        leaf_hashes: impl IntoIterator<Item = Hash>,
        checkpoint: &Checkpoint,
    ) -> Result<(), ProofError> {
        if self.size != checkpoint.size {
            return Err(ProofError::OtherTree { expected: checkpoint.size, actual: self.size });
        }
        let computed = self.root(leaf_hashes)?;
        if computed != checkpoint.root {
            let actual = checkpoint.root;
            return Err(ProofError::Root { which: "tree", actual, computed });
        }
        Ok(())
    }

    /// The RFC 6962 inclusion proof of one leaf of the range. `leaf_hashes` are those of the whole
    /// range, already verified: what comes out is as good as what goes in.
    pub fn inclusion(&self, leaf_hashes: &[Hash], index: u64) -> Result<Vec<Hash>, ProofError> {
        self.check_form()?;
        let (expected, actual) = (self.to - self.from, leaf_hashes.len() as u64);
        if expected != actual {
            return Err(ProofError::Leaves { expected, actual });
        }
        if !(self.from..self.to).contains(&index) {
            return Err(ProofError::Index { index, size: self.size });
        }
        let covers = cover(0, self.from).zip(&self.left);
        let covers = covers.chain(cover(self.to, self.size).zip(&self.right)).collect();
        let known = Known { covers, first: self.from, leaf_hashes };
        let node = |level, index| Ok::<_, std::convert::Infallible>(known.node(level, index));
        let Ok(proof) = inclusion_proof(index, self.size, node);
        Ok(proof)
    }
}

/// The nodes that a range proof and its leaves give.
struct Known<'a> {
    /// Subtrees to the left and to the right of the leaves.
    covers: Vec<((u8, u64), &'a Hash)>,
    /// Index of the first leaf.
    first: u64,
    leaf_hashes: &'a [Hash],
}

impl Known<'_> {
    /// The root of a complete subtree. Only such are asked for that are no part of a larger one to
    /// the left or to the right: siblings of the path from a leaf of the range.
    fn node(&self, level: u8, index: u64) -> Hash {
        if let Some((_, hash)) = self.covers.iter().find(|(place, _)| *place == (level, index)) {
            return **hash;
        }
        if level == 0 {
            return self.leaf_hashes[(index - self.first) as usize];
        }
        let (left, right) = (self.node(level - 1, 2 * index), self.node(level - 1, 2 * index + 1));
        node_hash(&left, &right)
    }
}

/// The largest complete subtrees that cover the leaves `from..to`, from left to right, as (level,
/// index).
pub(crate) fn cover(from: u64, to: u64) -> impl Iterator<Item = (u8, u64)> {
    let mut next = from;
    std::iter::from_fn(move || {
        let left = to.checked_sub(next).filter(|left| *left > 0)?;
        // As large as the place allows (none bounds it at 0), and as what is left.
        let level = next.trailing_zeros().min(left.ilog2());
        let place = (level as u8, next >> level);
        next += 1 << level;
        Some(place)
    })
}
