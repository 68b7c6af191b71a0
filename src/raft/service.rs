//! The answering side of the wire between nodes: the gRPC service on the raft port.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{Stream, StreamExt};
use indelible_core::chain::link_entry;
use indelible_core::limits::RAFT_MESSAGE_BYTES_MAX;
use indelible_core::{Chain, Entry as LogEntry, EntryKind};
use indelible_proto::raft as pb;
use indelible_proto::raft::raft_server::RaftServer;
use openraft::raft::linearizable_read::LinearizerOption;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendResult, TransferLeaderRequest, VoteRequest,
};
use tokio::sync::watch;
use tonic::{Code, Request, Response, Status, Streaming};

use super::peers::{Peers, Refusal};
use super::types::{Entry, LogId, Raft, TypeConfig, entry_id, log_id};
use super::{terms, verify, votes, wire};
use crate::net::Connection;
use crate::storage::log::{Log, LogError};

/// Entries of a request from which on they are verified off the runtime's threads, in bytes.
const INLINE_BYTES_MAX: usize = 16 * 1024;

/// Records an encoded finding that a peer sends, if this node leads: the peer's id, the bytes.
pub type FindingSink =
    Arc<dyn Fn(u64, Bytes) -> BoxFuture<'static, Result<(), Status>> + Send + Sync>;

/// What this node says of itself with each answer to its leader.
#[derive(Clone)]
pub struct OwnReport {
    /// Whether the disk is nearly full: then entries are refused before openraft sees them, votes
    /// and heartbeats go on.
    pub read_only: watch::Receiver<bool>,
    /// Whether this node has the log key: a leader without it looks for a voter that has.
    pub log_key: bool,
}

/// Says what time it is here.
pub type ClockSource = Arc<dyn Fn() -> pb::ClockResponse + Send + Sync>;

/// Answers peers.
#[derive(Clone)]
pub struct RaftService {
    raft: Raft,
    log: Log,
    peers: Arc<Peers>,
    /// What leaders are told of this node.
    own: OwnReport,
    /// True once the node is on its way out: streams end, so that the port can close.
    draining: watch::Receiver<bool>,
    /// How long a read index may take.
    read_index_timeout: Duration,
    /// Where findings of peers go.
    findings: FindingSink,
    /// What peers are told of this node's clock.
    clock: ClockSource,
}

impl RaftService {
    /// Serves `raft`, whose log is `log`.
    #[expect(clippy::too_many_arguments, reason = "called once")]
    pub fn new(
        raft: Raft,
        log: Log,
        peers: Arc<Peers>,
        own: OwnReport,
        draining: watch::Receiver<bool>,
        read_index_timeout: Duration,
        findings: FindingSink,
        clock: ClockSource,
    ) -> Self {
        RaftService { raft, log, peers, own, draining, read_index_timeout, findings, clock }
    }

