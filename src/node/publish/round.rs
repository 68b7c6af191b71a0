//! One round of gathering: a checkpoint and who has signed it so far. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use indelible_core::key::SignatureError;
use indelible_core::{Checkpoint, Hash, Note, NoteSignature, SignerKey};

use super::electorate::Electorate;
use super::shared::Published;

/// A checkpoint on its way to a majority.
#[derive(Debug)]
pub(super) struct Round {
    /// Counts up; answers name it.
    pub(super) number: u64,
    pub(super) checkpoint: Checkpoint,
    /// The checkpoint's text.
    pub(super) text: String,
    pub(super) electorate: Arc<Electorate>,
    /// By node; every one verified.
    signatures: BTreeMap<u64, NoteSignature>,
    /// When each of them was made.
    signed: BTreeMap<u64, u64>,
    /// What nodes that do not sign have instead.
    other_roots: BTreeMap<u64, Hash>,
    /// What nodes that do not sign know to be lost.
    lost: BTreeMap<u64, u64>,
}

impl Round {
    /// Nobody has signed yet.
    pub(super) fn new(number: u64, checkpoint: Checkpoint, electorate: Arc<Electorate>) -> Round {
        let text = checkpoint.to_string();
        let (signatures, signed, other_roots, lost) = Default::default();
        Round { number, checkpoint, text, electorate, signatures, signed, other_roots, lost }
    }

    /// Adds a node's signature, if it holds. Those of nodes that are no members are refused.
    pub(super) fn add(&mut self, node: u64, line: NoteSignature) -> Result<(), SignatureError> {
        let key = self.electorate.key(node).ok_or(SignatureError::OtherKey)?;
        let signed = key.verify(&self.text, &line)?;
        self.signed.insert(node, signed.unix_s.unwrap_or(0));
        self.signatures.insert(node, line);
        Ok(())
    }

    /// Notes that a node has another root.
    pub(super) fn add_other_root(&mut self, node: u64, root: Hash) {
        self.other_roots.insert(node, root);
    }

    /// Notes that a node signs nothing, because it knows that so much was signed and is lost.
    pub(super) fn add_lost(&mut self, node: u64, size: u64) {
        self.lost.insert(node, size);
    }

    /// The size that a majority of the voters knows to be lost; of several the smallest.
    pub(super) fn majority_has_lost(&self) -> Option<u64> {
        let is_majority = self.electorate.is_majority(|id| self.lost.contains_key(&id));
        self.lost.values().copied().min().filter(|_| is_majority)
    }

    /// Whether a majority of every set of voters has signed.
    pub(super) fn has_majority(&self) -> bool {
        self.electorate.majority_time(&self.signed).is_some()
    }

    /// The voters that have not signed yet.
    pub(super) fn missing(&self) -> impl Iterator<Item = u64> {
        let voters = self.electorate.voters().map(|(id, _)| id);
        voters.filter(|id| !self.signed.contains_key(id))
    }

    /// Whether every voter has signed.
    pub(super) fn is_full(&self) -> bool {
        self.missing().next().is_none()
    }

    /// The root that a majority of the voters holds instead, if there is one: then it is the one
    /// who asks that is wrong.
    pub(super) fn majority_against(&self) -> Option<Hash> {
        let roots = self.other_roots.values();
        roots
            .copied()
            .find(|root| self.electorate.is_majority(|id| self.other_roots.get(&id) == Some(root)))
    }

    /// The note, with everybody's signatures so far. The log signs last, and only what a majority
    /// stands behind: alone its signature satisfies no policy.
    pub(super) fn compose(&self, log_key: &SignerKey) -> Published {
        let majority = self.electorate.majority_time(&self.signed);
        let unix_s = majority.expect("the log signs only what a majority has cosigned");
        let mut note = Note { text: self.text.clone(), signatures: Vec::new() };
        note.signatures.push(log_key.sign(&self.checkpoint));
        note.signatures.extend(self.signatures.values().cloned());
        Published {
            note: note.to_string(),
            checkpoint: self.checkpoint.clone(),
            unix_s,
            signed: self.signed.clone(),
            witnesses: 0,
        }
    }

    /// One node's signature alone: no majority's word, but that node's.
    pub(super) fn alone(&self, node: u64) -> Option<Published> {
        let (line, unix_s) = (self.signatures.get(&node)?, *self.signed.get(&node)?);
        let note = Note { text: self.text.clone(), signatures: vec![line.clone()] };
        Some(Published {
            note: note.to_string(),
            checkpoint: self.checkpoint.clone(),
            unix_s,
            signed: BTreeMap::from([(node, unix_s)]),
            witnesses: 0,
        })
    }
}
