//! Tests of the log: golden scripts, crashes at every point, damage to every byte, threads.

mod boots;
mod corruption;
mod crash;
mod golden;
pub(in crate::storage) mod support;
mod threads;

use std::time::{Duration, Instant};

use indelible_testkit::fail::timeout;

use super::open::Tuning;
use crate::storage::recovery::{self, Scanned};
use support::*;

/// Longest time that anything may take. Generous: the machine is shared.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn appends_are_read_back_after_reopening() {
    let dir = temp_dir();
    let entries: Vec<_> = (0..200).map(|index| entry(index, 1, 100 + index as usize)).collect();
    let (log, recovered) = Log::open(dir.path(), options()).unwrap();
    assert_eq!(recovered.last, None);
    for chunk in entries.chunks(7) {
        append(&log, chunk.to_vec());
    }
    check(&log, &entries);
    let vote = StoredVote { term: 3, node_id: 2, committed: true };
    wait(|done| log.save_vote(vote, done)).unwrap();
    let admitted = peer_boot(17);
    wait(|done| log.save_peer(5, admitted, done)).unwrap();
    log.set_applied(200);
    log.set_committed(150);
    drop(log);

    let (log, recovered) = Log::open(dir.path(), options()).unwrap();
    assert_eq!(recovered.last, Some(entries[199].id));
    assert_eq!(recovered.vote, Some(vote));
    assert_eq!(recovered.boot_count, 2);
    assert_eq!(recovered.committed, 150);
    assert_eq!(log.peer(5), Some(admitted));
    assert_eq!((log.boot().number, log.lineage().draws()), (2, &[Draw([1; 16]); 2][..]));
    check(&log, &entries);
    append(&log, vec![entry(200, 1, 10)]);
    assert_eq!(log.last().unwrap().index, 200);
}

#[test]
fn a_start_reads_only_what_is_not_sealed() {
    let dir = temp_dir();
    let (log, _) = Log::open(dir.path(), options()).unwrap();
    append(&log, (0..501).map(|index| entry(index, 1, 300)).collect());
    log.set_applied(501);
    tend(&log);
    log.close();
    let (_, recovered) = Log::open(dir.path(), options()).unwrap();
    let (segments, read) = recovered.segments;
    assert!(segments > 40 && read == 1, "{segments} segments, {read} read");
}

#[test]
fn sealed_segments_do_not_depend_on_how_entries_were_grouped() {
    let entries: Vec<_> = (0..300).map(|i| entry(i, i / 90 + 1, 50 + i as usize % 700)).collect();
    let run = |groups: &[usize], stray: bool| {
        let dir = temp_dir();
        let (log, _) = Log::open(dir.path(), options()).unwrap();
        let mut rest = &entries[..];
        for size in groups.iter().cycle().take_while(|_| log.last().is_none_or(|l| l.index < 299)) {
            let (group, after) = rest.split_at((*size).min(rest.len()));
            append(&log, group.to_vec());
            rest = after;
            if stray && rest.len() > 20 {
                // Entries of a leader that loses, over several segments.
                let next = log.last().unwrap().index + 1;
                append(&log, (next..next + 20).map(|i| entry(i, 90, 900)).collect());
                wait(|done| log.truncate_after(next.checked_sub(1), done).unwrap()).unwrap();
            }
        }
        log.set_applied(300);
        tend(&log);
        log.close();
        read_segments(dir.path())
    };
    let (one, many) = (run(&[300], false), run(&[1, 13, 4], true));
    assert!(one.len() > 15);
    let sealed = one.len() - 1;
    assert_eq!(one[..sealed], many[..sealed]);
}

#[test]
fn a_failed_sync_stops_the_log_for_good() {
    for count in 0..12 {
        let dir = temp_dir();
        let recorder = Recorder::new();
        let tuning = Tuning { recorder: Some(recorder.clone()), ..Tuning::default() };
        let (log, _) = Log::open_tuned(dir.path(), options(), tuning).unwrap();
        recorder.fail_sync_after(count);
        let mut acknowledged = 0;
        let failure = loop {
            let next = log.last().map_or(0, |last| last.index + 1);
            match wait(|done| {
                log.append((next..next + 3).map(|i| entry(i, 1, 700)).collect(), done)
            }) {
                Ok(()) => acknowledged = next + 3,
                Err(error) => break error,
            }
        };
        assert!(failure.to_string().contains("failed on request"), "{failure}");
        assert!(log.failed().borrow().is_some());
        let vote = StoredVote { term: 1, node_id: 1, committed: false };
        assert!(wait(|done| log.save_vote(vote, done)).is_err());
        assert!(wait(|done| log.append(vec![], done)).is_err());
        assert!(log.truncate_after(None, Box::new(|_| ())).is_err());
        assert!(*log.durable().borrow() <= acknowledged + 3);
        log.close();

        let (log, recovered) = Log::open(dir.path(), options()).unwrap();
        assert_eq!(recovered.vote, None);
        let next = recovered.last.map_or(0, |last| last.index + 1);
        assert!(
            next >= acknowledged,
            "{next} entries after a restart, {acknowledged} acknowledged"
        );
        check(&log, &(0..next).map(|i| entry(i, 1, 700)).collect::<Vec<_>>());
    }
}

