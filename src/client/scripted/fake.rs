//! Nodes that answer as they are told: real sockets and real gRPC around a trail in memory.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use indelible_core::leaf::commit;
use indelible_core::merkle;
use indelible_core::{Hash, Kind, Leaf, Salt};
use indelible_proto::v1::audit_log_server::{AuditLog, AuditLogServer};
use indelible_proto::v1::cluster_server::{Cluster, ClusterServer};
use indelible_proto::v1::*;
use indelible_proto::{LeaderHint, Reason, Rejected, reason::key};
use tokio::sync::watch;
use tokio_stream::wrappers::{TcpListenerStream, WatchStream};
use tonic::{Request, Response, Status};

use crate::{Client, Options};

/// What a node does with one append or read instead of answering honestly.
pub(crate) enum Act {
    /// Refuses it.
    Refuse(Rejected),
    /// Does it, but the answer is lost with the connection.
    Lose,
    /// Never answers.
    Hang,
    /// Does it, and lies about it.
    Lie(fn(&mut AppendResponse)),
    /// Reads: sends this many records, the last one damaged if so, and breaks off.
    Break { after: usize, damaged: bool },
}

/// A cluster of scripted nodes with one trail.
pub(crate) struct Fake {
    pub(crate) nodes: Vec<Arc<Node>>,
    pub(crate) trail: Arc<Mutex<Trail>>,
}

/// One node.
pub(crate) struct Node {
    pub(crate) id: u64,
    pub(crate) addr: String,
    view: watch::Sender<ClusterView>,
    trail: Arc<Mutex<Trail>>,
    /// What to do with the next calls; honest when empty.
    script: Mutex<VecDeque<Act>>,
    /// (first seq, events) of every append that came, `(index, 0)` of every read.
    calls: Mutex<Vec<(u64, usize)>>,
    /// Counts calls, for tests that wait for one.
    called: watch::Sender<usize>,
}

/// What is recorded.
#[derive(Default)]
pub(crate) struct Trail {
    pub(crate) records: Vec<Record>,
    /// (epoch, opened, last seq).
    producers: HashMap<Bytes, (u64, u64, u64)>,
}

impl Fake {
    /// Nodes 1 to `count`; node 1 leads term 1.
    pub(crate) async fn start(count: u64) -> Fake {
        let trail = Arc::new(Mutex::new(Trail::default()));
        trail.lock().expect("lock").push(Kind::Membership, 0, 0, Salt::default(), b"genesis");
        let mut nodes = Vec::new();
        for id in 1..=count {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
            let addr = listener.local_addr().expect("bound").to_string();
            let node = Arc::new(Node {
                id,
                addr,
                view: watch::Sender::new(ClusterView::default()),
                trail: trail.clone(),
                script: Mutex::default(),
                calls: Mutex::default(),
                called: watch::Sender::new(0),
            });
            let server = tonic::transport::Server::builder()
                .add_service(AuditLogServer::new(Handle(node.clone())))
                .add_service(ClusterServer::new(Handle(node.clone())));
            tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
            nodes.push(node);
        }
        let fake = Fake { nodes, trail };
        fake.elect(1, 1);
        fake
    }

    /// Every node says that this one leads (0: nobody).
    pub(crate) fn elect(&self, leader_id: u64, term: u64) {
        for node in &self.nodes {
            self.tell(node, leader_id, term);
        }
    }

    /// One node says so.
    pub(crate) fn tell(&self, node: &Node, leader_id: u64, term: u64) {
        let role = if node.id == leader_id { Role::Leader } else { Role::Follower };
        let member = |node: &Arc<Node>| indelible_proto::v1::Node {
            id: node.id,
            client_addr: node.addr.clone(),
            voter: true,
            ..Default::default()
        };
        node.view.send_replace(ClusterView {
            trail_id: Bytes::from_static(&[9; 16]),
            node_id: node.id,
            role: role.into(),
            state: ServingState::Serving.into(),
            term,
            leader_id,
            nodes: self.nodes.iter().map(member).collect(),
            ..Default::default()
        });
    }

