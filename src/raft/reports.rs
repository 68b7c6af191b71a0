//! What peers say of themselves with each answer to their leader.

use std::collections::BTreeMap;

use tokio::time::Instant;

/// As of a peer's last answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Its disk is nearly full.
    pub read_only: bool,
    /// It has the log key.
    pub log_key: bool,
    /// When the answer came.
    pub at: Instant,
}

/// The newest of each peer that has answered this process.
#[derive(Debug, Default)]
pub(super) struct Reports(BTreeMap<u64, Report>);

impl Reports {
    pub(super) fn note(&mut self, node: u64, read_only: bool, log_key: bool) {
        self.0.insert(node, Report { read_only, log_key, at: Instant::now() });
    }

    pub(super) fn retain(&mut self, stays: impl Fn(&u64) -> bool) {
        self.0.retain(|node, _| stays(node));
    }

    pub(super) fn of(&self, node: u64) -> Option<Report> {
        self.0.get(&node).copied()
    }
}
