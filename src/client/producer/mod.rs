//! Appending: one producer numbers events and gets each of them into the trail once.
//!
//! [`Producer`] is a cheap handle that any number of callers share; behind it one [`task`] numbers
//! events in order of arrival, sends what has gathered as soon as nothing is in flight (an idle
//! producer never waits for more), and repeats what is unacknowledged under the same seq until a
//! node answers. [`receipt`] checks every answer.

pub(crate) mod partial;
pub(crate) mod receipt;
mod request;
mod ring;
mod task;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Duration;

use bytes::Bytes;
use indelible_core::limits::{APPEND_BYTES_MAX, APPEND_EVENTS_MAX, PROOF_WAIT_MS_MAX};
use indelible_core::{LeafIndex, ProducerId};
use indelible_proto::v1::{Event, OpenProducerRequest};
use prost::Message;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::call::{OnUnknown, call_leader};
use crate::options::{BUFFER_BYTES_DEFAULT, WINDOW_DEFAULT};
use crate::{Alarm, AppendError, CallError, Client, RolledBack};
use partial::Part;
use receipt::{AckLevel, Receipt, Receipts};
use request::{check_request, chunks};
use ring::{Item, Ring};
use task::{ProducerTask, Progress};

/// What an event costs in the buffer besides its bytes.
const EVENT_OVERHEAD_BYTES: usize = 128;
/// Smallest buffer: two requests of the largest size.
const BUFFER_BYTES_MIN: usize = 2 * (APPEND_BYTES_MAX + APPEND_EVENTS_MAX * EVENT_OVERHEAD_BYTES);
/// How long the proof of an append may take, unless told otherwise.
const PROOF_WAIT_DEFAULT: Duration = Duration::from_secs(5);
/// Items that wait for the task. The buffer's bytes are the real limit.
const ITEMS_MAX: usize = 4096;

/// A producer about to be opened; made by [`Client::producer`].
#[derive(Clone)]
pub struct ProducerOptions {
    client: Client,
    id: ProducerId,
    name: String,
    window: usize,
    buffer_bytes_max: usize,
    timeout: Duration,
    known_last_seq: u64,
    ask: Ask,
}

/// What is asked of every append.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask {
    pub(crate) ack: AckLevel,
    /// How long the proof may take.
    pub(crate) proof_wait: Duration,
}

impl ProducerOptions {
    pub(crate) fn new(client: Client, id: ProducerId, name: String) -> ProducerOptions {
        ProducerOptions {
            id,
            name,
            window: WINDOW_DEFAULT,
            buffer_bytes_max: BUFFER_BYTES_DEFAULT,
            timeout: client.options().request_timeout,
            known_last_seq: 0,
            ask: Ask { ack: AckLevel::Durable, proof_wait: PROOF_WAIT_DEFAULT },
            client,
        }
    }

    /// How much has to be true of an event before its append returns. If there is no proof within
    /// [`ProducerOptions::proof_wait`], it returns all the same, as the event is recorded: the
    /// receipt says which level was reached. Default: durable.
    #[must_use]
    pub fn ack(mut self, ack: AckLevel) -> Self {
        self.ask.ack = ack;
        self
    }

    /// Beyond durable: how long to wait for the proof. Default 5 s, at most a minute.
    #[must_use]
    pub fn proof_wait(mut self, wait: Duration) -> Self {
        let longest = Duration::from_millis(PROOF_WAIT_MS_MAX.into());
        self.ask.proof_wait = wait.clamp(Duration::from_millis(1), longest);
        self
    }

    /// The last seq of this producer that is known to have been acknowledged, from a spool or an
    /// earlier run. If the trail lacks it, opening fails: it was rolled back. What was acknowledged
    /// to this very client is known anyway.
    #[must_use]
    pub fn known_last_seq(mut self, seq: u64) -> Self {
        self.known_last_seq = seq;
        self
    }

    /// Requests in flight at most, from 1. More than one are sent only while large ones are
    /// waiting. Default 4.
    #[must_use]
    pub fn window(mut self, requests: usize) -> Self {
        self.window = requests.max(1);
        self
    }

    /// Bytes of events held at most, sent or not; past it `append` waits for space. Default 32 MiB,
    /// at least 2 MiB.
    #[must_use]
    pub fn buffer_bytes_max(mut self, bytes: usize) -> Self {
        self.buffer_bytes_max = bytes.clamp(BUFFER_BYTES_MIN, u32::MAX as usize);
        self
    }

