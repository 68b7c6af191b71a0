//! Who may speak: the handshake that opens every connection between nodes, and what it remembers.
//!
//! A node is known by the name in its certificate, its key (in the membership, or in the genesis
//! file before there is one), of which it shows possession on this very connection, and its boot,
//! which must follow from the one that this node remembers of it (docs/adr/0011).
//! So a stranger, a wiped disk, an older copy of a disk, a second copy of a running node, or a node
//! of another trail gives itself away before it can vote or acknowledge anything. Nothing is
//! remembered of a peer before its proof holds (docs/adr/0010).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use indelible_core::TrailId;
use indelible_core::limits::MEMBERS_MAX;
use indelible_lineage::{Admission, Boot};
use indelible_proto::raft as pb;
use tokio::sync::watch;
use tokio::time::Instant;

use super::acknowledged::Acknowledged;
use super::admission::{Answer, AskOldBoot, Cosigned};
use super::boots::{self, OwnBoots, Shown};
use super::proof::Claim;
pub use super::refusal::Refusal;
use super::removals::Removals;
use super::reports::{Report, Reports};
use super::types::{Membership, Peer};
use crate::net::connection::Proven;
use crate::net::credentials::unix_s;
use crate::net::{Connection, Security};
use crate::storage::evidence;
use crate::storage::hard_state::SignedBoot;
use crate::storage::log::Log;
use crate::storage::synced::Promise;

/// Between two lines in the log about one peer.
const NEWS_EVERY: Duration = Duration::from_secs(1);

/// This node, as it introduces itself.
#[derive(Clone)]
pub struct Introduction {
    /// Its id.
    pub node_id: u64,
    /// Its trail.
    pub trail_id: TrailId,
    /// Its key, to prove that it is this node.
    pub key: SigningKey,
    /// Its segment size in bytes.
    pub segment_bytes: u64,
    /// Where it keeps evidence.
    pub data_dir: PathBuf,
}

/// What is known of peers. Shared by both ends of the wire.
pub struct Peers {
    me: Introduction,
    pub(super) log: Log,
    /// The initial voters, as long as there is no membership in the log.
    genesis: BTreeMap<u64, Peer>,
    /// Memberships, and the highest id that ever was in one.
    known: watch::Receiver<Known>,
    /// The boots of this node.
    pub(super) own: OwnBoots,
    /// Asks a node whether an earlier boot of it still answers.
    pub(super) asks: OnceLock<AskOldBoot>,
    /// Which entry a node has cosigned, as this node's notes say.
    pub(super) cosigned: OnceLock<Cosigned>,
    /// Why this node must not go on, once a peer has shown it.
    pub(super) refused_for_good: watch::Sender<Option<String>>,
    /// Held while a peer's boot is compared and saved.
    pub(super) saving: tokio::sync::Mutex<()>,
    /// Held while evidence is written.
    writing_evidence: Arc<tokio::sync::Mutex<()>>,
    /// Who says that this node was removed from the group.
    removals: Removals,
    state: Mutex<State>,
}

/// Memberships as the handshake needs them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// Newest membership in the log, committed or not.
    pub membership: Membership,
    /// Newest membership that is applied here.
    pub applied: Membership,
    /// Highest node id in any applied membership; ids up to it that no membership has were removed.
    pub applied_id_max: u64,
    /// Highest node id in any membership so far.
    pub node_id_max: u64,
}

impl Known {
    /// A member, old or new: a change is not over before it is applied, and this node may lag.
    pub fn member(&self, node: u64) -> Option<&Peer> {
        self.membership.get_node(&node).or_else(|| self.applied.get_node(&node))
    }

    /// Whether a node's removal is committed, and applied here.
    pub fn is_removed(&self, node: u64) -> bool {
        node <= self.applied_id_max && self.member(node).is_none()
    }
}

#[derive(Default)]
pub(super) struct State {
    /// What peers said of themselves with their last answer.
    reports: Reports,
    /// When the certificate of a member expires that it has shown last, in Unix seconds.
    certificate_ends: BTreeMap<u64, i64>,
    /// Peers that refuse this node, and why: for /readyz.
    refused_by: BTreeMap<u64, String>,
    /// Callers that this node refuses, and why, as logged last.
    refusals: BTreeMap<u64, (Instant, String)>,
    /// Peers that this node refuses, with the boot for which that was logged.
    refusing: BTreeMap<u64, Boot>,
    /// Whether a peer has admitted this very boot.
    pub(super) is_admitted: bool,
    /// Who says that another process of this node runs: since when, and when last.
    pub(super) runs_already: BTreeMap<u64, (Instant, Instant)>,
    /// Whether all disks were put back together.
    pub(super) is_rolled_back: bool,
    /// Whether the alarm about a copy of this node was raised.
    pub(super) is_alarmed: bool,
    /// The highest entry that each peer has cosigned, as far as it was compared with.
    pub(super) cosigned: Acknowledged,
    /// The highest promise that each peer has made to this node with a vote.
    promised: Acknowledged<Promise>,
    /// Highest committed index that a peer has acknowledged to this node: it can never be without
    /// it again.
    acknowledged: Acknowledged,
}

