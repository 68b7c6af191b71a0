//! A log that lacks the end that the hard state names: older segments beside a newer hard state
//! (docs/adr/0011, rule 4).

use std::path::Path;

use super::*;
use crate::storage::hard_state::{HardStateFile, StoredVote};
use crate::storage::log::Log;
use crate::storage::log::tests::support::{append, tend};

fn vote(log: &Log, term: u64) {
    let vote = StoredVote { term, node_id: 1, committed: true };
    let (done, saved) = std::sync::mpsc::channel();
    log.save_vote(vote, Box::new(move |outcome| done.send(outcome).unwrap()));
    saved.recv().unwrap().unwrap();
}

/// A directory whose hard state names the end of `entries`, of which so many are committed.
fn named(entries: &[indelible_core::Entry], committed: u64) -> tempfile::TempDir {
    let dir = temp_dir();
    let (log, _) = Log::open(dir.path(), options()).unwrap();
    append(&log, entries.to_vec());
    log.set_committed(committed);
    log.set_applied(committed);
    tend(&log);
    vote(&log, 9);
    log.close();
    dir
}

/// Takes segments and marker from another directory.
fn put_back(dir: &Path, older: &Path) {
    let hard_state = std::fs::read(dir.join("hard_state")).unwrap();
    let lineage = std::fs::read(dir.join("lineage")).unwrap();
    copy(older, dir);
    std::fs::write(dir.join("hard_state"), hard_state).unwrap();
    for name in ["lineage", "lineage.copy"] {
        std::fs::write(dir.join(name), &lineage).unwrap();
    }
}

#[test]
fn a_log_that_lacks_its_end_is_mended_before_it_opens() {
    let entries = entries(60);
    let whole = named(&entries, 40);
    for (kept, committed) in [(59, 40), (45, 40), (44, 0), (20, 20), (0, 0)] {
        let (dir, older) = (copy_of(whole.path()), named(&entries[..kept], committed));
        put_back(dir.path(), older.path());
        let error = opens(dir.path()).unwrap_err();
        assert!(error.to_string().contains("hard_state"), "{kept}: {error}");
        let survey = lock(dir.path()).survey().unwrap();
        assert!(survey.lacks_end() && survey.damage.len() == 1, "{kept}: {:?}", survey.damage);
        assert!(survey.damage[0].from <= committed, "{kept}: {:?}", survey.damage);
        mend(dir.path(), &[whole.path()]).unwrap();
        assert_log(dir.path(), &entries);
    }
}

/// Entries of a leader that lost are not taken for what this node had acknowledged since, however
/// long that log is.
#[test]
fn entries_that_were_replaced_do_not_come_back() {
    let entries = entries(60);
    let whole = named(&entries, 30);
    let mut others = entries.clone();
    for entry in &mut others[31..] {
        entry.id.leader += 1;
    }
    for count in [58, 60] {
        let (dir, older) = (copy_of(whole.path()), named(&others[..count], 30));
        put_back(dir.path(), older.path());
        assert!(opens(dir.path()).is_err(), "{count}");
        mend(dir.path(), &[whole.path()]).unwrap();
        assert_log(dir.path(), &entries);
    }
}

/// What this node alone had is given up by the word of its peers, and the hard state says so.
#[test]
fn peers_settle_an_end_that_nobody_else_has() {
    let entries = entries(60);
    let (whole, shorter) = (named(&entries, 30), named(&entries[..50], 30));
    for kept in [20, 48, 55] {
        let (dir, older) = (copy_of(whole.path()), named(&entries[..kept], 20));
        put_back(dir.path(), older.path());
        mend(dir.path(), &[shorter.path()]).unwrap();
        assert_log(dir.path(), &entries[..50]);
        let data = crate::disk::Dir::open(dir.path(), false).unwrap();
        let end = HardStateFile::open(&data).unwrap().value().bound.unwrap().log_end;
        assert_eq!(end.entries, 50, "{kept}");
    }
    // But never what is committed.
    let dir = copy_of(whole.path());
    put_back(dir.path(), named(&entries[..55], 52).path());
    let error = mend(dir.path(), &[shorter.path()]).unwrap_err();
    assert!(matches!(error, MendError::Committed { end: 50, committed: 52 }), "{error}");
}
