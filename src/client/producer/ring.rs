//! What a producer holds: events that wait, and batches that were sent and are not answered. Pure
//! state: no network, no clock.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use bytes::Bytes;
use futures_util::future::AbortHandle;
use indelible_core::limits::{APPEND_BYTES_MAX, APPEND_EVENTS_MAX};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::receipt::{AckLevel, Receipts};
use crate::AppendError;

/// Bytes that must be waiting before a batch is sent while another is in flight. Less waits for the
/// answer, which is on its way: many small requests cost more than they gain.
const PIPELINE_BYTES_MIN: usize = 64 * 1024;

/// Who waits for the receipts.
pub(super) type Reply = oneshot::Sender<Result<Receipts, AppendError>>;

/// Events of one call, at most one request's worth. They stay together.
pub(super) struct Item {
    /// The caller's own number for the first event.
    pub(super) first_seq: Option<u64>,
    pub(super) events: Vec<Bytes>,
    /// Sum of the events' sizes.
    pub(super) bytes: usize,
    /// Where the caller reads whether, and under which seq, its events were sent.
    pub(super) first_sent: Arc<AtomicU64>,
    pub(super) reply: Reply,
    /// Its share of the buffer, given back when the outcome is known.
    pub(super) space: OwnedSemaphorePermit,
}

/// Consecutive events that are sent as one request, again and again until it is answered.
pub(super) struct Batch {
    /// Differs for every batch of the producer.
    pub(super) id: u64,
    pub(super) first_seq: u64,
    pub(super) events: Vec<Bytes>,
    /// Callers, in order of their events.
    parts: Vec<Part>,
    bytes: usize,
    /// To be sent, for the first time or again.
    pub(super) waiting: bool,
    /// A node missed what comes before it: sent again only when nothing is before it.
    pub(super) gapped: bool,
    /// Attempts so far. Failures of older attempts mean nothing while a newer one is under way.
    pub(super) attempts: u32,
    /// Attempts under way. The first verified answer wins.
    pub(super) under_way: Vec<AbortHandle>,
}

struct Part {
    count: usize,
    reply: Reply,
    _space: OwnedSemaphorePermit,
}

impl Batch {
    fn new(id: u64, first_seq: u64) -> Batch {
        Batch {
            id,
            first_seq,
            events: Vec::new(),
            parts: Vec::new(),
            bytes: 0,
            waiting: true,
            gapped: false,
            attempts: 0,
            under_way: Vec::new(),
        }
    }

    /// One past the last seq.
    pub(super) fn end_seq(&self) -> u64 {
        self.first_seq + self.events.len() as u64
    }

    /// Gives every caller its receipts.
    pub(super) fn resolve(self, receipts: &Receipts) {
        let mut start = 0;
        for part in self.parts {
            let end = start + part.count;
            // A caller that stopped waiting is no error.
            let _ = part.reply.send(Ok(receipts.slice(start..end)));
            start = end;
        }
        self.under_way.iter().for_each(AbortHandle::abort);
    }

    /// Gives every caller an error, made from the seq of its first event.
    pub(super) fn fail(self, error: impl Fn(u64) -> AppendError) {
        let mut seq = self.first_seq;
        for part in self.parts {
            let _ = part.reply.send(Err(error(seq)));
            seq += part.count as u64;
        }
        self.under_way.iter().for_each(AbortHandle::abort);
    }

    /// Whether anybody still waits for it.
    pub(super) fn is_awaited(&self) -> bool {
        self.parts.iter().any(|part| !part.reply.is_closed())
    }
}

/// Events that wait, batches in flight, and the numbering.
pub(super) struct Ring {
    /// Not sent yet, in order of arrival. Bounded by the producer's buffer.
    queue: VecDeque<Item>,
    queue_bytes: usize,
    /// In order of first sending; at most `window`.
    pub(super) batches: VecDeque<Batch>,
    window: usize,
    /// Bytes that must be waiting before a batch is sent while another is in flight.
    pipeline_bytes_min: usize,
    /// What the next event that has no number gets.
    next_seq: u64,
    /// Batches made so far.
    made: u64,
}

impl Ring {
    pub(super) fn new(next_seq: u64, window: usize, ack: AckLevel) -> Ring {
        let (queue, batches) = (VecDeque::new(), VecDeque::new());
        // A witness may take seconds. Proofs take one round trip more, and cost by the request.
        let pipeline_bytes_min = if ack > AckLevel::Proven { 1 } else { PIPELINE_BYTES_MIN };
        Ring { queue, queue_bytes: 0, batches, window, pipeline_bytes_min, next_seq, made: 0 }
    }

    pub(super) fn push(&mut self, item: Item) {
        self.queue_bytes += item.bytes;
        self.queue.push_back(item);
    }

    pub(super) fn is_queue_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Makes a batch of what waits, if one may be sent now: at once when nothing is in flight,
    /// otherwise when enough has gathered and the window allows it. Returns whether it did.
    pub(super) fn form_batch(&mut self) -> bool {
        let in_flight = self.batches.len();
        let hold = in_flight > 0 && self.queue_bytes < self.pipeline_bytes_min;
        if in_flight >= self.window || hold {
            return false;
        }
        let mut batch: Option<Batch> = None;
        while let Some(item) = self.queue.front() {
            let first_seq = item.first_seq.unwrap_or(self.next_seq);
            if batch.as_ref().is_some_and(|batch| !fits(batch, first_seq, item)) {
                break;
            }
            let Some(item) = self.take_front(first_seq) else { continue };
            let made = self.made;
            let batch = batch.get_or_insert_with(|| Batch::new(made, first_seq));
            batch.bytes += item.bytes;
            batch.parts.push(Part {
                count: item.events.len(),
                reply: item.reply,
                _space: item.space,
            });
            batch.events.extend(item.events);
            self.next_seq = self.next_seq.max(batch.end_seq());
        }
        let Some(batch) = batch else { return false };
        self.made += 1;
        self.batches.push_back(batch);
        true
    }

