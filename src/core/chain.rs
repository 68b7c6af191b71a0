//! The chain: one SHA3-256 link per entry, binding order and content for whoever holds the
//! segments.

use sha3::{Digest, Sha3_256};

use crate::{Entry, EntryId, EntryKind, Hash, TrailId};

/// A link of the chain.
pub type Chain = Hash;

/// The link before the first entry: SHA3-256(0x12 ‖ trail id).
pub fn genesis(trail: &TrailId) -> Chain {
    let mut hasher = Sha3_256::new();
    hasher.update([0x12]);
    hasher.update(trail.0);
    Hash(hasher.finalize().into())
}

/// The link of an entry: SHA3-256(0x11 ‖ previous ‖ index ‖ term ‖ leader ‖ kind ‖ head).
pub fn link(previous: &Chain, id: EntryId, kind: EntryKind, head: &[u8]) -> Chain {
    let mut hasher = Sha3_256::new();
    hasher.update([0x11]);
    hasher.update(previous.0);
    hasher.update(id.index.to_le_bytes());
    hasher.update(id.term.to_le_bytes());
    hasher.update(id.leader.to_le_bytes());
    hasher.update([kind.as_u8()]);
    hasher.update(head);
    Hash(hasher.finalize().into())
}

/// [`link`] of a whole entry.
pub fn link_entry(previous: &Chain, entry: &Entry) -> Chain {
    link(previous, entry.id, entry.kind, &entry.head)
}
