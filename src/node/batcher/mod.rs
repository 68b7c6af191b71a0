//! From many requests to few log entries.
//!
//! Whatever waits goes into one entry of at most 1 MiB; a few entries may be on the way at once,
//! each proposed under the leader id it was stamped under. Everything is bounded: requests by bytes
//! ([`ADMISSION_BYTES_MAX`]), entries by [`PROPOSALS_IN_FLIGHT_MAX`]. What a producer has proposed
//! and not yet applied is remembered (`speculation`) only so that gaps and repetitions are
//! answered early and pipelining works: the decision is apply's.
//!
//! The loop has a thread of its own, because it hashes.

mod assemble;
mod run;
mod settle;
mod speculation;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use indelible_core::limits::{ADMISSION_BYTES_MAX, PROPOSALS_IN_FLIGHT_MAX};
use indelible_core::{Kind, ProducerId};
use indelible_proto::reason::{Reason, Rejected};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use super::clock::Clock;
use super::leadership::Leadership;
use crate::raft::types::Raft;
use crate::storage::ledger::Ledger;

/// Requests that wait for the loop; their bytes are bounded by admission.
const REQUESTS_MAX: usize = 8192;

/// A batch of consecutive events of one producer, checked at the edge.
#[derive(Debug)]
pub struct Append {
    /// Whose.
    pub producer: ProducerId,
    /// Under which epoch.
    pub epoch: u64,
    /// Seq of the first event.
    pub first_seq: u64,
    /// Kind of all of them.
    pub kind: Kind,
    /// Retention class of all of them.
    pub retention_class: u16,
    /// Encoded events, at least one.
    pub events: Vec<Bytes>,
    /// The entry that has them is stamped with this or later, in Unix nanoseconds: a time that an
    /// operator accepts is stamped by nothing but the record of it, and by what comes after.
    pub stamp_min: u64,
}

impl Append {
    /// One past the last seq.
    pub fn end_seq(&self) -> u64 {
        self.first_seq + self.events.len() as u64
    }

    fn bytes(&self) -> usize {
        self.events.iter().map(|event| event.len() + RECORD_OVERHEAD).sum()
    }
}

/// Bytes of a record that opens a producer, at most: its texts are limited at the edge.
const OPEN_BYTES_MAX: u32 = 4096;
/// Bytes of leaf and salt.
const RECORD_OVERHEAD: usize = 80;

/// Where a request's events are. Runs, leaves and salts are in seq order and cover it exactly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// Consecutive seqs at consecutive leaf indexes.
    pub runs: Vec<AppendedRun>,
    /// 64 bytes a record.
    pub leaves: Bytes,
    /// 16 bytes a record.
    pub salts: Bytes,
    /// A tree size that covers them all.
    pub tree_size: u64,
}

/// Consecutive seqs at consecutive leaf indexes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppendedRun {
    /// Seq of the first record.
    pub first_seq: u64,
    /// Leaf index of the first record.
    pub first_leaf: u64,
    /// Records.
    pub count: u32,
    /// Whether an earlier request recorded them.
    pub duplicate: bool,
}

/// A request to open a producer.
#[derive(Debug, Clone)]
pub struct Open {
    /// Which.
    pub producer: ProducerId,
    /// For people.
    pub name: String,
    /// Ed25519 key of the producer, or empty.
    pub public_key: Bytes,
    /// Who the caller was authenticated as.
    pub principal: String,
    /// How; "none" if not at all.
    pub authentication: String,
    /// Whether a node records with it what operators do.
    pub of_node: bool,
}

/// An opened producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// The epoch to append under.
    pub epoch: u64,
    /// Leaf index of the record that opened it.
    pub opened: u64,
    /// Last recorded seq, 0 if none.
    pub last_seq: u64,
    /// Whether it was known before.
    pub known: bool,
}

type Reply<T> = oneshot::Sender<Result<T, Rejected>>;

/// A request on its way through the loop. Dropping it frees its share of the admission.
#[derive(Debug)]
enum Request {
    Append { append: Append, reply: Reply<Appended>, permit: OwnedSemaphorePermit },
    Open { open: Open, reply: Reply<Opened>, permit: OwnedSemaphorePermit },
}

impl Request {
    fn producer(&self) -> ProducerId {
        match self {
            Request::Append { append, .. } => append.producer,
            Request::Open { open, .. } => open.producer,
        }
    }

    /// Whether a node records something of its own: that is taken while clients are refused.
    fn is_of_node(&self) -> bool {
        match self {
            Request::Append { append, .. } => {
                matches!(append.kind, Kind::Operation | Kind::Finding)
            }
            Request::Open { open, .. } => open.of_node,
        }
    }

