//! From signatures to a note; and a leader with two histories.

use indelible_core::{Checkpoint, Hash, Note};

use super::group::{NOW, Node, log_key, node_key, policy};
use crate::node::fatal::Fatal;
use crate::node::publish::cosigner::NotSigned;
use crate::node::publish::notebook::Verdict;
use crate::node::publish::round::Round;

fn round(node: &Node) -> Round {
    let head = node.head();
    let electorate = node.electorates.at(head.size).unwrap();
    Round::new(1, head, electorate)
}

#[test]
fn a_note_takes_a_majority_and_grows_with_late_signatures() {
    let mut node = Node::new(1);
    node.events(3);
    let head = node.head();
    let mut round = round(&node);
    round.add(1, node_key(1).cosign(&head, NOW)).unwrap();
    assert!(!round.has_majority());
    // Not by the node that sends it, not over this checkpoint, not by a member.
    let other = Checkpoint { root: Hash([4; 32]), ..head.clone() };
    assert!(round.add(2, node_key(3).cosign(&head, NOW)).is_err());
    assert!(round.add(2, node_key(2).cosign(&other, NOW)).is_err());
    assert!(round.add(7, node_key(7).cosign(&head, NOW)).is_err());
    assert!(!round.has_majority());
    round.add(3, node_key(3).cosign(&head, NOW)).unwrap();
    assert!(round.has_majority() && !round.is_full());
    let note = Note::parse(&round.compose(&log_key()).note).unwrap();
    let trusted = policy(&[1, 2, 3]).check(&note).unwrap();
    assert_eq!((trusted.checkpoint, trusted.unix_s), (head.clone(), NOW));
    assert_eq!(note.signatures.len(), 3);

    round.add(2, node_key(2).cosign(&head, NOW + 1)).unwrap();
    assert!(round.is_full());
    let note = Note::parse(&round.compose(&log_key()).note).unwrap();
    assert_eq!(note.signatures.len(), 4);
    assert_eq!(policy(&[1, 2, 3]).check(&note).unwrap().signers.len(), 4);
}

#[test]
#[should_panic(expected = "a majority has cosigned")]
fn the_log_does_not_sign_without_a_majority() {
    let node = Node::new(1);
    let head = node.head();
    let mut round = round(&node);
    round.add(1, node_key(1).cosign(&head, NOW)).unwrap();
    let _ = round.compose(&log_key());
}

#[test]
fn a_leader_against_whom_a_majority_stands_is_told() {
    let node = Node::new(1);
    let mut round = round(&node);
    round.add_other_root(2, Hash([4; 32]));
    assert_eq!(round.majority_against(), None);
    round.add_other_root(3, Hash([5; 32]));
    assert_eq!(round.majority_against(), None, "they do not agree with each other");
    round.add_other_root(3, Hash([4; 32]));
    assert_eq!(round.majority_against(), Some(Hash([4; 32])));
}

/// A corrupted leader of three, node 1, shows one history to node 2 and another to node 3. Each of
/// them signs what it holds, so both notes are valid by "a majority"; when the two meet, both nodes
/// stop.
#[test]
fn a_leader_with_two_histories_is_found_as_soon_as_the_notes_meet() {
    let (mut second, mut third) = (Node::new(2), Node::new(3));
    second.events(3);
    third.diverge();
    third.events(2);
    let (one, two) = (second.head(), third.head());
    assert_eq!(one.size, two.size);
    assert_ne!(one.root, two.root);

    // Neither signs the other's history, and each has evidence.
    let line_one = second.cosign(&one).unwrap();
    let line_two = third.cosign(&two).unwrap();
    assert!(matches!(second.cosign(&two), Err(NotSigned::OtherRoot { .. })));
    assert!(matches!(third.cosign(&one), Err(NotSigned::OtherRoot { .. })));
    assert!(second.has_evidence(&format!("asked-{}.txt", two.size)));

    // The leader's own key signs both, which no honest node does.
    let compose = |node: &Node, checkpoint: &Checkpoint, follower, line| {
        let electorate = node.electorates.at(checkpoint.size).unwrap();
        let mut round = Round::new(1, checkpoint.clone(), electorate);
        round.add(1, node_key(1).cosign(checkpoint, NOW)).unwrap();
        round.add(follower, line).unwrap();
        round.compose(&log_key()).note
    };
    let note_one = compose(&second, &one, 2, line_one);
    let note_two = compose(&third, &two, 3, line_two);
    let auditors = policy(&[1, 2, 3]);
    for note in [&note_one, &note_two] {
        assert!(auditors.check(&Note::parse(note).unwrap()).is_ok(), "a majority of three signed");
    }
    // "All nodes", or a witness besides, is not fooled.
    let witness = super::group::witness_key().verifier().clone();
    let witness = indelible_core::policy::Witness { name: "w".into(), key: witness, url: None };
    let stricter = auditors.with_witnesses(vec![witness], 1).unwrap();
    for note in [&note_one, &note_two] {
        assert!(stricter.check(&Note::parse(note).unwrap()).is_err());
    }

    assert_eq!(second.notebook.offer(&note_one).unwrap(), Verdict::Agrees);
    assert_eq!(third.notebook.offer(&note_two).unwrap(), Verdict::Agrees);
    // One round of telling each other.
    assert!(matches!(second.notebook.offer(&note_two), Ok(Verdict::Contradicts(_))));
    assert!(matches!(third.notebook.offer(&note_one), Ok(Verdict::Contradicts(_))));
    for node in [&second, &third] {
        assert!(matches!(node.fatal(), Some(Fatal::Diverged(_))));
        assert!(node.has_evidence(&format!("note-{}.txt", one.size)));
    }
}
