//! Scrubbing and mending with the log open.

use std::path::Path;

use super::support::*;
use crate::storage::log::tests::support::{append, read_all, tend};
use crate::storage::log::{Log, LogError, LogOptions, ScrubError};

/// A log of 80 entries that is open; the last ones are in no sealed segment.
fn open(dir: &Path) -> Log {
    let (log, _) = Log::open(dir, options()).unwrap();
    log.set_applied(80);
    log.set_committed(80);
    tend(&log);
    log
}

fn scrub_all(log: &Log) -> Vec<u64> {
    let scrubbed = log.segments().into_iter();
    let damaged = scrubbed.filter(|segment| log.scrub_segment(segment.first, &mut |_| {}).is_err());
    damaged.map(|segment| segment.first).collect()
}

#[test]
fn digests_are_the_same_on_every_node() {
    let original = closed(&entries(80));
    let other = copy_of(original.path());
    let (a, b) = (open(original.path()), open(other.path()));
    assert_eq!(a.sealed_segments(), b.sealed_segments());
    assert!(a.sealed_segments().len() > 7);
    let mut digests = Vec::new();
    for segment in a.sealed_segments() {
        let mut bytes = 0;
        let digest = a.scrub_segment(segment.first, &mut |read| bytes += read as u64).unwrap();
        assert_eq!(b.scrub_segment(segment.first, &mut |_| {}).unwrap(), digest);
        assert!(bytes > SEGMENT_BYTES && bytes <= segment.bytes, "{bytes}");
        assert!(!digests.contains(&digest));
        digests.push(digest);
        let length = std::fs::metadata(path_of(original.path(), segment.first)).unwrap().len();
        assert_eq!(segment.bytes, length);
    }
    let gone = a.scrub_segment(5, &mut |_| {}).unwrap_err();
    assert!(matches!(gone, ScrubError::Gone { first: 5 }), "{gone}");
}

/// Every byte of every segment, sealed or not: the scrub finds it, mending makes it as it was, and
/// nothing else is disturbed.
#[test]
fn every_flipped_byte_is_found_and_mended() {
    let original = closed(&entries(80));
    let all = entries(80);
    let dir = copy_of(original.path());
    let log = open(dir.path());
    let (mut found, mut fetched) = (0, 0);
    for segment in log.segments() {
        let whole = std::fs::read(path_of(original.path(), segment.first)).unwrap();
        let used = if segment.sealed { whole.len() } else { 96 + 300 };
        for position in (0..used).step_by(29) {
            change(dir.path(), segment.first, |bytes| bytes[position] ^= 1 << (position % 8));
            let what = format!("{} at {position}", segment.first);
            match log.scrub_segment(segment.first, &mut |_| {}) {
                Err(ScrubError::Damaged(damage)) => {
                    assert!(damage.from >= segment.first && damage.from <= segment.next, "{what}");
                }
                other => panic!("{what}: {other:?}"),
            }
            let mended = log.mend_segment(segment.first, &mut peers(&[original.path()]));
            let mended = mended.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(mended.segments, [segment.first], "{what}");
            fetched += mended.fetched.len();
            log.scrub_segment(segment.first, &mut |_| {}).unwrap();
            assert!(std::fs::read(path_of(dir.path(), segment.first)).unwrap() == whole, "{what}");
            found += 1;
        }
        assert_eq!(read_all(&log, 80), all);
    }
    println!("{found} flips found and mended, {fetched} entries fetched");
    assert!(found > 1000 && fetched > 500);
    log.close();
    assert_log(dir.path(), &all);
}

#[test]
fn whole_segments_are_left_alone() {
    let dir = closed(&entries(80));
    let log = open(dir.path());
    let before = read_segments(dir.path());
    for segment in log.segments() {
        let nobody = &mut |want: &Want| -> Result<Supply, FetchError> { panic!("{want:?}") };
        assert_eq!(log.mend_segment(segment.first, nobody).unwrap(), Mended::default());
    }
    assert_eq!(read_segments(dir.path()), before);
    assert!(matches!(log.mend_segment(3, &mut peers(&[])), Err(MendError::Gone { index: 3 })));
}

