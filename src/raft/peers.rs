//! Who may speak: the handshake that opens every connection between nodes, and what it remembers.
//!
//! A node is known by its id, its public key (in the membership, or in the genesis file before
//! there is one) and its boot: a counter on its disk, which only rises, and a number drawn at
//! random when the process starts. So a wiped disk, an older copy of a disk, a second copy of a
//! running node, or a node of another trail gives itself away before it can vote or acknowledge
//! anything. The key is compared, not proven: that comes with TLS.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use indelible_core::TrailId;
use indelible_proto::raft as pb;
use tokio::sync::{oneshot, watch};

use super::types::{Membership, Peer};
use crate::storage::log::Log;

/// Sessions that a node remembers; the oldest goes first. Each peer has two or three.
const SESSIONS_MAX: usize = 256;

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
#[derive(Debug, Clone)]
pub struct Introduction {
    /// Its id.
    pub node_id: u64,
    /// Its trail.
    pub trail_id: TrailId,
    /// Its public key.
    pub public_key: [u8; 32],
    /// Its segment size in bytes.
    pub segment_bytes: u64,
}

/// What is known of peers. Shared by both ends of the wire.
pub struct Peers {
    me: Introduction,
    log: Log,
    /// The initial voters, as long as there is no membership in the log.
    genesis: BTreeMap<u64, Peer>,
    /// The newest membership in this node's log, and the highest id that ever was in one.
    known: watch::Receiver<Known>,
    /// Which boot of this node this is.
    boot: Boot,
    /// Held while a peer's boot counter is compared and saved: it only rises.
    saving: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

/// Which start of a node: the counter on its disk in the upper half, a random number in the lower.
/// As one number it is remembered by peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Boot(u64);

impl Boot {
    fn of(count: u64, random: u32) -> Boot {
        Boot(count << 32 | u64::from(random))
    }

    fn count(self) -> u64 {
        self.0 >> 32
    }
}

/// The membership as the handshake needs it.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Newest membership in the log, committed or not.
    pub membership: Membership,
    /// Highest node id in any membership so far; ids up to it that are missing now were removed.
    pub node_id_max: u64,
}

#[derive(Default)]
struct State {
    /// Session bytes -> peer and its boot, with insertion order for eviction.
    sessions: HashMap<Bytes, (u64, Boot)>,
    session_order: std::collections::VecDeque<Bytes>,
    /// Peer's clock minus ours in nanoseconds, as of its last answer.
    clock_offsets: HashMap<u64, i64>,
    /// Peers whose disk was nearly full as of their last answer.
    read_only: BTreeSet<u64>,
    /// Peers that refuse this node, and why: for /readyz.
    refused_by: BTreeMap<u64, String>,
    /// Peers that this node refuses, with the boot for which that was logged.
    refusing: BTreeMap<u64, Boot>,
    /// Highest committed index that a peer has acknowledged to this node: it can never be without
    /// it again.
    acknowledged: HashMap<u64, u64>,
}

impl Peers {
    /// `genesis` is empty on a node that was added later.
    pub fn new(
        me: Introduction,
        log: Log,
        genesis: BTreeMap<u64, Peer>,
        known: watch::Receiver<Known>,
    ) -> Self {
        let boot = Boot::of(log.boot_count(), rand::random());
        Peers { me, log, genesis, known, boot, saving: Default::default(), state: Mutex::default() }
    }

    /// How this node introduces itself to `to`.
    pub fn hello(&self, to: u64) -> pb::Hello {
        pb::Hello {
            trail_id: Bytes::copy_from_slice(&self.me.trail_id.0),
            from: self.me.node_id,
            to,
            public_key: Bytes::copy_from_slice(&self.me.public_key),
            boot: self.boot.0,
            segment_bytes: self.me.segment_bytes,
            version: env!("CARGO_PKG_VERSION").into(),
            last_log_index: self.log.last().map_or(0, |id| id.index),
            empty: self.log.last().is_none(),
        }
    }

    /// Checks a peer that calls, and answers with a session for its later messages.
    pub async fn admit(&self, hello: &pb::Hello) -> Result<pb::Welcome, Refusal> {
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
        let last = hello.last_log_index;
        self.check_identity(hello.from, &hello.public_key, Boot(hello.boot), last).await?;
        let session = Bytes::copy_from_slice(&rand::random::<[u8; 16]>());
        self.remember_session(session.clone(), (hello.from, Boot(hello.boot)));
        Ok(pb::Welcome {
            session,
            public_key: Bytes::copy_from_slice(&self.me.public_key),
            boot: self.boot.0,
            empty: self.log.last().is_none(),
            last_log_index: self.log.last().map_or(0, |id| id.index),
        })
    }

    /// Checks a peer that was called, from its answer.
    pub async fn check_welcome(&self, node: u64, welcome: &pb::Welcome) -> Result<(), Refusal> {
        let (boot, last) = (Boot(welcome.boot), welcome.last_log_index);
        let checked = self.check_identity(node, &welcome.public_key, boot, last).await;
        if let Err(refusal) = &checked
            && self.lock().refusing.insert(node, boot) != Some(boot)
        {
            tracing::error!(node, %refusal, "this node refuses a peer");
        }
        checked
    }

