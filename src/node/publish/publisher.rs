//! The leader's loop: gathers cosignatures, composes notes, and has them made durable.
//!
//! A round begins as soon as the tree has grown: at once if nothing was published lately or if
//! somebody waits for a proof, otherwise [`PACE`] after the round before; and every [`REFRESH`]
//! even if nothing has changed, so that freshness can be checked. It ends with a majority. While
//! its note is made durable the next round may begin: a proof costs one round trip, the followers'
//! sync and the leader's, and a caller waits for at most one round more.
//!
//! Signatures that come after the majority's are added to the newest note a moment later: for
//! [`TAKE_LATE`] nothing takes its place but a note that somebody waits for. A node
//! that is slower than the rounds would never be asked for the newest one: now and then the next
//! round waits a little for those that answer at all.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use indelible_core::limits::PUBLICATION_QUEUE_MAX;
use indelible_core::{Checkpoint, SignerKey};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::askers::{Answer, Askers, CosignOutcome, Target};
use super::cosigner;
use super::electorate::Electorates;
use super::notebook;
use super::round::Round;
use super::shared::{Shared, count};
use super::waiters::Sizes;
use crate::node::fatal::Fatal;
use crate::node::leadership::Leadership;
use crate::raft::network::Network;
use crate::storage::ledger::Ledger;

/// Between two rounds that nobody waits for.
const PACE: Duration = Duration::from_millis(50);
/// Between two rounds without any change of the tree.
const REFRESH: Duration = Duration::from_secs(10);
/// How long a round waits for its majority before a newer one takes its place.
pub(super) const ROUND_MAX: Duration = Duration::from_secs(2);
/// How long the newest note waits for signatures that come after the majority's.
const LATE: Duration = Duration::from_millis(10);
/// How long after a majority's signatures others still get into the note, unless somebody waits for
/// a newer one: its time is the median of few clocks otherwise.
pub(super) const TAKE_LATE: Duration = Duration::from_millis(50);
/// At least this often a note waits for the signatures of all that answer, however fast rounds
/// follow each other.
pub(super) const FULL_EVERY: Duration = Duration::from_secs(1);
/// How long the round after it waits for that.
const SLOW_MAX: Duration = Duration::from_millis(200);
/// Composed notes that wait for the disk at once.
const STORING_MAX: usize = 2;
/// Between two complaints about a missing majority.
const COMPLAIN_AGAIN: Duration = Duration::from_secs(10);

/// What the loop works with.
pub(super) struct Publisher {
    pub(super) node_id: u64,
    pub(super) origin: String,
    /// None on a node that was not given it: as the leader it publishes nothing.
    pub(super) log_key: Option<SignerKey>,
    pub(super) ledger: Ledger,
    pub(super) network: Network,
    pub(super) electorates: Arc<Electorates>,
    pub(super) cosigner: cosigner::Handle,
    pub(super) notebook: notebook::Handle,
    pub(super) shared: Arc<Shared>,
    pub(super) leadership: watch::Receiver<Leadership>,
    pub(super) waiters: watch::Receiver<Sizes>,
}

/// The loop's state during one leadership.
pub(super) struct State {
    number: u64,
    /// The round that gathers.
    pub(super) current: Option<(Round, Instant)>,
    /// The newest composed round, for signatures that come late.
    pub(super) done: Option<Round>,
    /// When those that have come are added.
    pub(super) late_due: Option<Instant>,
    /// When a note had every voter's signature.
    pub(super) full_at: Instant,
    /// Until when the next round waits for nodes that are slower than the rounds.
    pub(super) patient_until: Option<Instant>,
    /// When it has waited so in vain.
    gave_up_at: Option<Instant>,
    /// When each node has signed last, whatever round it was.
    signed_at: HashMap<u64, Instant>,
    /// Notes that are being made durable.
    pub(super) storing: JoinSet<()>,
    /// Size of the newest round, and when it began.
    begun: Option<(u64, Instant)>,
    /// When a majority had signed the newest round that has one.
    composed: Option<Instant>,
    complained: Option<Instant>,
    /// Nodes about which a finding was written in this leadership.
    found: Vec<u64>,
    /// Nodes that sign nothing, once that was said in this leadership.
    refusing: Vec<u64>,
}

