//! The two clocks of this machine.

use rustix::time::{ClockId, clock_gettime};

use super::rules::Reading;
use crate::raft::network::unix_ns;

impl Reading {
    /// What both say now.
    pub fn now() -> Reading {
        Reading { wall_ns: unix_ns(), boot_ns: boot_ns() }
    }
}

/// CLOCK_BOOTTIME goes on while the machine sleeps, and nobody sets it.
fn boot_ns() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    let (seconds, nanos) = (time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs());
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}
