//! The writing side of the demonstration: a few callers that append until all events are
//! acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use indelible_client::{Producer, Receipt};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cli::generate::event;

/// Callers at once.
const CALLERS: u64 = 16;
/// How long one event may take; an election fits in many times over.
const PATIENCE: Duration = Duration::from_secs(30);

/// Callers at work.
pub(super) struct Recorder {
    callers: JoinSet<anyhow::Result<Vec<Acknowledged>>>,
    acknowledged: watch::Receiver<u64>,
}

/// One acknowledged event.
struct Acknowledged {
    at: Instant,
    receipt: Receipt,
}

/// All acknowledged events.
pub(super) struct Recorded {
    /// Leaf index by seq - 1.
    pub(super) indexes: Vec<u64>,
    /// Leaf index of the record that opened the producer.
    pub(super) opened: u64,
    times: Vec<Instant>,
}

impl Recorder {
    pub(super) fn start(producer: Producer, events: u64) -> Recorder {
        let next = Arc::new(AtomicU64::new(0));
        let (count, acknowledged) = watch::channel(0);
        let mut callers = JoinSet::new();
        for _ in 0..CALLERS {
            let (producer, next, count) = (producer.clone(), next.clone(), count.clone());
            callers.spawn(async move {
                let mut done = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= events {
                        return Ok(done);
                    }
                    let deadline = (Instant::now() + PATIENCE).into();
                    let receipt = producer.append_with_deadline(event(number), deadline).await?;
                    done.push(Acknowledged { at: Instant::now(), receipt });
                    count.send_modify(|count| *count += 1);
                }
            });
        }
        Recorder { callers, acknowledged }
    }

    /// Events acknowledged so far.
    pub(super) fn acknowledged(&self) -> u64 {
        *self.acknowledged.borrow()
    }

    /// Until so many are acknowledged.
    pub(super) async fn wait_for(&self, count: u64) -> anyhow::Result<()> {
        let mut acknowledged = self.acknowledged.clone();
        acknowledged.wait_for(|now| *now >= count).await.context("record events")?;
        Ok(())
    }

    /// Until all are acknowledged.
    pub(super) async fn finish(mut self) -> anyhow::Result<Recorded> {
        let mut all = Vec::new();
        while let Some(done) = self.callers.join_next().await {
            all.extend(done.context("join a caller")??);
        }
        let mut times: Vec<Instant> = all.iter().map(|one| one.at).collect();
        times.sort();
        all.sort_by_key(|one| one.receipt.seq);
        let opened = all.first().map_or(0, |one| one.receipt.leaf.opened);
        let indexes = all.iter().map(|one| one.receipt.index).collect();
        Ok(Recorded { indexes, opened, times })
    }
}

impl Recorded {
    pub(super) fn count(&self) -> u64 {
        self.indexes.len() as u64
    }

    /// The longest time without an acknowledgement, from just before `since` on.
    pub(super) fn longest_silence(&self, since: Instant) -> Duration {
        let before = self.times.partition_point(|at| *at <= since).saturating_sub(1);
        self.times[before..].windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }
}
