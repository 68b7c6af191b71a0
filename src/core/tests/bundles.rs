//! Bundles: whole ones, and every way in which one can be wrong.

use rand::Rng;

use super::notes::{LOG_KEY, TIME, WITNESS_KEY, log_key, witness_key};
use super::{naive_path, naive_root, naive_subproof, seeded};
use crate::bundle::{
    BUNDLE_MAGIC, BundleError, BundleHeader, BundleReader, BundleWriter, Consistency, KeyRecord,
    Older, RecordFault, Verified,
};
use crate::leaf::{commit, leaf_hash};
use crate::limits::{BUNDLE_KEYS_MAX, BUNDLE_OLDER_MAX, EVENT_BYTES_MAX};
use crate::policy::PolicyError;
use crate::{Checkpoint, Hash, Kind, Leaf, Note, Policy, RangeProof, Salt};

/// Bytes of a record before its event.
const HEAD: usize = 64 + 4 + 1 + 16;

/// A trail whose records 0 and 40 are memberships.
struct Trail {
    records: Vec<(Leaf, Salt, Vec<u8>)>,
    hashes: Vec<Hash>,
}

impl Trail {
    fn new(count: u64) -> Trail {
        let records: Vec<_> = (0..count)
            .map(|n| {
                let (mut leaf, salt, event) = super::record(n);
                if n == 0 || n == 40 {
                    leaf.kind = Kind::Membership;
                }
                (leaf, salt, event)
            })
            .collect();
        let hashes = records.iter().map(|(leaf, ..)| leaf_hash(&leaf.encode())).collect();
        Trail { records, hashes }
    }

    fn checkpoint(&self, size: u64) -> Checkpoint {
        Checkpoint::new("audit.example.com/t1", size, naive_root(&self.hashes[..size as usize]))
    }

    fn header(&self, from: u64, to: u64, size: u64, older: &[u64]) -> BundleHeader {
        let hashes = &self.hashes[..size as usize];
        let node = |level: u8, index: u64| {
            Ok::<_, ()>(naive_root(
                &hashes[(index << level) as usize..((index + 1) << level) as usize],
            ))
        };
        let older = older.iter().map(|old| Older {
            size: *old,
            note: (old % 2 == 1).then(|| signed(&self.checkpoint(*old))),
            proof: naive_subproof(*old as usize, hashes, true),
        });
        let keys = [0, 40].into_iter().filter(|index| *index < size).map(|index| {
            let (leaf, salt, event) = self.records[index as usize].clone();
            KeyRecord { index, leaf, salt, event, proof: naive_path(index as usize, hashes) }
        });
        BundleHeader {
            policy: Some(policy()),
            note: signed(&self.checkpoint(size)),
            proof: RangeProof::prove(from, to, size, node).unwrap(),
            older: older.collect(),
            keys: keys.collect(),
        }
    }

    /// Every seventh event is withheld.
    fn write(&self, header: BundleHeader) -> Vec<u8> {
        let (from, to) = (header.proof.from, header.proof.to);
        let mut writer = BundleWriter::new(Vec::new(), header).unwrap();
        for index in from..to {
            let (leaf, salt, event) = &self.records[index as usize];
            let content = (index % 7 != 6).then_some((salt, event.as_slice()));
            writer.push(leaf, content).unwrap();
        }
        writer.finish().unwrap()
    }

    fn bundle(&self, from: u64, to: u64, size: u64) -> Vec<u8> {
        self.write(self.header(from, to, size, &[]))
    }
}

fn signed(checkpoint: &Checkpoint) -> Note {
    let signatures = vec![log_key().sign(checkpoint), witness_key().cosign(checkpoint, TIME)];
    Note { text: checkpoint.to_string(), signatures }
}

fn policy() -> Policy {
    format!("log {LOG_KEY}\nwitness w1 {WITNESS_KEY}\nquorum w1\n").parse().unwrap()
}

fn verify(bytes: &[u8], against: &[Checkpoint]) -> Result<Verified, BundleError> {
    BundleReader::open(bytes)?.verify(Some(&policy()), against, |_| {})
}

