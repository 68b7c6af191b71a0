//! Changing the group: one node at a time, recorded before it is done, finished by the next leader
//! if this one dies.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use indelible_core::limits::MEMBERS_MAX;
use indelible_proto::reason::{Reason, Rejected};
use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{ClientWriteError, RaftError};
use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio::time::Instant;

use super::config::check_address;
use super::leadership::{Leadership, forward_rejection};
use super::operations::{Operations, Why};
use crate::raft::TypeConfig;
use crate::raft::link::LinkError;
use crate::raft::network::Network;
use crate::raft::types::{Membership, Peer, Raft};
use crate::storage::ledger::Ledger;
use crate::storage::log::Log;

/// How long a new node may take to copy the log, as far as one call waits for it. Calling again
/// goes on waiting.
const CATCH_UP: Duration = Duration::from_secs(60);
/// How long a new node may take to prove who it is.
const PROVE: Duration = Duration::from_secs(5);
/// Between two attempts of that.
const PROVE_AGAIN: Duration = Duration::from_millis(200);
/// Between two looks of a leader for a change that is not finished.
const FINISH_AGAIN: Duration = Duration::from_secs(1);
/// What a new voter may lack of the log. With more, a majority that needs it stands still until it
/// has the rest.
const VOTER_LAG_ENTRIES_MAX: u64 = 64;
/// In bytes.
const VOTER_LAG_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Between the two looks that decide whether it lacks no more.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Entries that the next leader may lack when a hand-over begins: it has them before an election
/// timeout has passed.
const HAND_OVER_LAG_MAX: u64 = 64;
/// How long a hand-over may take before the caller is told that it did not happen.
const TRANSFER: Duration = Duration::from_secs(10);

/// Membership changes of this node while it leads.
pub struct MembershipChanges {
    raft: Raft,
    network: Network,
    log: Log,
    ledger: Ledger,
    leadership: watch::Receiver<Leadership>,
    operations: Arc<Operations>,
    /// One change at a time.
    changing: Arc<Mutex<()>>,
}

impl MembershipChanges {
    /// Nothing happens before a call.
    pub fn new(
        raft: Raft,
        network: Network,
        log: Log,
        ledger: Ledger,
        leadership: watch::Receiver<Leadership>,
        operations: Arc<Operations>,
    ) -> Self {
        MembershipChanges {
            raft,
            network,
            log,
            ledger,
            leadership,
            operations,
            changing: Arc::default(),
        }
    }

    /// Makes a node a voter: learner first, and voter once it has the log. Calling again after a
    /// failure goes on where it stopped. Returns the voters.
    ///
    /// Nothing is recorded, and the group dials nothing, before the node has proved once that it is
    /// at its address with its key. Other changes may be made while it copies the log.
    pub async fn add(&self, id: u64, peer: Peer, why: Why) -> Result<Vec<u64>, Rejected> {
        self.leader()?;
        let membership = self.membership();
        if membership.get_node(&id).is_none() {
            self.check_new(&membership, id, &peer)?;
            self.wait_for_proof(id, &peer).await.map_err(|error| {
                refused(format!(
                    "{error}; hint: start node {id} first, with a certificate of this trail's CA, and wait until it \
                     has opened its log"
                ))
            })?;
        }
        let one = self.one_at_a_time()?;
        self.leader()?;
        let membership = self.membership();
        match membership.get_node(&id) {
            Some(present) if *present != peer => {
                return Err(refused(format!(
                    "node {id} is a member with another address or key; hint: node ids are never reused, take {}",
                    self.next_node_id()
                )));
            }
            Some(_) if is_voter(&membership, id) && !is_joint(&membership) => {
                return Ok(voters(&membership));
            }
            Some(_) => {}
            None => self.check_new(&membership, id, &peer)?,
        }
        if membership.get_node(&id).is_none() {
            let detail =
                format!("node {id} at {}, key {}", peer.raft_addr, hex::encode(peer.public_key));
            self.operations.record("add-node", detail, &why).await?;
            self.raft.add_learner(id, peer, false).await.map_err(|error| self.failed(error))?;
        }
        drop(one);
        self.wait_until_near(id).await?;
        let one = self.one_at_a_time()?;
        if self.membership().get_node(&id).is_none() {
            return Err(removed_meanwhile(id));
        }
        self.change(ChangeMembers::AddVoterIds(BTreeSet::from([id])), one).await
    }

