//! Leaves and batches: what is encoded comes back, and everything else is refused.

use bytes::Bytes;
use rand::Rng;

use super::{random_hash, record, seeded};
use crate::batch::{BATCH_HEADER_SIZE, BatchBuilder};
use crate::leaf::{LEAF_SIZE, commit, leaf_hash};
use crate::{Batch, FormatError, Kind, Leaf, Salt};

#[test]
fn leaf_encoding_and_decoding_are_inverse() {
    let mut rng = seeded();
    for _ in 0..1_000 {
        let leaf = Leaf {
            kind: Kind::ALL[rng.random_range(0..Kind::ALL.len())],
            retention_class: rng.random(),
            event_size: rng.random(),
            received: rng.random(),
            opened: rng.random(),
            seq: rng.random(),
            commitment: random_hash(&mut rng),
        };
        assert_eq!(Leaf::decode(&leaf.encode()), Ok(leaf));
        // And from bytes: whatever decodes encodes to the same bytes.
        let mut bytes: [u8; LEAF_SIZE] = std::array::from_fn(|_| rng.random());
        (bytes[0], bytes[1]) = (1, leaf.kind.as_u8());
        assert_eq!(Leaf::decode(&bytes).unwrap().encode(), bytes);
    }
}

#[test]
fn leaves_of_other_lengths_are_refused() {
    let bytes = [record(0).0.encode(); 3].concat();
    for actual in (0..=bytes.len()).filter(|length| *length != LEAF_SIZE) {
        let refused = Leaf::decode(&bytes[..actual]);
        let expected = FormatError::Length { what: "leaf", expected: LEAF_SIZE, actual };
        assert_eq!(refused, Err(expected));
    }
}

#[test]
fn unknown_leaf_versions_and_kinds_are_refused() {
    let good = record(0).0.encode();
    for value in 0..=u8::MAX {
        let mut bytes = good;
        bytes[0] = value;
        assert_eq!(Leaf::decode(&bytes).is_ok(), value == 1, "version {value}");
        let mut bytes = good;
        bytes[1] = value;
        assert_eq!(Leaf::decode(&bytes).is_ok(), (1..=15).contains(&value), "kind {value}");
    }
}

#[test]
fn kinds_have_distinct_names_and_their_own_number() {
    let names: std::collections::BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
    assert_eq!(names.len(), Kind::ALL.len());
    for (position, kind) in Kind::ALL.into_iter().enumerate() {
        assert_eq!(usize::from(kind.as_u8()), position + 1);
        assert_eq!(Kind::from_u8(kind.as_u8()), Some(kind));
    }
}

#[test]
fn every_bit_of_a_leaf_counts() {
    let good = record(0).0.encode();
    let hash = leaf_hash(&good);
    for bit in 0..LEAF_SIZE * 8 {
        let mut bytes = good;
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert_ne!(leaf_hash(&bytes), hash, "bit {bit}");
    }
    let (salt, event) = (Salt([3; 16]), b"event".as_slice());
    assert_ne!(commit(&salt, event), commit(&Salt([4; 16]), event));
    assert_ne!(commit(&salt, event), commit(&salt, b"events"));
}

fn batch(count: u64) -> (Bytes, Bytes) {
    let mut builder = BatchBuilder::default();
    for n in 0..count {
        let (leaf, salt, event) = record(n);
        builder.push(&leaf, &salt, &event);
    }
    assert_eq!(builder.count() as u64, count);
    let bytes = builder.payload_bytes();
    let (head, body) = builder.finish();
    assert_eq!(head.len() + body.len(), bytes);
    (head, body)
}

#[test]
fn batch_encoding_and_decoding_are_inverse() {
    for count in [0, 1, 2, 3, 17, 4096] {
        let (head, body) = batch(count);
        let decoded = Batch::decode(&head, &body).unwrap();
        decoded.verify().unwrap();
        assert_eq!((decoded.count() as u64, decoded.rules), (count, 1));
        for n in 0..count {
            let position = n as usize;
            let (leaf, salt, event) = record(n);
            assert_eq!(decoded.leaves[position], leaf);
            assert_eq!(decoded.leaf_bytes(position), &leaf.encode());
            assert_eq!((decoded.salt(position), &decoded.event(position)[..]), (salt, &event[..]));
        }
    }
}

