//! The calling side, for nodes: one TCP connection with one HTTP/2 session on it.
//!
//! Not tonic's `Channel`: that makes a new connection behind the caller's back when the old one is
//! lost, and what was proved on the old one would be taken for proved on the new.

use std::error::Error;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use indelible_tls::pki_types::{CertificateDer, ServerName};
use indelible_tls::{Peer, exporter_of_client, rustls};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response, Uri};
use tonic::codegen::{BoxFuture, Service};

use super::config::Mode;
use super::connection::Security;
use super::credentials::{Credentials, Current, unix_s};

/// A silent connection is asked this often whether the other end is there.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// How long the first round trip may take. Who was cut off is found again that soon: the system
/// itself would repeat a lost packet after a second, then after two.
const TCP_DEADLINE: Duration = Duration::from_millis(300);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nobody listens there, or the address makes no sense.
    #[error("{0}")]
    Unreachable(std::io::Error),
    /// The two do not agree on TLS, or on whom to trust.
    #[error("TLS: {0}; hint: compare `indelible cert show` of both nodes' certificates")]
    Tls(String),
    /// A node answers there that is not the one that was looked for, or none does.
    #[error(
        "the certificate there is of {0}; hint: compare the addresses in both nodes' configurations"
    )]
    OtherNode(String),
    /// The other end speaks no HTTP/2.
    #[error("HTTP/2: {0}")]
    Http2(hyper::Error),
}

/// An open connection.
pub struct DialedConnection {
    /// For generated clients.
    pub channel: OneConnection,
    /// What protects it.
    pub security: Security,
}

/// Opens a connection to host:port. `window_bytes` are HTTP/2's of one stream; a connection has
/// twice as much.
pub async fn dial(
    addr: &str,
    credentials: &Credentials,
    window_bytes: u32,
) -> Result<DialedConnection, DialError> {
    // Boxed: a TLS session is large, and this future is part of many.
    Box::pin(open(addr, credentials, window_bytes)).await
}

async fn open(
    addr: &str,
    credentials: &Credentials,
    window_bytes: u32,
) -> Result<DialedConnection, DialError> {
    let Some(current) = credentials.current() else { return clear(addr, window_bytes).await };
    let stream = tcp(addr).await?.into_std().map_err(DialError::Unreachable)?;
    // To cut the connection with: hyper lets open streams go on when its own end is dropped.
    let socket = stream.try_clone().map_err(DialError::Unreachable)?;
    let stream = TcpStream::from_std(stream).map_err(DialError::Unreachable)?;
    let name = server_name(addr)?;
    let connector = TlsConnector::from(current.raft_client.clone());
    let stream = match connector.connect(name, stream).await {
        Ok(stream) => stream,
        Err(error) if credentials.mode() == Mode::Accept && speaks_no_tls(&error) => {
            return clear(addr, window_bytes).await;
        }
        // A peer that is only starting, or going, says nothing about certificates.
        Err(error) if tls_error(&error).is_none() => return Err(DialError::Unreachable(error)),
        Err(error) => {
            credentials.shaken(addr, Some(error.to_string()));
            return Err(DialError::Tls(error.to_string()));
        }
    };
    let tls = stream.get_ref().1;
    let binding = exporter_of_client(tls).map_err(|error| DialError::Tls(error.to_string()))?;
    let chain: Vec<_> = tls
        .peer_certificates()
        .unwrap_or_default()
        .iter()
        .map(|one| one.clone().into_owned())
        .collect();
    let peer: Peer =
        current.material.peer_of(&chain).map_err(|error| DialError::Tls(error.to_string()))?;
    let (channel, session) = session(stream, window_bytes).await?;
    let trusted = while_trusted(credentials.clone(), chain.clone());
    tokio::spawn(async move {
        tokio::select! {
            () = session => {}
            () = trusted => {
                tracing::warn!("a connection ends: the peer's certificate does not count any more");
                // An error means that it has ended by itself.
                let _ = socket.shutdown(std::net::Shutdown::Both);
            }
        }
    });
    let security = Security::Tls { peer: Some(peer), chain, binding };
    Ok(DialedConnection { channel, security })
}

/// Whether a node answers at the address of its client port, by the certificate that it shows
/// there; in clear text, whether anything does.
pub async fn check_client_port(
    addr: &str,
    credentials: &Credentials,
    node: u64,
) -> Result<(), DialError> {
    let stream = tcp(addr).await?;
    let Some(current) = credentials.current() else { return Ok(()) };
    // Believes nodes only, as for a raft port; client ports speak the same protocol.
    let connector = TlsConnector::from(current.raft_client.clone());
    let stream = match Box::pin(connector.connect(server_name(addr)?, stream)).await {
        Ok(stream) => stream,
        Err(error) if credentials.mode() == Mode::Accept && speaks_no_tls(&error) => return Ok(()),
        Err(error) if tls_error(&error).is_some() => return Err(DialError::Tls(error.to_string())),
        Err(error) => return Err(DialError::Unreachable(error)),
    };
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let peer = current.material.peer_of(chain);
    let name = peer.map_err(|error| DialError::Tls(error.to_string()))?.name;
    match name.node_id() == Some(node) {
        true => Ok(()),
        false => Err(DialError::OtherNode(name.principal())),
    }
}

