//! What is counted of scrubbing and mending, for metrics and `indelible status`.

use std::sync::atomic::{AtomicU64, Ordering};

use super::place::tree_finding;
use crate::node::findings::Findings;
use crate::storage::ledger::TreeMended;

/// Counters of one process. Written by the scrub and the mender, read by whoever asks.
#[derive(Debug, Default)]
pub struct Numbers {
    /// Bytes of segments and tree files that the scrub has read.
    pub scrubbed_bytes: Count,
    /// Passes over tree files and sealed segments that the scrub has finished.
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

impl Numbers {
    /// Counts tree files that were mended, and has it recorded.
    pub fn tree_mended(&self, findings: &Findings, node_id: u64, mended: &TreeMended) {
        self.damages_found.add(1);
        self.mended.add(1);
        findings.record(tree_finding(node_id, mended));
    }
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
