//! The public log: checkpoint, tiles and entry bundles over HTTP, as C2SP tlog-tiles has them
//! (<https://c2sp.org/tlog-tiles>), so that any monitor, mirror or witness can follow the trail.
//!
//! Any node serves all of it. What is served is within the newest published checkpoint and was
//! checked against its root (`storage::ledger::tiles`), so it never changes and may be cached for
//! ever; only `/checkpoint` is short-lived. Bodies are not compressed: hashes do not shrink.

use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use indelible_core::limits::TILE_READS_MAX;
use indelible_core::tile::{TileId, TileLevel, encode_entry_bundle};
use indelible_proto::reason::Reason;
use tokio::sync::Semaphore;

use super::metrics::Metrics;
use crate::node::Node;
use crate::node::duplicates::failed;
use crate::node::publish::Published;
use crate::storage::ledger::{Ledger, LedgerError};

/// What does not change: a year, which is for ever.
const FOREVER: &str = "public, max-age=31536000, immutable";
/// What changes every moment.
const SHORT: &str = "public, max-age=1";
/// What may be otherwise the next time.
const NEVER: &str = "no-store";

/// What the handlers share.
#[derive(Clone)]
struct Public {
    node: Arc<Node>,
    metrics: Arc<Metrics>,
    /// Bounds the reads that are under way.
    reads: Arc<Semaphore>,
}

/// The paths of the public log.
pub(super) fn router(node: Arc<Node>, metrics: Arc<Metrics>) -> Router {
    let reads = Arc::new(Semaphore::new(TILE_READS_MAX));
    Router::new()
        .route("/checkpoint", get(checkpoint))
        .route("/tile/{*path}", get(tile))
        .with_state(Public { node, metrics, reads })
}

/// An answer that is no tile.
#[derive(Debug)]
enum Refusal {
    /// Nothing is published yet.
    NoCheckpoint,
    /// No tile is named so.
    Malformed(String),
    /// The newest checkpoint does not reach so far.
    Beyond(u64),
    /// Leaves are not for everybody.
    NotPublic,
    /// Too many are asking.
    Busy,
    /// This node's files are damaged; it has been logged.
    Damaged,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, text) = match self {
            Refusal::NoCheckpoint => {
                (StatusCode::NOT_FOUND, "no checkpoint has been published yet".into())
            }
            Refusal::Malformed(what) => {
                (StatusCode::BAD_REQUEST, format!("{what}; hint: see c2sp.org/tlog-tiles"))
            }
            Refusal::Beyond(size) => (
                StatusCode::NOT_FOUND,
                format!("no such tile: the newest checkpoint covers {size} leaves"),
            ),
            Refusal::NotPublic => (
                StatusCode::FORBIDDEN,
                "entry bundles are not public on this node; hint: they hold the 64-byte leaves. To serve them to \
                 everybody, set public_entries = true under [http] in the node's configuration"
                    .into(),
            ),
            Refusal::Busy => (
                StatusCode::SERVICE_UNAVAILABLE,
                format!("{TILE_READS_MAX} reads are under way, which is the limit; hint: try again"),
            ),
            Refusal::Damaged => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "this node's copy is damaged; hint: ask another node".into(),
            ),
        };
        let mut response = (status, text + "\n").into_response();
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static(NEVER));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// `/checkpoint`, and `/checkpoint?witnessed`.
async fn checkpoint(
    State(public): State<Public>,
    RawQuery(query): RawQuery,
) -> Result<impl IntoResponse, Refusal> {
    let publication = &public.node.publication;
    let witnessed = match query.as_deref() {
        Some("witnessed") => publication.newest_witnessed(),
        _ => None,
    };
    let newest = witnessed.or_else(|| publication.newest()).ok_or(Refusal::NoCheckpoint)?;
    Ok((headers("text/plain; charset=utf-8", SHORT), newest.note.clone()))
}

/// `/tile/...`
async fn tile(State(public): State<Public>, uri: Uri) -> Result<impl IntoResponse, Refusal> {
    // The path as it came: an escape is not a path of tlog-tiles.
    let path = uri.path();
    let tile = path.strip_prefix('/').unwrap_or(path).parse::<TileId>();
    let tile = tile.map_err(|error| Refusal::Malformed(format!("{path:?}: {error}")))?;
    if tile.level == TileLevel::Entries && !public.node.config.http.public_entries {
        return Err(Refusal::NotPublic);
    }
    let newest = public.node.publication.newest().ok_or(Refusal::NoCheckpoint)?;
    let permit = public.reads.clone().try_acquire_owned().map_err(|_| Refusal::Busy)?;
    let ledger = public.node.ledger.clone();
    let size = newest.checkpoint.size;
    let read = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        read(&ledger, &tile, &newest)
    });
    match read.await.map_err(|_| Refusal::Busy)? {
        Ok(Some(body)) => {
            public.metrics.tile();
            Ok((headers("application/octet-stream", FOREVER), body))
        }
        Ok(None) => Err(Refusal::Beyond(size)),
        Err(error) => {
            // Logs it.
            let rejected = failed(&error);
            public.metrics.rejected(rejected.reason);
            Err(if rejected.reason == Reason::Damaged { Refusal::Damaged } else { Refusal::Busy })
        }
    }
}

/// The bytes of a tile or bundle; none if the checkpoint does not reach so far. Blocks.
fn read(
    ledger: &Ledger,
    tile: &TileId,
    newest: &Published,
) -> Result<Option<Vec<u8>>, LedgerError> {
    let (size, root) = (newest.checkpoint.size, &newest.checkpoint.root);
    match tile.level {
        TileLevel::Hashes(level) => {
            let hashes = ledger.tile((level, tile.index, tile.width), size, root)?;
            Ok(hashes.map(|hashes| hashes.iter().flat_map(|hash| hash.0).collect()))
        }
        TileLevel::Entries => {
            let leaves = ledger.leaves(tile.index, tile.width, size, root)?;
            Ok(leaves.map(|leaves| encode_entry_bundle(&leaves)))
        }
    }
}

fn headers(content_type: &'static str, cache_control: &'static str) -> HeaderMap {
    let header = |name: HeaderName, value| (name, HeaderValue::from_static(value));
    HeaderMap::from_iter([header(CONTENT_TYPE, content_type), header(CACHE_CONTROL, cache_control)])
}
