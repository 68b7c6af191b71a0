//! What a node signs, and what it never does.

use indelible_core::{Checkpoint, Hash, NoteSignature};

use super::group::{NOW, Node, forge, node_key, other_root};
use crate::node::fatal::Fatal;
use crate::node::publish::cosigner::NotSigned;
use crate::storage::notes::Acceptance;
use crate::storage::signed::SignedMarker;

fn holds(node: u64, checkpoint: &Checkpoint, line: &NoteSignature) -> bool {
    node_key(node).verifier().verify(&checkpoint.to_string(), line).is_ok()
}

#[test]
fn what_it_has_applied_is_signed_and_remembered_first() {
    let mut node = Node::new(2);
    for _ in 0..3 {
        node.events(4);
        let head = node.head();
        let line = node.cosign(&head).unwrap();
        assert!(holds(2, &head, &line));
        // On the disk by the time that the signature exists.
        let on_disk = SignedMarker::open(node.trail.path()).unwrap().last();
        assert_eq!(on_disk, Some((head.size, head.root)));
    }
    // The same again, later: for freshness.
    let head = node.head();
    let again = node.cosigner.cosign(&head, NOW + 10).unwrap();
    let signed = node_key(2).verifier().verify(&head.to_string(), &again).unwrap();
    assert_eq!(signed.unix_s, Some(NOW + 10));
}

#[test]
fn what_it_has_not_applied_is_not_signed() {
    let mut node = Node::new(2);
    let mut ahead = node.head();
    ahead.size += 1;
    assert!(matches!(node.cosign(&ahead), Err(NotSigned::NotApplied { .. })));
    assert_eq!(node.cosigner.marker.last(), None, "nothing was promised");
}

#[test]
fn another_root_is_never_signed_and_leaves_evidence() {
    let mut node = Node::new(2);
    node.events(4);
    let head = node.head();
    let refused = node.cosign(&other_root(&head)).unwrap_err();
    assert!(matches!(refused, NotSigned::OtherRoot { ours } if ours == head.root), "{refused}");
    assert!(node.has_evidence(&format!("asked-{}.txt", head.size)));
    assert_eq!(node.fatal(), None, "a question alone stops nobody");
    // Nor at a smaller size that it has.
    let first = Checkpoint { size: 1, root: Hash([1; 32]), ..head.clone() };
    assert!(matches!(node.cosign(&first), Err(NotSigned::OtherRoot { .. })));
    assert!(node.cosign(&head).is_ok(), "the right one still is");
}

#[test]
fn two_roots_for_one_size_never_leave_a_node_whatever_happens_in_between() {
    let mut node = Node::new(2);
    node.events(4);
    let head = node.head();
    node.cosign(&head).unwrap();
    for _ in 0..2 {
        assert!(node.cosign(&other_root(&head)).is_err());
        node = node.restart(|_| {});
        assert_eq!(node.cosigner.marker.last(), Some((head.size, head.root)));
    }
    // Even if its tree had the other root now: it has signed this one.
    node.cosigner.marker =
        SignedMarker::restore(node.trail.path(), Some((head.size, Hash([3; 32])))).unwrap();
    assert!(matches!(node.cosign(&head), Err(NotSigned::Stopping)));
    assert!(matches!(node.fatal(), Some(Fatal::Diverged(_))), "its disk was changed: it stops");
    assert!(node.has_evidence(&format!("signed-{}.txt", head.size)));
    node.events(1);
    let head = node.head();
    assert!(matches!(node.cosign(&head), Err(NotSigned::Stopping)), "and signs nothing any more");
}

#[test]
fn nothing_is_signed_below_the_last_signature_or_below_a_known_note() {
    let mut node = Node::new(2);
    let early = node.head();
    node.events(4);
    let head = node.head();
    node.cosign(&head).unwrap();
    let refused = node.cosign(&early).unwrap_err();
    assert!(matches!(refused, NotSigned::Behind { last, .. } if last == head.size), "{refused}");

    let mut other = Node::new(3);
    let early = other.head();
    other.events(4);
    other.notebook.offer(&forge(&head, &[1, 2], true, NOW)).unwrap();
    assert!(matches!(other.cosign(&early), Err(NotSigned::Behind { .. })));
    assert!(other.cosign(&head).is_ok());
}

