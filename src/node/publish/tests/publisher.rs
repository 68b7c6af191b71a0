//! What a leader makes of answers, above all of those that come late.

use std::sync::Arc;

use indelible_core::{Checkpoint, Hash};
use tokio::sync::watch;
use tokio::time::Instant;

use super::group::{NOW, Node, ORIGIN, log_key, node_key};
use crate::net::Credentials;
use crate::node::leadership::Leadership;
use crate::node::publish::askers::{Answer, CosignOutcome, Target};
use crate::node::publish::publisher::{FULL_EVERY, Publisher, State, TAKE_LATE};
use crate::node::publish::round::Round;
use crate::node::publish::waiters::Waiters;
use crate::node::publish::{cosigner, notebook};
use crate::raft::network::Network;
use crate::raft::peers::{Introduction, Known, Peers};
use crate::storage::ledger::tests::trail::{SEGMENT_BYTES, TRAIL, Trail};
use crate::storage::notes::Acceptance;

/// The leader, and rounds over its first, its second and its third tree; what it stores is on its
/// disk for as long as the trail lives.
fn leading() -> (Publisher, [Round; 3], Trail) {
    let mut node = Node::new(1);
    let mut heads = vec![node.head()];
    for _ in 0..2 {
        node.events(2);
        heads.push(node.head());
    }
    let round = |number: u64, head: &Checkpoint| {
        Round::new(number, head.clone(), node.electorates.at(head.size).unwrap())
    };
    let rounds = [round(1, &heads[0]), round(2, &heads[1]), round(3, &heads[2])];
    let me = Introduction {
        node_id: 1,
        trail_id: TRAIL,
        key: ed25519_dalek::SigningKey::from_bytes(&[1; 32]),
        segment_bytes: SEGMENT_BYTES,
        data_dir: std::env::temp_dir(),
    };
    let known = watch::channel(Known::default()).1;
    let peers = Peers::new(me, node.trail.log.clone(), Default::default(), known);
    let publisher = Publisher {
        node_id: 1,
        origin: ORIGIN.into(),
        log_key: Some(log_key()),
        ledger: node.trail.ledger.clone(),
        network: Network::new(
            Arc::new(peers),
            Credentials::clear(),
            node.trail.log.clone(),
            FULL_EVERY,
        ),
        electorates: node.electorates,
        cosigner: cosigner::Handle::start(node.cosigner).unwrap(),
        notebook: notebook::Handle::start(node.notebook).unwrap(),
        shared: node.shared,
        leadership: watch::channel(Leadership::NoLeader).1,
        waiters: Waiters::new().subscribe(),
    };
    (publisher, rounds, node.trail)
}

fn signed(node: u64, round: &Round) -> Answer {
    let said = CosignOutcome::Signed(node_key(node).cosign(&round.checkpoint, NOW));
    Answer { node, target: Arc::new(Target::of(round)), said }
}

/// Two of three sign.
fn compose(publisher: &Publisher, state: &mut State, round: Round) {
    let answers = [signed(1, &round), signed(2, &round)];
    state.current = Some((round, Instant::now()));
    answers.into_iter().for_each(|answer| publisher.answered(state, answer));
    assert!(state.current.is_none());
}

#[tokio::test]
async fn an_answer_to_a_round_that_is_over_counts() {
    let (publisher, [first, second, third], trail) = leading();
    let mut state = State::new();
    let late = signed(3, &first);
    let size = first.checkpoint.size;
    // One that does not hold, and one of a root that is not the leader's.
    let forged = Answer { node: 2, ..signed(3, &first) };
    let said = CosignOutcome::OtherRoot(Hash([4; 32]));
    let differs = Answer { node: 3, target: Arc::new(Target::of(&first)), said };
    compose(&publisher, &mut state, first);
    compose(&publisher, &mut state, second);
    state.current = Some((third, Instant::now()));
    assert!(publisher.shared.newest_signed_by(3).is_none());
    publisher.answered(&mut state, late);
    publisher.answered(&mut state, forged);
    let known = publisher.shared.newest_signed_by(3).unwrap();
    assert_eq!(known.checkpoint.size, size, "it is this node's word, on no note");
    publisher.answered(&mut state, differs);
    let evidence = format!("evidence/node-3-at-{size}.txt");
    assert!(trail.path().join(evidence).exists());
    assert!(state.current.is_some(), "the round that gathers goes on");
}

