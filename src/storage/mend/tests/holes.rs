//! Missing, swapped and foreign files, holes over several segments, and damage on several nodes.

use std::path::Path;

use indelible_core::{Entry, EntryId};

use super::support::*;
use crate::storage::frame::{FrameHeader, Location};

/// Damages a copy, mends it from the original, and compares.
fn is_mended(what: &str, damage: impl Fn(&Path, &[u64])) {
    let entries = entries(80);
    for original in [closed(&entries), crashed(&entries, 3)] {
        let dir = copy_of(original.path());
        let firsts = firsts(dir.path());
        assert!(firsts.len() > 7, "{firsts:?}");
        damage(dir.path(), &firsts);
        let found = lock(dir.path()).survey().unwrap().damage;
        assert!(!found.is_empty() && opens(dir.path()).is_err(), "{what}: {found:?}");
        for damage in &found {
            assert!(!damage.to_string().is_empty());
        }
        mend(dir.path(), &[original.path()]).unwrap_or_else(|e| panic!("{what}: {e} {found:#?}"));
        assert_same(dir.path(), original.path(), what);
        assert_log(dir.path(), &entries);
    }
}

fn remove(dir: &Path, first: u64) {
    std::fs::remove_file(path_of(dir, first)).unwrap();
}

fn fill(dir: &Path, first: u64, byte: u8) {
    change(dir, first, |bytes| bytes.fill(byte));
}

#[test]
fn missing_segments() {
    for victim in 0..8 {
        is_mended(&format!("segment {victim}"), |dir, firsts| remove(dir, firsts[victim]));
    }
    is_mended("the last one", |dir, firsts| remove(dir, firsts[firsts.len() - 1]));
    is_mended("two in a row", |dir, firsts| {
        firsts[2..4].iter().for_each(|first| remove(dir, *first));
    });
    is_mended("all but the last", |dir, firsts| {
        firsts[..firsts.len() - 1].iter().for_each(|first| remove(dir, *first));
    });
    is_mended("the last three", |dir, firsts| {
        firsts[firsts.len() - 3..].iter().for_each(|first| remove(dir, *first));
    });
    is_mended("all", |dir, firsts| firsts.iter().for_each(|first| remove(dir, *first)));
}

#[test]
fn segments_of_zeros_and_garbage() {
    for byte in [0, 0xA5] {
        for victim in [0, 3, 7] {
            is_mended(&format!("{victim} all {byte}"), |dir, firsts| {
                fill(dir, firsts[victim], byte);
            });
        }
        is_mended("three of them", |dir, firsts| {
            [1, 2, 5].iter().for_each(|victim| fill(dir, firsts[*victim], byte));
        });
        is_mended("the last", |dir, firsts| fill(dir, firsts[firsts.len() - 1], byte));
        is_mended("all", |dir, firsts| firsts.iter().for_each(|first| fill(dir, *first, byte)));
    }
    is_mended("no bytes at all", |dir, firsts| change(dir, firsts[4], Vec::clear));
}

#[test]
fn swapped_and_stray_files() {
    is_mended("swapped", |dir, firsts| {
        let (a, b) = (path_of(dir, firsts[1]), path_of(dir, firsts[4]));
        std::fs::rename(&a, dir.join("other")).unwrap();
        std::fs::rename(&b, &a).unwrap();
        std::fs::rename(dir.join("other"), &b).unwrap();
    });
    is_mended("one copied over another", |dir, firsts| {
        std::fs::copy(path_of(dir, firsts[1]), path_of(dir, firsts[2])).unwrap();
    });
    is_mended("a file too many inside", |dir, firsts| {
        std::fs::copy(path_of(dir, firsts[1]), path_of(dir, firsts[3] + 1)).unwrap();
    });
    is_mended("a file too many behind", |dir, firsts| {
        std::fs::copy(path_of(dir, firsts[1]), path_of(dir, 9999)).unwrap();
    });
    is_mended("another segment's name", |dir, firsts| {
        std::fs::rename(path_of(dir, firsts[2]), path_of(dir, firsts[2] + 1)).unwrap();
    });
}

#[test]
fn a_segment_of_another_trail() {
    let foreign = |bytes: &mut Vec<u8>| {
        bytes[16..32].fill(9);
        let crc = crc32c::crc32c(&bytes[..92]);
        bytes[92..96].copy_from_slice(&crc.to_le_bytes());
    };
    is_mended("one", |dir, firsts| change(dir, firsts[2], foreign));
    // All of them: somebody has mixed up the directories.
    let dir = closed(&entries(80));
    firsts(dir.path()).iter().for_each(|first| change(dir.path(), *first, foreign));
    let error = lock(dir.path()).survey().unwrap_err();
    assert!(matches!(error, crate::storage::recovery::OpenError::Foreign { .. }), "{error}");
}

