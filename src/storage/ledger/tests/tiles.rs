//! Tiles, bundles, lone records and the list of memberships: right, or an error.

use std::os::unix::fs::FileExt;
use std::path::Path;

use indelible_core::leaf::leaf_hash;
use indelible_core::merkle::{Frontier, node_hash};
use indelible_core::{Hash, Kind, Leaf};

use super::trail::{EVERY_ENTRY, NEVER, Trail, producer};
use crate::storage::ledger::{CommitPolicy, Ledger, LedgerError, StoredRecord};

/// Enough leaves for two full tiles and a part of one, in entries large and small.
fn sample(policy: CommitPolicy) -> Trail {
    let mut trail = Trail::started(policy);
    let a = producer('a');
    trail.open(a).expect("open a");
    trail.events(a, 1..=300).expect("apply");
    trail.membership(&[1, 2, 4]).expect("apply");
    for seq in 301..=420 {
        trail.events(a, seq..=seq).expect("apply");
    }
    trail.blank().expect("apply");
    trail.events(a, 421..=580).expect("apply");
    trail.membership(&[1, 2, 4, 5, 6]).expect("apply");
    trail
}

fn all(ledger: &Ledger) -> Vec<StoredRecord> {
    ledger.records(0..u64::MAX, usize::MAX, usize::MAX).expect("records")
}

/// The hash of complete node `(level, index)`, from the leaves.
fn node(leaves: &[Hash], level: u8, index: usize) -> Hash {
    match level {
        0 => leaves[index],
        _ => {
            node_hash(&node(leaves, level - 1, 2 * index), &node(leaves, level - 1, 2 * index + 1))
        }
    }
}

/// Every tile of every width at some sizes has the hashes that the leaves give, and there are no
/// others.
#[test]
fn tiles_and_bundles_are_those_of_the_leaves() {
    for policy in [EVERY_ENTRY, NEVER] {
        let trail = sample(policy);
        let records = all(&trail.ledger);
        let hashes: Vec<Hash> = records.iter().map(|record| leaf_hash(&record.leaf)).collect();
        for size in [1, 2, 255, 256, 257, 300, 511, 512, 513, trail.size()] {
            let root = trail.ledger.root_at(size).expect("root");
            let mut frontier = Frontier::new();
            hashes[..size as usize].iter().for_each(|hash| frontier.append(*hash));
            assert_eq!(frontier.root(), root);
            for (level, index) in [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (2, 0)] {
                let there = (size >> (8 * level)).saturating_sub(256 * index).min(256) as u16;
                for width in [1, 2, 3, 100, there.saturating_sub(1), there, there + 1, 256] {
                    let tile = (level as u8, index, width);
                    let read = trail.ledger.tile(tile, size, &root).expect("the tile is whole");
                    assert_eq!(read.is_some(), 0 < width && width <= there, "{tile:?} of {size}");
                    for (position, hash) in read.iter().flatten().enumerate() {
                        let index = 256 * index as usize + position;
                        assert_eq!(*hash, node(&hashes, 8 * level as u8, index), "{tile:?}");
                    }
                    if level == 0 {
                        let leaves = trail.ledger.leaves(index, width, size, &root).expect("whole");
                        assert_eq!(leaves.is_some(), read.is_some());
                        for (leaf, record) in
                            leaves.iter().flatten().zip(records.iter().skip(256 * index as usize))
                        {
                            assert_eq!(*leaf, record.leaf);
                        }
                    }
                }
            }
        }
        for tile in [(8, 0, 1), (63, 0, 1), (255, 0, 1), (0, u64::MAX, 1), (0, 0, 257), (0, 0, 0)] {
            let root = trail.root();
            assert_eq!(trail.ledger.tile(tile, trail.size(), &root).expect("no tile"), None);
        }
    }
}

/// Flips a bit in place, for a ledger that has the file open.
fn flip(path: &Path, position: u64) {
    let file = std::fs::File::options().read(true).write(true).open(path).expect("open");
    let mut byte = [0];
    file.read_exact_at(&mut byte, position).expect("read");
    byte[0] ^= 1 << (position % 8);
    file.write_all_at(&byte, position).expect("write");
}

