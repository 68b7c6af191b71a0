//! Random trails against a naive model that keeps everything.

use std::collections::BTreeMap;

use indelible_core::leaf::leaf_hash;
use indelible_core::merkle::Frontier;
use indelible_core::{Hash, Kind, Leaf, ProducerId};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::rules::verify_all;
use super::trail::{TestRecord, Trail, producer};
use crate::storage::check::check;
use crate::storage::ledger::{CommitPolicy, Rejection, SeqRun};

/// The rules once more, in the plainest form.
#[derive(Default)]
struct Model {
    /// Every leaf's event and what it was.
    leaves: Vec<(Kind, Vec<u8>)>,
    last_received: u64,
    /// Newest epoch and newest seq of every producer.
    producers: BTreeMap<ProducerId, (u64, u64)>,
    /// Leaf of every opening: whose, and under which epoch.
    openings: BTreeMap<u64, (ProducerId, u64)>,
    /// Leaf of every record of a producer.
    recorded: BTreeMap<(ProducerId, u64), u64>,
}

/// A record and, if it is an opening, of whom.
struct Proposal {
    record: TestRecord,
    opens: Option<ProducerId>,
}

impl Model {
    fn judge(&mut self, proposal: &Proposal) -> Result<(), Rejection> {
        let record = &proposal.record;
        let leaf = self.leaves.len() as u64;
        if record.received < self.last_received {
            return Err(Rejection::Time);
        }
        if let Some(id) = proposal.opens {
            let (current, last_seq) = self.producers.get(&id).copied().unwrap_or_default();
            if record.seq != current + 1 {
                return Err(Rejection::StaleEpoch { current });
            }
            self.producers.insert(id, (record.seq, last_seq));
            self.openings.insert(leaf, (id, record.seq));
        } else {
            let accepted =
                [Kind::Event, Kind::Heartbeat, Kind::Gap, Kind::Finding, Kind::Operation];
            if !accepted.contains(&record.kind) {
                return Err(Rejection::Kind);
            }
            let Some((id, epoch)) = self.openings.get(&record.opened).copied() else {
                return Err(Rejection::UnknownProducer);
            };
            let (current, last_seq) = self.producers[&id];
            match record.seq {
                _ if epoch != current => return Err(Rejection::Fenced),
                seq if seq <= last_seq => return Err(Rejection::Duplicate { last_seq }),
                seq if seq > last_seq + 1 => return Err(Rejection::Gap { expected: last_seq + 1 }),
                seq => {
                    self.producers.insert(id, (current, seq));
                    self.recorded.insert((id, seq), leaf);
                }
            }
        }
        self.last_received = record.received;
        self.leaves.push((record.kind, record.event.to_vec()));
        Ok(())
    }

    fn derive(&mut self, kind: Kind) {
        self.leaves.push((kind, Vec::new()));
    }
}

fn propose(rng: &mut StdRng, trail: &mut Trail, model: &Model) -> Proposal {
    let id = producer(rng.random_range('a'..='e'));
    let (epoch, last_seq) = model.producers.get(&id).copied().unwrap_or_default();
    // Mostly what is right, now and then what is not.
    let wrong = rng.random_bool(0.2);
    if epoch == 0 || rng.random_bool(0.1) {
        let epoch = if wrong { rng.random_range(0..epoch + 3) } else { epoch + 1 };
        return Proposal { record: trail.opening(id, epoch), opens: Some(id) };
    }
    let mut openings = model.openings.iter().filter(|(_, (owner, _))| *owner == id);
    let newest = openings.next_back().map_or(0, |(leaf, _)| *leaf);
    let mut record = trail.event(id, last_seq + 1);
    record.opened = newest;
    record.event = vec![b'x'; rng.random_range(0..40)].into();
    if wrong {
        match rng.random_range(0..5) {
            0 => record.seq = rng.random_range(0..last_seq + 4),
            1 => record.opened = rng.random_range(0..model.leaves.len() as u64 + 2),
            2 => record.received = rng.random_range(0..=record.received),
            3 => record.kind = Kind::ALL[rng.random_range(0..Kind::ALL.len())],
            _ => record.seq = last_seq,
        }
        if record.kind == Kind::ProducerOpened {
            record.kind = Kind::Heartbeat;
        }
    }
    Proposal { record, opens: None }
}

