//! Keeps one node connected: two connections, one for calls and one for the stream that says who
//! leads.
//!
//! The stream has its own connection so that news of a leader change never queues behind a megabyte
//! of events (what Kafka found in KIP-951), and because an open stream makes h2 lose a request when
//! the server says goodbye (grpc-rust 2185). Both are made here, with our own backoff: tonic's lazy
//! reconnect has none and answers the next request with the error.

use std::sync::Arc;
use std::time::Duration;

use indelible_core::limits::CLIENT_MESSAGE_BYTES_MAX;
use indelible_proto::v1::cluster_client::ClusterClient;
use indelible_proto::v1::{ClusterView, WatchClusterRequest};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use crate::backoff::Backoff;
use crate::error::Failure;
use crate::table::Table;

/// Views are pushed at least every 500 ms: four in a row missing means that the node hangs or the
/// network is cut.
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// HTTP/2 keepalive: how often, and how long the answer may take.
const KEEPALIVE: Duration = Duration::from_secs(2);

/// The task of one address.
pub(crate) struct NodeTask {
    pub(crate) addr: String,
    pub(crate) table: Arc<Table>,
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
            tracing::debug!(addr = self.addr, error, "not connected");
            self.table.disconnected(&self.addr, error);
            sleep(backoff.next()).await;
        }
    }

    /// Both connections and the node's first view: only then is it known who answers there.
    async fn connect(&self) -> Result<Listening, String> {
        let control = self.channel().await?;
        let data = self.channel().await?;
        let mut client =
            ClusterClient::new(control).max_decoding_message_size(CLIENT_MESSAGE_BYTES_MAX);
        let first = async {
            let mut views = client.watch_cluster(WatchClusterRequest {}).await?.into_inner();
            let view = views.message().await?;
            Ok((views, view.ok_or_else(|| tonic::Status::unavailable("no view was sent"))?))
        };
        let (views, view) = timeout(SILENCE_MAX, first)
            .await
            .map_err(|_| format!("connected, but no answer within {SILENCE_MAX:.1?}"))?
            .map_err(text)?;
        let suspect = Arc::new(Notify::new());
        self.table.connected(&self.addr, data, suspect.clone(), view)?;
        Ok(Listening { views, suspect })
    }

    /// Hands every view to the table until something is wrong; returns what.
    async fn listen(&self, mut listening: Listening) -> String {
        loop {
            let message = tokio::select! {
                message = timeout(SILENCE_MAX, listening.views.message()) => message,
                () = listening.suspect.notified() => return "a call met a broken connection".into(),
            };
            let observed = match message {
                Err(_) => return format!("silent for {SILENCE_MAX:.1?}"),
                Ok(Err(status)) => return text(status),
                Ok(Ok(None)) => return "the node closed the connection".into(),
                Ok(Ok(Some(view))) => self.table.observe(&self.addr, view),
            };
            if let Err(error) = observed {
                return error;
            }
        }
    }

    async fn channel(&self) -> Result<Channel, String> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.addr))
            .map_err(|error| error.to_string())?
            .connect_timeout(self.connect_timeout)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(Some(1024 * 1024))
            .initial_connection_window_size(Some(4 * 1024 * 1024));
        let connecting = timeout(self.connect_timeout, endpoint.connect());
        match connecting.await {
            Err(_) => Err(format!("no connection within {:.1?}", self.connect_timeout)),
            Ok(connected) => connected.map_err(|error| innermost(&error)),
        }
    }
}

/// A connection in use.
struct Listening {
    views: Streaming<ClusterView>,
    /// Notified by callers whose call broke.
    suspect: Arc<Notify>,
}

fn text(status: tonic::Status) -> String {
    Failure::from(status).text()
}

/// "Connection refused" rather than "transport error".
fn innermost(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