    /// As a tonic service, with the raft port's limits.
    pub fn into_server(self) -> RaftServer<Self> {
        RaftServer::new(self)
            .max_decoding_message_size(RAFT_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(RAFT_MESSAGE_BYTES_MAX)
    }

    fn peer<T>(&self, request: &Request<T>) -> Result<u64, Status> {
        sender(&self.peers, request)
    }

    async fn check_term(&self, peer: u64, term: u64) -> Result<(), Status> {
        terms::check(&self.log, &self.peers, peer, term).await
    }

    /// A question for a vote, as openraft takes it: a candidate asks for nobody else.
    async fn vote_request(
        &self,
        request: Request<pb::VoteRequest>,
    ) -> Result<VoteRequest<TypeConfig>, Status> {
        let peer = self.peer(&request)?;
        let request = wire::vote_request_from_pb(request.into_inner())?;
        check_voter(peer, request.vote.leader_id.node_id)?;
        self.check_term(peer, request.vote.leader_id.term).await?;
        match request.vote.committed {
            false => Ok(request),
            true => Err(Status::invalid_argument("a question for a vote that was won already")),
        }
    }

    /// A request of `peer` as openraft takes it, with every entry verified.
    async fn decode(
        &self,
        peer: u64,
        request: pb::AppendRequest,
    ) -> Result<(AppendEntriesRequest<TypeConfig>, Option<KnownChain>), Status> {
        let vote = wire::vote_from_pb(request.vote)?;
        check_voter(peer, vote.leader_id.node_id)?;
        self.check_term(peer, vote.leader_id.term).await?;
        if !vote.committed {
            return Err(Status::invalid_argument("entries under a vote that was not won"));
        }
        // Blank and membership entries fit the reserve, and without a new leader's blank one
        // nobody could read linearizably while disks are full.
        let batch = u32::from(EntryKind::Batch.as_u8());
        // A probe repeats what this node may have already: that takes no space.
        let next = self.log.next();
        let events = request.entries.iter().any(|entry| entry.kind == batch && entry.index >= next);
        if events && *self.own.read_only.borrow() {
            return Err(Status::resource_exhausted("the disk of this node is nearly full"));
        }
        let prev_log_id = request.prev.map(wire::log_id_from_pb);
        let prev_chain = match prev_log_id {
            None => None,
            Some(id) => Some(KnownChain {
                id,
                chain: Chain::from_slice(&request.prev_chain)
                    .ok_or_else(|| Status::invalid_argument("chain is not of 32 bytes"))?,
            }),
        };
        check_order(&request)?;
        let entries = request
            .entries
            .into_iter()
            .map(wire::entry_from_pb)
            .collect::<Result<Vec<_>, Status>>()?;
        self.check_committed(peer, prev_log_id.as_ref(), &entries).await?;
        let known_chain = self.known_chain(prev_chain, &entries);
        if let Some(known) = known_chain {
            self.check_base(peer, known).await?;
        }
        let request = AppendEntriesRequest {
            vote,
            prev_log_id,
            entries: verified(entries).await?,
            leader_commit: request.committed.map(wire::log_id_from_pb),
        };
        Ok((request, known_chain))
    }

    /// What is committed here is what every leader has there. openraft does not compare ids below
    /// its committed index: it would acknowledge another entry, or append to it.
    async fn check_committed(
        &self,
        peer: u64,
        prev: Option<&LogId>,
        entries: &[LogEntry],
    ) -> Result<(), Status> {
        let committed = self.log.committed();
        let ids = prev.map(entry_id).into_iter().chain(entries.iter().map(|entry| entry.id));
        for id in ids.take_while(|id| id.index < committed) {
            let here =
                self.log.id_at(id.index).map_err(|error| Status::internal(error.to_string()))?;
            if let Some(here) = here.filter(|here| *here != id) {
                let here_index = here.index;
                let (id, here) = (wire::describe(&log_id(id)), wire::describe(&log_id(here)));
                let what = format!("node {peer} sends {id}, but {here} is committed here");
                let name = format!("committed-{here_index}");
                self.peers.keep_evidence(peer, &name, &what).await;
                return Err(Status::data_loss(what));
            }
        }
        Ok(())
    }

    /// Nothing is appended to an entry that has another content here than the leader has there, as
    /// far as that can be told now; [`check_chain`] looks again before the acknowledgement.
    async fn check_base(&self, peer: u64, known: KnownChain) -> Result<(), Status> {
        let index = known.id.index;
        let is_here = self.log.id_at(index).is_ok_and(|here| here == Some(entry_id(&known.id)));
        let is_chained = self.log.try_chain_at(index).is_some() || index < self.log.committed();
        if is_here && is_chained {
            check_chain(&self.log, &self.peers, peer, known).await?;
        }
        Ok(())
    }

    /// The leader's chain at the last entry, from the one before the request on, that this node has
    /// already. openraft knows those by their ids and passes over them: what is in them would be
    /// acknowledged without a look.
    fn known_chain(&self, prev: Option<KnownChain>, entries: &[LogEntry]) -> Option<KnownChain> {
        let mut known = prev;
        let mut chain = prev.map_or_else(|| self.log.genesis(), |prev| prev.chain);
        let is_here = |entry: &&LogEntry| {
            self.log.id_at(entry.id.index).is_ok_and(|here| here == Some(entry.id))
        };
        for entry in entries.iter().take_while(is_here) {
            chain = link_entry(&chain, entry);
            known = Some(KnownChain { id: log_id(entry.id), chain });
        }
        known
    }
}

/// The node that sent a request: the one that has proved on the request's connection who it is.
pub(super) fn sender<T>(peers: &Peers, request: &Request<T>) -> Result<u64, Status> {
    let connection = connection(request)?;
    peers.sender(&connection).ok_or_else(|| {
        Status::unauthenticated(
            "no node has proved to be at this connection; hint: handshake first",
        )
    })
}

/// The same, if that node is in the group as far as this node knows. Who leads may be news to this
/// node; in the trail and in its checkpoints only members have a say.
pub(super) fn member<T>(peers: &Peers, request: &Request<T>) -> Result<u64, Status> {
    let node = sender(peers, request)?;
    match peers.is_member(node) {
        true => Ok(node),
        false => Err(Status::failed_precondition(format!(
            "node {node} is no member of the group, as far as this node knows; hint: add it first"
        ))),
    }
}

/// The connection that a request has arrived on.
pub(in crate::raft) fn connection<T>(request: &Request<T>) -> Result<Arc<Connection>, Status> {
    let connection = request.extensions().get::<Arc<Connection>>().cloned();
    connection.ok_or_else(|| Status::internal("a request without a connection"))
}

/// Entries must follow each other, the first one `prev`, under leaders that do not go back and are
/// not above the vote's: openraft takes that for granted. Of two leaders of one term, the one with
/// the higher id is the later one.
fn check_order(request: &pb::AppendRequest) -> Result<(), Status> {
    let malformed = || Status::invalid_argument("entries do not follow each other");
    let (mut next, mut leader) = match &request.prev {
        None => (0, (0, 0)),
        Some(prev) => (prev.index.checked_add(1).ok_or_else(malformed)?, (prev.term, prev.leader)),
    };
    let leader_max = request.vote.as_ref().map_or((0, 0), |vote| (vote.term, vote.node_id));
    for entry in &request.entries {
        let under = (entry.term, entry.leader);
        if entry.index != next || under < leader || under > leader_max {
            return Err(malformed());
        }
        next = next.checked_add(1).ok_or_else(malformed)?;
        leader = under;
    }
    Ok(())
}

/// A vote may name only the peer that sends it, whatever its term.
fn check_voter(peer: u64, named: u64) -> Result<(), Status> {
    if peer == named {
        return Ok(());
    }
    tracing::error!(peer, named, "a peer sent a vote that names another node");
    Err(Status::permission_denied(format!("node {peer} sent a vote of node {named}")))
}

/// All entries, each checked by [`verify::verify`].
async fn verified(entries: Vec<LogEntry>) -> Result<Vec<Entry>, Status> {
    let check = |entries: Vec<LogEntry>| -> Result<Vec<Entry>, Status> {
        entries
            .into_iter()
            .map(|entry| {
                verify::verify(&entry).map_err(|error| Status::data_loss(error.to_string()))?;
                Entry::from_log(entry).map_err(|error| Status::data_loss(error.to_string()))
            })
            .collect()
    };
    let bytes: usize = entries.iter().map(LogEntry::payload_bytes).sum();
    if bytes <= INLINE_BYTES_MAX {
        return check(entries);
    }
    tokio::task::spawn_blocking(move || check(entries))
        .await
        .map_err(|error| Status::internal(error.to_string()))?
}

/// The leader's chain at an entry that this node has too.
#[derive(Debug, Clone, Copy)]
struct KnownChain {
    id: LogId,
    chain: Chain,
}

/// The chain at an entry of this node's log, waiting for the hashing thread if it is very new.
pub(super) async fn chain_at(log: &Log, index: u64) -> Result<Chain, LogError> {
    if let Some(chain) = log.try_chain_at(index) {
        return Ok(chain);
    }
    let log = log.clone();
    match tokio::task::spawn_blocking(move || log.chain_at(index)).await {
        Ok(chain) => chain,
        Err(error) => panic!("reading the chain panicked: {error}"),
    }
}

/// Compares the leader's chain with ours before a request is acknowledged. A mismatch is evidence,
/// not a retry.
async fn check_chain(
    log: &Log,
    peers: &Peers,
    peer: u64,
    theirs: KnownChain,
) -> Result<(), Status> {
    let index = theirs.id.index;
    let ours = chain_at(log, index).await.map_err(|error| Status::internal(error.to_string()))?;
    if ours == theirs.chain {
        return Ok(());
    }
    if log.id_at(index).ok().flatten() != Some(entry_id(&theirs.id)) {
        // Another leader has replaced the entry meanwhile: no evidence of anything.
        return Err(Status::aborted("overtaken by another leader"));
    }
    let what = format!(
        "{}: the leader's chain is {}, this node's is {ours}",
        wire::describe(&theirs.id),
        theirs.chain
    );
    let name = format!("chain-{index}-{}", entry_id(&theirs.id).term);
    peers.keep_evidence(peer, &name, &what).await;
    Err(Status::data_loss(what))
}

/// What the two halves of an append stream share.
#[derive(Default)]
struct AppendStream {
    /// Chains to compare, one for each request that openraft has been given and not answered.
    chains: Mutex<VecDeque<Option<KnownChain>>>,
    /// Why the incoming half ended early.
    failed: Mutex<Option<Status>>,
}

impl AppendStream {
    fn push(&self, chain: Option<KnownChain>) {
        self.chains.lock().expect("no code panics while it holds this lock").push_back(chain);
    }

