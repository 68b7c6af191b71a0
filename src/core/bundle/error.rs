//! Why a bundle proves nothing, and where.

use std::ops::Range;

use crate::checkpoint::CheckpointError;
use crate::merkle::ProofError;
use crate::note::NoteError;
use crate::policy::{PolicyError, PolicySyntaxError};
use crate::{Commitment, FormatError, Hash, LeafIndex};

/// Why a bundle proves nothing. Where records are concerned, it is about the first one.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The bytes could not be read or written.
    #[error("bundle: {0}")]
    Io(#[from] std::io::Error),
    /// Other bytes at the beginning.
    #[error("not a bundle: it does not begin with INDBUNDL")]
    Magic,
    /// A version that this program does not know.
    #[error("bundle of version {actual}, this program knows 1; hint: use a newer one")]
    Version {
        /// Its version.
        actual: u32,
    },
    /// The bytes end too early.
    #[error("the bundle ends in {place}; hint: the file was cut off")]
    Cut {
        /// In the middle of what.
        place: String,
    },
    /// Bytes after the end.
    #[error("bytes follow after the end of the bundle")]
    Trailing,
    /// Something is larger than any bundle has it.
    #[error("bundle: {what}: {actual}, the limit is {limit}")]
    Limit {
        /// What.
        what: &'static str,
        /// Its limit.
        limit: u64,
        /// How much it is.
        actual: u64,
    },
    /// A part does not have the form that it must have.
    #[error("bundle: {what}")]
    Form {
        /// Which rule is broken.
        what: &'static str,
    },
    /// Its policy is none.
    #[error("the bundle's own {0}")]
    Policy(#[from] PolicySyntaxError),
    /// A checkpoint in it is no signed note.
    #[error("checkpoint of the bundle: {0}")]
    Note(#[from] NoteError),
    /// A note in it is no checkpoint.
    #[error("checkpoint of the bundle: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// The policy does not believe the checkpoint.
    #[error("checkpoint of the bundle: {0}")]
    Untrusted(#[from] PolicyError),
    /// A signature of an older checkpoint in it is wrong, or it is one of another trail.
    #[error("the bundle's checkpoint of size {size}: {source}")]
    OlderUntrusted {
        /// Size of the older tree.
        size: u64,
        /// What is wrong with it.
        source: PolicyError,
    },
    /// The trail did not grow from an older checkpoint in it.
    #[error(
        "the bundle's checkpoint of size {size} does not fit that of size {tree_size}: {source}"
    )]
    Older {
        /// Size of the older tree.
        size: u64,
        /// Size of the checkpoint's tree.
        tree_size: u64,
        /// What is wrong with the proof.
        source: ProofError,
    },
    /// The range proof has not the form that its numbers ask for.
    #[error("range proof of the bundle: {0}")]
    Range(ProofError),
    /// A record of the key history is wrong.
    #[error("key history, leaf {index}: {fault}")]
    KeyRecord {
        /// Its index.
        index: LeafIndex,
        /// What is wrong with it.
        fault: RecordFault,
    },
    /// A record is wrong.
    #[error("leaf {index}: {fault}")]
    Record {
        /// Its index.
        index: LeafIndex,
        /// What is wrong with it.
        fault: RecordFault,
    },
    /// Every record is sound in itself, yet they are not those of the checkpoint.
    #[error("{}", root_message(*tree_size, expected, computed, records, wrong.as_ref()))]
    Root {
        /// Size of the checkpoint's tree.
        tree_size: u64,
        /// Its root.
        expected: Hash,
        /// The root that the records lead to.
        computed: Hash,
        /// The records of the bundle.
        records: Range<LeafIndex>,
        /// Where the first wrong one is, if the bundle's own list of subtrees tells.
        wrong: Option<Range<LeafIndex>>,
    },
    /// Records and root are right, the list of subtrees at the end is not.
    #[error("the bundle's root of the subtree {}..{} is not that of its records", records.start, records.end)]
    Subtree {
        /// The records below it.
        records: Range<LeafIndex>,
    },
    /// The older checkpoint that was given is of another trail.
    #[error("the older checkpoint is one of {actual}, the bundle is one of {expected}")]
    AgainstOrigin {
        /// The bundle's origin.
        expected: String,
        /// The other one.
        actual: String,
    },
    /// The older checkpoint that was given is newer than the bundle.
    #[error(
        "the older checkpoint has size {size}, the bundle's has {tree_size}; hint: export a newer bundle"
    )]
    AgainstNewer {
        /// Size of what was given.
        size: u64,
        /// Size of the bundle's checkpoint.
        tree_size: u64,
    },
    /// The trail had another root at that size.
    #[error(
        "at size {size} the trail has the root {actual}, the older checkpoint says {expected}: history was changed, or one of the two is forged"
    )]
    AgainstRoot {
        /// Size of the older tree.
        size: u64,
        /// What the older checkpoint says.
        expected: Hash,
        /// What the bundle says.
        actual: Hash,
    },
    /// The bundle's proof for that size does not fit the older checkpoint.
    #[error(
        "the trail of size {tree_size} did not grow from the older checkpoint of size {size}: {source}"
    )]
    AgainstProof {
        /// Size of the older tree.
        size: u64,
        /// Size of the bundle's checkpoint.
        tree_size: u64,
        /// What is wrong.
        source: ProofError,
    },
    /// The bundle cannot tell what the trail was at that size.
    #[error("the bundle holds leaves {}..{} and no proof from size {size}; hint: export from leaf 0, or with a proof from that size", records.start, records.end)]
    AgainstUnknown {
        /// Size of the older tree.
        size: u64,
        /// The records of the bundle.
        records: Range<LeafIndex>,
    },
}

