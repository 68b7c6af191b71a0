//! The calling side of the wire: openraft's requests to peers, pipelined, with deadlines.
//!
//! Each peer has two connections: replication on one, heartbeats and votes on the other, so that a
//! heartbeat never waits behind megabytes. The pause between two attempts at a
//! connection is the link's: openraft's own backoff is for streams that it has.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{Stream, StreamExt};
use indelible_core::limits::RAFT_MESSAGE_BYTES_MAX;
use indelible_lineage::Boot;
use indelible_proto::raft as pb;
use openraft::alias::SnapshotOf;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{
    Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption,
    RaftNetworkFactory,
};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::link::{Link, LinkError, Open};
use super::peers::Peers;
use super::types::{LogId, Peer, TypeConfig, Vote};
use super::{boots, terms, wire};
use crate::net::Credentials;
use crate::net::dial::{self, DialError};
use crate::storage::hard_state::SignedBoot;
use crate::storage::log::Log;
use crate::storage::synced::Promise;

/// Bytes of entries that are on the way to one peer and not yet acknowledged.
const IN_FLIGHT_BYTES_MAX: usize = 2 * RAFT_MESSAGE_BYTES_MAX;
/// First wait after a peer was unreachable; doubles up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(20);
/// Longest wait after a peer was unreachable.
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// Makes and keeps the connections of this node to its peers.
#[derive(Clone)]
pub struct Network {
    peers: Arc<Peers>,
    credentials: Credentials,
    log: Log,
    /// How long an answer may take while something is outstanding.
    answer_timeout: Duration,
    links: Arc<Mutex<Links>>,
}

/// By node, address and purpose: a node that moves gets a new connection.
type Links = HashMap<(u64, String, Purpose), Arc<Link>>;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Purpose {
    Replication,
    Control,
}

impl Network {
    /// Connections are made when they are needed.
    pub fn new(
        peers: Arc<Peers>,
        credentials: Credentials,
        log: Log,
        answer_timeout: Duration,
    ) -> Self {
        let links: Arc<Mutex<Links>> = Arc::default();
        let open = Arc::downgrade(&links);
        peers.set_asks(Box::new(move |node, boot| Box::pin(answers(open.clone(), node, boot))));
        Network { peers, credentials, log, answer_timeout, links }
    }

    /// Whether `node` answers at its address, with the key that `peer` has; the boot of it that
    /// does. Nothing is kept of it.
    pub async fn prove(
        &self,
        node: u64,
        peer: &Peer,
        timeout: Duration,
    ) -> Result<SignedBoot, LinkError> {
        let (peers, credentials) = (self.peers.clone(), self.credentials.clone());
        let link = Link::new(peers, credentials, node, peer.raft_addr.clone());
        let open = link.open(timeout).await?;
        if open.welcome().public_key[..] != peer.public_key {
            return Err(link.refused("it has another key".into()));
        }
        let boot = open.welcome().boot.as_ref().and_then(boots::from_pb);
        boot.ok_or_else(|| link.refused("it shows no boot".into()))
    }

    /// Whether a node answers clients at its address, and anything HTTP at the other one: a proxy
    /// with a certificate of its own may stand before that.
    pub async fn check_public_ports(
        &self,
        node: u64,
        peer: &Peer,
        timeout: Duration,
    ) -> Result<(), LinkError> {
        let client = dial::check_client_port(&peer.client_addr, &self.credentials, node);
        let client = within(timeout, client).await;
        client
            .map_err(|error| LinkError::of_port(node, "client_addr", &peer.client_addr, &error))?;
        let http = within(timeout, dial::check_answers(&peer.http_addr)).await;
        http.map_err(|error| LinkError::of_port(node, "http_addr", &peer.http_addr, &error))
    }

    /// The connection for short messages to a peer: votes, heartbeats, read indexes, the genesis
    /// question.
    pub fn control(&self, node: u64, peer: &Peer) -> Arc<Link> {
        self.link(node, peer, Purpose::Control)
    }

    fn link(&self, node: u64, peer: &Peer, purpose: Purpose) -> Arc<Link> {
        let mut links = self.links.lock().expect("no code panics while it holds this lock");
        let key = (node, peer.raft_addr.clone(), purpose);
        // Nothing is said to nodes that were removed; their connections end with the last task.
        links.retain(|(node, ..), _| !self.peers.is_removed(*node));
        let make = || {
            let (peers, credentials) = (self.peers.clone(), self.credentials.clone());
            Arc::new(Link::new(peers, credentials, node, peer.raft_addr.clone()))
        };
        links.entry(key).or_insert_with(make).clone()
    }

