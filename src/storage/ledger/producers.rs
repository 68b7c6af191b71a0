//! All producers, in memory: who may append what next, and where their newest records are.
//!
//! The apply rules need them for every record, so they are not looked up on disk. Memory goes with
//! the number of producers and openings, not of records: runs that the index holds are dropped
//! here, but for the newest few of each producer.

use std::collections::HashMap;

use indelible_core::{LeafIndex, ProducerId};

use crate::storage::index::{Changes, IndexError, Loaded};
use crate::storage::rows::{ProducerRow, RUNS_PER_ROW, Run};

/// Where a producer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerState {
    /// Leaf of its newest opening: what its next records must name.
    pub opened: LeafIndex,
    /// Number of that opening, from 1.
    pub epoch: u64,
    /// Seq of its newest record; 0 if it has none.
    pub last_seq: u64,
    /// Leaf of its first opening.
    pub first_opened: LeafIndex,
}

/// Consecutive records of a producer at consecutive leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeqRun {
    /// Seq of the first.
    pub first_seq: u64,
    /// Leaf of the first.
    pub first_leaf: LeafIndex,
    /// How many.
    pub count: u64,
}

/// Producers by id and by opening.
#[derive(Debug, Default)]
pub(crate) struct Producers {
    /// In order of first opening; a slot is a position in here.
    producers: Vec<Producer>,
    by_id: HashMap<ProducerId, u32>,
    /// Every opening, the older ones of a producer too: a leaf names its producer by one. Grows
    /// with openings for ever, by some 24 bytes each, which is less than a tenth of what each takes
    /// as a record on the disk.
    by_opening: HashMap<LeafIndex, u32>,
    /// Slots of producers that changed since the last commit.
    touched: Vec<u32>,
    /// Openings since the last commit.
    opened: Vec<LeafIndex>,
}

#[derive(Debug, Clone)]
struct Producer {
    id: ProducerId,
    state: ProducerState,
    /// Seq of the first record in `runs`.
    runs_seq: u64,
    /// Runs of its newest records: all that the index does not have as rows of their own.
    runs: Vec<Run>,
    /// Whether it is in `touched`.
    touched: bool,
}

/// What may be forgotten of a producer once a commit is in the index: runs of records before `seq`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Prune {
    slot: u32,
    seq: u64,
}