/// Whether anything answers at an address.
pub async fn check_answers(addr: &str) -> Result<(), DialError> {
    tcp(addr).await.map(drop)
}

/// What TLS wants to know of an address. Not what is verified: that is the node's name in the
/// certificate.
fn server_name(addr: &str) -> Result<ServerName<'static>, DialError> {
    let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    ServerName::try_from(host).map_err(|error| DialError::Tls(error.to_string()))
}

/// Whether the other end answered a TLS handshake with something else, or not at all.
fn speaks_no_tls(error: &std::io::Error) -> bool {
    matches!(tls_error(error), None | Some(rustls::Error::InvalidMessage(_)))
}

/// What TLS says in an error, or in what has caused it.
pub fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        // An IO error is not the source of itself, but holds what it was made of.
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let inner = inner.map(|inner| inner as &(dyn Error + 'static));
        if let Some(tls) = inner.unwrap_or(error).downcast_ref() {
            return Some(tls);
        }
        next = inner.unwrap_or(error).source();
    }
    None
}

async fn clear(addr: &str, window_bytes: u32) -> Result<DialedConnection, DialError> {
    let stream = tcp(addr).await?;
    let channel = OneConnection::new(stream, window_bytes).await?;
    Ok(DialedConnection { channel, security: Security::Clear })
}

async fn tcp(addr: &str) -> Result<TcpStream, DialError> {
    let connect = TcpStream::connect(addr);
    let stream = tokio::time::timeout(TCP_DEADLINE, connect)
        .await
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
        .map_err(DialError::Unreachable)?;
    // Without it every small request waits 40 ms for the other end's delayed acknowledgement.
    stream.set_nodelay(true).map_err(DialError::Unreachable)?;
    Ok(stream)
}

/// An HTTP/2 session on an open connection, and what has to run for it.
async fn session(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    window_bytes: u32,
) -> Result<(OneConnection, impl Future<Output = ()> + Send + 'static), DialError> {
    let (requests, session) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(window_bytes)
        .initial_connection_window_size(2 * window_bytes)
        .keep_alive_interval(KEEPALIVE)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(DialError::Http2)?;
    let run = async move {
        if let Err(error) = session.await {
            tracing::debug!(%error, "a connection to a peer ended");
        }
    };
    Ok((OneConnection(requests), run))
}

/// Completes when a dialed peer's certificate does not count any more with what is trusted now.
async fn while_trusted(credentials: Credentials, chain: Vec<CertificateDer<'static>>) {
    let mut trust = credentials.subscribe();
    loop {
        let current = trust.borrow_and_update().clone();
        let trusts = |current: &Current| {
            current.material.still_trusts(indelible_tls::Port::RaftOut, &chain, unix_s()).is_ok()
        };
        if current.is_some_and(|current| !trusts(&current)) || trust.changed().await.is_err() {
            return;
        }
    }
}

/// An HTTP/2 session that ends with its connection, and with the last user of it. Cheap to clone.
#[derive(Clone)]
pub struct OneConnection(SendRequest<Body>);

impl OneConnection {
    /// A session on a connection that is open already. `window_bytes` are HTTP/2's of one stream;
    /// the connection has twice as much.
    pub async fn new(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        window_bytes: u32,
    ) -> Result<OneConnection, DialError> {
        let (channel, session) = session(stream, window_bytes).await?;
        tokio::spawn(session);
        Ok(channel)
    }

    /// What stands in requests for the other end's address.
    pub fn origin() -> Uri {
        Uri::from_static("https://node.indelible")
    }
}

impl Service<Request<Body>> for OneConnection {
    type Response = Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use tonic::Status;

    use super::*;

    #[test]
    fn what_tls_says_is_found_in_an_io_error_that_caused_another_error() {
        let revoked = || io::Error::other(rustls::Error::NoCertificatesPresented);
        assert_eq!(tls_error(&revoked()), Some(&rustls::Error::NoCertificatesPresented));
        let status = Status::from_error(Box::new(revoked()));
        assert_eq!(tls_error(&status), Some(&rustls::Error::NoCertificatesPresented));
        assert_eq!(tls_error(&io::Error::from(io::ErrorKind::UnexpectedEof)), None);
    }
}