impl Peers {
    /// `genesis` is empty on a node that was added later.
    pub fn new(
        me: Introduction,
        log: Log,
        genesis: BTreeMap<u64, Peer>,
        known: watch::Receiver<Known>,
    ) -> Self {
        let lineage = log.lineage().clone();
        let own = OwnBoots::new(me.trail_id, me.node_id, me.key.clone(), lineage);
        let (asks, cosigned, saving, writing_evidence, removals, state) = Default::default();
        let refused_for_good = watch::Sender::new(None);
        Peers {
            me,
            log,
            genesis,
            known,
            own,
            asks,
            cosigned,
            refused_for_good,
            saving,
            writing_evidence,
            removals,
            state,
        }
    }

    /// Says how earlier boots are asked. Once.
    pub(super) fn set_asks(&self, asks: AskOldBoot) {
        assert!(self.asks.set(asks).is_ok(), "one network for each node");
    }

    /// How this node introduces itself to `to`, on a connection with this binding.
    pub(super) fn hello(&self, to: u64, binding: [u8; 32], asked: Asked) -> pb::Hello {
        let last_log_index = self.last_log_index();
        let (shown, promise) = (self.own.show(asked.ours_after), self.promise());
        pb::Hello {
            trail_id: Bytes::copy_from_slice(&self.me.trail_id.0),
            from: self.me.node_id,
            to,
            public_key: self.public_key(),
            boot: Some(boots::to_pb(&shown.boot)),
            segment_bytes: self.me.segment_bytes,
            version: env!("CARGO_PKG_VERSION").into(),
            last_log_index,
            empty: self.log.last().is_none(),
            proof: self.prove(to, shown.boot.boot, last_log_index, promise, binding),
            promise: Some(promise_to_pb(promise)),
            draws: shown.draws_to_pb(),
            draws_after: asked.theirs_after,
            more: shown.more,
        }
    }

    /// Checks a peer that calls. From then on it has proved, on this connection, to be who it is.
    pub async fn admit(
        &self,
        hello: &pb::Hello,
        connection: &Connection,
    ) -> Result<pb::Welcome, Refusal> {
        let trail = TrailId::from_slice(&hello.trail_id)
            .ok_or(Refusal::Malformed("trail id is not of 16 bytes"))?;
        if trail != self.me.trail_id {
            let theirs = trail.to_string();
            return Err(Refusal::OtherTrail { node: hello.from, theirs, ours: self.me.trail_id });
        }
        if hello.to != self.me.node_id {
            return Err(Refusal::WrongNode { wanted: hello.to, ours: self.me.node_id });
        }
        if hello.from == self.me.node_id || hello.from == 0 {
            return Err(Refusal::Malformed("the peer has this node's id, or none"));
        }
        if hello.segment_bytes != self.me.segment_bytes {
            let (theirs, ours) = (hello.segment_bytes, self.me.segment_bytes);
            return Err(Refusal::OtherSegmentSize { node: hello.from, theirs, ours });
        }
        let shown = Shown::from_pb(hello.boot.as_ref(), &hello.draws, hello.more)
            .ok_or(Refusal::Malformed("the boot makes no sense"))?;
        let boot = shown.boot.boot;
        let presented = PresentedIdentity {
            node: hello.from,
            key: &hello.public_key,
            shown,
            last_log_index: hello.last_log_index,
            promise: promise_from_pb(hello.promise.as_ref()),
            proof: &hello.proof,
        };
        let answer =
            self.check_identity(&presented, &connection.security, connection.accepted).await?;
        let draws_after = answer.asks_after(&presented.shown);
        let key = hello.public_key[..].try_into().expect("the key was checked");
        let proven = Proven { node: hello.from, key, boot: boot.hash };
        if draws_after.is_none() && !connection.set_proven(proven) {
            return Err(Refusal::Malformed("the connection is another node's, or another boot's"));
        }
        let (last_log_index, promise) = (self.last_log_index(), self.promise());
        let (own, binding) = (self.own.show(hello.draws_after), connection.security.binding());
        Ok(pb::Welcome {
            public_key: self.public_key(),
            boot: Some(boots::to_pb(&own.boot)),
            empty: self.log.last().is_none(),
            last_log_index,
            proof: self.prove(hello.from, own.boot.boot, last_log_index, promise, binding),
            promise: Some(promise_to_pb(promise)),
            draws: own.draws_to_pb(),
            draws_after,
            more: own.more,
            admitted: answer == Answer::Admitted && draws_after.is_none(),
        })
    }

