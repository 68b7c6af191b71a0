//! Tests of the log.

mod support;

use support::*;

#[test]
fn appends_are_read_back_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let entries: Vec<_> = (0..200).map(|index| entry(index, 1, 100 + index as usize)).collect();
    let (log, recovered) = Log::open(dir.path(), options()).unwrap();
    assert_eq!(recovered.last, None);
    for chunk in entries.chunks(7) {
        append(&log, chunk.to_vec());
    }
    assert_eq!(log.read(0..200, usize::MAX).unwrap(), entries);
    let vote = StoredVote { term: 3, node_id: 2, committed: true };
    wait(|done| log.save_vote(vote, done)).unwrap();
    log.set_applied(200);
    log.set_committed(150);
    drop(log);

    let (log, recovered) = Log::open(dir.path(), options()).unwrap();
    assert_eq!(recovered.last, Some(entries[199].id));
    assert_eq!(recovered.vote, Some(vote));
    assert_eq!(recovered.boot_count, 2);
    assert_eq!(recovered.committed, 150);
    assert_eq!(log.read(0..200, usize::MAX).unwrap(), entries);
    for entry in &entries {
        let location = log.locate(entry.id.index).unwrap();
        assert_eq!(log.read_at(location).unwrap().0, *entry);
        assert_eq!(log.read(entry.id.index..200, 1).unwrap(), vec![entry.clone()]);
    }
    assert_eq!(log.scan_all().unwrap(), 200);
    append(&log, vec![entry(200, 1, 10)]);
    assert_eq!(log.last().unwrap().index, 200);
}
