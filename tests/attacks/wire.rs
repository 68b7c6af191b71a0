//! Raw connections: what arrives at a port if not the SDK, nor a node, is at the other end.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use indelible_core::TrailId;
use indelible_local::{LocalCluster, LocalNode};
use indelible_testkit::fail::{environment, within};
use indelible_tls::issue::{Authority, Issued, Leaf};
use indelible_tls::pki_types::pem::PemObject;
use indelible_tls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use indelible_tls::rustls::ClientConfig;
use indelible_tls::{Name, Role};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::http::{HeaderMap, Method, Request};

use super::any_server::{AnyServer, provider};
use crate::harness::{PATIENCE, eventually};

/// Protocol name of the client port and the raft port.
pub const H2: &str = "h2";
/// Protocol name of the HTTP port and the metrics port.
pub const HTTP: &str = "http/1.1";
/// What an HTTP/2 client says first (RFC 9113, 3.4), with settings that are the usual ones.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

/// The key of a cluster's authority in the wrong hands.
pub struct Forge {
    pub authority: Authority,
    pub trail: TrailId,
}

impl Forge {
    pub fn of(cluster: &LocalCluster) -> Forge {
        Forge::at(&cluster.dir().join("ca"))
    }

    pub fn at(folder: &Path) -> Forge {
        let read = |name| std::fs::read_to_string(folder.join(name)).unwrap();
        let authority = Authority::from_pem(&read("ca.crt"), &read("ca.key")).unwrap();
        let trail = authority.trail().unwrap();
        Forge { authority, trail }
    }

    pub fn leaf(&self, role: Role) -> Leaf {
        let hosts = vec!["127.0.0.1".into(), "localhost".into()];
        Leaf { hosts, ..Leaf::new(Name::new(self.trail, role).unwrap()) }
    }

    pub fn issue(&self, role: Role) -> Issued {
        self.authority.issue(&self.leaf(role)).unwrap()
    }

    pub fn client(&self, name: &str) -> Issued {
        self.issue(Role::Client(name.into()))
    }
}

/// Seconds since 1970.
pub fn unix_s() -> i64 {
    indelible_tls::pki_types::UnixTime::now().as_secs().try_into().unwrap()
}

/// The certificate and key of a node, from its data folder.
pub fn identity_of(node: &LocalNode) -> Issued {
    let read = |name| std::fs::read_to_string(node.data_dir.join("tls").join(name)).unwrap();
    Issued { cert_pem: read("node.crt"), key_pem: read("node.key").into() }
}

fn config(who: Option<&Issued>, protocol: &str) -> Arc<ClientConfig> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer));
    let mut config = match who {
        None => config.with_no_client_auth(),
        Some(issued) => {
            let chain = CertificateDer::pem_slice_iter(issued.cert_pem.as_bytes());
            let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
            let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
            config.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    Arc::new(config)
}

/// A connection from 127.0.0.`host`.
pub async fn tcp_from(host: u8, addr: &str) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), 0)))?;
    socket.connect(addr.parse().unwrap()).await
}

/// TLS, as whoever `who` says.
pub async fn tls(
    addr: &str,
    who: Option<&Issued>,
    protocol: &str,
) -> io::Result<TlsStream<TcpStream>> {
    tls_over(TcpStream::connect(addr).await?, who, protocol).await
}

pub async fn tls_over(
    stream: TcpStream,
    who: Option<&Issued>,
    protocol: &str,
) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from("127.0.0.1").unwrap();
    TlsConnector::from(config(who, protocol)).connect(name, stream).await
}

/// Whether a port lets somebody in, who then hears something; or what it says instead. In TLS 1.3 a
/// refusal comes after the client's own handshake is done.
pub async fn greets(addr: &str, who: Option<&Issued>, protocol: &str) -> Result<(), String> {
    match TcpStream::connect(addr).await {
        Ok(stream) => greets_over(stream, who, protocol).await,
        Err(error) => Err(error.to_string()),
    }
}

