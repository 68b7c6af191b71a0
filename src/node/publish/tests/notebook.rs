//! What becomes of notes: served, kept, evidence, or the end.

use indelible_core::{Checkpoint, Note};

use super::group::{NOW, Node, forge, other_root, witness_key};
use crate::node::fatal::Fatal;
use crate::node::publish::cosigner::NotSigned;
use crate::node::publish::notebook::{NotJudged, Verdict};
use crate::storage::notes::Acceptance;

/// Two nodes with the same trail.
fn two(events: u64) -> (Node, Node) {
    let (mut one, mut two) = (Node::new(1), Node::new(2));
    one.events(events);
    two.events(events);
    assert_eq!(one.head(), two.head());
    (one, two)
}

#[test]
fn a_note_that_agrees_is_durable_before_it_is_shown_and_outlives_a_restart() {
    let (mut node, _) = two(3);
    let head = node.head();
    let note = forge(&head, &[1, 2], true, NOW);
    assert_eq!(node.notebook.offer(&note).unwrap(), Verdict::Agrees);
    assert_eq!(node.newest_size(), Some(head.size));
    let node = node.restart(|_| {});
    assert_eq!(node.newest_size(), Some(head.size));
    assert_eq!(node.shared.newest.borrow().as_ref().unwrap().note, note);
    assert_eq!(node.fatal(), None);
}

#[test]
fn more_signatures_and_later_ones_replace_fewer() {
    let (mut node, _) = two(3);
    let head = node.head();
    let newest = |node: &Node| node.shared.newest.borrow().clone().unwrap();
    for (nodes, unix_s, replaces) in [
        (&[1, 2][..], NOW, true),
        (&[1, 3], NOW, false),
        (&[1, 2, 3], NOW, true),
        (&[2, 3], NOW, false),
        (&[2, 3], NOW + 10, true),
    ] {
        let note = forge(&head, nodes, true, unix_s);
        node.notebook.offer(&note).unwrap();
        assert_eq!(newest(&node).note == note, replaces, "{nodes:?} at {unix_s}");
    }
}

#[test]
fn a_node_that_lags_keeps_what_is_ahead_and_shows_it_once_it_is_there() {
    let (mut ahead, mut behind) = two(3);
    ahead.events(2);
    let first = forge(&ahead.head(), &[1, 3], true, NOW);
    let first_size = ahead.head().size;
    ahead.events(2);
    let second = forge(&ahead.head(), &[1, 3], true, NOW);
    assert_eq!(behind.notebook.offer(&first).unwrap(), Verdict::Beyond);
    assert_eq!(behind.notebook.offer(&second).unwrap(), Verdict::Beyond);
    assert_eq!((behind.newest_size(), behind.beyond_size()), (None, Some(ahead.head().size)));
    // Half of the way: the older one can be shown already.
    behind.events(2);
    behind.notebook.settle(NOW);
    assert_eq!(
        (behind.newest_size(), behind.beyond_size()),
        (Some(first_size), Some(first_size + 2))
    );
    let mut behind = behind.restart(|_| {});
    assert_eq!(behind.beyond_size(), Some(first_size + 2), "it was durable all the while");
    behind.events(2);
    behind.notebook.settle(NOW);
    assert_eq!((behind.newest_size(), behind.beyond_size()), (Some(first_size + 2), None));
    assert_eq!(behind.fatal(), None);
}

#[test]
fn a_majority_with_another_history_ends_the_node_now_and_after_a_restart() {
    let (mut node, mut other) = two(3);
    node.diverge();
    other.events(1);
    let note = forge(&other.head(), &[2, 3], true, NOW);
    assert!(matches!(node.notebook.offer(&note), Ok(Verdict::Contradicts(_))));
    assert!(matches!(node.fatal(), Some(Fatal::Diverged(_))));
    assert!(node.has_evidence(&format!("note-{}.txt", other.head().size)));
    assert_eq!(node.newest_size(), None, "it is not shown");
    // What was shown before a disk was exchanged for a consistent forgery is remembered.
    let (mut node, _) = two(3);
    node.notebook.offer(&forge(&node.head(), &[1, 2], true, NOW)).unwrap();
    let mut forged = Node::new(1);
    forged.diverge();
    forged.events(3);
    let forgery = forged.trail.path().to_owned();
    let node = node.restart(|dir| {
        forged.trail.ledger.close();
        for name in ["segments", "derived", "synced", "hard_state"] {
            replace(&forgery.join(name), &dir.join(name));
        }
    });
    assert!(matches!(node.fatal(), Some(Fatal::Diverged(_))), "{:?}", node.fatal());
}

