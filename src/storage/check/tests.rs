//! The offline check finds damage, says where it is, and changes nothing.
//!
//! That it finds every flipped byte is in `ledger::tests::damage`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use bytes::Bytes;
use indelible_core::{Entry, EntryId, ProducerId};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

use super::{Report, check};
use crate::disk::files_below;
use crate::storage::frame::{self, FRAME_HEADER_SIZE, FrameHeader, Location};
use crate::storage::index::{Changes, Index, Loaded};
use crate::storage::ledger::tests::damage::sample;
use crate::storage::ledger::tests::trail::{EVERY_ENTRY, NEVER, Trail, open, scratch_dir};
use crate::storage::ledger::{CommitPolicy, LedgerError};
use crate::storage::rows::{ProducerRow, Run, StateRow};
use crate::storage::segment;

/// A closed node's directory.
fn closed() -> TempDir {
    sample(EVERY_ENTRY).close()
}

/// A directory as a crash leaves it: without a manifest.
fn crashed(policy: CommitPolicy) -> TempDir {
    let trail = sample(policy);
    let Trail { dir, log, ledger, .. } = trail;
    drop(ledger);
    log.close();
    dir
}

fn report(dir: &Path) -> Report {
    let scratch = scratch_dir();
    check(dir, Some(scratch.path())).expect("the check reads everything")
}

fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = files_below(dir).expect("list").into_iter();
    files
        .map(|file| (fs::read(dir.join(&file.name)).expect("read"), file))
        .map(|(b, f)| (f.name, b))
        .collect()
}

/// Frames of a segment file: where, and what.
fn frames(path: &Path, segment: u64) -> Vec<(Location, Entry, FrameHeader)> {
    let bytes = Bytes::from(fs::read(path).expect("read"));
    let mut frames = Vec::new();
    let mut offset = segment::FRAMES_START;
    loop {
        let location = Location { segment, offset };
        let Ok((entry, header)) = frame::decode(&bytes.slice(offset as usize..), location) else {
            return frames;
        };
        offset += header.frame_size();
        frames.push((location, entry, header));
    }
}

/// Changes an entry in its file and gives it the checksums that fit.
fn forge(dir: &Path, index: u64, change: impl FnOnce(&mut Vec<u8>, &mut Vec<u8>)) {
    let path = dir.join("segments").join(segment::file_name(0));
    let (location, entry, header) = frames(&path, 0)
        .into_iter()
        .find(|(_, entry, _)| entry.id.index == index)
        .expect("the entry is in the first segment");
    let (mut head, mut body) = (entry.head.to_vec(), entry.body.to_vec());
    change(&mut head, &mut body);
    let forged = Entry { head: head.clone().into(), body: body.clone().into(), ..entry };
    let header = FrameHeader::new(&forged, header.chain, location).encode(location);
    let mut bytes = fs::read(&path).expect("read");
    let start = location.offset as usize;
    bytes[start..start + FRAME_HEADER_SIZE].copy_from_slice(&header);
    let payload = start + FRAME_HEADER_SIZE;
    bytes[payload..payload + head.len()].copy_from_slice(&head);
    bytes[payload + head.len()..payload + head.len() + body.len()].copy_from_slice(&body);
    fs::write(&path, bytes).expect("write");
}

#[test]
fn a_sound_directory() {
    let trail = sample(EVERY_ENTRY);
    let applied = trail.ledger.applied().expect("entries were applied");
    let segments = trail.log.sizes().segments as u64;
    let dir = trail.close();
    let report = report(dir.path());
    assert!(report.is_sound() && report.closed && report.notes.is_empty(), "{report:#?}");
    assert_eq!((report.leaves, report.root), (applied.tree_size, applied.root));
    assert_eq!((report.entries, report.applied), (applied.id.index + 1, applied.id.index + 1));
    assert_eq!((report.chain, report.segments), (applied.chain, segments));
}

#[test]
fn a_crash_is_no_damage() {
    for policy in [EVERY_ENTRY, NEVER] {
        let report = report(crashed(policy).path());
        assert!(report.is_sound() && !report.closed, "{report:#?}");
    }
}

#[test]
fn nothing_is_changed() {
    for dir in [closed(), crashed(EVERY_ENTRY)] {
        let before = contents(dir.path());
        report(dir.path());
        assert!(contents(dir.path()) == before, "a sound directory was changed");
        fs::write(dir.path().join("derived/tree/00"), "garbage").expect("write");
        let before = contents(dir.path());
        assert!(!report(dir.path()).is_sound());
        assert!(contents(dir.path()) == before, "a damaged directory was changed");
    }
}

