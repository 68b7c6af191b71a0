//! Cuts, flips, full and missing files.

use super::*;

fn temp() -> (tempfile::TempDir, Notes) {
    let temp = tempfile::tempdir().unwrap();
    Notes::create(&Dir::open(temp.path(), true).unwrap()).unwrap();
    let notes = Notes::open(temp.path()).unwrap();
    (temp, notes)
}

fn text(size: u64) -> String {
    format!("origin\n{size}\n{}\n\n— a signature\n", "root ".repeat(size as usize % 200))
}

fn note(size: u64) -> Arc<StoredNote> {
    Arc::new(StoredNote { kind: NoteKind::Cosigned, size, text: text(size) })
}

fn sizes(notes: &Notes) -> Vec<u64> {
    notes.all().unwrap().iter().map(|note| note.size).collect()
}

#[test]
fn notes_survive_a_restart() {
    let (temp, notes) = temp();
    assert_eq!((notes.newest(), notes.newest_witnessed()), (None, None));
    notes.append(NoteKind::Cosigned, 3, &text(3)).unwrap();
    notes.append(NoteKind::Witnessed, 2, &text(2)).unwrap();
    notes.append(NoteKind::Cosigned, 3, "the same size, later\n").unwrap();
    for notes in [notes, Notes::open(temp.path()).unwrap()] {
        assert_eq!(sizes(&notes), [3, 2, 3]);
        assert_eq!(notes.newest().unwrap().text, "the same size, later\n");
        assert_eq!(notes.newest_witnessed().unwrap().text, text(2));
    }
}

#[test]
fn an_accepted_rollback_voids_what_came_before() {
    let (temp, notes) = temp();
    notes.append(NoteKind::Cosigned, 30, &text(30)).unwrap();
    let accepted = Acceptance { unix_s: 1000, leaf: 12 };
    notes.accept(accepted).unwrap();
    assert_eq!((notes.newest(), notes.accepted()), (None, accepted));
    notes.append(NoteKind::Cosigned, 20, &text(20)).unwrap();
    let notes = Notes::open(temp.path()).unwrap();
    assert_eq!(notes.newest().unwrap().size, 20);
    assert_eq!(notes.accepted(), accepted);
}

#[test]
fn what_was_lost_counts_until_it_is_accepted() {
    let (temp, notes) = temp();
    [30, 20].into_iter().for_each(|size| notes.lost(size).unwrap());
    notes.append(NoteKind::Cosigned, 3, &text(3)).unwrap();
    for notes in [notes, Notes::open(temp.path()).unwrap()] {
        assert_eq!((notes.newest_lost(), sizes(&notes)), (Some(30), vec![3]));
    }
    let notes = Notes::open(temp.path()).unwrap();
    notes.accept(Acceptance { unix_s: 1000, leaf: 12 }).unwrap();
    for notes in [notes, Notes::open(temp.path()).unwrap()] {
        assert_eq!(notes.newest_lost(), None);
    }
}

