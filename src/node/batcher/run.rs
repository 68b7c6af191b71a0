//! The loop: takes requests, judges them, fills entries, proposes them, and is told how they ended.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use indelible_core::ProducerId;
use indelible_core::limits::{PRODUCERS_MAX, PRODUCERS_OF_NODES, PROPOSALS_IN_FLIGHT_MAX};
use indelible_proto::reason::{Reason, Rejected, key};
use openraft::async_runtime::WatchReceiver as _;
use openraft::impls::ProgressResponder;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::assemble::Draft;
use super::settle::{Settled, settle};
use super::speculation::{Speculation, Verdict, gap};
use super::{OPEN_BYTES_MAX, Options, REQUESTS_MAX, Request};
use crate::node::clock::Clock;
use crate::node::clock::rules::{Decision, Hold};
use crate::node::duplicates;
use crate::node::leadership::{Leadership, quorum_ack_age};
use crate::raft::types::{LeaderId, Raft};
use crate::storage::ledger::Ledger;

/// How long a request whose predecessors are missing waits for them: pipelined requests may
/// overtake each other.
const AHEAD_WAIT: Duration = Duration::from_millis(100);
/// How long requests wait for fresh offsets of a majority's clocks, however often those are asked
/// for: a clock that never stands still makes them stale at once.
const ASKING_MAX: Duration = Duration::from_secs(1);

/// The loop's state; it owns all of it.
pub(super) struct Run {
    raft: Raft,
    ledger: Ledger,
    clock: Arc<Clock>,
    clock_changes: watch::Receiver<u64>,
    leadership: watch::Receiver<Leadership>,
    requests: mpsc::Receiver<Request>,
    settled: mpsc::Sender<Settled>,
    settlements: mpsc::Receiver<Settled>,
    /// In order of arrival; bounded by admission.
    queue: VecDeque<Request>,
    /// Requests that wait until their producer has nothing on the way.
    parked: Vec<Request>,
    /// Requests whose predecessors are missing, with the time they wait until.
    ahead: VecDeque<(Instant, Request)>,
    speculation: Speculation,
    /// Entries on the way.
    in_flight: usize,
    /// Under whom the last entry was proposed; a change makes every guess stale.
    leader: Option<LeaderId>,
    /// The last stamp given out.
    last_stamp: u64,
    /// Since when requests have waited for fresh offsets.
    asking_since: Option<Instant>,
    /// How long a leader may believe that it leads after a majority has last answered it.
    lease: Duration,
}

impl Run {
    pub(super) fn new(
        options: Options,
        requests: mpsc::Receiver<Request>,
        settled: mpsc::Sender<Settled>,
        settlements: mpsc::Receiver<Settled>,
    ) -> Run {
        Run {
            raft: options.raft,
            ledger: options.ledger,
            clock_changes: options.clock.changes(),
            clock: options.clock,
            leadership: options.leadership,
            requests,
            settled,
            settlements,
            queue: VecDeque::new(),
            parked: Vec::new(),
            ahead: VecDeque::new(),
            speculation: Speculation::default(),
            in_flight: 0,
            leader: None,
            last_stamp: 0,
            asking_since: None,
            lease: options.lease,
        }
    }

    /// Until the last handle is gone.
    pub(super) async fn run(mut self) {
        let mut received = Vec::new();
        loop {
            let ahead_until = self.ahead.front().map(|(until, _)| *until);
            tokio::select! {
                biased;
                Some(settled) = self.settlements.recv() => self.settle(settled),
                changed = self.leadership.changed() => if changed.is_err() { return },
                () = wait_until(ahead_until) => self.give_up_waiting(),
                changed = self.clock_changes.changed(), if self.asking_since.is_some() => {
                    if changed.is_err() {
                        return;
                    }
                }
                count = self.requests.recv_many(&mut received, REQUESTS_MAX) => {
                    if count == 0 {
                        return;
                    }
                    self.queue.extend(received.drain(..));
                }
            }
            self.pump().await;
        }
    }

