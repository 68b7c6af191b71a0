//! Checkpoints: how they come to be signed by a majority, how they reach every node, and what a
//! node concludes from those that it is shown.
//!
//! ```text
//! publisher (leader) -> cosigner here and on every voter -> notebook -> spread -> every node
//! ```
//!
//! Reading order: [`electorate`] says whose signatures count; `cosigner` signs, and never two
//! histories; `notebook` judges notes, keeps them and shows them; `publisher` (with `round`,
//! `askers` and `waiters`) is the leader's loop and `spread` what everybody tells everybody;
//! `answers` is the other end of both. [`standing`] is what a start compares, `rollback` what
//! follows if everything was rolled back and `acceptance` what ends that, `witness` asks those
//! outside.
//!
//! Invariants: nothing is shown that is not durable here; the log key signs only what a majority
//! has cosigned; whoever holds another history than a majority's signature speaks of stops.

mod acceptance;
mod answers;
mod askers;
mod cosigner;
pub mod electorate;
mod notebook;
mod publisher;
mod rollback;
mod round;
mod shared;
mod spread;
pub mod standing;
mod start;
#[cfg(test)]
mod tests;
mod waiters;
mod witness;
mod witness_http;

use std::sync::Arc;
use std::time::Duration;

use indelible_core::VerifierKey;
use indelible_proto::reason::Rejected;
use tokio::sync::watch;

use super::operations::Why;
use rollback::Rollback;
use shared::Shared;
use waiters::Waiters;

pub use shared::{Counters, Finder, Published};
pub use start::{OpenError, OpenOptions, Opened, Parts};
pub use witness::WitnessFigures;

/// This node's checkpoints. Cloning gives another handle.
#[derive(Clone)]
pub struct Publication {
    shared: Arc<Shared>,
    rollback: Rollback,
    waiters: Waiters,
    witnesses: Arc<[Arc<WitnessFigures>]>,
    log_key: Option<VerifierKey>,
}

impl Publication {
    /// The newest note that a majority has cosigned; this node has applied its size and agrees with
    /// its root.
    pub fn newest(&self) -> Option<Arc<Published>> {
        self.shared.newest.borrow().clone()
    }

    /// As [`Self::newest`], and every one after it. Notes of a smaller size come only after an
    /// operator has accepted a rollback.
    pub fn subscribe(&self) -> watch::Receiver<Option<Arc<Published>>> {
        self.shared.newest.subscribe()
    }

    /// The newest note that a configured witness has signed too.
    pub fn newest_witnessed(&self) -> Option<Arc<Published>> {
        self.shared.witnessed.borrow().clone()
    }

    /// As [`Self::newest_witnessed`], and every one after it.
    pub fn subscribe_witnessed(&self) -> watch::Receiver<Option<Arc<Published>>> {
        self.shared.witnessed.subscribe()
    }

    /// Waits until there is a note of at least `size` leaves; none if there is not in time. On the
    /// leader this hurries the next round.
    pub async fn wait(
        &self,
        size: u64,
        witnessed: bool,
        timeout: Duration,
    ) -> Option<Arc<Published>> {
        let watched = if witnessed { &self.shared.witnessed } else { &self.shared.newest };
        let mut watched = watched.subscribe();
        let covers = |note: &Option<Arc<Published>>| {
            note.as_ref().is_some_and(|note| note.checkpoint.size >= size)
        };
        let _waiting = (!covers(&watched.borrow())).then(|| self.waiters.enter(size));
        let found = tokio::time::timeout(timeout, watched.wait_for(covers)).await;
        found.ok()?.ok()?.clone()
    }

    /// The tree size of a valid checkpoint that this trail has lost, if one is known and nobody has
    /// accepted that: then appends are refused.
    pub fn rolled_back(&self) -> Option<u64> {
        self.shared.rolled_back()
    }

    /// Why a leader refuses appends, if it does.
    pub fn check_appendable(&self) -> Result<(), Rejected> {
        self.rollback.rejection().map_or(Ok(()), Err)
    }

    /// Takes a note that a client has seen and this node's trail may lack. True if it is evidence
    /// that everything was rolled back. Refused if it is not valid, or if no leader can tell now.
    pub async fn report(&self, note: &str) -> Result<bool, Rejected> {
        self.rollback.report(note).await
    }

    /// An operator accepts that what came after a rollback is lost: appends go on, and notes signed
    /// up to now do not count any more. Leader only. Returns the leaf of the record.
    pub async fn accept_rollback(&self, why: Why) -> Result<u64, Rejected> {
        self.rollback.accept(why).await
    }

    /// What was counted since the start.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// The public half of the log key, on a node that has it.
    pub fn log_key(&self) -> Option<&VerifierKey> {
        self.log_key.as_ref()
    }

    /// How far the configured witnesses are, as this leader knows.
    pub fn witnesses(&self) -> &[Arc<WitnessFigures>] {
        &self.witnesses
    }
}