    fn client(&self, node: u64, peer: &Peer, purpose: Purpose) -> PeerClient {
        PeerClient {
            node,
            link: self.link(node, peer, purpose),
            control: self.link(node, peer, Purpose::Control),
            network: self.clone(),
        }
    }
}

/// Whether this boot of a node still answers, on any of the connections to it.
async fn answers(links: Weak<Mutex<Links>>, node: u64, boot: Boot) -> bool {
    let Some(links) = links.upgrade() else { return false };
    let links: Vec<Arc<Link>> = {
        let links = links.lock().expect("no code panics while it holds this lock");
        let of_node = links.iter().filter(|((of, ..), _)| *of == node);
        of_node.map(|(_, link)| link.clone()).collect()
    };
    let answers = links.iter().map(|link| link.answers(boot));
    futures_util::future::join_all(answers).await.contains(&true)
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = PeerClient;

    async fn new_client(&mut self, target: u64, node: &Peer) -> PeerClient {
        self.client(target, node, Purpose::Replication)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Peer) -> PeerClient {
        self.client(target, node, Purpose::Control)
    }
}

/// One of openraft's tasks, talking to one peer.
pub struct PeerClient {
    node: u64,
    /// For append streams.
    link: Arc<Link>,
    /// For everything else.
    control: Arc<Link>,
    network: Network,
}

async fn within<T>(
    timeout: Duration,
    dial: impl Future<Output = Result<T, DialError>>,
) -> Result<T, DialError> {
    let late = |_| Err(DialError::Unreachable(std::io::ErrorKind::TimedOut.into()));
    tokio::time::timeout(timeout, dial).await.unwrap_or_else(late)
}

fn unreachable(error: LinkError) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::new(&error))
}

impl PeerClient {
    /// One request and its answer on the control connection, within `timeout`.
    async fn call<F, R>(
        &self,
        timeout: Duration,
        call: impl FnOnce(Open) -> F,
    ) -> Result<R, RPCError<TypeConfig>>
    where
        F: Future<Output = Result<tonic::Response<R>, Status>>,
    {
        let open = self.control.open(timeout).await.map_err(unreachable)?;
        let (serial, welcome) = (open.serial(), open.welcome().clone());
        match tokio::time::timeout(timeout, call(open)).await {
            Ok(Ok(answer)) => {
                self.check_holds(&self.control, serial, &welcome).map_err(unreachable)?;
                Ok(answer.into_inner())
            }
            Ok(Err(status)) => Err(unreachable(self.control.failed(serial, &status))),
            Err(_) => {
                self.control.close(serial);
                let reason = format!("no answer in {timeout:?}");
                Err(unreachable(self.control.unreachable(reason)))
            }
        }
    }
}

impl PeerClient {
    /// Whether the connection that an answer came on still is that of the node. A later boot of it
    /// may have been admitted meanwhile: votes and acknowledgements of the earlier one count no
    /// more, or two majorities could be made of two processes of one node.
    fn check_holds(
        &self,
        link: &Link,
        serial: u64,
        welcome: &pb::Welcome,
    ) -> Result<(), LinkError> {
        if self.network.peers.holds(self.node, welcome) {
            return Ok(());
        }
        link.close(serial);
        let reason = "a later start of it was admitted, or it was removed".to_owned();
        Err(link.unreachable(reason))
    }

    /// An answer to a question for a vote, if its term makes sense.
    async fn vote_response(
        &self,
        answer: pb::VoteResponse,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let response = wire::vote_response_from_pb(answer).map_err(unreadable)?;
        self.check_term(response.vote.leader_id.term).await?;
        Ok(response)
    }

    async fn check_term(&self, term: u64) -> Result<(), RPCError<TypeConfig>> {
        let Network { log, peers, .. } = &self.network;
        terms::check(log, peers, self.node, term).await.map_err(unreadable)
    }
}

/// An answer that makes no sense.
fn unreadable(status: Status) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::new(&status))
}

impl NetVote<TypeConfig> for PeerClient {
    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let message = wire::vote_request_to_pb(&request);
        let call = |open: Open| async move {
            let (mut client, request) = open.request(message);
            client.vote(request).await
        };
        let response = self.vote_response(self.call(option.soft_ttl(), call).await?).await?;
        if response.vote_granted {
            let asked = &request.vote.leader_id;
            let promise = Promise { term: asked.term, leader: asked.node_id };
            self.network.peers.voted(self.node, promise);
        }
        Ok(response)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let message = wire::vote_request_to_pb(&request);
        let call = |open: Open| async move {
            let (mut client, request) = open.request(message);
            client.pre_vote(request).await
        };
        self.vote_response(self.call(option.soft_ttl(), call).await?).await
    }
}

