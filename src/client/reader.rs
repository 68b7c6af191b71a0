//! Reading: single records, proofs and tree heads, from whichever node is least busy.
//!
//! Followers are asked first and the leader only when no follower can answer: it has all the
//! writes. A node that cannot answer costs one attempt, and the next node is asked; one whose
//! answer is a lie is not asked again.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use indelible_core::merkle::{self, ProofError};
use indelible_core::{FormatError, Hash, Leaf, LeafIndex};
use indelible_proto::v1::{
    self, GetRequest, ProveConsistencyRequest, ProveRequest, ReadLevel, TreeHeadRequest,
    TreeHeadResponse, read_level,
};
use indelible_proto::{Reason, Rejected};
use tokio::time::timeout;
use tonic::Status;

use crate::error::{Failure, Fault};
use crate::nodes::Nodes;
use crate::table::Link;
use crate::trust::evidence::{Evidence, hex_list};
use crate::trust::proof::Unbelieved;
use crate::trust::seen::Standing;
use crate::{CallError, Client, Record, SignedCheckpoint, Verification};

/// How fresh a read has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Level {
    /// Sees everything acknowledged before the read began, on whichever node.
    #[default]
    Linearizable,
    /// Sees at least this tree size. With [`Client::session`]: read your writes, and never
    /// backwards.
    AtLeast(u64),
    /// Whatever the node has; may lag.
    Any,
}

impl From<Level> for ReadLevel {
    fn from(level: Level) -> ReadLevel {
        let level = match level {
            Level::Linearizable => read_level::Level::Linearizable(true),
            Level::AtLeast(tree_size) => read_level::Level::AtLeast(tree_size),
            Level::Any => read_level::Level::Any(true),
        };
        ReadLevel { level: Some(level) }
    }
}

/// Whether records are to be proven against a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Prove {
    /// If the client has a policy.
    #[default]
    ByPolicy,
    /// Also without one: what comes can be kept and be verified elsewhere.
    Always,
    /// Not even with one: it is one node's word, and saves what the proof costs.
    Never,
}

/// One node's word on the whole trail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeHead {
    /// Leaves.
    pub tree_size: u64,
    /// RFC 6962 root over them.
    pub root: Hash,
    /// Who says so.
    pub node_id: u64,
    /// Name of the trail in checkpoints.
    pub origin: String,
    /// Whether a checkpoint that was accepted says the same.
    pub verification: Verification,
}

/// That a leaf is in the tree of this size and root. Verified before it is returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inclusion {
    /// Position of the leaf.
    pub index: LeafIndex,
    /// Size of the tree.
    pub tree_size: u64,
    /// Root of the tree: compare it with one that is trusted.
    pub root: Hash,
    /// The leaf.
    pub leaf: Leaf,
    /// RFC 6962 path.
    pub proof: Vec<Hash>,
}

/// That an older tree is a prefix of a newer one. Verified before it is returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consistency {
    /// Size of the older tree.
    pub old_size: u64,
    /// Its root: compare it with the one that was kept.
    pub old_root: Hash,
    /// Size of the newer tree.
    pub new_size: u64,
    /// Its root.
    pub new_root: Hash,
    /// RFC 6962 proof.
    pub proof: Vec<Hash>,
}

impl Client {
    /// One record: its content is what its leaf commits to, and, if the client has a policy, its
    /// leaf is in the tree of a checkpoint. Its `verification` says so; a record that is so young
    /// that no checkpoint covers it is [`Verification::Pending`].
    ///
    /// # Errors
    /// [`CallError::Rejected`] with `NOT_FOUND` past the end; [`CallError::NodeLied`] if no node's
    /// answer can be believed; [`CallError::Fork`] and [`CallError::RolledBack`].
    pub async fn get(&self, index: LeafIndex, level: Level) -> Result<Record, CallError> {
        self.get_with(index, level, Prove::ByPolicy).await
    }

    /// [`Client::get`], with or without proof.
    pub async fn get_with(
        &self,
        index: LeafIndex,
        level: Level,
        prove: Prove,
    ) -> Result<Record, CallError> {
        let request = GetRequest { index, level: Some(level.into()), prove: self.proves(prove) };
        let mut nodes = Nodes::new(self.options());
        if self.trust().covers(index.saturating_add(1)) {
            nodes = nodes.for_what_exists();
        }
        loop {
            let link = nodes.next(self.table()).await?;
            match self.get_from(&link, request, nodes.attempt_limit()).await {
                Ok(record) => return Ok(record),
                Err(fault) => nodes.fault(self, &link, fault)?,
            }
        }
    }