impl State {
    pub(super) fn new() -> State {
        State {
            number: 0,
            current: None,
            done: None,
            late_due: None,
            full_at: Instant::now(),
            patient_until: None,
            gave_up_at: None,
            signed_at: HashMap::new(),
            storing: JoinSet::new(),
            begun: None,
            composed: None,
            complained: None,
            found: Vec::new(),
            refusing: Vec::new(),
        }
    }

    /// Whether the next round waits for the rest of this one's signatures: no note has had all of
    /// them for long, and somebody that has not signed is alive.
    fn is_patient(&self, round: &Round) -> bool {
        let is_long_ago = |at: &Instant| at.elapsed() > FULL_EVERY;
        let is_alive = |id: u64| self.signed_at.get(&id).is_some_and(|at| at.elapsed() < ROUND_MAX);
        is_long_ago(&self.full_at)
            && self.gave_up_at.as_ref().is_none_or(is_long_ago)
            && round.missing().any(is_alive)
    }
}

impl Publisher {
    /// Until the node stops.
    pub(super) async fn run(mut self) {
        let is_ready = |now: &Leadership| matches!(now, Leadership::Ready(_));
        while self.leadership.wait_for(is_ready).await.is_ok() {
            if self.log_key.is_none() {
                tracing::warn!(
                    "this node leads and has no log key: it publishes no checkpoints; hint: `indelible node-key \
                     --log-key FILE`, or `indelible transfer-leader`"
                );
                let other = |now: &Leadership| !is_ready(now);
                if self.leadership.wait_for(other).await.is_err() {
                    return;
                }
                continue;
            }
            self.lead().await;
        }
    }

    /// As long as this node leads.
    async fn lead(&mut self) {
        let (sender, mut answers) = mpsc::channel(PUBLICATION_QUEUE_MAX);
        let mut askers = Askers::new(self.network.clone(), sender.clone());
        let mut leadership = self.leadership.clone();
        let mut state = State::new();
        loop {
            let deadline = state.current.as_ref().map(|(_, begun)| *begun + ROUND_MAX);
            let may_begin = state.current.is_none()
                && state.patient_until.is_none()
                && state.storing.len() < STORING_MAX;
            tokio::select! {
                biased;
                changed = leadership.changed() => {
                    if changed.is_err() || !matches!(&*leadership.borrow(), Leadership::Ready(_)) {
                        return;
                    }
                }
                Some(answer) = answers.recv() => self.answered(&mut state, answer),
                Some(_) = state.storing.join_next() => {}
                () = self.due(state.begun, state.composed), if may_begin => {
                    self.begin(&mut state, &mut askers, &sender);
                }
                () = until(state.late_due) => self.add_late(&mut state),
                () = until(state.patient_until) => {
                    state.patient_until = None;
                    state.gave_up_at = Some(Instant::now());
                }
                () = until(deadline) => give_up(&mut state),
            }
        }
    }

    /// Until a round is due. The size of the newest one, when it began, and when a majority had
    /// last signed, are given.
    pub(super) async fn due(&self, begun: Option<(u64, Instant)>, composed: Option<Instant>) {
        let late_until = composed.map(|composed| composed + TAKE_LATE + LATE);
        let mut head = self.ledger.head();
        let mut waiters = self.waiters.clone();
        let mut evidence = self.shared.evidence.subscribe();
        let mut lost = self.shared.lost.subscribe();
        loop {
            let size = head.borrow_and_update().tree_size;
            let is_rolled_back =
                evidence.borrow_and_update().is_some() || lost.borrow_and_update().is_some();
            let due = match begun {
                _ if size == 0 || is_rolled_back => None,
                None => Some(Instant::now()),
                Some((covered, at)) if size > covered => {
                    let is_awaited = waiters.borrow_and_update().await_one_of(size, covered);
                    let paced = (at + PACE).max(late_until.unwrap_or(at));
                    Some(if is_awaited { at } else { paced })
                }
                Some((_, at)) => Some(at + REFRESH),
            };
            if due.is_some_and(|due| due <= Instant::now()) {
                return;
            }
            // An error means that the node is stopping, which ends the loop elsewhere.
            tokio::select! {
                _ = head.changed() => {}
                _ = waiters.changed() => {}
                _ = evidence.changed() => {}
                _ = lost.changed() => {}
                () = until(due) => return,
            }
        }
    }

