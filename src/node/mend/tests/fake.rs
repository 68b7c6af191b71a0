//! A peer that answers as it should but for what a test has it do instead.

use std::sync::atomic::{AtomicUsize, Ordering};

use indelible_proto::raft as pb;
use indelible_proto::raft::mending_server::{Mending as Service, MendingServer};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use super::TRAIL;
use crate::net::{Credentials, Port, PortKind, serve};
use crate::raft::mending::{Mending, Source};

/// Entries as they are sent.
pub(super) type Parts = <Mending as Service>::EntriesStream;
type OnStanding = dyn Fn(&mut pb::StandingResponse) -> Result<(), Status> + Send + Sync;
type OnSegments = dyn Fn(u64) -> Option<Vec<pb::SealedSegment>> + Send + Sync;
type OnEntries = dyn Fn(&pb::EntriesRequest) -> Option<Result<Parts, Status>> + Send + Sync;

/// The peer.
pub(super) struct Fake {
    honest: Mending,
    /// Changes what it says of its log.
    pub(super) standing: Box<OnStanding>,
    /// Answers for it, or leaves it to the log.
    pub(super) entries: Box<OnEntries>,
    /// Names sealed segments from an entry on, or leaves it to the log.
    pub(super) segments: Box<OnSegments>,
}

impl Fake {
    /// One that does nothing odd yet.
    pub(super) fn new(node_id: u64, source: Source) -> Fake {
        let honest = Mending::new(TRAIL, node_id);
        honest.set_source(source);
        Fake {
            honest,
            standing: Box::new(|_| Ok(())),
            entries: Box::new(|_| None),
            segments: Box::new(|_| None),
        }
    }

    /// Its address.
    pub(super) async fn serve(self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        self.serve_on(listener);
        addr
    }

    pub(super) fn serve_on(self, listener: TcpListener) {
        let port = Port::new(PortKind::Raft, Credentials::clear(), 1 << 20, &[]);
        let router = Routes::new(MendingServer::new(self)).into_axum_router();
        tokio::spawn(async move {
            let (_never, stopped) = watch::channel(false);
            serve(listener, port, router, stopped).await;
        });
    }
}

/// Fails so many times, and never again.
pub(super) fn first_failures(count: usize) -> impl Fn() -> Result<(), Status> + Send + Sync {
    let left = AtomicUsize::new(count);
    let one_less = |left: usize| left.checked_sub(1);
    move || match left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less) {
        Ok(_) => Err(Status::unavailable("not now")),
        Err(_) => Ok(()),
    }
}

#[tonic::async_trait]
impl Service for Fake {
    type EntriesStream = Parts;

    async fn entries(
        &self,
        request: Request<pb::EntriesRequest>,
    ) -> Result<Response<Parts>, Status> {
        match (self.entries)(request.get_ref()) {
            Some(parts) => parts.map(Response::new),
            None => self.honest.entries(request).await,
        }
    }

    async fn segments(
        &self,
        request: Request<pb::SegmentsRequest>,
    ) -> Result<Response<pb::SegmentsResponse>, Status> {
        match (self.segments)(request.get_ref().from) {
            Some(segments) => Ok(Response::new(pb::SegmentsResponse { segments })),
            None => self.honest.segments(request).await,
        }
    }

    async fn standing(
        &self,
        request: Request<pb::StandingRequest>,
    ) -> Result<Response<pb::StandingResponse>, Status> {
        let mut answer = self.honest.standing(request).await?;
        (self.standing)(answer.get_mut())?;
        Ok(answer)
    }
}
