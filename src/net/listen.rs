//! The accept loop of a port.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use indelible_core::limits::{
    HANDSHAKE_DEADLINE, HEADER_BYTES_MAX, RAFT_STREAMS_MAX, RESET_STREAMS_MAX, STREAMS_KNOWN_MAX,
    STREAMS_UNKNOWN_MAX,
};
use indelible_tls::pki_types::CertificateDer;
use indelible_tls::rustls::{self, CertificateError, ServerConfig};
use indelible_tls::{Refusal, exporter_of_server};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tonic::Status;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{BoxFuture, Service};

use super::body::{LimitedBody, TrackedBody};
use super::budgets::Budgets;
use super::config::Mode;
use super::connection::{Active, Connection, Control, Security};
use super::credentials::{Credentials, Current};
use super::dial::tls_error;
use super::recent::RecentWarnings;
use super::rooms::{Place, Room, Rule};
use super::supervise::{Patience, supervise};

/// A silent connection is asked this often whether the other end is there.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// After the system has refused a connection: it has run out of something.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// What a port is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortKind {
    /// gRPC for clients.
    Client,
    /// gRPC for nodes.
    Raft,
    /// HTTP for everybody.
    Http,
    /// HTTP for who shows a certificate.
    Metrics,
    /// HTTP for this machine, in clear text.
    Probe,
}

impl PortKind {
    /// As metrics have it.
    pub fn name(self) -> &'static str {
        match self {
            PortKind::Client => "client",
            PortKind::Raft => "raft",
            PortKind::Http => "http",
            PortKind::Metrics => "metrics",
            PortKind::Probe => "probe",
        }
    }

    fn server(self, current: &Current) -> Arc<ServerConfig> {
        match self {
            PortKind::Client => current.client_server.clone(),
            PortKind::Raft => current.raft_server.clone(),
            PortKind::Http | PortKind::Probe => current.http_server.clone(),
            PortKind::Metrics => current.metrics_server.clone(),
        }
    }

    fn is_grpc(self) -> bool {
        matches!(self, PortKind::Client | PortKind::Raft)
    }

    pub(super) fn patience(self) -> Patience {
        match self {
            PortKind::Client => Patience::client(),
            PortKind::Raft => Patience::raft(),
            PortKind::Http | PortKind::Metrics | PortKind::Probe => Patience::http(),
        }
    }
}

/// One port of a node. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Port {
    pub(super) kind: PortKind,
    pub(super) credentials: Credentials,
    window_bytes: u32,
    room: Arc<Room>,
    budgets: Arc<Budgets>,
    /// Peers whose TLS handshake was refused.
    warnings: Arc<RecentWarnings>,
}

impl Port {
    /// `window_bytes` are HTTP/2's of one stream; a connection has twice as much. `streams` are the
    /// paths whose requests are streams.
    pub fn new(
        kind: PortKind,
        credentials: Credentials,
        window_bytes: u32,
        streams: &'static [&'static str],
    ) -> Port {
        let rule = match kind {
            PortKind::Client => Rule::Clients,
            PortKind::Raft => Rule::Nodes,
            PortKind::Http | PortKind::Metrics | PortKind::Probe => Rule::Http,
        };
        let (room, budgets) = (Room::new(rule), Arc::new(Budgets::new(kind, streams)));
        Port { kind, credentials, window_bytes, room, budgets, warnings: Arc::default() }
    }

    pub(super) fn refused(&self, why: &'static str) {
        self.credentials.counters().refused(self.kind.name(), why);
    }

    /// Nodes that cannot speak with each other are for a person; what others try is not.
    fn log_no_handshake(&self, remote: SocketAddr, error: &std::io::Error) {
        let is_tls = self.kind == PortKind::Raft && tls_error(error).is_some();
        if is_tls && self.warnings.is_due(remote.ip(), Instant::now()) {
            tracing::warn!(
                %remote,
                %error,
                "no TLS with a peer that calls; hint: compare `indelible cert show` of both nodes' certificates"
            );
        } else {
            tracing::debug!(port = self.kind.name(), %remote, %error, "no TLS");
        }
    }
}

/// Serves `router` on `listener` until `stopped` is true and every request is answered.
pub async fn serve(
    listener: TcpListener,
    port: Port,
    router: Router,
    mut stopped: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            // An error means that the sender is gone, which also means stop.
            _ = stopped.wait_for(|stopped| *stopped) => break,
        };
        let (stream, remote) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                port.refused("accept");
                tracing::warn!(port = port.kind.name(), %error, "a connection was not accepted");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        match port.room.enter(remote.ip()) {
            Ok(place) => {
                let (port, router) = (port.clone(), router.clone());
                connections.spawn(accept(stream, remote, place, port, router, stopped.clone()));
            }
            Err(why) => port.refused(why),
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn accept(
    stream: TcpStream,
    remote: SocketAddr,
    place: Place,
    port: Port,
    router: Router,
    stopped: watch::Receiver<bool>,
) {
    let control = place.control.clone();
    let handshake = async {
        // Without it every small answer waits 40 ms for the other end's delayed acknowledgement.
        stream.set_nodelay(true).map_err(|_| "closed")?;
        let current = match port.kind {
            PortKind::Probe => None,
            _ => port.credentials.current(),
        };
        match current {
            None => Ok((None, stream)),
            Some(_) if is_clear(&port, &stream).await? => Ok((None, stream)),
            Some(current) => Ok((Some(current), stream)),
        }
    };
    let begun = tokio::select! {
        begun = tokio::time::timeout(HANDSHAKE_DEADLINE, handshake) => begun.unwrap_or(Err("silent")),
        () = control.closed() => Err("oldest"),
    };
    match begun {
        Err(why) => port.refused(why),
        Ok((None, stream)) => {
            drive(stream, remote, Security::Clear, place, port, router, stopped).await;
        }
        Ok((Some(current), stream)) => {
            let acceptor = TlsAcceptor::from(port.kind.server(&current));
            let handshake = tokio::time::timeout(HANDSHAKE_DEADLINE, acceptor.accept(stream));
            let stream = tokio::select! {
                shaken = handshake => match shaken {
                    Ok(Ok(stream)) => stream,
                    Ok(Err(error)) => {
                        port.log_no_handshake(remote, &error);
                        return port.refused(why_no_handshake(&error));
                    }
                    Err(_) => return port.refused("silent"),
                },
                () = control.closed() => return port.refused("oldest"),
            };
            match security(stream.get_ref().1, &current) {
                Ok(security) => {
                    drive(stream, remote, security, place, port, router, stopped).await;
                }
                Err(why) => port.refused(why),
            }
        }
    }
}

/// Whether the other end does not begin with TLS, where that is accepted.
async fn is_clear(port: &Port, stream: &TcpStream) -> Result<bool, &'static str> {
    if port.credentials.mode() != Mode::Accept {
        return Ok(false);
    }
    /// What a TLS handshake begins with (RFC 8446, 5.1).
    const HANDSHAKE: u8 = 0x16;
    let mut first = [0];
    match stream.peek(&mut first).await {
        Ok(1) => Ok(first[0] != HANDSHAKE),
        _ => Err("closed"),
    }
}