    fn begin(&self, state: &mut State, askers: &mut Askers, answers: &mpsc::Sender<Answer>) {
        let head = *self.ledger.head().borrow();
        let electorate = match self.electorates.at(head.tree_size) {
            Ok(electorate) => electorate,
            Err(error) => {
                tracing::error!(%error, "cannot tell whose signatures count");
                state.begun = Some((head.tree_size, Instant::now()));
                return;
            }
        };
        state.number += 1;
        let checkpoint = Checkpoint::new(self.origin.clone(), head.tree_size, head.root);
        let round = Round::new(state.number, checkpoint, electorate);
        askers.ask(self.node_id, &round);
        self.sign(&round, answers.clone());
        let now = Instant::now();
        state.begun = Some((head.tree_size, now));
        state.current = Some((round, now));
    }

    /// This node's own signature, by the same rules as everybody's.
    fn sign(&self, round: &Round, answers: mpsc::Sender<Answer>) {
        if round.electorate.key(self.node_id).is_none() {
            return;
        }
        let (node, target) = (self.node_id, Arc::new(Target::of(round)));
        let (cosigner, checkpoint) = (self.cosigner.clone(), round.checkpoint.clone());
        tokio::spawn(async move {
            match cosigner.cosign(checkpoint).await {
                Ok(line) => {
                    // The leadership may be over.
                    let _ = answers
                        .send(Answer { node, target, said: CosignOutcome::Signed(line) })
                        .await;
                }
                Err(error) => tracing::warn!(%error, "the leader did not sign"),
            }
        });
    }

    pub(super) fn answered(&self, state: &mut State, answer: Answer) {
        let Answer { node, target, said } = answer;
        let number = target.number;
        if matches!(said, CosignOutcome::Signed(_)) {
            state.signed_at.insert(node, Instant::now());
        }
        if let CosignOutcome::RolledBack { size, accepted_unix_s } = said {
            return self.refused(state, node, number, size, accepted_unix_s);
        }
        if let Some((round, _)) = state.current.as_mut().filter(|(r, _)| r.number == number) {
            match said {
                CosignOutcome::Signed(line) => {
                    if let Err(error) = round.add(node, line) {
                        tracing::error!(node, %error, "a node's cosignature does not hold");
                    }
                }
                CosignOutcome::OtherRoot(root) => {
                    round.add_other_root(node, root);
                    self.found_other_root(&mut state.found, node, &round.checkpoint, root);
                    self.check_majority_against(round);
                }
                CosignOutcome::RolledBack { .. } => {}
            }
            if round.has_majority()
                && let Some((round, _)) = state.current.take()
            {
                self.compose(state, round);
            }
            return;
        }
        let Some(round) = state.done.as_mut().filter(|round| round.number == number) else {
            return self.answered_late(state, node, target.round(), said);
        };
        match said {
            CosignOutcome::Signed(line) => {
                if let Err(error) = round.add(node, line) {
                    tracing::error!(node, %error, "a node's cosignature does not hold");
                    return;
                }
                if let Some(alone) = round.alone(node) {
                    self.shared.saw_signatures(&Arc::new(alone));
                }
                if round.is_full() && state.full_at.elapsed() > FULL_EVERY {
                    self.add_late(state);
                } else {
                    state.late_due.get_or_insert_with(|| Instant::now() + LATE);
                }
            }
            CosignOutcome::OtherRoot(root) => {
                self.found_other_root(&mut state.found, node, &round.checkpoint, root);
            }
            CosignOutcome::RolledBack { .. } => {}
        }
    }

    /// A node signs nothing because it knows of a loss. One alone may be wrong, or lie: a majority
    /// that knows it has this leader refuse appends too.
    fn refused(&self, state: &mut State, node: u64, number: u64, size: u64, accepted_unix_s: u64) {
        let current = state.current.as_mut().filter(|(round, _)| round.number == number);
        let Some((round, _)) = current else { return };
        // It may not have heard yet that this very loss was accepted.
        if accepted_unix_s < self.shared.accepted_unix_s() {
            return;
        }
        if !state.refusing.contains(&node) {
            state.refusing.push(node);
            tracing::warn!(
                node,
                size,
                "a node knows that a signed checkpoint is lost, and signs nothing; hint: if that is so, make it the \
                 leader (`indelible transfer-leader`), and `indelible accept-rollback`"
            );
        }
        round.add_lost(node, size);
        if let Some(size) = round.majority_has_lost() {
            let notebook = self.notebook.clone();
            state.storing.spawn(async move {
                notebook.run(move |notebook| notebook.lost(size)).await;
            });
        }
    }

