//! What shows that somebody broke a rule, so that other people can check it without this client.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use indelible_core::{Hash, ProducerId};

use super::signed::SignedCheckpoint;
use crate::Receipt;

/// What was signed and what was answered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Evidence {
    /// Signed notes, as they came.
    pub notes: Vec<Arc<str>>,
    /// What was answered, in words and hexadecimal.
    pub answer: String,
}

impl Evidence {
    pub(crate) fn new<'a>(
        notes: impl IntoIterator<Item = &'a Arc<str>>,
        answer: impl Into<String>,
    ) -> Evidence {
        Evidence { notes: notes.into_iter().cloned().collect(), answer: answer.into() }
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.answer)?;
        self.notes.iter().try_for_each(|note| writeln!(f, "\n{}", note.trim_end()))
    }
}

/// Hashes in hexadecimal, for [`Evidence::answer`].
pub(crate) fn hex_list(hashes: &[Hash]) -> String {
    hashes.iter().map(Hash::to_string).collect::<Vec<_>>().join(" ")
}

/// A node's answer contradicts itself, or what was signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("node {node_id} ({addr}) is not to be believed: {what}")]
pub struct Lie {
    /// Which node.
    pub node_id: u64,
    /// Where it is.
    pub addr: String,
    /// What does not fit.
    pub what: String,
    /// What shows it.
    pub evidence: Evidence,
}

/// Two checkpoints that the policy accepts are not of one history: whoever signed both showed
/// different trails to different people. Nothing can be read as verified any more until a person
/// has found out whose keys did that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the trail has two histories: the checkpoints of size {} and of size {} were both validly signed, \
     and contradict each other\n\
     hint: keep both as evidence, and find out who signed them: {} and {}",
    .ours.checkpoint.size, .theirs.checkpoint.size,
    .ours.signers.join(", "), .theirs.signers.join(", ")
)]
pub struct Fork {
    /// What this client had seen.
    pub ours: Arc<SignedCheckpoint>,
    /// What it was shown later.
    pub theirs: Arc<SignedCheckpoint>,
    /// Both notes, and the proof that they contradict each other unless their sizes are equal.
    pub evidence: Evidence,
}

/// What was signed or acknowledged is no longer in the trail.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RolledBack {
    /// A checkpoint reaches past the trail.
    #[error(
        "the trail was rolled back: it has {tree_size} records, and a valid checkpoint covers {} \
         ({reported} nodes have taken it as evidence)\n\
         hint: find the newest disks, and start the nodes on them. If the lost records are given up \
         with `indelible accept-rollback`, remove this client's checkpoint file too",
        .checkpoint.checkpoint.size
    )]
    Checkpoint {
        /// What this client has seen.
        checkpoint: Arc<SignedCheckpoint>,
        /// What the cluster has now.
        tree_size: u64,
        /// Nodes that were told and refuse appends until an operator accepts.
        reported: usize,
    },
    /// Events that were acknowledged are not in the trail.
    #[error(
        "the trail was rolled back: producer {producer} had seq {known} acknowledged, and the trail \
         ends at seq {last_seq}\n\
         hint: find the newest disks, and start the nodes on them, before anything more is appended"
    )]
    Producer {
        /// Whose events.
        producer: ProducerId,
        /// The last seq that was acknowledged.
        known: u64,
        /// The last seq in the trail.
        last_seq: u64,
    },
}

/// The cosigned trail holds another leaf than the one that was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the receipt for seq {} of producer {producer} is broken: node {node_id} ({addr}) acknowledged it \
     at index {}, and the cosigned trail holds another leaf there",
    .receipt.seq, .receipt.index
)]
pub struct BrokenReceipt {
    /// What was acknowledged.
    pub receipt: Receipt,
    /// Whose event it is.
    pub producer: ProducerId,
    /// Who acknowledged it.
    pub node_id: u64,
    /// Where that node is.
    pub addr: String,
    /// The checkpoint, and the proof that its tree holds another leaf at that index.
    pub evidence: Evidence,
}

/// Receipts that no checkpoint has covered in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{count} acknowledged events are not covered by any checkpoint after {waited:.0?}, the first one is \
     at index {first_index}: {last}\n\
     hint: `indelible status` shows whether a majority of the nodes signs"
)]
pub struct Unsettled {
    /// How many.
    pub count: usize,
    /// Lowest leaf index among them.
    pub first_index: u64,
    /// How long the oldest has waited.
    pub waited: Duration,
    /// What the last attempt met.
    pub last: String,
}