#[test]
fn all_ranges_of_small_trails() {
    let trail = Trail::new(12);
    for size in 0..=12u64 {
        for to in 0..=size {
            for from in 0..=to {
                let bytes = trail.bundle(from, to, size);
                let reader = BundleReader::open(&bytes[..]).unwrap();
                assert_eq!(reader.header(), &trail.header(from, to, size, &[]));
                let mut next = from;
                let verified = reader.verify(Some(&policy()), &[], |record| {
                    let (leaf, salt, event) = &trail.records[next as usize];
                    assert_eq!((record.index, record.leaf), (next, leaf));
                    match record.content {
                        Some(content) => assert_eq!(content, (&salt.0, event.as_slice())),
                        None => assert_eq!(next % 7, 6),
                    }
                    next += 1;
                });
                let verified = verified.unwrap();
                assert_eq!((next, &verified.records), (to, &(from..to)));
                assert_eq!(verified.withheld, (from..to).filter(|n| n % 7 == 6).count() as u64);
                assert_eq!(verified.trusted.unwrap().unix_s, TIME);
                assert_eq!(verified.checkpoint, trail.checkpoint(size));
                assert_eq!(verified.keys.len(), usize::from(size > 0));
                assert!(verified.keys_left_out.is_empty());
            }
        }
    }
}

#[test]
fn every_older_size_inside_the_range_and_those_with_a_proof() {
    let trail = Trail::new(60);
    let all: Vec<Checkpoint> = (0..=60).map(|size| trail.checkpoint(size)).collect();
    let whole = trail.bundle(0, 60, 60);
    let verified = verify(&whole, &all).unwrap();
    assert_eq!(verified.against.len(), 61);
    assert_eq!(verified.against[60].consistency, Consistency::Same);
    assert!(verified.against[..60].iter().all(|old| old.consistency == Consistency::Recomputed));
    // In whatever order, and the same one twice.
    let mixed = [all[50].clone(), all[3].clone(), all[60].clone(), all[3].clone()];
    assert_eq!(verify(&whole, &mixed).unwrap().against.len(), 4);

    let listed = [1, 5, 8, 33, 59];
    let part = trail.write(trail.header(20, 30, 60, &listed));
    let with_notes: Vec<u64> = listed.into_iter().filter(|size| size % 2 == 1).collect();
    assert_eq!(
        verify(&part, &[]).unwrap().older,
        with_notes,
        "what is no checkpoint is not listed"
    );
    for old in &all {
        let expected = match old.size {
            0 | 20..=30 => Some(Consistency::Recomputed),
            60 => Some(Consistency::Same),
            size if listed.contains(&size) => Some(Consistency::Proven),
            _ => None,
        };
        match verify(&part, std::slice::from_ref(old)) {
            Ok(verified) => {
                assert_eq!(Some(verified.against[0].consistency), expected, "{}", old.size)
            }
            Err(BundleError::AgainstUnknown { size, .. }) => {
                assert_eq!((size, expected), (old.size, None));
            }
            Err(error) => panic!("size {}: {error}", old.size),
        }
    }
}

#[test]
fn a_changed_past_is_noticed() {
    let trail = Trail::new(60);
    let part = trail.write(trail.header(20, 30, 60, &[5, 8]));
    for size in [0, 5, 8, 20, 25, 30, 60] {
        let other = Checkpoint { root: Hash([9; 32]), ..trail.checkpoint(size) };
        let refused = verify(&part, &[other]).unwrap_err();
        let expected = matches!(
            refused,
            BundleError::AgainstRoot { size: at, .. } | BundleError::AgainstProof { size: at, .. } if at == size
        );
        assert!(expected, "{refused}");
    }
    let other = Checkpoint { origin: "b".into(), ..trail.checkpoint(25) };
    assert!(matches!(verify(&part, &[other]), Err(BundleError::AgainstOrigin { .. })));
    let newer = verify(&trail.bundle(0, 50, 50), &[trail.checkpoint(51)]);
    assert!(matches!(newer, Err(BundleError::AgainstNewer { size: 51, tree_size: 50 })));
}

