//! What a start finds out about its own disk from what its peers hold.

use std::cell::RefCell;
use std::sync::Arc;

use indelible_core::{Checkpoint, Hash, Note};
use indelible_proto::raft as pb;

use super::group::{NOW, Node, forge, node_key, record_acceptance};
use crate::node::fatal::Fatal;
use crate::node::publish::notebook;
use crate::node::publish::shared::Published;
use crate::node::publish::standing::{Compared, Comparison, StandingProvider};
use crate::storage::ledger::tests::trail::Trail;
use crate::storage::notes::Acceptance;

/// Runs the comparison of a node with peers that say this.
async fn compare(node: Node, peers: &[&Node], all_rolled_back: bool) -> Result<Compared, Fatal> {
    let answers = peers.iter().map(|peer| answer(peer, node.id)).collect();
    let remembered = Some(node.cosigner.marker.last());
    compare_with(node, answers, remembered, all_rolled_back).await
}

/// What a node says to another one.
fn answer(peer: &Node, asker: u64) -> pb::StandingResponse {
    let provider =
        StandingProvider { ledger: peer.trail.ledger.clone(), shared: peer.shared.clone() };
    let mut answer = pb::StandingResponse { node_id: peer.id, open: true, ..Default::default() };
    provider.standing(asker).fill(&mut answer);
    answer
}

/// As [`compare`], of answers that may be lies.
async fn compare_with(
    node: Node,
    answers: Vec<pb::StandingResponse>,
    remembered: Option<Option<(u64, Hash)>>,
    all_rolled_back: bool,
) -> Result<Compared, Fatal> {
    let (comparison, _trail) = comparison(node, remembered, all_rolled_back);
    run(&comparison, answers).await
}

fn comparison(
    node: Node,
    remembered: Option<Option<(u64, Hash)>>,
    all_rolled_back: bool,
) -> (Comparison, Trail) {
    let comparison = Comparison {
        node_id: node.id,
        key: node_key(node.id).verifier().clone(),
        log: node.trail.log.clone(),
        ledger: node.trail.ledger.clone(),
        electorates: node.electorates.clone(),
        remembered,
        notebook: notebook::Handle::start(node.notebook).unwrap(),
        shared: node.shared.clone(),
        all_rolled_back,
        clock: || NOW,
    };
    (comparison, node.trail)
}

async fn run(
    comparison: &Comparison,
    answers: Vec<pb::StandingResponse>,
) -> Result<Compared, Fatal> {
    let asked = RefCell::new(0);
    let compared = comparison.run(|id, _| {
        *asked.borrow_mut() += 1;
        assert!(*asked.borrow() < 100, "it waits for ever");
        let answer = answers.iter().find(|answer| answer.node_id == id).cloned();
        async move { answer }
    });
    compared.await
}

/// Nodes that have all recorded, signed and kept the same.
fn group(events: u64) -> Vec<Node> {
    let mut nodes: Vec<Node> = (1..=3).map(Node::new).collect();
    for node in &mut nodes {
        node.events(events);
        sign_and_keep(node);
    }
    nodes
}

fn sign_and_keep(node: &mut Node) {
    let head = node.head();
    node.cosign(&head).unwrap();
    node.notebook.offer(&forge(&head, &[1, 2, 3], true, NOW)).unwrap();
}

#[tokio::test]
async fn a_sound_node_starts_whoever_is_ahead() {
    let mut nodes = group(3);
    let last = nodes[0].head();
    // The others have gone on without it.
    for node in &mut nodes[1..] {
        node.events(5);
        let head = node.head();
        node.notebook.offer(&forge(&head, &[2, 3], true, NOW)).unwrap();
    }
    let first = nodes.remove(0);
    let shared = first.shared.clone();
    let compared = compare(first, &[&nodes[0]], false).await.unwrap();
    assert_eq!(compared, Compared { last_signed: Some((last.size, last.root)), older: None });
    let beyond = shared.beyond.borrow().as_ref().map(|note| note.checkpoint.size);
    assert_eq!(beyond, Some(nodes[0].head().size), "the newer note is kept");
}

#[tokio::test]
async fn a_disk_that_is_older_than_its_own_signature_is_found() {
    let nodes = group(3);
    // Node 1 comes back with what it had before the three events: with notes and marker of then.
    let refused = compare(Node::new(1), &[&nodes[1]], false).await.unwrap_err();
    let Fatal::Diverged(message) = refused else { panic!("{refused}") };
    assert!(message.contains("older copy") && message.contains("never reused"), "{message}");
}

#[tokio::test]
async fn an_older_disk_is_found_even_if_only_its_lone_signature_is_known() {
    // Node 1's signature came too late for the note; the leader has seen it all the same.
    let mut nodes = group(3);
    let leader = &mut nodes[1];
    leader.events(1);
    let head = leader.head();
    let line = node_key(1).cosign(&head, NOW);
    let note = Note { text: head.to_string(), signatures: vec![line] }.to_string();
    let signed = [(1, NOW)].into();
    let alone = Published { note, checkpoint: head, unix_s: NOW, signed, witnesses: 0 };
    leader.shared.saw_signatures(&Arc::new(alone));
    let mut first = Node::new(1);
    first.events(3);
    assert!(compare(first, &[&nodes[1]], false).await.is_err());
}