    /// Proposes as much as may be on the way, or refuses everything while another node leads.
    async fn pump(&mut self) {
        let leader = match &*self.leadership.borrow_and_update() {
            Leadership::Ready(leader) => *leader,
            // What waits is proposed in a moment.
            Leadership::Preparing(_) => return,
            other @ (Leadership::Follower(_) | Leadership::NoLeader) => {
                let rejection = other.rejection();
                let ahead = self.ahead.drain(..).map(|(_, request)| request);
                let all = self.queue.drain(..).chain(self.parked.drain(..)).chain(ahead);
                all.for_each(|request| request.reject(rejection.clone()));
                self.speculation.stall_all();
                self.leader = None;
                self.asking_since = None;
                return;
            }
        };
        if self.leader != Some(leader) {
            self.speculation.stall_all();
            self.leader = Some(leader);
            // What was given out before is in the log, or never will be.
            self.last_stamp = 0;
            self.asking_since = None;
        }
        while self.in_flight < PROPOSALS_IN_FLIGHT_MAX && !self.queue.is_empty() {
            let Some(stamp) = self.stamp() else { return };
            let mut draft = Draft::new(stamp);
            self.fill(&mut draft);
            if draft.is_empty() {
                return;
            }
            self.last_stamp = draft.stamp();
            self.propose(draft, leader).await;
        }
    }

    /// Moves requests from the queue into the entry until it is full or the queue is empty.
    fn fill(&mut self, draft: &mut Draft) {
        while let Some(request) = self.queue.pop_front() {
            if let Some(request) = self.place(request, draft) {
                self.queue.push_front(request);
                return;
            }
        }
    }

    /// Puts a request where it belongs; gives it back if the entry has no room for it.
    fn place(&mut self, request: Request, draft: &mut Draft) -> Option<Request> {
        let (append, reply, permit) = match request {
            Request::Append { append, reply, permit } => (append, reply, permit),
            Request::Open { .. } => return self.place_open(request, draft),
        };
        match self.speculation.judge(&append, &self.ledger) {
            Verdict::Propose { opened, skip } => {
                let bytes = append.events.iter().skip(skip).map(|event| event.len()).sum();
                let fits = draft.fits(append.events.len() - skip, bytes);
                if !fits || !draft.stamp_from(append.stamp_min) {
                    assert!(!draft.is_empty(), "limits: a request fits an empty entry");
                    return Some(Request::Append { append, reply, permit });
                }
                let producer = append.producer;
                self.speculation.proposed(&append, opened, draft.has_none_of(&producer));
                draft.push_append(append, opened, skip, reply, permit);
                self.bring_up(producer);
            }
            Verdict::Recorded => {
                duplicates::answer_later(self.ledger.clone(), append, u64::MAX, reply, permit);
            }
            Verdict::Wait => self.parked.push(Request::Append { append, reply, permit }),
            Verdict::Ahead { .. } => {
                let request = Request::Append { append, reply, permit };
                self.ahead.push_back((Instant::now() + AHEAD_WAIT, request));
            }
            Verdict::Reject(rejected) => {
                let rejected = self.sure(rejected);
                Request::Append { append, reply, permit }.reject(rejected);
            }
        }
        None
    }

    fn place_open(&mut self, request: Request, draft: &mut Draft) -> Option<Request> {
        if self.speculation.is_outstanding(&request.producer()) {
            self.parked.push(request);
            return None;
        }
        let Request::Open { open, reply, permit } = request else {
            unreachable!("place() sends only openings here");
        };
        let known = self.ledger.producer(&open.producer);
        let max = match open.of_node {
            true => PRODUCERS_MAX,
            false => PRODUCERS_MAX - PRODUCERS_OF_NODES,
        };
        if known.is_none() && self.ledger.producers() >= max {
            let message = format!("the trail knows {max} producers, which is the limit");
            let rejected =
                Rejected::new(Reason::TooManyProducers, message).with(key::LIMIT, max as u64);
            Request::Open { open, reply, permit }.reject(rejected);
            return None;
        }
        if !draft.fits(1, OPEN_BYTES_MAX as usize) {
            return Some(Request::Open { open, reply, permit });
        }
        let epoch = known.as_ref().map_or(1, |known| known.epoch + 1);
        self.speculation.opening(open.producer);
        draft.push_open(open, epoch, known.is_some(), reply, permit);
        None
    }

