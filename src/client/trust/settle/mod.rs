//! Settling: every durable receipt is held against a checkpoint that the policy accepts, later and
//! in the background. A leader that acknowledged what it never replicated is found out here.
//!
//! The append path hands over the receipts of a whole request and goes on; one task gathers them
//! for a second, waits for a checkpoint that covers them, and asks any node for the leaf hashes of
//! that stretch of the trail, with the proof that they are in the checkpoint's tree. Also links the
//! checkpoints of proven appends, which nobody waits for.

mod pending;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use indelible_core::limits::CLIENT_SETTLE_QUEUE_MAX;
use indelible_core::{Hash, ProducerId, RangeProof};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::alarm::Alarm;
use super::evidence::{BrokenReceipt, Evidence, Unsettled, hex_list};
use super::signed::SignedCheckpoint;
use crate::table::Link;
use crate::{CallError, CheckpointOptions, Client, Receipts, WeakClient};
use pending::{Kept, Pending, Span, spans};

/// How long one question for a checkpoint may wait for it.
const CHECKPOINT_WAIT: Duration = Duration::from_secs(2);
/// After a question that nobody answered.
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// Hands receipts and checkpoints to the task.
#[derive(Clone)]
pub(crate) struct Handle {
    work: mpsc::Sender<Work>,
    /// Receipts handed over and not settled.
    waiting: Arc<AtomicUsize>,
    /// Wakes whenever that may be 0.
    settled: watch::Sender<()>,
}

enum Work {
    Receipts(Kept),
    Checkpoint(Arc<SignedCheckpoint>),
}

impl Handle {
    /// Starts the task; it ends with the client.
    pub(crate) fn start(client: WeakClient) -> Handle {
        let (work, inbox) = mpsc::channel(CLIENT_SETTLE_QUEUE_MAX);
        let handle = Handle { work, waiting: Arc::default(), settled: watch::Sender::new(()) };
        let settler = Settler {
            client,
            inbox,
            waiting: handle.waiting.clone(),
            settled: handle.settled.clone(),
            pending: Pending::default(),
            last: "no checkpoint has come yet".into(),
            alarmed: None,
        };
        tokio::spawn(settler.run());
        handle
    }

    /// Receipts to be settled. Never waits: past the limits they are not kept, which is logged.
    pub(crate) fn keep(&self, receipts: &Receipts, producer: ProducerId, link: &Link) {
        let count = receipts.count();
        let (node_id, addr) = (link.node_id, link.addr.clone());
        let since = Instant::now();
        let kept = Kept { receipts: receipts.clone(), producer, node_id, addr, since };
        self.waiting.fetch_add(count, Ordering::Relaxed);
        if self.work.try_send(Work::Receipts(kept)).is_err() {
            self.waiting.fetch_sub(count, Ordering::Relaxed);
            tracing::warn!(count, "receipts are not kept for settling: too many are waiting");
        }
    }

    /// A checkpoint that came with a receipt, to be linked to those seen before.
    pub(crate) fn link(&self, checkpoint: &Arc<SignedCheckpoint>) {
        // What does not fit in the queue is of the same history as what does, or is found out when
        // the receipts behind it are settled.
        let _ = self.work.try_send(Work::Checkpoint(checkpoint.clone()));
    }

    /// Receipts handed over and not settled.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Waits until every receipt that was handed over is settled.
    pub(crate) async fn settled(&self) {
        let mut settled = self.settled.subscribe();
        // The sender is ours: there is no end to wait for.
        let _ = settled.wait_for(|()| self.waiting() == 0).await;
    }
}

/// The owner of what waits.
struct Settler {
    client: WeakClient,
    inbox: mpsc::Receiver<Work>,
    waiting: Arc<AtomicUsize>,
    settled: watch::Sender<()>,
    pending: Pending,
    /// What the last attempt met.
    last: String,
    /// When the last alarm for unsettled receipts was raised.
    alarmed: Option<Instant>,
}

impl Settler {
    /// Until the client is gone. Holds it only while it works.
    async fn run(mut self) {
        loop {
            if self.pending.count() == 0 {
                match self.inbox.recv().await {
                    Some(work) => self.take(work).await,
                    None => return,
                }
            }
            let Some(client) = self.client.upgrade() else { return };
            let every = client.options().settle_every;
            drop(client);
            if !self.gather(Instant::now() + every).await {
                return;
            }
            let Some(client) = self.client.upgrade() else { return };
            if let Err(error) = self.round(&client).await {
                self.last = error.to_string();
                drop(client);
                sleep(RETRY_DELAY).await;
            }
            let Some(client) = self.client.upgrade() else { return };
            self.watch_the_clock(&client);
        }
    }