impl NetTransferLeader<TypeConfig> for PeerClient {
    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let message = pb::TransferLeaderRequest {
            from: Some(wire::vote_to_pb(request.from_leader())),
            to: *request.to_node_id(),
            last_log_id: request.last_log_id().map(wire::log_id_to_pb),
        };
        let answer = self
            .call(option.soft_ttl(), |open| async move {
                let (mut client, request) = open.request(message);
                client.transfer_leader(request).await
            })
            .await?;
        if answer.error.is_empty() {
            return Ok(Ok(()));
        }
        let error = Status::new(Code::FailedPrecondition, answer.error);
        Err(RPCError::Unreachable(Unreachable::new(&error)))
    }
}

impl NetSnapshot<TypeConfig> for PeerClient {
    type SnapshotData = ();

    async fn full_snapshot(
        &mut self,
        _vote: Vote,
        _snapshot: SnapshotOf<TypeConfig, ()>,
        _cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let error = Status::unimplemented("there are no snapshots: the log is never purged");
        Err(StreamingError::Unreachable(Unreachable::new(&error)))
    }
}

impl NetBackoff<TypeConfig> for PeerClient {
    fn backoff(&self) -> Option<Backoff> {
        let waits =
            std::iter::successors(Some(BACKOFF_MIN), |wait| Some((*wait * 2).min(BACKOFF_MAX)));
        Some(Backoff::new(waits))
    }
}

impl NetStreamAppend<TypeConfig> for PeerClient {
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<AnswerStream<'s>, RPCError<TypeConfig>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        Box::pin(async move {
            let setup = option.soft_ttl();
            let open = self.link.open(setup).await.map_err(unreachable)?;
            let (serial, welcome) = (open.serial(), open.welcome().clone());
            let window = Arc::new(Window::default());
            let requests = outgoing(input, self.network.log.clone(), window.clone());
            let (mut client, request) = open.request(requests);
            let answers = match tokio::time::timeout(setup, client.append(request)).await {
                Ok(Ok(answers)) => answers.into_inner(),
                Ok(Err(status)) => return Err(unreachable(self.link.failed(serial, &status))),
                Err(_) => {
                    self.link.close(serial);
                    let reason = format!("no append stream in {setup:?}");
                    return Err(unreachable(self.link.unreachable(reason)));
                }
            };
            let answers = Answers { client: self, serial, welcome, answers, window, done: false };
            Ok(Box::pin(futures_util::stream::unfold(answers, Answers::next)) as AnswerStream<'s>)
        })
    }
}

/// What openraft gets back from an append stream.
type AnswerStream<'s> = BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>;

/// What is on the way: bounds the bytes, and knows since when an answer is due.
struct Window {
    /// Permits are bytes.
    space: Semaphore,
    sent: Mutex<VecDeque<(Instant, u32)>>,
}

impl Default for Window {
    fn default() -> Self {
        Window { space: Semaphore::new(IN_FLIGHT_BYTES_MAX), sent: Mutex::default() }
    }
}

impl Window {
    async fn send(&self, bytes: usize) {
        let bytes =
            u32::try_from(bytes.min(IN_FLIGHT_BYTES_MAX)).expect("the window is below 4 GiB");
        self.space.acquire_many(bytes).await.expect("the window is never closed").forget();
        self.lock().push_back((Instant::now(), bytes));
    }

    fn answered(&self) {
        if let Some((_, bytes)) = self.lock().pop_front() {
            self.space.add_permits(bytes as usize);
        }
    }

    /// When the oldest unanswered request was sent.
    fn oldest(&self) -> Option<Instant> {
        self.lock().front().map(|(sent, _)| *sent)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<(Instant, u32)>> {
        self.sent.lock().expect("no code panics while it holds this lock")
    }
}

/// openraft's requests as messages, each with the leader's chain for the entry before. Ends,
/// without an error of its own, if that chain cannot be read: the log's failure stops the node
/// elsewhere.
fn outgoing<S>(input: S, log: Log, window: Arc<Window>) -> impl Stream<Item = pb::AppendRequest>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
{
    futures_util::stream::unfold((input, log, window), |(mut input, log, window)| async move {
        let request = input.next().await?;
        let bytes = request.entries.iter().map(|entry| entry.to_log().payload_bytes() + 64).sum();
        window.send(bytes).await;
        let prev_chain = match &request.prev_log_id {
            None => Default::default(),
            Some(prev) => chain_at(&log, prev).await?,
        };
        let entries = request.entries.iter().map(|entry| wire::entry_to_pb(entry.to_log()));
        let message = pb::AppendRequest {
            vote: Some(wire::vote_to_pb(&request.vote)),
            prev: request.prev_log_id.as_ref().map(wire::log_id_to_pb),
            prev_chain,
            entries: entries.collect(),
            committed: request.leader_commit.as_ref().map(wire::log_id_to_pb),
        };
        Some((message, (input, log, window)))
    })
}

/// The chain at an entry of this node's log, waiting for the hashing thread if it is very new.
async fn chain_at(log: &Log, id: &LogId) -> Option<bytes::Bytes> {
    let chain = super::service::chain_at(log, id.index).await;
    match chain {
        Ok(chain) => Some(bytes::Bytes::copy_from_slice(&chain.0)),
        Err(error) => {
            tracing::error!(%error, index = id.index, "cannot read the chain for replication");
            None
        }
    }
}

/// The answering half of an append stream.
struct Answers<'s> {
    client: &'s PeerClient,
    /// Of the connection.
    serial: u64,
    /// What the peer said of itself on it.
    welcome: pb::Welcome,
    answers: tonic::Streaming<pb::AppendResponse>,
    window: Arc<Window>,
    done: bool,
}

