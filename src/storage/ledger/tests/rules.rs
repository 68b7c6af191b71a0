//! The apply rules, one by one.

use indelible_core::leaf::leaf_hash;
use indelible_core::merkle::{verify_consistency, verify_inclusion};
use indelible_core::{Kind, ProducerId};

use super::trail::{EVERY_ENTRY, NEVER, TRAIL, TestRecord, Trail, membership, producer};
use crate::storage::ledger::{EntryFault, LedgerError, Rejection, SeqRun};

const A: char = 'a';

fn with_a() -> Trail {
    let mut trail = Trail::started(NEVER);
    trail.open(producer(A)).expect("open a");
    trail
}

fn rejections(trail: &mut Trail, records: &[TestRecord]) -> Vec<(u32, Rejection)> {
    let before = trail.size();
    let applied = trail.batch(records).expect("apply");
    assert_eq!(applied.first_leaf, before);
    assert_eq!(trail.size(), before + u64::from(applied.accepted));
    applied.rejected
}

#[test]
fn a_retry_is_a_duplicate_and_a_skip_a_gap() {
    let mut trail = with_a();
    let a = producer(A);
    let records = [1, 2, 2, 1, 4, 3].map(|seq| trail.event(a, seq));
    assert_eq!(
        rejections(&mut trail, &records),
        [
            (2, Rejection::Duplicate { last_seq: 2 }),
            (3, Rejection::Duplicate { last_seq: 2 }),
            (4, Rejection::Gap { expected: 3 }),
        ]
    );
    let zero = trail.event(a, 0);
    assert_eq!(rejections(&mut trail, &[zero]), [(0, Rejection::Duplicate { last_seq: 3 })]);
    assert_eq!(trail.ledger.producer(&a).expect("known").last_seq, 3);
}

#[test]
fn an_older_opening_is_fenced_and_seq_goes_on() {
    let mut trail = with_a();
    let a = producer(A);
    trail.events(a, 1..=2).expect("apply");
    trail.open(a).expect("open again");
    let old = TestRecord { opened: 1, ..trail.event(a, 3) };
    let new = trail.event(a, 3);
    assert_eq!(rejections(&mut trail, &[old, new]), [(0, Rejection::Fenced)]);
    let state = trail.ledger.producer(&a).expect("known");
    assert_eq!((state.epoch, state.last_seq, state.first_opened, state.opened), (2, 3, 1, 4));
}

#[test]
fn an_opening_has_the_next_epoch() {
    let mut trail = with_a();
    let [same, skipped] = [1, 3].map(|epoch| trail.opening(producer(A), epoch));
    let [zero, two] = [0, 2].map(|epoch| trail.opening(producer('b'), epoch));
    let max = trail.opening(producer(A), u64::MAX);
    assert_eq!(
        rejections(&mut trail, &[same, skipped, zero, two, max]),
        [
            (0, Rejection::StaleEpoch { current: 1 }),
            (1, Rejection::StaleEpoch { current: 1 }),
            (2, Rejection::StaleEpoch { current: 0 }),
            (3, Rejection::StaleEpoch { current: 0 }),
            (4, Rejection::StaleEpoch { current: 1 }),
        ]
    );
}

#[test]
fn an_opening_must_be_one() {
    let mut trail = with_a();
    let sound = trail.opening(producer('b'), 1);
    let wrong_seq = TestRecord { seq: 2, ..sound.clone() };
    let wrong_opened = TestRecord { opened: 1, ..sound.clone() };
    let garbage = TestRecord { event: "\u{1}garbage".into(), ..sound.clone() };
    let nobody = TestRecord { event: trail.opening(ProducerId::default(), 1).event, ..sound };
    let kind = |position| (position, Rejection::Kind);
    assert_eq!(
        rejections(&mut trail, &[wrong_seq, wrong_opened, garbage, nobody]),
        [kind(0), kind(1), kind(2), kind(3)]
    );
    assert_eq!(trail.ledger.producers(), 1);
}

#[test]
fn only_leaves_of_openings_open() {
    let mut trail = with_a();
    trail.events(producer(A), 1..=1).expect("apply");
    for opened in [0, 2, 3, 4, u64::MAX] {
        let record = TestRecord { opened, ..trail.event(producer(A), 2) };
        assert_eq!(rejections(&mut trail, &[record]), [(0, Rejection::UnknownProducer)]);
    }
}

#[test]
fn a_producer_may_be_used_in_the_batch_that_opens_it() {
    let mut trail = Trail::started(NEVER);
    let opening = trail.opening(producer(A), 1);
    let event = TestRecord { opened: 1, ..trail.event(producer(A), 1) };
    assert_eq!(rejections(&mut trail, &[opening, event]), []);
}

