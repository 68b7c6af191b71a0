//! Boots: crashes at each write of a start, and files of different ages (docs/adr/0011, rules 1 to
//! 5).

use std::path::Path;

use super::support::*;
use crate::disk::recorder::{Event, Op};
use crate::disk::replay::{Torn, Unsynced, rebuild};
use crate::storage::hard_state::HardStateFile;
use crate::storage::lineage::LINEAGE_FILES;
use crate::storage::log::open::Tuning;

/// A start that draws this number.
fn draws(number: u8) -> LogOptions {
    let boot = NewBoot { draw: Draw([number; 16]), ..options().boot };
    LogOptions { boot, sync: SyncPolicy::Never, ..options() }
}

/// The boots that a start came to, oldest first: the first byte of what each has drawn.
fn started(dir: &Path, draw: u8) -> Result<Vec<u8>, OpenError> {
    let (log, _) = Log::open(dir, draws(draw))?;
    let boots = log.lineage().draws().iter().map(|draw| draw.0[0]).collect();
    log.close();
    let copies = LINEAGE_FILES.map(|name| std::fs::read(dir.join(name)).unwrap());
    assert_eq!(copies[0], copies[1], "both copies are whole");
    let data = Dir::open(dir, false).unwrap();
    let bound = HardStateFile::open(&data).unwrap().value().bound.unwrap();
    assert_eq!(bound.boot, log.boot(), "hard_state names the boot that runs");
    Ok(boots)
}

/// What a start of a directory writes.
fn recorded(dir: &Path, draw: u8) -> Vec<Event> {
    let recorder = Recorder::new();
    let tuning = Tuning { recorder: Some(recorder.clone()), ..Tuning::default() };
    let (log, _) = Log::open_tuned(dir, draws(draw), tuning).unwrap();
    let events = recorder.events();
    log.close();
    events
}

/// A directory with so many starts behind it, and an entry of each.
fn started_often(starts: u8) -> tempfile::TempDir {
    let dir = temp_dir();
    for number in 1..=starts {
        let (log, _) = Log::open(dir.path(), draws(number)).unwrap();
        append(&log, vec![entry(u64::from(number) - 1, number.into(), 100)]);
        let vote = StoredVote { term: number.into(), node_id: 1, committed: true };
        wait(|done| log.save_vote(vote, done)).unwrap();
        log.close();
    }
    dir
}

fn copy(from: &Path, to: &Path, names: &[&str]) {
    for name in names {
        let (from, to) = (from.join(name), to.join(name));
        if from.is_dir() {
            let _ = std::fs::remove_dir_all(&to);
            crate::disk::Dir::create_all(&to).unwrap();
            for file in std::fs::read_dir(&from).unwrap() {
                let file = file.unwrap();
                std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
            }
        } else {
            std::fs::copy(from, to).unwrap();
        }
    }
}

const ALL: [&str; 5] = ["hard_state", "lineage", "lineage.copy", "synced", "segments"];

#[test]
fn a_crash_at_any_write_of_a_start_is_finished_by_the_next() {
    let mut states = 0;
    for starts in [0, 1, 3] {
        let before = started_often(starts);
        let running = temp_dir();
        if starts > 0 {
            copy(before.path(), running.path(), &ALL);
        }
        let events = recorded(running.path(), 100);
        let base = (starts > 0).then_some(before.path());
        let known: Vec<u8> = (1..=starts).collect();
        for count in 1..=events.len() {
            let run = &events[..count];
            let writes = match &run[count - 1].op {
                Op::Write { bytes, .. } => vec![None, Some(bytes.len() / 2), Some(3)],
                _ => vec![None],
            };
            for (data, names) in [
                (Unsynced::Kept, Unsynced::Kept),
                (Unsynced::Dropped, Unsynced::Kept),
                (Unsynced::Kept, Unsynced::Dropped),
                (Unsynced::Dropped, Unsynced::Dropped),
            ] {
                for cut in &writes {
                    let dir = temp_dir();
                    rebuild(base, run, data, names, cut.map(Torn::After), dir.path());
                    let what =
                        format!("{starts} starts, {count} writes, {data:?} {names:?} {cut:?}");
                    let boots = started(dir.path(), 101).unwrap_or_else(|e| panic!("{what}: {e}"));
                    // Either that start never was, or it is one of those before this one.
                    let never = [&known[..], &[101]].concat();
                    let finished = [&known[..], &[100, 101]].concat();
                    assert!(boots == never || boots == finished, "{what}: {boots:?}");
                    if count == events.len() && data == Unsynced::Kept {
                        assert_eq!(boots, finished, "{what}");
                    }
                    states += 1;
                }
            }
        }
    }
    println!("{states} crashes");
    assert!(states > 150, "{states}");
}

/// Both are started elsewhere at once: no boot is the boot of two disks.
#[test]
fn two_copies_of_a_crashed_start_do_not_finish_the_same_boot() {
    let dir = started_often(2);
    let cut_off = temp_dir();
    copy(dir.path(), cut_off.path(), &ALL);
    assert_eq!(started(dir.path(), 3).unwrap(), [1, 2, 3]);
    // hard_state is one boot ahead.
    copy(dir.path(), cut_off.path(), &["hard_state"]);
    let other = temp_dir();
    copy(cut_off.path(), other.path(), &ALL);
    assert_eq!(started(cut_off.path(), 4).unwrap(), [1, 2, 3, 4]);
    assert_eq!(started(other.path(), 5).unwrap(), [1, 2, 3, 5]);
}