    /// An answer to a round that is over: no note takes it any more, but what it says counts.
    fn answered_late(&self, state: &mut State, node: u64, mut round: Round, said: CosignOutcome) {
        match said {
            CosignOutcome::Signed(line) => match round.add(node, line) {
                Ok(()) => {
                    let alone = round.alone(node).expect("it was added");
                    self.shared.saw_signatures(&Arc::new(alone));
                }
                Err(error) => tracing::error!(node, %error, "a node's cosignature does not hold"),
            },
            CosignOutcome::OtherRoot(root) => {
                self.found_other_root(&mut state.found, node, &round.checkpoint, root);
            }
            CosignOutcome::RolledBack { .. } => {}
        }
    }

    /// A majority has signed: the log signs, and the note is made durable.
    fn compose(&self, state: &mut State, round: Round) {
        count(&self.shared.counters.composed);
        state.late_due = None;
        state.composed = Some(Instant::now());
        self.store(state, &round);
        if state.is_patient(&round) {
            state.patient_until = Some(Instant::now() + SLOW_MAX);
        }
        state.done = Some(round);
    }

    /// Signatures that came after the majority's go into the newest note.
    pub(super) fn add_late(&self, state: &mut State) {
        state.late_due = None;
        if let Some(round) = state.done.take() {
            self.store(state, &round);
            state.done = Some(round);
        }
    }

    fn store(&self, state: &mut State, round: &Round) {
        if round.is_full() {
            state.full_at = Instant::now();
            state.patient_until = None;
        }
        let log_key = self.log_key.as_ref().expect("a node without it does not publish");
        let published = Arc::new(round.compose(log_key));
        let notebook = self.notebook.clone();
        state.storing.spawn(async move {
            notebook.run(move |notebook| notebook.composed(published)).await;
        });
    }

    /// A node holds another history than its leader: one of the two is wrong, and the trail should
    /// say so. Once for each node and leadership.
    fn found_other_root(
        &self,
        found: &mut Vec<u64>,
        node: u64,
        checkpoint: &Checkpoint,
        root: indelible_core::Hash,
    ) {
        count(&self.shared.counters.other_roots_answered);
        if found.contains(&node) {
            return;
        }
        found.push(node);
        let Checkpoint { size, root: ours, .. } = checkpoint;
        let detail =
            format!("node {node} has root {root} at tree size {size}, its leader has {ours}");
        tracing::error!(node, size, theirs = %root, %ours, "a node has another root; evidence kept");
        self.shared.keep_evidence(&format!("node-{node}-at-{size}.txt"), &format!("{detail}\n"));
        self.shared.find(node, "divergence", *size, "pending", detail);
    }

    /// If a majority holds another history, it is this leader that has gone astray.
    fn check_majority_against(&self, round: &Round) {
        let Some(root) = round.majority_against() else { return };
        let Checkpoint { size, root: ours, .. } = round.checkpoint;
        self.shared.stop(Fatal::Diverged(format!(
            "a majority has root {root} at tree size {size}, this leader has {ours}; hint: keep this data directory, \
             and join under a new id"
        )));
    }
}

/// A round that found no majority makes room for a newer one.
fn give_up(state: &mut State) {
    let Some((round, _)) = state.current.take() else { return };
    if state.complained.is_none_or(|at| at.elapsed() > COMPLAIN_AGAIN) {
        state.complained = Some(Instant::now());
        let size = round.checkpoint.size;
        tracing::warn!(size, "no majority has cosigned the checkpoint in {ROUND_MAX:?}");
    }
    // The next one is due as if this one had not been; not at once, or a lone leader would spin.
    let covered = state.done.as_ref().map_or(0, |round| round.checkpoint.size);
    state.begun = Some((covered, Instant::now()));
}

/// Until then, or for ever.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