    /// The peer behind a session of [`Peers::admit`], as long as it is a member and no newer boot
    /// of it was seen.
    pub fn session(&self, session: &[u8]) -> Option<u64> {
        let (node, boot) = self.lock().sessions.get(session).copied()?;
        let current = match self.expected_key(node) {
            Expected::Key(_) => self.log.peer_boot(node) == Some(boot.0),
            Expected::Anything => true,
            Expected::Removed => false,
        };
        current.then_some(node)
    }

    /// Notes a peer's clock, as Unix time in nanoseconds.
    pub fn observe_clock(&self, node: u64, theirs: u64, ours: u64) {
        let offset = i64::try_from(i128::from(theirs) - i128::from(ours)).unwrap_or(0);
        self.lock().clock_offsets.insert(node, offset);
    }

    /// Notes whether a peer's disk is nearly full.
    pub fn observe_read_only(&self, node: u64, read_only: bool) {
        let mut state = self.lock();
        match read_only {
            true => state.read_only.insert(node),
            false => state.read_only.remove(&node),
        };
    }

    /// Whether a peer's disk was nearly full when it last answered.
    pub fn is_read_only(&self, node: u64) -> bool {
        self.lock().read_only.contains(&node)
    }

    /// Median of the voters' clocks, this node's included, relative to this node's, in nanoseconds.
    pub fn median_clock_offset(&self) -> i64 {
        let voters: Vec<u64> = self.known.borrow().membership.voter_ids().collect();
        let state = self.lock();
        let mut offsets: Vec<i64> = state
            .clock_offsets
            .iter()
            .filter(|(node, _)| voters.contains(node) && **node != self.me.node_id)
            .map(|(_, offset)| *offset)
            .collect();
        offsets.push(0);
        offsets.sort_unstable();
        offsets[(offsets.len() - 1) / 2]
    }

    /// Why a peer refuses this node, if one does.
    pub fn refused(&self) -> Option<String> {
        self.lock().refused_by.values().next().cloned()
    }

    /// Notes whether a peer refuses this node. True if that is news.
    pub fn set_refused_by(&self, node: u64, why: Option<String>) -> bool {
        let mut state = self.lock();
        match why {
            Some(why) => state.refused_by.insert(node, why).is_none(),
            None => state.refused_by.remove(&node).is_some(),
        }
    }

    /// Notes that a peer has acknowledged everything up to an index that is committed.
    pub fn acknowledged(&self, node: u64, index: u64) {
        let mut state = self.lock();
        let known = state.acknowledged.entry(node).or_default();
        *known = index.max(*known);
    }

    /// The initial voters.
    pub fn genesis(&self) -> &BTreeMap<u64, Peer> {
        &self.genesis
    }

    async fn check_identity(
        &self,
        node: u64,
        key: &[u8],
        boot: Boot,
        last_log_index: u64,
    ) -> Result<(), Refusal> {
        let key: [u8; 32] =
            key.try_into().map_err(|_| Refusal::Malformed("public key is not of 32 bytes"))?;
        if boot.count() == 0 {
            return Err(Refusal::Malformed("boot counter is 0"));
        }
        match self.expected_key(node) {
            Expected::Key(expected) if expected != key => return Err(Refusal::OtherKey { node }),
            Expected::Removed => return Err(Refusal::Removed { node }),
            Expected::Key(_) => {}
            // Nothing is remembered of a node that no membership knows: it could be anybody.
            Expected::Anything => return Ok(()),
        }
        let acknowledged = self.lock().acknowledged.get(&node).copied().unwrap_or(0);
        if last_log_index < acknowledged {
            return Err(Refusal::LostLog { node, theirs: last_log_index, known: acknowledged });
        }
        let _one = self.saving.lock().await;
        let known = Boot(self.log.peer_boot(node).unwrap_or(0));
        if boot != known && boot.count() <= known.count() {
            let (theirs, known) = (boot.count(), known.count());
            return Err(Refusal::OldDisk { node, theirs, known });
        }
        if boot != known {
            let (done, saved) = oneshot::channel();
            let done = Box::new(move |result| {
                let _ = done.send(result);
            });
            self.log.save_peer_boot(node, boot.0, done);
            let saved = saved.await.map_err(|error| Refusal::Storage(error.to_string()))?;
            saved.map_err(|error| Refusal::Storage(error.to_string()))?;
        }
        Ok(())
    }

    /// What key a node must show. Ids above every known one are let in: the membership that has
    /// them may be on its way.
    fn expected_key(&self, node: u64) -> Expected {
        let known = self.known.borrow();
        if let Some(peer) = known.membership.get_node(&node) {
            return Expected::Key(peer.public_key);
        }
        if known.node_id_max == 0 {
            return match self.genesis.get(&node) {
                Some(peer) => Expected::Key(peer.public_key),
                None => Expected::Anything,
            };
        }
        if node <= known.node_id_max { Expected::Removed } else { Expected::Anything }
    }

    fn remember_session(&self, session: Bytes, peer: (u64, Boot)) {
        let mut state = self.lock();
        if state.session_order.len() >= SESSIONS_MAX
            && let Some(oldest) = state.session_order.pop_front()
        {
            state.sessions.remove(&oldest);
        }
        state.session_order.push_back(session.clone());
        state.sessions.insert(session, peer);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds this lock")
    }
}

enum Expected {
    Key([u8; 32]),
    Anything,
    Removed,
}
