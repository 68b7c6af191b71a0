//! Proofs beside what is read: against which checkpoint they are, and how they go over the wire.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use indelible_core::{Hash, RangeProof};
use indelible_proto::v1;
use tokio::time::{Instant, timeout_at};

use crate::node::publish::{Publication, Published};
use crate::storage::ledger::Ledger;

/// How long a read waits for a checkpoint that covers it. Publication takes some 50 ms while things
/// go well.
pub(super) const PROOF_WAIT: Duration = Duration::from_secs(1);

/// Finds the checkpoint that a read is proved against.
#[derive(Clone)]
pub(super) struct Checkpoints {
    publication: Publication,
    ledger: Ledger,
}

impl Checkpoints {
    /// Of one node.
    pub(super) fn new(publication: Publication, ledger: Ledger) -> Checkpoints {
        Checkpoints { publication, ledger }
    }

    /// The newest checkpoint, if it covers the first `size` leaves and this node has applied all of
    /// it: only then can it prove anything against it.
    pub(super) fn newest(&self, size: u64) -> Option<Arc<Published>> {
        let applied = self.ledger.head().borrow().tree_size;
        let newest = self.publication.newest()?;
        (size..=applied).contains(&newest.checkpoint.size).then_some(newest)
    }

    /// As [`Self::newest`], waiting for it up to `wait`.
    pub(super) async fn covering(&self, size: u64, wait: Duration) -> Option<Arc<Published>> {
        let until = Instant::now() + wait;
        let newest = self.publication.wait(size, false, wait).await?;
        // A follower is told of checkpoints that it has not applied yet.
        let mut head = self.ledger.head();
        let applied = head.wait_for(|head| head.tree_size >= newest.checkpoint.size);
        timeout_at(until, applied).await.ok()?.ok()?;
        Some(newest)
    }
}

/// A proof as it goes over the wire.
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

/// A hash as it goes over the wire.
pub(super) fn bytes(hash: &Hash) -> Bytes {
    Bytes::copy_from_slice(&hash.0)
}
