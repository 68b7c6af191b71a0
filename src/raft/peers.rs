//! Who may speak: the handshake that opens every connection between nodes, and what it remembers.
//!
//! A node is known by the name in its certificate, its key (in the membership, or in the genesis
//! file before there is one), of which it shows possession on this very connection, and its boot:
//! a counter on its disk, which only rises, and a number drawn at random when the process starts.
//! So a stranger, a wiped disk, an older copy of a disk, a second copy of a running node, or a node
//! of another trail gives itself away before it can vote or acknowledge anything. Nothing is
//! remembered of a peer before its proof holds (docs/adr/0010).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use indelible_core::TrailId;
use indelible_core::limits::MEMBERS_MAX;
use indelible_lineage as lineage;
use indelible_proto::raft as pb;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::acknowledged::Acknowledged;
use super::proof::Claim;
use super::removals::Removals;
use super::reports::{Report, Reports};
use super::types::{Membership, Peer};
use crate::net::connection::Proven;
use crate::net::credentials::unix_s;
use crate::net::{Connection, Security};
use crate::storage::evidence;
use crate::storage::log::Log;

/// Why a peer is not spoken to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It belongs to another trail.
    #[error("node {node} belongs to trail {theirs}, this is trail {ours}")]
    OtherTrail {
        /// The peer.
        node: u64,
        /// Its trail.
        theirs: String,
        /// This node's trail.
        ours: TrailId,
    },
    /// The message was meant for another node: addresses are mixed up.
    #[error("this is node {ours}, the peer wanted node {wanted}; hint: compare raft_addr of both")]
    WrongNode {
        /// Whom the peer wanted.
        wanted: u64,
        /// Who this is.
        ours: u64,
    },
    /// Its certificate names somebody else.
    #[error(
        "the certificate is of {named}, the peer says that it is node {node}; hint: `indelible cert show` says whose a \
         certificate is"
    )]
    OtherName {
        /// Who it says it is.
        node: u64,
        /// Whom the certificate names.
        named: String,
    },
    /// It does not show that it has the key.
    #[error(
        "node {node} does not prove that it has the key that it shows; hint: is it an older version?"
    )]
    Unproven {
        /// The peer.
        node: u64,
    },
    /// Its key is not the one that the membership has under its id.
    #[error(
        "node {node} has another key than the membership has for it: a wiped or replaced node; hint: node ids are \
         never reused, add it under a new id"
    )]
    OtherKey {
        /// The peer.
        node: u64,
    },
    /// Its boot counter went backwards.
    #[error(
        "node {node} says this is its boot number {theirs}, but another boot number {known} was seen: its disk was wiped \
         or replaced by an older copy; hint: node ids are never reused, add it under a new id"
    )]
    OldDisk {
        /// The peer.
        node: u64,
        /// Its boot counter.
        theirs: u64,
        /// The newest one that was seen.
        known: u64,
    },
    /// Its log ends before an entry that it had acknowledged, and that is committed.
    #[error(
        "node {node} says its log ends at entry {theirs}, but it had acknowledged entry {known}: its disk was replaced by \
         an older copy; hint: node ids are never reused, add it under a new id"
    )]
    LostLog {
        /// The peer.
        node: u64,
        /// Its last log index.
        theirs: u64,
        /// What it had acknowledged to this node.
        known: u64,
    },
    /// It was removed from the group.
    #[error(
        "node {node} was removed from the group; hint: node ids are never reused, add it under a new id"
    )]
    Removed {
        /// The peer.
        node: u64,
    },
    /// Its segments close elsewhere, so they would not be byte-identical.
    #[error("node {node} has segments of {theirs} bytes, this trail has {ours}")]
    OtherSegmentSize {
        /// The peer.
        node: u64,
        /// Its segment size in bytes.
        theirs: u64,
        /// This node's.
        ours: u64,
    },
    /// The message does not make sense.
    #[error("handshake: {0}")]
    Malformed(&'static str),
    /// This node could not remember the peer's boot counter.
    #[error("handshake: cannot save the boot counter: {0}")]
    Storage(String),
}

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
    log: Log,
    /// The initial voters, as long as there is no membership in the log.
    genesis: BTreeMap<u64, Peer>,
    /// Memberships, and the highest id that ever was in one.
    known: watch::Receiver<Known>,
    /// Which boot of this node this is.
    boot: Boot,
    /// Held while a peer's boot counter is compared and saved: it only rises.
    saving: tokio::sync::Mutex<()>,
    /// Held while evidence is written.
    writing_evidence: Arc<tokio::sync::Mutex<()>>,
    /// Who says that this node was removed from the group.
    removals: Removals,
    state: Mutex<State>,
}

