//! One connection to one peer: made on demand, opened by the handshake, dropped on the first sign
//! of trouble.

use std::sync::Arc;
use std::time::Duration;

use indelible_core::limits::RAFT_MESSAGE_BYTES_MAX;
use indelible_proto::raft as pb;
use indelible_proto::raft::publication_client::PublicationClient;
use indelible_proto::raft::raft_client::RaftClient;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tonic::{Code, Request, Status};

use super::peers::Peers;
use crate::net::Credentials;
use crate::net::dial::{OneConnection, dial};

/// HTTP/2 windows: several replication requests must fit, or the pipeline stalls on a round trip.
pub const STREAM_WINDOW_BYTES: u32 = 8 * 1024 * 1024;

/// Why there is no connection.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LinkError {
    /// Nobody answers there, or not in time.
    #[error("node {node} at {addr}: {reason}")]
    Unreachable {
        /// Whom.
        node: u64,
        /// Where.
        addr: String,
        /// What the transport said.
        reason: String,
    },
    /// The peer is not who it should be, or will not talk to this node.
    #[error("node {node} at {addr}: {reason}")]
    Refused {
        /// Whom.
        node: u64,
        /// Where.
        addr: String,
        /// What one of the two said.
        reason: String,
    },
}

/// A shared connection to one peer.
pub struct Link {
    peers: Arc<Peers>,
    credentials: Credentials,
    node: u64,
    addr: String,
    open: Mutex<Option<Open>>,
}

/// A connection on which both ends have proved who they are. It ends with the connection: the next
/// one begins with a handshake of its own.
#[derive(Clone)]
pub struct Open {
    client: RaftClient<OneConnection>,
    publication: PublicationClient<OneConnection>,
    /// What the peer said of itself.
    pub welcome: pb::Welcome,
}

impl Open {
    /// The client, and its request.
    pub fn request<T>(&self, message: T) -> (RaftClient<OneConnection>, Request<T>) {
        (self.client.clone(), Request::new(message))
    }

    /// As [`Self::request`], for the service that checkpoints travel by.
    pub fn publication<T>(&self, message: T) -> (PublicationClient<OneConnection>, Request<T>) {
        (self.publication.clone(), Request::new(message))
    }
}

impl Link {
    /// To `node` at `addr`; nothing is sent yet.
    pub fn new(peers: Arc<Peers>, credentials: Credentials, node: u64, addr: String) -> Self {
        Link { peers, credentials, node, addr, open: Mutex::new(None) }
    }

    /// The open connection, or a new one within `timeout`.
    pub async fn open(&self, timeout: Duration) -> Result<Open, LinkError> {
        let open = async {
            let mut slot = self.open.lock().await;
            if self.peers.is_removed(self.node) {
                *slot = None;
                return Err(self.refused("it was removed from the group".into()));
            }
            if let Some(open) = slot.as_ref() {
                return Ok(open.clone());
            }
            let open = self.connect().await?;
            *slot = Some(open.clone());
            Ok(open)
        };
        let late = |_| Err(self.unreachable(format!("no answer in {timeout:?}")));
        tokio::time::timeout(timeout, open).await.unwrap_or_else(late)
    }

    /// Forgets the connection: the next call makes a new one.
    pub async fn close(&self) {
        *self.open.lock().await = None;
    }

    /// Forgets the connection and says why, after a call on it failed.
    pub async fn failed(&self, status: &Status) -> LinkError {
        self.close().await;
        self.unreachable(format!("{:?}: {}", status.code(), status.message()))
    }

    /// An error of this link.
    pub fn unreachable(&self, reason: String) -> LinkError {
        LinkError::Unreachable { node: self.node, addr: self.addr.clone(), reason }
    }

    async fn connect(&self) -> Result<Open, LinkError> {
        let began = Instant::now();
        let dialed = dial(&self.addr, &self.credentials, STREAM_WINDOW_BYTES)
            .await
            .map_err(|error| self.unreachable(error.to_string()))?;
        let (channel, origin) = (dialed.channel, OneConnection::origin());
        let publication = PublicationClient::with_origin(channel.clone(), origin.clone())
            .max_decoding_message_size(RAFT_MESSAGE_BYTES_MAX);
        let mut client = RaftClient::with_origin(channel, origin)
            .max_decoding_message_size(RAFT_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(RAFT_MESSAGE_BYTES_MAX);
        let hello = self.peers.hello(self.node, dialed.security.binding());
        let welcome = match client.handshake(hello).await {
            Ok(welcome) => welcome.into_inner(),
            Err(status) if status.code() == Code::PermissionDenied => {
                let reason = status.message().to_owned();
                if self.peers.set_refused_by(self.node, Some(reason.clone())) {
                    tracing::error!(by = self.node, %reason, "a peer refuses this node");
                }
                return Err(self.refused(reason));
            }
            Err(status) => return Err(self.unreachable(status.message().to_owned())),
        };
        self.peers.set_refused_by(self.node, None);
        if let Err(refusal) =
            self.peers.check_welcome(self.node, &welcome, &dialed.security, began).await
        {
            return Err(self.refused(refusal.to_string()));
        }
        Ok(Open { client, publication, welcome })
    }

    /// The peer is not who it should be.
    pub fn refused(&self, reason: String) -> LinkError {
        LinkError::Refused { node: self.node, addr: self.addr.clone(), reason }
    }
}
