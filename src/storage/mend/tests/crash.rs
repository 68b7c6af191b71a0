//! A recorded mending, cut at every point: the next start finds the damage again, or none.

use std::path::Path;

use super::support::*;
use crate::disk::Recorder;
use crate::disk::recorder::{Event, Op};
use crate::disk::replay::{Torn, Unsynced, rebuild};

/// Mends `damaged` from `original`, recorded, and mends what every crash leaves of that.
fn survives_crashes(what: &str, damaged: &Path, original: &Path, expected: u64) {
    let dir = copy_of(damaged);
    let recorder = Recorder::new();
    let log = ClosedLog::lock_recorded(dir.path(), COMMON, recorder.clone());
    log.mend(&mut peers(&[original])).unwrap_or_else(|error| panic!("{what}: {error}"));
    let events = recorder.events();
    assert_log(dir.path(), &entries(expected));
    let in_place = |event: &Event| event.name.ends_with(".seg") && !matches!(event.op, Op::Sync);
    assert!(!events.iter().any(in_place), "{what}: no segment is written in place");
    let mut states = 0;
    for count in 1..=events.len() {
        let run = &events[..count];
        for data in [Unsynced::Kept, Unsynced::Dropped] {
            for names in [Unsynced::Kept, Unsynced::Dropped] {
                is_mended_again(what, damaged, original, run, data, names, None, expected);
                states += 1;
            }
        }
        if let Some(Event { op: Op::Write { bytes, .. }, .. }) = run.last() {
            for cut in (0..bytes.len()).step_by(997) {
                let (kept, torn) = (Unsynced::Kept, Some(Torn::After(cut)));
                is_mended_again(what, damaged, original, run, kept, kept, torn, expected);
                states += 1;
            }
        }
    }
    println!("{what}: {} operations, {states} states", events.len());
}

#[expect(clippy::too_many_arguments, reason = "one state")]
fn is_mended_again(
    what: &str,
    damaged: &Path,
    original: &Path,
    run: &[Event],
    data: Unsynced,
    names: Unsynced,
    torn: Option<Torn>,
    expected: u64,
) {
    let dir = temp_dir();
    rebuild(Some(damaged), run, data, names, torn, dir.path());
    let case = || format!("{what} after {} operations, {data:?} {names:?} {torn:?}", run.len());
    if let Err(error) = mend(dir.path(), &[original]) {
        panic!("{}: {error}", case());
    }
    assert_eq!(firsts(dir.path()), firsts(original), "{}", case());
    assert_log(dir.path(), &entries(expected));
}

#[test]
fn mending_survives_every_crash() {
    let entries = entries(60);
    let original = closed(&entries);
    let firsts = firsts(original.path());
    type Harm<'a> = Box<dyn Fn(&Path) + 'a>;
    let harms: [(&str, Harm<'_>); 5] = [
        ("a frame of the last segment", Box::new(|dir| damage_entry(dir, 59))),
        ("a header", Box::new(|dir| change(dir, firsts[2], |bytes| bytes[3] ^= 1))),
        (
            "two missing segments",
            Box::new(|dir| {
                firsts[3..5].iter().for_each(|f| std::fs::remove_file(path_of(dir, *f)).unwrap());
            }),
        ),
        (
            "the marker and a frame",
            Box::new(|dir| {
                std::fs::remove_file(dir.join("synced")).unwrap();
                damage_entry(dir, 33);
            }),
        ),
        (
            "a stray file",
            Box::new(|dir| {
                std::fs::copy(path_of(dir, firsts[1]), path_of(dir, firsts[3] + 1)).unwrap();
            }),
        ),
    ];
    for (what, harm) in harms {
        let damaged = copy_of(original.path());
        harm(damaged.path());
        survives_crashes(what, damaged.path(), original.path(), 60);
    }
}

/// The log ends earlier than this node had it.
#[test]
fn cutting_off_survives_every_crash() {
    let entries = entries(60);
    let (damaged, peer) = (crashed(&entries, 25), crashed(&entries[..40], 3));
    for index in 40..60 {
        damage_entry(damaged.path(), index);
    }
    survives_crashes("a shorter log", damaged.path(), peer.path(), 40);
}

/// The log ends before the marker, and after what is left of it: nothing but the marker says that
/// there was more. Lowered to what is left before the rest was in place, it let a start after a
/// crash go on without asking anybody.
#[test]
fn an_end_below_the_marker_survives_every_crash() {
    let entries = entries(60);
    let original = closed(&entries);
    // Inside a segment, and where one is closed.
    let closes = *firsts(original.path()).iter().rfind(|first| **first < 50).unwrap();
    for end in [45, closes] {
        let (damaged, peer) = (copy_of(original.path()), closed(&entries[..end as usize]));
        set_marker(damaged.path(), 60, 30);
        for first in firsts(damaged.path()).iter().filter(|first| **first > 30) {
            std::fs::remove_file(path_of(damaged.path(), *first)).unwrap();
        }
        survives_crashes("below the marker", damaged.path(), peer.path(), end);
    }
}

/// Above the marker, nothing but the segments behind it says that zeros in a segment are no tear.
#[test]
fn what_follows_damage_stays_until_it_is_mended() {
    let entries = entries(60);
    let (damaged, peer) = (crashed(&entries, 40), closed(&entries[..45]));
    let first = *firsts(damaged.path()).iter().rfind(|first| **first < 42).unwrap();
    let zeros = place_of(first + 1).offset as usize;
    change(damaged.path(), first, |bytes| bytes[zeros..].fill(0));
    for index in first + 1..60 {
        let place = place_of(index);
        if place.segment > first {
            damage_entry(damaged.path(), index);
        }
    }
    survives_crashes("above the marker", damaged.path(), peer.path(), 45);
}