/// Which start of a node: its number in the upper half, the beginning of its hash in the lower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Boot(u64);

impl Boot {
    fn of(boot: lineage::Boot) -> Boot {
        let [a, b, c, d, ..] = boot.hash;
        Boot(boot.number << 32 | u64::from(u32::from_le_bytes([a, b, c, d])))
    }

    fn count(self) -> u64 {
        self.0 >> 32
    }

    /// As it is stored: with as much of the hash as is known.
    fn admitted(self) -> lineage::Admitted {
        let mut hash = [0; 32];
        hash[..4].copy_from_slice(&(self.0 as u32).to_le_bytes());
        let boot = lineage::Boot { number: self.count(), hash };
        lineage::Admitted { boot, is_first_contact: false }
    }
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
struct State {
    /// What peers said of themselves with their last answer.
    reports: Reports,
    /// When the certificate of a member expires that it has shown last, in Unix seconds.
    certificate_ends: BTreeMap<u64, i64>,
    /// Peers that refuse this node, and why: for /readyz.
    refused_by: BTreeMap<u64, String>,
    /// Callers that this node refuses, and why, as logged last.
    refusals: BTreeMap<u64, String>,
    /// Peers that this node refuses, with the boot for which that was logged.
    refusing: BTreeMap<u64, Boot>,
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
        let boot = Boot::of(log.boot());
        let (saving, writing_evidence, removals, state) = Default::default();
        Peers { me, log, genesis, known, boot, saving, writing_evidence, removals, state }
    }