/// A read names the damaged entry, and that one is enough to mend it.
#[test]
fn a_read_says_which_entry_is_damaged() {
    let original = closed(&entries(80));
    let dir = copy_of(original.path());
    let log = open(dir.path());
    // Filled, so that no memory helps.
    for index in [10, 18, 40, 77] {
        damage_entry(dir.path(), index);
        let location = place_of(index);
        let errors = [
            log.read(index..index + 1, 1).map(|_| ()),
            log.read_at(location).map(|_| ()),
            log.entry_raw(index).map(|_| ()),
            log.check_entry(index),
        ];
        for error in errors {
            assert!(matches!(error, Err(LogError::Corrupt { index: at, .. }) if at == index));
        }
        // Those around it are read.
        let next = place_of(index + 1);
        assert_eq!(log.read_at(next).unwrap().0, entry(index + 1));
        let (entry, chain) = SegmentSource::open(original.path(), TRAIL, SEGMENT_BYTES)
            .and_then(|source| source.entries(index..index + 1, 1))
            .map(|mut found| found.remove(0))
            .map(|fetched| (fetched.entry, fetched.chain))
            .unwrap();
        let mended = log.mend_frame(index, Fetched { entry: entry.clone(), chain }).unwrap();
        assert_eq!(mended.fetched.first(), Some(&(index..index + 1)));
        assert_eq!(log.entry_raw(index).unwrap(), (entry, chain));
        log.check_entry(index).unwrap();
    }
    assert_eq!(scrub_all(&log), Vec::<u64>::new());
    log.close();
    assert_same(dir.path(), original.path(), "all of it");
}

/// What is still in memory needs no peer.
#[test]
fn what_is_in_memory_is_written_again() {
    let dir = closed(&entries(80));
    let (log, _) = Log::open(dir.path(), options()).unwrap();
    append(&log, (80..84).map(entry).collect());
    damage_entry(dir.path(), 82);
    assert_eq!(scrub_all(&log), [place_of(82).segment]);
    log.mend_segment(place_of(82).segment, &mut peers(&[])).unwrap();
    assert_eq!(scrub_all(&log), Vec::<u64>::new());
    append(&log, vec![entry(84)]);
    log.close();
    assert_log(dir.path(), &entries(85));
}

#[test]
fn a_file_that_goes_missing_is_damage() {
    let original = closed(&entries(80));
    let dir = copy_of(original.path());
    let log = open(dir.path());
    let sealed = log.sealed_segments()[3].first;
    std::fs::remove_file(path_of(dir.path(), sealed)).unwrap();
    let error = log.read(sealed..sealed + 1, 1).unwrap_err();
    assert!(matches!(error, LogError::Corrupt { index, .. } if index == sealed), "{error}");
    assert_eq!(scrub_all(&log), [sealed]);
    log.mend_segment(sealed, &mut peers(&[original.path()])).unwrap();
    assert_eq!(read_all(&log, 80), entries(80));
    // The one that is being written: only a restart knows what is left of it.
    let active = log.segments().last().unwrap().first;
    std::fs::remove_file(path_of(dir.path(), active)).unwrap();
    let error = log.mend_segment(active, &mut peers(&[original.path()])).unwrap_err();
    assert!(matches!(error, MendError::NotNow { .. }), "{error}");
    log.close();
    mend(dir.path(), &[original.path()]).unwrap();
    assert_same(dir.path(), original.path(), "all of it");
}

/// A body that was changed together with its checksum, and a whole segment that was rewritten.
#[test]
fn clever_damage_is_found_and_mended() {
    let all = entries(80);
    let original = closed(&all);
    let dir = copy_of(original.path());
    let log = open(dir.path());
    let segments = log.sealed_segments();
    let mut forged = all[segments[2].first as usize..segments[2].next as usize].to_vec();
    let mut body = forged[1].body.to_vec();
    *body.last_mut().unwrap() ^= 1;
    forged[1].body = body.into();
    let before = segments[1].chain;
    // The chain does not cover the body, so that the rest is as it was.
    assert_eq!(forge(dir.path(), before, &forged, true), segments[2].chain);
    assert_eq!(scrub_all(&log), [segments[2].first]);
    let error = log.check_entry(segments[2].first + 1).unwrap_err();
    assert!(error.to_string().contains("commit"), "{error}");
    log.mend_segment(segments[2].first, &mut peers(&[original.path()])).unwrap();

    let range = segments[4].first..segments[4].next;
    let forged: Vec<_> = range.map(|index| entry_of(index, index / 20 + 1, 9)).collect();
    forge(dir.path(), segments[3].chain, &forged, true);
    assert_eq!(scrub_all(&log), [segments[4].first]);
    // A liar who has the same forgery does not get it through.
    let liar = copy_of(dir.path());
    let lied = log.mend_segment(segments[4].first, &mut peers(&[liar.path()])).unwrap_err();
    assert!(matches!(lied, MendError::DoesNotJoin { .. }), "{lied}");
    log.mend_segment(segments[4].first, &mut peers(&[original.path()])).unwrap();
    assert_eq!(scrub_all(&log), Vec::<u64>::new());
    log.close();
    assert_same(dir.path(), original.path(), "all of it");
}

