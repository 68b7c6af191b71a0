//! Whose signatures make a note: of the nodes for each other, and of the policy for everybody else.

use std::collections::BTreeMap;

use bytes::Bytes;
use indelible_core::{EntryKind, KeyType, Note, SignerKey};

use super::group::{NOW, Node, forge, log_key, membership, node_key, other_root, policy};
use crate::node::publish::electorate::Invalid;

#[test]
fn a_majority_and_the_log_make_a_note() {
    let mut node = Node::new(1);
    node.events(3);
    let head = node.head();
    let electorate = node.electorates.at(head.size).unwrap();
    let note = forge(&head, &[3, 1], true, NOW);
    let valid = electorate.check(&note).unwrap();
    assert_eq!(valid.checkpoint, head);
    assert_eq!(valid.signed, BTreeMap::from([(1, NOW), (3, NOW)]));
    assert_eq!(policy(&[1, 2, 3]).check(&Note::parse(&note).unwrap()).unwrap().unix_s, NOW);
}

#[test]
fn stolen_keys_below_a_majority_make_none() {
    let mut node = Node::new(1);
    node.events(3);
    let fork = other_root(&node.head());
    let electorate = node.electorates.at(fork.size).unwrap();
    let auditors = policy(&[1, 2, 3]);
    // The log key alone, one node's key alone, both; and a majority without the log.
    for (nodes, with_log) in [(&[][..], true), (&[2], false), (&[2], true), (&[1, 2], false)] {
        let note = forge(&fork, nodes, with_log, NOW);
        assert!(electorate.check(&note).is_err(), "{nodes:?} {with_log}");
        let note = Note::parse(&note).unwrap();
        assert!(auditors.check(&note).is_err(), "{nodes:?} {with_log}");
    }
    // One key twice is one signature.
    let twice = forge(&fork, &[2, 2, 2], true, NOW);
    assert!(matches!(electorate.check(&twice), Err(Invalid::TooFew { .. })));
    // A made-up key under a node's name is nobody's.
    let name = node_key(3).verifier().name.clone();
    let made_up = SignerKey::new(name, KeyType::Cosigner, [55; 32]).unwrap();
    let mut note = Note::parse(&forge(&fork, &[2], true, NOW)).unwrap();
    note.signatures.push(made_up.cosign(&fork, NOW));
    assert!(matches!(electorate.check(&note.to_string()), Err(Invalid::TooFew { .. })));
    assert!(auditors.check(&note).is_err());
    // A signature of a known key that does not hold spoils the note, whoever else has signed.
    let mut note = Note::parse(&forge(&fork, &[1, 2], true, NOW)).unwrap();
    note.signatures.push(node_key(3).cosign(&node.head(), NOW));
    assert!(matches!(electorate.check(&note.to_string()), Err(Invalid::Signature { .. })));
}

#[test]
fn while_a_change_is_under_way_both_majorities_sign() {
    let mut node = Node::new(1);
    let before = node.head();
    let joint = membership(&[&[1, 2, 3], &[1, 4, 5]]);
    node.trail.entry(EntryKind::Membership, joint, Bytes::new()).unwrap();
    let during = node.head();
    let after = membership(&[&[1, 4, 5]]);
    node.trail.entry(EntryKind::Membership, after, Bytes::new()).unwrap();
    let end = node.head();

    let enough = |checkpoint: &indelible_core::Checkpoint, nodes: &[u64]| {
        let electorate = node.electorates.at(checkpoint.size).unwrap();
        electorate.check(&forge(checkpoint, nodes, true, NOW)).is_ok()
    };
    assert!(enough(&before, &[2, 3]) && !enough(&before, &[4, 5]));
    assert!(!enough(&during, &[2, 3]) && !enough(&during, &[4, 5]));
    assert!(enough(&during, &[2, 3, 4, 5]) && enough(&during, &[1, 2, 4]));
    assert!(enough(&end, &[4, 5]) && !enough(&end, &[2, 3]));
    // Sizes that are not applied here are judged by the newest membership that is.
    let ahead = indelible_core::Checkpoint { size: 900, ..end.clone() };
    assert!(enough(&ahead, &[4, 5]));
    let electorate = node.electorates.at(during.size).unwrap();
    let voters: Vec<u64> = electorate.voters().map(|(id, _)| id).collect();
    assert_eq!(voters, [1, 2, 3, 4, 5]);
}

#[test]
fn the_time_of_a_note_is_that_of_a_whole_majority() {
    let node = Node::new(1);
    let electorate = node.electorates.at(node.head().size).unwrap();
    let time = |signed: &[(u64, u64)]| {
        electorate.majority_time(&signed.iter().copied().collect::<BTreeMap<_, _>>())
    };
    assert_eq!(time(&[(1, 50)]), None);
    assert_eq!(time(&[(1, 50), (2, 70)]), Some(50));
    assert_eq!(time(&[(1, 50), (2, 70), (3, 60)]), Some(60), "the newest two of three");
    assert_eq!(time(&[(1, 50), (9, 70)]), None, "strangers do not count");
}

#[test]
fn notes_of_other_trails_and_with_more_lines_are_none() {
    let node = Node::new(1);
    let electorate = node.electorates.at(1).unwrap();
    let foreign = indelible_core::Checkpoint { origin: "other.example/t".into(), ..node.head() };
    let note = forge(&foreign, &[1, 2], false, NOW);
    assert!(matches!(electorate.check(&note), Err(Invalid::Origin { .. })));
    let extended = indelible_core::Checkpoint { extensions: vec!["x".into()], ..node.head() };
    let note = forge(&extended, &[1, 2], true, NOW);
    assert!(matches!(electorate.check(&note), Err(Invalid::Extensions)));
    assert!(matches!(electorate.check("nothing"), Err(Invalid::Note(_))));
    assert_eq!(log_key().verifier().name, node.head().origin);
}
