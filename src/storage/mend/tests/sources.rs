//! What is served to peers.

use super::support::*;

#[test]
fn whole_entries_are_served_and_damaged_ones_left_out() {
    let entries = entries(80);
    let dir = closed(&entries);
    let source = SegmentSource::open(dir.path(), TRAIL, SEGMENT_BYTES).unwrap();
    let all = |from: u64, to: u64| -> Vec<u64> {
        let mut indexes = Vec::new();
        let mut next = from;
        loop {
            let found = source.entries(next..to, 700).unwrap();
            let Some(last) = found.last() else { return indexes };
            next = last.entry.id.index + 1;
            for fetched in found {
                assert_eq!(fetched.entry, entries[fetched.entry.id.index as usize]);
                indexes.push(fetched.entry.id.index);
            }
        }
    };
    for (from, to) in [(0, 80), (0, u64::MAX), (37, 41), (79, 80), (80, 90), (5, 5)] {
        assert_eq!(all(from, to), (from..to.min(80)).collect::<Vec<_>>(), "{from}..{to}");
    }
    let firsts = firsts(dir.path());
    damage_entry(dir.path(), 7);
    change(dir.path(), firsts[2], |bytes| bytes.fill(0));
    let (location, header) = frames(dir.path(), firsts[4])[1];
    change(dir.path(), firsts[4], |bytes| bytes[location.offset as usize + 9] ^= 0xFF);
    let missing = |index: &u64| {
        *index != 7 && !(firsts[2]..firsts[3]).contains(index) && *index != header.id.index
    };
    assert_eq!(all(0, 80), (0..80).filter(missing).collect::<Vec<_>>());
    assert_eq!(all(7, 8), Vec::<u64>::new());
    assert_eq!(source.sealed().unwrap().len(), firsts.len() - 2);
}

#[test]
fn the_end_is_certain_only_if_nothing_is_damaged_there() {
    let entries = entries(80);
    let end = |dir: &std::path::Path| {
        let end = SegmentSource::open(dir, TRAIL, SEGMENT_BYTES).unwrap().end().unwrap();
        (end.last.map(|last| last.index), end.certain)
    };
    let original = closed(&entries);
    assert_eq!(end(original.path()), (Some(79), true));
    assert_eq!(end(crashed(&entries, 6).path()), (Some(79), true));
    assert_eq!(end(closed(&[]).path()), (None, true));
    let last = *firsts(original.path()).last().unwrap();

    let dir = copy_of(original.path());
    damage_entry(dir.path(), 79);
    assert_eq!(end(dir.path()), (Some(78), false));
    std::fs::remove_file(path_of(dir.path(), last)).unwrap();
    assert_eq!(end(dir.path()), (Some(last - 1), false), "the marker knows of more");
    let dir = copy_of(original.path());
    change(dir.path(), last, |bytes| bytes.fill(0));
    assert_eq!(end(dir.path()), (Some(last - 1), false));
    let dir = copy_of(original.path());
    std::fs::remove_file(dir.path().join("synced")).unwrap();
    assert_eq!(end(dir.path()), (Some(79), false));
}
