//! The asking side: questions to one peer, answered by whoever listens there. Nothing in an answer
//! is believed before it was checked against what this node has.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use indelible_core::limits::{MENDING_SEGMENTS_MAX, RAFT_MESSAGE_BYTES_MAX};
use indelible_core::{Chain, Entry, TrailId};
use indelible_proto::raft as pb;
use indelible_proto::raft::mending_client::MendingClient;
use tonic::Status;

use super::standing::{Sealed, Standing};
use crate::net::dial::{DialError, OneConnection, dial};
use crate::net::{Credentials, Security};
use crate::raft::link::STREAM_WINDOW_BYTES;
use crate::raft::refusal::says_removed;
use crate::raft::wire;

/// How long a peer may take to accept a connection and to begin an answer.
const ANSWER: Duration = Duration::from_secs(3);
/// How long the next part of a stream may take: the peer reads it from a disk that may be slow.
const NEXT_PART: Duration = Duration::from_secs(20);

/// How long all of a peer's segments may take: some 10,000 an answer of a few milliseconds.
const SEGMENTS: Duration = Duration::from_secs(60);

/// Why a peer gave no answer that can be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AskError {
    /// Nobody answers there, or not in time, or not yet.
    #[error("no answer: {0}")]
    Unreachable(String),
    /// It will not talk to this node, or what it says makes no sense.
    #[error("{0}")]
    Refused(String),
    /// It will not talk to this node, because that was removed from the group.
    #[error("{0}")]
    Removed(String),
}

impl From<Status> for AskError {
    fn from(status: Status) -> Self {
        use tonic::Code;
        let message = format!("{:?}: {}", status.code(), status.message());
        match status.code() {
            Code::Unavailable | Code::Unknown | Code::DeadlineExceeded | Code::Cancelled => {
                AskError::Unreachable(message)
            }
            Code::ResourceExhausted => AskError::Unreachable(message),
            Code::PermissionDenied if says_removed(&status) => AskError::Removed(message),
            _ => AskError::Refused(message),
        }
    }
}

/// Asks in the name of one node.
#[derive(Clone)]
pub struct Asker {
    /// The trail; peers of another one do not answer.
    pub trail_id: TrailId,
    /// Who asks.
    pub node_id: u64,
    /// Its certificates: only nodes are answered.
    pub credentials: Credentials,
}

/// Entries of a peer with their links, in order of index. Nothing about them is checked yet: not
/// their commitments, which take time, and not whether they are the ones that belong there.
pub type Entries = BoxStream<'static, Result<(Entry, Chain), AskError>>;

impl Asker {
    /// How far the log of node `node` at `addr` goes. There is an index after its last entry.
    pub async fn standing(&self, node: u64, addr: &str) -> Result<Standing, AskError> {
        let standing = self.standing_and_notes(node, addr).await.map(Standing::from_pb)?;
        match standing.last {
            Some(last) if last.index == u64::MAX => {
                Err(AskError::Refused("no log has so many entries".into()))
            }
            _ => Ok(standing),
        }
    }

    /// As [`Self::standing`], with all that its notes say to this node.
    pub async fn standing_and_notes(
        &self,
        node: u64,
        addr: &str,
    ) -> Result<pb::StandingResponse, AskError> {
        let request = pb::StandingRequest { trail_id: self.trail(), node_id: self.node_id };
        let ask = async {
            let (mut client, named) = self.connect(addr).await?;
            // What another node says, a refusal too, must not count as this one's.
            check_node(node, named.unwrap_or(node))?;
            let answer = client.standing(request).await?.into_inner();
            check_node(node, answer.node_id)?;
            Ok(answer)
        };
        within(ANSWER, ask).await
    }

    /// What the node at `addr` knows of its sealed segments, of those that start with one of
    /// these entries.
    pub async fn segments(
        &self,
        addr: &str,
        firsts: &BTreeSet<u64>,
    ) -> Result<Vec<Sealed>, AskError> {
        within(SEGMENTS, self.all_segments(addr, firsts)).await
    }

