//! The answering side.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;
use futures_util::Stream;
use indelible_core::TrailId;
use indelible_core::limits::{
    MENDING_BYTES_MAX, MENDING_SEGMENTS_MAX, MENDING_STREAMS_MAX, MENDING_STREAMS_OF_A_NODE_MAX,
    RAFT_MESSAGE_BYTES_MAX,
};
use indelible_proto::raft as pb;
use indelible_proto::raft::mending_server::MendingServer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Request, Response, Status};

use super::read::{Part, whole_entries};
use super::standing::{Digests, Sealed, Standing};
use crate::net::Security;
use crate::raft::peers::Peers;
use crate::raft::refusal::Refusal;
use crate::raft::service::connection;
use crate::raft::wire;
use crate::storage::log::{Log, LogError};
use crate::storage::mend::{Fetched, SegmentSource};
use crate::storage::segment::SegmentInfo;

/// A request of this service is a few numbers.
const REQUEST_BYTES_MAX: usize = 4 * 1024;

/// Puts into an answer what this node's notes say to the node that asks. May read the disk.
pub type NoteSource = Arc<dyn Fn(u64, &mut pb::StandingResponse) + Send + Sync>;

/// Where answers come from.
#[derive(Clone)]
pub enum Source {
    /// Nothing is known yet.
    Starting,
    /// The log is closed, and perhaps damaged: the segments as the survey found them.
    Closed {
        /// Steps over what is damaged.
        segments: Arc<SegmentSource>,
        /// What the survey found.
        standing: Standing,
    },
    /// The log is open.
    Open {
        /// The log.
        log: Log,
        /// What the scrub has read.
        digests: Arc<Digests>,
        /// Everything but the note. Terms must be read before the log's end.
        standing: Arc<dyn Fn() -> Standing + Send + Sync>,
    },
}

/// The service. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Mending {
    inner: Arc<Inner>,
}

struct Inner {
    trail_id: TrailId,
    node_id: u64,
    source: RwLock<Source>,
    note: RwLock<Option<NoteSource>>,
    /// Who was removed from the group; not known before the log is open.
    peers: RwLock<Option<Arc<Peers>>>,
    streams: Arc<Semaphore>,
    /// Streams of each node: one that does not read what it asked for keeps no other from mending.
    of_nodes: Mutex<HashMap<u64, Arc<Semaphore>>>,
}

impl Mending {
    /// Of a node that has just begun to start.
    pub fn new(trail_id: TrailId, node_id: u64) -> Mending {
        Mending {
            inner: Arc::new(Inner {
                trail_id,
                node_id,
                source: RwLock::new(Source::Starting),
                note: RwLock::new(None),
                peers: RwLock::new(None),
                streams: Arc::new(Semaphore::new(MENDING_STREAMS_MAX)),
                of_nodes: Mutex::default(),
            }),
        }
    }

    /// As a tonic service.
    pub fn into_server(self) -> MendingServer<Self> {
        MendingServer::new(self)
            .max_decoding_message_size(REQUEST_BYTES_MAX)
            .max_encoding_message_size(RAFT_MESSAGE_BYTES_MAX)
    }

    /// From now on answers come from there. Streams that are under way go on as they began.
    pub fn set_source(&self, source: Source) {
        *self.inner.source.write().unwrap_or_else(PoisonError::into_inner) = source;
    }

    /// Where notes come from.
    pub fn set_note(&self, note: NoteSource) {
        *self.inner.note.write().unwrap_or_else(PoisonError::into_inner) = Some(note);
    }

    /// From now on nodes that were removed from the group are not answered.
    pub fn set_peers(&self, peers: Arc<Peers>) {
        *self.inner.peers.write().unwrap_or_else(PoisonError::into_inner) = Some(peers);
    }

    /// Only nodes are answered: what this service gives out is everything that the trail holds.
    /// The raft port has verified the certificate, and that it is a node's of this trail.
    fn check_asker<T>(&self, request: &Request<T>, node_id: u64) -> Result<(), Status> {
        let connection = connection(request)?;
        if let Security::Tls { peer, .. } = &connection.security {
            let named = peer.as_ref().and_then(|peer| peer.name.node_id());
            if named != Some(node_id) {
                let message = format!("the certificate of node {node_id} is asked for");
                return Err(Status::permission_denied(message));
            }
        }
        self.inner.check_present(node_id)
    }

