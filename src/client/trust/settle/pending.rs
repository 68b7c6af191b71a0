//! Receipts that wait for a checkpoint, and how few questions settle many of them. Pure: no clock
//! but what is handed in, no network.

use std::sync::Arc;

use indelible_core::leaf::{LEAF_SIZE, leaf_hash};
use indelible_core::limits::{CLIENT_RECEIPTS_MAX, PROVE_LEAVES_MAX};
use indelible_core::{Hash, LeafIndex, ProducerId};
use tokio::time::Instant;

use crate::{Receipt, Receipts};

/// Foreign leaves between two of ours that are worth a second question: their hashes would come
/// with the answer, at 32 bytes each.
const GAP_MAX: u64 = 1024;

/// The receipts of one append request.
pub(crate) struct Kept {
    pub(crate) receipts: Receipts,
    pub(crate) producer: ProducerId,
    /// Who acknowledged them.
    pub(crate) node_id: u64,
    pub(crate) addr: Arc<str>,
    pub(crate) since: Instant,
}

impl Kept {
    /// One past its last leaf.
    fn end(&self) -> LeafIndex {
        let ends = self.receipts.runs().iter().map(|run| run.first_index + run.count);
        ends.max().unwrap_or(0)
    }

    fn first(&self) -> LeafIndex {
        self.receipts.runs().iter().map(|run| run.first_index).min().unwrap_or(0)
    }
}

/// Everything that waits, in order of arrival.
#[derive(Default)]
pub(crate) struct Pending {
    kept: Vec<Kept>,
    /// Receipts in them.
    count: usize,
    /// Receipts that were not kept, because there were too many.
    pub(crate) dropped: usize,
}

/// A receipt as far as settling needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) index: LeafIndex,
    pub(crate) leaf_hash: Hash,
    /// Which request, and which event of it.
    batch: usize,
    position: usize,
}

/// Consecutive leaves to ask for, and what is expected of some of them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) from: LeafIndex,
    pub(crate) to: LeafIndex,
    pub(crate) expected: Vec<Expected>,
}

