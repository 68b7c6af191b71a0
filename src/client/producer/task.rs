//! The task behind a producer: sends batches to the leader, whoever that is by now, until each is
//! answered.
//!
//! Three rules, called by these names in comments. R1: when the leadership changes, everything
//! unacknowledged is sent to the new leader at once and in order, while old requests may still
//! answer; the trail takes each (producer, seq) once, so the first verified answer wins. R2: a
//! leader hint is followed at once, but only once a term. R3: without a leader nothing is sent; the
//! nodes push the news. A batch leaves the ring only with receipts or with a definite refusal.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::{Aborted, abortable};
use futures_util::stream::FuturesUnordered;
use indelible_core::{Kind, LeafIndex, ProducerId};
use indelible_proto::v1::AppendRequest;
use indelible_proto::{Reason, Rejected};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::Ask;
use super::receipt::{AckLevel, Receipts, Sent, verify_proven};
use super::ring::{Item, Ring};
use crate::call::Patience;
use crate::error::Failure;
use crate::table::{Link, Route};
use crate::{Alarm, AppendError, Client, Evidence, RolledBack};

/// Items taken from the inbox at once.
const INBOX_MAX: usize = 1024;
/// How often a leader may say what cannot be (a gap where there is none, a producer that it does
/// not know) before it is taken at its word: a new one may answer so while it still catches up with
/// its own log.
const IMPOSSIBLE_MAX: u32 = 20;
/// Attempts of one batch that are awaited at once; the oldest is given up.
const UNDER_WAY_MAX: usize = 2;

/// What the producer was opened as.
#[derive(Clone, Copy)]
pub(super) struct Opened {
    pub(super) id: ProducerId,
    pub(super) epoch: u64,
    pub(super) opened: LeafIndex,
}

/// What the last attempt met, for callers whose deadline passes.
#[derive(Clone, Default)]
pub(super) struct Progress(Arc<Mutex<Option<String>>>);

impl Progress {
    /// In words, or `otherwise` if nothing went wrong.
    pub(super) fn last(&self, otherwise: &str) -> String {
        let last = self.0.lock().expect("nothing panics while it holds this lock");
        last.clone().unwrap_or_else(|| otherwise.to_owned())
    }

    fn set(&self, last: Option<String>) {
        *self.0.lock().expect("nothing panics while it holds this lock") = last;
    }
}

/// The owner of a producer's state.
pub(super) struct ProducerTask {
    client: Client,
    opened: Opened,
    ask: Ask,
    inbox: mpsc::Receiver<Item>,
    /// Every handle is gone; nothing new comes.
    closed: bool,
    ring: Ring,
    /// Requests under way. Polled here and not spawned, so that they enter the connection in order.
    attempts: FuturesUnordered<UnderWay>,
    /// Whom the batches were sent to: (term, node).
    leadership: Option<(u64, u64)>,
    /// Nothing is sent to this leader before.
    pause: Option<Instant>,
    patience: Patience,
    /// Impossible answers since the last good one.
    impossible: u32,
    /// Why nothing new is accepted.
    stopped: Option<Arc<AppendError>>,
    progress: Progress,
}

/// One request, until it ends or is given up.
type UnderWay = Pin<Box<dyn Future<Output = Result<Attempt, Aborted>> + Send>>;

/// How one request ended.
struct Attempt {
    batch: u64,
    /// The batch's count of attempts when it was sent.
    number: u32,
    link: Link,
    leadership: (u64, u64),
    result: Result<Receipts, Error>,
}

enum Error {
    Failure(Failure),
    /// The seq that does not fit, and what.
    Receipt(u64, String),
}

impl ProducerTask {
    pub(super) fn new(
        client: Client,
        opened: Opened,
        ask: Ask,
        ring: Ring,
        inbox: mpsc::Receiver<Item>,
        progress: Progress,
    ) -> ProducerTask {
        ProducerTask {
            client,
            opened,
            ask,
            inbox,
            closed: false,
            ring,
            attempts: FuturesUnordered::new(),
            leadership: None,
            pause: None,
            patience: Patience::new(),
            impossible: 0,
            stopped: None,
            progress,
        }
    }

    /// Until every handle is gone and nobody waits for an outcome.
    pub(super) async fn run(mut self) {
        let mut changes = self.client.table().subscribe();
        let mut arrived = Vec::new();
        loop {
            changes.mark_unchanged();
            self.dispatch();
            if self.is_done() {
                break;
            }
            tokio::select! {
                count = self.inbox.recv_many(&mut arrived, INBOX_MAX), if !self.closed => {
                    self.closed = count == 0;
                    arrived.drain(..).for_each(|item| self.ring.push(item));
                }
                Some(ended) = self.attempts.next() => {
                    if let Ok(attempt) = ended {
                        self.on_end(attempt);
                    }
                }
                _ = changes.changed() => {}
                () = pause_over(self.pause) => self.pause = None,
            }
            if self.attempts.is_empty() {
                // The callers that this answer woke are about to append again: one request for all
                // of them, not one for the first and another for the rest.
                tokio::task::yield_now().await;
                while let Ok(item) = self.inbox.try_recv() {
                    self.ring.push(item);
                }
            }
        }
        let unresolved: usize = self.ring.batches.iter().map(|batch| batch.events.len()).sum();
        if unresolved > 0 {
            tracing::warn!(unresolved, producer = %self.opened.id, "closed with unknown outcomes");
        }
    }