    fn pop(&self) -> Option<KnownChain> {
        self.chains.lock().expect("no code panics while it holds this lock").pop_front().flatten()
    }

    fn fail(&self, status: Status) {
        *self.failed.lock().expect("no code panics while it holds this lock") = Some(status);
    }

    fn take_failure(&self) -> Option<Status> {
        self.failed.lock().expect("no code panics while it holds this lock").take()
    }
}

/// Decoded requests, until the peer ends the stream or sends something wrong.
fn incoming(
    service: RaftService,
    peer: u64,
    connection: Arc<Connection>,
    requests: Streaming<pb::AppendRequest>,
    shared: Arc<AppendStream>,
) -> impl Stream<Item = AppendEntriesRequest<TypeConfig>> {
    futures_util::stream::unfold(requests, move |mut requests| {
        let (service, shared) = (service.clone(), shared.clone());
        let connection = connection.clone();
        async move {
            let mut draining = service.draining.clone();
            let message = tokio::select! {
                message = requests.message() => message,
                _ = draining.wait_for(|draining| *draining) => return None,
            };
            let decoded = match message {
                Ok(None) => return None,
                // It may have been removed since, or started again.
                Ok(Some(_)) if service.peers.sender(&connection) != Some(peer) => {
                    Err(Status::unauthenticated("the peer was removed, or has started again"))
                }
                Ok(Some(request)) => service.decode(peer, request).await,
                Err(status) => Err(status),
            };
            match decoded {
                Ok((request, chain)) => {
                    shared.push(chain);
                    Some((request, requests))
                }
                Err(status) => {
                    if status.code() == Code::DataLoss {
                        let what = status.message();
                        service.peers.keep_evidence(peer, "entries", what).await;
                    }
                    shared.fail(status);
                    None
                }
            }
        }
    })
}

/// openraft's answer as a message, once the chain agrees.
async fn answer(
    service: &RaftService,
    peer: u64,
    shared: &AppendStream,
    result: StreamAppendResult<TypeConfig>,
) -> Result<pb::AppendResponse, Status> {
    if let (Some(chain), Ok(_)) = (shared.pop(), &result) {
        check_chain(&service.log, &service.peers, peer, chain).await?;
    }
    Ok(pb::AppendResponse {
        result: Some(wire::result_to_pb(&result)),
        read_only: *service.own.read_only.borrow(),
        log_key: service.own.log_key,
    })
}

#[tonic::async_trait]
impl pb::raft_server::Raft for RaftService {
    async fn handshake(
        &self,
        request: Request<pb::Hello>,
    ) -> Result<Response<pb::Welcome>, Status> {
        let connection = connection(&request)?;
        let hello = request.into_inner();
        match self.peers.admit(&hello, &connection).await {
            Ok(welcome) => Ok(Response::new(welcome)),
            Err(refusal @ Refusal::Again { .. }) => Err(Status::unavailable(refusal.to_string())),
            Err(refusal) => {
                let why = refusal.to_string();
                if self.peers.is_refusal_news(hello.from, &why) {
                    tracing::warn!(node = hello.from, %refusal, "handshake refused");
                }
                Err(refusal.into())
            }
        }
    }

