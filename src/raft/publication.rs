//! How checkpoints travel between nodes: both ends of the Publication service.
//!
//! The transport alone: whether to sign a checkpoint and what to make of a note is for
//! `crate::node::publish`, which hands its answers in as [`Handlers`]. Sessions are those of the
//! Raft service, and so are the connections: the ones for short messages.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use indelible_core::limits::RAFT_MESSAGE_BYTES_MAX;
use indelible_proto::raft as pb;
use indelible_proto::raft::publication_server::{Publication, PublicationServer};
use tonic::{Code, Request, Response, Status};

use super::link::{LinkError, Open};
use super::network::Network;
use super::peers::Peers;
use super::service::member;
use super::types::Peer;

/// An answer that is being made.
pub type Answer<T> = Pin<Box<dyn Future<Output = Result<T, Status>> + Send>>;

/// Makes an answer to a message of a node.
pub type Handler<Q, A> = Box<dyn Fn(u64, Q) -> Answer<A> + Send + Sync>;

/// What a node answers its peers.
pub struct Handlers {
    /// Signs a checkpoint, or says why not.
    pub cosign: Handler<pb::CosignRequest, pb::CosignResponse>,
    /// Takes notes.
    pub publish: Handler<pb::PublishRequest, pb::PublishResponse>,
}

/// Answers peers.
#[derive(Clone)]
pub struct PublicationService {
    peers: Arc<Peers>,
    handlers: Arc<Handlers>,
}

impl PublicationService {
    /// Lets in the members of `peers`.
    pub fn new(peers: Arc<Peers>, handlers: Handlers) -> Self {
        PublicationService { peers, handlers: Arc::new(handlers) }
    }

    /// As a tonic service, with the raft port's limits.
    pub fn into_server(self) -> PublicationServer<Self> {
        PublicationServer::new(self).max_decoding_message_size(RAFT_MESSAGE_BYTES_MAX)
    }
}

#[tonic::async_trait]
impl Publication for PublicationService {
    async fn cosign(
        &self,
        request: Request<pb::CosignRequest>,
    ) -> Result<Response<pb::CosignResponse>, Status> {
        let peer = member(&self.peers, &request)?;
        (self.handlers.cosign)(peer, request.into_inner()).await.map(Response::new)
    }

    async fn publish(
        &self,
        request: Request<pb::PublishRequest>,
    ) -> Result<Response<pb::PublishResponse>, Status> {
        let peer = member(&self.peers, &request)?;
        (self.handlers.publish)(peer, request.into_inner()).await.map(Response::new)
    }
}

/// Why a peer gave no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// There is no connection, or it failed.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The peer heard the question and will not, or cannot yet, do what was asked.
    #[error("node {node}: {reason}")]
    Refused {
        /// Whom.
        node: u64,
        /// What it said.
        reason: String,
    },
}

impl Network {
    /// A peer's cosignature over a checkpoint.
    pub async fn cosign(
        &self,
        node: u64,
        peer: &Peer,
        request: pb::CosignRequest,
        timeout: Duration,
    ) -> Result<pb::CosignResponse, CallError> {
        self.publication(node, peer, timeout, |open| async move {
            let (mut client, request) = open.publication(request);
            client.cosign(request).await
        })
        .await
    }

    /// Hands notes to a peer; they are durable there when it answers.
    pub async fn publish(
        &self,
        node: u64,
        peer: &Peer,
        request: pb::PublishRequest,
        timeout: Duration,
    ) -> Result<pb::PublishResponse, CallError> {
        self.publication(node, peer, timeout, |open| async move {
            let (mut client, request) = open.publication(request);
            client.publish(request).await
        })
        .await
    }

    async fn publication<F, R>(
        &self,
        node: u64,
        peer: &Peer,
        timeout: Duration,
        call: impl FnOnce(Open) -> F,
    ) -> Result<R, CallError>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let link = self.control(node, peer);
        let open = link.open(timeout).await?;
        let serial = open.serial();
        match tokio::time::timeout(timeout, call(open)).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) if status.code() == Code::FailedPrecondition => {
                Err(CallError::Refused { node, reason: status.message().to_owned() })
            }
            Ok(Err(status)) => Err(link.failed(serial, &status).into()),
            // NB: the connection stays: votes and heartbeats use it too, and find out by
            // themselves whether it is dead.
            Err(_) => Err(link.unreachable(format!("no answer in {timeout:?}")).into()),
        }
    }
}