    async fn get_from(
        &self,
        link: &Link,
        request: GetRequest,
        limit: Duration,
    ) -> Result<Record, Fault> {
        let in_flight = link.begin();
        let answer = timeout(limit, link.audit().get(request)).await;
        drop(in_flight);
        let response = answer.map_err(|_| Failure::TimedOut(limit))??.into_inner();
        let record = response.record.ok_or("no record was sent")?;
        let mut records = [Record::verify(record, request.index)?];
        if request.prove {
            let checkpoint = self.checkpoint_in(&response.checkpoint)?;
            self.prove_records(link, &mut records, checkpoint, response.proof).await?;
        }
        if let Some(meta) = &response.meta {
            self.table().saw_tree_size(meta.tree_size);
        }
        let [record] = records;
        Ok(record)
    }

    /// Whether records are asked for with proof.
    pub(crate) fn proves(&self, prove: Prove) -> bool {
        match prove {
            Prove::ByPolicy => self.trust().policy().is_some(),
            Prove::Always => true,
            Prove::Never => false,
        }
    }

    /// The checkpoint that came with an answer, if one did.
    pub(crate) fn checkpoint_in(&self, note: &str) -> Result<Option<Arc<SignedCheckpoint>>, Fault> {
        if note.is_empty() {
            return Ok(None);
        }
        let checked = self.trust().check(note);
        checked
            .map(Some)
            .map_err(|what| Fault::Lie(what, Evidence::new([&note.into()], "came with records")))
    }

    /// Holds records that follow each other against the proof that came with them.
    pub(crate) async fn prove_records(
        &self,
        link: &Link,
        records: &mut [Record],
        checkpoint: Option<Arc<SignedCheckpoint>>,
        proof: Option<v1::RangeProof>,
    ) -> Result<(), Fault> {
        let Some(from) = records.first().map(|record| record.index) else { return Ok(()) };
        let to = from + records.len() as u64;
        let Some((checkpoint, proof)) = checkpoint.zip(proof) else {
            return self.unproven(link, records, from);
        };
        let hashes = records.iter().map(Record::leaf_hash).collect();
        let note = checkpoint.note.clone();
        let answer = format!("{proof:?}");
        let unbelieved = Unbelieved::new(checkpoint, proof, from, hashes)
            .map_err(|what| Fault::Lie(what, Evidence::new([&note], answer)))?;
        let verification = self.believe(link, &unbelieved.checkpoint, to).await?;
        let proof = unbelieved.believed(verification);
        records.iter_mut().for_each(|record| record.proven(&proof));
        Ok(())
    }

    /// Records that came without a proof that was asked for: they may be too young for one.
    fn unproven(&self, link: &Link, records: &mut [Record], from: u64) -> Result<(), Fault> {
        if self.trust().policy().is_none() {
            return Ok(());
        }
        self.trust().one_history().map_err(Fault::Final)?;
        if self.trust().covers(from + records.len() as u64) {
            let what = format!(
                "node {} sent record {from} without proof, and there is a checkpoint that covers it",
                link.node_id
            );
            return Err(Fault::Unproven(CallError::NotProven { what }));
        }
        records.iter_mut().for_each(|record| record.verification = Verification::Pending);
        Ok(())
    }

    /// Tree size and root, as one node sees them. At other levels than `Any` a node is passed over
    /// that sees less than was asked for, or than a checkpoint that was accepted before: it lags
    /// or lies. If all do, the largest of their answers comes: the trail may have been rolled back.
    pub async fn tree_head(&self, level: Level) -> Result<TreeHead, CallError> {
        let request = TreeHeadRequest { level: Some(level.into()) };
        let call = |link: Link| async move { link.audit().tree_head(request).await };
        let signed = self.trust().newest().map_or(0, |newest| newest.checkpoint.size);
        let size_min = match level {
            Level::Any => 0,
            Level::AtLeast(size) => size.max(signed),
            Level::Linearizable => signed,
        };
        let mut smaller = None::<TreeHead>;
        let found = self.read_any(self.nodes(None), call, |response: TreeHeadResponse| {
            let (tree_size, root) = (response.tree_size, hash(&response.root)?);
            let verification = self.verify_head(tree_size, root)?;
            self.table().saw_tree_size(tree_size);
            let (node_id, origin) = (response.node_id, response.origin);
            let head = TreeHead { tree_size, root, node_id, origin, verification };
            if tree_size >= size_min {
                return Ok(head);
            }
            if smaller.as_ref().is_none_or(|smaller| smaller.tree_size < tree_size) {
                smaller = Some(head);
            }
            let what = format!(
                "node {node_id} sees {tree_size} records, and there are {size_min} or more"
            );
            Err(Fault::Unproven(CallError::NotProven { what }))
        });
        match (found.await, smaller) {
            (Err(CallError::NotProven { .. }), Some(smaller)) => Ok(smaller),
            (found, _) => found,
        }
    }