    /// Takes the first item out of the queue. None if it is not to be sent: its caller is gone, or
    /// its number leaves a gap.
    fn take_front(&mut self, first_seq: u64) -> Option<Item> {
        let item = self.queue.pop_front()?;
        self.queue_bytes -= item.bytes;
        if first_seq > self.next_seq {
            let _ = item.reply.send(Err(AppendError::Invalid(format!(
                "seq {first_seq} leaves a gap: the next seq of this producer is {}",
                self.next_seq
            ))));
            return None;
        }
        item.first_sent.store(first_seq, Ordering::SeqCst);
        // Pairs with the fence in the ticket: either the caller sees the seq, or its giving up is
        // seen here and nothing is sent. Both at once are harmless: the outcome is then called
        // unknown although nothing was sent.
        fence(Ordering::SeqCst);
        (!item.reply.is_closed()).then_some(item)
    }

    /// Fails everything that was not sent.
    pub(super) fn fail_queue(&mut self, error: &Arc<AppendError>) {
        for item in self.queue.drain(..) {
            let _ = item.reply.send(Err(AppendError::Stopped(error.clone())));
        }
        self.queue_bytes = 0;
    }

    /// Where a batch is, unless it was answered.
    pub(super) fn position(&self, id: u64) -> Option<usize> {
        self.batches.iter().position(|batch| batch.id == id)
    }
}

/// Whether an item can go into a batch that others are in.
fn fits(batch: &Batch, first_seq: u64, item: &Item) -> bool {
    first_seq == batch.end_seq()
        && batch.bytes + item.bytes <= APPEND_BYTES_MAX
        && batch.events.len() + item.events.len() <= APPEND_EVENTS_MAX
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::Semaphore;

    type Outcome = oneshot::Receiver<Result<Receipts, AppendError>>;

    fn item(first_seq: Option<u64>, sizes: &[usize]) -> (Item, Outcome) {
        let space = Arc::new(Semaphore::new(1)).try_acquire_owned().expect("one is free");
        let (reply, outcome) = oneshot::channel();
        let events: Vec<_> = sizes.iter().map(|size| Bytes::from(vec![0; *size])).collect();
        let bytes = sizes.iter().sum();
        (Item { first_seq, events, bytes, first_sent: Arc::default(), reply, space }, outcome)
    }

    fn spans(ring: &Ring) -> Vec<(u64, u64)> {
        ring.batches.iter().map(|batch| (batch.first_seq, batch.end_seq())).collect()
    }

    #[test]
    fn an_idle_producer_sends_at_once_and_a_busy_one_gathers() {
        let mut ring = Ring::new(1, 4, AckLevel::Durable);
        let mut outcomes = Vec::new();
        let mut push = |ring: &mut Ring, sizes: &[usize]| {
            let (item, outcome) = item(None, sizes);
            outcomes.push(outcome);
            ring.push(item);
        };
        push(&mut ring, &[10]);
        assert!(ring.form_batch());
        push(&mut ring, &[10]);
        push(&mut ring, &[10, 10]);
        assert!(!ring.form_batch(), "a small batch waits for the one in flight");
        push(&mut ring, &[PIPELINE_BYTES_MIN]);
        assert!(ring.form_batch());
        assert_eq!(spans(&ring), [(1, 2), (2, 6)]);
        for _ in 0..8 {
            push(&mut ring, &[APPEND_BYTES_MAX / 2 + 1]);
        }
        while ring.form_batch() {}
        assert_eq!(spans(&ring), [(1, 2), (2, 6), (6, 7), (7, 8)], "the window is 4");
    }

    #[test]
    fn proven_events_gather_and_witnessed_ones_do_not_wait() {
        for (ack, waits) in [(AckLevel::Proven, true), (AckLevel::Witnessed, false)] {
            let mut ring = Ring::new(1, 4, ack);
            let (first, _outcome) = item(None, &[10]);
            let (second, _outcome) = item(None, &[10]);
            ring.push(first);
            assert!(ring.form_batch());
            ring.push(second);
            assert_eq!(ring.form_batch(), !waits, "{ack:?}");
        }
    }

    #[test]
    fn own_numbers_may_repeat_but_not_leave_gaps() {
        let mut ring = Ring::new(10, 8, AckLevel::Durable);
        let (replay, _replayed) = item(Some(4), &[1, 1]);
        let (next, _next) = item(Some(10), &[1]);
        let (counted, _counted) = item(None, &[1]);
        let (gap, mut gapped) = item(Some(13), &[1]);
        for item in [replay, next, counted, gap] {
            ring.push(item);
        }
        assert!(ring.form_batch());
        assert!(!ring.form_batch(), "in flight");
        let replayed = ring.batches.pop_front().expect("was sent");
        assert_eq!((replayed.first_seq, replayed.end_seq()), (4, 6));
        assert!(ring.form_batch());
        assert_eq!(spans(&ring), [(10, 12)]);
        ring.batches.clear();
        assert!(!ring.form_batch());
        assert!(matches!(gapped.try_recv(), Ok(Err(AppendError::Invalid(_)))));
    }

    #[test]
    fn what_nobody_waits_for_any_more_is_not_sent_and_takes_no_number() {
        let mut ring = Ring::new(1, 1, AckLevel::Durable);
        let (gone, outcome) = item(None, &[1]);
        drop(outcome);
        let (here, _outcome) = item(None, &[1]);
        ring.push(gone);
        ring.push(here);
        assert!(ring.form_batch());
        assert_eq!(spans(&ring), [(1, 2)]);
    }
}
