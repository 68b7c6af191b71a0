//! Which node to ask next, for one read.

use std::sync::atomic::Ordering;
use std::time::Duration;

use indelible_proto::Reason;
use tokio::time::{Instant, sleep, timeout_at};

use crate::backoff::Backoff;
use crate::error::{Failure, Fault};
use crate::table::{Link, Table};
use crate::{CallError, Client, Options};

/// The attempts of one read: followers first, least busy first, and each node once a round.
pub(crate) struct Nodes {
    deadline: Instant,
    limit: Duration,
    pub(crate) attempt_timeout: Duration,
    attempts_left: u32,
    /// Connections that failed this read; asked again only when all have.
    tried: Vec<u64>,
    backoff: Backoff,
    /// Before the next attempt.
    delay: Duration,
    /// What is asked for is known to exist: a node that lacks it lags.
    exists: bool,
    last: Option<CallError>,
}

impl Nodes {
    pub(crate) fn new(options: &Options) -> Nodes {
        Nodes {
            deadline: Instant::now() + options.request_timeout,
            limit: options.request_timeout,
            attempt_timeout: options.attempt_timeout,
            attempts_left: options.read_attempts_max,
            tried: Vec::new(),
            backoff: Backoff::request(),
            delay: Duration::ZERO,
            exists: false,
            last: None,
        }
    }

    /// For what exists: a node that has not found it is passed over.
    pub(crate) fn for_what_exists(mut self) -> Nodes {
        self.exists = true;
        self
    }

    /// With this much more time for each attempt and for all, because nodes are asked to wait.
    pub(crate) fn waiting(mut self, wait: Duration) -> Nodes {
        self.attempt_timeout += wait;
        self.limit += wait;
        self.deadline += wait;
        self
    }

    /// The node to ask now. Waits while none is connected.
    pub(crate) async fn next(&mut self, table: &Table) -> Result<Link, CallError> {
        if self.attempts_left == 0 {
            return Err(self.give_up(table));
        }
        if let Some(lie) = table.only_liars() {
            return Err(lie.into());
        }
        self.attempts_left -= 1;
        if !self.delay.is_zero() {
            sleep(self.delay.min(self.deadline.duration_since(Instant::now()))).await;
            self.delay = Duration::ZERO;
        }
        let mut changes = table.subscribe();
        loop {
            changes.mark_unchanged();
            if let Some(link) = self.pick(table) {
                return Ok(link);
            }
            if timeout_at(self.deadline, changes.changed()).await.is_err() {
                return Err(self.give_up(table));
            }
        }
    }

    /// How long the attempt may take.
    pub(crate) fn attempt_limit(&self) -> Duration {
        self.attempt_timeout.min(self.deadline.duration_since(Instant::now()))
    }

    /// The node's answer is of no use. An error if no other node would do better.
    pub(crate) fn fault(
        &mut self,
        client: &Client,
        link: &Link,
        fault: Fault,
    ) -> Result<(), CallError> {
        let error = match fault {
            Fault::Failure(failure) => return self.failed(link, failure),
            Fault::Final(error) => return Err(error),
            Fault::Broken(what) => {
                let (node_id, addr) = (link.node_id, link.addr.to_string());
                tracing::warn!(node_id, addr, what, "an answer cannot be read");
                CallError::Broken { node_id, addr, what }
            }
            Fault::Lie(what, evidence) => client.accuse(link, what, evidence),
            Fault::Unproven(error) => error,
        };
        self.tried.push(link.generation);
        self.last = Some(error);
        Ok(())
    }

    /// The node did not answer, or refused. An error if no other node would do better.
    pub(crate) fn failed(&mut self, link: &Link, failure: Failure) -> Result<(), CallError> {
        self.tried.push(link.generation);
        match &failure {
            Failure::Broken(_) => link.suspect(),
            Failure::TimedOut(_) => {}
            Failure::Rejected(rejected) => {
                let boxed = || CallError::Rejected(Box::new(rejected.clone()));
                match rejected.reason {
                    Reason::Busy => self.delay = rejected.retry.unwrap_or_default(),
                    Reason::NoLeader
                    | Reason::LeaseExpired
                    | Reason::LeaderTransferring
                    | Reason::NotLeader
                    | Reason::CommitUnknown => self.hold(),
                    Reason::StaleReplica | Reason::Damaged | Reason::Stopping => {}
                    Reason::NotFound if self.exists => {}
                    _ => return Err(boxed()),
                }
                self.last = Some(boxed());
                return Ok(());
            }
        }
        let last = failure.text();
        self.last = Some(CallError::TimedOut { waited: self.limit, last });
        Ok(())
    }

    /// The whole cluster lacks something that comes back by itself: wait, and don't count the
    /// attempt.
    fn hold(&mut self) {
        self.attempts_left += 1;
        self.delay = self.backoff.next().max(Duration::from_millis(1));
        if Instant::now() + self.delay >= self.deadline {
            self.attempts_left = 0;
        }
    }

    /// The least busy follower that has not failed this read, then the leader, then all again.
    fn pick(&mut self, table: &Table) -> Option<Link> {
        let nodes = table.readers();
        let fresh = |link: &Link| !self.tried.contains(&link.generation);
        let best = |leaders: bool| {
            // Ties go to a random one, so that clients spread.
            let key = |link: &Link| (link.in_flight.load(Ordering::Relaxed), rand::random::<u32>());
            let links = nodes.iter().filter(|(_, leads)| *leads == leaders).map(|(link, _)| link);
            links.filter(|link| fresh(link)).min_by_key(|link| key(link)).cloned()
        };
        let picked = best(false).or_else(|| best(true));
        if picked.is_none() && !nodes.is_empty() {
            // A round is over: the next one after a pause.
            self.tried.clear();
            self.delay = self.backoff.next();
            return nodes.first().map(|(link, _)| link.clone());
        }
        picked
    }

    fn give_up(&mut self, table: &Table) -> CallError {
        let (waited, last) = (self.limit, table.why_no_leader());
        self.last.take().unwrap_or(CallError::TimedOut { waited, last })
    }
}