impl Pending {
    pub(crate) fn add(&mut self, kept: Kept) {
        if self.count + kept.receipts.count() > CLIENT_RECEIPTS_MAX {
            self.dropped += kept.receipts.count();
            return;
        }
        self.count += kept.receipts.count();
        self.kept.push(kept);
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// The smallest tree that settles something.
    pub(crate) fn size_min(&self) -> Option<u64> {
        self.kept.iter().map(Kept::end).min()
    }

    /// The lowest leaf index that waits, and since when the oldest does.
    pub(crate) fn oldest(&self) -> Option<(LeafIndex, Instant)> {
        let first = self.kept.iter().map(Kept::first).min()?;
        Some((first, self.kept.iter().map(|kept| kept.since).min()?))
    }

    /// Takes out what a tree of this size covers whole.
    pub(crate) fn take_covered(&mut self, size: u64) -> Vec<Kept> {
        let covered: Vec<Kept> = self.kept.extract_if(.., |kept| kept.end() <= size).collect();
        self.count -= covered.iter().map(|kept| kept.receipts.count()).sum::<usize>();
        covered
    }

    /// Puts back what could not be settled this time.
    pub(crate) fn put_back(&mut self, kept: Vec<Kept>) {
        self.count += kept.iter().map(|kept| kept.receipts.count()).sum::<usize>();
        self.kept.splice(0..0, kept);
    }
}

/// The questions that settle these receipts: as few as their gaps allow.
pub(crate) fn spans(kept: &[Kept]) -> Vec<Span> {
    let mut expected: Vec<Expected> = kept.iter().enumerate().flat_map(expectations).collect();
    expected.sort_unstable_by_key(|expected| (expected.index, expected.batch, expected.position));
    let mut spans: Vec<Span> = Vec::new();
    for one in expected {
        let fits = |span: &&mut Span| {
            one.index < span.to + GAP_MAX && one.index < span.from + PROVE_LEAVES_MAX
        };
        match spans.last_mut().filter(fits) {
            Some(span) => {
                span.to = span.to.max(one.index + 1);
                span.expected.push(one);
            }
            None => {
                let (from, to) = (one.index, one.index + 1);
                spans.push(Span { from, to, expected: vec![one] });
            }
        }
    }
    spans
}

fn expectations((batch, kept): (usize, &Kept)) -> Vec<Expected> {
    let mut expected = Vec::with_capacity(kept.receipts.count());
    let mut leaves = kept.receipts.leaves().chunks_exact(LEAF_SIZE);
    for run in kept.receipts.runs() {
        for index in run.first_index..run.first_index + run.count {
            let leaf: &[u8; LEAF_SIZE] = leaves
                .next()
                .and_then(|leaf| leaf.try_into().ok())
                .expect("runs and leaves were checked against each other");
            let position = expected.len();
            expected.push(Expected { index, leaf_hash: leaf_hash(leaf), batch, position });
        }
    }
    expected
}

impl Expected {
    /// The receipt that it was made from, and the request that brought it.
    pub(crate) fn receipt<'a>(&self, kept: &'a [Kept]) -> Option<(Receipt, &'a Kept)> {
        let kept = &kept[self.batch];
        Some((kept.receipts.get(self.position)?, kept))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::producer::receipt::tests::receipts_at;

    fn kept(runs: &[(u64, u32)]) -> Kept {
        Kept {
            receipts: receipts_at(runs),
            producer: ProducerId([1; 16]),
            node_id: 1,
            addr: "n:1".into(),
            since: Instant::now(),
        }
    }

    fn bounds(kept: &[Kept]) -> Vec<(u64, u64, usize)> {
        spans(kept).iter().map(|span| (span.from, span.to, span.expected.len())).collect()
    }

    #[test]
    fn interleaved_receipts_are_one_question() {
        let all = [kept(&[(10, 3)]), kept(&[(13, 2), (20, 1)]), kept(&[(5, 1)])];
        assert_eq!(bounds(&all), [(5, 21, 7)]);
    }

    #[test]
    fn wide_gaps_and_long_runs_are_several() {
        let far = 10 + GAP_MAX;
        assert_eq!(bounds(&[kept(&[(9, 1)]), kept(&[(far, 1)])]), [(9, 10, 1), (far, far + 1, 1)]);
        assert_eq!(bounds(&[kept(&[(9, 1)]), kept(&[(far - 1, 1)])]), [(9, far, 2)]);
        let long = PROVE_LEAVES_MAX as u32 + 5;
        let end = PROVE_LEAVES_MAX;
        assert_eq!(
            bounds(&[kept(&[(0, long)])]),
            [(0, end, PROVE_LEAVES_MAX as usize), (end, end + 5, 5)]
        );
    }

    #[test]
    fn what_a_tree_covers_is_taken_out_whole() {
        let mut pending = Pending::default();
        pending.add(kept(&[(10, 3)]));
        pending.add(kept(&[(13, 2), (20, 1)]));
        assert_eq!((pending.count(), pending.size_min()), (6, Some(13)));
        assert!(pending.take_covered(12).is_empty());
        let covered = pending.take_covered(20);
        assert_eq!((covered.len(), pending.count(), pending.size_min()), (1, 3, Some(21)));
        pending.put_back(covered);
        assert_eq!((pending.count(), pending.size_min()), (6, Some(13)));
        assert_eq!(pending.oldest().map(|(first, _)| first), Some(10));
        assert_eq!(pending.take_covered(21).len(), 2);
        assert_eq!((pending.count(), pending.size_min()), (0, None));
    }

    #[test]
    fn there_is_a_limit() {
        let mut pending = Pending::default();
        let batch = 4096;
        for number in 0..=CLIENT_RECEIPTS_MAX as u64 / 4096 {
            pending.add(kept(&[(number * batch, 4096)]));
        }
        assert_eq!((pending.count(), pending.dropped), (CLIENT_RECEIPTS_MAX, 4096));
    }
}