    pub(crate) fn node(&self, id: u64) -> &Node {
        &self.nodes[id as usize - 1]
    }

    /// A client that knows node 1.
    pub(crate) async fn client(&self) -> Client {
        let mut options = Options::new([&self.nodes[0].addr]).expect("valid");
        // No test may pass because an attempt timed out and was repeated.
        options.attempt_timeout = Duration::from_secs(3600);
        options.request_timeout = Duration::from_secs(10);
        Client::connect_with(options).await.expect("a node answers")
    }

    /// Events of kind 1 in the trail: (seq, event).
    pub(crate) fn recorded(&self) -> Vec<(u64, Bytes)> {
        let trail = self.trail.lock().expect("lock");
        let leaves = trail
            .records
            .iter()
            .map(|record| (Leaf::decode(&record.leaf).expect("ours"), record.event.clone()));
        leaves.filter(|(leaf, _)| leaf.kind == Kind::Event).map(|(l, e)| (l.seq, e)).collect()
    }
}

impl Node {
    pub(crate) fn script(&self, acts: impl IntoIterator<Item = Act>) {
        self.script.lock().expect("lock").extend(acts);
    }

    pub(crate) fn calls(&self) -> Vec<(u64, usize)> {
        self.calls.lock().expect("lock").clone()
    }

    /// Waits until this many calls came.
    pub(crate) async fn called(&self, count: usize) {
        let mut called = self.called.subscribe();
        called.wait_for(|calls| *calls >= count).await.expect("the node lives");
    }

    pub(crate) fn not_leader(&self, leader: &Node, term: u64) -> Rejected {
        let hint = LeaderHint { id: leader.id, addr: leader.addr.clone(), term };
        Rejected::new(Reason::NotLeader, "not the leader").leader(hint)
    }

    fn next_act(&self, call: (u64, usize)) -> Option<Act> {
        self.calls.lock().expect("lock").push(call);
        let act = self.script.lock().expect("lock").pop_front();
        self.called.send_modify(|count| *count += 1);
        act
    }

    fn trail(&self) -> MutexGuard<'_, Trail> {
        self.trail.lock().expect("lock")
    }
}

impl Trail {
    fn push(&mut self, kind: Kind, opened: u64, seq: u64, salt: Salt, event: &[u8]) -> u64 {
        let index = self.records.len() as u64;
        let leaf = Leaf {
            kind,
            retention_class: 0,
            event_size: event.len() as u32,
            received: index,
            opened,
            seq,
            commitment: commit(&salt, event),
        };
        self.records.push(Record {
            index,
            leaf: Bytes::copy_from_slice(&leaf.encode()),
            salt: Bytes::copy_from_slice(&salt.0),
            event: Bytes::copy_from_slice(event),
        });
        index
    }

    fn append(&mut self, request: &AppendRequest) -> Result<AppendResponse, Rejected> {
        let unknown = || Rejected::new(Reason::ProducerUnknown, "unknown producer");
        let producer = self.producers.get(&request.producer_id);
        let (epoch, opened, mut last) = *producer.ok_or_else(unknown)?;
        if request.epoch != epoch {
            return Err(Rejected::new(Reason::ProducerFenced, "fenced").with(key::EPOCH, epoch));
        }
        if request.first_seq > last + 1 {
            let gap = Rejected::new(Reason::SeqGap, "gap").with(key::EXPECTED, last + 1);
            return Err(gap);
        }
        let mut response = AppendResponse::default();
        let (mut leaves, mut salts) = (Vec::new(), Vec::new());
        for (seq, event) in (request.first_seq..).zip(&request.events) {
            let duplicate = seq <= last;
            let index = if duplicate {
                self.find(seq, event)?
            } else {
                last = seq;
                self.push(Kind::Event, opened, seq, Salt(rand::random()), event)
            };
            let record = &self.records[index as usize];
            leaves.extend_from_slice(&record.leaf);
            salts.extend_from_slice(&record.salt);
            response.runs.push(Run { first_seq: seq, first_leaf: index, count: 1, duplicate });
        }
        self.producers.insert(request.producer_id.clone(), (epoch, opened, last));
        (response.leaves, response.salts) = (leaves.into(), salts.into());
        response.tree_size = self.records.len() as u64;
        Ok(response)
    }