#[test]
fn checkpoints_of_others_and_with_more_lines_are_not_signed() {
    let mut node = Node::new(2);
    let head = node.head();
    let foreign = Checkpoint { origin: "other.example/t".into(), ..head.clone() };
    let extended = Checkpoint { extensions: vec!["more".into()], ..head.clone() };
    let empty = Checkpoint { size: 0, ..head };
    for checkpoint in [foreign, extended, empty] {
        assert!(matches!(node.cosign(&checkpoint), Err(NotSigned::Malformed { .. })));
    }
}

#[test]
fn while_everything_is_rolled_back_nothing_is_signed() {
    let mut node = Node::new(2);
    node.events(4);
    let (head, lost) = (node.head(), Checkpoint { size: 500, ..node.head() });
    let (lost, _) = node.notebook.judge(&forge(&lost, &[1, 3], true, NOW)).unwrap();
    node.notebook.rolled_back(lost);
    let refused = node.cosign(&head).unwrap_err();
    assert!(matches!(refused, NotSigned::RolledBack { checkpoint_size: 500 }), "{refused}");
    assert!(node.accept(NOW));
    let line = node.cosign(&head).unwrap();
    let signed = node_key(2).verifier().verify(&head.to_string(), &line).unwrap();
    assert_eq!(signed.unix_s, Some(NOW + 1), "never within the time that was declared void");
}

#[test]
fn no_accepted_time_is_too_late_to_sign_after() {
    let mut node = Node::new(2);
    for unix_s in [i64::MAX as u64, u64::MAX] {
        node.shared.accepted.send_replace(Acceptance { unix_s, leaf: 0 });
        let head = node.head();
        let line = node.cosign(&head).unwrap();
        assert!(holds(2, &head, &line));
    }
}

#[test]
fn an_accepted_rollback_lets_go_of_what_was_signed_of_the_lost_trail() {
    let mut node = Node::new(2);
    node.events(4);
    let head = node.head();
    let dir = node.trail.path().to_owned();
    // A marker that was not rolled back with the rest.
    node.cosigner.marker = SignedMarker::restore(&dir, Some((500, Hash([3; 32])))).unwrap();
    node.cosigner.forget();
    assert_eq!(SignedMarker::open(&dir).unwrap().last(), Some((head.size, head.root)));
    assert!(node.cosign(&head).is_ok());
    // One that the trail still has stays.
    node.events(1);
    node.cosigner.forget();
    assert_eq!(node.cosigner.marker.last(), Some((head.size, head.root)));
}

#[test]
fn an_accepted_rollback_does_not_let_go_of_what_is_not_yet_applied_again() {
    let (mut node, mut other) = (Node::new(2), Node::new(3));
    let early = node.head();
    other.events(4);
    let signed = other.head();
    let entry = node.events_to_apply(4);
    node.cosigner.marker.save(signed.size, signed.root).unwrap();
    node.cosigner.forget();
    assert_eq!(node.cosigner.marker.last(), Some((signed.size, signed.root)));
    assert!(matches!(node.cosign(&early), Err(NotSigned::Behind { .. })));
    // It was this trail's after all.
    node.trail.log.set_committed(entry.id.index + 1);
    node.trail.ledger.apply(&entry).unwrap();
    assert!(node.cosign(&signed).is_ok());
    assert!(!node.cosigner.is_undecided);

    // Or it was not, which shows once the trail is as large.
    let mut node = Node::new(2);
    let entry = node.events_to_apply(4);
    node.cosigner.marker.save(signed.size, Hash([3; 32])).unwrap();
    node.cosigner.forget();
    assert_eq!(node.cosigner.marker.last(), Some((signed.size, Hash([3; 32]))));
    node.trail.log.set_committed(entry.id.index + 1);
    node.trail.ledger.apply(&entry).unwrap();
    assert!(node.cosign(&signed).is_ok());
    assert_eq!(
        (node.cosigner.marker.last(), node.fatal()),
        (Some((signed.size, signed.root)), None)
    );
}
