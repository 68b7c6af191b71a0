//! Derived files that are behind, ahead, deleted, cut or garbage: nothing is lost, and the root is
//! the same.
//!
//! And files that were changed by a byte: the check finds it, and a ledger opened on it returns
//! right bytes or an error.

use std::fs;
use std::path::{Path, PathBuf};

use super::rules::verify_all;
use super::trail::{EVERY_ENTRY, NEVER, TRAIL, Trail, open, producer, scratch_dir, try_open_log};
use crate::storage::check::check;
use crate::storage::ledger::{CommitPolicy, Ledger, StoredRecord};

/// A few entries of every kind, two producers, a rejected record.
pub(crate) fn sample(policy: CommitPolicy) -> Trail {
    let mut trail = Trail::started(policy);
    let (a, b) = (producer('a'), producer('b'));
    trail.blank().expect("apply");
    trail.open(a).expect("open a");
    trail.events(a, 1..=3).expect("apply");
    trail.open(b).expect("open b");
    let mixed = [trail.event(b, 1), trail.event(a, 3), trail.event(a, 4), trail.event(b, 2)];
    trail.batch(&mixed).expect("apply");
    trail.membership(&[1, 2, 4]).expect("apply");
    trail.open(a).expect("open a again");
    trail.events(a, 5..=9).expect("apply");
    trail.events(b, 3..=8).expect("apply");
    trail.blank().expect("apply");
    assert!(trail.log.sizes().segments > 1, "a segment is full");
    trail
}

fn records(ledger: &Ledger) -> Vec<StoredRecord> {
    ledger.records(0..u64::MAX, usize::MAX, usize::MAX).expect("records")
}

fn assert_sound(dir: &Path) {
    let scratch = scratch_dir();
    let report = check(dir, Some(scratch.path())).expect("the check reads everything");
    assert!(report.is_sound(), "{:#?}", report);
    assert_eq!(fs::read_dir(scratch.path()).expect("list").count(), 0, "nothing is left over");
}

fn remove(path: PathBuf) {
    if path.is_dir() {
        fs::remove_dir_all(path).expect("remove");
    } else {
        fs::remove_file(path).expect("remove");
    }
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let files = crate::disk::files_below(dir).expect("list");
    files.into_iter().map(|file| dir.join(file.name)).collect()
}

/// Restarts with `change` done to the files: closed first, or as after a crash.
fn survives(name: &str, change: impl Fn(&Path)) {
    for (policy, closed) in [(EVERY_ENTRY, true), (EVERY_ENTRY, false), (NEVER, false)] {
        let trail = sample(policy);
        let (root, size, all) = (trail.root(), trail.size(), records(&trail.ledger));
        let state = trail.ledger.producer(&producer('a'));
        let runs = trail.ledger.runs(&producer('a'), 1..100).expect("runs");
        let trail = match closed {
            true => trail.restart(&change),
            false => trail.restart_dropped(&change),
        };
        let mut trail = trail.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((trail.root(), trail.size()), (root, size), "{name}");
        assert_eq!(records(&trail.ledger), all, "{name}");
        assert_eq!(trail.ledger.producer(&producer('a')), state, "{name}");
        assert_eq!(trail.ledger.runs(&producer('a'), 1..100).expect("runs"), runs, "{name}");
        trail.events(producer('a'), 10..=10).expect("the trail goes on");
        verify_all(&trail);
        let dir = trail.close();
        assert_sound(dir.path());
    }
}

#[test]
fn untouched() {
    survives("untouched", |_| {});
}

#[test]
fn deleted() {
    for name in ["derived", "derived/tree", "derived/index", "derived/tree/00", "derived/tree/03"] {
        survives(name, |dir| {
            // Never committed: it is not there.
            if dir.join(name).exists() {
                remove(dir.join(name));
            }
        });
    }
    survives("derived/index/conf", |dir| remove(dir.join("derived/index/conf")));
    survives("derived/index/db", |dir| remove(dir.join("derived/index/db")));
}

#[test]
fn garbage() {
    let fill = |path: PathBuf| {
        let length = fs::metadata(&path).expect("stat").len() as usize;
        fs::write(&path, vec![0xA5; length + 7]).expect("write");
    };
    for part in ["derived/tree", "derived/index"] {
        survives(part, |dir| files_below(&dir.join(part)).into_iter().for_each(fill));
    }
    survives("a file too many", |dir| {
        fs::write(dir.join("derived/tree/17"), [1; 100]).expect("write");
    });
}

