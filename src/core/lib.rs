//! What an auditor has to trust, and nothing else.
//!
//! Pure functions over bytes: the [`leaf`] that commits to one event, the [`batch`] that carries
//! many, the [`chain`] that binds the order of entries, the [`merkle`] tree that binds the order of
//! leaves, and the [`limits`] of it all. No I/O, no clock, no randomness, no async: the same bytes
//! give the same answer everywhere. Byte tables: docs/FORMAT.md.

pub mod batch;
pub mod chain;
pub mod entry;
pub mod hash;
pub mod leaf;
pub mod limits;
pub mod merkle;

#[cfg(test)]
mod tests;

pub use batch::{Batch, BatchBuilder};
pub use chain::Chain;
pub use entry::{Entry, EntryId, EntryKind};
pub use hash::{Hash, ProducerId, Salt, TrailId};
pub use leaf::{Commitment, Kind, Leaf, LeafIndex};

/// Bytes that are not what docs/FORMAT.md says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Fewer or more bytes than the format has.
    #[error("{what}: {actual} bytes, the format has {expected}")]
    Length {
        /// Which structure.
        what: &'static str,
        /// Bytes that the format has.
        expected: usize,
        /// Bytes that were there.
        actual: usize,
    },
    /// A version, kind or flag that this build does not know.
    #[error("{what}: value {value} is unknown")]
    Unknown {
        /// Which field.
        what: &'static str,
        /// What it held.
        value: u64,
    },
    /// A field that must be zero is not.
    #[error("{what}: reserved bits are set")]
    Reserved {
        /// Which field.
        what: &'static str,
    },
    /// A content hash that does not fit its content.
    #[error("{what} {position}: commitment does not match the event")]
    Commitment {
        /// Which structure.
        what: &'static str,
        /// Position of the record in its batch.
        position: usize,
    },
}
