//! Calls that only the leader answers, other than appends: opening a producer and changing the
//! group.

use std::future::Future;
use std::time::Duration;

use indelible_proto::{Reason, Rejected};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::Status;

use crate::backoff::Backoff;
use crate::error::{CallError, Failure};
use crate::table::{Link, Route, Table};

/// What to do with a call whose outcome is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnUnknown {
    /// Doing it twice does no harm.
    Repeat,
    /// A person has to look.
    Report,
}

/// When to try again after a failure, for one stream of attempts to the leader (rules R2 and R3).
#[derive(Debug, Clone)]
pub(crate) struct Patience {
    backoff: Backoff,
    /// Term whose leader hint was followed at once.
    hopped: Option<u64>,
}

/// How long a full disk is left alone: somebody has to free space first.
const READ_ONLY_DELAY: Duration = Duration::from_secs(1);
/// With `BUSY`, if the node gave no delay.
const BUSY_DELAY: Duration = Duration::from_millis(20);

impl Patience {
    pub(crate) fn new() -> Patience {
        Patience { backoff: Backoff::request(), hopped: None }
    }

    /// After success.
    pub(crate) fn reset(&mut self) {
        self.backoff.reset();
    }

    /// The next delay, for what is neither the leader's nor the network's fault.
    pub(crate) fn tick(&mut self) -> Duration {
        self.backoff.next()
    }

    /// Whether a hint of this term is followed at once: the first one is, and then none that is not
    /// newer.
    fn hops(&mut self, hint_term: Option<u64>) -> bool {
        let newer = hint_term > self.hopped;
        self.hopped = self.hopped.max(hint_term);
        newer
    }

    /// Tells the table what the failure says about the leader. Returns the delay before the next
    /// attempt, or the refusal if another attempt cannot help.
    pub(crate) fn after(
        &mut self,
        failure: &Failure,
        link: &Link,
        table: &Table,
    ) -> Result<Duration, Rejected> {
        let rejected = match failure {
            Failure::Rejected(rejected) => rejected,
            Failure::TimedOut(_) => return Ok(self.backoff.next()),
            Failure::Broken(_) => {
                link.suspect();
                return Ok(self.backoff.next());
            }
        };
        match rejected.reason {
            Reason::NotLeader => {
                table.refused(link, rejected);
                let term = rejected.leader.as_ref().map(|hint| hint.term);
                Ok(if self.hops(term) { Duration::ZERO } else { self.backoff.next() })
            }
            Reason::NoLeader
            | Reason::LeaseExpired
            | Reason::Stopping
            | Reason::LeaderTransferring => {
                table.refused(link, &Rejected { leader: None, ..rejected.clone() });
                Ok(self.backoff.next())
            }
            Reason::CommitUnknown | Reason::SeqGap => Ok(self.backoff.next()),
            Reason::Busy => {
                let delay = rejected.retry.unwrap_or(BUSY_DELAY);
                Ok(delay + delay.mul_f64(rand::random::<f64>() / 2.0))
            }
            Reason::ReadOnly => Ok(READ_ONLY_DELAY),
            _ => Err(rejected.clone()),
        }
    }
}

/// Calls the leader, whoever that is by now, until it answers or `limit` has passed.
pub(crate) async fn call_leader<T, F>(
    table: &Table,
    attempt_timeout: Duration,
    limit: Duration,
    on_unknown: OnUnknown,
    call: impl Fn(Link) -> F,
) -> Result<T, CallError>
where
    F: Future<Output = Result<T, Status>>,
{
    let deadline = Instant::now() + limit;
    let mut patience = Patience::new();
    let mut last: Option<String> = None;
    loop {
        let route = match timeout_at(deadline, leader(table)).await {
            // Another attempt without time would only say that it had none.
            Ok(route) if last.is_none() || Instant::now() < deadline => route,
            _ => {
                let last = last.unwrap_or_else(|| table.why_no_leader());
                return Err(CallError::TimedOut { waited: limit, last });
            }
        };
        let _in_flight = route.link.begin();
        let attempt_limit = attempt_timeout.min(deadline.duration_since(Instant::now()));
        let failure = match timeout(attempt_limit, call(route.link.clone())).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(status)) => Failure::from(status),
            Err(_) => Failure::TimedOut(attempt_limit),
        };
        if failure.is_unknown() && on_unknown == OnUnknown::Report {
            return Err(CallError::Unknown { what: failure.text() });
        }
        let delay = patience
            .after(&failure, &route.link, table)
            .map_err(|rejected| CallError::Rejected(Box::new(rejected)))?;
        last = Some(failure.text());
        sleep(delay.min(deadline.duration_since(Instant::now()))).await;
    }
}

/// Waits until a leader is known and connected. Holds, and asks nobody: the nodes push every change
/// (rule R3).
pub(crate) async fn leader(table: &Table) -> Route {
    let mut changes = table.subscribe();
    loop {
        changes.mark_unchanged();
        if let Some(route) = table.leader() {
            return route;
        }
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_that_point_at_each_other_are_followed_once_a_term() {
        let mut patience = Patience::new();
        let hints = [None, Some(3), Some(3), Some(2), None, Some(4), Some(4)];
        let hops = hints.map(|term| patience.hops(term));
        assert_eq!(hops, [false, true, false, false, false, true, false]);
    }
}
