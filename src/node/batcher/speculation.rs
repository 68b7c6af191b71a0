//! What producers have proposed and not yet applied. A guess: when it turns out wrong, or the
//! leader changes, it is thrown away and the ledger is asked again.

use std::collections::HashMap;

use indelible_core::ProducerId;
use indelible_proto::reason::{Reason, Rejected, key};

use super::Append;
use crate::storage::ledger::Ledger;

/// Guesses about the producers that have something on the way; the others are in the ledger.
#[derive(Default)]
pub(super) struct Speculation {
    producers: HashMap<ProducerId, Guess>,
}

#[derive(Debug, Clone, Copy)]
struct Guess {
    opened: u64,
    epoch: u64,
    next_seq: u64,
    /// Entries on the way that hold something of this producer.
    outstanding: u32,
    /// Nothing more is proposed until the outstanding entries are settled.
    stalled: bool,
}

/// What to do with a request.
pub(super) enum Verdict {
    /// Propose all but the first `skip` events, which are recorded already, under this `opened`.
    Propose { opened: u64, skip: usize },
    /// All of it is recorded: look up the receipts.
    Recorded,
    /// Ask again when what this producer has on the way is settled.
    Wait,
    /// Earlier events are missing: they may be right behind.
    Ahead { expected: u64 },
    /// Never.
    Reject(Rejected),
}

impl Speculation {
    pub(super) fn judge(&self, append: &Append, ledger: &Ledger) -> Verdict {
        let guess = match self.producers.get(&append.producer) {
            Some(guess) if guess.stalled => return Verdict::Wait,
            Some(guess) => *guess,
            None => match ledger.producer(&append.producer) {
                Some(known) => Guess {
                    opened: known.opened,
                    epoch: known.epoch,
                    next_seq: known.last_seq + 1,
                    outstanding: 0,
                    stalled: false,
                },
                None => return Verdict::Reject(unknown_producer(append)),
            },
        };
        let recorded = append.end_seq() <= guess.next_seq && guess.outstanding == 0;
        if append.epoch < guess.epoch && recorded {
            // An answer that was lost, asked for again: the content is compared, so a clone of the
            // producer gets a conflict.
            return Verdict::Recorded;
        }
        if append.epoch != guess.epoch {
            return Verdict::Reject(fenced(append.epoch, guess.epoch));
        }
        if append.first_seq > guess.next_seq {
            return Verdict::Ahead { expected: guess.next_seq };
        }
        if append.first_seq == guess.next_seq {
            return Verdict::Propose { opened: guess.opened, skip: 0 };
        }
        if guess.outstanding > 0 {
            return Verdict::Wait;
        }
        if append.end_seq() <= guess.next_seq {
            return Verdict::Recorded;
        }
        let skip = usize::try_from(guess.next_seq - append.first_seq)
            .expect("smaller than the number of events");
        Verdict::Propose { opened: guess.opened, skip }
    }

    /// Whether a producer has entries on the way.
    pub(super) fn is_outstanding(&self, producer: &ProducerId) -> bool {
        self.producers.contains_key(producer)
    }

    /// Notes that a batch went into an entry; `first_of_entry` if nothing of this producer is in it
    /// yet.
    pub(super) fn proposed(&mut self, append: &Append, opened: u64, first_of_entry: bool) {
        let guess = self.producers.entry(append.producer).or_insert(Guess {
            opened,
            epoch: append.epoch,
            next_seq: append.first_seq,
            outstanding: 0,
            stalled: false,
        });
        guess.next_seq = append.end_seq();
        guess.outstanding += u32::from(first_of_entry);
    }

    /// Notes that an opening is on the way: nothing else of the producer is proposed until it is
    /// applied.
    pub(super) fn opening(&mut self, producer: ProducerId) {
        let guess = Guess { opened: 0, epoch: 0, next_seq: 0, outstanding: 1, stalled: true };
        let before = self.producers.insert(producer, guess);
        assert!(before.is_none(), "an opening waits for what is on the way");
    }

    /// Notes that an entry is settled. True if the producer has nothing on the way any more.
    pub(super) fn settled(&mut self, producer: &ProducerId, as_guessed: bool) -> bool {
        let Some(guess) = self.producers.get_mut(producer) else {
            panic!("an entry of a producer without a guess was settled");
        };
        assert!(guess.outstanding > 0, "more entries settled than proposed");
        guess.outstanding -= 1;
        guess.stalled |= !as_guessed;
        let idle = guess.outstanding == 0;
        if idle {
            self.producers.remove(producer);
        }
        idle
    }

    /// The leader changed: what is on the way may or may not arrive.
    pub(super) fn stall_all(&mut self) {
        self.producers.values_mut().for_each(|guess| guess.stalled = true);
    }
}

fn unknown_producer(append: &Append) -> Rejected {
    let message =
        format!("producer {} was never opened; hint: call OpenProducer first", append.producer);
    Rejected::new(Reason::ProducerUnknown, message)
}

/// The epoch is not the one in force.
pub(super) fn fenced(theirs: u64, current: u64) -> Rejected {
    let message = format!(
        "epoch {theirs} is not the one in force, which is {current}: the producer was opened again, perhaps by another \
         instance; hint: stop this one, or open again"
    );
    Rejected::new(Reason::ProducerFenced, message).with(key::EPOCH, current)
}

/// Earlier events are missing.
pub(super) fn gap(first_seq: u64, expected: u64) -> Rejected {
    let message = format!(
        "seq {first_seq} is not the next one, which is {expected}; hint: send from {expected}"
    );
    Rejected::new(Reason::SeqGap, message).with(key::EXPECTED, expected)
}