/// Where each record of a bundle's first block begins, the header's size being known.
fn offsets(trail: &Trail, header: usize, from: u64, to: u64) -> Vec<usize> {
    let mut offset = header + 4;
    let mut offsets = Vec::new();
    for index in from..to {
        offsets.push(offset);
        let event = trail.records[index as usize].2.len();
        offset += if index % 7 == 6 { HEAD - 16 } else { HEAD + event };
    }
    offsets.push(offset);
    offsets
}

/// Size of the header: that of a bundle of the same header without its records, block and end.
fn header_size(bytes: &[u8], trail: &Trail, from: u64, to: u64) -> usize {
    let records = *offsets(trail, 0, from, to).last().unwrap();
    let subtrees = 32 * ((to >> 8) - (from >> 8)) as usize;
    bytes.len() - records - subtrees - 8
}

/// Every bit counts or is told of, and one of a record is found in that record.
#[test]
fn every_bit_of_a_bundle_counts() {
    let trail = Trail::new(45);
    let (from, to) = (33, 43);
    let bytes = trail.write(trail.header(from, to, 45, &[3, 4]));
    verify(&bytes, &[]).unwrap();
    let header = header_size(&bytes, &trail, from, to);
    let offsets = offsets(&trail, header, from, to);
    for offset in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[offset] ^= 1 << bit;
            let refused = match verify(&flipped, &[trail.checkpoint(4)]) {
                Err(refused) => refused,
                // A cosignature of the older checkpoint, which now names a key that nobody knows.
                Ok(verified) if !verified.older_doubted.is_empty() => continue,
                Ok(verified) => panic!("byte {offset}, bit {bit}: {verified:?}"),
            };
            if (offsets[0]..offsets[10]).contains(&offset) {
                let position = offsets.partition_point(|start| *start <= offset) - 1;
                let BundleError::Record { index, .. } = refused else {
                    panic!("byte {offset}, bit {bit}: {refused}");
                };
                assert_eq!(index, from + position as u64, "byte {offset}, bit {bit}: {refused}");
            }
        }
    }
}

#[test]
fn a_bundle_that_ends_early_or_late_is_refused() {
    let trail = Trail::new(300);
    let bytes = trail.write(trail.header(2, 290, 300, &[1, 2]));
    verify(&bytes, &[]).unwrap();
    for length in (0..2_000).chain(bytes.len() - 2_000..bytes.len()) {
        let refused = verify(&bytes[..length], &[]).unwrap_err();
        assert!(matches!(refused, BundleError::Cut { .. }), "{length} bytes: {refused}");
    }
    let longer = [&bytes[..], b"\n"].concat();
    assert!(matches!(verify(&longer, &[]), Err(BundleError::Trailing)));
}

/// Leaves that are exchanged together with their checks: each is sound, the tree is not.
#[test]
fn exchanged_records_are_narrowed_down() {
    let trail = Trail::new(1_000);
    let header = trail.header(100, 900, 1_000, &[]);
    let mut records = trail.records.clone();
    // Two of the same kind, size and time of receipt.
    for n in [602, 603] {
        records[n].0.received = records[602].0.received;
    }
    let other = Trail { records, hashes: Vec::new() };
    let hashes: Vec<Hash> =
        other.records.iter().map(|(leaf, ..)| leaf_hash(&leaf.encode())).collect();
    let sound = Trail { records: other.records.clone(), hashes: hashes.clone() };
    let bytes = sound.write(sound.header(100, 900, 1_000, &[]));
    verify(&bytes, &[]).unwrap();
    let start = header_size(&bytes, &sound, 100, 900);
    let offsets = offsets(&sound, start, 100, 900);
    let (a, b, c) = (offsets[502], offsets[503], offsets[504]);
    assert_eq!(b - a, c - b, "two records of the same size");
    let exchanged = [&bytes[..a], &bytes[b..c], &bytes[a..b], &bytes[c..]].concat();
    match verify(&exchanged, &[sound.checkpoint(700)]) {
        Err(BundleError::Root { wrong, .. }) => assert_eq!(wrong, Some(512..768)),
        other => panic!("{other:?}"),
    }
    // The list of subtrees changed as well: nothing tells any more.
    let list = offsets[800];
    let subtree = naive_root(&{
        let mut hashes = hashes[512..768].to_vec();
        hashes.swap(90, 91);
        hashes
    });
    let mut clever = exchanged;
    clever[list + 2 * 32..list + 3 * 32].copy_from_slice(&subtree.0);
    assert!(matches!(verify(&clever, &[]), Err(BundleError::Root { wrong: None, .. })));
    // Only the list.
    let mut list_only = bytes;
    list_only[list + 40] ^= 1;
    match verify(&list_only, &[]) {
        Err(BundleError::Subtree { records }) => assert_eq!(records, 256..512),
        other => panic!("{other:?}"),
    }
    assert_eq!(header.proof.right.len(), 6);
}

