//! Roots and proofs, from a source of complete nodes.
//!
//! A source is a closure `node(level, index)`. It is asked only for nodes that are complete in a
//! tree of the size at hand, at most about 2·log2(size) of them; its errors are passed on. What
//! comes out is as good as what the source says: verify it.

use crate::Hash;
use crate::merkle::{empty_root, node_hash};

/// Root of the first `size` leaves.
pub fn root_at<E>(size: u64, node: impl FnMut(u8, u64) -> Result<Hash, E>) -> Result<Hash, E> {
    if size == 0 {
        return Ok(empty_root());
    }
    Range { start: 0, count: size }.root(node)
}

/// `PATH(index, D[size])` of RFC 6962 section 2.1.1: the siblings from the leaf up to the root.
///
/// Panics if there is no leaf `index` in a tree of `size`: whoever takes the two from outside
/// checks them first.
pub fn inclusion_proof<E>(
    index: u64,
    size: u64,
    mut node: impl FnMut(u8, u64) -> Result<Hash, E>,
) -> Result<Vec<Hash>, E> {
    assert!(index < size, "leaf {index} is not in a tree of size {size}");
    let mut proof = Vec::new();
    let mut range = Range { start: 0, count: size };
    while range.count > 1 {
        let (left, right) = range.split();
        let (inside, sibling) = if index < right.start { (left, right) } else { (right, left) };
        proof.push(sibling.root(&mut node)?);
        range = inside;
    }
    assert_eq!(range.start, index, "the path ends at its leaf");
    proof.reverse();
    Ok(proof)
}

/// `PROOF(old, D[new])` of RFC 6962 section 2.1.2. Empty if `old` is 0 or equal to `new`.
///
/// Panics if `old` is larger than `new`: whoever takes the two from outside checks them first.
pub fn consistency_proof<E>(
    old: u64,
    new: u64,
    mut node: impl FnMut(u8, u64) -> Result<Hash, E>,
) -> Result<Vec<Hash>, E> {
    assert!(old <= new, "size {old} is not before size {new}");
    if old == 0 {
        return Ok(Vec::new());
    }
    let mut proof = Vec::new();
    let mut range = Range { start: 0, count: new };
    // Down to the subtree that ends where the old tree ended.
    while range.end() != old {
        let (left, right) = range.split();
        let (inside, sibling) = if old <= right.start { (left, right) } else { (right, left) };
        proof.push(sibling.root(&mut node)?);
        range = inside;
    }
    // If that subtree is the whole old tree, then the verifier has its root.
    if range.start != 0 {
        proof.push(range.root(&mut node)?);
    }
    proof.reverse();
    Ok(proof)
}

/// A subtree: its first leaf and its leaves. As the RFC splits trees, `start` is a multiple of
/// every power of two up to `count`.
#[derive(Clone, Copy)]
struct Range {
    start: u64,
    /// At least 1.
    count: u64,
}

impl Range {
    /// One past the last leaf.
    fn end(self) -> u64 {
        self.start + self.count
    }

    /// Left and right half; the left has the largest power of two below `count`.
    fn split(self) -> (Range, Range) {
        assert!(self.count > 1, "a leaf has no halves");
        let left = 1 << (self.count - 1).ilog2();
        (
            Range { start: self.start, count: left },
            Range { start: self.start + left, count: self.count - left },
        )
    }

    /// Hash of the subtree: its complete nodes folded from the right, smallest first.
    fn root<E>(self, mut node: impl FnMut(u8, u64) -> Result<Hash, E>) -> Result<Hash, E> {
        let mut root = None;
        for level in (0..u64::BITS).filter(|level| self.count >> level & 1 == 1) {
            // The node of this level ends where the smaller ones to its right begin.
            let end = self.start + (self.count >> level << level);
            let left = node(level as u8, (end >> level) - 1)?;
            root = Some(match root {
                None => left,
                Some(right) => node_hash(&left, &right),
            });
        }
        Ok(root.expect("a range is not empty"))
    }
}