/// Why a handshake failed, in one word: what was wrong with the certificate, if that was it.
fn why_no_handshake(error: &std::io::Error) -> &'static str {
    let tls = tls_error(error);
    match tls {
        Some(rustls::Error::NoCertificatesPresented) => "no_certificate",
        Some(rustls::Error::InvalidCertificate(what)) => match what {
            CertificateError::UnknownIssuer => "foreign_ca",
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "expired",
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "not_yet_valid"
            }
            CertificateError::Revoked => "revoked",
            CertificateError::BadEncoding => "encoding",
            _ => tls.and_then(Refusal::of).map_or("handshake", Refusal::code),
        },
        _ => "handshake",
    }
}

/// Who is at the other end of a TLS session.
fn security(
    session: &indelible_tls::rustls::ServerConnection,
    current: &Current,
) -> Result<Security, &'static str> {
    let binding = exporter_of_server(session).map_err(|_| "handshake")?;
    let chain: Vec<CertificateDer<'static>> = session
        .peer_certificates()
        .unwrap_or_default()
        .iter()
        .map(|one| one.clone().into_owned())
        .collect();
    let peer = match chain.is_empty() {
        true => None,
        false => Some(current.material.peer_of(&chain).map_err(|refusal| refusal.code())?),
    };
    Ok(Security::Tls { peer, chain, binding })
}

/// Serves one connection until it ends.
pub(super) async fn drive<S>(
    stream: S,
    remote: SocketAddr,
    security: Security,
    mut place: Place,
    port: Port,
    router: Router,
    stopped: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // In clear text nobody can show a certificate, and everybody is let in who is on this machine.
    if security.peer().is_some() || matches!(security, Security::Clear) {
        place.known();
    }
    let control: Arc<Control> = place.control.clone();
    let connection = Arc::new(Connection::new(remote, security, control, port.budgets.streams()));
    let service = Requests { router, port: port.clone(), connection: connection.clone() };
    let service = TowerToHyperService::new(service);
    let name = port.kind.name();
    port.credentials.counters().opened(name);
    if port.kind.is_grpc() {
        let streams = match (port.kind, connection.is_stranger()) {
            (PortKind::Raft, _) => RAFT_STREAMS_MAX,
            (_, true) => STREAMS_UNKNOWN_MAX,
            (_, false) => STREAMS_KNOWN_MAX,
        };
        let session = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(port.window_bytes)
            .initial_connection_window_size(2 * port.window_bytes)
            .max_concurrent_streams(streams)
            .max_header_list_size(HEADER_BYTES_MAX)
            .max_pending_accept_reset_streams(RESET_STREAMS_MAX)
            .keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .serve_connection(TokioIo::new(stream), service);
        supervise(session, &connection, &port, stopped).await;
    } else {
        let session = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HANDSHAKE_DEADLINE)
            .max_header_size(HEADER_BYTES_MAX as usize)
            .serve_connection(TokioIo::new(stream), service);
        supervise(session, &connection, &port, stopped).await;
    }
    port.credentials.counters().closed(name);
    drop(place);
}

/// Hands requests to the router, each with its connection, its body within bounds.
#[derive(Clone)]
struct Requests {
    router: Router,
    port: Port,
    connection: Arc<Connection>,
}

impl Service<Request<hyper::body::Incoming>> for Requests {
    type Response = Response<axum::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // An axum router is always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<hyper::body::Incoming>) -> Self::Future {
        let active = Active::begin(&self.connection);
        let (mut head, body) = request.into_parts();
        head.extensions.insert(self.connection.clone());
        let allowance = self.port.budgets.allowance(&self.connection, head.uri.path());
        let Some(allowance) = allowance else {
            let what = "too many requests of this kind are open; hint: end one";
            let refused = Status::resource_exhausted(what).into_http();
            return Box::pin(std::future::ready(Ok(refused)));
        };
        let body = axum::body::Body::new(LimitedBody::new(body, allowance));
        let answer = self.router.call(Request::from_parts(head, body));
        Box::pin(async move {
            let Ok(answer) = answer.await;
            Ok(answer.map(|body| axum::body::Body::new(TrackedBody::new(body, active))))
        })
    }
}