    async fn all_segments(
        &self,
        addr: &str,
        firsts: &BTreeSet<u64>,
    ) -> Result<Vec<Sealed>, AskError> {
        let mut client = within(ANSWER, self.connect(addr)).await?.0;
        let mut found: Vec<Sealed> = Vec::new();
        let mut from = 0;
        // It may have more than this node, and it may make them up: only ours are kept.
        while firsts.range(from..).next().is_some() {
            let request =
                pb::SegmentsRequest { trail_id: self.trail(), node_id: self.node_id, from };
            let ask = async {
                let answer = client.segments(request).await.map_err(AskError::from)?;
                Ok(answer.into_inner().segments)
            };
            let part = within(ANSWER, ask).await?;
            for segment in &part {
                let segment = Sealed::from_pb(segment)?;
                if segment.first < from || segment.first >= segment.next {
                    return Err(AskError::Refused("its segments do not follow each other".into()));
                }
                from = segment.next;
                found.extend(firsts.contains(&segment.first).then_some(segment));
            }
            if part.len() < MENDING_SEGMENTS_MAX {
                break;
            }
        }
        Ok(found)
    }

    /// Entries `from..to` of the node at `addr`, in order, without those that it lacks.
    pub async fn entries(&self, addr: &str, from: u64, to: u64) -> Result<Entries, AskError> {
        let request =
            pb::EntriesRequest { trail_id: self.trail(), node_id: self.node_id, from, to };
        let ask = async {
            let (mut client, _) = self.connect(addr).await?;
            let parts = client.entries(request).await?.into_inner();
            Ok((client, parts))
        };
        let opened = within(ANSWER, ask).await?;
        // The client is kept: with the last one goes the look at the peer's certificate.
        let parts = futures_util::stream::try_unfold(opened, |(client, mut parts)| async move {
            let next = async { parts.message().await.map_err(AskError::from) };
            let part = within(NEXT_PART, next).await?;
            if part.as_ref().is_some_and(|part| part.entries.is_empty()) {
                return Err(AskError::Refused("a part without entries".into()));
            }
            Ok(part.map(|part| (part, (client, parts))))
        });
        let entries = parts.map_ok(|part| futures_util::stream::iter(decode(part))).try_flatten();
        let mut next = from;
        Ok(entries
            .map(move |entry| {
                let (entry, chain) = entry?;
                let index = entry.id.index;
                if index < next || index >= to {
                    return Err(AskError::Refused("its entries are not those asked for".into()));
                }
                next = index + 1;
                Ok((entry, chain))
            })
            .boxed())
    }

    fn trail(&self) -> Bytes {
        Bytes::copy_from_slice(&self.trail_id.0)
    }

    /// A connection, and which node its certificate names.
    async fn connect(
        &self,
        addr: &str,
    ) -> Result<(MendingClient<OneConnection>, Option<u64>), AskError> {
        let dialed =
            dial(addr, &self.credentials, STREAM_WINDOW_BYTES).await.map_err(
                |error| match error {
                    DialError::Tls(_) | DialError::OtherNode(_) => {
                        AskError::Refused(error.to_string())
                    }
                    DialError::Unreachable(_) | DialError::Http2(_) => {
                        AskError::Unreachable(error.to_string())
                    }
                },
            )?;
        let named = Security::peer(&dialed.security).and_then(|peer| peer.name.node_id());
        let client = MendingClient::with_origin(dialed.channel, OneConnection::origin())
            .max_decoding_message_size(RAFT_MESSAGE_BYTES_MAX);
        Ok((client, named))
    }
}

async fn within<T>(
    limit: Duration,
    ask: impl Future<Output = Result<T, AskError>>,
) -> Result<T, AskError> {
    let late = |_| Err(AskError::Unreachable(format!("nothing in {limit:?}")));
    tokio::time::timeout(limit, ask).await.unwrap_or_else(late)
}

/// Addresses may be mixed up: what another node says must not count as this one's.
fn check_node(wanted: u64, answers: u64) -> Result<(), AskError> {
    if wanted == answers {
        return Ok(());
    }
    Err(AskError::Refused(format!("node {answers} answers at the address of node {wanted}")))
}

/// The entries of one message.
fn decode(part: pb::EntriesResponse) -> Vec<Result<(Entry, Chain), AskError>> {
    let refused = |what: &str| AskError::Refused(what.to_owned());
    if part.chains.len() != part.entries.len() * Chain::SIZE {
        return vec![Err(refused("not one link for each entry"))];
    }
    let chains = part.chains.chunks_exact(Chain::SIZE);
    let pairs = part.entries.into_iter().zip(chains);
    pairs
        .map(|(entry, chain)| {
            let entry = wire::entry_from_pb(entry)?;
            let chain = Chain::from_slice(chain).ok_or_else(|| refused("a link of odd size"))?;
            Ok((entry, chain))
        })
        .collect()
}