/// The same on a connection that is open already.
pub async fn greets_over(
    stream: TcpStream,
    who: Option<&Issued>,
    protocol: &str,
) -> Result<(), String> {
    let greeting = async {
        let mut stream = tls_over(stream, who, protocol).await?;
        match protocol {
            H2 => stream.write_all(PREFACE).await?,
            _ => stream.write_all(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n").await?,
        }
        match stream.read(&mut [0; 1024]).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    };
    within(PATIENCE, "a greeting or a refusal", greeting)
        .await
        .map_err(|error: io::Error| error.to_string())
}

/// Waits until a port lets somebody in, or until it does not: certificates are read now and then.
pub async fn until_greets(addr: &str, who: Option<&Issued>, wanted: bool) -> String {
    eventually(&format!("{addr} lets in: {wanted}"), || async {
        match greets(addr, who, H2).await {
            Ok(()) => wanted.then(String::new),
            // Not one that ends just now: the next attempt is told why.
            Err(refusal) => (!wanted && !refusal.contains("close_notify")).then_some(refusal),
        }
    })
    .await
}

/// The certificate that a port shows, as DER.
pub async fn shown(addr: &str, who: Option<&Issued>) -> Vec<u8> {
    let stream = tls(addr, who, H2).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

/// The first certificate of a file, as DER.
pub fn der(path: &Path) -> Vec<u8> {
    CertificateDer::from_pem_file(path).unwrap().to_vec()
}

/// Reads until the other end closes. Returns the bytes; an error of the connection is an end too.
pub async fn drained<S: AsyncRead + Unpin>(what: &str, limit: Duration, mut from: S) -> Vec<u8> {
    let mut bytes = Vec::new();
    within(limit, what, async { while from.read_buf(&mut bytes).await.is_ok_and(|n| n > 0) {} })
        .await;
    bytes
}

/// An HTTP/2 connection that sends what it likes.
pub struct Attacker {
    pub send: h2::client::SendRequest<Bytes>,
    session: tokio::task::JoinHandle<Result<(), h2::Error>>,
    /// Streams that stay open; dropping one would reset it.
    open: Vec<h2::RecvStream>,
}

impl Attacker {
    pub async fn connect(addr: &str, who: Option<&Issued>) -> Attacker {
        match Attacker::over(tls(addr, who, H2).await.unwrap()).await {
            Ok(attacker) => attacker,
            Err(error) => environment(format_args!("no HTTP/2 with {addr}: {error}")),
        }
    }

    pub async fn over<S>(stream: S) -> Result<Attacker, h2::Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (send, session) =
            h2::client::Builder::new().enable_push(false).handshake(stream).await?;
        Ok(Attacker { send, session: tokio::spawn(session), open: Vec::new() })
    }

    /// Begins a message of `says` bytes and sends all of it but the last one.
    pub async fn half_sent(&mut self, path: &str, says: u32) -> HalfSent {
        static ZEROS: [u8; 4 << 20] = [0; 4 << 20];
        let mut prefix = vec![0];
        prefix.extend_from_slice(&says.to_be_bytes());
        let mut half = self.begin(path, prefix.into(), false).await.unwrap();
        let rest = Bytes::from_static(&ZEROS[..says as usize - 1]);
        // It may have been refused by now.
        let _ = half.body.send_data(rest, false);
        half
    }

    /// Begins a request that has this in its body, and is over or not.
    pub async fn begin(
        &mut self,
        path: &str,
        bytes: Bytes,
        over: bool,
    ) -> Result<HalfSent, h2::Error> {
        let ready = self.send.clone().ready();
        let mut send = within(PATIENCE, "there is room for one more request", ready).await?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("https://node.indelible{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        let (answer, mut body) = send.send_request(request.body(()).unwrap(), false)?;
        // It may have been refused already: then its answer says so.
        let _ = body.send_data(bytes, over);
        Ok(HalfSent { answer, body })
    }

    /// Makes a call with an empty message, and returns its gRPC status.
    pub async fn call(&mut self, path: &str) -> Result<i32, String> {
        let empty = Bytes::from_static(&[0; 5]);
        self.begin(path, empty, true).await.map_err(|error| error.to_string())?.status().await
    }

    /// Keeps a stream open as long as the connection.
    pub fn keep(&mut self, stream: h2::RecvStream) {
        self.open.push(stream);
    }

    /// Whether the connection has ended.
    pub fn is_over(&self) -> bool {
        self.session.is_finished()
    }

    /// Waits until the other end has ended the connection.
    pub async fn ended(self, what: &str) {
        // The session goes on as long as somebody could send.
        let Attacker { send, session, open } = self;
        let _ = within(PATIENCE, what, session).await.unwrap();
        drop((send, open));
    }
}

/// A request that is never complete.
pub struct HalfSent {
    answer: h2::client::ResponseFuture,
    /// Dropping it would reset the stream.
    body: h2::SendStream<Bytes>,
}

impl HalfSent {
    /// The body of the answer.
    pub async fn opened(self) -> h2::RecvStream {
        self.answer.await.unwrap().into_body()
    }

    /// The gRPC status that ends it; what happened, if its stream or connection is just cut.
    pub async fn status(self) -> Result<i32, String> {
        within(PATIENCE, "an answer to half a message", self.status_at_last()).await
    }

    async fn status_at_last(self) -> Result<i32, String> {
        // The body is kept until then.
        let HalfSent { answer, body: _body } = self;
        let answer = answer.await.map_err(|error| format!("no answer: {error}"))?;
        let code = |headers: &HeaderMap| headers.get("grpc-status")?.to_str().ok()?.parse().ok();
        if let Some(code) = code(answer.headers()) {
            return Ok(code);
        }
        let mut body = answer.into_body();
        while let Some(Ok(_)) = body.data().await {}
        let trailers = body.trailers().await.map_err(|error| format!("no trailers: {error}"))?;
        trailers.as_ref().and_then(code).ok_or_else(|| "no status".into())
    }
}

/// One frame (RFC 9113, 4.1).
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The whole frames of what was read: kind and payload.
pub fn frames(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut frames = Vec::new();
    while bytes.len() >= 9 {
        let length =
            usize::from(bytes[0]) << 16 | usize::from(bytes[1]) << 8 | usize::from(bytes[2]);
        let Some(payload) = bytes.get(9..9 + length) else { break };
        frames.push((bytes[3], payload));
        bytes = &bytes[9 + length..];
    }
    frames
}

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// The headers of a gRPC call, compressed in no way (RFC 7541, 6.2.2).
pub fn headers(path: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x87];
    for (name, value) in [
        (":path", path),
        (":authority", "node.indelible"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    }
    block
}

/// A number in a node's metrics; 0 if nothing was counted.
pub async fn metric(node: &LocalNode, name: &str) -> f64 {
    let addr = node.probe_addr.clone();
    let answer = tokio::task::spawn_blocking(move || crate::http::get(&addr, "/metrics"));
    let text = answer.await.unwrap().text();
    let line = text.lines().find(|line| line.starts_with(name) && !line.starts_with('#'));
    line.map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

/// Connections that a port has refused or closed for a reason.
pub async fn refused(node: &LocalNode, port: &str, why: &str) -> f64 {
    let name = format!("indelible_refused_connections_total{{port=\"{port}\",why=\"{why}\"}}");
    metric(node, &name).await
}

/// The most memory that a node has had, in MiB.
pub fn memory_peak_mib(node: &LocalNode) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid().unwrap())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}
