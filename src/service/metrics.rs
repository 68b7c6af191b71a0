//! What a node counts, in the Prometheus text format.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indelible_proto::reason::Reason;
use indelible_proto::v1;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::checkpoint_metrics::CheckpointMetrics;
use super::clock_metrics::ClockMetrics;
use super::port_metrics::PortMetrics;
use crate::node::Node;

pub(super) type Level = Gauge<u64, AtomicU64>;

/// Counters, and gauges that are read off the node when somebody asks.
pub struct Metrics {
    registry: Registry,
    append_events: Counter,
    append_seconds: Histogram,
    rejections: Family<Vec<(&'static str, &'static str)>, Counter>,
    reads: Counter,
    proofs: Counter,
    tiles: Counter,
    proven_seconds: Histogram,
    unproven: Counter,
    gauges: Gauges,
    checkpoints: CheckpointMetrics,
    clock: ClockMetrics,
    mending: Mending,
    ports: PortMetrics,
}

/// What the node counts of scrubbing and mending, as of the last look.
#[derive(Default)]
struct Mending {
    scrub_bytes: Counter,
    scrub_passes: Counter,
    damages_found: Counter,
    mended: Counter,
    last_pass: Level,
    pending: Level,
    findings_waiting: Level,
}

impl Mending {
    fn register(&self, registry: &mut Registry) {
        for (name, help, counter) in [
            (
                "scrub_bytes",
                "Bytes of segments and tree files re-read by the scrub",
                &self.scrub_bytes,
            ),
            (
                "scrub_passes",
                "Passes of the scrub over tree files and sealed segments",
                &self.scrub_passes,
            ),
            ("damages_found", "Damaged places found", &self.damages_found),
            ("mended", "Damaged places mended", &self.mended),
        ] {
            registry.register(name, help, counter.clone());
        }
        for (name, help, level) in [
            ("scrub_last_pass_unix_seconds", "When the scrub last ended a pass", &self.last_pass),
            ("damages_pending", "Damaged places that wait to be mended", &self.pending),
            ("findings_waiting", "Findings not in the trail yet", &self.findings_waiting),
        ] {
            registry.register(name, help, level.clone());
        }
    }

    fn look(&self, node: &Node) {
        let numbers = &node.mend_numbers;
        for (counter, value) in [
            (&self.scrub_bytes, &numbers.scrubbed_bytes),
            (&self.scrub_passes, &numbers.scrub_passes),
            (&self.damages_found, &numbers.damages_found),
            (&self.mended, &numbers.mended),
        ] {
            counter.inner().store(value.get(), Ordering::Relaxed);
        }
        self.last_pass.set(numbers.last_pass_unix_s.get());
        self.pending.set(numbers.pending.get());
        self.findings_waiting.set(node.findings.waiting_count() as u64);
    }
}