    /// Takes what comes until then. Returns whether the client is still there.
    async fn gather(&mut self, until: Instant) -> bool {
        loop {
            let work = tokio::select! {
                work = self.inbox.recv() => work,
                () = sleep_until(until) => return true,
            };
            match work {
                Some(work) => self.take(work).await,
                None => return false,
            }
        }
    }

    async fn take(&mut self, work: Work) {
        match work {
            Work::Receipts(kept) => {
                let (count, dropped) = (kept.receipts.count(), self.pending.dropped);
                self.pending.add(kept);
                if self.pending.dropped > dropped {
                    tracing::warn!(count, "receipts are not kept for settling: too many wait");
                    self.done(count);
                }
            }
            Work::Checkpoint(checkpoint) => {
                let Some(client) = self.client.upgrade() else { return };
                // A fork has raised its alarm. What nobody could prove now will be tried again with
                // the next checkpoint.
                if let Err(fault) = client.link_to_seen(None, &checkpoint).await {
                    tracing::debug!(?fault, "the checkpoint of an append is not linked");
                }
            }
        }
    }

    /// Settles what the newest checkpoint covers.
    async fn round(&mut self, client: &Client) -> Result<(), CallError> {
        let Some(size_min) = self.pending.size_min() else { return Ok(()) };
        let options = CheckpointOptions { size_min, wait: CHECKPOINT_WAIT, witnessed: false };
        let found = client.checkpoint(options).await?;
        let usable = |found: &Arc<SignedCheckpoint>| {
            found.is_verified() && found.checkpoint.size >= size_min
        };
        // The policy may want a witness: what has one is seen from time to time.
        let newest = || client.trust().newest();
        let Some(checkpoint) = found.clone().filter(usable).or_else(newest).filter(usable) else {
            let what = match found {
                None => "there is no checkpoint yet".to_owned(),
                Some(found) => found.lacks.clone().unwrap_or_else(|| {
                    format!("the newest checkpoint has size {}", found.checkpoint.size)
                }),
            };
            return Err(CallError::NotProven { what });
        };
        let kept = self.pending.take_covered(checkpoint.checkpoint.size);
        let count: usize = kept.iter().map(|kept| kept.receipts.count()).sum();
        for span in spans(&kept) {
            if let Err(error) = settle(client, &checkpoint, &kept, &span).await {
                // All of them again: asking twice does no harm.
                self.pending.put_back(kept);
                return Err(error);
            }
        }
        self.done(count);
        Ok(())
    }

    fn done(&mut self, count: usize) {
        self.waiting.fetch_sub(count, Ordering::Relaxed);
        self.settled.send_replace(());
    }

    /// Raises the alarm if the oldest receipt has waited too long, and again after as long.
    fn watch_the_clock(&mut self, client: &Client) {
        let Some((first_index, since)) = self.pending.oldest() else { return };
        let limit = client.options().unsettled_max;
        let waited = since.elapsed();
        if waited < limit || self.alarmed.is_some_and(|alarmed| alarmed.elapsed() < limit) {
            return;
        }
        self.alarmed = Some(Instant::now());
        let (count, last) = (self.pending.count(), self.last.clone());
        let unsettled = Unsettled { count, first_index, waited, last };
        client.trust().alarms.raise(Alarm::Unsettled(unsettled));
    }
}

/// Holds a stretch of the trail against the receipts for it. Receipts that do not fit are raised as
/// alarms, and are settled with that.
async fn settle(
    client: &Client,
    checkpoint: &Arc<SignedCheckpoint>,
    kept: &[Kept],
    span: &Span,
) -> Result<(), CallError> {
    let (proof, hashes) = client.prove_range(span.from, span.to, checkpoint).await?;
    for expected in &span.expected {
        let actual = hashes[(expected.index - span.from) as usize];
        if actual == expected.leaf_hash {
            continue;
        }
        let Some((receipt, kept)) = expected.receipt(kept) else { continue };
        client.trust().alarms.raise(Alarm::ReceiptBroken(Box::new(BrokenReceipt {
            receipt,
            producer: kept.producer,
            node_id: kept.node_id,
            addr: kept.addr.to_string(),
            evidence: other_leaf(checkpoint, &proof, &hashes, expected.index),
        })));
    }
    Ok(())
}

/// That the checkpoint's tree holds this leaf at an index.
fn other_leaf(
    checkpoint: &SignedCheckpoint,
    proof: &RangeProof,
    hashes: &[Hash],
    index: u64,
) -> Evidence {
    let leaf = hashes[(index - proof.from) as usize];
    let path = proof.inclusion(hashes, index).unwrap_or_default();
    let size = proof.size;
    let text = format!(
        "leaf {index} of the tree of size {size} has hash {leaf}: path {}",
        hex_list(&path)
    );
    Evidence::new([&checkpoint.note], text)
}