    /// Where a seq is. These tests have one producer.
    fn find(&self, seq: u64, event: &[u8]) -> Result<u64, Rejected> {
        let of_seq = |record: &&Record| {
            let leaf = Leaf::decode(&record.leaf).expect("ours");
            leaf.kind == Kind::Event && leaf.seq == seq
        };
        let record = self.records.iter().find(of_seq).expect("recorded before");
        if record.event != event {
            return Err(Rejected::new(Reason::SeqConflict, format!("seq {seq} has other content")));
        }
        Ok(record.index)
    }

    pub(crate) fn root(&self) -> Hash {
        let mut frontier = merkle::Frontier::default();
        for record in &self.records {
            let leaf: &[u8; 64] = record.leaf.as_ref().try_into().expect("64 bytes");
            frontier.append(merkle::leaf_hash(leaf));
        }
        frontier.root()
    }
}

/// The services of one node.
struct Handle(Arc<Node>);

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AuditLog for Handle {
    async fn open_producer(
        &self,
        request: Request<OpenProducerRequest>,
    ) -> Result<Response<OpenProducerResponse>, Status> {
        let id = request.into_inner().producer_id;
        let mut trail = self.0.trail();
        let known = trail.producers.contains_key(&id);
        let (epoch, _, last_seq) = trail.producers.get(&id).copied().unwrap_or_default();
        let epoch = epoch + 1;
        let opened = trail.push(Kind::ProducerOpened, 0, epoch, Salt([1; 16]), b"opened");
        trail.producers.insert(id, (epoch, opened, last_seq));
        Ok(Response::new(OpenProducerResponse { epoch, opened, last_seq, known }))
    }

    async fn append(
        &self,
        request: Request<AppendRequest>,
    ) -> Result<Response<AppendResponse>, Status> {
        let request = request.into_inner();
        match self.0.next_act((request.first_seq, request.events.len())) {
            Some(Act::Refuse(rejected)) => Err(rejected.into()),
            Some(Act::Hang) => std::future::pending().await,
            Some(Act::Lose) => {
                self.0.trail().append(&request)?;
                Err(Status::unavailable("connection reset"))
            }
            Some(Act::Lie(lie)) => {
                let mut response = self.0.trail().append(&request)?;
                lie(&mut response);
                Ok(Response::new(response))
            }
            _ => Ok(Response::new(self.0.trail().append(&request)?)),
        }
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let index = request.into_inner().index;
        let act = self.0.next_act((index, 0));
        if let Some(Act::Refuse(rejected)) = act {
            return Err(rejected.into());
        }
        let mut record = self.0.trail().records.get(index as usize).cloned();
        if let (Some(Act::Break { damaged: true, .. }), Some(record)) = (act, &mut record) {
            record.event = Bytes::from_static(b"somebody else did it");
        }
        let none = || Rejected::new(Reason::NotFound, "no such record");
        let record = Some(record.ok_or_else(none)?);
        Ok(Response::new(GetResponse { record, ..Default::default() }))
    }

    type ReadStream = Messages<ReadResponse>;

    async fn read(
        &self,
        request: Request<ReadRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let request = request.into_inner();
        let act = self.0.next_act((request.from, 0));
        let records = self.0.trail().records.clone();
        let end = if request.to == 0 { records.len() } else { request.to as usize };
        let mut messages = Vec::new();
        for (position, record) in records[request.from as usize..end].iter().enumerate() {
            let mut record = record.clone();
            if let Some(Act::Break { after, damaged }) = &act {
                if position == *after && !*damaged {
                    messages.push(Err(Status::unavailable("connection reset")));
                    break;
                }
                if position == *after {
                    record.event = Bytes::from_static(b"somebody else did it");
                }
            }
            messages.push(Ok(ReadResponse { records: vec![record], ..Default::default() }));
        }
        let stream = futures_util::stream::iter(messages);
        let rest = futures_util::stream::pending();
        Ok(Response::new(match request.follow {
            true => Box::pin(stream.chain(rest)),
            false => Box::pin(stream),
        }))
    }

    async fn tree_head(
        &self,
        _: Request<TreeHeadRequest>,
    ) -> Result<Response<TreeHeadResponse>, Status> {
        let trail = self.0.trail();
        Ok(Response::new(TreeHeadResponse {
            tree_size: trail.records.len() as u64,
            root: Bytes::copy_from_slice(&trail.root().0),
            node_id: self.0.id,
            origin: "example.com/trail".into(),
        }))
    }

    async fn prove(&self, _: Request<ProveRequest>) -> Result<Response<ProveResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn prove_consistency(
        &self,
        _: Request<ProveConsistencyRequest>,
    ) -> Result<Response<ProveConsistencyResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn get_checkpoint(
        &self,
        _request: Request<indelible_proto::v1::GetCheckpointRequest>,
    ) -> Result<Response<indelible_proto::v1::GetCheckpointResponse>, Status> {
        Err(Status::unimplemented("get_checkpoint"))
    }

    async fn report_checkpoint(
        &self,
        _request: Request<indelible_proto::v1::ReportCheckpointRequest>,
    ) -> Result<Response<indelible_proto::v1::ReportCheckpointResponse>, Status> {
        Err(Status::unimplemented("report_checkpoint"))
    }

    async fn key_history(
        &self,
        _request: Request<indelible_proto::v1::KeyHistoryRequest>,
    ) -> Result<Response<indelible_proto::v1::KeyHistoryResponse>, Status> {
        Err(Status::unimplemented("key_history"))
    }
}

