//! How an entry ended, and what each of its requests is told.

use indelible_core::batch::BATCH_HEADER_SIZE;
use indelible_core::leaf::LEAF_SIZE;
use indelible_core::{ProducerId, Salt};
use indelible_proto::reason::{Reason, Rejected};
use openraft::errors::ClientWriteError;
use openraft::raft::ClientWriteResult;
use tokio::sync::mpsc;

use super::assemble::{Part, PartOf, Proposal};
use super::speculation::{fenced, gap};
use super::{Append, Appended, AppendedRun, Opened, unknown};
use crate::node::duplicates;
use crate::node::leadership::forward_rejection;
use crate::raft::{BatchPayload, TypeConfig};
use crate::storage::ledger::{Applied, Ledger, Rejection};

/// What the loop is told.
pub(super) struct Settled {
    /// Who had something in the entry.
    pub(super) producers: Vec<ProducerId>,
    /// Whether everything in it was accepted.
    pub(super) as_guessed: bool,
}

/// Waits for the end of an entry, tells the loop, then answers every request in it.
pub(super) async fn settle<E>(
    proposal: Proposal,
    completed: impl Future<Output = Result<ClientWriteResult<TypeConfig>, E>>,
    ledger: Ledger,
    term: u64,
    settled: mpsc::Sender<Settled>,
) {
    let outcome = match completed.await {
        Ok(Ok(written)) => Ok(written.data),
        // Rejected before it was appended.
        Ok(Err(ClientWriteError::ForwardToLeader(forward))) => {
            Err(forward_rejection(&forward, term))
        }
        // Appended here, then replaced: it may be committed all the same.
        Ok(Err(ClientWriteError::LogEntryDiscarded(_))) => Err(unknown("the leader changed")),
        Ok(Err(error)) => Err(unknown(&error.to_string())),
        Err(_) => Err(unknown("the node is stopping")),
    };
    let as_guessed = outcome.as_ref().is_ok_and(|applied| applied.rejected.is_empty());
    // The loop may be gone; the answers are still due.
    let _ = settled.send(Settled { producers: proposal.producers, as_guessed }).await;
    for part in proposal.parts {
        match &outcome {
            Ok(applied) => answer(part, applied, &proposal.payload, &ledger),
            Err(rejected) => reject(part, rejected.clone()),
        }
    }
}

fn reject(part: Part, rejected: Rejected) {
    // The requester may have gone.
    match part.of {
        PartOf::Append { reply, .. } => drop(reply.send(Err(rejected))),
        PartOf::Open { reply, .. } => drop(reply.send(Err(rejected))),
    }
}

/// Answers one request whose entry was applied.
fn answer(part: Part, applied: &Applied, payload: &BatchPayload, ledger: &Ledger) {
    let rejection = first_rejection(applied, part.start, part.count);
    match part.of {
        PartOf::Open { open, epoch, known, reply, .. } => {
            let opened = match rejection {
                None => {
                    let opened = leaf_of(applied, part.start);
                    let last_seq =
                        ledger.producer(&open.producer).map_or(0, |producer| producer.last_seq);
                    Ok(Opened { epoch, opened, last_seq, known })
                }
                Some(rejection) => Err(rejected(rejection, epoch, 0)),
            };
            let _ = reply.send(opened);
        }
        PartOf::Append { append, skip, reply, permit } => match rejection {
            None if skip == 0 => {
                let _ = reply.send(Ok(fresh(&append, part.start, applied, payload)));
                drop(permit);
            }
            // Some of it was recorded by an earlier request: its receipts are in the trail.
            None => {
                let fresh_from = append.first_seq + skip as u64;
                duplicates::answer_later(ledger.clone(), append, fresh_from, reply, permit);
            }
            Some(Rejection::Duplicate { .. }) => {
                duplicates::answer_later(ledger.clone(), append, u64::MAX, reply, permit);
            }
            Some(rejection) => {
                let _ = reply.send(Err(rejected(rejection, append.epoch, append.first_seq)));
            }
        },
    }
}

/// The receipt of a request that was recorded as a whole just now: slices of the entry's own bytes.
fn fresh(append: &Append, start: usize, applied: &Applied, payload: &BatchPayload) -> Appended {
    let count = append.events.len();
    let leaves = BATCH_HEADER_SIZE + start * LEAF_SIZE;
    let salts = start * Salt::SIZE;
    let run = AppendedRun {
        first_seq: append.first_seq,
        first_leaf: leaf_of(applied, start),
        count: u32::try_from(count).expect("a request is limited"),
        duplicate: false,
    };
    Appended {
        runs: vec![run],
        leaves: payload.head.slice(leaves..leaves + count * LEAF_SIZE),
        salts: payload.body.slice(salts..salts + count * Salt::SIZE),
        tree_size: applied.first_leaf + u64::from(applied.accepted),
    }
}

/// Leaf index of an accepted position.
fn leaf_of(applied: &Applied, position: usize) -> u64 {
    let before = applied.rejected.partition_point(|(at, _)| (*at as usize) < position);
    applied.first_leaf + (position - before) as u64
}

fn first_rejection(applied: &Applied, start: usize, count: usize) -> Option<Rejection> {
    let from = applied.rejected.partition_point(|(at, _)| (*at as usize) < start);
    let (at, rejection) = applied.rejected.get(from)?;
    ((*at as usize) < start + count).then_some(*rejection)
}

fn rejected(rejection: Rejection, epoch: u64, first_seq: u64) -> Rejected {
    match rejection {
        Rejection::Gap { expected } => gap(first_seq, expected),
        Rejection::Fenced | Rejection::UnknownProducer => fenced(epoch, epoch + 1),
        Rejection::TooManyProducers => {
            Rejected::new(Reason::TooManyProducers, "the trail knows as many producers as it may")
        }
        // Another opening, an earlier leader's stamp, or a request that was overtaken: the next try
        // is judged anew.
        Rejection::StaleEpoch { .. } | Rejection::Time | Rejection::Duplicate { .. } => {
            Rejected::new(Reason::Busy, "overtaken by another request; hint: try again")
                .retry_after(std::time::Duration::from_millis(10))
        }
        Rejection::Kind => Rejected::new(Reason::Invalid, "records of this kind are not accepted"),
    }
}