fn run(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let policy = CommitPolicy {
        leaves: rng.random_range(1..40),
        entries: rng.random_range(1..20),
        bytes: 100_000,
        producers: 100,
        wait: rng.random(),
    };
    let mut trail = Trail::started(policy);
    let mut model = Model::default();
    model.derive(Kind::Membership);
    for _ in 0..rng.random_range(1..60) {
        match rng.random_range(0..12) {
            0 => {
                trail.term += 1;
                trail.blank().expect("apply");
                model.derive(Kind::Leadership);
            }
            1 => {
                trail.membership(&[1, rng.random_range(2..9)]).expect("apply");
                model.derive(Kind::Membership);
            }
            2 => trail = trail.reopen().expect("reopen"),
            3 => trail = trail.crash().expect("reopen"),
            _ => {
                let mut records = Vec::new();
                let mut rejected = Vec::new();
                let first_leaf = model.leaves.len() as u64;
                for position in 0..rng.random_range(0..9) {
                    let proposal = propose(&mut rng, &mut trail, &model);
                    if let Err(rejection) = model.judge(&proposal) {
                        rejected.push((position, rejection));
                    }
                    records.push(proposal.record);
                }
                let applied = trail.batch(&records).expect("apply");
                assert_eq!((applied.first_leaf, applied.rejected), (first_leaf, rejected));
            }
        }
    }
    compare(&trail, &model);
    let trail = trail.reopen().expect("reopen");
    compare(&trail, &model);
    let dir = trail.close();
    let scratch = super::trail::scratch_dir();
    let report = check(dir.path(), Some(scratch.path())).expect("the check reads everything");
    assert!(report.is_sound(), "{report:#?}");
    assert_eq!(report.leaves, model.leaves.len() as u64);
}

fn compare(trail: &Trail, model: &Model) {
    verify_all(trail);
    let records = trail.ledger.records(0..u64::MAX, usize::MAX, usize::MAX).expect("records");
    assert_eq!(records.len(), model.leaves.len());
    let mut frontier = Frontier::new();
    for (position, (record, (kind, event))) in records.iter().zip(&model.leaves).enumerate() {
        let leaf = Leaf::decode(&record.leaf).expect("a leaf");
        assert_eq!((record.index, leaf.kind), (position as u64, *kind));
        let derived = matches!(kind, Kind::Leadership | Kind::Membership);
        assert!(derived || record.event == *event);
        frontier.append(leaf_hash(&record.leaf));
    }
    assert_eq!(trail.root(), frontier.root());
    for (id, (epoch, last_seq)) in &model.producers {
        let state = trail.ledger.producer(id).expect("it was opened");
        assert_eq!((state.epoch, state.last_seq), (*epoch, *last_seq));
        let runs = trail.ledger.runs(id, 0..u64::MAX).expect("runs");
        assert_dense(&runs, *last_seq);
        for run in &runs {
            for nth in 0..run.count {
                let leaf = model.recorded[&(*id, run.first_seq + nth)];
                assert_eq!(leaf, run.first_leaf + nth);
            }
        }
    }
    let _: Hash = trail.root();
}

/// Runs cover every seq once, in order.
fn assert_dense(runs: &[SeqRun], last_seq: u64) {
    let mut next = 1;
    for run in runs {
        assert_eq!(run.first_seq, next);
        next += run.count;
    }
    assert_eq!(next, last_seq + 1);
}

#[test]
fn random_trails() {
    let seeds = match std::env::var("INDELIBLE_SEED") {
        Ok(seed) => vec![seed.parse().expect("a number")],
        Err(_) => (0..40).map(|_| rand::random()).collect(),
    };
    for seed in seeds {
        println!("INDELIBLE_SEED={seed}");
        run(seed);
    }
}

/// Records of more producers than a row has runs, one at a time: older runs leave memory and are
/// found in the index.
#[test]
fn many_runs() {
    let policy = CommitPolicy { leaves: 50, ..CommitPolicy::default() };
    let mut trail = Trail::started(policy);
    let producers = ['a', 'b', 'c'].map(producer);
    for id in producers {
        trail.open(id).expect("open");
    }
    for seq in 1..=100 {
        for id in producers {
            trail.events(id, seq..=seq).expect("apply");
        }
    }
    for restarted in [false, true] {
        for (first_leaf, id) in (4..).zip(producers) {
            let runs = trail.ledger.runs(&id, 0..u64::MAX).expect("runs");
            let at =
                |seq| SeqRun { first_seq: seq, first_leaf: first_leaf + 3 * (seq - 1), count: 1 };
            assert_eq!(runs, (1..=100).map(at).collect::<Vec<_>>());
            for (from, to) in [(1, 2), (16, 18), (33, 34), (50, 100), (99, 101), (7, 7), (101, 200)]
            {
                let expected: Vec<_> = (from..to).filter(|seq| *seq <= 100).map(at).collect();
                assert_eq!(trail.ledger.runs(&id, from..to).expect("runs"), expected);
            }
        }
        if !restarted {
            trail = trail.reopen().expect("reopen");
        }
    }
    let dir = trail.close();
    let report = check(dir.path(), Some(dir.path().parent().expect("it has one")));
    let report = report.expect("the check reads everything");
    assert!(report.is_sound(), "{report:#?}");
}