    fn source(&self) -> Source {
        self.inner.source.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self) -> Option<NoteSource> {
        self.inner.note.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn check_trail(&self, trail_id: &[u8]) -> Result<(), Status> {
        if trail_id == self.inner.trail_id.0 {
            return Ok(());
        }
        let ours = self.inner.trail_id;
        Err(Status::permission_denied(format!("this is a node of trail {ours}, not of yours")))
    }
}

impl Inner {
    /// Whether a node is still in the group, as far as is known here.
    fn check_present(&self, node_id: u64) -> Result<(), Status> {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        match peers.as_ref().is_some_and(|peers| peers.is_removed(node_id)) {
            true => Err(Refusal::Removed { node: node_id }.into()),
            false => Ok(()),
        }
    }
}

fn starting() -> Status {
    Status::unavailable("the node is starting")
}

impl Source {
    /// The next whole entries of a range. Blocks.
    fn read(&self, trail_id: &TrailId, from: u64, to: u64) -> Result<Part, Status> {
        let failed = |error: String| Status::unavailable(error);
        match self {
            Source::Starting => Err(starting()),
            Source::Closed { segments, .. } => {
                let entries = segments
                    .entries(from..to, MENDING_BYTES_MAX)
                    .map_err(|error| failed(error.to_string()))?;
                let next = entries.last().map_or(to, |last| last.entry.id.index + 1);
                Ok(Part { entries, next })
            }
            Source::Open { log, .. } => {
                let to = to.min(log.next());
                if from >= to {
                    return Ok(Part { entries: Vec::new(), next: u64::MAX });
                }
                match whole_entries(log, trail_id, from..to, MENDING_BYTES_MAX) {
                    Ok(part) => Ok(part),
                    // Cut meanwhile.
                    Err(LogError::Missing { .. }) => {
                        Ok(Part { entries: Vec::new(), next: u64::MAX })
                    }
                    Err(error) => Err(failed(error.to_string())),
                }
            }
        }
    }

    fn sealed(&self, from: u64) -> Result<Vec<Sealed>, Status> {
        let mut sealed = match self {
            Source::Starting => return Err(starting()),
            Source::Closed { segments, .. } => {
                let sealed =
                    segments.sealed().map_err(|error| Status::unavailable(error.to_string()))?;
                sealed_of(sealed, |_| None)
            }
            Source::Open { log, digests, .. } => {
                sealed_of(log.sealed_segments(), |first| digests.get(first))
            }
        };
        sealed.retain(|segment| segment.first >= from);
        sealed.truncate(MENDING_SEGMENTS_MAX);
        Ok(sealed)
    }
}

fn sealed_of(
    segments: Vec<SegmentInfo>,
    digest: impl Fn(u64) -> Option<indelible_core::Hash>,
) -> Vec<Sealed> {
    let sealed = |segment: SegmentInfo| Sealed {
        first: segment.first,
        next: segment.next,
        bytes: segment.bytes,
        digest: digest(segment.first),
        chain: segment.chain,
    };
    segments.into_iter().map(sealed).collect()
}

/// A stream of entries that is under way.
struct Reading {
    source: Source,
    mending: Arc<Inner>,
    /// Who reads.
    node_id: u64,
    next: u64,
    to: u64,
    _permits: [OwnedSemaphorePermit; 2],
}

impl Inner {
    /// Places for a stream of a node: one of its own, and one of all.
    fn places(&self, node: u64) -> Result<[OwnedSemaphorePermit; 2], Status> {
        let of_node = {
            // NB: ids are of nodes with a certificate of this trail.
            let mut of_nodes = self.of_nodes.lock().unwrap_or_else(PoisonError::into_inner);
            let places = || Arc::new(Semaphore::new(MENDING_STREAMS_OF_A_NODE_MAX));
            of_nodes.entry(node).or_insert_with(places).clone()
        };
        let own = of_node.try_acquire_owned().map_err(|_| {
            let max = MENDING_STREAMS_OF_A_NODE_MAX;
            Status::resource_exhausted(format!("{max} mending streams of this node are open"))
        })?;
        let of_all = self.streams.clone().try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!("{MENDING_STREAMS_MAX} mending streams are open"))
        })?;
        Ok([own, of_all])
    }
}

