//! One connection to one peer: made on demand, opened by the handshake, dropped on the first sign
//! of trouble.

use std::sync::Arc;
use std::time::Duration;

use indelible_core::limits::RAFT_MESSAGE_BYTES_MAX;
use indelible_lineage::Boot;
use indelible_proto::raft as pb;
use indelible_proto::raft::publication_client::PublicationClient;
use indelible_proto::raft::raft_client::RaftClient;
use prost::Message;
use tokio::time::Instant;
use tonic::{Code, Request, Status};

use super::peers::{Asked, Peers, Refusal};
use super::slot::SharedSlot;
use crate::net::dial::{DialError, OneConnection, dial, tls_error};
use crate::net::{Credentials, Security};

/// HTTP/2 windows: several replication requests must fit, or the pipeline stalls on a round trip.
pub const STREAM_WINDOW_BYTES: u32 = 8 * 1024 * 1024;

/// How long one attempt at a connection may take, however little time its callers have: TCP, TLS
/// and the handshake are four round trips, and the peer writes to its disk.
const DIAL: Duration = Duration::from_secs(5);

/// How long a peer has to take the news that it is not admitted.
const REFUSE: Duration = Duration::from_secs(1);

/// How long an earlier boot of a node has to answer before a later one is admitted: the longest
/// election timeout by default. One that answers later has lost its followers by then.
const PING: Duration = Duration::from_millis(600);

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
    /// One of the two does not take the other's certificate.
    #[error("node {node} at {addr}: {reason}")]
    Tls {
        /// Whom.
        node: u64,
        /// Where.
        addr: String,
        /// What rustls said.
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

impl LinkError {
    /// Of another port than the raft port.
    pub(super) fn of_port(node: u64, port: &str, addr: &str, error: &DialError) -> LinkError {
        let (addr, reason) = (addr.to_owned(), format!("{port}: {error}"));
        match error {
            DialError::Tls(_) => LinkError::Tls { node, addr, reason },
            DialError::OtherNode(_) => LinkError::Refused { node, addr, reason },
            DialError::Unreachable(_) | DialError::Http2(_) => {
                LinkError::Unreachable { node, addr, reason }
            }
        }
    }
}

/// A shared connection to one peer. Cheap to clone.
#[derive(Clone)]
pub struct Link(Arc<Shared>);

struct Shared {
    peers: Arc<Peers>,
    credentials: Credentials,
    node: u64,
    addr: String,
    slot: SharedSlot<Connected>,
}

/// A connection on which both ends have proved who they are. It ends with the connection: the next
/// one begins with a handshake of its own.
#[derive(Clone)]
pub struct Open {
    serial: u64,
    connected: Connected,
}

/// What one handshake has made.
#[derive(Clone)]
struct Connected {
    client: RaftClient<OneConnection>,
    publication: PublicationClient<OneConnection>,
    welcome: pb::Welcome,
}

impl Open {
    /// Which connection of its link this is.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// What the peer said of itself.
    pub fn welcome(&self) -> &pb::Welcome {
        &self.connected.welcome
    }

    /// The client, and its request.
    pub fn request<T>(&self, message: T) -> (RaftClient<OneConnection>, Request<T>) {
        (self.connected.client.clone(), Request::new(message))
    }

    /// As [`Self::request`], for the service that checkpoints travel by.
    pub fn publication<T>(&self, message: T) -> (PublicationClient<OneConnection>, Request<T>) {
        (self.connected.publication.clone(), Request::new(message))
    }
}

impl Link {
    /// To `node` at `addr`; nothing is sent yet.
    pub fn new(peers: Arc<Peers>, credentials: Credentials, node: u64, addr: String) -> Self {
        Link(Arc::new(Shared { peers, credentials, node, addr, slot: SharedSlot::default() }))
    }

    /// The open connection, or a new one within `timeout`. An attempt that takes longer goes on
    /// without this caller, for the next one.
    pub async fn open(&self, timeout: Duration) -> Result<Open, LinkError> {
        if self.0.peers.is_removed(self.0.node) {
            self.0.slot.clear();
            return Err(self.refused("it was removed from the group".into()));
        }
        // Since the handshake a later boot may have been admitted, or a membership have come.
        self.0.slot.forget_unless(|connected| self.0.peers.holds(self.0.node, &connected.welcome));
        let link = self.clone();
        let dial = move || async move {
            let attempt = tokio::time::timeout(DIAL, link.connect()).await;
            let late = |_| Err(link.unreachable(format!("no connection in {DIAL:?}")));
            attempt.unwrap_or_else(late)
        };
        match self.0.slot.open(timeout, dial).await {
            Some(opened) => opened.map(|(serial, connected)| Open { serial, connected }),
            None => Err(self.unreachable(format!("no answer in {timeout:?}"))),
        }
    }

    /// Forgets the connection with this serial number: the next call makes a new one.
    pub fn close(&self, serial: u64) {
        self.0.slot.forget(serial);
    }

    /// Forgets the connection with this serial number and says why, after a call on it failed.
    pub fn failed(&self, serial: u64, status: &Status) -> LinkError {
        self.close(serial);
        self.unreachable(format!("{:?}: {}", status.code(), status.message()))
    }

    /// An error of this link.
    pub fn unreachable(&self, reason: String) -> LinkError {
        LinkError::Unreachable { node: self.0.node, addr: self.0.addr.clone(), reason }
    }

    async fn connect(&self) -> Result<Connected, LinkError> {
        let began = Instant::now();
        let dialed = match dial(&self.0.addr, &self.0.credentials, STREAM_WINDOW_BYTES).await {
            Ok(dialed) => dialed,
            Err(error @ DialError::Tls(_)) => return Err(self.no_tls(error.to_string())),
            Err(error) => return Err(self.unreachable(error.to_string())),
        };
        let (channel, origin) = (dialed.channel, OneConnection::origin());
        let publication = PublicationClient::with_origin(channel.clone(), origin.clone())
            .max_decoding_message_size(RAFT_MESSAGE_BYTES_MAX);
        let mut client = RaftClient::with_origin(channel, origin)
            .max_decoding_message_size(RAFT_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(RAFT_MESSAGE_BYTES_MAX);
        let mut asked = Asked::default();
        for _message in 0..self.0.peers.messages_max() {
            let hello = self.0.peers.hello(self.0.node, dialed.security.binding(), asked);
            let welcome = match client.handshake(hello).await {
                Ok(welcome) => welcome.into_inner(),
                Err(status) => return Err(self.not_welcome(&status, &dialed.security)),
            };
            self.0.credentials.shaken(&self.0.addr, None);
            let theirs_after = self.check(&mut client, &welcome, &dialed.security, began).await?;
            asked = Asked { ours_after: welcome.draws_after, theirs_after };
            if welcome.draws_after.is_some() || theirs_after.is_some() {
                continue;
            }
            self.0.peers.set_refused_by(self.0.node, None);
            if welcome.admitted {
                self.0.peers.set_admitted();
            }
            return Ok(Connected { client, publication, welcome });
        }
        Err(self.refused("it asks for more boots than there are".into()))
    }

    /// Checks what the peer said of itself. A peer that is not admitted is told why: it may have
    /// nobody to ask.
    async fn check(
        &self,
        client: &mut RaftClient<OneConnection>,
        welcome: &pb::Welcome,
        security: &Security,
        began: Instant,
    ) -> Result<Option<u64>, LinkError> {
        match self.0.peers.check_welcome(self.0.node, welcome, security, began).await {
            Ok(after) => Ok(after),
            Err(refusal @ Refusal::Again { .. }) => Err(self.unreachable(refusal.to_string())),
            Err(refusal) => {
                if let Some(shown) = refusal.shown() {
                    // If it does not hear it, it is told at the next attempt.
                    let _ = tokio::time::timeout(REFUSE, client.refuse(shown)).await;
                }
                Err(self.refused(refusal.to_string()))
            }
        }
    }

    /// The peer has not answered the handshake with a welcome.
    fn not_welcome(&self, status: &Status, security: &Security) -> LinkError {
        if status.code() == Code::PermissionDenied {
            let reason = readable(status.message());
            // It proves nothing by that: its certificate has to name it at least.
            let named = security.peer().map(|peer| peer.name.node_id());
            let is_its_own = named.is_none_or(|named| named == Some(self.0.node));
            if is_its_own && self.0.peers.set_refused_by(self.0.node, Some(reason.clone())) {
                tracing::error!(by = self.0.node, %reason, "a peer refuses this node");
            }
            if is_its_own && let Ok(refused) = pb::Refused::decode(status.details()) {
                self.0.peers.refused_with(self.0.node, &refused);
            }
            return self.refused(reason);
        }
        // With TLS 1.3 a peer refuses a certificate after this side's handshake is over.
        match tls_error(status) {
            Some(error) => {
                let reason = format!("TLS: {error}");
                self.0.credentials.shaken(&self.0.addr, Some(reason.clone()));
                self.no_tls(reason)
            }
            None => self.unreachable(status.message().to_owned()),
        }
    }

    /// Whether the process with this boot, to which there is a connection, still answers on it.
    pub(super) async fn answers(&self, boot: Boot) -> bool {
        let Some((_, connected)) = self.0.slot.current() else { return false };
        let theirs = connected.welcome.boot.as_ref().map(|theirs| &theirs.hash[..]);
        if theirs != Some(&boot.hash[..]) {
            return false;
        }
        let mut client = connected.client;
        match tokio::time::timeout(PING, client.ping(pb::PingRequest {})).await {
            Ok(Ok(_)) => true,
            // It is there, and does not know this node any more.
            Ok(Err(status)) => status.code() == Code::Unauthenticated,
            Err(_) => false,
        }
    }

    fn no_tls(&self, reason: String) -> LinkError {
        LinkError::Tls { node: self.0.node, addr: self.0.addr.clone(), reason }
    }

    /// The peer is not who it should be.
    pub fn refused(&self, reason: String) -> LinkError {
        LinkError::Refused { node: self.0.node, addr: self.0.addr.clone(), reason }
    }
}

/// What a peer says, for people: of bounded length, in one line.
fn readable(text: &str) -> String {
    /// Enough for every refusal of this program, in characters.
    const LENGTH_MAX: usize = 500;
    text.chars().filter(|char| !char.is_control()).take(LENGTH_MAX).collect()
}