/// Damage in a tree file while the node runs: tiles, roots and proofs are those of before, or an
/// error.
#[test]
fn no_damaged_node_is_served() {
    let trail = sample(EVERY_ENTRY);
    let (ledger, size) = (&trail.ledger, trail.size());
    let sizes = [255, 256, 300, 577, size];
    let tiles = [(0, 0, 256), (0, 1, 256), (0, 2, 1), (0, 2, 70), (1, 0, 1), (1, 0, 2)];
    let ask = || -> Vec<Result<Vec<Hash>, LedgerError>> {
        let roots = sizes.iter().map(|size| ledger.root_at(*size).map(|root| vec![root]));
        let proofs = sizes.iter().map(|size| ledger.prove(100, *size));
        let consistency = sizes.iter().map(|old| ledger.prove_consistency(*old, size));
        let root = trail.root();
        let tiles =
            tiles.iter().map(|tile| Ok(ledger.tile(*tile, size, &root)?.expect("the tree has it")));
        roots.chain(proofs).chain(consistency).chain(tiles).collect()
    };
    let whole: Vec<_> =
        ask().into_iter().map(|answer| answer.expect("nothing is damaged")).collect();
    let (mut served, mut refused) = (0, vec![0; whole.len()]);
    for level in 0..=9 {
        let path = trail.derived().join(format!("tree/{level:02}"));
        let length = std::fs::metadata(&path).expect("stat").len();
        for position in (0..length).step_by(if level < 2 { 97 } else { 29 }) {
            flip(&path, position);
            for (number, (answer, expected)) in ask().into_iter().zip(&whole).enumerate() {
                match answer {
                    Ok(answer) => {
                        assert_eq!(answer, *expected, "level {level}, byte {position}, {number}");
                        served += 1;
                    }
                    Err(LedgerError::Damaged { .. }) => refused[number] += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            flip(&path, position);
        }
    }
    // The head's own root is in memory.
    let untouched: Vec<_> = (0..whole.len()).filter(|number| refused[*number] == 0).collect();
    assert_eq!(untouched, [4, 14], "whatever reads a node notices");
    assert!(served > 100, "{served}");
}

/// Proofs of stretches of records against every later size, whole and with a damaged node.
#[test]
fn records_are_proved_against_the_root_that_was_named() {
    let trail = sample(EVERY_ENTRY);
    let (ledger, records, size) = (&trail.ledger, all(&trail.ledger), trail.size());
    let prove = |from: u64, to: u64, size: u64, root: &Hash| {
        ledger.prove_records(&records[from as usize..to as usize], size, root)
    };
    for (from, to) in [(0, 1), (3, 7), (255, 258), (256, 512), (500, size), (0, size)] {
        for size in [to, to.next_multiple_of(8).min(size), size] {
            let root = ledger.root_at(size).expect("root");
            let proof = prove(from, to, size, &root).expect("it is provable");
            assert_eq!((proof.from, proof.to, proof.size), (from, to, size));
            let hashes = records[from as usize..to as usize].iter();
            assert_eq!(proof.root(hashes.map(|record| leaf_hash(&record.leaf))), Ok(root));
            assert!(prove(from, to, size, &Hash([1; 32])).is_err(), "another tree's root");
        }
    }
    let past = ledger.prove_records(&records[10..20], 19, &trail.root());
    assert!(matches!(past, Err(LedgerError::OutOfRange { .. })), "{past:?}");
    let past = ledger.prove_records(&records[10..20], size + 1, &trail.root());
    assert!(matches!(past, Err(LedgerError::OutOfRange { .. })), "{past:?}");
    // Node 2 of level 5 covers leaves 64 to 95.
    flip(&trail.derived().join("tree/05"), 70);
    let damaged = prove(100, 110, size, &trail.root());
    assert!(matches!(damaged, Err(LedgerError::Damaged { .. })), "{damaged:?}");
}

/// A record alone is served if its own bytes are whole, whatever happened to its entry.
#[test]
fn a_record_does_not_depend_on_its_neighbours_bytes() {
    let trail = sample(NEVER).restart(|_| {}).expect("reopen");
    let records = all(&trail.ledger);
    let row = trail.ledger.rows_from(2).expect("rows").remove(0);
    assert_eq!((row.first_leaf, row.accepted), (2, 300));
    let path = trail.path().join(format!("segments/{:020}.seg", row.location.segment));
    let event = records[100].event.len() as u64;
    let body = row.location.offset + 96 + 16 + 64 * 300;
    let leaf = |leaf: u64| row.location.offset + 96 + 16 + 64 * (leaf - 2);
    let first: u64 = records[2..100].iter().map(|record| record.event.len() as u64).sum();
    let own = [leaf(100) + 40, body + 16 * 98, body + 16 * 300 + first, leaf(99) + 4];
    let others = [leaf(101) + 4, leaf(99) + 40, body, body + 16 * 300 + first + event];
    for (position, is_own) in own.map(|p| (p, true)).into_iter().chain(others.map(|p| (p, false))) {
        flip(&path, position);
        let alone = trail.ledger.record(100);
        match is_own {
            true => assert!(alone.is_err(), "{position}"),
            false => assert_eq!(alone.expect("its bytes are whole").as_ref(), Some(&records[100])),
        }
        assert!(trail.ledger.records(100..102, usize::MAX, 2).is_err(), "the entry is damaged");
        flip(&path, position);
    }
    assert_eq!(trail.ledger.record(100).expect("mended").as_ref(), Some(&records[100]));
}

/// The list of memberships grows with the trail, across commits and restarts.
#[test]
fn memberships_are_found() {
    for policy in [EVERY_ENTRY, NEVER] {
        let mut trail = sample(policy);
        for restarted in [false, true] {
            let expected: Vec<u64> = all(&trail.ledger)
                .iter()
                .filter(|record| {
                    Leaf::decode(&record.leaf).expect("a leaf").kind == Kind::Membership
                })
                .map(|record| record.index)
                .collect();
            assert_eq!(expected.len(), if restarted { 4 } else { 3 });
            let size = trail.size();
            assert_eq!(trail.ledger.key_records(1).expect("found"), [0]);
            assert_eq!(trail.ledger.key_records(size).expect("found"), expected);
            assert_eq!(
                trail.ledger.key_records(size - 1).expect("found"),
                expected[..expected.len() - 1]
            );
            assert!(trail.ledger.key_records(size + 1).is_err());
            trail.blank().expect("apply");
            trail.ledger.commit_now().expect("commit");
            trail.membership(&[1, 2, 3]).expect("apply");
            let after = trail.ledger.key_records(trail.size()).expect("found");
            assert_eq!(after, [&expected[..], &[trail.size() - 1]].concat());
            if restarted {
                break;
            }
            trail = trail.restart(|_| {}).expect("reopen");
        }
    }
}