impl<'s> Answers<'s> {
    async fn next(
        mut self,
    ) -> Option<(Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>, Self)> {
        if self.done {
            return None;
        }
        let result = match self.answer().await {
            Ok(None) => return None,
            Ok(Some(answer)) => self.accept(answer).await,
            Err(error) => Err(error),
        };
        self.done = !matches!(result, Ok(Ok(_)));
        if result.is_err() {
            self.client.link.close(self.serial);
        }
        Some((result, self))
    }

    /// The next message. An error once the oldest request has waited for too long: a black-holed
    /// connection must not wedge replication.
    async fn answer(&mut self) -> Result<Option<pb::AppendResponse>, RPCError<TypeConfig>> {
        let timeout = self.client.network.answer_timeout;
        loop {
            let due = self.window.oldest().unwrap_or_else(Instant::now) + timeout;
            match tokio::time::timeout_at(due, self.answers.message()).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(status)) => return Err(self.stream_failed(&status).await),
                Err(_)
                    if self.window.oldest().is_none_or(|sent| sent + timeout > Instant::now()) => {}
                Err(_) => {
                    let reason = format!("an append was not answered in {timeout:?}");
                    return Err(unreachable(self.client.link.unreachable(reason)));
                }
            }
        }
    }

    async fn accept(
        &mut self,
        answer: pb::AppendResponse,
    ) -> Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>> {
        self.window.answered();
        let client = self.client;
        client.check_holds(&client.link, self.serial, &self.welcome).map_err(unreachable)?;
        let (peers, node) = (&self.client.network.peers, self.client.node);
        peers.observe_report(node, answer.read_only, answer.log_key);
        if let Some(pb::append_response::Result::HigherVote(vote)) = &answer.result {
            let Network { log, peers, .. } = &self.client.network;
            let stored = wire::stored_vote(vote);
            terms::check_higher(log, peers, node, stored).await.map_err(unreadable)?;
        }
        let result = wire::result_from_pb(answer.result);
        if let Ok(Ok(Some(matched))) = &result {
            let committed = self.client.network.log.committed().saturating_sub(1);
            self.client.network.peers.acknowledged(self.client.node, matched.index.min(committed));
        }
        result.map_err(|status| RPCError::Unreachable(Unreachable::new(&status)))
    }

    /// A follower that refuses what this node sent, because a commitment or the chain does not
    /// hold, says so with DATA_LOSS. Then this node re-checks its own copy of what is on the way,
    /// and dies if that is bad.
    async fn stream_failed(&self, status: &Status) -> RPCError<TypeConfig> {
        if status.code() == Code::DataLoss {
            tracing::error!(node = self.client.node, error = status.message(), "refused by a peer");
            let log = self.client.network.log.clone();
            let checked = tokio::task::spawn_blocking(move || recheck(&log)).await;
            if let Ok(Err(error)) = checked {
                panic!("this node's own log is damaged: {error}");
            }
        }
        unreachable(self.client.link.failed(self.serial, status))
    }
}

/// Entries at the end of the log that are checked when a peer refuses one.
const RECHECK_ENTRIES: u64 = 256;

/// Re-reads the newest entries, with all their commitments and links.
fn recheck(log: &Log) -> Result<(), String> {
    let next = *log.durable().borrow();
    for index in next.saturating_sub(RECHECK_ENTRIES).max(log.first())..next {
        let entries = log.read(index..index + 1, 1).map_err(|error| error.to_string())?;
        for entry in &entries {
            super::verify::verify(entry).map_err(|error| error.to_string())?;
        }
        if !log.verify_link(index).map_err(|error| error.to_string())? {
            return Err(format!("entry {index}: the chain does not hold"));
        }
    }
    Ok(())
}

/// This node's clock, as Unix time in nanoseconds.
pub fn unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