    /// What is known of a tree of this size and root.
    fn verify_head(&self, tree_size: u64, root: Hash) -> Result<Verification, Fault> {
        let trust = self.trust();
        if trust.policy().is_none() {
            return Ok(Verification::Unverified);
        }
        match trust.standing(tree_size, root) {
            Standing::Known => {
                let newest = trust.newest().filter(|newest| newest.checkpoint.size >= tree_size);
                Ok(newest.map_or(Verification::Pending, |newest| newest.verification))
            }
            Standing::Conflict(seen) => {
                let what = format!(
                    "its tree of size {tree_size} has root {root}, the signed trail has another"
                );
                Err(Fault::Lie(what.clone(), Evidence::new([&seen.note], what)))
            }
            Standing::First | Standing::Newer(_) | Standing::Older(_) => Ok(Verification::Pending),
        }
    }

    /// A proof that the leaf at `index` is in the tree of `tree_size` leaves (`None`: the node's
    /// current size).
    pub async fn prove(
        &self,
        index: LeafIndex,
        tree_size: Option<u64>,
    ) -> Result<Inclusion, CallError> {
        let request = ProveRequest { index, tree_size: tree_size.unwrap_or(0), to: 0 };
        let call = |link: Link| async move { link.audit().prove(request).await };
        self.read_any(self.nodes(tree_size), call, |response| {
            let (size, root) = (response.tree_size, hash(&response.root)?);
            if response.index != index || tree_size.is_some_and(|asked| asked != size) {
                return Err(format!("a proof for leaf {} of {size}", response.index).into());
            }
            let proof =
                response.proof.iter().map(|hash_| hash(hash_)).collect::<Result<Vec<_>, _>>()?;
            let leaf =
                Leaf::decode(&response.leaf).map_err(|error: FormatError| error.to_string())?;
            let leaf_hash = merkle::leaf_hash(&leaf.encode());
            merkle::verify_inclusion(index, size, &leaf_hash, &proof, &root)
                .map_err(|error| lie(&error, &proof))?;
            Ok(Inclusion { index, tree_size: size, root, leaf, proof })
        })
        .await
    }

    /// A proof that the tree of `old_size` leaves is a prefix of that of `new_size` (`None`: the
    /// node's current size).
    pub async fn prove_consistency(
        &self,
        old_size: u64,
        new_size: Option<u64>,
    ) -> Result<Consistency, CallError> {
        let request = ProveConsistencyRequest { old_size, new_size: new_size.unwrap_or(0) };
        let call = |link: Link| async move { link.audit().prove_consistency(request).await };
        self.read_any(self.nodes(new_size), call, |response| {
            let size = response.new_size;
            if response.old_size != old_size || new_size.is_some_and(|asked| asked != size) {
                return Err(format!("a proof from {} to {size}", response.old_size).into());
            }
            let proof =
                response.proof.iter().map(|hash_| hash(hash_)).collect::<Result<Vec<_>, _>>()?;
            let (old_root, new_root) = (hash(&response.old_root)?, hash(&response.new_root)?);
            merkle::verify_consistency(old_size, size, &proof, &old_root, &new_root)
                .map_err(|error| lie(&error, &proof))?;
            Ok(Consistency { old_size, old_root, new_size: size, new_root, proof })
        })
        .await
    }

    /// The attempts of one question; if it is about a tree of a given size, for one that exists.
    pub(crate) fn nodes(&self, tree_size: Option<u64>) -> Nodes {
        let nodes = Nodes::new(self.options());
        if tree_size.is_some() { nodes.for_what_exists() } else { nodes }
    }

    /// Asks one node after the other until an answer verifies.
    pub(crate) async fn read_any<T, R, F>(
        &self,
        mut nodes: Nodes,
        call: impl Fn(Link) -> F,
        mut verify: impl FnMut(R) -> Result<T, Fault>,
    ) -> Result<T, CallError>
    where
        F: Future<Output = Result<tonic::Response<R>, Status>>,
    {
        loop {
            let link = nodes.next(self.table()).await?;
            let in_flight = link.begin();
            let limit = nodes.attempt_limit();
            let answer = timeout(limit, call(link.clone())).await;
            drop(in_flight);
            let verified = match answer {
                Err(_) => Err(Failure::TimedOut(limit).into()),
                Ok(Err(status)) => Err(status.into()),
                Ok(Ok(response)) => verify(response.into_inner()),
            };
            match verified {
                Ok(verified) => return Ok(verified),
                Err(fault) => nodes.fault(self, &link, fault)?,
            }
        }
    }
}

fn hash(bytes: &[u8]) -> Result<Hash, String> {
    Hash::from_slice(bytes).ok_or_else(|| format!("a hash of {} bytes", bytes.len()))
}

/// A proof that contradicts the roots that came with it.
fn lie(error: &ProofError, proof: &[Hash]) -> Fault {
    Fault::Lie(format!("its proof: {error}"), Evidence::new([], hex_list(proof)))
}

/// A refusal made by the client itself.
pub(crate) fn invalid(message: String) -> CallError {
    CallError::Rejected(Box::new(Rejected::new(Reason::Invalid, message)))
}
