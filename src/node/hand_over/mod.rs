//! Handing leadership over: on command, before an orderly stop, and by itself when another voter
//! would lead better.
//!
//! `choice` says who would lead better. A leader looks once a second; it hands over at most once
//! a minute, whatever the reasons are, so that leadership does not move around.

mod choice;

use std::sync::Arc;
use std::time::Duration;

use indelible_proto::reason::{Reason as Rejection, Rejected};
use openraft::async_runtime::WatchReceiver as _;
use tokio::sync::watch;
use tokio::time::Instant;

use super::clock::Clock;
use super::leadership::Leadership;
use super::progress::{current_membership, refused, stopping, wait_for_log};
use crate::net::Credentials;
use crate::raft::network::Network;
use crate::raft::peers::Peers;
use crate::raft::types::Raft;

use choice::{Candidate, Problems, Reason};

/// Between two looks of a leader at itself and the others.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two hand-overs that nobody has asked for.
const AGAIN: Duration = Duration::from_secs(60);
/// Between two attempts that ended before anything was handed over.
const TRY_AGAIN: Duration = Duration::from_secs(5);
/// Entries that the next leader may lack when a hand-over begins: it has them before an election
/// timeout has passed.
const LAG_ENTRIES_MAX: u64 = 64;
/// How long a hand-over may take before the caller is told that it did not happen.
const TRANSFER: Duration = Duration::from_secs(10);
/// How long a voter may take to show its certificate once more.
const PROVE: Duration = Duration::from_secs(5);
/// A voter whose last answer is older than this does not count as one that answers, however short
/// the election timeouts are.
const ANSWERED_MIN: Duration = Duration::from_secs(2);

/// Hands leadership of this node over. Cheap to clone.
#[derive(Clone)]
pub struct HandOver(Arc<Options>);

/// What handing over needs.
pub struct Options {
    /// The node's openraft.
    pub raft: Raft,
    /// To the other voters.
    pub network: Network,
    /// What the other voters have answered.
    pub peers: Arc<Peers>,
    /// Who leads.
    pub leadership: watch::Receiver<Leadership>,
    /// Whether this node's disk is nearly full.
    pub read_only: watch::Receiver<bool>,
    /// What time it is.
    pub clock: Arc<Clock>,
    /// This node's certificate.
    pub credentials: Credentials,
    /// Whether this node has the log key.
    pub has_log_key: bool,
}

impl HandOver {
    /// Nothing happens before a call.
    pub fn new(options: Options) -> HandOver {
        HandOver(Arc::new(options))
    }

    /// Hands leadership to `to`, once that has the log. A hand-over to a node that lags would leave
    /// the group without a leader for seconds.
    pub async fn to(&self, to: u64) -> Result<u64, Rejected> {
        let mut leadership = self.0.leadership.clone();
        wait_for_log(&self.0.raft, to, LAG_ENTRIES_MAX).await?;
        self.0.raft.trigger().transfer_leader(to).await.map_err(|_| stopping())?;
        let other = leadership.wait_for(|now| matches!(now, Leadership::Follower(_)));
        match tokio::time::timeout(TRANSFER, other).await {
            Ok(Ok(now)) => match &*now {
                Leadership::Follower(leader) => Ok(leader.id),
                _ => unreachable!("wait_for returns what it waited for"),
            },
            _ => Err(refused(format!(
                "node {to} did not take over in {TRANSFER:?}; hint: try again"
            ))),
        }
    }

    /// Hands leadership to whoever is to lead next, without a record: for a leader that is about to
    /// stop.
    pub async fn to_next(&self) -> Result<u64, Rejected> {
        match &*self.0.leadership.borrow() {
            Leadership::Ready(_) => {}
            other => return Err(other.rejection()),
        }
        self.to(self.next()?).await
    }

    /// The voter besides this node that should lead: the one with the fewest problems, and of those
    /// the one with most of the log.
    pub fn next(&self) -> Result<u64, Rejected> {
        choice::next(&self.candidates(), self.answered_max()).ok_or_else(|| {
            refused("no other voter answers that could lead; hint: `indelible status`".into())
        })
    }

