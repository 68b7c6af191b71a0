//! What the parts of publication know together: the newest notes, evidence, and how it ended.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use indelible_core::{Checkpoint, Hash};
use indelible_proto::v1;
use tokio::sync::watch;

use super::electorate::Valid;
use crate::node::fatal::{Fatal, Stop};
use crate::storage::evidence;
use crate::storage::notes::Acceptance;

/// Takes findings for the trail. Must not block.
pub type Finder = Arc<dyn Fn(v1::Finding) + Send + Sync>;

/// A note that was cosigned by a majority and is durable here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The signed note.
    pub note: String,
    /// What was signed.
    pub checkpoint: Checkpoint,
    /// The newest time, in Unix seconds, at or after which a majority had signed.
    pub unix_s: u64,
    /// Which nodes have signed, and when.
    pub signed: BTreeMap<u64, u64>,
    /// Witnesses of this node's configuration that have signed.
    pub witnesses: usize,
}

impl From<Valid> for Published {
    fn from(valid: Valid) -> Published {
        Published {
            note: valid.note.to_string(),
            checkpoint: valid.checkpoint,
            unix_s: valid.unix_s,
            signed: valid.signed,
            witnesses: 0,
        }
    }
}

impl Published {
    /// How many nodes' clocks its time is from.
    pub fn clocks(&self) -> u32 {
        u32::try_from(self.signed.len()).unwrap_or(u32::MAX)
    }

    /// What makes one note newer than another.
    fn rank(&self) -> (u64, u64, usize, usize) {
        (self.checkpoint.size, self.unix_s, self.signed.len(), self.witnesses)
    }

    /// The newest time, in Unix seconds, at which anybody has signed.
    pub(super) fn newest_signature(&self) -> u64 {
        self.signed.values().copied().max().unwrap_or(0)
    }

    /// Whether it says more than `other`: a larger tree, a later time, or more signatures.
    pub(super) fn is_newer_than(&self, other: Option<&Arc<Published>>) -> bool {
        other.is_none_or(|other| self.rank() > other.rank())
    }

    /// The opposite of [`Self::is_newer_than`].
    pub(super) fn is_at_most(&self, other: &Published) -> bool {
        self.rank() <= other.rank()
    }
}

/// What is counted since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Checkpoints that this node has composed as the leader.
    pub composed: AtomicU64,
    /// Checkpoints that this node has cosigned.
    pub cosigned: AtomicU64,
    /// Requests to cosign a root that is not this node's.
    pub other_roots_asked: AtomicU64,
    /// Nodes that answered this leader with another root.
    pub other_roots_answered: AtomicU64,
    /// Notes that contradict this node's trail, or reach past it while it leads.
    pub contradictions: AtomicU64,
}

/// Adds one.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The state that all parts see. Written as each field says.
pub(super) struct Shared {
    /// The newest note that agrees with this node's own tree. By the notebook.
    pub(super) newest: watch::Sender<Option<Arc<Published>>>,
    /// As `newest`, of those with the signature of a witness. By the notebook.
    pub(super) witnessed: watch::Sender<Option<Arc<Published>>>,
    /// The newest note that reaches past this node's own tree: it lags, or everything was rolled
    /// back. By the notebook.
    pub(super) beyond: watch::Sender<Option<Arc<Published>>>,
    /// That everything was rolled back, and nobody has accepted it yet. By the notebook.
    pub(super) evidence: watch::Sender<Option<Arc<Published>>>,
    /// The largest tree that this node has signed and that its disk has lost, if it went on because
    /// an operator said that all disks were put back, and nobody has accepted it yet. By the
    /// notebook.
    pub(super) lost: watch::Sender<Option<u64>>,
    /// Notes up to its time do not count any more. By the notebook.
    pub(super) accepted: watch::Sender<Acceptance>,
    /// Whether this node was told of an acceptance and has yet to find its record. By the notebook.
    pub(super) told_waits: watch::Sender<bool>,
    /// Size in a witness's claim that is larger than this leader's tree. By the witness task.
    pub(super) claimed: watch::Sender<Option<u64>>,
    /// Why the node must stop. By whoever finds out first.
    pub(super) fatal: watch::Sender<Option<Fatal>>,
    /// Tells the server.
    stop: Stop,
    /// The newest note that each node's cosignature was seen on, majority or not.
    pub(super) signed_by: Mutex<BTreeMap<u64, Arc<Published>>>,
    pub(super) counters: Counters,
    finder: Finder,
    data_dir: PathBuf,
}

