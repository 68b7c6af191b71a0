//! The notes of this node: judged, made durable, and only then shown. One thread owns them.
//!
//! A valid note agrees with this node's tree, or reaches past it, or contradicts it. The first kind
//! is served. The second is kept, because it would prove a rollback after the next start, and is
//! served once the trail has grown so far. The third ends the node: a majority stands behind
//! another history.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use indelible_core::limits::PUBLICATION_QUEUE_MAX;
use indelible_core::{Checkpoint, Hash, Note, VerifierKey};
use tokio::sync::{mpsc, oneshot};

use super::acceptance::{self, Told};
use super::electorate::{Electorates, Invalid};
use super::shared::{Published, Shared, count, two_roots};
use crate::node::fatal::Fatal;
use crate::storage::ledger::{Ledger, LedgerError};
use crate::storage::notes::{Acceptance, NoteKind, Notes, NotesError, StoredNote};

/// Stored notes that a start looks at, from the newest back, for what it serves and for the last
/// signature of each node.
const LOOK_BACK: usize = 256;

/// What a valid note says about this node's trail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The same root.
    Agrees,
    /// A size that this node has not applied.
    Beyond,
    /// Another root at a size that it has applied: this one.
    Contradicts(Hash),
    /// Signed before an operator accepted a rollback: it says nothing.
    Void,
}

