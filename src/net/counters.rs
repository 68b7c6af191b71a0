//! What the ports have refused, for metrics.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Shared by all ports of a node.
#[derive(Debug, Default)]
pub struct Counters {
    refused: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
    open: Mutex<BTreeMap<&'static str, i64>>,
    reload_failures: AtomicU64,
    expires_unix_s: AtomicI64,
}

impl Counters {
    /// A connection or request was refused at a port, and why, in one word.
    pub fn refused(&self, port: &'static str, why: &'static str) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        *refused.entry((port, why)).or_default() += 1;
    }

    /// Refusals by port and reason.
    pub fn all_refused(&self) -> Vec<(&'static str, &'static str, u64)> {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.iter().map(|((port, why), count)| (*port, *why, *count)).collect()
    }

    pub(super) fn opened(&self, port: &'static str) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner).entry(port).or_default() += 1;
    }

    pub(super) fn closed(&self, port: &'static str) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner).entry(port).or_default() -= 1;
    }

    /// Open connections by port.
    pub fn all_open(&self) -> Vec<(&'static str, i64)> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.iter().map(|(port, count)| (*port, *count)).collect()
    }

    pub(super) fn reload_failed(&self) {
        self.reload_failures.fetch_add(1, Ordering::Relaxed);
    }

    /// How often certificate files could not be taken.
    pub fn reload_failures(&self) -> u64 {
        self.reload_failures.load(Ordering::Relaxed)
    }

    pub(super) fn expires(&self, unix_s: i64) {
        self.expires_unix_s.store(unix_s, Ordering::Relaxed);
    }

    /// When the node's certificate expires, in Unix seconds; 0 without TLS.
    pub fn expires_unix_s(&self) -> i64 {
        self.expires_unix_s.load(Ordering::Relaxed)
    }
}
