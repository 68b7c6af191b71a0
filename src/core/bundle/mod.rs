//! Bundles: what `indelible export` writes and an auditor takes home (docs/FORMAT.md, "Bundle").
//!
//! One file that needs no node and no network: consecutive records, the signed checkpoint whose
//! tree they are in, the proof of that, older checkpoints with proofs that the trail only grew, and
//! the records that say whose keys count. [`BundleWriter`] and [`BundleReader`] hold one block of
//! records at a time, however large the file is.
//!
//! Nothing in a bundle is believed because it is there. Its policy, too, is only what the exporter
//! says; verification needs one that came another way.

mod error;
mod read;
mod verify;
mod write;

use crate::leaf::LEAF_SIZE;
use crate::{Hash, Leaf, LeafIndex, Note, Policy, RangeProof, Salt};

pub use error::{BundleError, RecordFault};
pub use read::BundleReader;
pub use verify::{Against, Consistency, Doubted, RecordRef, Verified};
pub use write::BundleWriter;

/// What every bundle begins with.
pub const BUNDLE_MAGIC: [u8; 8] = *b"INDBUNDL";
/// The only version so far.
pub const BUNDLE_VERSION: u32 = 1;
/// What every bundle ends with.
const BUNDLE_END: [u8; 8] = *b"INDBUEND";
/// Bytes of the header before its parts of variable size.
const HEADER_SIZE: usize = 48;
/// Bytes of a record before salt and event: leaf, check, presence.
const RECORD_HEAD_SIZE: usize = LEAF_SIZE + CHECK_SIZE + 1;
/// Bytes of a leaf hash that stand beside the leaf, so that a changed leaf is found by its index.
const CHECK_SIZE: usize = 4;
/// Presence byte: salt and event are withheld.
const WITHHELD: u8 = 0x00;
/// Presence byte: salt and event follow. It is the first byte of what the commitment hashes.
const PRESENT: u8 = 0x10;
/// Level of the subtrees whose roots stand at the end, so that what does not lead to the
/// checkpoint's root is narrowed down.
const SUBTREE_LEVEL: u8 = 8;

/// All of a bundle but its records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleHeader {
    /// The policy by which the exporter believed the checkpoint, if it had one. For information.
    pub policy: Option<Policy>,
    /// The checkpoint.
    pub note: Note,
    /// Binds the records to the checkpoint's tree.
    pub proof: RangeProof,
    /// Trees that the checkpoint's tree is proved to have grown from, by ascending size.
    pub older: Vec<Older>,
    /// Records of kinds 3 and 12 below the checkpoint's size, by ascending index.
    pub keys: Vec<KeyRecord>,
}

/// A smaller tree of the same trail, and the proof that nothing in it changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Older {
    /// Its size; at least 1 and at most that of the checkpoint.
    pub size: u64,
    /// Its checkpoint. Without it, the proof serves whoever has one of this size.
    pub note: Option<Note>,
    /// RFC 6962 consistency proof from this size to the checkpoint's.
    pub proof: Vec<Hash>,
}

/// A record that says whose keys count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// Its position.
    pub index: LeafIndex,
    /// Its leaf.
    pub leaf: Leaf,
    /// Its salt.
    pub salt: Salt,
    /// Its event.
    pub event: Vec<u8>,
    /// RFC 6962 inclusion proof in the checkpoint's tree.
    pub proof: Vec<Hash>,
}

/// What stands beside a leaf, so that a change of the leaf or of its presence byte is found at
/// this record: the first bytes of the leaf hash, inverted if the event is withheld.
fn check_of(leaf_hash: &Hash, presence: u8) -> [u8; CHECK_SIZE] {
    let inverted = if presence == WITHHELD { 0xff } else { 0x00 };
    std::array::from_fn(|n| leaf_hash.0[n] ^ inverted)
}
