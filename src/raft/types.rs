//! What openraft is told about us: ids, peers, entries, results.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use indelible_core::{Entry as LogEntry, EntryId, EntryKind, TrailId};
use openraft::alias::{LogIdOf, VoteOf};
use openraft::entry::{RaftEntry, RaftPayload};

use super::membership;
use crate::storage::hard_state::{SignedBoot, StoredVote};
use crate::storage::ledger::Applied;

openraft::declare_raft_types!(
    /// The types of this application. A leader id is (term, node), so that an entry names the node
    /// that proposed it.
    pub TypeConfig:
        D = BatchPayload,
        R = Applied,
        NodeId = u64,
        Node = Peer,
        Payload = Payload,
        Entry = Entry,
);

/// A running openraft node.
pub type Raft = openraft::Raft<TypeConfig, super::state_machine::StateMachine>;
/// Term and node of a leader.
pub type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, u64>;
/// openraft's name for an entry.
pub type LogId = LogIdOf<TypeConfig>;
/// openraft's vote.
pub type Vote = VoteOf<TypeConfig>;
/// Voters and learners with their addresses.
pub type Membership = openraft::Membership<u64, Peer>;

/// A member of the group: where it listens and what key it has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Peer {
    /// gRPC for clients, host:port.
    pub client_addr: String,
    /// gRPC for peers, host:port.
    pub raft_addr: String,
    /// HTTP for probes and metrics, host:port.
    pub http_addr: String,
    /// Ed25519 public key of the node.
    pub public_key: [u8; 32],
    /// The trail that the node was made for; the same for all members. It is here because the
    /// genesis membership, which openraft assembles from peers, has to carry it.
    pub trail_id: TrailId,
    /// With which boot it was added: a later one must follow from it (docs/adr/0011). None only
    /// before it is in a membership.
    pub boot: Option<SignedBoot>,
}

impl Peer {
    /// Whether both are the same node at the same addresses, whichever boots they are of.
    pub fn is_same(&self, other: &Peer) -> bool {
        Peer { boot: None, ..self.clone() } == Peer { boot: None, ..other.clone() }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.raft_addr)
    }
}

/// A batch as it goes to disk and over the wire. Cloning shares the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchPayload {
    /// Header and leaves.
    pub head: Bytes,
    /// Salts and events.
    pub body: Bytes,
}

impl fmt::Display for BatchPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "batch of {} + {} bytes", self.head.len(), self.body.len())
    }
}

/// The payload of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// A leader's first entry.
    Blank,
    /// Records.
    Batch(BatchPayload),
    /// A membership, with the bytes in which it was proposed: those are stored, sent and chained,
    /// never a re-encoding.
    Membership(Arc<(Membership, Bytes)>),
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Payload::Blank => f.write_str("blank"),
            Payload::Batch(batch) => batch.fmt(f),
            Payload::Membership(membership) => membership.0.fmt(f),
        }
    }
}

impl RaftPayload for Payload {
    type D = BatchPayload;
    type NodeId = u64;
    type Node = Peer;

    fn blank() -> Self {
        Payload::Blank
    }

    fn with_normal(self, data: BatchPayload) -> Self {
        Payload::Batch(data)
    }

    fn with_membership(self, membership: Membership) -> Self {
        let bytes = membership::encode(&membership);
        Payload::Membership(Arc::new((membership, bytes)))
    }

    fn get_membership(&self) -> Option<Membership> {
        match self {
            Payload::Membership(membership) => Some(membership.0.clone()),
            Payload::Blank | Payload::Batch(_) => None,
        }
    }
}

/// An entry as openraft handles it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    log_id: LogId,
    /// What it carries.
    pub payload: Payload,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.log_id, self.payload)
    }
}

impl RaftEntry for Entry {
    type CommittedLeaderId = LeaderId;
    type Payload = Payload;

    fn new(log_id: LogId, payload: Payload) -> Self {
        Entry { log_id, payload }
    }

    fn log_id_parts(&self) -> (&LeaderId, u64) {
        (&self.log_id.leader_id, self.log_id.index)
    }

    fn set_log_id(&mut self, new: LogId) {
        self.log_id = new;
    }

    fn get_membership(&self) -> Option<Membership> {
        self.payload.get_membership()
    }
}

impl Entry {
    /// As the log stores it; shares the bytes.
    pub fn to_log(&self) -> LogEntry {
        let (kind, head, body) = match &self.payload {
            Payload::Blank => (EntryKind::Blank, Bytes::new(), Bytes::new()),
            Payload::Batch(batch) => (EntryKind::Batch, batch.head.clone(), batch.body.clone()),
            Payload::Membership(m) => (EntryKind::Membership, m.1.clone(), Bytes::new()),
        };
        LogEntry { id: entry_id(&self.log_id), kind, head, body }
    }

    /// From the log or the wire. Only a membership is decoded; errors name what is wrong with its
    /// bytes.
    pub fn from_log(entry: LogEntry) -> Result<Entry, membership::MembershipError> {
        let payload = match entry.kind {
            EntryKind::Blank => Payload::Blank,
            EntryKind::Batch => Payload::Batch(BatchPayload { head: entry.head, body: entry.body }),
            EntryKind::Membership => {
                let membership = membership::decode(&entry.head)?;
                Payload::Membership(Arc::new((membership, entry.head)))
            }
        };
        Ok(Entry { log_id: log_id(entry.id), payload })
    }
}

/// Our name for an entry, from openraft's.
pub fn entry_id(log_id: &LogId) -> EntryId {
    EntryId { index: log_id.index, term: log_id.leader_id.term, leader: log_id.leader_id.node_id }
}

/// openraft's name for an entry, from ours.
pub fn log_id(id: EntryId) -> LogId {
    LogId::new(LeaderId { term: id.term, node_id: id.leader }, id.index)
}

/// The vote as hard state stores it.
pub fn stored_vote(vote: &Vote) -> StoredVote {
    StoredVote {
        term: vote.leader_id.term,
        node_id: vote.leader_id.node_id,
        committed: vote.committed,
    }
}

/// The vote as openraft handles it.
pub fn raft_vote(vote: StoredVote) -> Vote {
    let leader_id = LeaderId { term: vote.term, node_id: vote.node_id };
    Vote { leader_id, committed: vote.committed }
}