/// Why a note was not judged.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotJudged {
    /// It is not valid.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// This node cannot read its own trail.
    #[error("this node cannot read its trail: {0}")]
    Unreadable(#[from] LedgerError),
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

/// The owner of the notes.
pub(super) struct Notebook {
    notes: Notes,
    ledger: Ledger,
    electorates: Arc<Electorates>,
    /// Of this node's configuration.
    witnesses: Vec<VerifierKey>,
    shared: Arc<Shared>,
    /// The oldest of the notes that reach past this node's tree. The newest is in `shared`; both
    /// are looked at, so that a node that always lags a little serves something too.
    waiting: Option<Arc<Published>>,
    /// What each peer has said was accepted, until this node's own trail has the record or
    /// something else in its place.
    told: BTreeMap<u64, Acceptance>,
}

impl Notebook {
    /// Takes from the notes of a data directory what still counts.
    pub(super) fn new(
        notes: Notes,
        ledger: Ledger,
        electorates: Arc<Electorates>,
        witnesses: Vec<VerifierKey>,
        shared: Arc<Shared>,
    ) -> Result<Notebook, NotesError> {
        shared.accepted.send_replace(notes.accepted());
        let (waiting, told) = Default::default();
        let mut notebook =
            Notebook { notes, ledger, electorates, witnesses, shared, waiting, told };
        notebook.look_back()?;
        Ok(notebook)
    }

    /// Takes what still counts from the stored notes.
    fn look_back(&mut self) -> Result<(), NotesError> {
        if let Some(evidence) = self.notes.newest_evidence()
            && let Ok((evidence, verdict)) = self.judge(&evidence.text)
            && matches!(verdict, Verdict::Beyond | Verdict::Contradicts(_))
        {
            self.shared.evidence.send_replace(Some(evidence));
        }
        self.shared.lost.send_replace(self.notes.newest_lost());
        let stored = self.notes.all()?;
        let cosigned = stored.iter().rev().filter(|stored| stored.kind != NoteKind::Evidence);
        for stored in cosigned.take(LOOK_BACK) {
            self.take_stored(stored);
            let members = self.electorates.newest();
            let complete = self.shared.newest.borrow().is_some()
                && members.is_ok_and(|members| {
                    members.voters().all(|(id, _)| self.shared.newest_signed_by(id).is_some())
                });
            if complete {
                break;
            }
        }
        if let Some(witnessed) = self.notes.newest_witnessed()
            && let Ok((witnessed, Verdict::Agrees)) = self.judge(&witnessed.text)
        {
            self.shared.witnessed.send_replace(Some(witnessed));
        }
        Ok(())
    }

    fn take_stored(&mut self, stored: &StoredNote) {
        let (published, verdict) = match self.judge(&stored.text) {
            Ok(judged) => judged,
            // Perhaps of voters of whom this node's trail does not know yet, or was edited.
            Err(error) => {
                tracing::warn!(size = stored.size, %error, "a stored note does not count");
                return;
            }
        };
        if verdict == Verdict::Void || self.is_known_evidence(&published, &verdict) {
            return;
        }
        self.shared.saw_signatures(&published);
        match verdict {
            Verdict::Agrees if published.is_newer_than(self.shared.newest.borrow().as_ref()) => {
                self.shared.newest.send_replace(Some(published));
            }
            Verdict::Beyond if published.is_newer_than(self.shared.beyond.borrow().as_ref()) => {
                self.shared.beyond.send_replace(Some(published));
            }
            Verdict::Contradicts(ours) => self.contradicted(&published, &ours),
            Verdict::Agrees | Verdict::Beyond | Verdict::Void => {}
        }
        self.waiting = self.shared.beyond.borrow().clone();
    }

    /// Checks a note and compares it with this node's tree; keeps nothing.
    pub(super) fn judge(&self, text: &str) -> Result<(Arc<Published>, Verdict), NotJudged> {
        // Only the size is taken from the text before it is checked.
        let note = Note::parse(text).map_err(Invalid::Note)?;
        let size = Checkpoint::parse(&note.text).map_err(Invalid::Checkpoint)?.size;
        let valid = self.electorates.at(size)?.check(text)?;
        let witnesses = self.witnesses.iter().filter(|key| has_signed(key, &note)).count();
        let published = Arc::new(Published { witnesses, ..Published::from(valid) });
        let verdict = self.compare(&published)?;
        Ok((published, verdict))
    }

    fn compare(&self, published: &Published) -> Result<Verdict, LedgerError> {
        let accepted = self.shared.accepted_unix_s();
        if accepted > 0 && published.unix_s <= accepted {
            return Ok(Verdict::Void);
        }
        self.compare_roots(published)
    }

    /// As [`Self::compare`], whatever was accepted.
    fn compare_roots(&self, published: &Published) -> Result<Verdict, LedgerError> {
        let size = published.checkpoint.size;
        if size > self.ledger.head().borrow().tree_size {
            return Ok(Verdict::Beyond);
        }
        let ours = self.ledger.root_at(size)?;
        match ours == published.checkpoint.root {
            true => Ok(Verdict::Agrees),
            false => Ok(Verdict::Contradicts(ours)),
        }
    }

    /// Takes a note of a peer: keeps it durably if it is newer than what is here, and stops the
    /// node if it contradicts the trail.
    pub(super) fn offer(&mut self, text: &str) -> Result<Verdict, NotJudged> {
        if self.shared.is_stopped() {
            return Err(NotJudged::Stopping);
        }
        if self.shared.newest.borrow().as_ref().is_some_and(|newest| newest.note == text) {
            return Ok(Verdict::Agrees);
        }
        if self.shared.beyond.borrow().as_ref().is_some_and(|beyond| beyond.note == text) {
            return Ok(Verdict::Beyond);
        }
        let (published, mut verdict) = self.judge(text)?;
        if verdict == Verdict::Void && self.is_fork(&published)? {
            verdict = self.compare_roots(&published)?;
        }
        if verdict == Verdict::Void || self.is_known_evidence(&published, &verdict) {
            return Ok(Verdict::Void);
        }
        self.shared.saw_signatures(&published);
        match &verdict {
            Verdict::Agrees => self.adopt(published, false),
            Verdict::Beyond => self.reach(published),
            Verdict::Contradicts(ours) => self.contradicted(&published, ours),
            Verdict::Void => {}
        }
        Ok(verdict)
    }

    /// Whether a note that the time of its majority makes void is a fork all the same: somebody has
    /// signed another history than this node's after the loss was accepted. A stolen key can sign
    /// for any time, so that the majority's says nothing; the honest signature beside it does.
    fn is_fork(&self, published: &Published) -> Result<bool, LedgerError> {
        Ok(published.newest_signature() > self.shared.accepted_unix_s()
            && matches!(self.compare_roots(published)?, Verdict::Contradicts(_)))
    }

    /// Whether a note is of the history that the evidence of a rollback speaks of: it is known then
    /// that the whole group has lost it, and it says nothing about this node.
    fn is_known_evidence(&self, published: &Published, verdict: &Verdict) -> bool {
        let evidence = self.shared.evidence.borrow();
        matches!(verdict, Verdict::Beyond | Verdict::Contradicts(_))
            && evidence.as_ref().is_some_and(|evidence| published.is_at_most(evidence))
    }

    /// Takes a note that agrees with the tree.
    fn adopt(&mut self, published: Arc<Published>, is_durable: bool) {
        let is_newest = published.is_newer_than(self.shared.newest.borrow().as_ref());
        let is_witnessed = published.witnesses > 0
            && published.is_newer_than(self.shared.witnessed.borrow().as_ref());
        if !is_newest && !is_witnessed {
            return;
        }
        if !is_durable && !self.append(kind(&published), &published) {
            return;
        }
        if is_witnessed {
            self.shared.witnessed.send_replace(Some(published.clone()));
        }
        if is_newest {
            self.shared.newest.send_replace(Some(published));
        }
    }

    /// Takes a note that reaches past the tree.
    fn reach(&mut self, published: Arc<Published>) {
        if !published.is_newer_than(self.shared.beyond.borrow().as_ref()) {
            return;
        }
        if self.append(kind(&published), &published) {
            self.waiting.get_or_insert_with(|| published.clone());
            self.shared.beyond.send_replace(Some(published));
        }
    }

    /// A majority stands behind another history than this node holds: it is evidence against one of
    /// the two, and this node cannot tell against which.
    fn contradicted(&self, published: &Published, ours: &Hash) {
        count(&self.shared.counters.contradictions);
        let size = published.checkpoint.size;
        self.shared.keep_evidence(&format!("note-{size}.txt"), &published.note);
        let roots = two_roots(&published.checkpoint, ours);
        self.shared.stop(Fatal::Diverged(format!(
            "a majority (nodes {:?}) has signed another history: {roots}; the note is in `evidence`; hint: keep this \
             data directory, compare the nodes with `indelible check`, and join under a new id if this is the only \
             node that differs",
            published.signed.keys().collect::<Vec<_>>(),
        )));
    }

    /// Looks again at notes that reached past the tree. `now` is this node's clock, in Unix
    /// seconds.
    pub(super) fn settle(&mut self, now: u64) {
        let reached = |note: &Option<Arc<Published>>, size| {
            note.clone().filter(|note| note.checkpoint.size <= size)
        };
        // What was accepted comes first: it decides which notes count.
        self.look_up_told(now);
        self.settle_evidence();
        loop {
            let size = self.ledger.head().borrow().tree_size;
            let beyond = self.shared.beyond.borrow().clone();
            let is_newest = |note: &Arc<Published>| Some(note) == beyond.as_ref();
            let Some(note) = reached(&beyond, size).or_else(|| reached(&self.waiting, size)) else {
                return;
            };
            match self.compare(&note) {
                Ok(Verdict::Agrees) => self.adopt(note.clone(), true),
                Ok(Verdict::Contradicts(ours)) => return self.contradicted(&note, &ours),
                Ok(Verdict::Beyond | Verdict::Void) => {}
                Err(error) => return tracing::error!(%error, "cannot compare a note"),
            }
            if is_newest(&note) {
                self.shared.beyond.send_replace(None);
                self.waiting = None;
            } else {
                self.waiting = beyond;
            }
        }
    }

    /// Evidence that turns out to agree with the trail is none: this node alone was behind.
    fn settle_evidence(&self) {
        let Some(evidence) = self.shared.evidence.borrow().clone() else { return };
        if matches!(self.compare(&evidence), Ok(Verdict::Agrees)) {
            tracing::warn!(size = evidence.checkpoint.size, "the trail has what was missing");
            self.shared.evidence.send_replace(None);
        }
    }

    /// Takes a note that this node has composed itself.
    pub(super) fn composed(&mut self, published: Arc<Published>) {
        if !self.shared.is_stopped() {
            self.shared.saw_signatures(&published);
            self.adopt(published, false);
        }
    }

    /// Keeps the evidence that everything was rolled back: appends are refused from now on. The
    /// caller knows that the note counts and that the group's trail is not the one it speaks of.
    pub(super) fn rolled_back(&mut self, published: Arc<Published>) {
        if !published.is_newer_than(self.shared.evidence.borrow().as_ref()) {
            return;
        }
        if !self.append(NoteKind::Evidence, &published) {
            return;
        }
        count(&self.shared.counters.contradictions);
        let size = published.checkpoint.size;
        self.shared.keep_evidence(&format!("rollback-{size}.txt"), &published.note);
        let ours = self.ledger.head().borrow().tree_size;
        tracing::error!(
            checkpoint_size = size,
            tree_size = ours,
            "a checkpoint that a majority has signed is not in this trail: everything was rolled back; appends are \
             refused until an operator runs `indelible accept-rollback`"
        );
        let is_beyond =
            self.shared.beyond.borrow().as_ref().is_some_and(|b| b.is_at_most(&published));
        if is_beyond {
            self.shared.beyond.send_replace(None);
            self.waiting = None;
        }
        self.shared.evidence.send_replace(Some(published));
        self.forget_signatures(|note| matches!(self.compare(note), Ok(Verdict::Agrees)));
    }

    /// Notes, durably, that this node, or a majority, has signed a tree of that size which its disk
    /// does not have, and that an operator has all nodes go on: appends are refused from now on.
    /// False if it could not be made durable.
    pub(super) fn lost(&mut self, size: u64) -> bool {
        if self.shared.lost.borrow().is_some_and(|lost| lost >= size) {
            return true;
        }
        // Crash before: nothing is changed, and the next start finds the same.
        if let Err(error) = self.notes.lost(size) {
            self.shared.stop(Fatal::Failed(error.to_string()));
            return false;
        }
        tracing::error!(
            signed = size,
            "what was signed is lost: appends are refused until an operator runs `indelible accept-rollback`"
        );
        self.shared.lost.send_replace(Some(size));
        true
    }

    fn forget_signatures(&self, keep: impl Fn(&Published) -> bool) {
        let mut signed_by = self.shared.signed_by.lock().unwrap_or_else(PoisonError::into_inner);
        signed_by.retain(|_, note| keep(note));
    }

    /// Takes what a peer says was accepted, once this node's own trail has the record of it. `now`
    /// is this node's clock, in Unix seconds.
    pub(super) fn told(&mut self, peer: u64, told: Acceptance, now: u64) {
        if told.unix_s > self.shared.accepted_unix_s() && told.leaf > 0 {
            self.told.insert(peer, told);
            self.look_up_told(now);
        }
    }

    fn look_up_told(&mut self, now: u64) {
        for (peer, told) in std::mem::take(&mut self.told) {
            if told.unix_s <= self.shared.accepted_unix_s() {
                continue;
            }
            match acceptance::look_up(&self.ledger, told, now) {
                Ok(Told::Recorded) => {
                    self.accept(told);
                }
                Ok(Told::NotYet) => {
                    self.told.insert(peer, told);
                }
                Ok(Told::Invented) => {
                    tracing::error!(
                        peer,
                        ?told,
                        "a peer says that a rollback was accepted; it was not"
                    );
                }
                Err(error) => {
                    tracing::error!(%error, "cannot look for the record of an acceptance");
                    self.told.insert(peer, told);
                }
            }
        }
        let waits = !self.told.is_empty();
        self.shared.told_waits.send_if_modified(|now| std::mem::replace(now, waits) != waits);
    }

    /// Notes, durably, that an operator has accepted a rollback: what was signed up to that time
    /// does not count any more. The caller knows that it was accepted. False if it could not be
    /// made durable.
    pub(super) fn accept(&mut self, accepted: Acceptance) -> bool {
        let unix_s = accepted.unix_s;
        if unix_s <= self.shared.accepted_unix_s() {
            return true;
        }
        if let Err(error) = self.notes.accept(accepted) {
            self.shared.stop(Fatal::Failed(error.to_string()));
            return false;
        }
        tracing::warn!(unix_s, "a rollback was accepted: notes up to this time do not count");
        // Crash before: nothing was accepted here, and the leader says so again. After: all below
        // follows from the file at the next start.
        self.shared.accepted.send_replace(accepted);
        let void =
            |note: &Option<Arc<Published>>| note.as_ref().is_some_and(|n| n.unix_s <= unix_s);
        for watched in [&self.shared.newest, &self.shared.witnessed, &self.shared.beyond] {
            watched.send_if_modified(|note| void(note) && note.take().is_some());
        }
        self.shared.evidence.send_if_modified(|note| void(note) && note.take().is_some());
        self.shared.claimed.send_replace(None);
        self.shared.lost.send_replace(None);
        if void(&self.waiting) {
            self.waiting = None;
        }
        self.forget_signatures(|note| note.unix_s > unix_s);
        true
    }

    /// Makes a note durable. False if that failed: then the node stops.
    fn append(&self, kind: NoteKind, published: &Published) -> bool {
        // Crash before the return: nobody has been shown the note. After: it counts.
        match self.notes.append(kind, published.checkpoint.size, &published.note) {
            Ok(()) => true,
            Err(error) => {
                self.shared.stop(Fatal::Failed(error.to_string()));
                false
            }
        }
    }
}

/// Opens the notes of a data directory. A damaged or missing file is made anew from what is whole;
/// the caller asks the peers for the rest. On a node that has never started none is missing.
pub(super) fn open_notes(dir: &Path, is_new: bool) -> Result<Notes, NotesError> {
    match Notes::open(dir) {
        Err(NotesError::Missing { .. }) if is_new => Ok(Notes::recover(dir)?.0),
        Err(error @ (NotesError::Missing { .. } | NotesError::Damaged { .. })) => {
            let (notes, whole) = Notes::recover(dir)?;
            tracing::error!(%error, whole, "notes made anew; the peers have the others");
            Ok(notes)
        }
        opened => opened,
    }
}

/// Under which kind a note is kept.
fn kind(published: &Published) -> NoteKind {
    if published.witnesses > 0 { NoteKind::Witnessed } else { NoteKind::Cosigned }
}

/// Whether a note carries a signature of this key that holds.
fn has_signed(key: &VerifierKey, note: &Note) -> bool {
    note.signatures.iter().any(|signature| key.verify(&note.text, signature).is_ok())
}

type Job = Box<dyn FnOnce(&mut Notebook) + Send>;

/// A handle to the thread. It ends when the last one is dropped.
#[derive(Clone)]
pub(super) struct Handle {
    jobs: mpsc::Sender<Job>,
}

impl Handle {
    /// Starts the thread.
    pub(super) fn start(mut notebook: Notebook) -> std::io::Result<Handle> {
        let (jobs, mut queue) = mpsc::channel::<Job>(PUBLICATION_QUEUE_MAX);
        std::thread::Builder::new().name("notes".into()).spawn(move || {
            while let Some(job) = queue.blocking_recv() {
                job(&mut notebook);
            }
        })?;
        Ok(Handle { jobs })
    }

    /// Runs something on the thread, after everything that was handed over before. None if the node
    /// is stopping.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Notebook) -> T + Send + 'static,
    ) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |notebook| {
            // Whoever asked may be gone.
            let _ = reply.send(job(notebook));
        });
        self.jobs.send(job).await.ok()?;
        answer.await.ok()
    }

    /// Takes a note of a peer.
    pub(super) async fn offer(&self, text: String) -> Result<Verdict, NotJudged> {
        self.run(move |notebook| notebook.offer(&text)).await.unwrap_or(Err(NotJudged::Stopping))
    }

    /// Judges a note and keeps nothing.
    pub(super) async fn judge(&self, text: String) -> Result<(Arc<Published>, Verdict), NotJudged> {
        self.run(move |notebook| notebook.judge(&text)).await.unwrap_or(Err(NotJudged::Stopping))
    }
}