    /// Takes a node out of the group; its id is never used again. Returns the voters that are left.
    pub async fn remove(&self, id: u64, why: Why) -> Result<Vec<u64>, Rejected> {
        let one = self.one_at_a_time()?;
        self.leader()?;
        let membership = self.membership();
        if membership.get_node(&id).is_none() {
            return match self.ledger.max_node_id() {
                max if id <= max && id > 0 => Ok(voters(&membership)),
                _ => Err(Rejected::new(Reason::NotFound, format!("there is no node {id}"))),
            };
        }
        if id == *self.raft.node_id() {
            return Err(refused(format!(
                "node {id} leads and would remove itself; hint: transfer-leader first"
            )));
        }
        if voters(&membership) == [id] {
            return Err(refused(format!("node {id} is the last voter")));
        }
        self.operations.record("remove-node", format!("node {id}"), &why).await?;
        let ids = BTreeSet::from([id]);
        if is_voter(&membership, id) {
            self.change(ChangeMembers::RemoveVoters(ids), one).await
        } else {
            self.change(ChangeMembers::RemoveNodes(ids), one).await
        }
    }

    /// Hands leadership to `to`, or to the follower with the most of the log if it is 0. Returns
    /// the new leader.
    pub async fn transfer(&self, to: u64, why: Why) -> Result<u64, Rejected> {
        self.leader()?;
        let me = *self.raft.node_id();
        if to == me {
            return Ok(me);
        }
        let to = self.target(to)?;
        match self.operations.record("transfer-leader", format!("to node {to}"), &why).await {
            // A leader that cannot take events must be able to go all the same.
            Err(rejected) if rejected.reason == Reason::ReadOnly => {
                tracing::warn!("disk nearly full: the transfer is not recorded");
            }
            recorded => drop(recorded?),
        }
        self.hand_over(to).await
    }

    /// Asks voters of this choice for their certificates once more: a connection keeps the one that
    /// it was made with.
    pub async fn look_again_at(&self, which: impl Fn(u64) -> bool) {
        let membership = self.membership();
        for (id, peer) in membership.nodes() {
            if *id != *self.raft.node_id() && is_voter(&membership, *id) && which(*id) {
                // Of a voter that does not answer, the certificate it has shown before counts.
                let _ = self.network.prove(*id, peer, PROVE).await;
            }
        }
    }

    /// Hands leadership over without a record: for a leader that cannot take any, or is about to
    /// stop. `accept` says to whom.
    pub async fn hand_over_to(&self, accept: impl Fn(u64) -> bool) -> Result<u64, Rejected> {
        self.leader()?;
        self.hand_over(self.furthest(accept)?).await
    }

    /// The id that the next node gets.
    pub fn next_node_id(&self) -> u64 {
        let membership = self.membership();
        let max = membership.nodes().map(|(id, _)| *id).max().unwrap_or(0);
        max.max(self.ledger.max_node_id()) + 1
    }

    /// Finishes a joint configuration that an earlier leader, or a failed second step, has left
    /// behind.
    pub async fn finish_joint(self: Arc<Self>) {
        let mut leadership = self.leadership.clone();
        loop {
            if leadership.wait_for(|now| matches!(now, Leadership::Ready(_))).await.is_err() {
                return;
            }
            if is_joint(&self.membership())
                && let Ok(one) = self.one_at_a_time()
                && is_joint(&self.membership())
            {
                tracing::info!("finishing a membership change that was begun");
                let finish = ChangeMembers::AddVoterIds(BTreeSet::new());
                if let Err(error) = self.change(finish, one).await {
                    tracing::warn!(%error, "cannot finish the membership change yet");
                }
            }
            tokio::select! {
                changed = leadership.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(FINISH_AGAIN) => {}
            }
        }
    }

    fn one_at_a_time(&self) -> Result<OwnedMutexGuard<()>, Rejected> {
        self.changing.clone().try_lock_owned().map_err(|_| {
            Rejected::new(Reason::Busy, "another membership change is under way; hint: try again")
                .retry_after(Duration::from_millis(500))
        })
    }

    fn leader(&self) -> Result<(), Rejected> {
        match &*self.leadership.borrow() {
            Leadership::Ready(_) => Ok(()),
            other => Err(other.rejection()),
        }
    }

    fn membership(&self) -> Membership {
        self.raft.server_metrics().borrow_watched().membership_config.membership().clone()
    }

