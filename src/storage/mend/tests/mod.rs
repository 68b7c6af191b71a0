//! Mending with plain directories as peers: every kind of damage, and every crash.

mod crash;
mod ends;
mod holes;
mod liars;
mod marker;
mod online;
mod sources;
pub(crate) mod support;

use support::*;

/// One flipped bit anywhere: a start refuses what a survey names, and mending makes it as it was.
#[test]
fn every_flipped_byte_is_mended() {
    let entries = entries(40);
    for (original, step) in [(closed(&entries), 7), (crashed(&entries, 9), 11)] {
        let dir = temp_dir();
        let (mut flips, mut refused) = (0, 0);
        for first in firsts(original.path()) {
            let bytes = std::fs::read(path_of(original.path(), first)).unwrap();
            let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 60);
            for position in (0..bytes.len().min(used)).step_by(step) {
                copy(original.path(), dir.path());
                change(dir.path(), first, |bytes| bytes[position] ^= 1 << (position % 8));
                flips += 1;
                let what = format!("{first} at {position}");
                let damage = lock(dir.path()).survey().unwrap().damage;
                let opened = opens(dir.path());
                assert_eq!(damage.is_empty(), opened.is_ok(), "{what}: {damage:?} {opened:?}");
                if damage.is_empty() {
                    continue;
                }
                refused += 1;
                mend(dir.path(), &[original.path()]).unwrap_or_else(|e| panic!("{what}: {e}"));
                assert_same(dir.path(), original.path(), &what);
                opens(dir.path()).unwrap();
            }
        }
        println!("{flips} flips, {refused} of them stand in the way of a start");
        assert!(refused > 100, "{refused}");
    }
}

/// Files cut at and beside every boundary.
#[test]
fn every_cut_is_mended() {
    let entries = entries(40);
    let original = closed(&entries);
    let dir = temp_dir();
    for first in firsts(original.path()) {
        let ends = frames(original.path(), first).into_iter();
        let ends = ends.map(|(at, header)| at.offset + header.frame_size());
        for end in [0, 96].into_iter().chain(ends) {
            for length in [end.saturating_sub(1), end, end + 1, end + 95, end + 97] {
                copy(original.path(), dir.path());
                let before = std::fs::read(path_of(dir.path(), first)).unwrap();
                change(dir.path(), first, |bytes| bytes.truncate(length as usize));
                let damage = lock(dir.path()).survey().unwrap().damage;
                let what = format!("{first} cut at {length}: {damage:?}");
                assert_eq!(damage.is_empty(), opens(dir.path()).is_ok(), "{what}");
                mend(dir.path(), &[original.path()]).unwrap_or_else(|e| panic!("{what}: {e}"));
                if !damage.is_empty() || length as usize >= before.len() {
                    assert_same(dir.path(), original.path(), &what);
                }
                assert_log(dir.path(), &entries);
            }
        }
    }
}

/// Nothing is changed where nothing is damaged, and nobody is asked.
#[test]
fn whole_logs_are_left_alone() {
    for original in [closed(&entries(40)), crashed(&entries(40), 5), closed(&[])] {
        let dir = copy_of(original.path());
        let nobody: &mut dyn FnMut(&Want) -> Result<Supply, FetchError> = &mut |want: &Want| {
            panic!("{want:?}");
        };
        assert_eq!(lock(dir.path()).mend(nobody).unwrap(), []);
        assert_same(dir.path(), original.path(), "untouched");
    }
    let empty = temp_dir();
    let survey = lock(empty.path()).survey().unwrap();
    assert_eq!((survey.damage.len(), survey.next), (0, Some(0)), "a node's first start");
}

/// The damaged file is kept, and a report says what was done.
#[test]
fn damaged_bytes_are_kept() {
    let original = closed(&entries(60));
    let dir = copy_of(original.path());
    let last = *firsts(dir.path()).last().unwrap();
    damage_entry(dir.path(), last + 1);
    let damaged = std::fs::read(path_of(dir.path(), last)).unwrap();
    let survey = lock(dir.path()).survey().unwrap();
    let damage = &survey.damage[0];
    assert_eq!((damage.from, damage.to), (last + 1, Some(last + 2)), "{damage}");
    let mended = mend(dir.path(), &[original.path()]).unwrap();
    assert_eq!(mended.len(), 1);
    assert_eq!(mended[0].segments, [last]);
    assert_eq!(mended[0].fetched.first(), Some(&(last + 1..last + 2)));
    assert_eq!(std::fs::read(&mended[0].quarantined[0]).unwrap(), damaged);
    assert_log(dir.path(), &entries(60));
}

/// A hard state is no matter of peers.
#[test]
fn a_log_without_its_hard_state_stays_refused() {
    let dir = closed(&entries(10));
    std::fs::write(dir.path().join("hard_state"), [3; 8192]).unwrap();
    let error = lock(dir.path()).survey().unwrap_err();
    assert!(matches!(error, crate::storage::recovery::OpenError::NoHardState { .. }), "{error}");
}
