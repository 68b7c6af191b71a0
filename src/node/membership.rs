//! Changing the group: one node at a time, recorded before it is done, finished by the next leader
//! if this one dies.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use indelible_core::limits::MEMBERS_MAX;
use indelible_proto::reason::{Reason, Rejected};
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{ClientWriteError, RaftError};
use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio::time::Instant;

use super::config::check_address;
use super::hand_over::{HandOver, check_voter};
use super::joint::{Joint, StepError, VoterChange, is_joint};
use super::leadership::{Leadership, forward_rejection};
use super::operations::{Operations, Why};
use super::progress::{
    Progress, caught_up, current_membership, refused, removed_meanwhile, stopping,
};
use super::publish::Publication;
use crate::raft::link::LinkError;
use crate::raft::network::Network;
use crate::raft::types::{Membership, Peer, Raft};
use crate::storage::hard_state::SignedBoot;
use crate::storage::ledger::Ledger;
use crate::storage::log::Log;

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

/// Membership changes of this node while it leads.
pub struct MembershipChanges {
    hand_over: HandOver,
    raft: Raft,
    network: Network,
    log: Log,
    ledger: Ledger,
    leadership: watch::Receiver<Leadership>,
    operations: Arc<Operations>,
    joint: Joint,
    /// One change at a time.
    changing: Arc<Mutex<()>>,
}

/// What changing the group needs.
pub struct Options {
    /// Of the node.
    pub hand_over: HandOver,
    /// The node's openraft.
    pub raft: Raft,
    /// To nodes that are to be added.
    pub network: Network,
    /// The node's log.
    pub log: Log,
    /// The node's ledger.
    pub ledger: Ledger,
    /// Who leads.
    pub leadership: watch::Receiver<Leadership>,
    /// Where changes are recorded.
    pub operations: Arc<Operations>,
    /// Where the checkpoints of a change come from.
    pub publication: Publication,
}

impl MembershipChanges {
    /// Nothing happens before a call.
    pub fn new(options: Options) -> Self {
        let Options { hand_over, raft, network, log, ledger, leadership, operations, publication } =
            options;
        MembershipChanges {
            hand_over,
            network,
            log,
            leadership,
            operations,
            joint: Joint::new(raft.clone(), ledger.clone(), publication),
            raft,
            ledger,
            changing: Arc::default(),
        }
    }