    /// Looks now and then whether another voter would lead better, and makes room for it.
    pub async fn run(self) {
        let mut leadership = self.0.leadership.clone();
        let mut read_only = self.0.read_only.clone();
        let mut not_before: Option<Instant> = None;
        let mut told = Problems::default();
        while leadership.wait_for(|now| matches!(now, Leadership::Ready(_))).await.is_ok() {
            read_only.mark_unchanged();
            let mine = self.problems();
            if mine == Problems::default() {
                told = mine;
            } else if not_before.is_none_or(|at| at <= Instant::now()) {
                let wait = self.make_room(mine, &mut told).await;
                not_before = wait.map(|wait| Instant::now() + wait);
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                changed = read_only.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Makes room for a better voter, if there is one. How long to wait before the next attempt,
    /// if longer than until the next look. `told` are the problems that were logged last.
    async fn make_room(&self, mine: Problems, told: &mut Problems) -> Option<Duration> {
        let expired = mine.has(Reason::CertificateExpired);
        if expired {
            self.look_again_at_expired().await;
        }
        let (to, reason) = match choice::choose(mine, &self.candidates(), self.answered_max()) {
            Ok(chosen) => chosen,
            Err(stays) => {
                if let Some(first) = mine.first()
                    && std::mem::replace(told, mine) != mine
                {
                    let consequence = first.consequence();
                    tracing::error!("{first}, and it goes on leading, as {stays}: {consequence}");
                }
                // Each look at a certificate is a connection.
                return expired.then_some(TRY_AGAIN);
            }
        };
        match self.to(to).await {
            Ok(leader) => {
                tracing::warn!(leader, "{reason}: handed over");
                Some(AGAIN)
            }
            // Until it lacks little enough of the log nothing was handed over.
            Err(error) if self.lags(to) => {
                tracing::warn!(%error, "{reason}, but node {to} cannot take over yet");
                Some(TRY_AGAIN)
            }
            Err(error) => {
                tracing::warn!(%error, "{reason}, but no hand-over");
                Some(AGAIN)
            }
        }
    }

    fn lags(&self, to: u64) -> bool {
        super::progress::Progress::of(&self.0.raft, to)
            .is_ok_and(|progress| progress.lag() > LAG_ENTRIES_MAX)
    }

    /// Asks voters with an expired certificate for it once more: a connection keeps the one that it
    /// was made with. Of a voter that does not answer, the one that it has shown before counts.
    async fn look_again_at_expired(&self) {
        let (membership, me) = (current_membership(&self.0.raft), *self.0.raft.node_id());
        for id in membership.voter_ids().filter(|id| *id != me && self.0.peers.is_expired(*id)) {
            if let Some(peer) = membership.get_node(&id) {
                let _ = self.0.network.prove(id, peer, PROVE).await;
            }
        }
    }

    fn problems(&self) -> Problems {
        Problems::of(|reason| match reason {
            Reason::DiskFull => *self.0.read_only.borrow(),
            Reason::LogKeyMissing => !self.0.has_log_key,
            Reason::ClockWrong => self.0.clock.is_bad(*self.0.raft.node_id()) == Some(true),
            Reason::CertificateExpired => self.0.credentials.is_expired(),
        })
    }

    /// The other voters.
    fn candidates(&self) -> Vec<Candidate> {
        let metrics = self.0.raft.metrics();
        let metrics = metrics.borrow_watched();
        let voters: std::collections::BTreeSet<u64> =
            metrics.membership_config.membership().voter_ids().collect();
        let others = voters.into_iter().filter(|id| *id != metrics.id);
        others
            .map(|id| {
                let matched = metrics.replication.as_ref().and_then(|all| all.get(&id)?.as_ref());
                let report = self.0.peers.report(id);
                let problems = Problems::of(|reason| match reason {
                    Reason::DiskFull => report.is_some_and(|report| report.read_only),
                    // Of a voter that has told nothing nobody knows that it has the key.
                    Reason::LogKeyMissing => report.is_none_or(|report| !report.log_key),
                    // Nor that its clock is right.
                    Reason::ClockWrong => self.0.clock.is_bad(id) != Some(false),
                    Reason::CertificateExpired => self.0.peers.is_expired(id),
                });
                let matched = matched.map(|matched| matched.index);
                Candidate {
                    id,
                    problems,
                    matched,
                    answered: report.map(|report| report.at.elapsed()),
                }
            })
            .collect()
    }

    fn answered_max(&self) -> Duration {
        let lease = Duration::from_millis(self.0.raft.config().election_timeout_max);
        lease.max(ANSWERED_MIN)
    }
}

/// The voter that a command names as the next leader.
pub(super) fn check_voter(raft: &Raft, to: u64) -> Result<(), Rejected> {
    match current_membership(raft).voter_ids().any(|voter| voter == to) {
        true => Ok(()),
        false => Err(Rejected::new(Rejection::NotFound, format!("node {to} is no voter"))),
    }
}