#[derive(Default)]
struct Gauges {
    leader: Level,
    term: Level,
    applied_index: Level,
    committed_index: Level,
    tree_size: Level,
    producers: Level,
    log_bytes: Level,
    log_segments: Level,
    cache_bytes: Level,
    waiting_bytes: Level,
    read_only: Level,
    log_key: Level,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("indelible");
        let append_events = Counter::default();
        let append_seconds = Histogram::new(exponential_buckets(0.000_25, 2.0, 14));
        let rejections = Family::default();
        let reads = Counter::default();
        let (proofs, tiles) = (Counter::default(), Counter::default());
        let proven_seconds = Histogram::new(exponential_buckets(0.000_5, 2.0, 14));
        let unproven = Counter::default();
        let gauges = Gauges::default();
        registry.register(
            "append_events",
            "Events acknowledged by this node",
            append_events.clone(),
        );
        registry.register_with_unit(
            "append",
            "Time from request to acknowledgement",
            Unit::Seconds,
            append_seconds.clone(),
        );
        registry.register("rejections", "Requests refused, by reason", rejections.clone());
        registry.register("reads", "Reads begun", reads.clone());
        registry.register("proofs", "Range proofs sent", proofs.clone());
        registry.register("tiles", "Tiles and entry bundles sent", tiles.clone());
        registry.register_with_unit(
            "append_proven",
            "Time from request to acknowledgement with a proof",
            Unit::Seconds,
            proven_seconds.clone(),
        );
        registry.register("append_unproven", "Appends whose proof was late", unproven.clone());
        let levels = [
            ("leader", "1 if this node leads", &gauges.leader),
            ("term", "Raft term", &gauges.term),
            ("applied_index", "Last applied log index", &gauges.applied_index),
            ("committed_index", "Last committed log index", &gauges.committed_index),
            ("tree_size", "Leaves of the trail", &gauges.tree_size),
            ("producers", "Producers known", &gauges.producers),
            ("log_bytes", "Bytes in segments", &gauges.log_bytes),
            ("log_segments", "Segment files", &gauges.log_segments),
            ("log_cache_bytes", "Entries in memory, in bytes", &gauges.cache_bytes),
            ("append_waiting_bytes", "Appends waiting, in bytes", &gauges.waiting_bytes),
            ("read_only", "1 if the disk is nearly full", &gauges.read_only),
            ("log_key", "1 if this node has the log key", &gauges.log_key),
        ];
        for (name, help, level) in levels {
            registry.register(name, help, level.clone());
        }
        let mending = Mending::default();
        mending.register(&mut registry);
        let checkpoints = CheckpointMetrics::register(&mut registry);
        let clock = ClockMetrics::register(&mut registry);
        let ports = PortMetrics::register(&mut registry);
        Metrics {
            registry,
            append_events,
            append_seconds,
            rejections,
            reads,
            proofs,
            tiles,
            proven_seconds,
            unproven,
            gauges,
            mending,
            checkpoints,
            clock,
            ports,
        }
    }

    /// Notes an acknowledged request.
    pub fn appended(&self, events: u64, took: Duration) {
        self.append_events.inc_by(events);
        self.append_seconds.observe(took.as_secs_f64());
    }

    /// Notes how an append ended that asked for a proof.
    pub fn proven(&self, ack: v1::AckLevel, took: Duration) {
        match ack {
            v1::AckLevel::Proven | v1::AckLevel::Witnessed => {
                self.proven_seconds.observe(took.as_secs_f64());
            }
            v1::AckLevel::Unspecified | v1::AckLevel::Durable => drop(self.unproven.inc()),
        }
    }

    /// Notes a refused request.
    pub fn rejected(&self, reason: Reason) {
        self.rejections.get_or_create(&vec![("reason", reason.name())]).inc();
    }

    /// Notes a read.
    pub fn read(&self) {
        self.reads.inc();
    }

    /// Notes a range proof.
    pub fn proved(&self) {
        self.proofs.inc();
    }

    /// Notes a tile or an entry bundle.
    pub fn tile(&self) {
        self.tiles.inc();
    }

    /// Everything, as text.
    pub fn text(&self, node: &Node) -> String {
        let view = node.view();
        let sizes = node.log.sizes();
        let gauges = &self.gauges;
        gauges.leader.set(u64::from(view.role() == v1::Role::Leader));
        gauges.term.set(view.term);
        gauges.applied_index.set(view.applied_index);
        gauges.committed_index.set(view.committed_index);
        gauges.tree_size.set(view.tree_size);
        gauges.producers.set(node.ledger.producers() as u64);
        gauges.log_bytes.set(sizes.bytes);
        gauges.log_segments.set(sizes.segments as u64);
        gauges.cache_bytes.set(sizes.cache_bytes as u64);
        gauges.waiting_bytes.set(node.batcher.waiting_bytes() as u64);
        gauges.read_only.set(u64::from(*node.read_only.borrow()));
        gauges.log_key.set(u64::from(!view.log_key.is_empty()));
        self.mending.look(node);
        self.checkpoints.read(&node.publication, view.tree_size);
        self.clock.read(&node.clock);
        self.ports.read(&node.credentials);
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string does not fail");
        text
    }
}
