//! The leaf: 64 bytes that commit to one event and hold none of its content (docs/FORMAT.md,
//! "Leaf").

use sha2::Sha256;
use sha3::{Digest, Sha3_256};

use crate::{FormatError, Hash, Salt};

/// Position of a record in the trail: from 0, no gaps.
pub type LeafIndex = u64;

/// The only leaf version so far.
pub const LEAF_VERSION: u8 = 1;
/// Size of a version 1 leaf in bytes.
pub const LEAF_SIZE: usize = 64;

/// SHA3-256(0x10 ‖ salt ‖ event): binds the content of one event.
pub type Commitment = Hash;

/// What a record is. Numbers 9 to 14 are reserved for what later versions write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// An event of a producer.
    Event = 1,
    /// A leader took office; derived from a blank entry.
    Leadership = 2,
    /// The members changed; derived from a membership entry.
    Membership = 3,
    /// A producer was opened under a new epoch.
    ProducerOpened = 4,
    /// A producer was closed.
    ProducerClosed = 5,
    /// A producer says that it is alive and has nothing else to say.
    Heartbeat = 6,
    /// A producer says that it lost events, and which.
    Gap = 7,
    /// A node says that it found damage or a broken rule.
    Finding = 8,
    /// Event bytes were erased.
    Erasure = 9,
    /// Erasure and retention were suspended.
    Hold = 10,
    /// How long events are kept was changed.
    Retention = 11,
    /// A key was changed.
    Key = 12,
    /// A format was changed.
    Format = 13,
    /// Somebody read.
    Access = 14,
    /// An operator or a node did something.
    Operation = 15,
}

impl Kind {
    /// All kinds, in order of number.
    pub const ALL: [Kind; 15] = [
        Kind::Event,
        Kind::Leadership,
        Kind::Membership,
        Kind::ProducerOpened,
        Kind::ProducerClosed,
        Kind::Heartbeat,
        Kind::Gap,
        Kind::Finding,
        Kind::Erasure,
        Kind::Hold,
        Kind::Retention,
        Kind::Key,
        Kind::Format,
        Kind::Access,
        Kind::Operation,
    ];

    /// The kind with this number, if there is one.
    pub fn from_u8(value: u8) -> Option<Kind> {
        Kind::ALL.get(usize::from(value).checked_sub(1)?).copied()
    }

    /// Its number in the leaf.
    pub fn as_u8(self) -> u8 {
        self as u8
    }

    /// Its name in output for people and programs.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Event => "event",
            Kind::Leadership => "leadership",
            Kind::Membership => "membership",
            Kind::ProducerOpened => "producer_opened",
            Kind::ProducerClosed => "producer_closed",
            Kind::Heartbeat => "heartbeat",
            Kind::Gap => "gap",
            Kind::Finding => "finding",
            Kind::Erasure => "erasure",
            Kind::Hold => "hold",
            Kind::Retention => "retention",
            Kind::Key => "key",
            Kind::Format => "format",
            Kind::Access => "access",
            Kind::Operation => "operation",
        }
    }
}

/// A decoded leaf. Encoding and decoding are inverse to each other: there is one byte form for each
/// value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaf {
    /// What the record is.
    pub kind: Kind,
    /// 0 = the trail's default.
    pub retention_class: u16,
    /// Size of the event in bytes.
    pub event_size: u32,
    /// Unix time in nanoseconds, stamped by the leader; never smaller than the predecessor's.
    pub received: u64,
    /// Leaf index of the record that opened this producer; 0 = the system itself.
    pub opened: LeafIndex,
    /// The producer's number for the event, from 1.
    pub seq: u64,
    /// Binds salt and event.
    pub commitment: Commitment,
}

impl Leaf {
    /// The 64 bytes.
    pub fn encode(&self) -> [u8; LEAF_SIZE] {
        let mut out = [0; LEAF_SIZE];
        out[0] = LEAF_VERSION;
        out[1] = self.kind.as_u8();
        out[2..4].copy_from_slice(&self.retention_class.to_le_bytes());
        out[4..8].copy_from_slice(&self.event_size.to_le_bytes());
        out[8..16].copy_from_slice(&self.received.to_le_bytes());
        out[16..24].copy_from_slice(&self.opened.to_le_bytes());
        out[24..32].copy_from_slice(&self.seq.to_le_bytes());
        out[32..64].copy_from_slice(&self.commitment.0);
        out
    }

    /// From exactly 64 bytes; refuses versions and kinds that this build does not know.
    pub fn decode(bytes: &[u8]) -> Result<Leaf, FormatError> {
        let bytes: &[u8; LEAF_SIZE] = bytes.try_into().map_err(|_| FormatError::Length {
            what: "leaf",
            expected: LEAF_SIZE,
            actual: bytes.len(),
        })?;
        if bytes[0] != LEAF_VERSION {
            return Err(FormatError::Unknown { what: "leaf version", value: bytes[0].into() });
        }
        let kind = Kind::from_u8(bytes[1])
            .ok_or(FormatError::Unknown { what: "leaf kind", value: bytes[1].into() })?;
        Ok(Leaf {
            kind,
            retention_class: u16::from_le_bytes([bytes[2], bytes[3]]),
            event_size: u32::from_le_bytes(array(bytes, 4)),
            received: u64::from_le_bytes(array(bytes, 8)),
            opened: u64::from_le_bytes(array(bytes, 16)),
            seq: u64::from_le_bytes(array(bytes, 24)),
            commitment: Hash(array(bytes, 32)),
        })
    }
}

/// `N` bytes of a leaf from `offset`. The offsets are constants within 64.
fn array<const N: usize>(bytes: &[u8; LEAF_SIZE], offset: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[offset..offset + N]);
    out
}

/// Commitment to an event: SHA3-256(0x10 ‖ salt ‖ event).
pub fn commit(salt: &Salt, event: &[u8]) -> Commitment {
    let mut hasher = Sha3_256::new();
    hasher.update([0x10]);
    hasher.update(salt.0);
    hasher.update(event);
    Hash(hasher.finalize().into())
}

/// Leaf hash of the Merkle tree: SHA-256(0x00 ‖ leaf), RFC 6962 section 2.1.
pub fn leaf_hash(leaf: &[u8; LEAF_SIZE]) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update([0x00]);
    hasher.update(leaf);
    Hash(hasher.finalize().into())
}