/// Tree files cut at every byte.
#[test]
fn tree_files_cut() {
    let trail = sample(EVERY_ENTRY);
    let (root, all) = (trail.root(), records(&trail.ledger));
    let dir = trail.close();
    let tree = dir.path().join("derived/tree");
    for path in files_below(&tree) {
        let bytes = fs::read(&path).expect("read");
        for length in 0..bytes.len() {
            fs::write(&path, &bytes[..length]).expect("cut");
            let (log, ledger) = open(dir.path(), NEVER).expect("open");
            assert_eq!(ledger.head().borrow().root, root, "{} cut at {length}", path.display());
            if length % 32 == 0 {
                assert_eq!(records(&ledger), all);
            }
            ledger.close();
            log.close();
            assert_eq!(fs::read(&path).expect("read"), bytes, "the file is as before");
        }
    }
}

/// Sled's files cut at some bytes, garbage from there on, or zeros.
#[test]
fn index_files_cut() {
    let trail = sample(EVERY_ENTRY);
    let (root, all) = (trail.root(), records(&trail.ledger));
    let dir = trail.close();
    let index = dir.path().join("derived/index");
    for path in files_below(&index) {
        let length = fs::metadata(&path).expect("stat").len() as usize;
        for step in 0..6 {
            let bytes = fs::read(&path).unwrap_or_default();
            let at = (length * step / 6).min(bytes.len());
            for fill in [None, Some(0), Some(0xFF)] {
                let mut changed = bytes[..at].to_vec();
                if let Some(fill) = fill {
                    changed.resize(bytes.len(), fill);
                }
                fs::write(&path, changed).expect("write");
                let (log, ledger) = open(dir.path(), EVERY_ENTRY).expect("open");
                assert_eq!(ledger.head().borrow().root, root, "{} at {at}", path.display());
                assert_eq!(records(&ledger), all);
                ledger.close();
                log.close();
            }
        }
    }
    assert_sound(dir.path());
}

/// An index of a longer log than the one that is there: an operator has restored an old copy of the
/// segments.
#[test]
fn index_ahead_of_the_log() {
    let mut trail = sample(EVERY_ENTRY);
    let older = scratch_dir();
    trail.log.close();
    trail = trail.reopen().expect("reopen");
    let (root, size) = (trail.root(), trail.size());
    let dir = {
        trail.ledger.close();
        trail.log.close();
        copy(trail.path(), older.path());
        trail.reopen().expect("reopen")
    };
    let mut trail = dir;
    trail.events(producer('a'), 10..=12).expect("apply");
    let longer = trail.close();
    remove(older.path().join("derived"));
    copy(&longer.path().join("derived"), &older.path().join("derived"));
    let (log, ledger) = open(older.path(), EVERY_ENTRY).expect("open");
    assert_eq!((ledger.head().borrow().root, ledger.head().borrow().tree_size), (root, size));
    ledger.close();
    log.close();
    assert_sound(older.path());
}

/// An index of another log that is as long as this one: the chain tells them apart.
#[test]
fn index_of_another_log() {
    let [mut ours, mut theirs] = [sample(EVERY_ENTRY), sample(EVERY_ENTRY)];
    ours.events(producer('a'), 10..=10).expect("apply");
    theirs.term += 1;
    theirs.events(producer('a'), 10..=10).expect("apply");
    // Leadership records name the chain before them, so that the trees differ too.
    ours.blank().expect("apply");
    theirs.blank().expect("apply");
    let (root, all) = (ours.root(), records(&ours.ledger));
    assert_ne!(root, theirs.root());
    let theirs = theirs.close();
    let ours = ours
        .restart(|dir| {
            remove(dir.join("derived"));
            copy(&theirs.path().join("derived"), &dir.join("derived"));
        })
        .expect("open");
    assert_eq!((ours.root(), records(&ours.ledger)), (root, all));
    assert_sound(ours.close().path());
}