#[tonic::async_trait]
impl Cluster for Handle {
    async fn get_cluster(
        &self,
        _: Request<GetClusterRequest>,
    ) -> Result<Response<ClusterView>, Status> {
        Ok(Response::new(self.0.view.borrow().clone()))
    }

    type WatchClusterStream = Messages<ClusterView>;

    async fn watch_cluster(
        &self,
        _: Request<WatchClusterRequest>,
    ) -> Result<Response<Self::WatchClusterStream>, Status> {
        // Repeated, so that a slow test machine does not look like a silent node.
        let period = Duration::from_millis(500);
        let ticks = tokio_stream::wrappers::IntervalStream::new(tokio::time::interval(period));
        let view = self.0.view.subscribe();
        let repeated = ticks.map(move |_| view.borrow().clone());
        let changes = WatchStream::new(self.0.view.subscribe());
        Ok(Response::new(Box::pin(futures_util::stream::select(changes, repeated).map(Ok))))
    }

    async fn add_node(
        &self,
        _: Request<AddNodeRequest>,
    ) -> Result<Response<AddNodeResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn remove_node(
        &self,
        _: Request<RemoveNodeRequest>,
    ) -> Result<Response<RemoveNodeResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn transfer_leadership(
        &self,
        _: Request<TransferLeadershipRequest>,
    ) -> Result<Response<TransferLeadershipResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn accept_rollback(
        &self,
        _request: Request<indelible_proto::v1::AcceptRollbackRequest>,
    ) -> Result<Response<indelible_proto::v1::AcceptRollbackResponse>, Status> {
        Err(Status::unimplemented("accept_rollback"))
    }
}