    fn is_done(&self) -> bool {
        let awaited = self.ring.batches.iter().any(|batch| batch.is_awaited());
        self.closed && self.ring.is_queue_empty() && !awaited
    }

    /// Sends whatever may be sent now.
    fn dispatch(&mut self) {
        if let Some(error) = &self.stopped {
            self.ring.fail_queue(error);
        }
        let Some(route) = self.client.table().leader() else {
            if !self.ring.batches.is_empty() || !self.ring.is_queue_empty() {
                self.progress.set(Some(self.client.table().why_no_leader()));
            }
            return;
        };
        if self.leadership != Some(route.leadership()) {
            self.leadership = Some(route.leadership());
            self.pause = None;
            for batch in &mut self.ring.batches {
                batch.waiting = true;
                batch.gapped = false;
            }
        }
        if self.pause.is_some() {
            return;
        }
        for position in 0..self.ring.batches.len() {
            let batch = &self.ring.batches[position];
            if batch.waiting && (position == 0 || !batch.gapped) {
                self.send(position, &route);
            }
        }
        while self.ring.form_batch() {
            self.send(self.ring.batches.len() - 1, &route);
        }
    }

    fn send(&mut self, position: usize, route: &Route) {
        let batch = &mut self.ring.batches[position];
        batch.waiting = false;
        batch.attempts += 1;
        let attempt = request(
            self.client.clone(),
            route.clone(),
            (self.opened, self.ask),
            (batch.id, batch.attempts),
            (batch.first_seq, batch.events.clone()),
        );
        let (attempt, handle) = abortable(attempt);
        batch.under_way.push(handle);
        if batch.under_way.len() > UNDER_WAY_MAX {
            batch.under_way.remove(0).abort();
        }
        self.attempts.push(Box::pin(attempt));
    }

    fn on_end(&mut self, attempt: Attempt) {
        // Answered through another attempt, or failed.
        let Some(position) = self.ring.position(attempt.batch) else { return };
        match attempt.result {
            Ok(receipts) => {
                self.client.table().saw_tree_size(receipts.tree_size());
                self.patience.reset();
                self.impossible = 0;
                self.progress.set(None);
                let batch = self.ring.batches.remove(position).expect("the position was found");
                self.client.note_acknowledged(self.opened.id, batch.end_seq() - 1);
                self.look_after(&receipts, &attempt.link);
                batch.resolve(&receipts);
            }
            Err(Error::Receipt(seq, what)) => {
                let (node_id, addr) = (attempt.link.node_id, attempt.link.addr.to_string());
                let evidence = Evidence::new([], format!("the receipt for seq {seq}"));
                self.client.accuse(&attempt.link, format!("its receipt: {what}"), evidence);
                self.stop(position, &AppendError::ReceiptBroken { node_id, addr, seq, what });
            }
            // While a newer attempt is under way, only that one's failure counts.
            Err(_) if attempt.number != self.ring.batches[position].attempts => {}
            Err(Error::Failure(failure)) => {
                self.progress.set(Some(failure.text()));
                self.on_failure(position, &failure, &attempt.link, attempt.leadership);
            }
        }
    }

    /// With a policy: receipts are settled in the background, and their checkpoints linked.
    fn look_after(&self, receipts: &Receipts, link: &Link) {
        let Some(settling) = self.client.trust().settling.get() else { return };
        if !receipts.verification().is_verified() {
            settling.keep(receipts, self.opened.id, link);
        } else if let Some(proof) = receipts.proofs().first() {
            settling.link(&proof.checkpoint);
        }
    }