    /// Checks a peer that was called at `dialed`, from its answer. Some: it must be called again,
    /// on the same connection, and show its draws after this boot.
    pub(super) async fn check_welcome(
        &self,
        node: u64,
        welcome: &pb::Welcome,
        security: &Security,
        dialed: Instant,
    ) -> Result<Option<u64>, Refusal> {
        let shown = Shown::from_pb(welcome.boot.as_ref(), &welcome.draws, welcome.more)
            .ok_or(Refusal::Malformed("the boot makes no sense"))?;
        let boot = shown.boot.boot;
        let presented = PresentedIdentity {
            node,
            key: &welcome.public_key,
            shown,
            last_log_index: welcome.last_log_index,
            promise: promise_from_pb(welcome.promise.as_ref()),
            proof: &welcome.proof,
        };
        let checked = self.check_identity(&presented, security, dialed).await;
        if let Err(refusal) = &checked
            && !matches!(refusal, Refusal::Again { .. })
            && self.lock().refusing.insert(node, boot) != Some(boot)
        {
            tracing::error!(node, %refusal, "this node refuses a peer");
        }
        Ok(checked?.asks_after(&presented.shown))
    }

    /// The node that has proved on this connection who it is, as long as it is not removed and no
    /// newer boot of it was seen. A stranger may have shown any key: when a membership has its id,
    /// that must be the one.
    pub fn sender(&self, connection: &Connection) -> Option<u64> {
        let Proven { node, key, boot } = connection.proven()?;
        let current = match self.expected_key(node) {
            Expected::Key(expected) => key == expected && self.is_current(node, &boot),
            Expected::Anything => true,
            Expected::Removed => false,
        };
        current.then_some(node)
    }

    /// Whether what was settled in a handshake with a node that was called still holds.
    pub(super) fn holds(&self, node: u64, welcome: &pb::Welcome) -> bool {
        match self.expected_key(node) {
            Expected::Key(expected) => {
                let is_key = welcome.public_key == expected[..];
                let boot = welcome.boot.as_ref().and_then(|boot| boot.hash[..].try_into().ok());
                is_key && boot.is_some_and(|boot| self.is_current(node, &boot))
            }
            Expected::Anything => true,
            Expected::Removed => false,
        }
    }

    /// Notes an answer of a peer: whether its disk is nearly full, and whether it has the log key.
    pub fn observe_report(&self, node: u64, read_only: bool, log_key: bool) {
        self.lock().reports.note(node, read_only, log_key);
    }

    /// What a peer said of itself when it last answered this leader.
    pub fn report(&self, node: u64) -> Option<Report> {
        self.lock().reports.of(node)
    }

    /// Whether the certificate that a member has shown last has expired.
    pub fn is_expired(&self, node: u64) -> bool {
        self.lock().certificate_ends.get(&node).is_some_and(|end| *end <= unix_s())
    }

    /// Why peers refuse this node, if those that do leave it no majority: a single one may be
    /// wrong, or lie.
    pub fn refused(&self) -> Option<String> {
        let voters: BTreeSet<u64> = self.known.borrow().membership.voter_ids().collect();
        let state = self.lock();
        let refusing = state.refused_by.keys().filter(|node| voters.contains(node)).count();
        let is_majority_left = (voters.len() - refusing) * 2 > voters.len();
        // As long as no voters are known, one refusal is enough.
        let why = state.refused_by.values().next().cloned();
        why.filter(|_| voters.is_empty() || !is_majority_left)
    }

