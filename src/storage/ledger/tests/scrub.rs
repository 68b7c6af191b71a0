//! Tree files that are changed under a running ledger: the scrub puts every byte right.

use std::fs;
use std::path::PathBuf;

use super::damage::sample;
use super::trail::{EVERY_ENTRY, NEVER, Trail};
use crate::storage::ledger::LedgerError;

/// More leaves than the scrub looks at at a time.
const MANY: u64 = 5000;

fn tree_files(trail: &Trail) -> Vec<PathBuf> {
    let entries = fs::read_dir(trail.derived().join("tree")).expect("list");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("entry").path()).collect();
    files.sort();
    files
}

fn flip(path: &PathBuf, position: usize) {
    let mut bytes = fs::read(path).expect("read");
    bytes[position] ^= 1 << (position % 8);
    fs::write(path, bytes).expect("write");
}

/// A trail of many leaves, all of them in the files.
fn many() -> Trail {
    let mut trail = Trail::started(EVERY_ENTRY);
    let alice = super::trail::producer('a');
    trail.open(alice).expect("open");
    for first in (1..MANY).step_by(500) {
        trail.events(alice, first..=first + 499).expect("apply");
    }
    trail
}

#[test]
fn whole_files_are_left_alone() {
    let trail = sample(EVERY_ENTRY);
    let mut read = 0;
    assert_eq!(trail.ledger.scrub_tree(&mut |bytes| read += bytes).expect("scrub"), None);
    let on_disk: u64 =
        tree_files(&trail).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert_eq!(read as u64, on_disk);
    // Nothing is in the files yet.
    let trail = sample(NEVER);
    assert_eq!(trail.ledger.scrub_tree(&mut |_| {}).expect("scrub"), None);
}

#[test]
fn every_flipped_byte_is_put_right() {
    let trail = sample(EVERY_ENTRY);
    for (level, path) in tree_files(&trail).iter().enumerate() {
        let sound = fs::read(path).expect("read");
        for position in 0..sound.len() {
            flip(path, position);
            let mended = trail.ledger.scrub_tree(&mut |_| {}).expect("scrub").expect("it is found");
            let node = position as u64 / 32;
            assert_eq!(mended.nodes, 1);
            assert_eq!(mended.levels.iter().copied().collect::<Vec<_>>(), [level as u8]);
            assert_eq!(mended.leaves, node << level..(node + 1) << level);
            assert_eq!(fs::read(path).expect("read"), sound, "{} {position}", path.display());
        }
    }
}

#[test]
fn damage_all_over_a_large_tree_is_put_right() {
    let trail = many();
    let files = tree_files(&trail);
    let sound: Vec<Vec<u8>> = files.iter().map(|path| fs::read(path).expect("read")).collect();
    for (path, bytes) in files.iter().zip(&sound) {
        fs::write(path, vec![0; bytes.len()]).expect("write");
    }
    assert!(trail.ledger.record(MANY - 1).is_err());
    let mended = trail.ledger.scrub_tree(&mut |_| {}).expect("scrub").expect("it is found");
    assert_eq!(mended.nodes as usize, sound.iter().map(|bytes| bytes.len() / 32).sum::<usize>());
    for (path, bytes) in files.iter().zip(&sound) {
        assert!(fs::read(path).expect("read") == *bytes, "{}", path.display());
    }
    assert_eq!(trail.ledger.scrub_tree(&mut |_| {}).expect("scrub"), None);
    assert!(trail.ledger.record(MANY - 1).is_ok());
}

/// The clever attack: another leaf, and every node above it computed again.
#[test]
fn a_leaf_that_was_replaced_with_all_above_it_is_put_right() {
    let trail = many();
    let files = tree_files(&trail);
    let sound: Vec<Vec<u8>> = files.iter().map(|path| fs::read(path).expect("read")).collect();
    let mut frontier = indelible_core::merkle::Frontier::default();
    let mut forged = sound.clone();
    for (index, leaf) in sound[0].as_chunks::<32>().0.iter().enumerate() {
        let leaf = if index == 4321 { [7; 32] } else { *leaf };
        frontier.append_with(indelible_core::Hash(leaf), |level, index, hash| {
            let at = index as usize * 32;
            forged[usize::from(level)][at..at + 32].copy_from_slice(&hash.0);
        });
    }
    for (path, bytes) in files.iter().zip(&forged) {
        fs::write(path, bytes).expect("write");
    }
    let mended = trail.ledger.scrub_tree(&mut |_| {}).expect("scrub").expect("it is found");
    assert!(mended.leaves.contains(&4321), "{mended:?}");
    for (path, bytes) in files.iter().zip(&sound) {
        assert!(fs::read(path).expect("read") == *bytes, "{}", path.display());
    }
}

/// Then nothing is known to be right, and nothing is written.
#[test]
fn a_tree_whose_segments_are_damaged_too_is_left_as_it_is() {
    // Started again, so that no entry is in memory.
    let trail = sample(EVERY_ENTRY).reopen().expect("reopen");
    let segments = trail.path().join("segments");
    let first = fs::read_dir(segments).expect("list").map(|entry| entry.expect("entry").path());
    let first = first.min().expect("a segment");
    let bytes = fs::read(&first).expect("read");
    fs::write(&first, vec![0; bytes.len()]).expect("write");
    let leaves = &tree_files(&trail)[0];
    flip(leaves, 40);
    let damaged = fs::read(leaves).expect("read");
    let error = trail.ledger.scrub_tree(&mut |_| {}).expect_err("nobody knows what is right");
    assert!(matches!(error, LedgerError::Damaged { .. } | LedgerError::Log(_)), "{error}");
    assert_eq!(fs::read(leaves).expect("read"), damaged);
}