/// One bad frame hides no other, and the report names both.
#[test]
fn damaged_frames_are_stepped_over() {
    let dir = closed();
    let path = dir.path().join("segments").join(segment::file_name(0));
    let sound = report(dir.path());
    let mut bytes = fs::read(&path).expect("read");
    for (location, entry, header) in frames(&path, 0) {
        if [3, 5].contains(&entry.id.index) {
            bytes[location.offset as usize + header.body_offset()] ^= 1;
        }
    }
    fs::write(&path, bytes).expect("write");
    let report = report(dir.path());
    let named: Vec<_> = report.problems.iter().map(|problem| problem.entries.clone()).collect();
    assert_eq!(named, [Some(3..=3), Some(5..=5)]);
    assert!(report.problems.iter().all(|problem| problem.file == path));
    assert_eq!(report.entries, sound.entries - 2);
    assert_eq!((report.applied, report.notes.len()), (3, 1));
    assert_eq!(report.chain, sound.chain, "the chain is in the headers");
}

/// Somebody who knows the format changes an event.
#[test]
fn a_forged_event_does_not_fit_its_leaf() {
    let dir = closed();
    forge(dir.path(), 3, |_, body| *body.last_mut().expect("it has events") ^= 1);
    let report = report(dir.path());
    assert_eq!(report.problems.len(), 1, "{report:#?}");
    assert_eq!(report.problems[0].entries, Some(3..=3));
    assert!(report.problems[0].what.contains("commitment"), "{}", report.problems[0]);
    // And the ledger does not serve it, but for the records that are as they were.
    let (log, ledger) = open(dir.path(), EVERY_ENTRY).expect("open");
    assert!(ledger.record(3).is_ok_and(|record| record.is_some()));
    let forged = ledger.record(5);
    assert!(matches!(forged, Err(LedgerError::Damaged { leaf: 5, .. })), "{forged:?}");
    drop(ledger);
    log.close();
}

/// Somebody changes a leaf as well: then neither chain nor tree fit.
#[test]
fn a_forged_leaf_fits_neither_chain_nor_tree() {
    let dir = closed();
    forge(dir.path(), 3, |head, body| {
        // The received time of the last leaf.
        let leaf = head.len() - 64;
        head[leaf + 8] ^= 1;
        let _ = body;
    });
    let report = report(dir.path());
    let what: Vec<_> = report.problems.iter().map(|problem| problem.what.as_str()).collect();
    assert!(what.iter().any(|what| what.contains("the chain does not lead")), "{report:#?}");
    assert!(what.iter().any(|what| what.contains("not that of the leaves below")), "{report:#?}");
    let (log, ledger) = open(dir.path(), EVERY_ENTRY).expect("open");
    let forged = ledger.record(5);
    assert!(matches!(forged, Err(LedgerError::Damaged { leaf: 5, .. })), "{forged:?}");
    drop(ledger);
    log.close();
}

#[test]
fn a_segment_is_missing() {
    for number in [0, 1] {
        let dir = closed();
        let segments = dir.path().join("segments");
        let names = files_below(&segments).expect("list");
        fs::remove_file(segments.join(&names[number].name)).expect("remove");
        let report = report(dir.path());
        assert!(!report.is_sound());
        assert!(report.problems.iter().any(|problem| problem.entries.is_some()), "{report:#?}");
    }
}

/// A crash in the middle of a write leaves a part of a frame.
#[test]
fn a_torn_tail_is_a_note() {
    let dir = crashed(EVERY_ENTRY);
    let segments = dir.path().join("segments");
    let last = files_below(&segments).expect("list");
    let last = last.iter().rfind(|file| segment::parse_file_name(&file.name).is_some());
    let last = last.expect("there is a segment").name.clone();
    let first = segment::parse_file_name(&last).expect("it is one");
    let path = segments.join(last);
    let (location, entry, header) = frames(&path, first).pop().expect("it has entries");
    let end = location.offset + header.frame_size();
    let next = Location { offset: end, ..location };
    let id = EntryId { index: entry.id.index + 1, ..entry.id };
    let torn = FrameHeader::new(&Entry { id, ..entry }, header.chain, next).encode(next);
    let mut bytes = fs::read(&path).expect("read");
    bytes.truncate(end as usize);
    bytes.extend_from_slice(&torn[..50]);
    fs::write(&path, bytes).expect("write");
    let report = report(dir.path());
    assert!(report.is_sound() && report.notes.len() == 1, "{report:#?}");
}

