//! Reading: single records, proofs and tree heads, from whichever node is least busy.
//!
//! Followers are asked first and the leader only when no follower can answer: it has all the
//! writes. A node that cannot answer, or whose answer does not verify, costs one attempt, and the
//! next node is asked.

use std::future::Future;

use indelible_core::merkle::{self, ProofError};
use indelible_core::{Hash, Leaf, LeafIndex};
use indelible_proto::v1::{
    GetRequest, ProveConsistencyRequest, ProveRequest, ReadLevel, TreeHeadRequest, read_level,
};
use indelible_proto::{Reason, Rejected};
use tokio::time::timeout;
use tonic::Status;

use crate::error::Failure;
use crate::nodes::Nodes;
use crate::table::Link;
use crate::{CallError, Client, Record};

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

/// One node's word on the whole trail. Not signed yet.
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
    /// One record, verified.
    ///
    /// # Errors
    /// [`CallError::Rejected`] with `NOT_FOUND` past the end; [`CallError::Broken`] if no node's
    /// answer verifies.
    pub async fn get(&self, index: LeafIndex, level: Level) -> Result<Record, CallError> {
        let request = GetRequest { index, level: Some(level.into()), prove: false };
        let call = |link: Link| async move { link.audit().get(request).await };
        self.read_any(call, |response| {
            if let Some(meta) = &response.meta {
                self.table().saw_tree_size(meta.tree_size);
            }
            Record::verify(response.record.ok_or("no record was sent")?, index)
        })
        .await
    }

    /// Tree size and root, as one node sees them.
    pub async fn tree_head(&self, level: Level) -> Result<TreeHead, CallError> {
        let request = TreeHeadRequest { level: Some(level.into()) };
        let call = |link: Link| async move { link.audit().tree_head(request).await };
        self.read_any(call, |response| {
            let root = hash(&response.root)?;
            self.table().saw_tree_size(response.tree_size);
            let (tree_size, node_id) = (response.tree_size, response.node_id);
            Ok(TreeHead { tree_size, root, node_id, origin: response.origin })
        })
        .await
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
        self.read_any(call, |response| {
            let (size, root) = (response.tree_size, hash(&response.root)?);
            if response.index != index || tree_size.is_some_and(|asked| asked != size) {
                return Err(format!("a proof for leaf {} of {size}", response.index));
            }
            let proof =
                response.proof.iter().map(|hash_| hash(hash_)).collect::<Result<Vec<_>, _>>()?;
            let leaf = Leaf::decode(&response.leaf).map_err(|error| error.to_string())?;
            let leaf_hash = merkle::leaf_hash(&leaf.encode());
            merkle::verify_inclusion(index, size, &leaf_hash, &proof, &root).map_err(in_words)?;
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
        self.read_any(call, |response| {
            let size = response.new_size;
            if response.old_size != old_size || new_size.is_some_and(|asked| asked != size) {
                return Err(format!("a proof from {} to {size}", response.old_size));
            }
            let proof =
                response.proof.iter().map(|hash_| hash(hash_)).collect::<Result<Vec<_>, _>>()?;
            let (old_root, new_root) = (hash(&response.old_root)?, hash(&response.new_root)?);
            merkle::verify_consistency(old_size, size, &proof, &old_root, &new_root)
                .map_err(in_words)?;
            Ok(Consistency { old_size, old_root, new_size: size, new_root, proof })
        })
        .await
    }

    /// Asks one node after the other until an answer verifies.
    async fn read_any<T, R, F>(
        &self,
        call: impl Fn(Link) -> F,
        verify: impl Fn(R) -> Result<T, String>,
    ) -> Result<T, CallError>
    where
        F: Future<Output = Result<tonic::Response<R>, Status>>,
    {
        let mut nodes = Nodes::new(self.options());
        loop {
            let link = nodes.next(self.table()).await?;
            let in_flight = link.begin();
            let answer = timeout(nodes.attempt_limit(), call(link.clone())).await;
            drop(in_flight);
            let failure = match answer {
                Err(_) => Failure::TimedOut(nodes.attempt_timeout),
                Ok(Err(status)) => status.into(),
                Ok(Ok(response)) => match verify(response.into_inner()) {
                    Ok(verified) => return Ok(verified),
                    Err(what) => {
                        nodes.broken(&link, what);
                        continue;
                    }
                },
            };
            nodes.failed(&link, failure)?;
        }
    }
}

fn hash(bytes: &[u8]) -> Result<Hash, String> {
    Hash::from_slice(bytes).ok_or_else(|| format!("a hash of {} bytes", bytes.len()))
}

fn in_words(error: ProofError) -> String {
    error.to_string()
}

/// A refusal made by the client itself.
pub(crate) fn invalid(message: String) -> CallError {
    CallError::Rejected(Box::new(Rejected::new(Reason::Invalid, message)))
}