    /// Whether it is news that a peer is refused for this reason, or does something else that it
    /// should not. Once a second for each node at most, as it may choose what is wrong.
    pub fn is_refusal_news(&self, node: u64, why: &str) -> bool {
        let (mut state, now) = (self.lock(), Instant::now());
        // Ids are whatever strangers with a certificate say: as many as there are members.
        if state.refusals.len() >= MEMBERS_MAX && !state.refusals.contains_key(&node) {
            state.refusals.clear();
        }
        let known = state.refusals.get(&node);
        let is_news = known.is_none_or(|(at, known)| known != why && now - *at >= NEWS_EVERY);
        if is_news {
            state.refusals.insert(node, (now, why.to_owned()));
        }
        is_news
    }

    /// Notes whether a peer refuses this node. True if that is news.
    pub fn set_refused_by(&self, node: u64, why: Option<String>) -> bool {
        let mut state = self.lock();
        self.removals.taken_back(node);
        match why {
            Some(why) => state.refused_by.insert(node, why).is_none(),
            None => state.refused_by.remove(&node).is_some(),
        }
    }

    /// Forgets what it knows of nodes that were removed: ids are never used again.
    pub fn forget_removed(&self) {
        let known = self.known.borrow();
        let stays = |node: &u64| !known.is_removed(*node);
        let mut state = self.lock();
        state.reports.retain(stays);
        state.certificate_ends.retain(|node, _| stays(node));
        state.refused_by.retain(|node, _| stays(node));
        state.refusing.retain(|node, _| stays(node));
        state.acknowledged.retain(stays);
        state.cosigned.retain(stays);
        state.promised.retain(stays);
    }

    /// Who says that this node was removed from the group.
    pub fn removals(&self) -> &Removals {
        &self.removals
    }

    /// Notes that a peer has acknowledged everything up to an index that is committed.
    pub fn acknowledged(&self, node: u64, index: u64) {
        let mut state = self.lock();
        state.acknowledged.note(node, index, Instant::now());
    }

    /// Notes that a peer has voted for this node, and so promised to follow it.
    pub(super) fn voted(&self, node: u64, promise: Promise) {
        self.lock().promised.note(node, promise, Instant::now());
    }

    /// This node's id.
    pub fn node_id(&self) -> u64 {
        self.me.node_id
    }

    /// The initial voters.
    pub fn genesis(&self) -> &BTreeMap<u64, Peer> {
        &self.genesis
    }

    fn last_log_index(&self) -> u64 {
        self.log.last().map_or(0, |id| id.index)
    }

    fn public_key(&self) -> Bytes {
        Bytes::copy_from_slice(self.me.key.verifying_key().as_bytes())
    }

    fn promise(&self) -> Promise {
        self.log.vote().map(|vote| vote.promise()).unwrap_or_default()
    }

    fn prove(
        &self,
        to: u64,
        boot: Boot,
        last_log_index: u64,
        promise: Promise,
        binding: [u8; 32],
    ) -> Bytes {
        let (trail, from) = (&self.me.trail_id, self.me.node_id);
        let claim = Claim { trail, from, to, boot, last_log_index, promise, binding };
        claim.sign(&self.me.key).into()
    }

    /// Everything that makes a peer the node that it says it is. Nothing is kept before the proof
    /// holds.
    ///
    /// What it says of its log is compared with what it had acknowledged at `since`, before it can
    /// have said so: it goes on acknowledging on another connection.
    async fn check_identity(
        &self,
        presented: &PresentedIdentity<'_>,
        security: &Security,
        since: Instant,
    ) -> Result<Answer, Refusal> {
        let PresentedIdentity { node, shown, last_log_index, promise, .. } = presented;
        let (node, last_log_index, promise) = (*node, *last_log_index, *promise);
        let key: [u8; 32] = presented
            .key
            .try_into()
            .map_err(|_| Refusal::Malformed("public key is not of 32 bytes"))?;
        // The certificate was verified when the connection was made: its chain, and its trail.
        if let Security::Tls { peer, .. } = security {
            let name = peer.as_ref().map(|peer| &peer.name);
            if name.and_then(|name| name.node_id()) != Some(node) {
                let named = name.map_or_else(|| "nobody".into(), |name| name.principal());
                return Err(Refusal::OtherName { node, named });
            }
        }
        let claim = Claim {
            trail: &self.me.trail_id,
            from: node,
            to: self.me.node_id,
            boot: shown.boot.boot,
            last_log_index,
            promise,
            binding: security.binding(),
        };
        let is_signed = boots::is_signed(&self.me.trail_id, node, &key, &shown.boot);
        if !is_signed || !claim.is_signed(&key, presented.proof) {
            return Err(Refusal::Unproven { node });
        }
        match self.expected_key(node) {
            Expected::Key(expected) if expected != key => return Err(Refusal::OtherKey { node }),
            Expected::Removed => return Err(Refusal::Removed { node }),
            Expected::Key(_) => {}
            // A node that no membership has yet: its certificate admits it. Nothing is remembered.
            Expected::Anything => return Ok(Answer::Stranger),
        }
        if let Some(peer) = security.peer() {
            self.lock().certificate_ends.insert(node, peer.not_after);
        }
        // First of all, as this is what a refused node can be shown.
        if let Admission::Needs { after } = self.judge(node, shown)? {
            return Ok(Answer::Needs(after));
        }
        let (acknowledged, promised) = {
            let state = self.lock();
            (state.acknowledged.at(node, since), state.promised.at(node, since))
        };
        if last_log_index < acknowledged {
            return Err(Refusal::LostLog { node, theirs: last_log_index, known: acknowledged });
        }
        if promise < promised {
            let (theirs, known) = (promise.term, promised.term);
            return Err(Refusal::LostVote { node, theirs, known });
        }
        self.check_cosigned(node, last_log_index, since).await?;
        self.admit_boot(node, shown).await
    }

