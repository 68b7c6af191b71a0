//! The one who signs: a thread that owns the node's key and the memory of what it has signed.
//!
//! It signs a size and root only if the node has applied that size itself (which implies that it is
//! durable here) and found the same root, if the size is not below the last one that it signed or
//! below a note that it knows, and if its own tree still has the last signed root where it was.
//! What it is about to sign is durable before the signature leaves. So a node never signs two
//! histories, whoever asks, and whatever happens in between.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use indelible_core::limits::PUBLICATION_QUEUE_MAX;
use indelible_core::{Checkpoint, Hash, NoteSignature, SignerKey};
use tokio::sync::{mpsc, oneshot};

use super::shared::{Shared, count, two_roots};
use super::standing::reachable_size;
use crate::node::fatal::Fatal;
use crate::storage::ledger::{Ledger, LedgerError};
use crate::storage::log::Log;
use crate::storage::signed::SignedMarker;

/// The latest time that a signature can say.
const SIGNED_UNIX_S_MAX: u64 = i64::MAX as u64;

/// Why a checkpoint was not signed.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotSigned {
    /// Of another trail, with extension lines, or of an empty tree.
    #[error("node {node} does not sign this: {what}")]
    Malformed {
        /// This node.
        node: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// This node has not applied so much.
    #[error("asked to sign tree size {asked}, {applied} are applied")]
    NotApplied {
        /// The checkpoint's size.
        asked: u64,
        /// This node's.
        applied: u64,
    },
    /// This node has another root at that size. Evidence was kept.
    #[error("another root: this node has {ours}")]
    OtherRoot {
        /// This node's root at that size.
        ours: Hash,
    },
    /// Smaller than what was signed before.
    #[error("asked to sign tree size {asked} after {last}")]
    Behind {
        /// The checkpoint's size.
        asked: u64,
        /// The largest that was signed, or is known to be.
        last: u64,
    },
    /// Everything was rolled back, and nobody has accepted it.
    #[error("a checkpoint of size {checkpoint_size} is known that is not in this trail")]
    RolledBack {
        /// Its size.
        checkpoint_size: u64,
    },
    /// This node cannot read its own trail.
    #[error("this node cannot read its trail: {0}")]
    Unreadable(#[from] LedgerError),
    /// The node is stopping, perhaps because of this very request.
    #[error("the node is stopping")]
    Stopping,
}

/// The owner of the key.
pub(super) struct Cosigner {
    pub(super) node_id: u64,
    pub(super) origin: String,
    pub(super) key: SignerKey,
    /// The data directory.
    pub(super) dir: PathBuf,
    pub(super) log: Log,
    pub(super) ledger: Ledger,
    pub(super) marker: SignedMarker,
    /// A rollback was accepted, and it is not known yet whether the marker is of what was lost.
    pub(super) is_undecided: bool,
    pub(super) shared: Arc<Shared>,
}

impl Cosigner {
    /// Signs, or says why not. `unix_s` is this node's clock.
    pub(super) fn cosign(
        &mut self,
        checkpoint: &Checkpoint,
        unix_s: u64,
    ) -> Result<NoteSignature, NotSigned> {
        self.check_form(checkpoint)?;
        self.check_standing(checkpoint)?;
        let Checkpoint { size, root, .. } = *checkpoint;
        let applied = self.ledger.head().borrow().tree_size;
        if size > applied {
            return Err(NotSigned::NotApplied { asked: size, applied });
        }
        let ours = self.ledger.root_at(size)?;
        if ours != root {
            return Err(self.other_root(checkpoint, ours));
        }
        if self.is_undecided {
            self.forget();
        }
        self.check_last(size)?;
        // Crash before the return: nothing has left this node. After: it will not sign anything
        // else at this size, nor a smaller one.
        if let Err(error) = self.marker.save(size, root) {
            self.shared.stop(Fatal::Failed(error.to_string()));
            return Err(NotSigned::Stopping);
        }
        count(&self.shared.counters.cosigned);
        // Never within the time for which notes were declared void.
        let after = self.shared.accepted_unix_s().saturating_add(1);
        Ok(self.key.cosign(checkpoint, unix_s.max(after).min(SIGNED_UNIX_S_MAX)))
    }

    fn check_form(&self, checkpoint: &Checkpoint) -> Result<(), NotSigned> {
        let malformed = |what| Err(NotSigned::Malformed { node: self.node_id, what });
        if checkpoint.origin != self.origin {
            return malformed("it is of another trail");
        }
        if !checkpoint.extensions.is_empty() {
            return malformed("it has extension lines");
        }
        if checkpoint.size == 0 {
            return malformed("a trail is never empty");
        }
        Ok(())
    }

    /// Nothing is signed that would contradict what is known already.
    fn check_standing(&self, checkpoint: &Checkpoint) -> Result<(), NotSigned> {
        if self.shared.is_stopped() {
            return Err(NotSigned::Stopping);
        }
        if let Some(checkpoint_size) = self.shared.signed_and_lost() {
            return Err(NotSigned::RolledBack { checkpoint_size });
        }
        let known = [&self.shared.newest, &self.shared.beyond];
        let known = known.iter().filter_map(|note| Some(note.borrow().as_ref()?.checkpoint.size));
        match known.max() {
            Some(last) if last > checkpoint.size => {
                Err(NotSigned::Behind { asked: checkpoint.size, last })
            }
            _ => Ok(()),
        }
    }

    /// The last signed root is still where it was, and `size` is not below it.
    fn check_last(&self, size: u64) -> Result<(), NotSigned> {
        let Some((last, signed_root)) = self.marker.last() else { return Ok(()) };
        if size < last {
            return Err(NotSigned::Behind { asked: size, last });
        }
        let ours = self.ledger.root_at(last)?;
        if ours != signed_root {
            let signed = Checkpoint::new(self.origin.clone(), last, signed_root);
            self.shared.keep_evidence(&format!("signed-{last}.txt"), &signed.to_string());
            self.shared.stop(Fatal::Diverged(format!(
                "this node's trail is not the one that it has signed: {}; hint: its disk was changed; join under a new \
                 id",
                two_roots(&signed, &ours)
            )));
            return Err(NotSigned::Stopping);
        }
        Ok(())
    }

    /// Somebody asks this node to sign a history that it does not hold.
    fn other_root(&self, checkpoint: &Checkpoint, ours: Hash) -> NotSigned {
        count(&self.shared.counters.other_roots_asked);
        let what = two_roots(checkpoint, &ours);
        tracing::error!(%what, "asked to sign another root; evidence kept");
        let name = format!("asked-{}.txt", checkpoint.size);
        self.shared.keep_evidence(&name, &format!("{checkpoint}\nthis node's root: {ours}\n"));
        NotSigned::OtherRoot { ours }
    }

    /// After an accepted rollback: what was signed of a trail that is gone is forgotten. What this
    /// node's log may still lead to is not: it was killed and has not applied it again.
    pub(super) fn forget(&mut self) {
        let Some((last, root)) = self.marker.last() else { return };
        let is_gone = self.is_gone(last, root);
        self.is_undecided = is_gone.is_none();
        if is_gone != Some(true) {
            return;
        }
        let head = *self.ledger.head().borrow();
        tracing::warn!(last, tree_size = head.tree_size, "what was signed before does not count");
        let now = (head.tree_size > 0).then_some((head.tree_size, head.root));
        // Crash before: the marker of the trail that is gone, and this is done again. After: the
        // marker of the accepted one.
        match SignedMarker::restore(&self.dir, now) {
            Ok(marker) => self.marker = marker,
            Err(error) => self.shared.stop(Fatal::Failed(error.to_string())),
        }
    }

    /// Whether this node's trail cannot have what was signed; none if that will show.
    fn is_gone(&self, last: u64, root: Hash) -> Option<bool> {
        let unreadable = |error: &dyn std::fmt::Display| tracing::error!(%error, "cannot look for what was signed");
        if last <= self.ledger.head().borrow().tree_size {
            let ours = self.ledger.root_at(last).inspect_err(|error| unreadable(error)).ok()?;
            return Some(ours != root);
        }
        let reachable = reachable_size(&self.log, &self.ledger);
        let reachable = reachable.inspect_err(|error| unreadable(error)).ok()?;
        (reachable < last).then_some(true)
    }
}

/// What the thread is asked.
enum Job {
    Sign { checkpoint: Checkpoint, reply: oneshot::Sender<Result<NoteSignature, NotSigned>> },
    Forget,
}

/// A handle to the thread. It ends when the last one is dropped.
#[derive(Clone)]
pub(super) struct Handle {
    jobs: mpsc::Sender<Job>,
}

impl Handle {
    /// Starts the thread.
    pub(super) fn start(mut cosigner: Cosigner) -> std::io::Result<Handle> {
        let (jobs, mut queue) = mpsc::channel(PUBLICATION_QUEUE_MAX);
        std::thread::Builder::new().name("cosigner".into()).spawn(move || {
            while let Some(job) = queue.blocking_recv() {
                match job {
                    // Whoever asked may be gone.
                    Job::Sign { checkpoint, reply } => {
                        drop(reply.send(cosigner.cosign(&checkpoint, unix_s())));
                    }
                    Job::Forget => cosigner.forget(),
                }
            }
        })?;
        Ok(Handle { jobs })
    }

    /// This node's signature over a checkpoint.
    pub(super) async fn cosign(&self, checkpoint: Checkpoint) -> Result<NoteSignature, NotSigned> {
        let (reply, answer) = oneshot::channel();
        let job = Job::Sign { checkpoint, reply };
        self.jobs.send(job).await.map_err(|_| NotSigned::Stopping)?;
        answer.await.unwrap_or(Err(NotSigned::Stopping))
    }

    /// Lets go of a signature that an accepted rollback has made void.
    pub(super) async fn forget(&self) {
        // If the thread is gone, the node is stopping.
        let _ = self.jobs.send(Job::Forget).await;
    }
}

/// This node's clock, in Unix seconds.
pub(super) fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
