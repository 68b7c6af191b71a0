//! What a follower checks before openraft sees an entry: sizes, structure and every commitment. A
//! follower that acknowledges has recomputed what it acknowledges.

use indelible_core::limits::{ENTRY_BYTES_MAX, MEMBERSHIP_BYTES_MAX};
use indelible_core::{Batch, Entry, EntryKind, FormatError};

use super::membership;

/// Why an entry of a peer was refused. Always the peer's fault, or damage on the way.
#[derive(Debug, thiserror::Error)]
pub enum EntryRefused {
    /// Larger than any entry can be.
    #[error("entry {index}: {bytes} bytes, the limit is {max}")]
    TooLarge {
        /// Its log index.
        index: u64,
        /// Bytes of head and body.
        bytes: usize,
        /// The limit for its kind.
        max: usize,
    },
    /// A batch whose structure or commitments do not hold.
    #[error("entry {index}: {source}")]
    Batch {
        /// Its log index.
        index: u64,
        /// What does not hold.
        source: FormatError,
    },
    /// A membership that is none.
    #[error("entry {index}: {source}")]
    Membership {
        /// Its log index.
        index: u64,
        /// What is wrong with it.
        source: membership::MembershipError,
    },
    /// A payload where there must be none.
    #[error("entry {index}: a blank entry with {bytes} bytes")]
    NotBlank {
        /// Its log index.
        index: u64,
        /// Bytes of head and body.
        bytes: usize,
    },
}

/// Checks one entry.
pub fn verify(entry: &Entry) -> Result<(), EntryRefused> {
    let index = entry.id.index;
    let bytes = entry.payload_bytes();
    let max = match entry.kind {
        EntryKind::Membership => MEMBERSHIP_BYTES_MAX,
        EntryKind::Blank | EntryKind::Batch => ENTRY_BYTES_MAX,
    };
    if bytes > max {
        return Err(EntryRefused::TooLarge { index, bytes, max });
    }
    match entry.kind {
        EntryKind::Blank if bytes > 0 => Err(EntryRefused::NotBlank { index, bytes }),
        EntryKind::Blank => Ok(()),
        EntryKind::Membership => membership::decode(&entry.head)
            .map(|_| ())
            .map_err(|source| EntryRefused::Membership { index, source }),
        EntryKind::Batch => Batch::decode(&entry.head, &entry.body)
            .and_then(|batch| batch.verify())
            .map_err(|source| EntryRefused::Batch { index, source }),
    }
}