/// Puts a file or a folder in the place of another.
fn replace(from: &std::path::Path, to: &std::path::Path) {
    if from.is_dir() {
        let _ = std::fs::remove_dir_all(to);
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            replace(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        std::fs::copy(from, to).unwrap();
    }
}

#[test]
fn a_late_contradiction_ends_a_node_that_lagged() {
    let (mut node, mut other) = two(3);
    other.events(2);
    node.notebook.offer(&forge(&other.head(), &[2, 3], true, NOW)).unwrap();
    node.diverge();
    node.events(1);
    node.notebook.settle(NOW);
    assert!(matches!(node.fatal(), Some(Fatal::Diverged(_))));
}

#[test]
fn a_note_without_a_majority_changes_nothing() {
    let (mut node, _) = two(3);
    let fork = other_root(&node.head());
    for note in [forge(&fork, &[2], true, NOW), forge(&fork, &[], true, NOW), "junk".into()] {
        assert!(matches!(node.notebook.offer(&note), Err(NotJudged::Invalid(_))));
    }
    assert_eq!((node.fatal(), node.newest_size(), node.beyond_size()), (None, None, None));
}

#[test]
fn a_witness_makes_a_note_a_witnessed_one() {
    let (mut node, _) = two(3);
    let head = node.head();
    node.notebook.offer(&forge(&head, &[1, 2], true, NOW)).unwrap();
    assert!(node.shared.witnessed.borrow().is_none());
    let mut note = Note::parse(&forge(&head, &[1, 2], true, NOW)).unwrap();
    note.signatures.push(witness_key().cosign(&head, NOW));
    node.notebook.offer(&note.to_string()).unwrap();
    let witnessed = |node: &Node| node.shared.witnessed.borrow().clone().unwrap().note.clone();
    assert_eq!(witnessed(&node), note.to_string());
    // A newer one without it does not take its place.
    node.events(1);
    node.notebook.offer(&forge(&node.head(), &[1, 2], true, NOW)).unwrap();
    assert_eq!(witnessed(&node), note.to_string());
    let node = node.restart(|_| {});
    assert_eq!(witnessed(&node), note.to_string());
    assert_eq!(node.newest_size(), Some(head.size + 1));
}

#[test]
fn evidence_stays_until_it_is_accepted_and_says_nothing_afterwards() {
    let (mut node, _) = two(3);
    let lost = Checkpoint { size: 500, ..node.head() };
    let text = forge(&lost, &[1, 2], true, NOW);
    let (note, verdict) = node.notebook.judge(&text).unwrap();
    assert_eq!(verdict, Verdict::Beyond);
    node.notebook.offer(&text).unwrap();
    node.notebook.rolled_back(note);
    assert_eq!(node.shared.rolled_back(), Some(500));
    assert_eq!(node.beyond_size(), None, "it is known what to think of it");
    assert!(node.has_evidence("rollback-500.txt"));
    // The next start knows, and does not take it for a sign that this disk alone is old.
    let mut node = node.restart(|_| {});
    assert_eq!((node.shared.rolled_back(), node.beyond_size()), (Some(500), None));
    assert!(node.shared.newest_signed_by(1).is_none());
    // The trail goes on with another history: still no reason to end the node.
    node.events(600);
    node.notebook.settle(NOW);
    assert_eq!(node.fatal(), None);
    assert_eq!(node.notebook.offer(&text).unwrap(), Verdict::Void);

    assert!(node.accept(NOW));
    assert_eq!(node.shared.rolled_back(), None);
    assert_eq!(node.notebook.judge(&text).unwrap().1, Verdict::Void);
    let mut node = node.restart(|_| {});
    assert_eq!((node.shared.rolled_back(), node.fatal()), (None, None));
    // What is signed later counts again: a second loss is evidence again.
    let later = forge(&Checkpoint { size: 5000, ..lost }, &[1, 2], true, NOW + 1);
    assert_eq!(node.notebook.judge(&later).unwrap().1, Verdict::Beyond);
    assert_eq!(
        node.notebook.offer(&forge(&node.head(), &[1, 2], true, NOW + 1)).unwrap(),
        Verdict::Agrees
    );
}

#[test]
fn what_this_node_has_signed_and_lost_stops_it_until_that_is_accepted() {
    let (mut node, _) = two(3);
    assert!(node.notebook.lost(500));
    let mut node = node.restart(|_| {});
    assert_eq!(node.shared.rolled_back(), Some(500));
    let head = node.head();
    assert!(matches!(node.cosign(&head), Err(NotSigned::RolledBack { checkpoint_size: 500 })));
    assert!(node.accept(NOW));
    assert!(node.cosign(&head).is_ok());
    assert_eq!(node.restart(|_| {}).shared.rolled_back(), None);
}

#[test]
fn what_was_accepted_counts_once_the_trail_has_the_record() {
    let (mut node, mut other) = two(3);
    let lost = forge(&Checkpoint { size: 500, ..node.head() }, &[1, 2], true, NOW);
    node.notebook.offer(&lost).unwrap();
    // Told before it is applied here, and by others of what was never accepted.
    let accepted = other.record_acceptance(NOW);
    let earlier = Acceptance { leaf: 1, ..accepted };
    let later = Acceptance { unix_s: NOW + 5, ..accepted };
    let forever = Acceptance { unix_s: i64::MAX as u64, ..accepted };
    for (peer, told) in [(1, accepted), (3, later), (4, earlier), (5, forever)] {
        node.notebook.told(peer, told, NOW);
    }
    assert_eq!((node.shared.accepted_unix_s(), node.beyond_size()), (0, Some(500)));
    assert!(*node.shared.told_waits.borrow());
    assert_eq!(node.record_acceptance(NOW), accepted);
    node.notebook.settle(NOW);
    assert_eq!(*node.shared.accepted.borrow(), accepted);
    assert_eq!(node.beyond_size(), None);
    let node = node.restart(|_| {});
    assert_eq!(*node.shared.accepted.borrow(), accepted);
}

#[test]
fn a_recorded_time_that_is_far_ahead_is_not_taken() {
    let (mut node, _) = two(3);
    for unix_s in [NOW + 61, i64::MAX as u64, u64::MAX] {
        let told = node.record_acceptance(unix_s);
        node.notebook.told(1, told, NOW);
        assert_eq!(node.shared.accepted_unix_s(), 0);
    }
    // A clock that is a little behind takes it, one that is further behind does later.
    let told = node.record_acceptance(NOW + 60);
    node.notebook.told(1, told, NOW - 1);
    assert_eq!(node.shared.accepted_unix_s(), 0);
    node.notebook.settle(NOW);
    assert_eq!(node.shared.accepted_unix_s(), NOW + 60);
}

#[test]
fn a_stolen_key_cannot_date_a_fork_back_to_before_an_acceptance() {
    for accepted in [0, NOW] {
        let (mut node, mut other) = two(3);
        node.diverge();
        other.events(1);
        assert!(node.accept(accepted));
        // Node 1 is stolen and signs for any time; node 3 is honest.
        let head = other.head();
        let mut note = Note::parse(&forge(&head, &[1], true, 0)).unwrap();
        note.signatures.push(super::group::node_key(3).cosign(&head, NOW + 1));
        node.notebook.offer(&note.to_string()).unwrap();
        assert!(matches!(node.fatal(), Some(Fatal::Diverged(_))), "accepted {accepted}");
    }
}

#[test]
fn evidence_that_turns_out_to_agree_is_withdrawn() {
    let (mut ahead, mut behind) = two(3);
    ahead.events(2);
    let text = forge(&ahead.head(), &[1, 3], true, NOW);
    let (note, _) = behind.notebook.judge(&text).unwrap();
    behind.notebook.rolled_back(note);
    assert!(behind.shared.rolled_back().is_some());
    behind.events(2);
    behind.notebook.settle(NOW);
    assert_eq!(behind.shared.rolled_back(), None, "only this node was behind");
}

#[test]
fn a_damaged_or_missing_file_of_notes_is_made_anew() {
    let (mut node, _) = two(3);
    let head = node.head();
    node.notebook.offer(&forge(&head, &[1, 2], true, NOW)).unwrap();
    node.events(1);
    node.notebook.offer(&forge(&node.head(), &[1, 2], true, NOW)).unwrap();
    let node = node.restart(|dir| {
        let path = dir.join("notes");
        let mut bytes = std::fs::read(&path).unwrap();
        let end = bytes.len() - 40;
        bytes[end] ^= 1;
        std::fs::write(path, bytes).unwrap();
    });
    assert_eq!(node.newest_size(), Some(head.size), "what is whole is kept");
    let mut node = node.restart(|dir| std::fs::remove_file(dir.join("notes")).unwrap());
    assert_eq!((node.newest_size(), node.fatal()), (None, None));
    node.notebook.offer(&forge(&node.head(), &[1, 2], true, NOW)).unwrap();
    assert_eq!(node.newest_size(), Some(head.size + 1), "and the peers have the rest");
}
