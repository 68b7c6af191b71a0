//! What an audit tells Prometheus.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use anyhow::Context;
use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use jiff::Timestamp;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

type Level = Gauge<u64, AtomicU64>;
type Labels = Vec<(&'static str, String)>;

/// Counters and gauges of one audit.
pub(super) struct Metrics {
    registry: Registry,
    alerts: Family<Labels, Counter>,
    tree_size: Level,
    checkpoint_size: Level,
    checkpoint_unix_s: Level,
    nodes: Level,
    round_unix_s: Level,
}

impl Metrics {
    pub(super) fn new() -> Metrics {
        let mut registry = Registry::with_prefix("indelible_audit");
        let alerts = Family::default();
        registry.register("alerts", "Alerts, by kind", alerts.clone());
        let level = |registry: &mut Registry, name: &str, help: &str| {
            let level = Level::default();
            registry.register(name, help, level.clone());
            level
        };
        let registry_ = &mut registry;
        let tree_size = level(registry_, "tree_size", "Records that were read and hashed");
        let checkpoint_size =
            level(registry_, "checkpoint_size", "Size of the newest checkpoint that fits them");
        let checkpoint_unix_s =
            level(registry_, "checkpoint_time_seconds", "When it was signed, Unix time");
        let nodes = level(registry_, "nodes", "Nodes that gave a checkpoint in the last round");
        let round_unix_s =
            level(registry_, "round_time_seconds", "When the last round ended, Unix time");
        Metrics {
            registry,
            alerts,
            tree_size,
            checkpoint_size,
            checkpoint_unix_s,
            nodes,
            round_unix_s,
        }
    }

    pub(super) fn alert(&self, kind: &'static str) {
        self.alerts.get_or_create(&vec![("kind", kind.to_owned())]).inc();
    }

    /// A round is over.
    pub(super) fn round(&self, tree_size: u64, checkpoint: Option<(u64, u64)>, nodes: usize) {
        self.tree_size.set(tree_size);
        if let Some((size, unix_s)) = checkpoint {
            self.checkpoint_size.set(size);
            self.checkpoint_unix_s.set(unix_s);
        }
        self.nodes.set(nodes as u64);
        self.round_unix_s.set(u64::try_from(Timestamp::now().as_second()).unwrap_or(0));
    }

    fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string does not fail");
        text
    }
}

/// Serves them until the process ends.
pub(super) async fn serve(addr: SocketAddr, metrics: Arc<Metrics>) -> anyhow::Result<()> {
    let listener = TcpListener::bind(addr).await.with_context(|| format!("listen on {addr}"))?;
    eprintln!("metrics at http://{}/metrics", listener.local_addr().context("listen")?);
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let text = move || async move { ([(CONTENT_TYPE, kind)], metrics.text()) };
    let router = Router::new().route("/metrics", get(text));
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            eprintln!("warning: metrics are no longer served: {error}");
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_are_counted_by_kind() {
        let metrics = Metrics::new();
        metrics.alert("fork");
        metrics.round(12, Some((10, 1_700_000_000)), 3);
        let text = metrics.text();
        for line in [
            "indelible_audit_alerts_total{kind=\"fork\"} 1",
            "indelible_audit_tree_size 12",
            "indelible_audit_checkpoint_size 10",
            "indelible_audit_nodes 3",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }
}
