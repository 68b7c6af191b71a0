//! What a read waits for before it is served from this node's own ledger.

use std::time::Duration;

use indelible_proto::reason::{Reason, Rejected};
use openraft::errors::{LinearizableReadError, RaftError};
use tokio::sync::{mpsc, oneshot, watch};

use super::leadership::{Leadership, forward_rejection};
use crate::raft::network::Network;
use crate::raft::peers::Known;
use crate::raft::service::{ReadIndexError, read_index};
use crate::raft::types::Raft;
use crate::storage::ledger::{Head, Ledger};

/// Reads that may wait for a read index at once.
const WAITING_MAX: usize = 4096;
/// How long a read waits for this node to catch up before it is sent elsewhere.
const CATCH_UP: Duration = Duration::from_millis(500);

/// How fresh a read has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Everything acknowledged before the read began.
    Linearizable,
    /// At least this tree size.
    AtLeast(u64),
    /// Whatever is applied here.
    Any,
}

/// Lets reads through when this node's ledger is fresh enough for them.
#[derive(Clone)]
pub struct Reads {
    ledger: Ledger,
    ask: mpsc::Sender<oneshot::Sender<Result<u64, Rejected>>>,
}

/// What [`Reads`] needs to find a read index.
pub struct ReadIndexer {
    /// This node's openraft.
    pub raft: Raft,
    /// For asking the leader.
    pub network: Network,
    /// Who leads.
    pub leadership: watch::Receiver<Leadership>,
    /// Where the leader is.
    pub known: watch::Receiver<Known>,
    /// How long the leader may take, a round to a majority included.
    pub timeout: Duration,
}

impl Reads {
    /// Starts the task that asks for read indexes.
    pub fn start(ledger: Ledger, indexer: ReadIndexer) -> Reads {
        let (ask, asked) = mpsc::channel(WAITING_MAX);
        tokio::spawn(indexer.run(asked));
        Reads { ledger, ask }
    }

    /// Waits until a read of this level may be served, and says from which state.
    pub async fn barrier(&self, level: Level) -> Result<Head, Rejected> {
        match level {
            Level::Any => Ok(*self.ledger.head().borrow()),
            Level::AtLeast(size) => {
                self.wait(|head| head.tree_size >= size, || format!("tree size {size}")).await
            }
            Level::Linearizable => {
                let index = self.read_index().await?;
                self.wait(|head| head.applied > index, || format!("entry {index}")).await
            }
        }
    }

    async fn wait(
        &self,
        fresh: impl Fn(&Head) -> bool,
        what: impl Fn() -> String,
    ) -> Result<Head, Rejected> {
        let mut head = self.ledger.head();
        match tokio::time::timeout(CATCH_UP, head.wait_for(|head| fresh(head))).await {
            Ok(Ok(head)) => Ok(*head),
            Ok(Err(_)) => Err(Rejected::new(Reason::Stopping, "the node is stopping")),
            Err(_) => {
                let at = self.ledger.head().borrow().tree_size;
                let message = format!(
                    "this node has applied tree size {at} and waited {CATCH_UP:?} for {}; hint: ask another node",
                    what()
                );
                Err(Rejected::new(Reason::StaleReplica, message))
            }
        }
    }

    async fn read_index(&self) -> Result<u64, Rejected> {
        let (reply, index) = oneshot::channel();
        self.ask.try_send(reply).map_err(|_| {
            Rejected::new(Reason::Busy, format!("{WAITING_MAX} reads are waiting; hint: try again"))
                .retry_after(Duration::from_millis(20))
        })?;
        index.await.unwrap_or_else(|_| Err(Rejected::new(Reason::Stopping, "the node is stopping")))
    }
}

impl ReadIndexer {
    /// One question at a time. It serves every read that arrived before it was sent; those that
    /// arrive meanwhile wait for the next one, as they must.
    async fn run(self, mut asked: mpsc::Receiver<oneshot::Sender<Result<u64, Rejected>>>) {
        let mut waiting = Vec::new();
        while asked.recv_many(&mut waiting, WAITING_MAX).await > 0 {
            let index = self.ask().await;
            for reply in waiting.drain(..) {
                // The reader may have gone.
                let _ = reply.send(index.clone());
            }
        }
    }

    async fn ask(&self) -> Result<u64, Rejected> {
        let leadership = self.leadership.borrow().clone();
        let leader = match leadership {
            Leadership::Ready(leader) | Leadership::Preparing(leader) => {
                let index = read_index(&self.raft, self.timeout).await;
                return index.map(|id| id.index).map_err(|error| refused(error, leader.term));
            }
            Leadership::Follower(leader) => leader,
            Leadership::NoLeader => return Err(leadership.rejection()),
        };
        let peer = self.known.borrow().membership.get_node(&leader.id).cloned();
        let no_leader = |why: String| {
            Rejected::new(Reason::NoLeader, format!("the leader did not confirm a read: {why}"))
                .retry_after(Duration::from_millis(20))
        };
        let peer = peer.ok_or_else(|| no_leader(format!("node {} has no address", leader.id)))?;
        let link = self.network.control(leader.id, &peer);
        let open = link.open(self.timeout).await.map_err(|error| no_leader(error.to_string()))?;
        let (mut client, request) = open.request(indelible_proto::raft::ReadIndexRequest {});
        match tokio::time::timeout(self.timeout, client.read_index(request)).await {
            Ok(Ok(answer)) => answer
                .into_inner()
                .log_id
                .map(|id| id.index)
                .ok_or_else(|| no_leader("it answered without one".into())),
            Ok(Err(status)) if status.code() == tonic::Code::FailedPrecondition => {
                Err(no_leader(status.message().to_owned()))
            }
            Ok(Err(status)) => Err(no_leader(link.failed(open.serial(), &status).to_string())),
            Err(_) => {
                link.close(open.serial());
                Err(no_leader(format!("no answer in {:?}", self.timeout)))
            }
        }
    }
}

fn refused(error: ReadIndexError, term: u64) -> Rejected {
    match error {
        RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)) => {
            let mut rejected = forward_rejection(&forward, term);
            // A read that lost its leader is tried again at once, on whichever node: only appends
            // follow the hint.
            rejected.reason = Reason::NoLeader;
            rejected
        }
        RaftError::APIError(error) => Rejected::new(Reason::NoLeader, error.to_string())
            .retry_after(Duration::from_millis(20)),
        RaftError::Fatal(_) => Rejected::new(Reason::Stopping, "the node is stopping"),
    }
}