    fn check_new(&self, membership: &Membership, id: u64, peer: &Peer) -> Result<(), Rejected> {
        let next = self.next_node_id();
        if id != next {
            return Err(refused(format!(
                "node {id} cannot be added, the next id is {next}; hint: node ids are never reused, make the identity \
                 with `indelible node-key`"
            )));
        }
        if membership.nodes().count() >= MEMBERS_MAX {
            return Err(refused(format!(
                "the group has {MEMBERS_MAX} members, which is the limit"
            )));
        }
        if is_joint(membership) {
            return Err(refused(
                "another membership change is not finished; hint: try again".into(),
            ));
        }
        let addresses = [
            ("client_addr", &peer.client_addr),
            ("raft_addr", &peer.raft_addr),
            ("http_addr", &peer.http_addr),
        ];
        for (at, (name, address)) in addresses.iter().enumerate() {
            let invalid = |what: String| {
                Rejected::new(Reason::Invalid, format!("{name} {address:?}: {what}"))
            };
            check_address(address).map_err(|what| invalid(what.to_string()))?;
            if let Some((other, _)) = addresses[..at].iter().find(|(_, known)| known == address) {
                return Err(invalid(format!("that is its {other} too")));
            }
            let taken = membership.nodes().find(|(_, member)| {
                [&member.client_addr, &member.raft_addr, &member.http_addr].contains(address)
            });
            if let Some((member, _)) = taken {
                return Err(invalid(format!("node {member} has it")));
            }
        }
        Ok(())
    }

