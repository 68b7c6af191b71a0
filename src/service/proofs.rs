//! Proofs as they go over the wire.

use std::time::Duration;

use bytes::Bytes;
use indelible_core::{Hash, RangeProof};
use indelible_proto::v1;

/// How long a read waits for a checkpoint that covers it. Publication takes some 50 ms while things
/// go well.
pub(super) const PROOF_WAIT: Duration = Duration::from_secs(1);

/// A range proof.
pub(super) fn range_proof(proof: RangeProof) -> v1::RangeProof {
    let hashes = |hashes: Vec<Hash>| hashes.iter().map(bytes).collect();
    v1::RangeProof {
        from: proof.from,
        to: proof.to,
        tree_size: proof.size,
        left: hashes(proof.left),
        right: hashes(proof.right),
    }
}

/// A range proof with the hashes of its leaves and the root.
pub(super) fn proved_range(
    (proof, leaf_hashes, root): (RangeProof, Vec<Hash>, Hash),
) -> v1::ProveResponse {
    v1::ProveResponse {
        index: proof.from,
        tree_size: proof.size,
        root: bytes(&root),
        leaf_hashes: leaf_hashes.iter().flat_map(|hash| hash.0).collect(),
        range: Some(range_proof(proof)),
        ..Default::default()
    }
}

/// A hash.
pub(super) fn bytes(hash: &Hash) -> Bytes {
    Bytes::copy_from_slice(&hash.0)
}
