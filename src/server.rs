//! Mounts the services on a node: the one place where all layers meet.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use indelible_proto::DESCRIPTORS;
use indelible_proto::v1::audit_log_server::AuditLogServer;
use openraft::async_runtime::WatchReceiver as _;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::net::{self, Credentials, Port, PortKind};
use crate::node::fatal::Fatal;
use crate::node::leadership::Leadership;
use crate::node::mend::Starting;
use crate::node::{Node, NodeConfig, StartError};
use crate::raft::link::STREAM_WINDOW_BYTES;
use crate::service::authority::{Authority, RPC_REFLECTION};
use crate::service::metrics::Metrics;
use crate::service::starting::{Late, http as starting_http};
use crate::service::{AuditLogService, ClusterService, http};
use crate::storage::StorageError;

/// HTTP/2 window of a stream of the client port: a full request or response fits.
const CLIENT_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
/// The only request of the raft port that is a stream of messages.
const RPC_APPEND: &str = "/indelible.raft.v1.Raft/Append";
/// How long requests that are under way may take once the node is asked to stop.
const DRAIN: Duration = Duration::from_secs(3);

/// Why a node stopped, or never served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An address is taken or not this machine's.
    #[error("listen on {addr}: {source}; hint: is another node running there?")]
    Listen {
        /// Which address.
        addr: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The node did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It found that it must not go on.
    #[error("{0}")]
    Fatal(Fatal),
    /// Its log failed: nothing more can be made durable, so it must not go on.
    #[error("the log failed: {0}; the node stops rather than acknowledge what may not be durable")]
    Log(String),
    /// openraft stopped by itself.
    #[error("raft stopped: {0}")]
    Raft(String),
    /// A socket's server ended.
    #[error("serve: {0}")]
    Transport(String),
}

impl ServeError {
    /// With what the process ends (README, "Exit codes").
    pub fn exit_code(&self) -> u8 {
        match self {
            ServeError::Start(StartError::Damaged(_)) => 9,
            ServeError::Start(StartError::Storage(StorageError::Open(error)))
                if error.is_old_disk() =>
            {
                7
            }
            ServeError::Start(StartError::Diverged(_)) | ServeError::Fatal(Fatal::Diverged(_)) => 7,
            ServeError::Start(StartError::Removed(_)) | ServeError::Fatal(Fatal::Removed(_)) => 8,
            ServeError::Listen { .. }
            | ServeError::Fatal(Fatal::Failed(_))
            | ServeError::Start(_)
            | ServeError::Log(_)
            | ServeError::Raft(_)
            | ServeError::Transport(_) => 1,
        }
    }
}

/// The sockets of a node.
pub struct Listeners {
    client: TcpListener,
    raft: TcpListener,
    http: TcpListener,
    probe: Option<TcpListener>,
    metrics: Option<TcpListener>,
}

impl Listeners {
    /// Binds them; the node need not run yet.
    pub async fn bind(config: &NodeConfig) -> Result<Listeners, ServeError> {
        let maybe = |addr: Option<String>| async move {
            match addr {
                Some(addr) => bind(&addr).await.map(Some),
                None => Ok(None),
            }
        };
        Ok(Listeners {
            client: bind(config.client_listen()).await?,
            raft: bind(config.raft_listen()).await?,
            http: bind(config.http_listen()).await?,
            probe: maybe(config.probe_addr.clone()).await?,
            metrics: maybe(config.metrics_addr.clone()).await?,
        })
    }
}

async fn bind(addr: &str) -> Result<TcpListener, ServeError> {
    TcpListener::bind(addr)
        .await
        .map_err(|source| ServeError::Listen { addr: addr.to_owned(), source })
}

/// Runs a node until `shutdown` completes, or until it cannot go on. On an orderly stop everything
/// is closed cleanly.
pub async fn run(
    config: NodeConfig,
    listeners: Listeners,
    starting: Starting,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let (stop, stopped) = watch::channel(false);
    let mut servers = JoinSet::new();
    let credentials = starting.credentials.clone();
    servers.spawn(credentials.keep_current());
    // Before the disk is opened: a peer may need what it holds, and it may need a peer.
    let ports = Ports::mount(listeners, &starting, &stopped, &mut servers);
    tokio::pin!(shutdown);
    let node = tokio::select! {
        started = Node::start(config, starting) => started?,
        () = &mut shutdown => {
            tracing::info!("stopped before the node was built");
            return Ok(());
        }
        Some(ended) = servers.join_next() => return Err(transport_error(ended)),
    };
    ports.open(&node);
    tracing::info!(
        node = node.identity.node_id,
        origin = %node.identity.origin,
        clients = %node.config.client_addr,
        "serving"
    );

    tokio::select! {
        () = &mut shutdown => Ok(()),
        fatal = node.fatal.stopped() => Err(ServeError::Fatal(fatal)),
        error = log_failed(&node) => Err(error),
        error = raft_failed(&node) => Err(error),
        Some(ended) = servers.join_next() => Err(transport_error(ended)),
    }?;
    // NB: after an error nothing is closed: the log or openraft cannot be trusted any more, and
    // recovery decides what is true.
    node.hand_over().await;
    node.drain();
    stop.send_replace(true);
    // All but the task that reads certificates, which ends with the node.
    let drained = async { while servers.len() > 1 && servers.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        tracing::warn!("requests were still under way after {DRAIN:?}");
        servers.shutdown().await;
    }
    node.stop().await;
    tracing::info!("stopped");
    Ok(())
}

