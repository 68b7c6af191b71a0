//! Checkpoints, and what is proven against them by itself: ranges of leaves, and the key history.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use indelible_core::limits::PROOF_WAIT_MS_MAX;
use indelible_core::{Hash, LeafIndex, RangeProof};
use indelible_proto::v1::{
    GetCheckpointRequest, KeyHistoryRequest, KeyHistoryResponse, ProveRequest, ProveResponse,
};
use tokio::time::timeout;

use crate::error::{Failure, Fault};
use crate::nodes::Nodes;
use crate::reader::invalid;
use crate::table::Link;
use crate::trust::evidence::Evidence;
use crate::trust::proof::{Unbelieved, from_wire};
use crate::{CallError, Client, Record, SignedCheckpoint};

/// Which checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CheckpointOptions {
    /// Waits for one of at least this size. 0: the newest there is.
    pub size_min: u64,
    /// How long to wait for it, at most a minute. Then the newest there is comes.
    pub wait: Duration,
    /// Only one that a witness outside the group has cosigned.
    pub witnessed: bool,
}

/// What one node gives for its newest checkpoint.
#[derive(Debug, Clone)]
pub struct NodeCheckpoint {
    /// Which node.
    pub node_id: u64,
    /// Where it is.
    pub addr: String,
    /// Its checkpoint, held against the policy and against nothing else; `None` if it has none yet;
    /// or why it has not answered, or what is wrong with the note.
    pub checkpoint: Result<Option<Arc<SignedCheckpoint>>, CallError>,
}

impl Client {
    /// The newest checkpoint, or the newest of at least some size. `None` if there is none yet.
    ///
    /// With a policy it is fresh and was proven to be of one history with all that were seen
    /// before, or else its verification says that it is pending, and it says what it lacks.
    ///
    /// # Errors
    /// [`CallError::Fork`], [`CallError::RolledBack`]; [`CallError::StaleCheckpoint`] if all nodes'
    /// are too old; [`CallError::NodeLied`] if no node gave one that can be believed.
    pub async fn checkpoint(
        &self,
        options: CheckpointOptions,
    ) -> Result<Option<Arc<SignedCheckpoint>>, CallError> {
        self.trust().one_history()?;
        let mut nodes = Nodes::new(self.options()).waiting(options.wait);
        loop {
            let link = nodes.next(self.table()).await?;
            let found = match self.checkpoint_of(&link, options, nodes.attempt_limit()).await {
                Ok(Some(found)) if found.is_verified() => {
                    self.link_fresh(&link, &found).await.map(|()| Some(found))
                }
                found => found,
            };
            match found {
                Ok(found) => return Ok(found),
                Err(fault) => nodes.fault(self, &link, fault)?,
            }
        }
    }

    /// The newest checkpoint that was accepted so far: no node is asked.
    pub fn newest_checkpoint(&self) -> Option<Arc<SignedCheckpoint>> {
        self.trust().newest()
    }

    /// Asks every node for its newest checkpoint, and holds each against the policy, but not
    /// against the others: that is for whoever wants to compare them.
    pub async fn checkpoints(&self) -> Vec<NodeCheckpoint> {
        self.settle_connections().await;
        let limit = self.options().connect_timeout;
        let mut nodes = join_all(self.table().links_of_all().into_iter().map(|link| async move {
            let found = self.newest_accepted_of(&link, limit).await;
            let (node_id, addr) = (link.node_id, link.addr.to_string());
            let checkpoint = found.map_err(|fault| fault.into_error(&link, limit));
            NodeCheckpoint { node_id, addr, checkpoint }
        }))
        .await;
        nodes.sort_by_key(|node| node.node_id);
        nodes
    }

    /// A node's newest checkpoint; if the policy wants a witness, the newest that one has signed.
    async fn newest_accepted_of(
        &self,
        link: &Link,
        limit: Duration,
    ) -> Result<Option<Arc<SignedCheckpoint>>, Fault> {
        let newest = CheckpointOptions::default();
        let found = self.checkpoint_of(link, newest, limit).await?;
        if found.as_ref().is_none_or(|found| found.is_verified()) || self.policy().is_none() {
            return Ok(found);
        }
        let witnessed = CheckpointOptions { witnessed: true, ..newest };
        let witnessed = self.checkpoint_of(link, witnessed, limit).await?;
        Ok(witnessed.filter(|witnessed| witnessed.is_verified()).or(found))
    }

    async fn checkpoint_of(
        &self,
        link: &Link,
        options: CheckpointOptions,
        limit: Duration,
    ) -> Result<Option<Arc<SignedCheckpoint>>, Fault> {
        let wait_ms = options.wait.as_millis().min(PROOF_WAIT_MS_MAX.into()) as u32;
        let CheckpointOptions { size_min, witnessed, .. } = options;
        let request = GetCheckpointRequest { size_min, wait_ms, witnessed };
        let in_flight = link.begin();
        let answer = timeout(limit, link.audit().get_checkpoint(request)).await;
        drop(in_flight);
        let note = answer.map_err(|_| Failure::TimedOut(limit))??.into_inner().checkpoint;
        if note.is_empty() {
            return Ok(None);
        }
        let note: Arc<str> = note.into();
        let checked = self.trust().check(&note);
        checked.map(Some).map_err(|what| Fault::Lie(what, Evidence::new([&note], "its checkpoint")))
    }

