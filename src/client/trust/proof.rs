//! What one record or receipt brings with it: the checkpoint, and the proof that it is in its tree.

use std::sync::Arc;

use indelible_core::merkle::ProofError;
use indelible_core::proof_file::{Extra, ProofFile};
use indelible_core::{Hash, LeafIndex, RangeProof};
use indelible_proto::v1;

use super::Verification;
use super::signed::SignedCheckpoint;

/// Hashes of one side of a range proof: one a level.
const HASHES_MAX: usize = 64;

/// That consecutive leaves are in the tree of a checkpoint. Shared by their records or receipts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// Whose tree it is, and who signed it.
    pub checkpoint: Arc<SignedCheckpoint>,
    /// How far that checkpoint is believed.
    pub verification: Verification,
    range: RangeProof,
    /// Of all leaves of the range.
    leaf_hashes: Vec<Hash>,
}

impl Proof {
    /// The RFC 6962 path from one of its leaves to the checkpoint's root.
    pub fn inclusion(&self, index: LeafIndex) -> Result<Vec<Hash>, ProofError> {
        self.range.inclusion(&self.leaf_hashes, index)
    }

    /// The leaves that it is for: first, and one past the last.
    pub fn range(&self) -> std::ops::Range<LeafIndex> {
        self.range.from..self.range.to
    }

    /// A file that proves one of its leaves to somebody who has nothing but the policy.
    pub(crate) fn file(&self, index: LeafIndex, extra: &Extra) -> Result<ProofFile, ProofError> {
        Ok(ProofFile {
            extra: Some(extra.encode()),
            index,
            proof: self.inclusion(index)?,
            checkpoint: indelible_core::Note::parse(&self.checkpoint.note)
                .expect("it was parsed when it came"),
        })
    }
}

/// A proof that fits its checkpoint, whom nobody has believed yet.
pub(crate) struct Unbelieved {
    pub(crate) checkpoint: Arc<SignedCheckpoint>,
    range: RangeProof,
    leaf_hashes: Vec<Hash>,
}

impl Unbelieved {
    /// Checks that these leaves, from `from` on, lead to the checkpoint's root. What does not fit,
    /// if they do not.
    pub(crate) fn new(
        checkpoint: Arc<SignedCheckpoint>,
        proof: v1::RangeProof,
        from: LeafIndex,
        leaf_hashes: Vec<Hash>,
    ) -> Result<Unbelieved, String> {
        Unbelieved::with(checkpoint, from_wire(proof)?, from, leaf_hashes)
    }

    /// The same for a proof that was taken apart.
    pub(crate) fn with(
        checkpoint: Arc<SignedCheckpoint>,
        range: RangeProof,
        from: LeafIndex,
        leaf_hashes: Vec<Hash>,
    ) -> Result<Unbelieved, String> {
        let to = from + leaf_hashes.len() as u64;
        if (range.from, range.to) != (from, to) {
            return Err(format!(
                "a proof for leaves {} to {} came with leaves {from} to {to}",
                range.from, range.to
            ));
        }
        range
            .verify(leaf_hashes.iter().copied(), &checkpoint.checkpoint)
            .map_err(|error| format!("the proof of leaves {from} to {to}: {error}"))?;
        Ok(Unbelieved { checkpoint, range, leaf_hashes })
    }

    /// Once it is known how far the checkpoint is believed.
    pub(crate) fn believed(self, verification: Verification) -> Arc<Proof> {
        let Unbelieved { checkpoint, range, leaf_hashes } = self;
        Arc::new(Proof { checkpoint, verification, range, leaf_hashes })
    }
}

/// A range proof as it came.
pub(crate) fn from_wire(proof: v1::RangeProof) -> Result<RangeProof, String> {
    let side = |hashes: &[bytes::Bytes]| -> Result<Vec<Hash>, String> {
        if hashes.len() > HASHES_MAX {
            return Err(format!("a proof with {} hashes on one side", hashes.len()));
        }
        hashes
            .iter()
            .map(|hash| {
                Hash::from_slice(hash).ok_or_else(|| format!("a hash of {} bytes", hash.len()))
            })
            .collect()
    };
    Ok(RangeProof {
        from: proof.from,
        to: proof.to,
        size: proof.tree_size,
        left: side(&proof.left)?,
        right: side(&proof.right)?,
    })
}