#[test]
fn what_a_record_can_have_wrong() {
    let trail = Trail::new(10);
    let bytes = trail.bundle(2, 6, 10);
    let offsets = offsets(&trail, header_size(&bytes, &trail, 2, 6), 2, 6);
    let with = |change: &dyn Fn(&mut [u8])| {
        let mut changed = bytes.clone();
        let record = &mut changed[offsets[1]..offsets[2]];
        change(record);
        // The check is made to fit, as whoever changes a leaf on purpose would.
        let hash = leaf_hash(record[..64].try_into().unwrap());
        record[64..68].copy_from_slice(&hash.0[..4]);
        match verify(&changed, &[]) {
            Err(BundleError::Record { index: 3, fault }) => fault,
            other => panic!("{other:?}"),
        }
    };
    assert!(matches!(with(&|record| record[0] = 2), RecordFault::Leaf(_)));
    assert!(matches!(with(&|record| record[1] = 16), RecordFault::Leaf(_)));
    assert!(matches!(with(&|record| record[8..16].fill(0)), RecordFault::Received { .. }));
    assert!(matches!(with(&|record| record[68] = 1), RecordFault::Presence { actual: 1 }));
    assert!(matches!(with(&|record| record[68] = 0), RecordFault::Check { .. }));
    assert!(matches!(with(&|record| record[7] = 255), RecordFault::Size { .. }));
    assert!(matches!(with(&|record| record[70] ^= 1), RecordFault::Commitment { .. }));
    assert!(matches!(with(&|record| record[90] ^= 1), RecordFault::Commitment { .. }));
    assert!(matches!(with(&|record| record[40] ^= 1), RecordFault::Commitment { .. }));
}

#[test]
fn the_policy_decides_and_the_one_inside_does_not_count() {
    let trail = Trail::new(10);
    let mut header = trail.header(0, 10, 10, &[5]);
    header.note.signatures.truncate(1);
    let bytes = trail.write(header);
    assert!(matches!(verify(&bytes, &[]), Err(BundleError::Untrusted(PolicyError::Quorum { .. }))));
    let unverified = BundleReader::open(&bytes[..]).unwrap().verify(None, &[], |_| {}).unwrap();
    assert_eq!(unverified.trusted, None);
    let mut header = trail.header(0, 10, 10, &[5]);
    header.older[0].note.as_mut().unwrap().signatures.truncate(1);
    let bytes = trail.write(header);
    // It may be older than the policy's keys: told, and no reason to refuse what is proven.
    let verified = verify(&bytes, &[]).unwrap();
    assert_eq!(verified.older, [5]);
    assert!(matches!(verified.older_doubted[..], [(5, PolicyError::Quorum { .. })]));
    let mut header = trail.header(0, 10, 10, &[5]);
    header.older[0].note.as_mut().unwrap().signatures[1].signature[20] ^= 1;
    let bytes = trail.write(header);
    assert!(matches!(verify(&bytes, &[]), Err(BundleError::OlderUntrusted { size: 5, .. })));
    let mut header = trail.header(0, 10, 10, &[]);
    header.policy = None;
    let bytes = trail.write(header);
    assert_eq!(BundleReader::open(&bytes[..]).unwrap().header().policy, None);
    verify(&bytes, &[]).unwrap();
}