impl Reading {
    /// The next message with entries; none at the end. At most one message is in memory.
    async fn step(mut self) -> Option<(Result<pb::EntriesResponse, Status>, Self)> {
        while self.next < self.to {
            // It may have been removed since.
            if let Err(status) = self.mending.check_present(self.node_id) {
                self.next = self.to;
                return Some((Err(status), self));
            }
            let (source, trail_id) = (self.source.clone(), self.mending.trail_id);
            let (from, to) = (self.next, self.to);
            let read = tokio::task::spawn_blocking(move || source.read(&trail_id, from, to)).await;
            let read = read.unwrap_or_else(|_| Err(Status::unavailable("the node is stopping")));
            match read {
                Ok(part) => {
                    assert!(part.next > self.next, "every read gets on");
                    self.next = part.next;
                    if !part.entries.is_empty() {
                        return Some((Ok(message(part.entries)), self));
                    }
                }
                Err(status) => {
                    self.next = self.to;
                    return Some((Err(status), self));
                }
            }
        }
        None
    }
}

fn message(entries: Vec<Fetched>) -> pb::EntriesResponse {
    let chains: Vec<u8> = entries.iter().flat_map(|fetched| fetched.chain.0).collect();
    let entries = entries.into_iter().map(|fetched| wire::entry_to_pb(fetched.entry)).collect();
    pb::EntriesResponse { entries, chains: Bytes::from(chains) }
}

#[tonic::async_trait]
impl pb::mending_server::Mending for Mending {
    type EntriesStream = Pin<Box<dyn Stream<Item = Result<pb::EntriesResponse, Status>> + Send>>;

    async fn entries(
        &self,
        request: Request<pb::EntriesRequest>,
    ) -> Result<Response<Self::EntriesStream>, Status> {
        self.check_asker(&request, request.get_ref().node_id)?;
        let request = request.into_inner();
        self.check_trail(&request.trail_id)?;
        let source = self.source();
        if matches!(source, Source::Starting) {
            return Err(starting());
        }
        let permits = self.inner.places(request.node_id)?;
        let reading = Reading {
            source,
            mending: self.inner.clone(),
            node_id: request.node_id,
            next: request.from,
            to: request.to,
            _permits: permits,
        };
        Ok(Response::new(Box::pin(futures_util::stream::unfold(reading, Reading::step))))
    }

    async fn segments(
        &self,
        request: Request<pb::SegmentsRequest>,
    ) -> Result<Response<pb::SegmentsResponse>, Status> {
        self.check_asker(&request, request.get_ref().node_id)?;
        let request = request.into_inner();
        self.check_trail(&request.trail_id)?;
        let source = self.source();
        let sealed = tokio::task::spawn_blocking(move || source.sealed(request.from))
            .await
            .map_err(|_| Status::unavailable("the node is stopping"))??;
        let segments = sealed.into_iter().map(Sealed::to_pb).collect();
        Ok(Response::new(pb::SegmentsResponse { segments }))
    }

    async fn standing(
        &self,
        request: Request<pb::StandingRequest>,
    ) -> Result<Response<pb::StandingResponse>, Status> {
        self.check_asker(&request, request.get_ref().node_id)?;
        let request = request.into_inner();
        self.check_trail(&request.trail_id)?;
        let standing = match self.source() {
            Source::Starting => return Err(starting()),
            Source::Closed { standing, .. } => standing,
            Source::Open { standing, .. } => standing(),
        };
        let node_id = self.inner.node_id;
        let mut answer = Standing { node_id, ..standing }.to_pb();
        let Some(note) = self.note() else { return Ok(Response::new(answer)) };
        let filled = tokio::task::spawn_blocking(move || {
            note(request.node_id, &mut answer);
            answer
        });
        filled.await.map(Response::new).map_err(|error| Status::internal(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_does_not_read_takes_no_other_nodes_place() {
        let mending = Mending::new(TrailId([7; 16]), 1).inner;
        let stalled: Vec<_> = (0..MENDING_STREAMS_OF_A_NODE_MAX)
            .map(|_| mending.places(2).expect("a place of its own"))
            .collect();
        let refused = mending.places(2).expect_err("one too many");
        assert_eq!(refused.message(), "2 mending streams of this node are open");
        let _other = mending.places(3).expect("another node has places of its own");
        drop(stalled);
        drop(mending.places(2).expect("they are free again"));
    }
}