#[test]
fn an_acceptance_without_its_leaf_is_read() {
    let record = Record::Accepted(Acceptance { unix_s: 1000, leaf: 0 });
    let mut bytes = record.encode(0);
    bytes.truncate(RECORD_HEADER_SIZE);
    bytes[12..16].fill(0);
    bytes[24..28].copy_from_slice(&crc32c::crc32c_append(seed(0), &[]).to_le_bytes());
    let crc = crc32c::crc32c_append(seed(0), &bytes[8..]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(Record::decode(&bytes, 0).unwrap(), (record, RECORD_HEADER_SIZE));
}

#[test]
fn every_cut_leaves_the_notes_before() {
    let (temp, notes) = temp();
    (1..=4).for_each(|size| notes.append(NoteKind::Cosigned, size, &text(size * 50)).unwrap());
    let path = temp.path().join(NOTES_FILE);
    drop(notes);
    let bytes = std::fs::read(&path).unwrap();
    let ends: Vec<usize> = {
        let mut ends = vec![RECORDS_START];
        while ends[ends.len() - 1] < bytes.len() {
            ends.push(Record::decode(&bytes, ends[ends.len() - 1]).unwrap().1);
        }
        ends
    };
    for cut in RECORDS_START..=bytes.len() {
        let whole = ends.iter().filter(|end| **end <= cut).count() as u64 - 1;
        let sector = cut.is_multiple_of(SECTOR);
        for zeros in [0, 3000] {
            // What follows the last whole record, and only that, may be zeros.
            let mut torn = bytes[..cut].to_vec();
            torn.resize(cut + zeros, 0);
            if zeros > 0 && !sector && !ends.contains(&cut) {
                continue;
            }
            std::fs::write(&path, torn).unwrap();
            let notes = Notes::open(temp.path()).unwrap();
            assert_eq!(sizes(&notes), (1..=whole).collect::<Vec<_>>(), "{cut} {zeros}");
            notes.append(NoteKind::Cosigned, 9, &text(9)).unwrap();
            let newest = Notes::open(temp.path()).unwrap().newest().unwrap();
            assert_eq!(newest.size, 9, "{cut} {zeros}");
        }
    }
}

#[test]
fn every_flipped_bit_is_found_and_the_rest_recovered() {
    let (temp, notes) = temp();
    (1..=4).for_each(|size| notes.append(NoteKind::Cosigned, size, &text(size)).unwrap());
    let path = temp.path().join(NOTES_FILE);
    let killed = std::fs::read(&path).unwrap();
    drop(notes);
    let closed = std::fs::read(&path).unwrap();
    // Zeros behind the last record do not make damage to it a tear.
    assert!(killed.starts_with(&closed) && killed.len() > closed.len() + SECTOR);
    let killed = &killed[..closed.len() + 2 * SECTOR];
    let last = closed.len() - Record::Note(note(4)).encode(0).len();
    for (bytes, first) in [(&closed[..], 0), (killed, last)] {
        for position in first..closed.len() {
            let mut flipped = bytes.to_vec();
            flipped[position] ^= 1 << (position % 8);
            std::fs::write(&path, &flipped).unwrap();
            let error = Notes::open(temp.path()).unwrap_err();
            assert!(matches!(error, NotesError::Damaged { .. }), "{position}: {error}");
            assert!(error.to_string().contains("hint: "));
            let (notes, whole) = Notes::recover(temp.path()).unwrap();
            let expected = if position < RECORDS_START { 4 } else { 3 };
            assert_eq!((whole, sizes(&notes).len()), (expected, expected), "{position}");
            Notes::open(temp.path()).unwrap();
        }
    }
    let quarantine = std::fs::read_dir(temp.path().join("quarantine")).unwrap().count();
    assert_eq!(quarantine, 2 * closed.len() - last);
}

#[test]
fn a_missing_file_is_made_anew() {
    let (temp, _) = temp();
    std::fs::remove_file(temp.path().join(NOTES_FILE)).unwrap();
    let error = Notes::open(temp.path()).unwrap_err();
    assert!(matches!(error, NotesError::Missing { .. }), "{error}");
    assert_eq!(Notes::recover(temp.path()).unwrap().1, 0);
    assert!(sizes(&Notes::open(temp.path()).unwrap()).is_empty());
}

#[test]
fn a_full_file_keeps_what_counts() {
    let (temp, notes) = temp();
    notes.writer().bytes_max = 200_000;
    notes.append(NoteKind::Witnessed, 1, &text(1)).unwrap();
    let accepted = Acceptance { unix_s: 77, leaf: 5 };
    notes.accept(accepted).unwrap();
    notes.lost(78).unwrap();
    notes.append(NoteKind::Witnessed, 2, &text(2)).unwrap();
    notes.append(NoteKind::Cosigned, 1_000_000, &text(2)).unwrap();
    (3..3000).for_each(|size| notes.append(NoteKind::Cosigned, size, &text(size % 9)).unwrap());
    let length = std::fs::metadata(temp.path().join(NOTES_FILE)).unwrap().len();
    assert!(length <= 200_000 + RESERVE_BYTES as u64, "{length}");
    for notes in [notes, Notes::open(temp.path()).unwrap()] {
        assert_eq!(notes.newest().unwrap().size, 1_000_000);
        assert_eq!(notes.newest_witnessed().unwrap().size, 2);
        assert_eq!((notes.accepted(), notes.newest_lost()), (accepted, Some(78)));
        assert!(sizes(&notes).ends_with(&[2998, 2999]) && sizes(&notes).len() > NOTES_KEPT);
    }
}