#[test]
fn kinds_that_nobody_may_propose() {
    let mut trail = with_a();
    let accepted = [
        Kind::Event,
        Kind::ProducerOpened,
        Kind::Heartbeat,
        Kind::Gap,
        Kind::Finding,
        Kind::Operation,
    ];
    for kind in Kind::ALL.into_iter().filter(|kind| !accepted.contains(kind)) {
        let record = TestRecord { kind, ..trail.event(producer(A), 1) };
        assert_eq!(rejections(&mut trail, &[record]), [(0, Rejection::Kind)], "{kind:?}");
    }
    for (seq, kind) in (1..).zip(accepted.into_iter().filter(|k| *k != Kind::ProducerOpened)) {
        let record = TestRecord { kind, ..trail.event(producer(A), seq) };
        assert_eq!(rejections(&mut trail, &[record]), [], "{kind:?}");
    }
}

#[test]
fn time_never_runs_backwards() {
    let mut trail = with_a();
    let now = trail.event(producer(A), 1);
    let same = TestRecord { received: now.received, ..trail.event(producer(A), 2) };
    let earlier = TestRecord { received: now.received - 1, ..trail.event(producer(A), 3) };
    let rejected_time = now.received - 1;
    assert_eq!(rejections(&mut trail, &[now, same, earlier]), [(2, Rejection::Time)]);
    let head = *trail.ledger.head().borrow();
    assert_eq!(head.last_received, rejected_time + 1);
    // A derived record repeats the time of the leaf before it.
    trail.blank().expect("apply");
    assert_eq!(trail.ledger.head().borrow().last_received, rejected_time + 1);
}

#[test]
fn a_trail_begins_with_its_membership() {
    let mut trail = Trail::new(NEVER);
    let fault = |result: Result<_, LedgerError>| match result {
        Err(LedgerError::Entry { index: 0, fault }) => fault,
        other => panic!("{other:?}"),
    };
    let result = trail.blank();
    assert_eq!(fault(result.map(drop)), EntryFault::NoGenesis);

    let mut trail = Trail::new(NEVER);
    let other = indelible_core::TrailId([8; 16]);
    let payload = membership(other, &[1]);
    let result = trail.entry(indelible_core::EntryKind::Membership, payload, Default::default());
    assert_eq!(fault(result.map(drop)), EntryFault::OtherTrail { expected: TRAIL });
    assert_eq!(trail.size(), 0);
}

#[test]
fn entries_come_in_order() {
    let mut trail = with_a();
    let (head, body) = trail.encode(&[]);
    let entry = trail.append_only(indelible_core::EntryKind::Batch, head, body);
    trail.ledger.apply(&entry).expect("apply");
    let result = trail.ledger.apply(&entry);
    assert!(
        matches!(result, Err(LedgerError::OutOfOrder { expected: 3, actual: 2 })),
        "{result:?}"
    );
}

/// Everything that can be asked of a small trail, before and after a restart.
#[test]
fn records_and_proofs_of_a_small_trail() {
    let mut trail = Trail::started(EVERY_ENTRY);
    let a = producer(A);
    trail.open(a).expect("open");
    trail.events(a, 1..=5).expect("apply");
    trail.blank().expect("apply");
    trail.events(a, 4..=9).expect("apply");
    verify_all(&trail);
    let run = |first_seq, first_leaf, count| SeqRun { first_seq, first_leaf, count };
    let runs = trail.ledger.runs(&a, 0..u64::MAX).expect("runs");
    assert_eq!(runs, [run(1, 2, 5), run(6, 8, 4)]);
    let (root, size) = (trail.root(), trail.size());
    let trail = trail.reopen().expect("reopen");
    assert_eq!((trail.root(), trail.size()), (root, size));
    verify_all(&trail);
    assert_eq!(trail.ledger.runs(&a, 3..7).expect("runs"), [run(3, 4, 3), run(6, 8, 1)]);
}

/// Reads every record one by one and together, and verifies every proof at every size.
pub(super) fn verify_all(trail: &Trail) {
    let (ledger, size) = (&trail.ledger, trail.size());
    let all = ledger.records(0..u64::MAX, usize::MAX, usize::MAX).expect("records");
    assert_eq!(all.len() as u64, size);
    assert_eq!(ledger.record(size).expect("record"), None);
    let roots: Vec<_> = (0..=size).map(|size| ledger.root_at(size).expect("root")).collect();
    assert_eq!(roots[size as usize], trail.root());
    for record in &all {
        let alone = ledger.record(record.index).expect("record").expect("it is there");
        assert_eq!(alone, *record);
        for size in record.index + 1..=size {
            let proof = ledger.prove(record.index, size).expect("proof");
            let hash = leaf_hash(&record.leaf);
            verify_inclusion(record.index, size, &hash, &proof, &roots[size as usize])
                .expect("the proof holds");
        }
    }
    for new in 0..=size {
        for old in 0..=new {
            let proof = ledger.prove_consistency(old, new).expect("proof");
            let (old_root, new_root) = (&roots[old as usize], &roots[new as usize]);
            verify_consistency(old, new, &proof, old_root, new_root).expect("the proof holds");
        }
    }
}