#[tokio::test]
async fn now_and_then_the_next_round_waits_for_a_slow_node_that_is_alive() {
    let (publisher, [first, second, third], _trail) = leading();
    let mut state = State::new();
    let long_ago = Instant::now() - 2 * FULL_EVERY;
    let (late, in_time) = (signed(3, &first), signed(3, &third));
    state.full_at = long_ago;
    compose(&publisher, &mut state, first);
    assert_eq!(state.patient_until, None, "nobody has heard of node 3");
    compose(&publisher, &mut state, second);
    publisher.answered(&mut state, late);
    compose(&publisher, &mut state, third);
    let until = state.patient_until.expect("it is slower than the rounds");
    assert!(until <= Instant::now() + FULL_EVERY / 5, "and not waited for for long");
    publisher.answered(&mut state, in_time);
    assert_eq!(state.patient_until, None);
    let done = state.done.as_ref().unwrap();
    assert!(done.is_full() && state.full_at > long_ago);
    while state.storing.join_next().await.is_some() {}
    let newest = publisher.shared.newest.borrow().clone().unwrap();
    assert!(newest.signed.contains_key(&3), "a note has it");
}

#[tokio::test]
async fn a_leader_refuses_appends_if_a_majority_knows_of_a_loss() {
    let (publisher, [first, second, third], _trail) = leading();
    let mut state = State::new();
    let lost = |node, round: &Round, accepted_unix_s| {
        let said = CosignOutcome::RolledBack { size: 500 + node, accepted_unix_s };
        Answer { node, target: Arc::new(Target::of(round)), said }
    };
    publisher.shared.accepted.send_replace(Acceptance { unix_s: NOW, leaf: 0 });
    // One alone; and two who have not heard yet that it was accepted.
    for (round, said) in [(first, [(3, NOW), (3, NOW)]), (second, [(2, NOW - 1), (3, NOW - 1)])] {
        let said = said.map(|(node, accepted)| lost(node, &round, accepted));
        state.current = Some((round, Instant::now()));
        said.into_iter().for_each(|said| publisher.answered(&mut state, said));
        assert!(state.storing.is_empty());
    }
    let said = [lost(2, &third, NOW), lost(3, &third, NOW)];
    state.current = Some((third, Instant::now()));
    said.into_iter().for_each(|said| publisher.answered(&mut state, said));
    while state.storing.join_next().await.is_some() {}
    assert_eq!(publisher.shared.rolled_back(), Some(502));
}

/// The third signature comes at the last moment: it has to be in the stored note.
#[tokio::test]
async fn a_note_that_nobody_replaces_takes_what_comes_within_50_ms() {
    let (mut publisher, [first, ..], _trail) = leading();
    let waiters = Waiters::new();
    publisher.waiters = waiters.subscribe();
    tokio::time::pause();
    let (late, covered) = (signed(3, &first), first.checkpoint.size);
    let mut state = State::new();
    compose(&publisher, &mut state, first);
    let composed = Instant::now();
    let due = publisher.due(Some((covered, composed)), Some(composed));
    assert!(tokio::time::timeout(TAKE_LATE, due).await.is_err(), "the next round would replace it");
    publisher.answered(&mut state, late);
    // What the loop does when it is time, before it begins the next round.
    publisher.due(Some((covered, composed)), Some(composed)).await;
    assert!(state.late_due.is_some_and(|due| due <= Instant::now()));
    publisher.add_late(&mut state);
    tokio::time::resume();
    while state.storing.join_next().await.is_some() {}
    let newest = publisher.shared.newest.borrow().clone().unwrap();
    assert_eq!(newest.signed.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
}