#[test]
fn exchanged_frames() {
    // Two frames of equal length within a segment that a start reads.
    let entries: Vec<_> = (0..80).map(|index| entry_of(1, 1, index as u8)).collect();
    let entries: Vec<_> = (0..)
        .zip(entries)
        .map(|(index, entry)| Entry { id: EntryId { index, term: 1, leader: 1 }, ..entry })
        .collect();
    let original = crashed(&entries, 30);
    let dir = copy_of(original.path());
    let mut exchanged = 0;
    for first in firsts(dir.path()) {
        let frames = frames(dir.path(), first);
        let pair = frames.iter().enumerate().find_map(|(at, (a, header))| {
            let same =
                |(_, other): &&(Location, FrameHeader)| other.frame_size() == header.frame_size();
            frames[at + 1..].iter().find(same).map(|(b, _)| (a.offset, b.offset, *header))
        });
        let Some((a, b, header)) = pair else { continue };
        change(dir.path(), first, |bytes| {
            let size = header.frame_size() as usize;
            let (head, tail) = bytes.split_at_mut(b as usize);
            head[a as usize..][..size].swap_with_slice(&mut tail[..size]);
        });
        exchanged += 1;
    }
    assert!(exchanged > 2);
    mend(dir.path(), &[original.path()]).unwrap();
    assert_same(dir.path(), original.path(), "exchanged");
}

/// Every segment is bad on exactly one of three nodes.
#[test]
fn helical_damage_loses_nothing() {
    let entries = entries(120);
    {
        let original = closed(&entries);
        let nodes = [(); 3].map(|()| copy_of(original.path()));
        for (position, first) in firsts(original.path()).into_iter().enumerate() {
            let dir = nodes[position % 3].path();
            match position % 4 {
                0 => fill(dir, first, 0x55),
                1 => remove(dir, first),
                2 => damage_entry(dir, first + 1),
                _ => change(dir, first, |bytes| bytes[40] ^= 1),
            }
        }
        for (node, dir) in nodes.iter().enumerate() {
            let others: Vec<_> = nodes.iter().map(|dir| dir.path()).collect();
            let others = [others[(node + 1) % 3], others[(node + 2) % 3]];
            // Sealed segments that a start takes by their footers are left to the scrub.
            mend(dir.path(), &others).unwrap();
            opens(dir.path()).unwrap();
        }
        for dir in &nodes {
            assert_eq!(firsts(dir.path()), firsts(original.path()));
        }
    }
}

/// Adjacent entries of one hole, each on another peer only.
#[test]
fn one_hole_is_filled_by_several_peers() {
    let entries = entries(80);
    let original = closed(&entries);
    let [dir, a, b] = [(); 3].map(|()| copy_of(original.path()));
    let victim = firsts(dir.path())[3];
    fill(dir.path(), victim, 0);
    for (position, (_, header)) in frames(a.path(), victim).iter().enumerate() {
        let peer = if position % 2 == 0 { &a } else { &b };
        damage_entry(peer.path(), header.id.index);
    }
    mend(dir.path(), &[a.path(), b.path()]).unwrap();
    assert_same(dir.path(), original.path(), "from both");
}

/// Refused, and the error names the entries.
#[test]
fn damage_on_every_copy_is_named() {
    let entries = entries(80);
    let original = closed(&entries);
    let [dir, a, b] = [(); 3].map(|()| copy_of(original.path()));
    let victim = firsts(dir.path())[3];
    for dir in [&dir, &a, &b] {
        damage_entry(dir.path(), victim + 1);
        damage_entry(dir.path(), victim + 2);
        change(dir.path(), victim, |bytes| bytes[10] ^= 1);
    }
    let before = read_segments(dir.path());
    let error = mend(dir.path(), &[a.path(), b.path()]).unwrap_err();
    match &error {
        MendError::NotSupplied { from, to, .. } => {
            assert_eq!((*from, *to), (victim + 1, Some(victim + 3)));
        }
        other => panic!("{other}"),
    }
    assert!(error.to_string().contains(&format!("entries {} to {}", victim + 1, victim + 2)));
    assert_eq!(read_segments(dir.path()), before, "nothing was changed");
    assert_same(dir.path(), dir.path(), "and nothing is left over");
}