fn root_message(
    tree_size: u64,
    expected: &Hash,
    computed: &Hash,
    records: &Range<LeafIndex>,
    wrong: Option<&Range<LeafIndex>>,
) -> String {
    let found = match wrong {
        Some(wrong) => {
            format!("the first wrong one is among leaves {}..{}", wrong.start, wrong.end)
        }
        None => "nothing in the bundle tells which is wrong".to_owned(),
    };
    format!(
        "the checkpoint of size {tree_size} has the root {expected}, leaves {}..{} of the bundle lead to {computed}; {found}",
        records.start, records.end
    )
}

/// What is wrong with a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    /// A leaf of a version or kind that this program does not know.
    #[error(transparent)]
    Leaf(#[from] FormatError),
    /// The leaf is not the one that was exported.
    #[error("the leaf was changed: it gives the check {actual}, the bundle says {expected}")]
    Check {
        /// What stands beside the leaf, hexadecimal.
        expected: String,
        /// What the leaf gives, hexadecimal.
        actual: String,
    },
    /// Received before its predecessor, which no node accepts.
    #[error("received at {actual} ns, its predecessor at {previous} ns")]
    Received {
        /// When the one before was received, Unix nanoseconds.
        previous: u64,
        /// When this one was.
        actual: u64,
    },
    /// Neither there nor withheld.
    #[error("presence byte {actual:#04x}, there is 0x00 (withheld) and 0x10 (present)")]
    Presence {
        /// The byte.
        actual: u8,
    },
    /// The event is not of the size that the leaf says.
    #[error("an event of {expected} bytes, as the leaf says, does not fit: {actual} are there")]
    Size {
        /// Bytes that the leaf says.
        expected: u64,
        /// Bytes that are there.
        actual: u64,
    },
    /// Salt and event are not those that the leaf commits to.
    #[error("the event or its salt was changed: commitment {expected}, they give {actual}")]
    Commitment {
        /// What the leaf says.
        expected: Commitment,
        /// What salt and event give.
        actual: Commitment,
    },
    /// Not in the tree.
    #[error(transparent)]
    Proof(#[from] ProofError),
}