#[test]
fn memory_holds_what_is_not_durable_and_little_else() {
    let dir = temp_dir();
    let (log, _) = Log::open(dir.path(), options()).unwrap();
    let cap = options().cache_bytes_max;
    let held = hold(&log);
    let mut entries: Vec<_> = (0..4).map(|index| entry(index, 1, 6000)).collect();
    let (sender, receiver) = std::sync::mpsc::channel();
    log.append(entries.clone(), Box::new(move |outcome| sender.send(outcome).unwrap()));
    assert_eq!(log.read_cached(0..4, usize::MAX).unwrap(), entries);
    assert!(log.sizes().cache_bytes > 2 * cap);
    drop(held);
    receiver.recv().unwrap().unwrap();
    let cached = log.sizes().cache_bytes;
    assert!(cached > cap && cached <= 2 * cap, "{cached}: what is not applied stays for a while");
    assert!(log.read_cached(0..4, usize::MAX).is_none());
    log.set_applied(4);
    entries.push(entry(4, 1, 10));
    append(&log, vec![entries[4].clone()]);
    assert!(log.sizes().cache_bytes <= cap);
    check(&log, &entries);
}

#[test]
fn a_log_for_tests_may_start_anywhere() {
    let dir = temp_dir();
    let options = LogOptions { first_index_any: true, ..options() };
    let (log, _) = Log::open(dir.path(), options.clone()).unwrap();
    append(&log, (5..9).map(|index| entry(index, 1, 100)).collect());
    assert_eq!(log.id_at(4).unwrap(), None);
    assert_eq!(log.read(5..9, usize::MAX).unwrap().len(), 4);
    drop(log);
    let (log, recovered) = Log::open(dir.path(), options).unwrap();
    assert_eq!(recovered.last.unwrap().index, 8);
    assert_eq!(log.last_of_each_leader(5..=7).unwrap(), [entry(7, 1, 0).id]);
    wait(|done| log.truncate_after(None, done).unwrap()).unwrap();
    append(&log, vec![entry(3, 2, 10)]);
    assert_eq!(log.last(), Some(entry(3, 2, 0).id));
    assert_eq!(log.scan_all().unwrap(), 1);
}

#[test]
#[should_panic(expected = "the log's next entry is 3")]
fn gaps_are_a_broken_invariant() {
    let dir = temp_dir();
    let (log, _) = Log::open(dir.path(), options()).unwrap();
    append(&log, (0..3).map(|index| entry(index, 1, 100)).collect());
    log.append(vec![entry(4, 1, 100)], Box::new(|_| ()));
}

#[test]
fn a_closed_log_still_reads() {
    let dir = temp_dir();
    let (log, _) = Log::open(dir.path(), options()).unwrap();
    let entries: Vec<_> = (0..3).map(|index| entry(index, 1, 100)).collect();
    append(&log, entries.clone());
    log.close();
    check(&log, &entries);
    let error = wait(|done| log.append(vec![entry(3, 1, 100)], done)).unwrap_err();
    assert!(matches!(*error, LogError::Closed), "{error}");
    log.close();
}

#[test]
fn verifying_reads_sealed_segments_too() {
    let dir = temp_dir();
    let (log, _) = Log::open(dir.path(), options()).unwrap();
    let entries: Vec<_> = (0..100).map(|index| entry(index, 1, 300)).collect();
    append(&log, entries.clone());
    log.set_applied(100);
    tend(&log);
    drop(log);
    let LogOptions { trail_id, segment_bytes, .. } = options();
    let mut seen = Vec::new();
    let mut visit = |frame: &Scanned<'_>| seen.push((frame.header.id, frame.body.to_vec()));
    let found = recovery::verify(dir.path(), trail_id, segment_bytes, &mut visit).unwrap();
    assert!(found.segments.iter().filter(|(_, sealed)| *sealed).count() > 5);
    let expected: Vec<_> = entries.iter().map(|entry| (entry.id, entry.body.to_vec())).collect();
    assert_eq!(seen, expected);

    // One flipped byte in a sealed segment: a start does not read it, verifying does.
    let path = dir.path().join("segments").join(&read_segments(dir.path())[1].0);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[700] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = recovery::verify(dir.path(), trail_id, segment_bytes, &mut |_| {}).unwrap_err();
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
    let (log, _) = Log::open(dir.path(), options()).unwrap();
    assert!(log.scan_all().is_err());
}