    /// Deadline of appends that have none of their own. Default: the client's `request_timeout`.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Opens the producer under a new epoch, which fences every older instance. Recorded in the
    /// trail.
    ///
    /// # Errors
    /// [`CallError::RolledBack`] if the trail lacks events that were acknowledged.
    pub async fn open(self) -> Result<Producer, CallError> {
        let request = OpenProducerRequest {
            producer_id: Bytes::copy_from_slice(&self.id.0),
            name: self.name.clone(),
            public_key: Bytes::new(),
        };
        let options = self.client.options();
        let (attempt, limit) = (options.attempt_timeout, options.request_timeout);
        let table = self.client.table();
        // Opening twice only raises the epoch twice.
        let opened = call_leader(table, attempt, limit, OnUnknown::Repeat, |link| {
            let request = request.clone();
            async move { Ok(link.audit().open_producer(request).await?.into_inner()) }
        })
        .await?;
        let known = self.known_last_seq.max(self.client.last_acknowledged(self.id));
        if opened.last_seq < known {
            let (producer, last_seq) = (self.id, opened.last_seq);
            let rolled_back = RolledBack::Producer { producer, known, last_seq };
            self.client.trust().alarms.raise(Alarm::RolledBack(rolled_back.clone()));
            return Err(CallError::RolledBack(Box::new(rolled_back)));
        }
        let space = Arc::new(Semaphore::new(self.buffer_bytes_max));
        let (items, inbox) = mpsc::channel(ITEMS_MAX);
        let progress = Progress::default();
        let task = ProducerTask::new(
            self.client,
            task::Opened { id: self.id, epoch: opened.epoch, opened: opened.opened },
            self.ask,
            Ring::new(opened.last_seq + 1, self.window, self.ask.ack),
            inbox,
            progress.clone(),
        );
        tokio::spawn(task.run());
        let shared = Shared {
            id: self.id,
            epoch: opened.epoch,
            opened: opened.opened,
            last_seq: opened.last_seq,
            known: opened.known,
            timeout: self.timeout,
            items,
            space,
            progress,
        };
        Ok(Producer { shared: Arc::new(shared) })
    }
}

/// An open producer. Cloning shares it: events of all clones are numbered in order of arrival.
#[derive(Clone)]
pub struct Producer {
    shared: Arc<Shared>,
}

struct Shared {
    id: ProducerId,
    epoch: u64,
    opened: LeafIndex,
    last_seq: u64,
    known: bool,
    timeout: Duration,
    items: mpsc::Sender<Item>,
    /// Free bytes of the buffer.
    space: Arc<Semaphore>,
    progress: Progress,
}

impl Producer {
    /// Appends one event and waits until it is on the disks of a majority.
    ///
    /// Dropping the future gives up waiting, not the event: once sent it is sent until its outcome
    /// is known.
    ///
    /// # Errors
    /// See [`AppendError`]; an unknown outcome is never reported as a failure.
    pub async fn append(&self, event: Event) -> Result<Receipt, AppendError> {
        self.append_with_deadline(event, Instant::now() + self.shared.timeout).await
    }

    /// [`Producer::append`] that waits until `deadline` at most.
    pub async fn append_with_deadline(
        &self,
        event: Event,
        deadline: Instant,
    ) -> Result<Receipt, AppendError> {
        let events = vec![Bytes::from(event.encode_to_vec())];
        let receipts = self.submit_with(None, events, deadline).await?.await_receipts().await?;
        receipts.get(0).ok_or_else(|| AppendError::Invalid("no receipt for the event".into()))
    }

    /// Appends many events, in order, as few requests.
    ///
    /// # Errors
    /// [`AppendError::Invalid`] before anything is sent if one of them can never be accepted;
    /// [`AppendError::Partial`] if it took several requests and some have no receipts.
    pub async fn append_bulk(
        &self,
        events: impl IntoIterator<Item = Event>,
    ) -> Result<Receipts, AppendError> {
        let events = events.into_iter().map(|event| event.encode_to_vec().into()).collect();
        self.append_encoded(events).await
    }

    /// Appends many events that are encoded already ([`indelible_proto::v1::Event`]), in order.
    pub async fn append_encoded(&self, events: Vec<Bytes>) -> Result<Receipts, AppendError> {
        self.append_chunks(None, events).await
    }

    /// Appends events that the caller numbers itself, from `first_seq`: at most one past the last
    /// seq of this producer. Seqs that are in the trail already are answered with their first
    /// receipts, if the content is the same.
    pub async fn append_at(
        &self,
        first_seq: u64,
        events: Vec<Bytes>,
    ) -> Result<Receipts, AppendError> {
        self.append_chunks(Some(first_seq), events).await
    }

    /// Hands over the events of one request, numbered from `first_seq` if given, and returns as
    /// soon as there was space for them: the [`Ticket`] waits for the receipts. This is how to keep
    /// many events in flight.
    ///
    /// # Errors
    /// [`AppendError::Invalid`] past `APPEND_EVENTS_MAX` events, `APPEND_BYTES_MAX` bytes or, for
    /// one event, `EVENT_BYTES_MAX`; [`AppendError::NotSent`] if there was no space before the
    /// deadline.
    pub async fn submit(
        &self,
        first_seq: Option<u64>,
        events: Vec<Bytes>,
    ) -> Result<Ticket, AppendError> {
        self.submit_with(first_seq, events, Instant::now() + self.shared.timeout).await
    }