#[test]
fn older_checkpoints_and_keys_must_be_of_this_trail() {
    let trail = Trail::new(60);
    let mut header = trail.header(50, 60, 60, &[5]);
    // Signed by the right keys, yet another history.
    let other = Checkpoint { root: Hash([1; 32]), ..trail.checkpoint(5) };
    header.older[0].note = Some(signed(&other));
    let refused = verify(&trail.write(header), &[]);
    assert!(
        matches!(refused, Err(BundleError::Older { size: 5, tree_size: 60, .. })),
        "{refused:?}"
    );
    let mut header = trail.header(50, 60, 60, &[5]);
    header.older[0].note = Some(signed(&trail.checkpoint(6)));
    assert!(matches!(verify(&trail.write(header), &[]), Err(BundleError::Form { .. })));
    let mut header = trail.header(50, 60, 60, &[]);
    header.keys[1].event[3] ^= 1;
    let refused = verify(&trail.write(header), &[]);
    let commitment = |fault: &RecordFault| matches!(fault, RecordFault::Commitment { .. });
    assert!(
        matches!(&refused, Err(BundleError::KeyRecord { index: 40, fault }) if commitment(fault))
    );
    let mut header = trail.header(50, 60, 60, &[]);
    header.keys[1].leaf.received += 1;
    let refused = verify(&trail.write(header), &[]);
    assert!(matches!(
        refused,
        Err(BundleError::KeyRecord { index: 40, fault: RecordFault::Proof(_) })
    ));
}

#[test]
fn a_key_history_that_leaves_something_out_is_told() {
    let trail = Trail::new(60);
    let mut header = trail.header(0, 60, 60, &[]);
    header.keys.truncate(1);
    assert_eq!(verify(&trail.write(header), &[]).unwrap().keys_left_out, [40]);
    let mut header = trail.header(30, 60, 60, &[]);
    header.keys.remove(1);
    assert_eq!(verify(&trail.write(header), &[]).unwrap().keys_left_out, [40]);
}

#[test]
fn a_writer_refuses_what_no_reader_takes() {
    let trail = Trail::new(60);
    let refuse = |change: &dyn Fn(&mut BundleHeader)| {
        let mut header = trail.header(20, 30, 60, &[5, 8]);
        change(&mut header);
        BundleWriter::new(Vec::new(), header).err().expect("a header that is refused")
    };
    let form = |error: BundleError| matches!(error, BundleError::Form { .. });
    assert!(form(refuse(&|header| header.older.reverse())));
    assert!(form(refuse(&|header| header.older[1].size = 61)));
    assert!(form(refuse(&|header| header.older[0].size = 0)));
    assert!(form(refuse(&|header| header.older[0].proof.truncate(1))));
    assert!(form(refuse(&|header| header.keys.reverse())));
    assert!(form(refuse(&|header| header.keys[1].index = 60)));
    assert!(form(refuse(&|header| header.keys[1].proof.clear())));
    assert!(form(refuse(&|header| header.keys[1].event.clear())));
    assert!(form(refuse(&|header| header.note = signed(&trail.checkpoint(59)))));
    assert!(matches!(refuse(&|header| header.proof.left.clear()), BundleError::Range(_)));
    assert!(matches!(refuse(&|header| header.proof.to = 19), BundleError::Range(_)));
    let many = |header: &mut BundleHeader| {
        header.older = vec![header.older[0].clone(); BUNDLE_OLDER_MAX + 1];
    };
    assert!(matches!(refuse(&many), BundleError::Limit { .. }));
    let many = |header: &mut BundleHeader| {
        header.keys = vec![header.keys[0].clone(); BUNDLE_KEYS_MAX + 1];
    };
    assert!(matches!(refuse(&many), BundleError::Limit { .. }));
    // Too few records, and other ones.
    let writer = BundleWriter::new(Vec::new(), trail.header(20, 30, 60, &[])).unwrap();
    assert!(matches!(writer.finish(), Err(BundleError::Cut { .. })));
    let mut writer = BundleWriter::new(Vec::new(), trail.header(20, 21, 60, &[])).unwrap();
    writer.push(&trail.records[22].0, None).unwrap();
    assert!(matches!(writer.finish(), Err(BundleError::Root { .. })));
}

