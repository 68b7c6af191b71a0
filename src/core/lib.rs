//! What an auditor has to trust, and nothing else.
//!
//! Pure functions over bytes: the [`leaf`] that commits to one event, the [`batch`] that carries
//! many, the [`chain`] that binds the order of entries, the [`merkle`] tree that binds the order of
//! leaves, and the [`limits`] of it all. On top of the tree, what is shown to others: the
//! [`checkpoint`] in a signed [`note`], the [`key`]s that sign it, the [`policy`] that says whose
//! signatures count, the [`range`] proof, the [`proof_file`] for one record, the [`bundle`] of
//! many, and the [`tile`]s. No I/O of its own, no clock, no randomness, no async: the same bytes
//! give the same answer everywhere. Byte tables: docs/FORMAT.md.

pub mod batch;
pub mod bundle;
pub mod chain;
pub mod checkpoint;
pub mod entry;
pub mod hash;
pub mod key;
pub mod leaf;
pub mod limits;
pub mod merkle;
pub mod note;
pub mod policy;
pub mod proof_file;
pub mod range;
mod text;
pub mod tile;

#[cfg(test)]
mod tests;

pub use batch::{Batch, BatchBuilder};
pub use chain::Chain;
pub use checkpoint::Checkpoint;
pub use entry::{Entry, EntryId, EntryKind};
pub use hash::{Hash, ProducerId, Salt, TrailId};
pub use key::{KeyType, SignerKey, VerifierKey, node_key_name};
pub use leaf::{Commitment, Kind, Leaf, LeafIndex};
pub use note::{Note, NoteSignature};
pub use policy::{Policy, Trusted};
pub use proof_file::ProofFile;
pub use range::RangeProof;
pub use tile::TileId;

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
