//! What can go wrong in a ledger, on this node alone. What every node decides alike is a
//! `Rejection`.

use std::sync::Arc;

use indelible_core::{FormatError, LeafIndex, TrailId};

use crate::disk::DiskError;
use crate::storage::index::IndexError;
use crate::storage::log::LogError;

/// A failure of this node. It is never an answer to a client: the node stops, or says that it
/// cannot read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LedgerError {
    /// The log did not give what it should hold.
    #[error(transparent)]
    Log(Arc<LogError>),
    /// The disk.
    #[error(transparent)]
    Disk(Arc<DiskError>),
    /// The index. It is derived state.
    #[error(
        "{0}; hint: stop the node and remove `derived` in its data directory: it is computed again \
         at the next start"
    )]
    Index(Arc<IndexError>),
    /// A record or a proof does not hold. It was not served.
    #[error(
        "leaf {leaf}: {what}; hint: `indelible check` names the damaged file; `derived` may be \
         removed while the node is stopped"
    )]
    Damaged {
        /// The leaf that was asked for.
        leaf: LeafIndex,
        /// What does not fit what.
        what: &'static str,
    },
    /// A committed entry that no build could apply.
    #[error("entry {index}: {fault}")]
    Entry {
        /// The entry.
        index: u64,
        /// What is wrong with it.
        fault: EntryFault,
    },
    /// Not the entry that comes next.
    #[error("entry {actual} cannot be applied, entry {expected} comes next")]
    OutOfOrder {
        /// The entry that comes next.
        expected: u64,
        /// The one that was given.
        actual: u64,
    },
    /// A leaf or size that the tree does not have (yet).
    #[error("size or leaf {asked} is not in a tree of {size} leaves")]
    OutOfRange {
        /// What was asked for.
        asked: u64,
        /// Leaves that there are.
        size: u64,
    },
    /// The ledger was closed.
    #[error("the ledger is closed")]
    Closed,
}

/// What is wrong with a committed entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryFault {
    /// A batch that is none.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A membership that is none.
    #[error("its membership cannot be decoded")]
    Membership,
    /// The first entry is no membership.
    #[error("a trail begins with its membership")]
    NoGenesis,
    /// The first membership names another trail.
    #[error("its membership does not belong to trail {expected}")]
    OtherTrail {
        /// The trail of this node.
        expected: TrailId,
    },
}

impl From<LogError> for LedgerError {
    fn from(error: LogError) -> Self {
        LedgerError::Log(Arc::new(error))
    }
}

impl From<DiskError> for LedgerError {
    fn from(error: DiskError) -> Self {
        LedgerError::Disk(Arc::new(error))
    }
}