#[tokio::test]
async fn what_is_in_the_log_and_not_yet_applied_is_not_lost() {
    let mut nodes = group(3);
    for node in &mut nodes[1..] {
        node.events(2);
    }
    let head = nodes[1].head();
    nodes[1].notebook.offer(&forge(&head, &[1, 2], true, NOW)).unwrap();
    // Node 1 was killed before its marker said that the last entry is committed.
    let mut first = nodes.remove(0);
    first.events_to_apply(2);
    first.cosigner.marker.save(head.size, head.root).unwrap();
    let compared = compare(first, &[&nodes[0]], false).await.unwrap();
    assert_eq!(compared.last_signed, Some((head.size, head.root)));
}

/// Node 1 with two events in its log that it has signed and not yet applied again, and what the
/// others say, of whom the last may lie.
fn killed(lie: bool) -> (Node, Vec<pb::StandingResponse>, (u64, Hash)) {
    let mut nodes = group(3);
    for node in &mut nodes[1..] {
        node.events(2);
        let head = node.head();
        node.notebook.offer(&forge(&head, &[1, 2], true, NOW)).unwrap();
    }
    let head = nodes[1].head();
    let mut first = nodes.remove(0);
    first.events_to_apply(2);
    first.cosigner.marker.save(head.size, head.root).unwrap();
    let mut answers: Vec<_> = nodes.iter().map(|node| answer(node, 1)).collect();
    if lie {
        let mut chain = answers[1].note_chain.to_vec();
        chain[7] ^= 1;
        answers[1].note_chain = chain.into();
    }
    (first, answers, (head.size, head.root))
}

#[tokio::test]
async fn one_peer_that_invents_an_entry_ends_no_node() {
    for is_first in [false, true] {
        let (first, mut answers, signed) = killed(true);
        if is_first {
            answers.swap(0, 1);
            (answers[0].node_id, answers[1].node_id) = (2, 3);
        }
        let compared = compare_with(first, answers, Some(Some(signed)), false).await.unwrap();
        assert_eq!(compared, Compared { last_signed: Some(signed), older: None });
    }
    // Nor one that has lost its memory.
    let (first, answers, signed) = killed(true);
    let compared = compare_with(first, answers, None, false).await.unwrap();
    assert_eq!(compared.last_signed, Some(signed));
}

#[tokio::test]
async fn a_node_without_its_memory_believes_two_peers_that_its_log_lacks_what_it_signed() {
    let (first, mut answers, signed) = killed(true);
    answers[0] = pb::StandingResponse { node_id: 2, ..answers[1].clone() };
    let refused = compare_with(first, answers, None, false).await.unwrap_err();
    let Fatal::Diverged(message) = refused else { panic!("{refused}") };
    assert!(message.contains(&format!("has signed tree size {}", signed.0)), "{message}");
}

#[tokio::test]
async fn another_history_is_found_at_the_start() {
    let nodes = group(3);
    let mut first = Node::new(1);
    first.diverge();
    first.events(2);
    assert_eq!(first.head().size, nodes[1].head().size);
    let refused = compare(first, &[&nodes[1]], false).await.unwrap_err();
    assert!(matches!(refused, Fatal::Diverged(_)), "{refused}");
}

#[tokio::test]
async fn a_marker_that_fell_back_is_raised_again() {
    let mut nodes = group(3);
    let mut first = nodes.remove(0);
    let head = first.head();
    first.cosigner.marker =
        crate::storage::signed::SignedMarker::restore(first.trail.path(), None).unwrap();
    let compared = compare(first, &[&nodes[0]], false).await.unwrap();
    assert_eq!(compared.last_signed, Some((head.size, head.root)));
}

#[tokio::test]
async fn a_marker_that_the_log_cannot_reach_is_found_without_any_peer_telling() {
    let node = Node::new(1);
    let mut node = node;
    let dir = node.trail.path().to_owned();
    let later = Some((700, Hash([4; 32])));
    node.cosigner.marker = crate::storage::signed::SignedMarker::restore(&dir, later).unwrap();
    let second = Node::new(2);
    assert!(matches!(compare(node, &[&second], false).await, Err(Fatal::Diverged(_))));
}

#[tokio::test]
async fn an_operator_may_say_that_all_disks_were_put_back() {
    let nodes = group(3);
    let first = Node::new(1);
    let compared = compare(first, &[&nodes[1]], true).await.unwrap();
    assert_eq!(compared.older, Some(nodes[1].head().size));
}

