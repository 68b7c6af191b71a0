//! Nodes that answer as they are told: real sockets and real gRPC around a trail in memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use indelible_core::{Kind, Leaf};
use indelible_proto::v1::audit_log_server::AuditLogServer;
use indelible_proto::v1::cluster_server::ClusterServer;
use indelible_proto::v1::*;
use indelible_proto::{LeaderHint, Reason, Rejected};
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Status};

use super::doors::Doors;
use super::services::Handle;
use super::trail::{KEYS, ORIGIN, Trail, policy};
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
    pub(crate) trail: SharedTrail,
}

/// Shared by the nodes that tell the same story.
pub(crate) type SharedTrail = Arc<Mutex<Trail>>;

/// What a node makes of its honest answers, from now on.
#[derive(Default, Clone, Copy)]
pub(crate) struct Twist {
    pub(crate) get: Option<fn(&mut GetResponse)>,
    pub(crate) read: Option<fn(&mut ReadResponse)>,
    pub(crate) checkpoint: Option<fn(&mut GetCheckpointResponse)>,
    pub(crate) prove: Option<fn(&mut ProveResponse)>,
    pub(crate) consistency: Option<fn(&mut ProveConsistencyResponse)>,
    pub(crate) keys: Option<fn(&mut KeyHistoryResponse)>,
}

/// One node.
pub(crate) struct Node {
    pub(crate) id: u64,
    pub(crate) addr: String,
    pub(super) view: watch::Sender<ClusterView>,
    /// What it shows; most nodes share one.
    shown: Mutex<SharedTrail>,
    twist: Mutex<Twist>,
    /// What to do with the next calls; honest when empty.
    script: Mutex<VecDeque<Act>>,
    /// (first seq, events) of every append that came, `(index, 0)` of every read.
    calls: Mutex<Vec<(u64, usize)>>,
    /// Counts calls, for tests that wait for one.
    called: watch::Sender<usize>,
    /// What it answers to every call.
    closed: Mutex<Option<Rejected>>,
}

impl Fake {
    /// Nodes 1 to `count`; node 1 leads term 1.
    pub(crate) async fn start(count: u64) -> Fake {
        Fake::start_behind(count, None).await
    }

    /// The same, behind TLS.
    pub(crate) async fn start_behind(count: u64, doors: Option<&Arc<Doors>>) -> Fake {
        let trail = Arc::new(Mutex::new(Trail { signs: true, ..Trail::default() }));
        trail.lock().expect("lock").change_members(&[&[1, 2, 3]]);
        let mut nodes = Vec::new();
        for id in 1..=count {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
            let addr = listener.local_addr().expect("bound").to_string();
            let node = Arc::new(Node {
                id,
                addr,
                view: watch::Sender::new(ClusterView::default()),
                shown: Mutex::new(trail.clone()),
                twist: Mutex::default(),
                script: Mutex::default(),
                calls: Mutex::default(),
                called: watch::Sender::new(0),
                closed: Mutex::default(),
            });
            let gate = || {
                let node = node.clone();
                move |request: Request<()>| node.let_in(request)
            };
            let (audit, cluster) = (Handle(node.clone()), Handle(node.clone()));
            let server = tonic::transport::Server::builder()
                .add_service(AuditLogServer::with_interceptor(audit, gate()))
                .add_service(ClusterServer::with_interceptor(cluster, gate()));
            match doors {
                Some(doors) => {
                    tokio::spawn(server.serve_with_incoming(doors.incoming(listener)));
                }
                None => {
                    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
                }
            }
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
            public_key: Bytes::copy_from_slice(&KEYS.node_public(node.id)),
            voter: true,
            ..Default::default()
        };
        node.view.send_replace(ClusterView {
            trail_id: Bytes::from_static(&[9; 16]),
            origin: ORIGIN.into(),
            log_key: KEYS.log().verifier().to_string(),
            node_id: node.id,
            role: role.into(),
            state: ServingState::Serving.into(),
            term,
            leader_id,
            nodes: self.nodes.iter().map(member).collect(),
            ..Default::default()
        });
    }

    /// Every node says that these vote.
    pub(crate) fn vote(&self, voters: &[u64]) {
        for node in &self.nodes {
            node.view.send_modify(|view| {
                view.applied_index += 1;
                view.nodes.iter_mut().for_each(|node| node.voter = voters.contains(&node.id));
            });
        }
    }

    pub(crate) fn node(&self, id: u64) -> &Node {
        &self.nodes[id as usize - 1]
    }

    /// A client that knows node 1.
    pub(crate) async fn client(&self) -> Client {
        Client::connect_with(self.options()).await.expect("a node answers")
    }

    /// A client with the policy that fits, connected to every node.
    pub(crate) async fn verifier(&self) -> Client {
        self.connect(Options { policy: Some(policy()), ..self.options() }).await
    }

    /// A client that is connected to every node.
    pub(crate) async fn connect(&self, options: Options) -> Client {
        let client = Client::connect_with(options).await.expect("a node answers");
        assert!(client.status().await.iter().all(|node| node.view.is_ok()));
        client
    }

    pub(crate) fn options(&self) -> Options {
        let mut options = Options::new([&self.nodes[0].addr]).expect("valid");
        options.clear_text = true;
        // No test may pass because an attempt timed out and was repeated.
        options.attempt_timeout = Duration::from_secs(3600);
        options.connect_timeout = Duration::from_secs(10);
        options.request_timeout = Duration::from_secs(10);
        options.settle_every = Duration::from_millis(10);
        options
    }

    pub(crate) fn trail(&self) -> MutexGuard<'_, Trail> {
        self.trail.lock().expect("lock")
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

    /// Refuses every call from now on, or no more.
    pub(crate) fn close(&self, rejected: Option<Rejected>) {
        *self.closed.lock().expect("lock") = rejected;
    }

    fn let_in(&self, request: Request<()>) -> Result<Request<()>, Status> {
        match &*self.closed.lock().expect("lock") {
            Some(rejected) => Err(rejected.clone().into()),
            None => Ok(request),
        }
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

    /// Shows another trail from now on.
    pub(crate) fn show(&self, trail: &SharedTrail) {
        *self.shown.lock().expect("lock") = trail.clone();
    }

    /// Twists its answers from now on.
    pub(crate) fn twist(&self, twist: Twist) {
        *self.twist.lock().expect("lock") = twist;
    }

    pub(super) fn twisted(&self) -> Twist {
        *self.twist.lock().expect("lock")
    }

    pub(super) fn next_act(&self, call: (u64, usize)) -> Option<Act> {
        self.calls.lock().expect("lock").push(call);
        let act = self.script.lock().expect("lock").pop_front();
        self.called.send_modify(|count| *count += 1);
        act
    }

    /// Does something with what it shows.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut Trail) -> T) -> T {
        let shown = self.shown.lock().expect("lock").clone();
        act(&mut shown.lock().expect("lock"))
    }
}
