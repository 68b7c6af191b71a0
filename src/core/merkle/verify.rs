//! Checking proofs: the part that an auditor trusts. RFC 9162 section 2.1.3.2 and 2.1.4.2.
//!
//! Sizes and indexes fix a proof's length and the side of every sibling, so there is one proof for
//! each question and nothing in it to interpret. Time and memory are bounded by 64 hashes; nothing
//! is allocated.

use crate::Hash;
use crate::merkle::{empty_root, node_hash};

/// Why a proof proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// There is no such leaf.
    #[error("leaf {index} is not in a tree of size {size}")]
    Index {
        /// Leaf index that was asked for.
        index: u64,
        /// Tree size that was named.
        size: u64,
    },
    /// The older tree is larger than the newer one.
    #[error("old size {old} is larger than new size {new}")]
    Sizes {
        /// Size of the older tree.
        old: u64,
        /// Size of the newer tree.
        new: u64,
    },
    /// Not a range of leaves.
    #[error("{from}..{to} is no range of a tree of size {size}")]
    Range {
        /// First leaf.
        from: u64,
        /// One past the last leaf.
        to: u64,
        /// Tree size that was named.
        size: u64,
    },
    /// Fewer or more leaves than the range has.
    #[error("{actual} leaves, the range has {expected}")]
    Leaves {
        /// Leaves of the range.
        expected: u64,
        /// Leaves that were there.
        actual: u64,
    },
    /// A proof for a tree of another size.
    #[error("the proof is for a tree of size {actual}, the checkpoint's has {expected}")]
    OtherTree {
        /// Size of the checkpoint's tree.
        expected: u64,
        /// Size that the proof names.
        actual: u64,
    },
    /// Fewer or more hashes than a proof for these sizes has.
    #[error("proof has {actual} hashes, one for these sizes has {expected}")]
    Length {
        /// Hashes that such a proof has.
        expected: usize,
        /// Hashes that were there.
        actual: usize,
    },
    /// The hashes lead to another root.
    #[error("{which} root is {actual}, the proof leads to {computed}")]
    Root {
        /// "tree", "old" or "new".
        which: &'static str,
        /// The root that was to be proved.
        actual: Hash,
        /// What the proof leads to.
        computed: Hash,
    },
}

/// Checks that `leaf_hash` is the leaf `index` of the tree with `size` leaves and this root.
pub fn verify_inclusion(
    index: u64,
    size: u64,
    leaf_hash: &Hash,
    proof: &[Hash],
    root: &Hash,
) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError::Index { index, size });
    }
    let path = Path { node: index, last: size - 1 };
    check_length(path.count(), proof)?;
    let computed = path.zip(proof).fold(*leaf_hash, |hash, (side, sibling)| match side {
        Side::Left => node_hash(sibling, &hash),
        Side::Right => node_hash(&hash, sibling),
    });
    check_root("tree", root, computed)
}

/// Checks that the first `old` leaves of the tree with `new` leaves and `new_root` are the leaves
/// of `old_root`.
///
/// Equal sizes need equal roots and an empty proof. The empty tree is a prefix of every tree: with
/// `old` 0 the proof must be empty and `old_root` the empty root, and `new_root` is not looked at
/// unless `new` is 0 too.
pub fn verify_consistency(
    old: u64,
    new: u64,
    proof: &[Hash],
    old_root: &Hash,
    new_root: &Hash,
) -> Result<(), ProofError> {
    if old > new {
        return Err(ProofError::Sizes { old, new });
    }
    if old == 0 {
        check_length(0, proof)?;
        check_root("old", old_root, empty_root())?;
    }
    if old == new {
        check_length(0, proof)?;
        return check_root("new", new_root, *old_root);
    }
    if old == 0 {
        return Ok(());
    }
    // Up to the largest subtree that ends where the old tree ended: `first` is its hash.
    let path = consistency_path(old, new);
    let (first, rest) = if old.is_power_of_two() {
        // It is the old tree itself, whose root the proof leaves out.
        check_length(path.count(), proof)?;
        (old_root, proof)
    } else {
        check_length(path.count() + 1, proof)?;
        proof.split_first().expect("the length was checked")
    };
    let (mut old_computed, mut new_computed) = (*first, *first);
    for (side, sibling) in path.zip(rest) {
        match side {
            Side::Left => {
                old_computed = node_hash(sibling, &old_computed);
                new_computed = node_hash(sibling, &new_computed);
            }
            Side::Right => new_computed = node_hash(&new_computed, sibling),
        }
    }
    check_root("old", old_root, old_computed)?;
    check_root("new", new_root, new_computed)
}

/// Hashes of the inclusion proof for a leaf in a tree of `size`.
///
/// Panics if there is no such leaf: whoever takes the two from outside checks them first.
pub fn inclusion_proof_length(index: u64, size: u64) -> usize {
    assert!(index < size, "leaf {index} is not in a tree of size {size}");
    Path { node: index, last: size - 1 }.count()
}

/// Hashes of the consistency proof from size `old` to size `new`.
///
/// Panics if `old` is larger than `new`: whoever takes the two from outside checks them first.
pub fn consistency_proof_length(old: u64, new: u64) -> usize {
    assert!(old <= new, "size {old} is not before size {new}");
    if old == 0 || old == new {
        return 0;
    }
    consistency_path(old, new).count() + usize::from(!old.is_power_of_two())
}

/// The siblings above the largest subtree that ends where the old tree ended; `0 < old < new`.
fn consistency_path(old: u64, new: u64) -> Path {
    let level = (old - 1).trailing_ones();
    Path { node: (old - 1) >> level, last: (new - 1) >> level }
}

fn check_length(expected: usize, proof: &[Hash]) -> Result<(), ProofError> {
    let actual = proof.len();
    if actual == expected { Ok(()) } else { Err(ProofError::Length { expected, actual }) }
}

fn check_root(which: &'static str, actual: &Hash, computed: Hash) -> Result<(), ProofError> {
    if *actual == computed {
        Ok(())
    } else {
        Err(ProofError::Root { which, actual: *actual, computed })
    }
}

/// On which side of the path a sibling stands.
#[derive(Clone, Copy)]
enum Side {
    Left,
    Right,
}

/// The siblings on the way from a node to the root. `node` and `last` are `fn` and `sn` of RFC
/// 9162.
#[derive(Clone, Copy)]
struct Path {
    /// Index of the node within its level.
    node: u64,
    /// Index of the last node of that level.
    last: u64,
}

impl Iterator for Path {
    type Item = Side;

    fn next(&mut self) -> Option<Side> {
        if self.last == 0 {
            return None;
        }
        let is_right_child = self.node & 1 == 1;
        let side = if is_right_child || self.node == self.last { Side::Left } else { Side::Right };
        // A last node without a sibling is its own parent: up to the level where it has one on its
        // left.
        let skipped = match side {
            Side::Left => self.node.trailing_zeros(),
            Side::Right => 0,
        };
        // NB: two shifts, because 63 + 1 bits in one are too many.
        self.node = self.node >> skipped >> 1;
        self.last = self.last >> skipped >> 1;
        Some(side)
    }
}