    /// Makes a node a voter: learner first, and voter once it has the log. Calling again after a
    /// failure goes on where it stopped. Returns the voters.
    ///
    /// Nothing is recorded, and the group dials nothing, before the node has proved once that it is
    /// at its address with its key. Other changes may be made while it copies the log.
    pub async fn add(&self, id: u64, mut peer: Peer, why: Why) -> Result<Vec<u64>, Rejected> {
        self.leader()?;
        let membership = current_membership(&self.raft);
        if membership.get_node(&id).is_none() {
            self.check_new(&membership, id, &peer)?;
            let boot = self.wait_for_proof(id, &peer).await.map_err(|error| {
                refused(format!(
                    "{error}; hint: start node {id} first, with a certificate of this trail's CA, and wait until it \
                     has opened its log"
                ))
            })?;
            // From now on the node must be this one, or one that follows from it.
            peer.boot = Some(boot);
        }
        let one = self.one_at_a_time()?;
        self.leader()?;
        let membership = current_membership(&self.raft);
        match membership.get_node(&id) {
            Some(present) if !present.is_same(&peer) => {
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
        if current_membership(&self.raft).get_node(&id).is_none() {
            return Err(removed_meanwhile(id));
        }
        self.change(Change::Voter(VoterChange::Add(id)), one).await
    }

    /// Takes a node out of the group; its id is never used again. Returns the voters that are left.
    /// A leader that is to go hands leadership over and sends the caller to the next one.
    pub async fn remove(&self, id: u64, why: Why) -> Result<Vec<u64>, Rejected> {
        let one = self.one_at_a_time()?;
        self.leader()?;
        let membership = current_membership(&self.raft);
        if membership.get_node(&id).is_none() {
            return match self.ledger.max_node_id() {
                max if id <= max && id > 0 => Ok(voters(&membership)),
                _ => Err(Rejected::new(Reason::NotFound, format!("there is no node {id}"))),
            };
        }
        if voters(&membership) == [id] {
            return Err(refused(format!(
                "node {id} is the last voter; hint: add another node first"
            )));
        }
        if id == *self.raft.node_id() {
            return Err(self.leave_to_next(why).await);
        }
        self.operations.record("remove-node", format!("node {id}"), &why).await?;
        let change = match is_voter(&membership, id) {
            true => Change::Voter(VoterChange::Remove(id)),
            false => Change::RemoveLearner(id),
        };
        self.change(change, one).await
    }

    /// A leader that is to be removed hands leadership over first; the next one removes it. Returns
    /// what tells the caller to ask that one.
    async fn leave_to_next(&self, why: Why) -> Rejected {
        let me = *self.raft.node_id();
        match self.transfer(0, why).await {
            // NB: the next leader may have handed it back. Then this one is asked again.
            Ok(_) => self.leadership.borrow().rejection(),
            Err(rejected) if rejected.reason == Reason::Membership => refused(format!(
                "node {me} leads, and cannot be removed before another voter leads: {rejected}"
            )),
            Err(rejected) => rejected,
        }
    }

    /// Hands leadership to `to`, or if that is 0 to the voter that is the best leader after this
    /// node. Returns the new leader.
    pub async fn transfer(&self, to: u64, why: Why) -> Result<u64, Rejected> {
        self.leader()?;
        let me = *self.raft.node_id();
        if to == me {
            return Ok(me);
        }
        let to = match to {
            0 => self.hand_over.next()?,
            to => {
                check_voter(&self.raft, to)?;
                to
            }
        };
        match self.operations.record("transfer-leader", format!("to node {to}"), &why).await {
            // A leader that cannot take events must be able to go all the same.
            Err(rejected) if rejected.reason == Reason::ReadOnly => {
                tracing::warn!("disk nearly full: the transfer is not recorded");
            }
            recorded => drop(recorded?),
        }
        self.hand_over.to(to).await
    }

    /// The id that the next node gets.
    pub fn next_node_id(&self) -> u64 {
        let membership = current_membership(&self.raft);
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
            if is_joint(&current_membership(&self.raft))
                && let Ok(one) = self.one_at_a_time()
                && is_joint(&current_membership(&self.raft))
            {
                tracing::info!("finishing a membership change that was begun");
                if let Err(error) = self.change(Change::Finish, one).await {
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
    async fn wait_for_proof(&self, id: u64, peer: &Peer) -> Result<SignedBoot, LinkError> {
        let deadline = Instant::now() + PROVE;
        loop {
            let proved = match self.network.prove(id, peer, PROVE).await {
                Ok(boot) => self.network.check_public_ports(id, peer, PROVE).await.map(|()| boot),
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
                let progress = Progress::of(&self.raft, id)?;
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

    /// The tree size that no checkpoint of both majorities covers, if the last change of voters
    /// ended so; 0 otherwise.
    pub fn unsigned(&self) -> u64 {
        self.joint.unsigned()
    }

    /// All steps of a change. It goes on when the caller hangs up: a change that was begun is
    /// finished, with the guard held.
    async fn change(&self, change: Change, one: OwnedMutexGuard<()>) -> Result<Vec<u64>, Rejected> {
        let joint = self.joint.clone();
        let change = tokio::spawn(async move {
            let changed = match change {
                Change::Voter(change) => joint.change(change).await,
                Change::RemoveLearner(id) => joint.remove_learner(id).await,
                Change::Finish => joint.finish().await,
            };
            drop(one);
            changed
        });
        match change.await {
            Ok(Ok(())) => Ok(voters(&current_membership(&self.raft))),
            Ok(Err(error)) => Err(self.failed(error)),
            Err(_) => Err(stopping()),
        }
    }

    fn failed(&self, error: StepError) -> Rejected {
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

fn voters(membership: &Membership) -> Vec<u64> {
    membership.voter_ids().collect::<BTreeSet<u64>>().into_iter().collect()
}

fn is_voter(membership: &Membership, id: u64) -> bool {
    membership.voter_ids().any(|voter| voter == id)
}

/// What is changed.
enum Change {
    Voter(VoterChange),
    RemoveLearner(u64),
    /// What was begun.
    Finish,
}
