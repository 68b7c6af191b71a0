//! What is counted of scrubbing and mending, for metrics and `indelible status`.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one process. Written by the scrub and the mender, read by whoever asks.
#[derive(Debug, Default)]
pub struct Numbers {
    /// Bytes of segments that the scrub has read.
    pub scrubbed_bytes: Count,
    /// Passes over all sealed segments that the scrub has finished.
    pub scrub_passes: Count,
    /// When the last of them ended, in Unix seconds; 0 if none.
    pub last_pass_unix_s: Count,
    /// Damaged places that were found: at start, by the scrub, or by a read.
    pub damages_found: Count,
    /// Those of them that were mended.
    pub mended: Count,
    /// Those that wait to be mended.
    pub pending: Count,
}

/// One of them.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}
