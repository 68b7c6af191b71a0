//! The only place that opens connections to nodes.
//!
//! [`Transport`] says what is spoken: TLS with the certificates of a [`Tls`], or clear text, which
//! has to be asked for. [`channel`] makes one gRPC connection. Whose fault a failure is, and what a
//! person can do about it, is in [`DialError`]; what a node says only after the handshake, such as
//! that it refuses our certificate, is caught in `monitored.rs`.

mod error;
mod monitored;
mod tls;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use indelible_tls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::codegen::Service;
use tonic::transport::{Channel, Endpoint, Uri};

pub use error::DialError;
pub use tls::{Identity, Tls, TlsError, TlsFiles, TlsPem};

pub(crate) use monitored::BreakReason;

use monitored::MonitoredStream;

/// HTTP/2 keepalive: how often, and how long the answer may take.
const KEEPALIVE: Duration = Duration::from_secs(2);
/// TCP keepalive, for connections on which nothing is asked.
const TCP_KEEPALIVE: Duration = Duration::from_secs(15);
/// How long one attempt may take, unless the caller has another limit.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What is spoken with the nodes.
#[derive(Debug, Clone)]
pub enum Transport {
    /// TLS, with these certificates.
    Tls(Tls),
    /// Nothing is proven and anybody on the way reads along: for nodes with `[tls] mode = "off"`.
    ClearText,
}

/// One gRPC connection to the node at `addr` (`host:port`). It reconnects by itself, with the
/// certificate files as they are then.
///
/// # Errors
/// [`DialError`] says who refused what. A node that refuses our certificate may say so only in
/// answer to the first call.
pub async fn channel(addr: &str, transport: &Transport) -> Result<Channel, DialError> {
    Ok(dial(addr, transport, CONNECT_TIMEOUT).await?.0)
}

/// As [`channel`], with the place where the reason of a broken connection is found.
pub(crate) async fn dial(
    addr: &str,
    transport: &Transport,
    limit: Duration,
) -> Result<(Channel, Arc<BreakReason>), DialError> {
    let break_reason = Arc::new(BreakReason::default());
    let connector = Connector { transport: transport.clone(), break_reason: break_reason.clone() };
    match timeout(limit, endpoint(addr, transport)?.connect_with_connector(connector)).await {
        Err(_) => Err(DialError::TimedOut(limit)),
        Ok(Err(error)) => Err(break_reason.reason().unwrap_or_else(|| DialError::inside(&error))),
        Ok(Ok(channel)) => Ok((channel, break_reason)),
    }
}

fn endpoint(addr: &str, transport: &Transport) -> Result<Endpoint, DialError> {
    let scheme = match transport {
        Transport::Tls(_) => "https",
        Transport::ClearText => "http",
    };
    let endpoint = Endpoint::from_shared(format!("{scheme}://{addr}"))
        .map_err(|error| DialError::Address(format!("{addr:?}: {error}")))?;
    Ok(endpoint
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(Some(1024 * 1024))
        .initial_connection_window_size(Some(4 * 1024 * 1024)))
}

/// Makes what HTTP/2 runs on, for tonic.
struct Connector {
    transport: Transport,
    break_reason: Arc<BreakReason>,
}

/// TCP, or TLS over it.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

type Connected = TokioIo<MonitoredStream<Box<dyn Stream>>>;

impl Service<Uri> for Connector {
    type Response = Connected;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<Connected, DialError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (transport, break_reason) = (self.transport.clone(), self.break_reason.clone());
        Box::pin(async move {
            break_reason.begin();
            let connected = connect(&uri, &transport, break_reason.clone()).await;
            connected.inspect_err(|error| break_reason.note(error))
        })
    }
}

async fn connect(
    uri: &Uri,
    transport: &Transport,
    break_reason: Arc<BreakReason>,
) -> Result<Connected, DialError> {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().ok_or_else(|| DialError::Address(format!("{uri}: no port")))?;
    let tcp = TcpStream::connect((host, port)).await.map_err(DialError::from_tcp)?;
    tcp.set_nodelay(true).map_err(DialError::from_tcp)?;
    let keepalive = TcpKeepalive::new().with_time(TCP_KEEPALIVE).with_interval(TCP_KEEPALIVE);
    SockRef::from(&tcp).set_tcp_keepalive(&keepalive).map_err(DialError::from_tcp)?;
    let (stream, about): (Box<dyn Stream>, _) = match transport {
        Transport::ClearText => (Box::new(tcp), None),
        Transport::Tls(tls) => {
            let name = ServerName::try_from(host.to_owned())
                .map_err(|error| DialError::Address(format!("{host:?}: {error}")))?;
            let (config, about) = tls.for_a_connection().await;
            let stream = TlsConnector::from(config).connect(name, tcp).await;
            let stream = stream.map_err(|error| DialError::from_handshake(&error, &about))?;
            (Box::new(stream), Some(about))
        }
    };
    Ok(TokioIo::new(MonitoredStream::new(stream, about, break_reason)))
}
