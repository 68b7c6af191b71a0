//! Keeps one node connected: two connections, one for calls and one for the stream that says who
//! leads.
//!
//! The stream has its own connection so that news of a leader change never queues behind a megabyte
//! of events (what Kafka found in KIP-951), and because an open stream makes h2 lose a request when
//! the server says goodbye (grpc-rust 2185). Both are made here, with our own backoff: tonic's lazy
//! reconnect has none and answers the next request with the error. How they are made is in
//! `connect/`.

use std::sync::Arc;
use std::time::Duration;

use indelible_core::limits::CLIENT_MESSAGE_BYTES_MAX;
use indelible_proto::v1::cluster_client::ClusterClient;
use indelible_proto::v1::{ClusterView, WatchClusterRequest};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::backoff::Backoff;
use crate::connect::{DialError, Transport, dial};
use crate::error::{Failure, Trouble};
use crate::table::Table;

/// Views are pushed at least every 500 ms: four in a row missing means that the node hangs or the
/// network is cut.
const SILENCE_MAX: Duration = Duration::from_secs(2);

/// The task of one address.
pub(crate) struct NodeTask {
    pub(crate) addr: String,
    pub(crate) table: Arc<Table>,
    pub(crate) transport: Transport,
    pub(crate) connect_timeout: Duration,
}

impl NodeTask {
    /// Until aborted: connect, listen, and again with backoff.
    pub(crate) async fn run(self) {
        let mut backoff = Backoff::connect();
        loop {
            let error = match self.connect().await {
                Ok(stream) => {
                    backoff.reset();
                    self.listen(stream).await
                }
                Err(error) => error,
            };
            tracing::debug!(addr = self.addr, error = error.text, "not connected");
            self.table.disconnected(&self.addr, error);
            sleep(backoff.next()).await;
        }
    }

    /// Both connections and the node's first view: only then is it known who answers there.
    async fn connect(&self) -> Result<Listening, Trouble> {
        let (control, break_reason) =
            dial(&self.addr, &self.transport, self.connect_timeout).await?;
        let (data, _) = dial(&self.addr, &self.transport, self.connect_timeout).await?;
        let (views, view) = match timeout(SILENCE_MAX, first_view(control)).await {
            Ok(Ok(first)) => first,
            // So answer gRPC without this service, and HTTP 404.
            Ok(Err(status)) if status.code() == Code::Unimplemented => {
                return Err(DialError::OtherPort.into());
            }
            Ok(Err(status)) => {
                // Why the connection broke says more than what HTTP/2 makes of it.
                return Err(match (Failure::from(status), break_reason.reason()) {
                    (Failure::Broken(_), Some(reason)) => reason.into(),
                    (failure, _) => failure.into(),
                });
            }
            Err(_) => {
                return Err(format!("connected, but no answer within {SILENCE_MAX:.1?}").into());
            }
        };
        let suspect = Arc::new(Notify::new());
        self.table.connected(&self.addr, data, suspect.clone(), view)?;
        Ok(Listening { views, suspect })
    }

    /// Hands every view to the table until something is wrong; returns what.
    async fn listen(&self, mut listening: Listening) -> Trouble {
        loop {
            let message = tokio::select! {
                message = timeout(SILENCE_MAX, listening.views.message()) => message,
                () = listening.suspect.notified() => return "a call met a broken connection".into(),
            };
            let observed = match message {
                Err(_) => return format!("silent for {SILENCE_MAX:.1?}").into(),
                Ok(Err(status)) => return Failure::from(status).into(),
                Ok(Ok(None)) => return "the node closed the connection".into(),
                Ok(Ok(Some(view))) => self.table.observe(&self.addr, view),
            };
            if let Err(error) = observed {
                return error.into();
            }
        }
    }
}

/// What the node pushes, from its first view on.
async fn first_view(channel: Channel) -> Result<(Streaming<ClusterView>, ClusterView), Status> {
    let mut client =
        ClusterClient::new(channel).max_decoding_message_size(CLIENT_MESSAGE_BYTES_MAX);
    let mut views = client.watch_cluster(WatchClusterRequest {}).await?.into_inner();
    let view = views.message().await?;
    Ok((views, view.ok_or_else(|| Status::unavailable("no view was sent"))?))
}

/// A connection in use.
struct Listening {
    views: Streaming<ClusterView>,
    /// Notified by callers whose call broke.
    suspect: Arc<Notify>,
}