    /// The producer's id.
    pub fn id(&self) -> ProducerId {
        self.shared.id
    }

    /// The epoch it was opened under.
    pub fn epoch(&self) -> u64 {
        self.shared.epoch
    }

    /// Leaf index of the record that opened it.
    pub fn opened(&self) -> LeafIndex {
        self.shared.opened
    }

    /// The last seq in the trail when it was opened, 0 if none.
    pub fn last_seq(&self) -> u64 {
        self.shared.last_seq
    }

    /// Whether the trail knew the producer before.
    pub fn known(&self) -> bool {
        self.shared.known
    }

    async fn append_chunks(
        &self,
        first_seq: Option<u64>,
        events: Vec<Bytes>,
    ) -> Result<Receipts, AppendError> {
        let deadline = Instant::now() + self.shared.timeout;
        let (mut next, mut checked) = (0, Vec::new());
        for chunk in chunks(events) {
            let events = next..next + chunk.len();
            let seq = first_seq.map(|seq| seq + next as u64);
            let bytes = check_request(seq, next, &chunk)?;
            next = events.end;
            checked.push((events, seq, chunk, bytes));
        }
        // Not before all of them are known to be acceptable.
        let mut tickets = Vec::with_capacity(checked.len());
        for (events, seq, chunk, bytes) in checked {
            tickets.push((events, self.hand_over(seq, chunk, bytes, deadline).await));
        }
        // All of them, whatever became of the first: what was handed over is sent.
        let mut parts = Vec::with_capacity(tickets.len());
        for (events, ticket) in tickets {
            let outcome = match ticket {
                Ok(ticket) => ticket.await_receipts().await,
                Err(error) => Err(error),
            };
            parts.push(Part { events, outcome });
        }
        partial::whole(parts)
    }

    async fn submit_with(
        &self,
        first_seq: Option<u64>,
        events: Vec<Bytes>,
        deadline: Instant,
    ) -> Result<Ticket, AppendError> {
        let bytes = check_request(first_seq, 0, &events)?;
        self.hand_over(first_seq, events, bytes, deadline).await
    }

    /// Events of one request that was checked.
    async fn hand_over(
        &self,
        first_seq: Option<u64>,
        events: Vec<Bytes>,
        bytes: usize,
        deadline: Instant,
    ) -> Result<Ticket, AppendError> {
        let started = Instant::now();
        let cost = u32::try_from(bytes + events.len() * EVENT_OVERHEAD_BYTES)
            .expect("a request's limits are far smaller than 2^32");
        let (reply, receipts) = oneshot::channel();
        let first_sent = Arc::new(AtomicU64::new(0));
        let hand_over = async {
            let space = self.shared.space.clone().acquire_many_owned(cost).await.ok()?;
            let sent = first_sent.clone();
            let item = Item { first_seq, events, bytes, first_sent: sent, reply, space };
            self.shared.items.send(item).await.ok()
        };
        let not_sent = |last| AppendError::NotSent { waited: started.elapsed(), last };
        match timeout_at(deadline, hand_over).await {
            Err(_) => Err(not_sent(self.shared.progress.last("the buffer is full"))),
            Ok(None) => Err(not_sent("the producer's task has ended".into())),
            Ok(Some(())) => {
                let progress = self.shared.progress.clone();
                Ok(Ticket { receipts, first_sent, progress, started, deadline })
            }
        }
    }
}

/// Events under way.
#[must_use = "nothing is known about the events until their receipts are awaited"]
pub struct Ticket {
    receipts: oneshot::Receiver<Result<Receipts, AppendError>>,
    /// Seq of the first event once it was sent, 0 before; written by the task.
    first_sent: Arc<AtomicU64>,
    progress: Progress,
    started: Instant,
    deadline: Instant,
}

impl Ticket {
    /// Waits for the receipts, or for the deadline.
    pub async fn await_receipts(mut self) -> Result<Receipts, AppendError> {
        match timeout_at(self.deadline, &mut self.receipts).await {
            Ok(Ok(outcome)) => return outcome,
            // The task ended with its runtime.
            Ok(Err(_)) => {}
            Err(_) => self.receipts.close(),
        }
        // Pairs with the fence in the task: either it sees the closed channel and does not send, or
        // its seq is seen here.
        fence(Ordering::SeqCst);
        if let Ok(outcome) = self.receipts.try_recv() {
            return outcome;
        }
        let waited = self.started.elapsed();
        let last = self.progress.last("no answer yet");
        match self.first_sent.load(Ordering::SeqCst) {
            0 => Err(AppendError::NotSent { waited, last }),
            seq => Err(AppendError::Unknown { seq, last }),
        }
    }
}
