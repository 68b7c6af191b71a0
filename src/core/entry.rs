//! A Raft entry as the log stores, sends and chains it.

use bytes::Bytes;

/// What an entry is. Numbers as in its frame and its link of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum EntryKind {
    /// A new leader's first entry; no payload.
    Blank = 0,
    /// A membership; head is its encoded payload, body is empty.
    Membership = 1,
    /// A batch of records; head is header and leaves, body is salts and events.
    Batch = 2,
}

impl EntryKind {
    /// The kind with this number, if there is one.
    pub fn from_u8(value: u8) -> Option<EntryKind> {
        match value {
            0 => Some(EntryKind::Blank),
            1 => Some(EntryKind::Membership),
            2 => Some(EntryKind::Batch),
            _ => None,
        }
    }

    /// Its number.
    pub fn as_u8(self) -> u8 {
        self as u8
    }
}

/// Which entry: the index says where, term and leader say by whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct EntryId {
    /// Position in the log, from 0.
    pub index: u64,
    /// Term in which it was proposed.
    pub term: u64,
    /// Node that proposed it.
    pub leader: u64,
}

/// One entry. Cloning shares the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Position and proposer.
    pub id: EntryId,
    /// What it is.
    pub kind: EntryKind,
    /// What the chain covers.
    pub head: Bytes,
    /// Salts and events; covered through the commitments in the head's leaves.
    pub body: Bytes,
}

impl Entry {
    /// Bytes of head and body.
    pub fn payload_bytes(&self) -> usize {
        self.head.len() + self.body.len()
    }
}