    /// How this node introduces itself to `to`, on a connection with this binding.
    pub fn hello(&self, to: u64, binding: [u8; 32]) -> pb::Hello {
        let last_log_index = self.last_log_index();
        pb::Hello {
            trail_id: Bytes::copy_from_slice(&self.me.trail_id.0),
            from: self.me.node_id,
            to,
            public_key: self.public_key(),
            boot: self.boot.0,
            segment_bytes: self.me.segment_bytes,
            version: env!("CARGO_PKG_VERSION").into(),
            last_log_index,
            empty: self.log.last().is_none(),
            proof: self.prove(to, last_log_index, binding),
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
        let presented = PresentedIdentity {
            node: hello.from,
            key: &hello.public_key,
            boot: Boot(hello.boot),
            last_log_index: hello.last_log_index,
            proof: &hello.proof,
        };
        self.check_identity(&presented, &connection.security, connection.accepted).await?;
        if !connection.set_proven(Proven { node: hello.from, boot: hello.boot }) {
            return Err(Refusal::Malformed("the connection is another node's, or another boot's"));
        }
        let last_log_index = self.last_log_index();
        Ok(pb::Welcome {
            public_key: self.public_key(),
            boot: self.boot.0,
            empty: self.log.last().is_none(),
            last_log_index,
            proof: self.prove(hello.from, last_log_index, connection.security.binding()),
        })
    }

    /// Checks a peer that was called at `dialed`, from its answer.
    pub async fn check_welcome(
        &self,
        node: u64,
        welcome: &pb::Welcome,
        security: &Security,
        dialed: Instant,
    ) -> Result<(), Refusal> {
        let boot = Boot(welcome.boot);
        let presented = PresentedIdentity {
            node,
            key: &welcome.public_key,
            boot,
            last_log_index: welcome.last_log_index,
            proof: &welcome.proof,
        };
        let checked = self.check_identity(&presented, security, dialed).await;
        if let Err(refusal) = &checked
            && self.lock().refusing.insert(node, boot) != Some(boot)
        {
            tracing::error!(node, %refusal, "this node refuses a peer");
        }
        checked
    }

    /// The node that has proved on this connection who it is, as long as it is not removed and no
    /// newer boot of it was seen.
    pub fn sender(&self, connection: &Connection) -> Option<u64> {
        let Proven { node, boot } = connection.proven()?;
        let current = match self.expected_key(node) {
            Expected::Key(_) => self.log.peer(node).is_some_and(|a| Boot::of(a.boot).0 == boot),
            Expected::Anything => true,
            Expected::Removed => false,
        };
        current.then_some(node)
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

    /// Whether it is news that a peer is refused for this reason.
    pub fn is_refusal_news(&self, node: u64, why: &str) -> bool {
        let mut state = self.lock();
        // Ids are whatever strangers with a certificate say: as many as there are members.
        if state.refusals.len() >= MEMBERS_MAX && !state.refusals.contains_key(&node) {
            state.refusals.clear();
        }
        state.refusals.insert(node, why.to_owned()).as_deref() != Some(why)
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

    /// Who says that this node was removed from the group.
    pub fn removals(&self) -> &Removals {
        &self.removals
    }

    /// Notes that a peer has acknowledged everything up to an index that is committed.
    pub fn acknowledged(&self, node: u64, index: u64) {
        let mut state = self.lock();
        state.acknowledged.note(node, index, Instant::now());
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

    fn prove(&self, to: u64, last_log_index: u64, binding: [u8; 32]) -> Bytes {
        let (from, boot) = (self.me.node_id, self.boot.0);
        let claim = Claim { trail: &self.me.trail_id, from, to, boot, last_log_index, binding };
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
    ) -> Result<(), Refusal> {
        let PresentedIdentity { node, boot, last_log_index, .. } = *presented;
        let key: [u8; 32] = presented
            .key
            .try_into()
            .map_err(|_| Refusal::Malformed("public key is not of 32 bytes"))?;
        if boot.count() == 0 {
            return Err(Refusal::Malformed("boot counter is 0"));
        }
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
            boot: boot.0,
            last_log_index,
            binding: security.binding(),
        };
        if !claim.is_signed(&key, presented.proof) {
            return Err(Refusal::Unproven { node });
        }
        match self.expected_key(node) {
            Expected::Key(expected) if expected != key => return Err(Refusal::OtherKey { node }),
            Expected::Removed => return Err(Refusal::Removed { node }),
            Expected::Key(_) => {}
            // A node that no membership has yet: its certificate admits it. Nothing is remembered.
            Expected::Anything => return Ok(()),
        }
        if let Some(peer) = security.peer() {
            self.lock().certificate_ends.insert(node, peer.not_after);
        }
        let acknowledged = self.lock().acknowledged.at(node, since);
        if last_log_index < acknowledged {
            return Err(Refusal::LostLog { node, theirs: last_log_index, known: acknowledged });
        }
        let _one = self.saving.lock().await;
        let known = Boot(self.log.peer(node).map_or(0, |admitted| Boot::of(admitted.boot).0));
        if boot != known && boot.count() <= known.count() {
            let (theirs, known) = (boot.count(), known.count());
            return Err(Refusal::OldDisk { node, theirs, known });
        }
        if boot != known {
            let (done, saved) = oneshot::channel();
            let done = Box::new(move |result| {
                let _ = done.send(result);
            });
            self.log.save_peer(node, boot.admitted(), done);
            let saved = saved.await.map_err(|error| Refusal::Storage(error.to_string()))?;
            saved.map_err(|error| Refusal::Storage(error.to_string()))?;
        }
        Ok(())
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

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds this lock")
    }
}

/// What a peer says of itself.
struct PresentedIdentity<'a> {
    node: u64,
    key: &'a [u8],
    boot: Boot,
    last_log_index: u64,
    proof: &'a [u8],
}

enum Expected {
    Key([u8; 32]),
    Anything,
    Removed,
}
