//! Asking the other voters for their signatures: one task each, one question at a time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use indelible_core::{Checkpoint, Hash, NoteSignature};
use indelible_proto::raft as pb;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::electorate::Electorate;
use super::publisher::ROUND_MAX;
use super::round::Round;
use crate::raft::network::Network;
use crate::raft::publication::CallError;
use crate::raft::types::Peer;

/// How long a peer may wait until it has applied what it is asked to sign.
const APPLY_WAIT: Duration = Duration::from_millis(500);
/// How long a peer may take to answer.
const ANSWER: Duration = Duration::from_secs(2);
/// First pause after a question that was not answered; doubles.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// Longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What is to be signed: all that an answer needs to be judged, however late it comes.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) number: u64,
    checkpoint: Checkpoint,
    electorate: Arc<Electorate>,
    text: String,
    begun: Instant,
}

impl Target {
    /// The checkpoint of a round that begins now.
    pub(super) fn of(round: &Round) -> Target {
        let Round { number, checkpoint, electorate, text, .. } = round;
        Target {
            number: *number,
            checkpoint: checkpoint.clone(),
            electorate: electorate.clone(),
            text: text.clone(),
            begun: Instant::now(),
        }
    }

    /// That round, without anybody's answer.
    pub(super) fn round(&self) -> Round {
        Round::new(self.number, self.checkpoint.clone(), self.electorate.clone())
    }
}

/// What a node said to a round.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) node: u64,
    /// What it was asked.
    pub(super) target: Arc<Target>,
    pub(super) said: CosignOutcome,
}

/// What a node says to a checkpoint.
#[derive(Debug)]
pub(super) enum CosignOutcome {
    /// Its signature; not verified yet.
    Signed(NoteSignature),
    /// It has another root.
    OtherRoot(Hash),
    /// It knows that a checkpoint of that size is lost, and of losses that were accepted up to that
    /// time.
    RolledBack { size: u64, accepted_unix_s: u64 },
}

/// The tasks of one leadership; they end when this is dropped.
pub(super) struct Askers {
    network: Network,
    target: watch::Sender<Option<Arc<Target>>>,
    answers: mpsc::Sender<Answer>,
    tasks: JoinSet<()>,
    /// Whom and where.
    running: HashMap<u64, (String, AbortHandle)>,
}

impl Askers {
    pub(super) fn new(network: Network, answers: mpsc::Sender<Answer>) -> Askers {
        let target = watch::Sender::new(None);
        Askers { network, target, answers, tasks: JoinSet::new(), running: HashMap::new() }
    }

    /// Asks every voter but `me`. Whoever is still busy with an earlier question is asked
    /// afterwards.
    pub(super) fn ask(&mut self, me: u64, round: &Round) {
        for (id, peer) in round.electorate.voters().filter(|(id, _)| *id != me) {
            if self.running.get(&id).is_some_and(|(addr, _)| *addr == peer.raft_addr) {
                continue;
            }
            let asker = Asker {
                node: id,
                peer: peer.clone(),
                network: self.network.clone(),
                answers: self.answers.clone(),
            };
            let task = self.tasks.spawn(asker.run(self.target.subscribe()));
            if let Some((_, old)) = self.running.insert(id, (peer.raft_addr.clone(), task)) {
                old.abort();
            }
        }
        self.target.send_replace(Some(Arc::new(Target::of(round))));
    }
}

struct Asker {
    node: u64,
    peer: Peer,
    network: Network,
    answers: mpsc::Sender<Answer>,
}

impl Asker {
    async fn run(self, mut target: watch::Receiver<Option<Arc<Target>>>) {
        let mut asked = 0;
        let mut pause = PAUSE_MIN;
        loop {
            let newer =
                |target: &Option<Arc<Target>>| target.as_ref().is_some_and(|t| t.number > asked);
            let Ok(next) = target.wait_for(newer).await.map(|target| target.clone()) else {
                return;
            };
            let next = next.expect("it was waited for");
            match self.ask(&next).await {
                Ok(said) => {
                    // What is lost may be accepted in a moment.
                    let is_final = !matches!(said, CosignOutcome::RolledBack { .. });
                    let number = next.number;
                    let is_over = next.begun.elapsed() > ROUND_MAX;
                    let answer = Answer { node: self.node, target: next, said };
                    if self.answers.send(answer).await.is_err() {
                        return;
                    }
                    if is_final || is_over {
                        asked = number;
                    }
                    if is_final {
                        pause = PAUSE_MIN;
                    } else {
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(PAUSE_MAX);
                    }
                }
                Err(error) => {
                    tracing::debug!(node = self.node, %error, "no cosignature");
                    if next.begun.elapsed() > ROUND_MAX {
                        asked = next.number;
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    async fn ask(&self, target: &Target) -> Result<CosignOutcome, CallError> {
        let wait_ms = u32::try_from(APPLY_WAIT.as_millis()).expect("half a second");
        let request = pb::CosignRequest { checkpoint: target.text.clone(), wait_ms };
        let answer = self.network.cosign(self.node, &self.peer, request, ANSWER).await?;
        let malformed = |what: &str| CallError::Refused {
            node: self.node,
            reason: format!("answered with {what}"),
        };
        if answer.rolled_back_from > 0 {
            let (size, accepted_unix_s) = (answer.rolled_back_from, answer.accepted_unix_s);
            return Ok(CosignOutcome::RolledBack { size, accepted_unix_s });
        }
        if !answer.other_root.is_empty() {
            let root = Hash::from_slice(&answer.other_root);
            return root
                .map(CosignOutcome::OtherRoot)
                .ok_or_else(|| malformed("a root of odd size"));
        }
        let line = NoteSignature::parse_line(&answer.signature);
        line.map(CosignOutcome::Signed).map_err(|error| malformed(&error.to_string()))
    }
}
