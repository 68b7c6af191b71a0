//! Damage: every byte of a small log, flipped. No reader ever gets a byte that was not written.

use std::path::Path;

use super::support::*;

/// A log with sealed segments, one that is not, and a vote; with what is in it.
fn make(dir: &Path) -> (Vec<Entry>, StoredVote) {
    let entries: Vec<_> = (0..11).map(|index| entry(index, index / 4 + 1, 500)).collect();
    let vote = StoredVote { term: 3, node_id: 2, committed: true };
    let (log, _) = Log::open(dir, options()).unwrap();
    append(&log, entries.clone());
    wait(|done| log.save_vote(vote, done)).unwrap();
    log.set_applied(11);
    log.set_committed(11);
    tend(&log);
    log.close();
    (entries, vote)
}

#[test]
fn no_flipped_byte_is_served() {
    let original = temp_dir();
    let (entries, vote) = make(original.path());
    let files = ["hard_state", "synced", "lineage", "lineage.copy"].map(String::from).into_iter();
    let segments =
        read_segments(original.path()).into_iter().map(|(name, _)| format!("segments/{name}"));
    let (mut flips, mut refused, mut detected, mut harmless) = (0, 0, 0, 0);
    let dir = temp_dir();
    for name in files.chain(segments) {
        let bytes = std::fs::read(original.path().join(&name)).unwrap();
        for position in 0..bytes.len() {
            let unused = bytes[position] == 0 && !position.is_multiple_of(29);
            if unused {
                continue; // most are: one in a while will do
            }
            copy(original.path(), dir.path());
            let mut damaged = bytes.clone();
            damaged[position] ^= 1 << (position % 8);
            std::fs::write(dir.path().join(&name), damaged).unwrap();
            flips += 1;
            let options = LogOptions { sync: SyncPolicy::Never, ..options() };
            let log = match Log::open(dir.path(), options) {
                Ok((log, _)) => log,
                Err(error) => {
                    assert!(error.to_string().contains("hint: "), "{error}");
                    refused += 1;
                    continue;
                }
            };
            assert_eq!(log.vote(), Some(vote), "{name} {position}");
            assert_eq!(log.last(), Some(entries[10].id), "{name} {position}");
            let mut bad = 0;
            for entry in &entries {
                match log.read(entry.id.index..entry.id.index + 1, 1) {
                    Ok(read) => assert_eq!(read, std::slice::from_ref(entry), "{name} {position}"),
                    Err(LogError::Corrupt { .. }) => bad += 1,
                    Err(error) => panic!("{name} {position}: {error}"),
                }
            }
            match log.scan_all() {
                Ok(_) => {
                    assert_eq!(bad, 0, "{name} {position}: the scan missed it");
                    assert!(!name.starts_with("segments"), "{name} {position}: not detected");
                    harmless += 1;
                }
                Err(_) => detected += 1,
            }
        }
    }
    println!("{flips} flips: {refused} refused, {detected} detected, {harmless} in spare copies");
    assert!(refused > 0 && detected > 0 && flips > 6_000);
}

/// Makes `to` what `from` is.
fn copy(from: &Path, to: &Path) {
    for name in ["hard_state", "synced", "lineage", "lineage.copy"] {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    }
    let _ = std::fs::remove_dir_all(to.join("segments"));
    std::fs::create_dir(to.join("segments")).unwrap();
    for (name, bytes) in read_segments(from) {
        std::fs::write(to.join("segments").join(name), bytes).unwrap();
    }
}

#[test]
fn a_tear_above_the_marker_is_cut_and_kept_aside() {
    let (dir, end) = torn_log(|file, end| {
        file.write_all_at(b"INDF, and the header's other bytes are..", end).unwrap();
        file.set_len(end + 40).unwrap();
    });
    let (log, recovered) = Log::open(dir.path(), options()).unwrap();
    assert_eq!(recovered.last.unwrap().index, 2);
    let (tear, copy) = recovered.torn.unwrap();
    assert_eq!((tear.location.offset, tear.end, tear.index), (end, end + 40, 3));
    assert!(std::fs::read(copy).unwrap().starts_with(b"INDF, and"));
    append(&log, vec![entry(3, 2, 100)]);
    drop(log);
    let (_, recovered) = Log::open(dir.path(), options()).unwrap();
    assert_eq!((recovered.last.unwrap().index, recovered.torn), (3, None));
}

#[test]
fn other_bytes_above_the_marker_are_ambiguous() {
    let (dir, _) = torn_log(|file, end| file.write_all_at(&[1; 2000], end).unwrap());
    let before = read_segments(dir.path());
    let error = Log::open(dir.path(), options()).unwrap_err();
    assert!(matches!(error, OpenError::Ambiguous { first: 3, .. }), "{error}");
    assert_eq!(read_segments(dir.path()), before, "nothing is modified");
}

#[test]
fn a_tear_below_the_marker_is_corrupt() {
    let (dir, _) = torn_log(|file, end| file.set_len(end - 40).unwrap());
    let before = read_segments(dir.path());
    let error = Log::open(dir.path(), options()).unwrap_err();
    assert!(matches!(error, OpenError::Corrupt { first: 2, last: 2, .. }), "{error}");
    assert_eq!(read_segments(dir.path()), before, "nothing is modified");
}

/// A log of three entries, damaged; and where its frames ended.
fn torn_log(damage: impl FnOnce(&crate::disk::File, u64)) -> (tempfile::TempDir, u64) {
    let dir = temp_dir();
    let (log, _) = Log::open(dir.path(), options()).unwrap();
    append(&log, (0..3).map(|index| entry(index, 1, 300)).collect());
    let end = log.sizes().bytes;
    drop(log);
    let segments = Dir::open(&dir.path().join("segments"), false).unwrap();
    let name = &segments.list().unwrap()[0];
    damage(&segments.open_file(name).unwrap(), end);
    (dir, end)
}