    /// The hashes of consecutive leaves, proven to be in the tree of a checkpoint.
    pub(crate) async fn prove_range(
        &self,
        from: LeafIndex,
        to: LeafIndex,
        checkpoint: &SignedCheckpoint,
    ) -> Result<(RangeProof, Vec<Hash>), CallError> {
        let size = checkpoint.checkpoint.size;
        let request = ProveRequest { index: from, tree_size: size, to };
        let call = |link: Link| async move { link.audit().prove(request).await };
        self.read_any(self.nodes(Some(size)), call, |response: ProveResponse| {
            let proof = response.range.ok_or("no range proof was sent")?;
            let proof = from_wire(proof)?;
            let hashes: Option<Vec<Hash>> =
                response.leaf_hashes.chunks(Hash::SIZE).map(Hash::from_slice).collect();
            let hashes = hashes.ok_or("the leaf hashes are not of 32 bytes each")?;
            if (proof.from, proof.to) != (from, to) {
                return Err(format!("a proof for leaves {} to {}", proof.from, proof.to).into());
            }
            proof.verify(hashes.iter().copied(), &checkpoint.checkpoint).map_err(|error| {
                let what = format!("its proof of leaves {from} to {to}: {error}");
                unfit(checkpoint, what, format!("{proof:?}"))
            })?;
            Ok((proof, hashes))
        })
        .await
    }

    /// Proves that a record is in the tree of this checkpoint rather than of whichever is newest:
    /// one that a witness has signed, or one that another party has.
    ///
    /// # Errors
    /// [`CallError::NodeLied`] if the proof shows another record at that position.
    pub async fn prove_record(
        &self,
        record: &mut Record,
        checkpoint: &Arc<SignedCheckpoint>,
    ) -> Result<(), CallError> {
        let index = record.index;
        let (range, hashes) = self.prove_range(index, index + 1, checkpoint).await?;
        if hashes != [record.leaf_hash()] {
            let what = format!(
                "the record at index {index} is not the one in the tree of size {}",
                checkpoint.checkpoint.size
            );
            return Err(CallError::NotProven { what });
        }
        let proof = Unbelieved::with(checkpoint.clone(), range, index, hashes)
            .map_err(|what| CallError::NotProven { what })?;
        record.proven(&proof.believed(checkpoint.verification));
        Ok(())
    }

    /// What binds the leaves `from..to`, at least one and however many, to a checkpoint's tree:
    /// together with their hashes, which do not come with it.
    pub async fn range_proof(
        &self,
        from: LeafIndex,
        to: LeafIndex,
        checkpoint: &SignedCheckpoint,
    ) -> Result<RangeProof, CallError> {
        if from >= to || to > checkpoint.checkpoint.size {
            let size = checkpoint.checkpoint.size;
            return Err(invalid(format!("{from}..{to} is no range of a tree of size {size}")));
        }
        // What is left of the first leaf, and what is right of the last.
        let (first, _) = self.prove_range(from, from + 1, checkpoint).await?;
        let (last, _) = self.prove_range(to - 1, to, checkpoint).await?;
        Ok(RangeProof { to, right: last.right, ..first })
    }

    /// Every record that says whose keys count, up to a checkpoint's size, each proven to be in its
    /// tree. That none was left out is for whoever reads the whole trail to see.
    pub async fn key_history(
        &self,
        checkpoint: &Arc<SignedCheckpoint>,
    ) -> Result<Vec<Record>, CallError> {
        let size = checkpoint.checkpoint.size;
        let request = KeyHistoryRequest { tree_size: size };
        let call = |link: Link| async move { link.audit().key_history(request).await };
        self.read_any(self.nodes(Some(size)), call, |response: KeyHistoryResponse| {
            if response.records.len() != response.proofs.len() {
                return Err("not as many proofs as records".into());
            }
            let both = response.records.into_iter().zip(response.proofs);
            both.map(|(record, proof)| {
                let index = record.index;
                let mut record = Record::verify(record, index)?;
                let leaves = vec![record.leaf_hash()];
                let proof = Unbelieved::new(checkpoint.clone(), proof, index, leaves)
                    .map_err(|what| unfit(checkpoint, what, String::new()))?;
                record.proven(&proof.believed(checkpoint.verification));
                Ok(record)
            })
            .collect()
        })
        .await
    }
}

/// A proof does not lead to a checkpoint's root: a lie if that is signed as the policy wants. If
/// not, the checkpoint may be the lie of whoever gave it.
fn unfit(checkpoint: &SignedCheckpoint, what: String, answer: String) -> Fault {
    if checkpoint.is_verified() {
        return Fault::Lie(what, Evidence::new([&checkpoint.note], answer));
    }
    Fault::Unproven(CallError::NotProven { what })
}
