//! Somebody who answers at a raft port: with any certificate, and any key.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use indelible::storage::identity::Identity;
use indelible_lineage::Lineage;
use indelible_proto::raft as pb;
use indelible_proto::raft::append_response::Result as Answer;
use indelible_proto::raft::raft_server::{Raft, RaftServer};
use indelible_tls::exporter_of_server;
use indelible_tls::issue::Issued;
use indelible_tls::rustls::ServerConfig;
use indelible_tls::rustls::version::TLS13;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};

use super::any_server::provider;
use super::stranger::parse;
use crate::thief::{LAST_LOG_INDEX, first_boot, last_draw, promise, prove, signed};

/// It answers for as long as this lives.
pub struct Impostor {
    pub addr: String,
    /// How many votes and entries it has answered.
    pub answers: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl Impostor {
    /// Listens at `addr` as the node of this identity. To whoever asks for a vote or sends entries,
    /// it says that it knows of this vote.
    pub async fn start(
        addr: &str,
        certificate: &Issued,
        identity: Identity,
        boots: Lineage,
        vote: pb::Vote,
    ) -> Impostor {
        let answers = Arc::new(AtomicU64::new(0));
        let liar = Liar { identity, boots, vote, answers: answers.clone(), refuses: None };
        Impostor::serve(addr, certificate, liar).await
    }

    /// Listens at `addr` and refuses whoever introduces itself.
    pub async fn refusing(
        addr: &str,
        certificate: &Issued,
        identity: Identity,
        reason: &'static str,
    ) -> Impostor {
        let (answers, vote) = Default::default();
        let boots = first_boot(&identity);
        let liar = Liar { identity, boots, vote, answers, refuses: Some(reason) };
        Impostor::serve(addr, certificate, liar).await
    }

    async fn serve(addr: &str, certificate: &Issued, node: Liar) -> Impostor {
        let answers = node.answers.clone();
        let (chain, key) = parse(certificate);
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_no_client_auth();
        let mut config = config.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let listener = TcpListener::bind(addr).await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let (send, accepted) = mpsc::channel(16);
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, TlsAcceptor::from(Arc::new(config)), send));
        let server = Server::builder().add_service(RaftServer::new(node));
        tasks.spawn(async move {
            server.serve_with_incoming(ReceiverStream::new(accepted)).await.unwrap();
        });
        Impostor { addr, answers, _tasks: tasks }
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    send: mpsc::Sender<io::Result<Accepted>>,
) {
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        let (acceptor, send) = (acceptor.clone(), send.clone());
        tokio::spawn(async move {
            // Whoever does not like the certificate is gone.
            let Ok(stream) = acceptor.accept(tcp).await else { return };
            let binding = exporter_of_server(stream.get_ref().1).unwrap();
            let _ = send.send(Ok(Accepted { stream, binding })).await;
        });
    }
}

struct Liar {
    identity: Identity,
    boots: Lineage,
    vote: pb::Vote,
    answers: Arc<AtomicU64>,
    refuses: Option<&'static str>,
}

impl Liar {
    fn vote(&self) -> pb::Vote {
        self.answers.fetch_add(1, Ordering::Relaxed);
        self.vote
    }

    fn refuse(&self) -> pb::VoteResponse {
        pb::VoteResponse { vote: Some(self.vote()), granted: false, last_log_id: None }
    }
}

#[tonic::async_trait]
impl Raft for Liar {
    async fn handshake(
        &self,
        request: Request<pb::Hello>,
    ) -> Result<Response<pb::Welcome>, Status> {
        if let Some(reason) = self.refuses {
            return Err(Status::permission_denied(reason));
        }
        let Binding(binding) = request.extensions().get::<Binding>().unwrap();
        let proof = prove(&self.identity, &self.boots, request.get_ref().from, *binding);
        Ok(Response::new(pb::Welcome {
            public_key: Bytes::copy_from_slice(&self.identity.public_key),
            boot: Some(signed(&self.identity, &self.boots)),
            empty: false,
            last_log_index: LAST_LOG_INDEX,
            proof,
            promise: Some(promise()),
            draws: last_draw(&self.boots),
            admitted: true,
            ..Default::default()
        }))
    }

    async fn refuse(
        &self,
        _: Request<pb::Refused>,
    ) -> Result<Response<pb::RefuseResponse>, Status> {
        Err(Status::unimplemented("an impostor"))
    }

    async fn ping(
        &self,
        _: Request<pb::PingRequest>,
    ) -> Result<Response<pb::PingResponse>, Status> {
        Err(Status::unimplemented("an impostor"))
    }

    type AppendStream = Pin<Box<dyn Stream<Item = Result<pb::AppendResponse, Status>> + Send>>;

    async fn append(
        &self,
        request: Request<Streaming<pb::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let result = Some(Answer::HigherVote(self.vote()));
        let answer = pb::AppendResponse { result, ..Default::default() };
        let answers = request.into_inner().map(move |message| message.map(|_| answer));
        Ok(Response::new(Box::pin(answers)))
    }

    async fn vote(
        &self,
        _: Request<pb::VoteRequest>,
    ) -> Result<Response<pb::VoteResponse>, Status> {
        Ok(Response::new(self.refuse()))
    }

    async fn pre_vote(
        &self,
        _: Request<pb::VoteRequest>,
    ) -> Result<Response<pb::VoteResponse>, Status> {
        Ok(Response::new(self.refuse()))
    }

    async fn transfer_leader(
        &self,
        _: Request<pb::TransferLeaderRequest>,
    ) -> Result<Response<pb::TransferLeaderResponse>, Status> {
        Err(Status::unimplemented("an impostor"))
    }

    async fn read_index(
        &self,
        _: Request<pb::ReadIndexRequest>,
    ) -> Result<Response<pb::ReadIndexResponse>, Status> {
        Err(Status::unimplemented("an impostor"))
    }

    async fn record_finding(
        &self,
        _: Request<pb::RecordFindingRequest>,
    ) -> Result<Response<pb::RecordFindingResponse>, Status> {
        Err(Status::unimplemented("an impostor"))
    }

    async fn clock(
        &self,
        _: Request<pb::ClockRequest>,
    ) -> Result<Response<pb::ClockResponse>, Status> {
        Err(Status::unimplemented("an impostor"))
    }
}

/// What a proof on a connection is bound to.
#[derive(Clone)]
struct Binding([u8; 32]);

struct Accepted {
    stream: TlsStream<TcpStream>,
    binding: [u8; 32],
}

impl Connected for Accepted {
    type ConnectInfo = Binding;

    fn connect_info(&self) -> Binding {
        Binding(self.binding)
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