    async fn refuse(
        &self,
        request: Request<pb::Refused>,
    ) -> Result<Response<pb::RefuseResponse>, Status> {
        // A boot that is shown is signed by this node's own key, but maybe of before a rollback:
        // only nodes that have proved who they are have a say.
        let by = self.peer(&request)?;
        self.peers.refused_with(by, request.get_ref());
        Ok(Response::new(pb::RefuseResponse {}))
    }

    async fn ping(
        &self,
        request: Request<pb::PingRequest>,
    ) -> Result<Response<pb::PingResponse>, Status> {
        self.peer(&request)?;
        Ok(Response::new(pb::PingResponse {}))
    }

    type AppendStream = Pin<Box<dyn Stream<Item = Result<pb::AppendResponse, Status>> + Send>>;

    async fn append(
        &self,
        request: Request<Streaming<pb::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let peer = self.peer(&request)?;
        let connection = connection(&request)?;
        // A peer that sends entries does not refuse this node.
        self.peers.set_refused_by(peer, None);
        let shared = Arc::new(AppendStream::default());
        let requests = request.into_inner();
        let requests = incoming(self.clone(), peer, connection, requests, shared.clone());
        let results = Box::pin(self.raft.stream_append(requests));
        let service = self.clone();
        let answers = futures_util::stream::unfold(Some(results), move |results| {
            let (shared, service) = (shared.clone(), service.clone());
            async move {
                let mut results = results?;
                let answer = match results.next().await {
                    Some(Ok(result)) => answer(&service, peer, &shared, result).await,
                    Some(Err(fatal)) => Err(Status::unavailable(fatal.to_string())),
                    None => Err(shared.take_failure()?),
                };
                let rest = answer.is_ok().then_some(results);
                Some((answer, rest))
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn vote(
        &self,
        request: Request<pb::VoteRequest>,
    ) -> Result<Response<pb::VoteResponse>, Status> {
        let request = self.vote_request(request).await?;
        let response = match votes::refusal(&self.raft, &self.peers) {
            Some(refusal) => refusal,
            None => self.raft.vote(request).await.map_err(unavailable)?,
        };
        Ok(Response::new(wire::vote_response_to_pb(&response)))
    }

    async fn pre_vote(
        &self,
        request: Request<pb::VoteRequest>,
    ) -> Result<Response<pb::VoteResponse>, Status> {
        let request = self.vote_request(request).await?;
        let response = match votes::refusal(&self.raft, &self.peers) {
            Some(refusal) => refusal,
            None => self.raft.pre_vote(request).await.map_err(unavailable)?,
        };
        Ok(Response::new(wire::vote_response_to_pb(&response)))
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferLeaderRequest>,
    ) -> Result<Response<pb::TransferLeaderResponse>, Status> {
        let peer = member(&self.peers, &request)?;
        let message = request.into_inner();
        let from = wire::vote_from_pb(message.from)?;
        check_voter(peer, from.leader_id.node_id)?;
        self.check_term(peer, from.leader_id.term).await?;
        let last_log_id = message.last_log_id.map(wire::log_id_from_pb);
        let request = TransferLeaderRequest::new(from, message.to, last_log_id);
        let result = self.raft.handle_transfer_leader(request).await.map_err(unavailable)?;
        let error = result.err().map(|error| error.to_string()).unwrap_or_default();
        Ok(Response::new(pb::TransferLeaderResponse { error }))
    }

    async fn read_index(
        &self,
        request: Request<pb::ReadIndexRequest>,
    ) -> Result<Response<pb::ReadIndexResponse>, Status> {
        self.peer(&request)?;
        let log_id = read_index(&self.raft, self.read_index_timeout)
            .await
            .map_err(|error| Status::failed_precondition(error.to_string()))?;
        Ok(Response::new(pb::ReadIndexResponse { log_id: Some(wire::log_id_to_pb(&log_id)) }))
    }

    async fn clock(
        &self,
        request: Request<pb::ClockRequest>,
    ) -> Result<Response<pb::ClockResponse>, Status> {
        self.peer(&request)?;
        Ok(Response::new((self.clock)()))
    }

    async fn record_finding(
        &self,
        request: Request<pb::RecordFindingRequest>,
    ) -> Result<Response<pb::RecordFindingResponse>, Status> {
        let peer = member(&self.peers, &request)?;
        (self.findings)(peer, request.into_inner().finding).await?;
        Ok(Response::new(pb::RecordFindingResponse {}))
    }
}

/// Why there is no read index.
pub type ReadIndexError =
    openraft::errors::RaftError<TypeConfig, openraft::errors::LinearizableReadError<TypeConfig>>;

/// On the leader: an entry that covers everything acknowledged before this call, confirmed by a
/// majority after it.
pub async fn read_index(raft: &Raft, timeout: Duration) -> Result<LogId, ReadIndexError> {
    let option = LinearizerOption::new(Some(Duration::ZERO), true).with_wait_timeout(timeout);
    let linearizer = raft.get_read_linearizer(option).await?;
    Ok(*linearizer.read_log_id().log_id())
}

fn unavailable(error: impl std::fmt::Display) -> Status {
    Status::unavailable(error.to_string())
}
