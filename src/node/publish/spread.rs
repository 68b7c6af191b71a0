//! Notes to every node: from the leader as they are made, from the others now and then.
//!
//! Followers tell each other too, because a leader with two histories would show each of them only
//! its own: when the two notes meet, whoever holds one of the histories stops.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use indelible_proto::raft as pb;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::notebook;
use super::shared::{Published, Shared};
use crate::node::leadership::Leadership;
use crate::raft::network::Network;
use crate::raft::peers::Known;
use crate::raft::types::Peer;
use crate::storage::notes::Acceptance;

/// Between two messages of a leader to one node.
const LEADER_PACE: Duration = Duration::from_millis(50);
/// Before a follower passes on what it was told.
const FOLLOWER_DELAY: Duration = Duration::from_secs(1);
/// How long a node may take to answer: it makes the notes durable first.
const ANSWER: Duration = Duration::from_secs(5);
/// First pause after a message that was not answered; doubles.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// What the tasks work with.
#[derive(Clone)]
pub(super) struct Spread {
    pub(super) node_id: u64,
    pub(super) network: Network,
    pub(super) notebook: notebook::Handle,
    pub(super) shared: Arc<Shared>,
    pub(super) leadership: watch::Receiver<Leadership>,
}

/// What a node was told, or should be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct News {
    newest: Option<Arc<Published>>,
    witnessed: Option<Arc<Published>>,
    evidence: Option<Arc<Published>>,
    accepted: Acceptance,
}

impl Spread {
    /// Keeps a task for every member, as long as it is one.
    pub(super) async fn run(self, mut known: watch::Receiver<Known>) {
        let mut tasks = JoinSet::new();
        let mut running: HashMap<u64, (String, AbortHandle)> = HashMap::new();
        loop {
            let members: HashMap<u64, Peer> = {
                let known = known.borrow_and_update();
                let others = known.membership.nodes().filter(|(id, _)| **id != self.node_id);
                others.map(|(id, peer)| (*id, peer.clone())).collect()
            };
            running.retain(|id, (addr, task)| {
                let stays = members.get(id).is_some_and(|peer| peer.raft_addr == *addr);
                if !stays {
                    task.abort();
                }
                stays
            });
            for (id, peer) in members {
                running.entry(id).or_insert_with(|| {
                    let addr = peer.raft_addr.clone();
                    (addr, tasks.spawn(self.clone().to(id, peer)))
                });
            }
            tokio::select! {
                changed = known.changed() => if changed.is_err() { return },
                // A task that was taken back.
                Some(_) = tasks.join_next() => {}
            }
        }
    }

    /// Tells one node.
    async fn to(self, node: u64, peer: Peer) {
        let mut changes = Changes::new(&self);
        let mut told = News::default();
        let mut sent: Option<Instant> = None;
        let mut pause = PAUSE_MIN;
        loop {
            let mut news = self.news();
            while news == told || !self.should_tell(node) {
                if changes.wait().await.is_err() {
                    return;
                }
                news = self.news();
            }
            if self.leads() {
                if let Some(sent) = sent {
                    tokio::time::sleep_until(sent + LEADER_PACE).await;
                }
            } else {
                tokio::time::sleep(FOLLOWER_DELAY).await;
            }
            let news = self.news();
            if news == told || !self.should_tell(node) {
                continue;
            }
            sent = Some(Instant::now());
            match self.network.publish(node, &peer, request(&news), ANSWER).await {
                Ok(answer) => {
                    told = news;
                    pause = PAUSE_MIN;
                    if !answer.newer_note.is_empty()
                        && let Err(error) = self.notebook.offer(answer.newer_note).await
                    {
                        tracing::warn!(node, %error, "a node's newer note does not count");
                    }
                }
                Err(error) => {
                    tracing::debug!(node, %error, "a node was not told of checkpoints");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    fn news(&self) -> News {
        // What only a leader may say is said by nobody else.
        let evidence = self.shared.evidence.borrow().clone().filter(|_| self.leads());
        let accepted = *self.shared.accepted.borrow();
        let accepted = if self.leads() { accepted } else { Acceptance::default() };
        News {
            newest: self.shared.newest.borrow().clone(),
            witnessed: self.shared.witnessed.borrow().clone(),
            evidence,
            accepted,
        }
    }

    fn leads(&self) -> bool {
        matches!(&*self.leadership.borrow(), Leadership::Ready(_))
    }

    /// The leader tells everybody; the others tell each other, not the leader. Without one all tell
    /// everybody: those who were shown two histories can follow no new one.
    fn should_tell(&self, node: u64) -> bool {
        match &*self.leadership.borrow() {
            Leadership::Follower(leader) => leader.id != node,
            Leadership::Ready(_) | Leadership::Preparing(_) | Leadership::NoLeader => true,
        }
    }
}

fn request(news: &News) -> pb::PublishRequest {
    let text = |note: &Option<Arc<Published>>| note.as_ref().map(|note| note.note.clone());
    let mut notes: Vec<String> = text(&news.witnessed).into_iter().collect();
    notes.extend(text(&news.newest).filter(|newest| !notes.contains(newest)));
    pb::PublishRequest {
        notes,
        accepted_unix_s: news.accepted.unix_s,
        accepted_leaf: news.accepted.leaf,
        evidence: text(&news.evidence).unwrap_or_default(),
        reported: String::new(),
    }
}

/// Everything that may give a task something to say.
struct Changes {
    newest: watch::Receiver<Option<Arc<Published>>>,
    witnessed: watch::Receiver<Option<Arc<Published>>>,
    evidence: watch::Receiver<Option<Arc<Published>>>,
    accepted: watch::Receiver<Acceptance>,
    leadership: watch::Receiver<Leadership>,
}

impl Changes {
    fn new(spread: &Spread) -> Changes {
        let shared = &spread.shared;
        Changes {
            newest: shared.newest.subscribe(),
            witnessed: shared.witnessed.subscribe(),
            evidence: shared.evidence.subscribe(),
            accepted: shared.accepted.subscribe(),
            leadership: spread.leadership.clone(),
        }
    }

    /// Until one of them changes; an error once the node is stopping.
    async fn wait(&mut self) -> Result<(), watch::error::RecvError> {
        tokio::select! {
            changed = self.newest.changed() => changed,
            changed = self.witnessed.changed() => changed,
            changed = self.evidence.changed() => changed,
            changed = self.accepted.changed() => changed,
            changed = self.leadership.changed() => changed,
        }
    }
}
