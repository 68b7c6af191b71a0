//! What the metrics say about time, read off the clock when somebody asks.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::metrics::Level;
use crate::node::clock::Clock;

/// Of seconds with a fraction.
type Seconds = Gauge<f64, AtomicU64>;

/// All of them.
#[derive(Default)]
pub(super) struct ClockMetrics {
    hold: Level,
    offset: Seconds,
    ahead: Seconds,
}

impl ClockMetrics {
    /// All at zero.
    pub(super) fn register(registry: &mut Registry) -> ClockMetrics {
        let all = ClockMetrics::default();
        let help = "1 if this node takes no events, or would not if it led, because of the clocks";
        registry.register("clock_hold", help, all.hold.clone());
        let help = "This node's clock minus what a majority's clocks say";
        registry.register_with_unit("clock_offset", help, Unit::Seconds, all.offset.clone());
        let help = "How far the newest stamp is ahead of a majority's clocks, if by more than 10 s";
        registry.register_with_unit("stamps_ahead", help, Unit::Seconds, all.ahead.clone());
        all
    }

    /// As they are now.
    pub(super) fn read(&self, clock: &Clock) {
        let view = clock.view();
        self.hold.set(u64::from(view.hold.is_some()));
        self.offset.set(view.offset_ns.unwrap_or(0) as f64 / 1e9);
        self.ahead.set(view.ahead_ns.unwrap_or(0) as f64 / 1e9);
    }
}