#[test]
fn a_large_segment_is_searched_from_a_sample() {
    let dir = temp_dir();
    let options = LogOptions { segment_bytes: 4 * 1024 * 1024, ..options() };
    let entries: Vec<_> = (0..900).map(|i| entry(i, 1, 400 + (i as usize % 9) * 2000)).collect();
    let (log, _) = Log::open(dir.path(), options.clone()).unwrap();
    append(&log, entries.clone());
    check(&log, &entries);
    log.set_applied(900);
    tend(&log);
    log.close();
    let (log, recovered) = Log::open(dir.path(), options).unwrap();
    assert_eq!(recovered.segments, (2, 1));
    check(&log, &entries);
    assert_eq!(
        log.read(17..900, 100_000).unwrap(),
        entries[17..][..log.read(17..900, 100_000).unwrap().len()]
    );
}

#[test]
fn the_marker_follows_by_itself() {
    let dir = temp_dir();
    let recorder = Recorder::new();
    let tuning = Tuning { recorder: Some(recorder.clone()), ..Tuning::default() };
    let (log, _) = Log::open_tuned(dir.path(), options(), tuning).unwrap();
    append(&log, vec![entry(0, 1, 100)]);
    let marked = |want: u64, committed: u64, when: &str| {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let (_, synced) = SyncedFile::open(&Dir::open(dir.path(), false).unwrap()).unwrap();
            if (synced.next, synced.committed) == (want, committed) {
                return;
            }
            std::thread::yield_now();
        }
        timeout(format_args!("the marker {want}, {committed} {when}: not within {PATIENCE:?}"));
    };
    marked(1, 0, "of an idle log");
    log.set_committed(1);
    marked(1, 1, "after a commit alone");
}

#[test]
fn a_second_process_is_refused() {
    let dir = temp_dir();
    let (log, _) = Log::open(dir.path(), options()).unwrap();
    let error = Log::open(dir.path(), options()).unwrap_err();
    assert!(matches!(error, OpenError::Locked(_)), "{error}");
    drop(log);
    Log::open(dir.path(), options()).unwrap();
}

#[test]
fn a_log_without_its_hard_state_is_refused() {
    for damaged in [false, true] {
        let dir = temp_dir();
        let (log, _) = Log::open(dir.path(), options()).unwrap();
        append(&log, vec![entry(0, 1, 100)]);
        drop(log);
        let path = dir.path().join("hard_state");
        if damaged {
            std::fs::write(path, [0; 8192]).unwrap();
        } else {
            std::fs::remove_file(path).unwrap();
        }
        let error = Log::open(dir.path(), options()).unwrap_err();
        assert!(error.is_old_disk(), "{error}");
        assert!(error.to_string().contains("hint: "), "{error}");
    }
}

#[test]
fn missing_segments_are_refused() {
    let make = || {
        let dir = temp_dir();
        let (log, _) = Log::open(dir.path(), options()).unwrap();
        append(&log, (0..100).map(|index| entry(index, 1, 300)).collect());
        log.set_applied(100);
        tend(&log);
        drop(log);
        dir
    };
    let count = read_segments(make().path()).len();
    assert!(count > 5);
    for victim in 0..count {
        let dir = make();
        let name = read_segments(dir.path())[victim].0.clone();
        std::fs::remove_file(dir.path().join("segments").join(&name)).unwrap();
        let before = read_segments(dir.path());
        let error = Log::open(dir.path(), options()).unwrap_err();
        assert!(matches!(error, OpenError::Corrupt { .. }), "{name}: {error}");
        assert_eq!(read_segments(dir.path()), before, "nothing is modified");
    }
}

#[test]
fn the_log_of_another_trail_is_refused() {
    let dir = temp_dir();
    let (log, _) = Log::open(dir.path(), options()).unwrap();
    append(&log, vec![entry(0, 1, 100)]);
    drop(log);
    let other = LogOptions { trail_id: TrailId([8; 16]), ..options() };
    let error = Log::open(dir.path(), other).unwrap_err();
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
    let other = LogOptions { segment_bytes: 8192, ..options() };
    let error = Log::open(dir.path(), other).unwrap_err();
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
}
