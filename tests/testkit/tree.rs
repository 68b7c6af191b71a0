//! The Merkle tree of a trail, in memory, with all of its proofs.

use std::convert::Infallible;

use indelible_core::leaf::leaf_hash;
use indelible_core::merkle::{consistency_proof, inclusion_proof, node_hash, root_at};
use indelible_core::{Checkpoint, Hash, Leaf, RangeProof};

/// Leaf hashes in order; everything above them is computed when it is asked for.
pub struct TestTree(Vec<Hash>);

impl TestTree {
    /// The tree over these leaves.
    pub fn of<'a>(leaves: impl IntoIterator<Item = &'a Leaf>) -> TestTree {
        Self::of_hashes(leaves.into_iter().map(|leaf| leaf_hash(&leaf.encode())).collect())
    }

    /// The tree over these leaf hashes.
    pub fn of_hashes(hashes: Vec<Hash>) -> TestTree {
        TestTree(hashes)
    }

    /// Number of leaves.
    pub fn size(&self) -> u64 {
        self.0.len() as u64
    }

    /// The leaf hashes.
    pub fn hashes(&self) -> &[Hash] {
        &self.0
    }

    /// The root of the first `size` leaves.
    pub fn root_at(&self, size: u64) -> Hash {
        let Ok(root) = root_at(size, |level, index| self.node(level, index));
        root
    }

    /// The checkpoint of the first `size` leaves.
    pub fn checkpoint(&self, origin: &str, size: u64) -> Checkpoint {
        Checkpoint::new(origin, size, self.root_at(size))
    }

    /// Proof that leaves `from` to `to` (not included) are in the tree of `size` leaves.
    pub fn range(&self, from: u64, to: u64, size: u64) -> RangeProof {
        let Ok(proof) = RangeProof::prove(from, to, size, |level, index| self.node(level, index));
        proof
    }

    /// Proof that a leaf is in the tree of `size` leaves.
    pub fn inclusion(&self, index: u64, size: u64) -> Vec<Hash> {
        let Ok(proof) = inclusion_proof(index, size, |level, index| self.node(level, index));
        proof
    }

    /// Proof that the tree of `old` leaves is the beginning of the tree of `new` leaves.
    pub fn consistency(&self, old: u64, new: u64) -> Vec<Hash> {
        let Ok(proof) = consistency_proof(old, new, |level, index| self.node(level, index));
        proof
    }

    /// A complete node of the tree.
    fn node(&self, level: u8, index: u64) -> Result<Hash, Infallible> {
        if level == 0 {
            return Ok(self.0[index as usize]);
        }
        let left = self.node(level - 1, 2 * index)?;
        Ok(node_hash(&left, &self.node(level - 1, 2 * index + 1)?))
    }
}
