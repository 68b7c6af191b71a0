//! What a node says of its log, and what it knows of its sealed segments.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use indelible_core::{Chain, EntryId, Hash};
use indelible_proto::raft as pb;
use tonic::Status;

/// How far a node's log goes, and what the node has promised. docs/adr/0007 says what may be
/// concluded from it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standing {
    /// Who says so.
    pub node_id: u64,
    /// The last entry, as far as the log is whole; none if it is empty.
    pub last: Option<EntryId>,
    /// Whether the log is open.
    pub open: bool,
    /// One past the last entry that is known to be committed.
    pub committed: u64,
    /// The highest term that the node has promised, durably.
    pub term: u64,
    /// The highest term in which the process has led; 0 if none.
    pub led_term: u64,
    /// Whether something after `last` is damaged.
    pub tail_damaged: bool,
    /// How often the node has opened its log.
    pub boot_count: u64,
    /// The newest cosigned note that it holds; empty if none.
    pub note: String,
    /// The entry whose application reached the note's size, if it can tell.
    pub note_entry: Option<EntryId>,
    /// The link of that entry.
    pub note_chain: Option<Chain>,
}

impl Standing {
    /// One past the last entry.
    pub fn next(&self) -> u64 {
        self.last.map_or(0, |last| last.index.saturating_add(1))
    }

    pub(super) fn to_pb(&self) -> pb::StandingResponse {
        pb::StandingResponse {
            node_id: self.node_id,
            last: self.last.map(log_id_to_pb),
            open: self.open,
            note: self.note.clone(),
            note_entry: self.note_entry.map(log_id_to_pb),
            note_chain: self
                .note_chain
                .map_or_else(Bytes::new, |chain| Bytes::copy_from_slice(&chain.0)),
            committed: self.committed,
            term: self.term,
            led_term: self.led_term,
            tail_damaged: self.tail_damaged,
            boot_count: self.boot_count,
            ..Default::default()
        }
    }

    pub(super) fn from_pb(message: pb::StandingResponse) -> Standing {
        Standing {
            node_id: message.node_id,
            last: message.last.map(log_id_from_pb),
            open: message.open,
            committed: message.committed,
            term: message.term,
            led_term: message.led_term,
            tail_damaged: message.tail_damaged,
            boot_count: message.boot_count,
            note: message.note,
            note_entry: message.note_entry.map(log_id_from_pb),
            note_chain: Chain::from_slice(&message.note_chain),
        }
    }
}

fn log_id_to_pb(id: EntryId) -> pb::LogId {
    pb::LogId { term: id.term, leader: id.leader, index: id.index }
}

fn log_id_from_pb(id: pb::LogId) -> EntryId {
    EntryId { index: id.index, term: id.term, leader: id.leader }
}

/// A sealed segment, as its node knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    /// Index of its first entry.
    pub first: u64,
    /// One past its last entry.
    pub next: u64,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// Digest of all headers and heads, if the node has read it since it started.
    pub digest: Option<Hash>,
    /// The link of its last entry.
    pub chain: Chain,
}

impl Sealed {
    pub(super) fn to_pb(self) -> pb::SealedSegment {
        let hash = |hash: Hash| Bytes::copy_from_slice(&hash.0);
        pb::SealedSegment {
            first: self.first,
            next: self.next,
            bytes: self.bytes,
            digest: self.digest.map(hash).unwrap_or_default(),
            chain: hash(self.chain),
        }
    }

    pub(super) fn from_pb(message: &pb::SealedSegment) -> Result<Sealed, Status> {
        let chain = Chain::from_slice(&message.chain)
            .ok_or_else(|| Status::invalid_argument("chain is not of 32 bytes"))?;
        let digest = match message.digest.len() {
            0 => None,
            _ => Some(
                Hash::from_slice(&message.digest)
                    .ok_or_else(|| Status::invalid_argument("digest is not of 32 bytes"))?,
            ),
        };
        let (first, next) = (message.first, message.next);
        Ok(Sealed { first, next, bytes: message.bytes, digest, chain })
    }
}

/// Digests of the sealed segments that this process has read whole, by first entry. Written by the
/// scrub, read by whoever compares.
#[derive(Debug, Default)]
pub struct Digests(Mutex<BTreeMap<u64, Hash>>);

impl Digests {
    /// Notes what was read.
    pub fn set(&self, first: u64, digest: Hash) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(first, digest);
    }

    /// Forgets a segment that turned out to be damaged.
    pub fn forget(&self, first: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&first);
    }

    /// The digest of a segment, if it was read.
    pub fn get(&self, first: u64) -> Option<Hash> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&first).copied()
    }
}
