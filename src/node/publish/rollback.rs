//! Every disk rolled back together: who notices, and what it takes to go on.
//!
//! A valid note that reaches past the trail of a leader to whom a majority has just listened, or
//! contradicts it, proves that the group has lost what it had signed. The leader keeps the note,
//! tells the others, and refuses appends until an operator accepts the loss; that is a record.
//! Notes that were signed up to then do not count any more.

use std::sync::Arc;
use std::time::Duration;

use indelible_proto::raft as pb;
use indelible_proto::reason::{Reason, Rejected, key};
use tokio::sync::watch;

use super::acceptance;
use super::cosigner::{self, unix_s};
use super::notebook::{self, NotJudged, Verdict};
use super::shared::{Published, Shared};
use crate::node::leadership::Leadership;
use crate::node::operations::{Operations, Why};
use crate::node::reads::{Level, Reads};
use crate::raft::network::Network;
use crate::raft::peers::Known;
use crate::storage::notes::Acceptance;

/// Before a leader asks again whether it leads.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// How long the leader may take to judge a note that was reported elsewhere.
const FORWARD: Duration = Duration::from_secs(5);

/// What judging needs.
#[derive(Clone)]
pub(super) struct Rollback {
    pub(super) network: Network,
    pub(super) known: watch::Receiver<Known>,
    pub(super) leadership: watch::Receiver<Leadership>,
    pub(super) reads: Reads,
    pub(super) operations: Arc<Operations>,
    pub(super) cosigner: cosigner::Handle,
    pub(super) notebook: notebook::Handle,
    pub(super) shared: Arc<Shared>,
}