/// The ports, served from the first moment; what is behind them comes later.
struct Ports {
    clients: Late,
    peers: Late,
    public: Late,
    operators: Late,
    credentials: Credentials,
}

impl Ports {
    fn mount(
        listeners: Listeners,
        starting: &Starting,
        stopped: &watch::Receiver<bool>,
        servers: &mut JoinSet<()>,
    ) -> Ports {
        let doing = starting.doing();
        let credentials = starting.credentials.clone();
        let ports = Ports {
            clients: Late::clients(doing.clone()),
            peers: Late::peers(doing.clone()),
            public: Late::http(doing.clone()),
            operators: Late::http(doing),
            credentials: credentials.clone(),
        };
        let mut serve = |listener, kind, window, streams, router| {
            let port = Port::new(kind, credentials.clone(), window, streams);
            servers.spawn(net::serve(listener, port, router, stopped.clone()));
        };
        let clients = Router::new().fallback_service(ports.clients.clone());
        let streams = &[RPC_REFLECTION];
        serve(listeners.client, PortKind::Client, CLIENT_WINDOW_BYTES, streams, clients);
        let mending = Routes::new(starting.mending.clone().into_server()).into_axum_router();
        let peers = mending.fallback_service(ports.peers.clone());
        serve(listeners.raft, PortKind::Raft, STREAM_WINDOW_BYTES, &[RPC_APPEND], peers);
        let public = starting_http(ports.public.clone());
        serve(listeners.http, PortKind::Http, CLIENT_WINDOW_BYTES, &[], public);
        let more = [(listeners.probe, PortKind::Probe), (listeners.metrics, PortKind::Metrics)];
        for (listener, kind) in more {
            let Some(listener) = listener else { continue };
            serve(listener, kind, CLIENT_WINDOW_BYTES, &[], starting_http(ports.operators.clone()));
        }
        ports
    }

    /// Everything goes to the node from now on.
    fn open(&self, node: &Arc<Node>) {
        let metrics = Arc::new(Metrics::new());
        self.peers.open(peer_routes(node).prepare().into_axum_router());
        let authority = Authority::new(&self.credentials);
        let clients = client_routes(node, &metrics).prepare().into_axum_router();
        self.clients.open(authority.guard(clients));
        let operators = http::operators(node.clone(), metrics.clone());
        // In clear text everything is on loopback addresses, and the HTTP port is the probe port.
        self.public.open(match self.credentials.mode() {
            net::Mode::Off => operators.clone(),
            net::Mode::Require | net::Mode::Accept => http::public(node.clone(), metrics),
        });
        self.operators.open(operators);
    }
}

/// What clients may call.
fn client_routes(node: &Arc<Node>, metrics: &Arc<Metrics>) -> Routes {
    let (reporter, health) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("the descriptors are compiled in");
    tokio::spawn(report_health(node.clone(), reporter));
    Routes::new(health)
        .add_service(reflection)
        .add_service(AuditLogService::new(node.clone(), metrics.clone()).into_server())
        .add_service(ClusterService::new(node.clone()).into_server())
}

/// What peers may call once the node is built.
fn peer_routes(node: &Arc<Node>) -> Routes {
    Routes::new(node.raft_service().into_server())
        .add_service(node.publication_service().into_server())
}

/// Standard gRPC health: `indelible.v1.AuditLog` serves while a leader is known, `leader` only on
/// the leader.
async fn report_health(node: Arc<Node>, reporter: HealthReporter) {
    let mut leadership = node.leadership.clone();
    let mut draining = node.draining();
    loop {
        let leads = matches!(&*leadership.borrow_and_update(), Leadership::Ready(_));
        let knows = !matches!(&*leadership.borrow(), Leadership::NoLeader);
        let drains = *draining.borrow_and_update();
        let status = |serves: bool| match serves && !drains {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        let name = <AuditLogServer<AuditLogService> as tonic::server::NamedService>::NAME;
        reporter.set_service_status(name, status(knows)).await;
        reporter.set_service_status("leader", status(leads)).await;
        reporter.set_service_status("", status(true)).await;
        let gone = tokio::select! {
            changed = leadership.changed() => changed.is_err(),
            changed = draining.changed() => changed.is_err(),
        };
        if gone {
            return;
        }
    }
}

async fn log_failed(node: &Node) -> ServeError {
    let mut failed = node.log.failed();
    match failed.wait_for(Option::is_some).await {
        Ok(error) => ServeError::Log(error.as_ref().map(ToString::to_string).unwrap_or_default()),
        // The log is closed only after this has been dropped.
        Err(_) => std::future::pending().await,
    }
}

/// openraft's core drops its metrics when it ends, whyever it ends.
async fn raft_failed(node: &Node) -> ServeError {
    let mut metrics = node.raft.server_metrics();
    while metrics.changed().await.is_ok() {}
    let state = node.raft.metrics().borrow_watched().running_state.clone();
    ServeError::Raft(state.err().map_or("its core ended".into(), |fatal| fatal.to_string()))
}

fn transport_error(ended: Result<(), tokio::task::JoinError>) -> ServeError {
    ServeError::Transport(match ended {
        Ok(()) => "a socket was closed".into(),
        Err(error) => error.to_string(),
    })
}
