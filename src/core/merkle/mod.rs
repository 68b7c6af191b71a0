//! The Merkle tree that binds the order of leaves: RFC 6962 section 2.1 with SHA-256.
//!
//! Three parts that need each other's hashes and nothing else: [`frontier`] appends leaves and
//! knows the root, [`prove`] makes roots and proofs from complete nodes that the caller stores,
//! [`verify`] checks proofs. An auditor needs only the last.
//!
//! A *complete* node `(level, index)` is the root of the `1 << level` leaves that begin with leaf
//! `index << level`; level 0 holds the leaf hashes. Complete nodes never change, so a store of them
//! is append-only.

pub mod frontier;
pub mod prove;
pub mod verify;

use sha2::{Digest, Sha256};

use crate::Hash;

pub use crate::leaf::leaf_hash;
pub use frontier::Frontier;
pub use prove::{consistency_proof, inclusion_proof, root_at};
pub use verify::{
    ProofError, consistency_proof_length, inclusion_proof_length, verify_consistency,
    verify_inclusion,
};

/// Root of the tree without leaves: SHA-256 of nothing (RFC 6962 section 2.1).
pub fn empty_root() -> Hash {
    Hash(Sha256::digest([]).into())
}

/// Hash of an inner node: SHA-256(0x01 ‖ left ‖ right) (RFC 6962 section 2.1).
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update([0x01]);
    hasher.update(left.0);
    hasher.update(right.0);
    Hash(hasher.finalize().into())
}