    /// Until a node has proved that it is at its raft address with its key, and answers clients at
    /// the other two: it may have been started a moment ago.
    async fn wait_for_proof(&self, id: u64, peer: &Peer) -> Result<(), LinkError> {
        let deadline = Instant::now() + PROVE;
        loop {
            let proved = match self.network.prove(id, peer, PROVE).await {
                Ok(()) => self.network.check_public_ports(id, peer, PROVE).await,
                failed => failed,
            };
            match proved {
                Err(LinkError::Unreachable { .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(PROVE_AGAIN).await;
                }
                proved => return proved,
            }
        }
    }

    /// Until a learner lacks little enough of the log to be a voter, at two looks: by one alone it
    /// might be near for a moment, with a disk that does not keep up.
    async fn wait_until_near(&self, id: u64) -> Result<(), Rejected> {
        let near_twice = async {
            let (mut was_near, mut last) = (false, u64::MAX);
            loop {
                let progress = self.progress(id)?;
                // On a busy trail it is enough that it is not further behind than one look.
                let appended = progress.last.saturating_sub(last);
                let is_near = progress.lag() <= appended.max(VOTER_LAG_ENTRIES_MAX)
                    && self.is_little(progress.missing()).await?;
                if is_near && was_near {
                    return Ok(());
                }
                (was_near, last) = (is_near, progress.last);
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        caught_up(id, near_twice).await
    }

    /// Whether these entries have no more bytes than a new voter may lack.
    async fn is_little(&self, entries: Range<u64>) -> Result<bool, Rejected> {
        let (log, count) = (self.log.clone(), entries.end.saturating_sub(entries.start));
        let read = tokio::task::spawn_blocking(move || log.read(entries, VOTER_LAG_BYTES_MAX));
        let read = read.await.map_err(|_| stopping())?;
        let read = read.map_err(|error| refused(format!("the end of the log: {error}")))?;
        Ok(read.len() as u64 == count)
    }

    /// Until a node lacks at most `lag_max` entries.
    async fn wait_for_log(&self, id: u64, lag_max: u64) -> Result<(), Rejected> {
        let mut metrics = self.raft.metrics();
        let near = async {
            while self.progress(id)?.lag() > lag_max {
                metrics.changed().await.map_err(|_| no_leader())?;
            }
            Ok(())
        };
        caught_up(id, near).await
    }

    /// How far a node has got.
    fn progress(&self, id: u64) -> Result<Progress, Rejected> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        if metrics.membership_config.membership().get_node(&id).is_none() {
            return Err(removed_meanwhile(id));
        }
        let replication = metrics.replication.as_ref().ok_or_else(no_leader)?;
        let matched = replication.get(&id).and_then(|matched| matched.as_ref());
        let last = metrics.last_log_index.unwrap_or(0);
        Ok(Progress { matched: matched.map(|matched| matched.index), last })
    }

    /// Both steps of a change. openraft remembers the first in the log: a later leader finishes it.
    ///
    /// It goes on when the caller hangs up: a change that was begun is finished, with the guard
    /// held.
    async fn change(
        &self,
        members: ChangeMembers<u64, Peer>,
        one: OwnedMutexGuard<()>,
    ) -> Result<Vec<u64>, Rejected> {
        let raft = self.raft.clone();
        let change = tokio::spawn(async move {
            let changed = raft.change_membership(members, false).await;
            drop(one);
            changed
        });
        match change.await {
            Ok(Ok(_)) => Ok(voters(&self.membership())),
            Ok(Err(error)) => Err(self.failed(error)),
            Err(_) => Err(stopping()),
        }
    }

    fn target(&self, to: u64) -> Result<u64, Rejected> {
        match to {
            0 => self.furthest(|_| true),
            to if is_voter(&self.membership(), to) => Ok(to),
            to => Err(Rejected::new(Reason::NotFound, format!("node {to} is no voter"))),
        }
    }

    /// The voter besides this node that has most of the log, of those that `accept` accepts.
    fn furthest(&self, accept: impl Fn(u64) -> bool) -> Result<u64, Rejected> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let matched: BTreeMap<u64, Option<u64>> = metrics
            .replication
            .iter()
            .flatten()
            .map(|(id, matched)| (*id, matched.as_ref().map(|matched| matched.index)))
            .collect();
        voters(&self.membership())
            .into_iter()
            .filter(|id| id != self.raft.node_id() && accept(*id))
            .max_by_key(|id| matched.get(id).copied().flatten())
            .ok_or_else(|| refused("there is no other voter that could lead".into()))
    }

    /// A hand-over to a node that lags leaves the group without a leader for seconds: first wait
    /// for it.
    async fn hand_over(&self, to: u64) -> Result<u64, Rejected> {
        let mut leadership = self.leadership.clone();
        self.wait_for_log(to, HAND_OVER_LAG_MAX).await?;
        self.raft.trigger().transfer_leader(to).await.map_err(|_| stopping())?;
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

    fn failed(&self, error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> Rejected {
        let term = self.raft.server_metrics().borrow_watched().vote.leader_id.term;
        match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
                forward_rejection(&forward, term)
            }
            RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => {
                let message =
                    "the leader changed; hint: the next one finishes what was begun, call again";
                Rejected::new(Reason::CommitUnknown, message)
            }
            RaftError::APIError(error) => refused(error.to_string()),
            RaftError::Fatal(_) => stopping(),
        }
    }
}

/// How far a node has copied the log.
struct Progress {
    /// The last entry that it is known to have; none before its first answer.
    matched: Option<u64>,
    /// The leader's last one.
    last: u64,
}

impl Progress {
    /// Entries that it lacks.
    fn lag(&self) -> u64 {
        self.matched.map_or(u64::MAX, |matched| self.last.saturating_sub(matched))
    }

    /// Those entries, of a node that has answered.
    fn missing(&self) -> Range<u64> {
        self.matched.map_or(0, |matched| matched + 1)..self.last + 1
    }
}

/// Ends a wait for a node that copies the log.
async fn caught_up(
    id: u64,
    near: impl Future<Output = Result<(), Rejected>>,
) -> Result<(), Rejected> {
    tokio::time::timeout(CATCH_UP, near).await.unwrap_or_else(|_| {
        Err(refused(format!(
            "node {id} has not caught up in {CATCH_UP:?}; hint: is it running? It stays a learner: call again"
        )))
    })
}

fn voters(membership: &Membership) -> Vec<u64> {
    membership.voter_ids().collect::<BTreeSet<u64>>().into_iter().collect()
}

fn is_voter(membership: &Membership, id: u64) -> bool {
    membership.voter_ids().any(|voter| voter == id)
}

fn is_joint(membership: &Membership) -> bool {
    membership.get_joint_config().len() > 1
}

fn refused(message: String) -> Rejected {
    Rejected::new(Reason::Membership, message)
}

fn removed_meanwhile(id: u64) -> Rejected {
    refused(format!("node {id} was removed while it copied the log"))
}

fn stopping() -> Rejected {
    Rejected::new(Reason::Stopping, "the node is stopping")
}

fn no_leader() -> Rejected {
    Rejected::new(Reason::NoLeader, "this node leads no longer; hint: try again")
}