    fn on_failure(&mut self, position: usize, failure: &Failure, link: &Link, led: (u64, u64)) {
        self.ring.batches[position].waiting = true;
        let table = self.client.table();
        if let Failure::Rejected(rejected) = failure {
            let boxed = || Box::new(rejected.clone());
            match rejected.reason {
                Reason::SeqConflict => return self.stop(position, &AppendError::Conflict(boxed())),
                Reason::ProducerFenced => {
                    return self.stop(position, &AppendError::Fenced(boxed()));
                }
                // Overtaken by a later request: rewind to what the node expects by waiting for what
                // is before.
                Reason::SeqGap if position > 0 => {
                    self.ring.batches[position].gapped = true;
                    return;
                }
                Reason::SeqGap | Reason::ProducerUnknown => {
                    return self.on_impossible(position, rejected);
                }
                // Not of the request, but of this attempt: an earlier one may be recorded.
                Reason::Unauthenticated | Reason::Forbidden
                    if self.ring.batches[position].attempts > 1 =>
                {
                    return self.stop_unknown(position, &AppendError::Rejected(boxed()));
                }
                Reason::Invalid
                | Reason::TooLarge
                | Reason::Unauthenticated
                | Reason::Forbidden => {
                    return self.stop(position, &AppendError::Rejected(boxed()));
                }
                _ => {}
            }
        }
        // One failure says what to do: those of other requests to the same leader say the same
        // again, and those of an older leadership say nothing any more.
        let is_first = self.pause.is_none() && self.leadership == Some(led);
        let is_current = table.leader().is_some_and(|route| route.leadership() == led);
        if !is_first || !is_current {
            if matches!(failure, Failure::Broken(_)) {
                link.suspect();
            }
            return;
        }
        match self.patience.after(failure, link, table) {
            Ok(delay) => self.pause = Some(Instant::now() + delay),
            Err(rejected) => self.stop(position, &AppendError::Rejected(Box::new(rejected))),
        }
    }

    /// The first batch in line is refused for something that was acknowledged before.
    fn on_impossible(&mut self, position: usize, rejected: &Rejected) {
        self.impossible += 1;
        if self.impossible > IMPOSSIBLE_MAX {
            let first_seq = self.ring.batches[position].first_seq;
            tracing::error!(first_seq, %rejected, "refused for what cannot be");
            let error = self.rolled_back(rejected);
            let refused = || AppendError::Rejected(Box::new(rejected.clone()));
            return self.stop(position, &error.unwrap_or_else(refused));
        }
        self.pause = Some(Instant::now() + self.patience.tick());
    }

    /// Whether the trail lacks what it had acknowledged to this client.
    fn rolled_back(&self, rejected: &Rejected) -> Option<AppendError> {
        let (producer, known) = (self.opened.id, self.client.last_acknowledged(self.opened.id));
        let last_seq = match rejected.reason {
            Reason::SeqGap => rejected.expected()?.saturating_sub(1),
            // It does not know the producer at all.
            _ => 0,
        };
        if last_seq >= known {
            return None;
        }
        let rolled_back = RolledBack::Producer { producer, known, last_seq };
        self.client.trust().alarms.raise(Alarm::RolledBack(rolled_back.clone()));
        Some(AppendError::RolledBack(Box::new(rolled_back)))
    }

    /// Fails one batch for good. What is behind it cannot keep its seq, so the producer stops; what
    /// is before it goes on.
    fn stop(&mut self, position: usize, error: &AppendError) {
        if position < self.ring.batches.len()
            && let Some(batch) = self.ring.batches.remove(position)
        {
            batch.fail(|_| error.clone());
        }
        self.stop_unknown(position, error);
    }

    /// As [`Self::stop`], if not even the batch that was refused is known not to be recorded.
    fn stop_unknown(&mut self, position: usize, error: &AppendError) {
        for batch in self.ring.batches.split_off(position) {
            let last = format!("the producer stopped: {error}");
            batch.fail(|seq| AppendError::Unknown { seq, last: last.clone() });
        }
        self.stopped.get_or_insert_with(|| Arc::new(error.clone()));
    }
}

/// One request, to its verified end.
async fn request(
    client: Client,
    route: Route,
    (opened, ask): (Opened, Ask),
    (batch, number): (u64, u32),
    (first_seq, events): (u64, Vec<Bytes>),
) -> Attempt {
    let is_proven = ask.ack > AckLevel::Durable;
    let proof_wait = if is_proven { ask.proof_wait } else { Duration::ZERO };
    let limit = client.options().attempt_timeout + proof_wait;
    let request = AppendRequest {
        producer_id: Bytes::copy_from_slice(&opened.id.0),
        epoch: opened.epoch,
        first_seq,
        events: events.clone(),
        kind: indelible_proto::v1::Kind::Event.into(),
        ack: ask.ack.to_wire().into(),
        proof_wait_ms: proof_wait.as_millis() as u32,
        ..Default::default()
    };
    let (leadership, link) = (route.leadership(), route.link);
    let in_flight = link.begin();
    let result = match timeout(limit, link.audit().append(request)).await {
        Err(_) => Err(Error::Failure(Failure::TimedOut(limit))),
        Ok(Err(status)) => Err(Error::Failure(status.into())),
        Ok(Ok(response)) => {
            let (kind, opened) = (Kind::Event, opened.opened);
            let sent = Sent { first_seq, events: &events, kind, opened };
            verify_proven(&client, &sent, response.into_inner())
                .map_err(|(seq, what)| Error::Receipt(seq, what))
        }
    };
    drop(in_flight);
    Attempt { batch, number, link, leadership, result }
}

async fn pause_over(pause: Option<Instant>) {
    match pause {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}