impl Shared {
    pub(super) fn new(data_dir: PathBuf, stop: Stop, finder: Finder) -> Shared {
        Shared {
            newest: watch::Sender::new(None),
            witnessed: watch::Sender::new(None),
            beyond: watch::Sender::new(None),
            evidence: watch::Sender::new(None),
            lost: watch::Sender::new(None),
            accepted: watch::Sender::new(Acceptance::default()),
            told_waits: watch::Sender::new(false),
            claimed: watch::Sender::new(None),
            fatal: watch::Sender::new(None),
            stop,
            signed_by: Mutex::default(),
            counters: Counters::default(),
            finder,
            data_dir,
        }
    }

    /// Up to when (Unix seconds) notes do not count; 0 if nothing was ever accepted.
    pub(super) fn accepted_unix_s(&self) -> u64 {
        self.accepted.borrow().unix_s
    }

    /// Stops the node. The first reason counts.
    pub(super) fn stop(&self, why: Fatal) {
        self.fatal.send_if_modified(|fatal| {
            let is_first = fatal.is_none();
            fatal.get_or_insert_with(|| why.clone());
            is_first
        });
        self.stop.stop(why);
    }

    /// Whether the node must stop: then nothing is signed or served any more.
    pub(super) fn is_stopped(&self) -> bool {
        self.fatal.borrow().is_some()
    }

    /// Why the node is stopping.
    pub(super) fn why_stopped(&self) -> Fatal {
        let why = self.fatal.borrow().clone();
        why.unwrap_or_else(|| Fatal::Failed("the thread of the notes has ended".into()))
    }

    /// Notes that these nodes' signatures were seen, on this note.
    pub(super) fn saw_signatures(&self, published: &Arc<Published>) {
        let mut signed_by = self.signed_by.lock().unwrap_or_else(PoisonError::into_inner);
        for node_id in published.signed.keys() {
            let known = signed_by.get(node_id);
            if known.is_none_or(|known| known.checkpoint.size <= published.checkpoint.size) {
                signed_by.insert(*node_id, published.clone());
            }
        }
    }

    /// The newest note that a node's cosignature was seen on.
    pub(super) fn newest_signed_by(&self, node_id: u64) -> Option<Arc<Published>> {
        let signed_by = self.signed_by.lock().unwrap_or_else(PoisonError::into_inner);
        signed_by.get(&node_id).cloned()
    }

    /// Keeps bytes for people. A failure is logged: the evidence is in the log's message too.
    pub(super) fn keep_evidence(&self, name: &str, text: &str) {
        if let Err(error) = evidence::keep(&self.data_dir, name, text.as_bytes()) {
            tracing::error!(%error, name, "cannot keep evidence");
        }
    }

    /// Has a finding written into the trail.
    pub(super) fn find(&self, node_id: u64, what: &str, size: u64, outcome: &str, detail: String) {
        (self.finder)(v1::Finding {
            node_id,
            what: what.into(),
            place: format!("tree size {size}"),
            outcome: outcome.into(),
            detail,
            ..Default::default()
        });
    }
}

/// For messages: what a note says, and what this node holds.
pub(super) fn two_roots(checkpoint: &Checkpoint, ours: &Hash) -> String {
    let Checkpoint { size, root, .. } = checkpoint;
    format!("at tree size {size} the note has root {root}, this node has {ours}")
}