/// Readers and a writer go on while segments are damaged and mended.
#[test]
fn reads_and_appends_go_on() {
    let original = closed(&entries(80));
    let dir = copy_of(original.path());
    let log = open(dir.path());
    let sealed = log.sealed_segments();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            for index in (0..200).map(|number| number * 7 % 80) {
                match log.read(index..index + 1, 1) {
                    Ok(read) => assert_eq!(read, [entry(index)]),
                    Err(LogError::Corrupt { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        });
        let writer = scope.spawn(|| (80..200).for_each(|index| append(&log, vec![entry(index)])));
        for round in 0..30 {
            let segment = &sealed[round % sealed.len()];
            damage_entry(dir.path(), segment.first + 2);
            log.mend_segment(segment.first, &mut peers(&[original.path()])).unwrap();
        }
        reader.join().unwrap();
        writer.join().unwrap();
    });
    assert_eq!(read_all(&log, 200), entries(200));
    assert_eq!(scrub_all(&log), Vec::<u64>::new());
}

/// Files in quarantine.
fn quarantined(dir: &Path) -> usize {
    std::fs::read_dir(dir.join("quarantine")).unwrap().count()
}

/// Frames that are damaged in a row are kept as one file.
#[test]
fn one_damaged_run_is_kept_once() {
    let dir = temp_dir();
    let options = LogOptions { segment_bytes: 4 << 20, ..options() };
    let all = entries(2000);
    let (log, _) = Log::open(dir.path(), options.clone()).unwrap();
    append(&log, all.clone());
    log.close();
    // Opened anew: nothing is in memory.
    let (log, _) = Log::open(dir.path(), options).unwrap();
    let frames = frames(dir.path(), 0);
    let (start, end) = (frames[5].0.offset as usize, frames[1999].0.offset as usize);
    let whole = std::fs::read(path_of(dir.path(), 0)).unwrap();
    change(dir.path(), 0, |bytes| bytes[start..end].fill(0));
    let mut chain = indelible_core::chain::genesis(&TRAIL);
    let fetched: Vec<Fetched> = (all.iter().cloned())
        .map(|entry| {
            chain = indelible_core::chain::link_entry(&chain, &entry);
            Fetched { entry, chain }
        })
        .collect();
    let mut peer = |want: &Want| Ok(Supply::Entries(fetched[want.from as usize..1999].to_vec()));
    let mended = log.mend_segment(0, &mut peer).unwrap();
    assert_eq!((mended.quarantined.len(), quarantined(dir.path())), (1, 1));
    assert!(std::fs::read(path_of(dir.path(), 0)).unwrap() == whole);
    assert_eq!(read_all(&log, 2000), all);
}

/// The oldest evidence stays; of the rest, what it was is said.
#[test]
fn quarantine_has_a_limit() {
    use indelible_core::limits::{QUARANTINE_BYTES_MAX, QUARANTINE_FILES_MAX};
    let original = closed(&entries(80));
    let dir = copy_of(original.path());
    let log = open(dir.path());
    let (first, last) = (log.segments()[2].first, log.segments().last().unwrap().first);
    let folder = dir.path().join("quarantine");
    std::fs::create_dir_all(&folder).unwrap();
    let many = |count: usize| {
        for number in 0..count {
            std::fs::write(folder.join(format!("{number}.damaged")), b"x").unwrap();
        }
    };
    let large = || {
        std::fs::remove_dir_all(&folder).unwrap();
        std::fs::create_dir(&folder).unwrap();
        let file = std::fs::File::create(folder.join("0.damaged")).unwrap();
        file.set_len(QUARANTINE_BYTES_MAX).unwrap();
    };
    many(QUARANTINE_FILES_MAX);
    for fill in [&(|| ()) as &dyn Fn(), &large] {
        fill();
        let before = quarantined(dir.path());
        for victim in [first + 1, last + 1] {
            damage_entry(dir.path(), victim);
            let segment = place_of(victim).segment;
            let mended = log.mend_segment(segment, &mut peers(&[original.path()])).unwrap();
            assert!(mended.quarantined.is_empty(), "{mended:?}");
            assert_eq!(mended.unkept.len(), 1, "{mended:?}");
            assert!(mended.unkept[0].contains("SHA3-256"), "{mended:?}");
            assert_eq!(quarantined(dir.path()), before);
        }
    }
    assert_eq!(scrub_all(&log), Vec::<u64>::new());
}
