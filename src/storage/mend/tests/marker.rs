//! The end of the log: ambiguous bytes, a marker that is gone, entries that never were.

use super::support::*;

/// Bytes above the marker that are no frame, where an entry was, or was not.
#[test]
fn an_ambiguous_tail_is_settled_by_peers() {
    let entries = entries(25);
    for (had, above) in [(25, 4), (23, 1)] {
        let dir = crashed(&entries[..23], above.min(3));
        let peer = crashed(&entries[..had], above);
        let last = *firsts(dir.path()).last().unwrap();
        let end =
            frames(dir.path(), last).last().map(|(at, h)| at.offset + h.frame_size()).unwrap();
        change(dir.path(), last, |bytes| bytes[end as usize..end as usize + 700].fill(0x31));
        assert!(opens(dir.path()).is_err());
        let mended = mend(dir.path(), &[peer.path()]).unwrap();
        assert_log(dir.path(), &entries[..had]);
        assert_eq!(mended[0].end, Some(had as u64));
    }
}

/// What is damaged above the marker was never acknowledged by anybody else.
#[test]
fn entries_that_peers_never_had_are_cut_off() {
    let entries = entries(60);
    let (dir, peer) = (crashed(&entries, 20), crashed(&entries[..42], 2));
    let original = read_segments(dir.path());
    for index in 42..60 {
        damage_entry(dir.path(), index);
    }
    let mended = mend(dir.path(), &[peer.path()]).unwrap();
    assert_eq!(mended[0].end, Some(42));
    assert_log(dir.path(), &entries[..42]);
    let kept = mended[0].quarantined.len();
    assert!(kept >= original.len() - firsts(dir.path()).len(), "{kept} files are kept");
}

/// Below the marker, and not committed: the marker is lowered before anything goes.
#[test]
fn the_marker_follows_when_peers_never_had_what_was_durable() {
    let entries = entries(60);
    let dir = closed(&entries);
    // As if fewer were committed.
    set_marker(dir.path(), 60, 41);
    let peer = closed(&entries[..45]);
    for index in 45..60 {
        damage_entry(dir.path(), index);
    }
    let first = *firsts(dir.path()).iter().rfind(|first| **first <= 45).unwrap();
    change(dir.path(), first, |bytes| bytes[10] ^= 1);
    let mended = mend(dir.path(), &[peer.path()]).unwrap();
    assert!(mended.iter().any(|mended| mended.marker && mended.end == Some(45)), "{mended:?}");
    assert_log(dir.path(), &entries[..45]);
}

#[test]
fn committed_entries_are_never_given_up() {
    let entries = entries(60);
    let (dir, peer) = (closed(&entries), closed(&entries[..45]));
    for first in firsts(dir.path()).iter().filter(|first| **first > 30) {
        std::fs::remove_file(path_of(dir.path(), *first)).unwrap();
    }
    let before = read_segments(dir.path());
    let error = mend(dir.path(), &[peer.path()]).unwrap_err();
    let committed = MendError::Committed { end: 45, committed: 60 };
    assert_eq!(error.to_string(), committed.to_string());
    assert_eq!(read_segments(dir.path()), before, "nothing was changed");
}

/// Without a marker the whole log is read, and peers say where it ends.
#[test]
fn a_missing_or_damaged_marker_is_made_anew() {
    let entries = entries(60);
    for damaged in [false, true] {
        for original in [closed(&entries), crashed(&entries, 5)] {
            let dir = copy_of(original.path());
            spoil_marker(dir.path(), damaged);
            let damage = lock(dir.path()).survey().unwrap().damage;
            assert_eq!(damage.len(), 1);
            assert_eq!((damage[0].kind, damage[0].from), (DamageKind::Marker, 60));
            assert!(opens(dir.path()).is_err());
            let mended = mend(dir.path(), &[original.path()]).unwrap();
            assert!(mended[0].marker && mended[0].segments.is_empty(), "{mended:?}");
            assert_same(dir.path(), original.path(), "only the marker");
            assert_log(dir.path(), &entries);
        }
    }
}

/// ... and whoever took the marker may have taken more with it.
#[test]
fn what_went_with_the_marker_is_found() {
    let entries = entries(60);
    let original = closed(&entries);
    for cut in 0..firsts(original.path()).len() {
        let dir = copy_of(original.path());
        spoil_marker(dir.path(), false);
        for first in firsts(dir.path()).iter().rev().take(cut + 1) {
            std::fs::remove_file(path_of(dir.path(), *first)).unwrap();
        }
        mend(dir.path(), &[original.path()]).unwrap();
        assert_log(dir.path(), &entries);
    }
    // Sealed segments are read, too: a footer says nothing without a marker.
    let dir = copy_of(original.path());
    spoil_marker(dir.path(), false);
    damage_entry(dir.path(), 4);
    damage_entry(dir.path(), 30);
    change(dir.path(), *firsts(dir.path()).last().unwrap(), |bytes| bytes.truncate(300));
    mend(dir.path(), &[original.path()]).unwrap();
    assert_same(dir.path(), original.path(), "all of it");
    assert_log(dir.path(), &entries);
}

/// A log without entries.
#[test]
fn an_empty_log_gets_its_marker_back() {
    let original = closed(&[]);
    let dir = copy_of(original.path());
    spoil_marker(dir.path(), false);
    assert!(opens(dir.path()).is_err());
    mend(dir.path(), &[original.path()]).unwrap();
    assert_log(dir.path(), &[]);
}

fn spoil_marker(dir: &std::path::Path, damaged: bool) {
    match damaged {
        true => std::fs::write(dir.join("synced"), [9; 8192]).unwrap(),
        false => std::fs::remove_file(dir.join("synced")).unwrap(),
    }
}
