//! One connection to one peer: made on demand, opened by the handshake, dropped on the first sign
//! of trouble.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use indelible_core::limits::RAFT_MESSAGE_BYTES_MAX;
use indelible_proto::raft as pb;
use indelible_proto::raft::publication_client::PublicationClient;
use indelible_proto::raft::raft_client::RaftClient;
use tokio::sync::Mutex;
use tonic::metadata::{BinaryMetadataValue, MetadataMap};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::peers::Peers;

/// Metadata key of the session that a handshake gave out.
pub(super) const SESSION_KEY: &str = "indelible-session-bin";
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
    node: u64,
    addr: String,
    open: Mutex<Option<Open>>,
}

/// A connection that the handshake has opened.
#[derive(Clone)]
pub struct Open {
    client: RaftClient<Channel>,
    publication: PublicationClient<Channel>,
    session: BinaryMetadataValue,
    /// What the peer said of itself.
    pub welcome: pb::Welcome,
}

impl Open {
    /// The client, and a request that carries the session.
    pub fn request<T>(&self, message: T) -> (RaftClient<Channel>, Request<T>) {
        (self.client.clone(), self.with_session(message))
    }

    /// As [`Self::request`], for the service that checkpoints travel by.
    pub fn publication<T>(&self, message: T) -> (PublicationClient<Channel>, Request<T>) {
        (self.publication.clone(), self.with_session(message))
    }

    fn with_session<T>(&self, message: T) -> Request<T> {
        let mut metadata = MetadataMap::new();
        metadata.insert_bin(SESSION_KEY, self.session.clone());
        Request::from_parts(metadata, Default::default(), message)
    }
}

impl Link {
    /// To `node` at `addr`; nothing is sent yet.
    pub fn new(peers: Arc<Peers>, node: u64, addr: String) -> Self {
        Link { peers, node, addr, open: Mutex::new(None) }
    }

    /// The open connection, or a new one within `timeout`.
    pub async fn open(&self, timeout: Duration) -> Result<Open, LinkError> {
        let open = async {
            let mut slot = self.open.lock().await;
            if let Some(open) = slot.as_ref() {
                return Ok(open.clone());
            }
            let open = self.connect(timeout).await?;
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

    async fn connect(&self, timeout: Duration) -> Result<Open, LinkError> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.addr))
            .map_err(|error| self.unreachable(error.to_string()))?
            .connect_timeout(timeout)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(2 * STREAM_WINDOW_BYTES);
        let channel = endpoint.connect().await.map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            self.unreachable(cause.unwrap_or_else(|| error.to_string()))
        })?;
        let publication = PublicationClient::new(channel.clone())
            .max_decoding_message_size(RAFT_MESSAGE_BYTES_MAX);
        let mut client = RaftClient::new(channel)
            .max_decoding_message_size(RAFT_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(RAFT_MESSAGE_BYTES_MAX);
        let welcome = match client.handshake(self.peers.hello(self.node)).await {
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
        if let Err(refusal) = self.peers.check_welcome(self.node, &welcome).await {
            return Err(self.refused(refusal.to_string()));
        }
        let session = session_value(&welcome.session);
        Ok(Open { client, publication, session, welcome })
    }

    fn refused(&self, reason: String) -> LinkError {
        LinkError::Refused { node: self.node, addr: self.addr.clone(), reason }
    }
}

fn session_value(session: &Bytes) -> BinaryMetadataValue {
    BinaryMetadataValue::from_bytes(session)
}
