//! The apply rules, set 1: which records of a batch become leaves.
//!
//! A pure function of the log: every node that applies the same entries accepts the same records,
//! for ever. So nothing here reads a clock, a setting or a limit that can be tuned, and a rule is
//! never changed: a new set gets a new number, and old entries keep theirs. The rules are tried in
//! the order in which [`decide`] lists them; the first that refuses names the reason.

use indelible_core::limits::PRODUCERS_MAX;
use indelible_core::{Batch, Kind, Leaf, LeafIndex, ProducerId};
use indelible_proto::v1::ProducerOpened;
use prost::Message;

use super::producers::Producers;
use crate::storage::rows::Positions;

/// Why a record of a committed batch did not become a leaf. The same on every node; never a failure
/// of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The producer's record with this seq is in the trail already.
    #[error("duplicate: the producer's newest record is {last_seq}")]
    Duplicate {
        /// Seq of the producer's newest record.
        last_seq: u64,
    },
    /// A record of the producer before this one is missing.
    #[error("gap: the producer's next record is {expected}")]
    Gap {
        /// The seq that would have been accepted.
        expected: u64,
    },
    /// The producer was opened again since: somebody else writes in its name now.
    #[error("fenced: the producer was opened again")]
    Fenced,
    /// `opened` is not the leaf of any opening.
    #[error("no producer was opened at that leaf")]
    UnknownProducer,
    /// An opening whose epoch is not one more than the producer's newest.
    #[error("stale epoch: the producer's newest is {current}")]
    StaleEpoch {
        /// The producer's newest epoch; 0 if it was never opened.
        current: u64,
    },
    /// A kind that this rule set does not accept in a batch, or fields that the kind does not
    /// allow.
    #[error("the record's kind is not accepted, or its fields do not fit it")]
    Kind,
    /// `received` is smaller than that of the leaf before.
    #[error("received before the record before it")]
    Time,
    /// The trail knows as many producers as it may.
    #[error("too many producers")]
    TooManyProducers,
}

/// What the rules make of a batch.
#[derive(Debug, Default)]
pub(crate) struct Decision {
    /// Records that become leaves.
    pub(crate) accepted: u32,
    /// The others: position in the batch, and why.
    pub(crate) rejected: Vec<(u32, Rejection)>,
}

/// Applies a batch to the producers. `last_received` is that of the newest leaf, before and after.
pub(crate) fn decide(
    batch: &Batch,
    producers: &mut Producers,
    tree_size: u64,
    last_received: &mut u64,
) -> Decision {
    let mut decision = Decision::default();
    for (position, leaf) in batch.leaves.iter().enumerate() {
        let index = tree_size + u64::from(decision.accepted);
        let verdict = match leaf.kind {
            _ if leaf.received < *last_received => Err(Rejection::Time),
            Kind::ProducerOpened => open(leaf, &batch.event(position), producers, index),
            Kind::Event | Kind::Heartbeat | Kind::Gap | Kind::Finding | Kind::Operation => {
                record(leaf, producers, index)
            }
            _ => Err(Rejection::Kind),
        };
        match verdict {
            Ok(()) => {
                decision.accepted += 1;
                *last_received = leaf.received;
            }
            Err(rejection) => decision.rejected.push((position as u32, rejection)),
        }
    }
    assert_eq!(decision.accepted as usize + decision.rejected.len(), batch.count());
    decision
}

/// An opening: of a new producer with epoch 1, of a known one with the next epoch.
fn open(
    leaf: &Leaf,
    event: &[u8],
    producers: &mut Producers,
    index: LeafIndex,
) -> Result<(), Rejection> {
    let event = ProducerOpened::decode(event).map_err(|_| Rejection::Kind)?;
    let id = ProducerId::from_slice(&event.producer_id).ok_or(Rejection::Kind)?;
    if id == ProducerId::default() || leaf.opened != 0 || leaf.seq != event.epoch {
        return Err(Rejection::Kind);
    }
    let current = producers.get(&id).map_or(0, |producer| producer.epoch);
    if current.checked_add(1) != Some(event.epoch) {
        return Err(Rejection::StaleEpoch { current });
    }
    if current == 0 && producers.count() >= PRODUCERS_MAX {
        return Err(Rejection::TooManyProducers);
    }
    producers.open(id, event.epoch, index);
    Ok(())
}

/// A record of an open producer.
fn record(leaf: &Leaf, producers: &mut Producers, index: LeafIndex) -> Result<(), Rejection> {
    let (slot, producer) = producers.by_opening(leaf.opened).ok_or(Rejection::UnknownProducer)?;
    let last_seq = producer.last_seq;
    if producer.opened != leaf.opened {
        return Err(Rejection::Fenced);
    }
    if leaf.seq <= last_seq {
        return Err(Rejection::Duplicate { last_seq });
    }
    // A seq above `last_seq` exists, so the sum does not overflow.
    if leaf.seq != last_seq + 1 {
        return Err(Rejection::Gap { expected: last_seq + 1 });
    }
    producers.record(slot, index);
    Ok(())
}

/// Positions of rejected records, as stretches.
pub(crate) fn stretches(rejected: &[(u32, Rejection)]) -> Vec<Positions> {
    let mut stretches: Vec<Positions> = Vec::new();
    for (position, _) in rejected {
        match stretches.last_mut() {
            Some(last) if last.first + last.count == *position => last.count += 1,
            _ => stretches.push(Positions { first: *position, count: 1 }),
        }
    }
    stretches
}