#[test]
fn batches_of_other_lengths_are_refused() {
    let (head, body) = batch(3);
    let (longer_head, longer_body) = (pad(&head, 200), pad(&body, 200));
    for length in (0..longer_head.len()).filter(|length| *length != head.len()) {
        let refused = Batch::decode(&longer_head.slice(..length), &body);
        assert!(matches!(refused, Err(FormatError::Length { .. })), "head of {length}");
    }
    for length in (0..longer_body.len()).filter(|length| *length != body.len()) {
        let refused = Batch::decode(&head, &longer_body.slice(..length));
        assert!(matches!(refused, Err(FormatError::Length { .. })), "body of {length}");
    }
}

fn pad(bytes: &Bytes, more: usize) -> Bytes {
    [&bytes[..], &vec![0; more][..]].concat().into()
}

/// Version, rules, flags, trail and reserved have one value each; the count fixes the length. So no
/// bit of the header may change.
#[test]
fn every_bit_of_a_batch_header_is_checked() {
    let (head, body) = batch(3);
    for bit in 0..BATCH_HEADER_SIZE * 8 {
        let refused = Batch::decode(&flip(&head, bit), &body).unwrap_err();
        let expected = match bit / 8 {
            0 | 1 => matches!(refused, FormatError::Unknown { .. }),
            8..12 => matches!(refused, FormatError::Length { .. }),
            _ => matches!(refused, FormatError::Reserved { .. }),
        };
        assert!(expected, "bit {bit}: {refused}");
    }
}

#[test]
fn every_value_but_one_of_version_and_rules_is_unknown() {
    let (head, body) = batch(1);
    for offset in [0, 1] {
        for value in (0..=u8::MAX).filter(|value| *value != 1) {
            let mut bytes = head.to_vec();
            bytes[offset] = value;
            let refused = Batch::decode(&bytes.into(), &body);
            assert!(matches!(refused, Err(FormatError::Unknown { .. })), "{offset}: {value}");
        }
    }
}

/// A changed leaf, salt or event either does not decode, or fails verification, or is one of the
/// leaf's fields that only tree and chain bind.
#[test]
fn damage_in_a_batch_is_noticed() {
    let (head, body) = batch(2);
    for bit in 0..body.len() * 8 {
        let damaged = Batch::decode(&head, &flip(&body, bit)).unwrap();
        assert!(matches!(damaged.verify(), Err(FormatError::Commitment { .. })), "bit {bit}");
    }
    for bit in BATCH_HEADER_SIZE * 8..head.len() * 8 {
        let field = (bit / 8 - BATCH_HEADER_SIZE) % LEAF_SIZE;
        let noticed = match Batch::decode(&flip(&head, bit), &body) {
            Ok(batch) => batch.verify().is_err(),
            Err(_) => true,
        };
        // Kind (some flips give another kind), retention class, received, opened and seq.
        let bound_by_the_tree = matches!(field, 1..4 | 8..32);
        assert!(noticed || bound_by_the_tree, "bit {bit}");
    }
}

fn flip(bytes: &Bytes, bit: usize) -> Bytes {
    let mut bytes = bytes.to_vec();
    bytes[bit / 8] ^= 1 << (bit % 8);
    bytes.into()
}

#[test]
fn a_count_that_overflows_is_refused() {
    let mut head = batch(1).0.to_vec();
    head[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    let refused = Batch::decode(&head.into(), &Bytes::new());
    assert!(matches!(refused, Err(FormatError::Length { what: "batch head", .. })));
}

#[test]
#[should_panic(expected = "leaf and event disagree")]
fn a_batch_takes_no_event_of_another_size() {
    let (leaf, salt, _) = record(0);
    BatchBuilder::default().push(&leaf, &salt, b"x");
}