    /// Requests that waited for the one just placed come next.
    fn bring_up(&mut self, producer: ProducerId) {
        let mut next = Vec::new();
        let mut waiting = VecDeque::new();
        for (until, request) in self.ahead.drain(..) {
            if request.producer() == producer {
                next.push(request);
            } else {
                waiting.push_back((until, request));
            }
        }
        self.ahead = waiting;
        next.into_iter().rev().for_each(|request| self.queue.push_front(request));
    }

    async fn propose(&mut self, draft: Draft, leader: LeaderId) {
        let proposal = draft.finish();
        let (responder, _committed, completed) = ProgressResponder::new();
        let write =
            self.raft.write(proposal.payload.clone()).responder(responder).with_leader(leader);
        // If openraft has stopped, `completed` says so too: the answers are made in one place.
        if let Err(fatal) = write.await {
            tracing::error!(%fatal, "cannot propose");
        }
        self.in_flight += 1;
        assert!(self.in_flight <= PROPOSALS_IN_FLIGHT_MAX);
        tokio::spawn(settle(
            proposal,
            completed,
            self.ledger.clone(),
            leader.term,
            self.settled.clone(),
        ));
    }

    /// An entry has ended, one way or the other: what waited for it comes first, in its old order.
    fn settle(&mut self, settled: Settled) {
        self.in_flight -= 1;
        for producer in &settled.producers {
            if !self.speculation.settled(producer, settled.as_guessed) {
                continue;
            }
            let parked = std::mem::take(&mut self.parked);
            let (ready, parked): (Vec<_>, Vec<_>) =
                parked.into_iter().partition(|request| request.producer() == *producer);
            self.parked = parked;
            ready.into_iter().rev().for_each(|request| self.queue.push_front(request));
        }
    }

    /// Requests that were ahead of their turn for long enough.
    fn give_up_waiting(&mut self) {
        let now = Instant::now();
        while self.ahead.front().is_some_and(|(until, _)| *until <= now) {
            let Some((_, request)) = self.ahead.pop_front() else { return };
            let Request::Append { append, reply, permit } = request else {
                unreachable!("only appends can be ahead of their turn");
            };
            match self.speculation.judge(&append, &self.ledger) {
                Verdict::Ahead { expected } => {
                    let rejected = self.sure(gap(append.first_seq, expected));
                    Request::Append { append, reply, permit }.reject(rejected);
                }
                _ => self.queue.push_back(Request::Append { append, reply, permit }),
            }
        }
    }

    /// A refusal that rests on this node's own ledger, if a majority has confirmed lately that this
    /// node leads. A leader that was deposed while it slept knows nothing of what its successor has
    /// recorded.
    fn sure(&self, rejected: Rejected) -> Rejected {
        let metrics = self.raft.metrics();
        let age = quorum_ack_age(&metrics.borrow_watched());
        if age.is_some_and(|age| age < self.lease) {
            return rejected;
        }
        let message = "this leader has not heard from a majority lately; hint: try again";
        Rejected::new(Reason::LeaseExpired, message).retry_after(Duration::from_millis(20))
    }

    /// The stamp for the next entry: never below the last one in the log. None while a majority is
    /// asked for its time; then this is called again.
    fn stamp(&mut self) -> Option<u64> {
        let hold = match self.clock.decide(self.last_stamp) {
            Decision::Stamp(stamp) => {
                self.asking_since = None;
                return Some(stamp);
            }
            Decision::Ask => {
                let since = *self.asking_since.get_or_insert_with(Instant::now);
                if since.elapsed() < ASKING_MAX {
                    self.clock.ask();
                    return None;
                }
                Hold::NoMajority
            }
            Decision::Refuse(hold) => hold,
        };
        self.asking_since = None;
        self.refuse_clients(hold)
    }

    /// Refuses what clients have sent; what nodes record themselves is stamped with the time that
    /// was agreed on last.
    fn refuse_clients(&mut self, hold: Hold) -> Option<u64> {
        let stamp = self.clock.stamp_of_nodes(self.last_stamp);
        let is_taken = |request: &Request| request.is_of_node() && stamp.is_some();
        let (taken, refused): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.queue).into_iter().partition(is_taken);
        self.queue = taken;
        for request in refused {
            request.reject(hold.rejection());
        }
        stamp.filter(|_| !self.queue.is_empty())
    }
}

/// Until then, or for ever.
async fn wait_until(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}
