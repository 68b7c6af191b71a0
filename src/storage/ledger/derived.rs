//! Records that nobody proposed: apply derives one from every blank and from every membership entry
//! (docs/FORMAT.md, "Derived records").
//!
//! They are pure functions of the entry, the chain before it and the leaf before them. So every
//! node derives the same ones, nobody stores them, and no leader can leave out that it led or who
//! belonged.

use bytes::Bytes;
use indelible_core::leaf::{LEAF_SIZE, commit};
use indelible_core::{Chain, Entry, EntryKind, Kind, Leaf, Salt};
use indelible_proto::v1::{Leadership, MembershipRecord};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};

/// Field number of `membership` in `MembershipRecord`: its last, so that it can be appended.
const MEMBERSHIP_FIELD: u32 = 5;

/// A record that is derived from an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Derived {
    pub(crate) leaf: [u8; LEAF_SIZE],
    pub(crate) event: Bytes,
}

impl Derived {
    /// All derived records have this salt: what they say is no secret.
    pub(crate) const SALT: Salt = Salt([0; Salt::SIZE]);

    /// The record of a blank or membership entry, none of a batch. `previous_chain` is the link
    /// before the entry, `received` that of the leaf before, 0 at the start.
    pub(crate) fn of(entry: &Entry, previous_chain: &Chain, received: u64) -> Option<Derived> {
        let (kind, event) = match entry.kind {
            EntryKind::Blank => (Kind::Leadership, leadership(entry, previous_chain)),
            EntryKind::Membership => (Kind::Membership, membership(entry, previous_chain)),
            EntryKind::Batch => return None,
        };
        let leaf = Leaf {
            kind,
            retention_class: 0,
            event_size: u32::try_from(event.len()).expect("a membership is far smaller than 2^32"),
            received,
            opened: 0,
            seq: entry.id.index,
            commitment: commit(&Self::SALT, &event),
        };
        Some(Derived { leaf: leaf.encode(), event: event.into() })
    }
}

fn leadership(entry: &Entry, previous_chain: &Chain) -> Vec<u8> {
    let id = entry.id;
    let previous_chain = Bytes::copy_from_slice(&previous_chain.0);
    Leadership { index: id.index, term: id.term, leader: id.leader, previous_chain }.encode_to_vec()
}

/// The payload goes in as it was proposed: decoding and encoding it again could lose what this
/// build does not know.
fn membership(entry: &Entry, previous_chain: &Chain) -> Vec<u8> {
    let id = entry.id;
    let mut event = MembershipRecord {
        index: id.index,
        term: id.term,
        leader: id.leader,
        previous_chain: Bytes::copy_from_slice(&previous_chain.0),
        membership: None,
    }
    .encode_to_vec();
    encode_key(MEMBERSHIP_FIELD, WireType::LengthDelimited, &mut event);
    encode_varint(entry.head.len() as u64, &mut event);
    event.extend_from_slice(&entry.head);
    event
}

#[cfg(test)]
mod tests {
    use indelible_core::{EntryId, Hash};
    use indelible_proto::v1::{Member, Membership, VoterSet};

    use super::*;

    /// The bytes are those that prost gives for the whole message.
    #[test]
    fn membership_event_is_the_encoded_message() {
        let member = Member { id: 7, client_addr: "a:1".into(), ..Member::default() };
        let membership = Membership {
            trail_id: Bytes::from_static(&[9; 16]),
            voter_sets: vec![VoterSet { node_ids: vec![7] }],
            members: vec![member],
        };
        let id = EntryId { index: 3, term: 2, leader: 7 };
        let head = membership.encode_to_vec().into();
        let entry = Entry { id, kind: EntryKind::Membership, head, body: Bytes::new() };
        let chain = Hash([5; 32]);
        let expected = MembershipRecord {
            index: 3,
            term: 2,
            leader: 7,
            previous_chain: Bytes::copy_from_slice(&chain.0),
            membership: Some(membership),
        };
        let derived = Derived::of(&entry, &chain, 11).expect("a membership gives a record");
        assert_eq!(derived.event, expected.encode_to_vec());
        let leaf = Leaf::decode(&derived.leaf).expect("a leaf");
        assert_eq!((leaf.kind, leaf.seq, leaf.received, leaf.opened), (Kind::Membership, 3, 11, 0));
        assert_eq!(leaf.commitment, commit(&Salt::default(), &derived.event));
    }
}