    /// What key a node must show. Ids above every known one are let in: the membership that has
    /// them may be on its way.
    fn expected_key(&self, node: u64) -> Expected {
        let known = self.known.borrow();
        if let Some(peer) = known.member(node) {
            return Expected::Key(peer.public_key);
        }
        if known.node_id_max == 0 {
            return match self.genesis.get(&node) {
                Some(peer) => Expected::Key(peer.public_key),
                None => Expected::Anything,
            };
        }
        if known.is_removed(node) { Expected::Removed } else { Expected::Anything }
    }

    /// The boot with which the membership has a node.
    pub(super) fn boot_in_membership(&self, node: u64) -> Option<SignedBoot> {
        self.known.borrow().member(node)?.boot
    }

    /// The voters that this node knows; those of the genesis as long as its log has none.
    pub fn voters(&self) -> BTreeSet<u64> {
        let voters: BTreeSet<u64> = self.known.borrow().membership.voter_ids().collect();
        if voters.is_empty() { self.genesis.keys().copied().collect() } else { voters }
    }

    /// Whether a node is in the group, as far as this node knows. One that is not may be the leader
    /// all the same.
    pub fn is_member(&self, node: u64) -> bool {
        matches!(self.expected_key(node), Expected::Key(_))
    }

    /// Keeps what shows that a node did what it must not, before this returns. Each member has
    /// room of its own; what is no member, as far as this node knows, shares some, so that it
    /// leaves none of theirs full.
    ///
    /// A thread that may block writes it, one piece at a time: a peer that makes much of it waits,
    /// and holds up no other.
    pub async fn keep_evidence(&self, node: u64, name: &str, what: &str) {
        tracing::error!(node, %what, "a peer breaks the rules; evidence kept");
        // What stands before the first `-` is a sort to `evidence::keep`.
        let name = match self.is_member(node) {
            true => format!("of_node_{node}-{name}.txt"),
            false => format!("of_no_member-{node}-{name}.txt"),
        };
        let writing = self.writing_evidence.clone().lock_owned().await;
        let (data_dir, what) = (self.me.data_dir.clone(), what.to_owned());
        let kept = tokio::task::spawn_blocking(move || {
            let _one = writing;
            evidence::keep(&data_dir, &name, what.as_bytes())
        });
        match kept.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "cannot keep the evidence"),
            Err(error) => tracing::error!(%error, "cannot keep the evidence"),
        }
    }

    /// Whether a node was removed from the group, as far as this node has applied.
    pub fn is_removed(&self, node: u64) -> bool {
        self.known.borrow().is_removed(node)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds this lock")
    }
}

/// Who is asked for draws in a handshake: after which boot of this node, and of the peer.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Asked {
    pub(super) ours_after: Option<u64>,
    pub(super) theirs_after: Option<u64>,
}

/// What a peer says of itself.
struct PresentedIdentity<'a> {
    node: u64,
    key: &'a [u8],
    shown: Shown,
    last_log_index: u64,
    promise: Promise,
    proof: &'a [u8],
}

fn promise_to_pb(promise: Promise) -> pb::Vote {
    pb::Vote { term: promise.term, node_id: promise.leader, committed: false }
}

fn promise_from_pb(promise: Option<&pb::Vote>) -> Promise {
    promise.map_or_else(Promise::default, |vote| Promise { term: vote.term, leader: vote.node_id })
}

enum Expected {
    Key([u8; 32]),
    Anything,
    Removed,
}
