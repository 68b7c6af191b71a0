//! What the ports of a node count.

use std::sync::atomic::{AtomicI64, Ordering};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::metrics::Level;
use crate::net::{Credentials, Mode};

type Labels = Vec<(&'static str, &'static str)>;

/// As of the last look at the ports' own counters.
#[derive(Default)]
pub(super) struct PortMetrics {
    refused: Family<Labels, Counter>,
    open: Family<Labels, Gauge<i64, AtomicI64>>,
    reload_failures: Counter,
    expires: Gauge<i64, AtomicI64>,
    insecure: Level,
}

impl PortMetrics {
    pub(super) fn register(registry: &mut Registry) -> PortMetrics {
        let metrics = PortMetrics::default();
        registry.register(
            "refused_connections",
            "Connections refused or closed, by port and reason",
            metrics.refused.clone(),
        );
        registry.register("connections", "Open connections, by port", metrics.open.clone());
        registry.register(
            "tls_reload_failures",
            "Certificate files that could not be taken; those before stay in use",
            metrics.reload_failures.clone(),
        );
        registry.register(
            "tls_certificate_expires_unix_seconds",
            "When this node's certificate expires; 0 without TLS",
            metrics.expires.clone(),
        );
        registry.register(
            "insecure",
            "1 if clear text is accepted on the client, raft or HTTP port",
            metrics.insecure.clone(),
        );
        metrics
    }

    pub(super) fn read(&self, credentials: &Credentials) {
        let counters = credentials.counters();
        for (port, why, count) in counters.all_refused() {
            let counter = self.refused.get_or_create_owned(&vec![("port", port), ("why", why)]);
            counter.inner().store(count, Ordering::Relaxed);
        }
        for (port, count) in counters.all_open() {
            self.open.get_or_create(&vec![("port", port)]).set(count);
        }
        self.reload_failures.inner().store(counters.reload_failures(), Ordering::Relaxed);
        self.expires.set(counters.expires_unix_s());
        self.insecure.set(u64::from(credentials.mode() != Mode::Require));
    }
}