impl Rollback {
    /// Watches for notes that reach past the trail while this node leads.
    pub(super) async fn watch(self) {
        let mut beyond = self.shared.beyond.subscribe();
        let mut leadership = self.leadership.clone();
        loop {
            if beyond.wait_for(Option::is_some).await.is_err() {
                return;
            }
            let leads = leadership.wait_for(|now| matches!(now, Leadership::Ready(_)));
            if leads.await.is_err() {
                return;
            }
            let Some(note) = beyond.borrow().clone() else { continue };
            if self.is_rolled_back(&note).await == Some(true) {
                self.keep(note).await;
            }
            // Not confirmed, or applied meanwhile.
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// Has notes that reached past the trail looked at again as it grows.
    pub(super) async fn settle(self, mut head: watch::Receiver<crate::storage::ledger::Head>) {
        let mut beyond = self.shared.beyond.subscribe();
        let mut evidence = self.shared.evidence.subscribe();
        let mut told_waits = self.shared.told_waits.subscribe();
        let mut accepted = self.shared.accepted.subscribe();
        loop {
            let waits = |note: &Option<Arc<Published>>, size: u64| {
                note.as_ref().is_some_and(|note| note.checkpoint.size <= size)
            };
            let size = head.borrow_and_update().tree_size;
            if *told_waits.borrow_and_update()
                || beyond.borrow_and_update().is_some()
                || waits(&evidence.borrow_and_update(), size)
            {
                self.notebook.run(|notebook| notebook.settle(unix_s())).await;
            }
            // While there is nothing to look at again, only a new note matters: not every entry.
            let is_waiting =
                *told_waits.borrow() || beyond.borrow().is_some() || evidence.borrow().is_some();
            let gone = tokio::select! {
                changed = head.changed(), if is_waiting => changed.is_err(),
                changed = beyond.changed() => changed.is_err(),
                changed = evidence.changed() => changed.is_err(),
                changed = told_waits.changed() => changed.is_err(),
                changed = accepted.changed() => {
                    self.cosigner.forget().await;
                    changed.is_err()
                }
            };
            if gone {
                return;
            }
        }
    }

    /// Whether the trail of this leader, confirmed by a majority just now, lacks what the note
    /// speaks of. None if that is not known.
    async fn is_rolled_back(&self, note: &Published) -> Option<bool> {
        self.reads.barrier(Level::Linearizable).await.ok()?;
        if !matches!(&*self.leadership.borrow(), Leadership::Ready(_)) {
            return None;
        }
        let (_, verdict) = self.notebook.judge(note.note.clone()).await.ok()?;
        Some(matches!(verdict, Verdict::Beyond | Verdict::Contradicts(_)))
    }

    /// A note that a client has seen. True if it is evidence: then appends are refused.
    pub(super) async fn report(&self, text: &str) -> Result<bool, Rejected> {
        let (note, verdict) =
            self.notebook.judge(text.to_owned()).await.map_err(|error| not_judged(&error))?;
        if matches!(verdict, Verdict::Agrees | Verdict::Void) {
            return Ok(false);
        }
        if self.is_evidence_already(&note) {
            return Ok(true);
        }
        let leadership = self.leadership.borrow().clone();
        match &leadership {
            Leadership::Ready(_) | Leadership::Preparing(_) => self.decide(note).await,
            Leadership::Follower(leader) => self.forward(leader.id, text).await,
            Leadership::NoLeader => Err(leadership.rejection()),
        }
    }

    /// A note that a client has shown to another node. Only the leader answers.
    pub(super) async fn reported(&self, text: String) -> Result<bool, Rejected> {
        let judged = self.notebook.judge(text).await;
        let (note, verdict) = judged.map_err(|error| not_judged(&error))?;
        match verdict {
            Verdict::Agrees | Verdict::Void => Ok(false),
            Verdict::Beyond | Verdict::Contradicts(_) => self.decide(note).await,
        }
    }

    /// Whether a note that this leader's trail does not have is evidence; keeps it if it is.
    async fn decide(&self, note: Arc<Published>) -> Result<bool, Rejected> {
        match self.is_rolled_back(&note).await {
            None => Err(not_confirmed()),
            Some(false) => Ok(false),
            Some(true) => match self.keep(note).await {
                true => Ok(true),
                false => Err(not_judged(&NotJudged::Stopping)),
            },
        }
    }

    /// Keeps evidence, and has the trail say so. False if the node is stopping.
    async fn keep(&self, note: Arc<Published>) -> bool {
        let size = note.checkpoint.size;
        let nodes: Vec<u64> = note.signed.keys().copied().collect();
        let kept = self.notebook.run(move |notebook| notebook.rolled_back(note)).await;
        let detail = format!("nodes {nodes:?} had signed a checkpoint that is not in the trail");
        self.shared.find(0, "rollback", size, "pending", detail);
        kept.is_some()
    }

    fn is_evidence_already(&self, note: &Published) -> bool {
        let evidence = self.shared.evidence.borrow();
        evidence.as_ref().is_some_and(|evidence| note.is_at_most(evidence))
    }

    /// This node may only be behind: the leader judges.
    async fn forward(&self, leader: u64, text: &str) -> Result<bool, Rejected> {
        let peer = self.known.borrow().membership.get_node(&leader).cloned();
        let peer = peer.ok_or_else(not_confirmed)?;
        let request = pb::PublishRequest { reported: text.to_owned(), ..Default::default() };
        let answer = self.network.publish(leader, &peer, request, FORWARD).await;
        answer.map(|answer| answer.rolled_back).map_err(|error| {
            tracing::warn!(leader, %error, "a reported note did not reach the leader");
            not_confirmed()
        })
    }

    /// Evidence that the leader sends: kept, so that this node refuses appends once it leads.
    pub(super) async fn take_evidence(&self, text: String) {
        match self.notebook.judge(text).await {
            Ok((note, Verdict::Beyond | Verdict::Contradicts(_))) => {
                self.notebook.run(move |notebook| notebook.rolled_back(note)).await;
            }
            Ok((_, Verdict::Agrees | Verdict::Void)) => {}
            Err(error) => tracing::warn!(%error, "the leader's evidence does not count here"),
        }
    }

    /// What the leader says was accepted.
    pub(super) async fn take_accepted(&self, leader: u64, told: Acceptance) {
        if told.unix_s > self.shared.accepted_unix_s() {
            self.notebook.run(move |notebook| notebook.told(leader, told, unix_s())).await;
        }
    }

    /// Why appends are refused, if they are.
    pub(super) fn rejection(&self) -> Option<Rejected> {
        if !matches!(&*self.leadership.borrow(), Leadership::Ready(_) | Leadership::Preparing(_)) {
            return None;
        }
        let size = self.shared.rolled_back()?;
        let message = format!(
            "a checkpoint of tree size {size} that a majority has signed is not in this trail: every disk was rolled \
             back; hint: find out what was lost, then `indelible accept-rollback`"
        );
        Some(Rejected::new(Reason::RolledBack, message).with(key::CHECKPOINT_SIZE, size))
    }

    /// An operator accepts that what came later is lost. Returns the leaf of the record.
    pub(super) async fn accept(&self, why: Why) -> Result<u64, Rejected> {
        let leadership = self.leadership.borrow().clone();
        if !matches!(leadership, Leadership::Ready(_)) {
            return Err(leadership.rejection());
        }
        let evidence = self.shared.evidence.borrow().clone();
        let (lost, claimed) = (*self.shared.lost.borrow(), *self.shared.claimed.borrow());
        let detail = match (&evidence, lost, claimed) {
            (Some(note), ..) => {
                let checkpoint = &note.checkpoint;
                format!("checkpoint of tree size {}, root {}", checkpoint.size, checkpoint.root)
            }
            (None, Some(size), _) => format!("tree size {size} was signed and is lost"),
            (None, None, Some(size)) => format!("a witness knows tree size {size}"),
            (None, None, None) => {
                let message = "no checkpoint reaches past the trail: there is nothing to accept";
                return Err(Rejected::new(Reason::Invalid, message));
            }
        };
        let signed = evidence.map_or(0, |note| note.newest_signature());
        let time = acceptance::time(unix_s(), signed);
        let index = self.operations.record_accepted(acceptance::ACTION, detail, &why, time).await?;
        // Crash here: the record is there, appends are still refused, and the operator does it
        // again.
        let accepted = Acceptance { unix_s: time, leaf: index };
        let kept = self.notebook.run(move |notebook| notebook.accept(accepted)).await;
        if kept != Some(true) {
            return Err(not_judged(&NotJudged::Stopping));
        }
        self.cosigner.forget().await;
        Ok(index)
    }
}

impl Shared {
    /// The tree size that the group is known to have lost, if it is and nobody has accepted it.
    pub(super) fn rolled_back(&self) -> Option<u64> {
        self.signed_and_lost().max(*self.claimed.borrow())
    }

    /// As [`Self::rolled_back`], if a node's signature says it: then nothing is signed either.
    pub(super) fn signed_and_lost(&self) -> Option<u64> {
        let evidence = self.evidence.borrow().as_ref().map(|note| note.checkpoint.size);
        evidence.max(*self.lost.borrow())
    }
}

fn not_judged(error: &NotJudged) -> Rejected {
    match error {
        NotJudged::Invalid(why) => {
            let message = format!(
                "not a note that a majority of this trail's nodes has signed: {why}; hint: a note of other voters than \
                 this node knows cannot be judged here"
            );
            Rejected::new(Reason::Invalid, message)
        }
        NotJudged::Unreadable(_) => Rejected::new(Reason::Damaged, error.to_string()),
        NotJudged::Stopping => Rejected::new(Reason::Stopping, error.to_string()),
    }
}

fn not_confirmed() -> Rejected {
    let message = "no leader could confirm that the trail lacks this; hint: report it again";
    Rejected::new(Reason::NoLeader, message).retry_after(ASK_AGAIN)
}