/// Headers whose numbers ask for what no file has.
#[test]
fn absurd_numbers_are_refused_at_once() {
    let trail = Trail::new(10);
    let bytes = trail.bundle(0, 10, 10);
    let with = |offset: usize, value: &[u8]| {
        let mut changed = bytes.clone();
        changed[offset..offset + value.len()].copy_from_slice(value);
        BundleReader::open(&changed[..]).err()
    };
    assert!(matches!(with(0, b"INDBUNDX"), Some(BundleError::Magic)));
    assert!(matches!(with(8, &[2]), Some(BundleError::Version { actual: 2 })));
    for offset in [12, 16, 20, 24] {
        let refused = with(offset, &u32::MAX.to_le_bytes());
        assert!(matches!(refused, Some(BundleError::Limit { .. })), "{offset}: {refused:?}");
    }
    assert!(matches!(with(28, &[1]), Some(BundleError::Form { .. })));
    for (from, to) in [(1, 0), (0, 11), (u64::MAX, u64::MAX), (11, 11)] {
        let numbers = [from.to_le_bytes(), to.to_le_bytes()].concat();
        assert!(matches!(with(32, &numbers), Some(BundleError::Range(_))), "{from}..{to}");
    }
    assert!(matches!(BundleReader::open(&BUNDLE_MAGIC[..]).err(), Some(BundleError::Cut { .. })));
    // A tree of 2^64 - 1 leaves, all of which are to follow.
    let size = u64::MAX;
    let note = signed(&Checkpoint::new("audit.example.com/t1", size, Hash([1; 32])));
    let proof = RangeProof { from: 0, to: size, size, left: Vec::new(), right: Vec::new() };
    let header = BundleHeader { policy: None, note, proof, older: Vec::new(), keys: Vec::new() };
    let mut writer = BundleWriter::new(Vec::new(), header.clone()).unwrap();
    let (leaf, ..) = trail.records[0];
    writer.push(&leaf, None).unwrap();
    assert!(matches!(writer.finish(), Err(BundleError::Cut { .. })));
    // And one whose last leaf alone is there.
    let peaks = (0..63).map(|_| Hash([2; 32])).collect::<Vec<_>>();
    let left = [vec![Hash([3; 32])], peaks[..62].to_vec()].concat();
    let proof = RangeProof { from: size - 1, to: size, size, left, right: Vec::new() };
    let mut writer = BundleWriter::new(Vec::new(), BundleHeader { proof, ..header }).unwrap();
    writer.push(&leaf, None).unwrap();
    assert!(matches!(writer.finish(), Err(BundleError::Root { .. })));
}

#[test]
fn large_events_and_many_blocks() {
    let mut rng = seeded();
    let sizes = [EVENT_BYTES_MAX, 0, 1, EVENT_BYTES_MAX, EVENT_BYTES_MAX, EVENT_BYTES_MAX - 1, 5];
    let records: Vec<(Leaf, Salt, Vec<u8>)> = sizes
        .iter()
        .enumerate()
        .map(|(n, size)| {
            let mut event = vec![0; *size];
            rng.fill(&mut event[..]);
            let salt = Salt(rng.random());
            let commitment = commit(&salt, &event);
            (
                Leaf { event_size: *size as u32, commitment, ..super::record(n as u64).0 },
                salt,
                event,
            )
        })
        .collect();
    let hashes = records.iter().map(|(leaf, ..)| leaf_hash(&leaf.encode())).collect();
    let trail = Trail { records, hashes };
    let bytes = trail.bundle(0, 7, 7);
    let verified = verify(&bytes, &[]).unwrap();
    // The last one is withheld.
    let expected: usize = sizes[..6].iter().sum();
    assert_eq!((verified.event_bytes, verified.withheld), (expected as u64, 1));
}

#[test]
fn messages_are_for_people() {
    let trail = Trail::new(10);
    let mut bytes = trail.bundle(2, 6, 10);
    let offsets = offsets(&trail, header_size(&bytes, &trail, 2, 6), 2, 6);
    bytes[offsets[1] + HEAD] ^= 1;
    let message = verify(&bytes, &[]).unwrap_err().to_string();
    assert!(
        message.starts_with("leaf 3: the event or its salt was changed: commitment "),
        "{message}"
    );
    let unknown = verify(&trail.bundle(5, 10, 10), &[trail.checkpoint(3)]).unwrap_err().to_string();
    assert_eq!(
        unknown,
        "the bundle holds leaves 5..10 and no proof from size 3; hint: export from leaf 0, or with a proof from that size"
    );
}