/// Killed before the first commit: there is an index without rows, and that is no damage.
#[test]
fn nothing_committed() {
    let trail = sample(NEVER);
    let (root, path) = (trail.root(), trail.derived());
    fs::write(path.join("index/marker"), "of the old index").expect("write");
    let trail = trail.crash().expect("open");
    assert_eq!(trail.root(), root);
    assert!(trail.derived().join("index/marker").exists(), "the index was kept");
}

/// Openings that never came to an end: the derived state is what kills the process.
#[test]
fn a_deadly_index_is_thrown_away() {
    let trail = sample(EVERY_ENTRY);
    let (root, path) = (trail.root(), trail.derived());
    let trail = trail
        .restart(|_| {
            fs::write(path.join("opening"), "..").expect("write");
            fs::write(path.join("index/marker"), "of the old index").expect("write");
        })
        .expect("open");
    assert_eq!(trail.root(), root);
    assert!(!trail.derived().join("index/marker").exists());
    assert!(!trail.derived().join("opening").exists());
}

fn copy(from: &Path, to: &Path) {
    for file in files_below(from) {
        let target = to.join(file.strip_prefix(from).expect("it is below"));
        fs::create_dir_all(target.parent().expect("it has one")).expect("create");
        fs::copy(&file, &target).expect("copy");
    }
}

/// Every byte of every file, flipped one at a time.
#[test]
fn every_byte_counts() {
    let dir = sample(EVERY_ENTRY).close();
    assert_sound(dir.path());
    let mut flipped = 0;
    for path in files_below(dir.path()) {
        let sound = fs::read(&path).expect("read");
        let mut bytes = sound.clone();
        for position in 0..bytes.len() {
            bytes[position] ^= 1 << (position % 8);
            fs::write(&path, &bytes).expect("write");
            bytes[position] = sound[position];
            // Without opening the index: its manifest must be enough, as sled does not read all
            // that it has written.
            let report = check(dir.path(), None);
            let found = report.as_ref().map_or(true, |report| !report.is_sound());
            assert!(found, "byte {position} of {} was flipped", path.display());
            flipped += 1;
        }
        fs::write(&path, &sound).expect("write");
    }
    assert_sound(dir.path());
    assert!(flipped > 30_000, "{flipped} bytes were flipped");
}

/// Bytes flipped before a start: what the ledger returns is right, or an error. Not every byte, as
/// a start takes its time.
#[test]
fn no_flipped_byte_is_served() {
    const STEP: usize = 13;
    let trail = sample(EVERY_ENTRY);
    let (root, all) = (trail.root(), records(&trail.ledger));
    let sound = trail.close();
    let (mut served, mut refused) = (0, 0);
    for (number, path) in files_below(sound.path()).into_iter().enumerate() {
        let name = path.strip_prefix(sound.path()).expect("it is below");
        if !name.starts_with("segments") && !name.starts_with("derived") {
            continue;
        }
        let bytes = fs::read(&path).expect("read");
        for position in (number % STEP..bytes.len()).step_by(STEP) {
            let dir = scratch_dir();
            copy(sound.path(), dir.path());
            let mut bytes = bytes.clone();
            bytes[position] ^= 1 << (position % 8);
            fs::write(dir.path().join(name), bytes).expect("write");
            match served_by(dir.path()) {
                None => refused += 1,
                Some((size_and_root, records)) => {
                    assert_eq!(size_and_root, (all.len() as u64, root), "{name:?} {position}");
                    for (record, expected) in records.iter().zip(&all) {
                        match record {
                            Some(record) => assert_eq!(record, expected, "{name:?} {position}"),
                            None => refused += 1,
                        }
                    }
                    served += 1;
                }
            }
        }
    }
    assert!(served > 100 && refused > 100, "{served} starts, {refused} refusals");
}

type Served = ((u64, indelible_core::Hash), Vec<Option<StoredRecord>>);

/// All records that a node on this directory serves; none if it does not start.
fn served_by(dir: &Path) -> Option<Served> {
    let log = try_open_log(dir)?;
    let ledger = Ledger::open_with(log.clone(), dir, TRAIL, NEVER);
    let served = ledger.ok().map(|ledger| {
        let head = *ledger.head().borrow();
        let records = (0..head.tree_size).map(|leaf| ledger.record(leaf).unwrap_or(None));
        ((head.tree_size, head.root), records.collect())
    });
    log.close();
    served
}