/// One file at a time is put back as it was at an earlier start, or is deleted.
#[test]
fn files_of_different_ages_are_refused_or_made_anew() {
    enum Is {
        Refused,
        Damaged,
        Started,
    }
    use Is::{Damaged, Refused, Started};
    // Files, how many starts old they are (none: deleted), and what a start makes of it.
    let table: &[(&[&str], Option<u8>, Is)] = &[
        (&["hard_state"], None, Refused),
        (&["hard_state"], Some(1), Refused),
        (&["hard_state"], Some(2), Refused),
        (&["lineage"], None, Started),
        (&["lineage"], Some(1), Started),
        (&["lineage.copy"], None, Started),
        (&["lineage.copy"], Some(2), Started),
        (&["lineage", "lineage.copy"], None, Refused),
        // NB: what a crash of the newest start leaves as well. Nothing is forgotten by it.
        (&["lineage", "lineage.copy"], Some(1), Started),
        (&["lineage", "lineage.copy"], Some(2), Refused),
        (&["hard_state", "lineage", "lineage.copy"], None, Refused),
        (&["synced"], None, Damaged),
        (&["segments"], Some(1), Damaged),
        (&["segments", "synced"], Some(1), Damaged),
        (&["segments", "synced"], Some(2), Damaged),
        (&["segments", "synced"], None, Damaged),
    ];
    let newest = started_often(4);
    for (names, age, expected) in table {
        let dir = temp_dir();
        copy(newest.path(), dir.path(), &ALL);
        match age {
            Some(age) => copy(started_often(4 - age).path(), dir.path(), names),
            None => names.iter().for_each(|name| {
                let path = dir.path().join(name);
                std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir_all(&path)).unwrap();
            }),
        }
        let what = format!("{names:?}, {age:?} starts old");
        for _start in 0..3 {
            let result = started(dir.path(), 9);
            match (expected, result) {
                (Refused, Err(error)) => {
                    assert!(error.is_old_disk(), "{what}: {error}");
                    assert!(error.to_string().contains("hint: "), "{what}: {error}");
                }
                (Damaged, Err(OpenError::Corrupt { .. })) => {}
                (Started, Ok(boots)) => {
                    assert!(boots.starts_with(&[1, 2, 3, 4]), "{what}: {boots:?}")
                }
                (_, result) => panic!("{what}: {result:?}"),
            }
        }
    }
    // All of them together are a disk as it once was: only others can tell.
    assert_eq!(started(started_often(3).path(), 9).unwrap(), [1, 2, 3, 9]);
}

/// `hard_state` of this same boot is put back, with a vote of an earlier term.
#[test]
fn a_start_promises_what_synced_says_that_the_log_was_changed_under() {
    let dir = temp_dir();
    let (log, _) = Log::open(dir.path(), draws(1)).unwrap();
    let vote = |term, node_id| StoredVote { term, node_id, committed: true };
    wait(|done| log.save_vote(vote(1, 1), done)).unwrap();
    append(&log, vec![entry(0, 1, 100)]);
    let old = std::fs::read(dir.path().join("hard_state")).unwrap();
    wait(|done| log.save_vote(vote(2, 3), done)).unwrap();
    // An old entry of the new leader: the end of the log says nothing of its term.
    append(&log, vec![entry(1, 1, 100)]);
    log.close();
    std::fs::write(dir.path().join("hard_state"), &old).unwrap();
    let (log, recovered) = Log::open(dir.path(), draws(2)).unwrap();
    assert_eq!((recovered.vote, log.vote()), (Some(vote(2, 3)), Some(vote(2, 3))));
    log.close();
}

#[test]
fn the_end_of_the_log_is_named_with_each_vote_and_before_it_is_cut() {
    let dir = temp_dir();
    let (log, _) = Log::open(dir.path(), draws(1)).unwrap();
    let end = || {
        let data = Dir::open(dir.path(), false).unwrap();
        let end = HardStateFile::open(&data).unwrap().value().bound.unwrap().log_end;
        (end.entries, end.term, end.leader)
    };
    assert_eq!(end(), (0, 0, 0));
    append(&log, (0..3).map(|index| entry(index, 1, 100)).collect());
    assert_eq!(end(), (0, 0, 0), "an append costs nothing");
    let vote = StoredVote { term: 2, node_id: 1, committed: true };
    wait(|done| log.save_vote(vote, done)).unwrap();
    assert_eq!(end(), (3, 1, 2));
    wait(|done| log.truncate_after(Some(0), done).unwrap()).unwrap();
    assert_eq!(end(), (1, 1, 2));
    append(&log, vec![entry(1, 2, 100)]);
    wait(|done| log.save_vote(vote, done)).unwrap();
    assert_eq!(end(), (2, 2, 3));
    log.close();
    started(dir.path(), 2).unwrap();
}

/// What a start costs: not more than two fdatasyncs above the two of the hard state.
#[test]
fn a_start_syncs_two_more_files() {
    let dir = started_often(2);
    let events = recorded(dir.path(), 3);
    let synced = |prefix: &str| {
        let is_sync =
            |event: &&Event| matches!(event.op, Op::Sync) && event.name.starts_with(prefix);
        events.iter().filter(is_sync).count()
    };
    assert_eq!((synced("hard_state"), synced("lineage"), synced("synced")), (2, 2, 0));
    let writes: Vec<&str> = events
        .iter()
        .filter(|event| matches!(event.op, Op::Write { .. }))
        .map(|event| event.name.as_str())
        .collect();
    assert_eq!(writes, ["hard_state", "hard_state", "lineage", "lineage.copy"]);
}