    /// Answers with a refusal. The requester may have gone.
    fn reject(self, rejected: Rejected) {
        match self {
            Request::Append { reply, .. } => drop(reply.send(Err(rejected))),
            Request::Open { reply, .. } => drop(reply.send(Err(rejected))),
        }
    }
}

/// A handle to the loop.
#[derive(Clone)]
pub struct Batcher {
    requests: mpsc::Sender<Request>,
    admission: Arc<Semaphore>,
    read_only: watch::Receiver<bool>,
    commit_timeout: Duration,
}

/// What the loop needs.
pub struct Options {
    /// This node's openraft.
    pub raft: Raft,
    /// This node's ledger.
    pub ledger: Ledger,
    /// What entries are stamped by.
    pub clock: Arc<Clock>,
    /// Who leads.
    pub leadership: watch::Receiver<Leadership>,
    /// Whether the disk is nearly full.
    pub read_only: watch::Receiver<bool>,
    /// How long a leader may believe that it leads after a majority has last answered it.
    pub lease: Duration,
    /// How long a request waits for its commit before its outcome is called unknown.
    pub commit_timeout: Duration,
}

impl Batcher {
    /// Starts the loop on a thread of its own; it ends when the last handle is dropped. Call within
    /// a runtime.
    pub fn start(options: Options) -> std::io::Result<Batcher> {
        let (requests, received) = mpsc::channel(REQUESTS_MAX);
        let batcher = Batcher {
            requests,
            admission: Arc::new(Semaphore::new(ADMISSION_BYTES_MAX)),
            read_only: options.read_only.clone(),
            commit_timeout: options.commit_timeout,
        };
        // One answer for each entry on the way: the channel never fills.
        let (settled, settlements) = mpsc::channel(PROPOSALS_IN_FLIGHT_MAX);
        let run = run::Run::new(options, received, settled, settlements);
        let runtime = tokio::runtime::Handle::current();
        std::thread::Builder::new()
            .name("batcher".into())
            .spawn(move || runtime.block_on(run.run()))?;
        Ok(batcher)
    }

    /// Records a batch of events, or finds them recorded.
    pub async fn append(&self, append: Append) -> Result<Appended, Rejected> {
        self.check_writable()?;
        let bytes = u32::try_from(append.bytes()).expect("the edge limits a request");
        let permit = self.admission.clone().try_acquire_many_owned(bytes).map_err(|_| busy())?;
        let (reply, answer) = oneshot::channel();
        let request = Request::Append { append, reply, permit };
        self.requests.try_send(request).map_err(|_| busy())?;
        self.answer(answer).await
    }

    /// Opens a producer, or opens it again under a higher epoch.
    pub async fn open(&self, open: Open) -> Result<Opened, Rejected> {
        self.check_writable()?;
        let permit = self.admission.clone();
        let permit = permit.try_acquire_many_owned(OPEN_BYTES_MAX).map_err(|_| busy())?;
        let (reply, answer) = oneshot::channel();
        let request = Request::Open { open, reply, permit };
        self.requests.try_send(request).map_err(|_| busy())?;
        self.answer(answer).await
    }

    /// Bytes of requests that are waiting or on the way.
    pub fn waiting_bytes(&self) -> usize {
        ADMISSION_BYTES_MAX - self.admission.available_permits()
    }

    fn check_writable(&self) -> Result<(), Rejected> {
        if !*self.read_only.borrow() {
            return Ok(());
        }
        let message =
            "the leader's disk is nearly full; hint: free space, or wait for another leader";
        Err(Rejected::new(Reason::ReadOnly, message).retry_after(Duration::from_secs(1)))
    }

    async fn answer<T>(
        &self,
        answer: oneshot::Receiver<Result<T, Rejected>>,
    ) -> Result<T, Rejected> {
        match tokio::time::timeout(self.commit_timeout, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(unknown("the node is stopping")),
            Err(_) => Err(unknown(&format!("no commit in {:?}", self.commit_timeout))),
        }
    }
}

fn busy() -> Rejected {
    let message = format!(
        "{ADMISSION_BYTES_MAX} bytes of appends are waiting, which is the limit; hint: come again after the retry delay"
    );
    Rejected::new(Reason::Busy, message)
        .with(indelible_proto::reason::key::LIMIT, ADMISSION_BYTES_MAX as u64)
        .retry_after(Duration::from_millis(20))
}

/// The events may or may not be in the trail.
pub fn unknown(why: &str) -> Rejected {
    let message =
        format!("outcome unknown: {why}; hint: send the same seq again, it is recorded once");
    Rejected::new(Reason::CommitUnknown, message)
}