/// Rows that sled takes for sound, and the trail does not give.
#[test]
fn index_rows_are_compared() {
    type Forgery = fn(&Index, &Loaded, &mut Changes);
    let forgeries: [(&str, Forgery); 9] = [
        ("the entry's row is not", |index, _, changes| {
            let mut block = index.blocks().nth(3).expect("a block").expect("rows");
            block[0].location.offset += 8;
            changes.block(&block);
        }),
        ("the entry has no row", |_, loaded, changes| {
            let id = EntryId { index: loaded.state.id.index - 1, ..loaded.state.id };
            changes.state(&StateRow { id, ..loaded.state });
        }),
        ("its state is", |_, loaded, changes| {
            changes.state(&StateRow { max_node_id: 77, ..loaded.state });
        }),
        ("its membership is not", |_, loaded, changes| {
            changes.membership(loaded.membership.0, b"another");
        }),
        ("its openings are not", |_, loaded, changes| {
            changes.opening(3, &loaded.producers[0].0);
        }),
        ("is not where the trail has it", |_, loaded, changes| {
            let (id, row) = &loaded.producers[0];
            changes.producer(id, &ProducerRow { epoch: 9, ..row.clone() });
        }),
        ("it has 3 producers", |_, loaded, changes| {
            changes.producer(&ProducerId([9; 16]), &loaded.producers[0].1);
        }),
        ("runs of producer", |_, loaded, changes| {
            let (id, row) = &loaded.producers[0];
            let mut row = row.clone();
            row.runs[0].first_leaf += 1;
            changes.producer(id, &row);
        }),
        ("rows, ", |_, _, changes| {
            changes.runs(99, 1, &[Run { first_leaf: 3, count: 1 }]);
        }),
    ];
    for (what, forge) in forgeries {
        let dir = crashed(EVERY_ENTRY);
        let path = dir.path().join("derived/index");
        let index = Index::open(&path).expect("open");
        let loaded = index.load().expect("load").expect("it has rows");
        let mut changes = Changes::default();
        forge(&index, &loaded, &mut changes);
        index.apply(changes).expect("apply");
        index.flush().expect("flush");
        index.close(&path).expect("close");
        let report = report(dir.path());
        let found = report.problems.iter().any(|problem| problem.what.contains(what));
        // A row that loading alone refuses is found just as well.
        let refused = report.problems.iter().any(|problem| problem.what.contains("is damaged"));
        assert!(found || (refused && what.contains("no row")), "{what}: {report:#?}");
    }
}

/// Whatever is in the files: a report, or an error of reading.
#[test]
fn garbage_gives_a_report() {
    let seed = std::env::var("INDELIBLE_SEED")
        .map_or_else(|_| rand::random(), |seed| seed.parse().expect("a number"));
    println!("INDELIBLE_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let dirs = [closed(), crashed(EVERY_ENTRY)];
    for round in 0..200 {
        let dir = dirs[round % 2].path();
        let mut files = files_below(dir).expect("list");
        files.retain(|file| file.name != "LOCK");
        let path = dir.join(&files[rng.random_range(0..files.len())].name);
        let sound = fs::read(&path).expect("read");
        let mut bytes = sound.clone();
        for _ in 0..rng.random_range(1..5) {
            let at = rng.random_range(0..bytes.len() + 1);
            match rng.random_range(0..4) {
                0 => bytes.truncate(at),
                1 => bytes[at..].iter_mut().take(8).for_each(|byte| *byte = rng.random()),
                2 => bytes[at..].fill(0xFF),
                _ => bytes.extend_from_slice(&[7; 40]),
            }
        }
        fs::write(&path, &bytes).expect("write");
        let scratch = scratch_dir();
        let report = check(dir, Some(scratch.path()));
        let silent = report.is_ok_and(|report| report.is_sound());
        // After a crash, what follows the last commit or was never read does not count; zeros after
        // the last entry never do.
        let counts = round % 2 == 0 && trimmed(&bytes) != trimmed(&sound);
        assert!(!(counts && silent), "{}", path.display());
        fs::write(&path, sound).expect("write");
    }
}

fn trimmed(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    &bytes[..end]
}
