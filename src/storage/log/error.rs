//! What a log cannot do, by what the caller can do about it.

use std::path::PathBuf;
use std::sync::Arc;

use crate::disk::DiskError;
use crate::storage::frame::FrameFault;

/// A failure of this node's log; never an answer to a client.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// There is no such entry. The caller asked past the end, or the entry was truncated meanwhile.
    #[error("entry {index} does not exist; the log ends before entry {next}")]
    Missing {
        /// The entry asked for.
        index: u64,
        /// One past the last entry.
        next: u64,
    },
    /// A truncation would have removed entries that are committed or applied. Nothing was done;
    /// somebody breaks Raft's rules.
    #[error(
        "refused to remove entries from {first} on: those before {kept} are committed or applied"
    )]
    Committed {
        /// The first entry that would have been removed.
        first: u64,
        /// One past the last entry that must stay.
        kept: u64,
    },
    /// Bytes on the disk are not what was written. A peer has the entry, and
    /// [`super::Log::mend_segment`] puts it back.
    #[error(
        "entry {index} in {} at offset {offset} is damaged: {fault}; hint: a peer has it",
        file.display()
    )]
    Corrupt {
        /// The damaged entry. Not always the one asked for: it may be on the way to that.
        index: u64,
        /// The file.
        file: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// What is wrong.
        fault: FrameFault,
    },
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A write failed earlier, so nothing is known about what later ones would do: the process must
    /// exit.
    #[error("the log has stopped: {0}")]
    Stopped(Arc<LogError>),
    /// A thread of the log died of a broken invariant: the process must exit.
    #[error("a thread of the log has panicked")]
    Panicked,
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
}