impl Producers {
    /// As the index has them.
    pub(crate) fn load(loaded: &Loaded) -> Result<Producers, IndexError> {
        let mut all = Producers::default();
        let damaged = |id: &ProducerId| IndexError::Row { key: format!("70{id}") };
        for (id, row) in &loaded.producers {
            let state = ProducerState {
                opened: row.opened,
                epoch: row.epoch,
                last_seq: row.last_seq,
                first_opened: row.first_opened,
            };
            let (runs, runs_seq) = (row.runs.clone(), row.runs_seq);
            all.by_id.insert(*id, all.producers.len() as u32);
            all.producers.push(Producer { id: *id, state, runs_seq, runs, touched: false });
        }
        for (leaf, id) in &loaded.openings {
            let slot = *all.by_id.get(id).ok_or_else(|| damaged(id))?;
            all.by_opening.insert(*leaf, slot);
        }
        // Every producer's newest opening must be among them, or its next record would be refused.
        match all
            .producers
            .iter()
            .find(|producer| !all.by_opening.contains_key(&producer.state.opened))
        {
            Some(producer) => Err(damaged(&producer.id)),
            None => Ok(all),
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.producers.len()
    }

    /// Where a producer stands; none if it was never opened.
    pub(crate) fn get(&self, id: &ProducerId) -> Option<ProducerState> {
        Some(self.producers[*self.by_id.get(id)? as usize].state)
    }

    /// The producer that was opened at this leaf, perhaps again since; none if there was no
    /// opening.
    pub(crate) fn by_opening(&self, opened: LeafIndex) -> Option<(u32, ProducerState)> {
        let slot = *self.by_opening.get(&opened)?;
        Some((slot, self.producers[slot as usize].state))
    }

    /// Records an opening at a leaf. The rules have accepted it.
    pub(crate) fn open(&mut self, id: ProducerId, epoch: u64, leaf: LeafIndex) {
        let next = self.producers.len() as u32;
        let slot = *self.by_id.entry(id).or_insert(next);
        if slot == next {
            let state = ProducerState { opened: leaf, epoch: 0, last_seq: 0, first_opened: leaf };
            let runs = Vec::new();
            self.producers.push(Producer { id, state, runs_seq: 1, runs, touched: false });
        }
        let producer = &mut self.producers[slot as usize];
        assert_eq!(producer.state.epoch + 1, epoch, "epochs have no gaps");
        producer.state.opened = leaf;
        producer.state.epoch = epoch;
        let taken = self.by_opening.insert(leaf, slot);
        assert!(taken.is_none(), "leaf {leaf} opened two producers");
        self.opened.push(leaf);
        self.touch(slot);
    }

    /// Records a producer's next record at a leaf. The rules have accepted it.
    pub(crate) fn record(&mut self, slot: u32, leaf: LeafIndex) {
        let producer = &mut self.producers[slot as usize];
        producer.state.last_seq += 1;
        match producer.runs.last_mut() {
            Some(run) if run.first_leaf + run.count == leaf => run.count += 1,
            last => {
                assert!(last.is_none_or(|run| run.first_leaf + run.count < leaf), "leaves grow");
                producer.runs.push(Run { first_leaf: leaf, count: 1 });
            }
        }
        self.touch(slot);
    }

    fn touch(&mut self, slot: u32) {
        let producer = &mut self.producers[slot as usize];
        if !producer.touched {
            producer.touched = true;
            self.touched.push(slot);
        }
    }

    /// Producers that changed since the last commit.
    pub(crate) fn touched(&self) -> usize {
        self.touched.len()
    }

    /// Runs of a producer that are in memory; none if it was never opened.
    pub(crate) fn runs(&self, id: &ProducerId) -> Option<(ProducerState, Vec<SeqRun>)> {
        let producer = &self.producers[*self.by_id.get(id)? as usize];
        Some((producer.state, with_seqs(producer.runs_seq, &producer.runs)))
    }

    /// Puts everything that changed since the last commit into `changes`. What it returns may be
    /// forgotten once they are in the index; until then lookups need it here.
    pub(crate) fn commit(&mut self, changes: &mut Changes) -> Vec<Prune> {
        let mut prunes = Vec::new();
        for leaf in self.opened.drain(..) {
            let producer = &self.producers[self.by_opening[&leaf] as usize];
            changes.opening(leaf, &producer.id);
        }
        for slot in self.touched.drain(..) {
            let producer = &mut self.producers[slot as usize];
            producer.touched = false;
            // Whole rows of older runs; the newest run always stays, since it may still grow.
            let (mut seq, mut rest) = (producer.runs_seq, &producer.runs[..]);
            while rest.len() > RUNS_PER_ROW {
                let (row, newer) = rest.split_at(RUNS_PER_ROW);
                changes.runs(producer.state.first_opened, seq, row);
                seq += records(row);
                rest = newer;
            }
            let state = producer.state;
            let row = ProducerRow {
                opened: state.opened,
                epoch: state.epoch,
                last_seq: state.last_seq,
                first_opened: state.first_opened,
                runs_seq: seq,
                runs: rest.to_vec(),
            };
            changes.producer(&producer.id, &row);
            if seq != producer.runs_seq {
                prunes.push(Prune { slot, seq });
            }
        }
        prunes
    }

    /// Forgets runs that the index holds.
    pub(crate) fn prune(&mut self, prunes: &[Prune]) {
        for prune in prunes {
            let producer = &mut self.producers[prune.slot as usize];
            let mut rows = 0;
            while producer.runs_seq < prune.seq {
                producer.runs_seq += producer.runs[rows].count;
                rows += 1;
            }
            // A later commit may have written more of them already, but never a run in part.
            assert_eq!(producer.runs_seq, prune.seq, "rows end between runs");
            producer.runs.drain(..rows);
            producer.runs.shrink_to(RUNS_PER_ROW);
        }
    }

    /// Every producer with the runs that are in memory, in order of first opening: for the offline
    /// check.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ProducerId, ProducerState, u64, &[Run])> {
        self.producers.iter().map(|p| (&p.id, p.state, p.runs_seq, &p.runs[..]))
    }

    /// Every opening, in no order.
    pub(crate) fn openings(&self) -> impl Iterator<Item = (LeafIndex, &ProducerId)> {
        self.by_opening.iter().map(|(leaf, slot)| (*leaf, &self.producers[*slot as usize].id))
    }
}

fn records(runs: &[Run]) -> u64 {
    runs.iter().map(|run| run.count).sum()
}

/// Runs that start with `seq`, each with its own first seq.
pub(crate) fn with_seqs(mut seq: u64, runs: &[Run]) -> Vec<SeqRun> {
    let number = |run: &Run| {
        let first_seq = seq;
        seq += run.count;
        SeqRun { first_seq, first_leaf: run.first_leaf, count: run.count }
    };
    runs.iter().map(number).collect()
}