#[tokio::test]
async fn what_was_accepted_is_no_evidence_against_a_disk() {
    let nodes = group(3);
    let mut first = Node::new(1);
    assert!(first.accept(NOW));
    let compared = compare(first, &[&nodes[1]], false).await.unwrap();
    assert_eq!(compared, Compared { last_signed: None, older: None });
}

/// Node 1 with a note of what was lost, which it has not signed: it lagged, and was down when the
/// loss was accepted. What the others say, and the acceptance.
fn away() -> (Node, Vec<pb::StandingResponse>, Acceptance) {
    let mut nodes = group(3);
    let mut first = nodes.remove(0);
    let lost = Checkpoint { size: 500, ..first.head() };
    first.notebook.offer(&forge(&lost, &[2, 3], true, NOW)).unwrap();
    let mut accepted = Acceptance::default();
    for node in &mut nodes {
        accepted = node.record_acceptance(NOW);
        assert!(node.notebook.accept(accepted));
        node.events(600);
        let head = node.head();
        node.notebook.offer(&forge(&head, &[2, 3], true, NOW + 1)).unwrap();
    }
    let answers = nodes.iter().map(|node| answer(node, 1)).collect();
    (first, answers, accepted)
}

/// It catches up with the others, past what was lost.
async fn catch_up(comparison: &Comparison, trail: &mut Trail) {
    record_acceptance(trail, 4, NOW);
    for seqs in [5..=550, 551..=604] {
        trail.events(super::group::who(), seqs).unwrap();
        comparison.notebook.run(|notebook| notebook.settle(NOW)).await.unwrap();
        assert_eq!(*comparison.shared.fatal.borrow(), None);
    }
    let newest = comparison.shared.newest.borrow().as_ref().map(|note| note.checkpoint.size);
    assert_eq!(newest, Some(trail.size()));
}

#[tokio::test]
async fn what_was_accepted_while_a_node_was_away_is_told_at_its_start() {
    let (first, answers, accepted) = away();
    let (comparison, mut trail) = comparison(first, Some(None), false);
    run(&comparison, answers).await.unwrap();
    assert_eq!(*comparison.shared.accepted.borrow(), accepted, "both say so");
    catch_up(&comparison, &mut trail).await;
}

#[tokio::test]
async fn what_one_peer_says_was_accepted_counts_once_it_is_in_the_trail() {
    let (first, mut answers, accepted) = away();
    answers.truncate(1);
    let (comparison, mut trail) = comparison(first, Some(None), false);
    run(&comparison, answers).await.unwrap();
    assert_eq!(*comparison.shared.accepted.borrow(), Acceptance::default(), "its word alone");
    catch_up(&comparison, &mut trail).await;
    assert_eq!(*comparison.shared.accepted.borrow(), accepted);
}

#[tokio::test]
async fn nobody_is_believed_that_a_time_to_come_was_accepted() {
    let (first, mut answers, _) = away();
    for answer in &mut answers {
        answer.accepted_unix_s = NOW + 61;
    }
    let (comparison, _trail) = comparison(first, Some(None), false);
    run(&comparison, answers).await.unwrap();
    assert_eq!(*comparison.shared.accepted.borrow(), Acceptance::default());
}

#[test]
fn an_answer_names_the_entry_that_reached_the_size() {
    let mut node = Node::new(2);
    node.events(3);
    let head = node.head();
    let last = node.trail.log.last().unwrap();
    node.events(1);
    node.notebook.offer(&forge(&head, &[2, 3], true, NOW)).unwrap();
    let provider =
        StandingProvider { ledger: node.trail.ledger.clone(), shared: node.shared.clone() };
    let standing = provider.standing(3);
    let chain = node.trail.log.chain_at(last.index).unwrap();
    assert_eq!(standing.newest.entry, Some((last, chain)));
    assert_eq!(standing.signed.note, "", "the newest has the asker's signature");
    // Past what is applied here it cannot tell.
    let ahead = Checkpoint { size: 90, ..head };
    node.notebook.offer(&forge(&ahead, &[2, 3], true, NOW)).unwrap();
    let standing = provider.standing(1);
    assert_eq!(standing.newest.entry, None);
    assert!(standing.newest.note.contains("\n90\n"));
}

/// One that does not know what it has signed is no part of a majority that could know it.
#[tokio::test(start_paused = true)]
async fn a_node_that_has_lost_its_marker_asks_all_others() {
    let [node, second, third] = group(3).try_into().ok().unwrap();
    let answers = [answer(&second, node.id), answer(&third, node.id)];
    let (comparison, _trail) = comparison(node, None, false);
    let asks = |count: usize| {
        let answers = answers[..count].to_vec();
        comparison.run(move |id, _| {
            let answer = answers.iter().find(|answer| answer.node_id == id).cloned();
            async move { answer }
        })
    };
    let waited = tokio::time::timeout(std::time::Duration::from_secs(60), asks(1)).await;
    assert!(waited.is_err(), "the third one has not been heard");
    asks(2).await.unwrap();
}
