//! The HTTP port: probes for load balancers and orchestrators, metrics, and the public log.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use indelible_proto::v1;
use serde_json::{Value, json};

use super::metrics::Metrics;
use super::tlog;
use crate::node::Node;

/// What the handlers share.
#[derive(Clone)]
struct Shared {
    node: Arc<Node>,
    metrics: Arc<Metrics>,
}

/// What everybody may ask: the paths of the HTTP port.
pub fn public(node: Arc<Node>, metrics: Arc<Metrics>) -> Router {
    let public = tlog::router(node.clone(), metrics.clone());
    probes(Shared { node, metrics }).merge(public)
}

/// The same and `/metrics`: the paths of the probe port and of the metrics port.
pub fn operators(node: Arc<Node>, metrics: Arc<Metrics>) -> Router {
    let shared = Shared { node: node.clone(), metrics: metrics.clone() };
    let numbers = Router::new().route("/metrics", get(metrics_text)).with_state(shared);
    public(node, metrics).merge(numbers)
}

fn probes(shared: Shared) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/leader", get(leader))
        .route("/replica", get(replica))
        .with_state(shared)
}

type Probe = (StatusCode, [(axum::http::HeaderName, &'static str); 1], String);

fn probe(ok: bool, body: &Value) -> Probe {
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [(CONTENT_TYPE, "application/json")], format!("{body}\n"))
}

/// The process runs.
async fn livez() -> Probe {
    probe(true, &json!({ "live": true }))
}

/// The node serves: it knows a leader, is not far behind, and nobody refuses it. Reads go on where
/// `rolled_back_from` says that the group has lost a part of its trail, appends do not. `clock`
/// says why a leader takes no events because of the clocks, `stamps_ahead_ms` by how much stamps
/// are ahead of them.
async fn readyz(State(shared): State<Shared>) -> Probe {
    let view = shared.node.view();
    let refused = shared.node.peers.refused();
    let serving = matches!(view.state(), v1::ServingState::Serving | v1::ServingState::ReadOnly);
    let ready = serving && refused.is_none();
    let body = json!({
        "ready": ready,
        "state": view.state().as_str_name().trim_start_matches("SERVING_STATE_").to_lowercase(),
        "leader": view.leader_id,
        "refused": refused,
        "log_key": !view.log_key.is_empty(),
        "log_key_nodes": nodes_with_log_key(&view),
        "clock": (!view.clock_hold.is_empty()).then_some(&view.clock_hold),
        "stamps_ahead_ms": (view.stamps_ahead_ms != 0).then_some(view.stamps_ahead_ms),
        "rolled_back_from": (view.rolled_back_from != 0).then_some(view.rolled_back_from),
    });
    probe(ready, &body)
}

/// The nodes of which the answering one knows that they have the log key: on a leader, all that do.
fn nodes_with_log_key(view: &v1::ClusterView) -> Vec<u64> {
    view.nodes.iter().filter(|node| node.has_log_key()).map(|node| node.id).collect()
}

/// The node leads, and a majority has said so within its lease.
async fn leader(State(shared): State<Shared>) -> Probe {
    let view = shared.node.view();
    let lease = shared.node.config.raft.election_timeout_max_ms;
    let fresh = view.quorum_ack_age_ms.is_some_and(|age| u64::from(age) < lease);
    let leads = view.role() == v1::Role::Leader && fresh;
    probe(leads, &json!({ "leader": leads, "leader_id": view.leader_id, "term": view.term }))
}

/// The node follows and serves reads.
async fn replica(State(shared): State<Shared>) -> Probe {
    let view = shared.node.view();
    let follows = view.role() == v1::Role::Follower && view.state() == v1::ServingState::Serving;
    let body =
        json!({ "replica": follows, "leader_id": view.leader_id, "tree_size": view.tree_size });
    probe(follows, &body)
}

async fn metrics_text(State(shared): State<Shared>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, kind)], shared.metrics.text(&shared.node))
}
