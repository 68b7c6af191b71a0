//! What time it is, as a majority of the nodes' clocks says (docs/adr/0012).
//!
//! Every node asks all voters for their clocks now and then (`rounds`), and carries the time that a
//! majority agreed on last, moved on with CLOCK_BOOTTIME: the reference. A leader stamps with its
//! own clock and the offset of a majority, so it needs no right clock, only fresh offsets; without
//! them it asks again before it stamps. `rules` decides, and knows no clock.

mod accept;
mod reading;
mod rounds;
pub mod rules;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use indelible_proto::raft as pb;
use indelible_proto::reason::{Reason, Rejected};
use tokio::sync::{Notify, watch};

pub use self::accept::ACTION;
pub use self::rounds::{Options, run};
use self::rules::{
    Decision, Hold, Judgement, Known, Reading, Reference, Sample, Settings, decide, judge,
    majority, majority_offset, stamps_ahead,
};
use crate::raft::peers;
use crate::storage::ledger::Ledger;

/// Between two attempts of a client whose append was refused because of the clocks.
const COME_AGAIN: std::time::Duration = std::time::Duration::from_millis(200);
/// How long an answer "nobody says the time" holds, in nanoseconds.
const VAIN_NS: u64 = 1_000_000_000;

/// A node's knowledge of time. Shared by what stamps, what asks and what answers.
pub struct Clock {
    me: u64,
    settings: Settings,
    known: watch::Receiver<peers::Known>,
    ledger: Ledger,
    state: Mutex<State>,
    /// Counts what has become known; who waits for a time looks again.
    changed: watch::Sender<u64>,
    /// A round is wanted at once.
    wanted: Notify,
}

#[derive(Default)]
struct State {
    /// The newest answer of each voter.
    samples: BTreeMap<u64, Sample>,
    reference: Option<Reference>,
    /// When a round last ended without a majority; none since one has succeeded.
    vain: Option<Reading>,
    /// Since when stamps have been ahead of agreed time.
    ahead_since: Option<Reading>,
    /// Why clients are refused, as logged last.
    logged: Option<&'static str>,
    /// A step that was taken because nobody knew a reference, until it is recorded.
    cold_step: Option<u64>,
    /// Whether this leader has recorded that stamps are ahead.
    ahead_told: bool,
}

/// What a node says of time to people.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct View {
    /// Why it would take no events of clients if it led.
    pub hold: Option<Hold>,
    /// Its own clock minus agreed time, in nanoseconds.
    pub offset_ns: Option<i64>,
    /// By how much the newest stamp is ahead of agreed time, in nanoseconds.
    pub ahead_ns: Option<u64>,
}

impl Clock {
    /// Nothing is known yet.
    pub fn new(
        me: u64,
        settings: Settings,
        known: watch::Receiver<peers::Known>,
        ledger: Ledger,
    ) -> Arc<Clock> {
        Arc::new(Clock {
            me,
            settings,
            known,
            ledger,
            state: Mutex::default(),
            changed: watch::Sender::new(0),
            wanted: Notify::new(),
        })
    }

    /// What the next entry is stamped with, given the newest stamp that was given out here.
    pub fn decide(&self, given_out: u64) -> Decision {
        let now = Reading::now();
        let state = self.lock();
        let decision = decide(&self.known(&state, &now, given_out), &self.settings);
        if let Decision::Refuse(hold) = decision {
            self.log(state, hold);
        }
        decision
    }

    /// What a node's own record is stamped with while clients are refused; none if this node knows
    /// no time at all.
    pub fn stamp_of_nodes(&self, given_out: u64) -> Option<u64> {
        let now = Reading::now();
        let state = self.lock();
        let reference = state.reference.map(|reference| reference.at(&now));
        let stamp = self.last(given_out).max(reference.unwrap_or(0));
        (stamp > 0).then_some(stamp)
    }

    /// Has a majority asked at once.
    pub fn ask(&self) {
        self.wanted.notify_one();
    }

    /// Changes when something has become known.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// What a peer gets that asks for this node's clock. Touches no disk.
    pub fn answer(&self) -> pb::ClockResponse {
        let now = Reading::now();
        let reference = self.lock().reference;
        pb::ClockResponse {
            unix_ns: now.wall_ns,
            agreed_unix_ns: reference.map_or(0, |reference| reference.at(&now)),
        }
    }

    /// For people and probes.
    pub fn view(&self) -> View {
        let now = Reading::now();
        let state = self.lock();
        let known = self.known(&state, &now, 0);
        let hold = match decide(&known, &self.settings) {
            Decision::Refuse(hold) => Some(hold),
            Decision::Stamp(_) | Decision::Ask => None,
        };
        View {
            hold,
            offset_ns: known.agreed.map(|agreed| rules::difference(now.wall_ns, agreed)),
            ahead_ns: known.agreed.and_then(|agreed| stamps_ahead(known.last, agreed)),
        }
    }

    /// Whether a voter's clock differs from agreed time by more than [`rules::BAD_NS`]; none if
    /// that is not known now. For the choice of a better leader.
    pub fn is_bad(&self, node: u64) -> Option<bool> {
        let now = Reading::now();
        let state = self.lock();
        rules::is_bad(&self.voter_sets(), self.me, &state.samples, &now, node)
    }

    /// A witness outside the group has just signed, at a time by its own clock. If a majority's
    /// time was held back and this is near it, it is taken.
    pub fn witnessed(&self, unix_s: u64) {
        let witness_ns = unix_s.saturating_mul(1_000_000_000);
        let now = Reading::now();
        let mut state = self.lock();
        let known = self.known(&state, &now, 0);
        let Decision::Refuse(Hold::Step(step)) = decide(&known, &self.settings) else { return };
        let Some(agreed_ns) = known.agreed else { return };
        if agreed_ns.abs_diff(witness_ns) > self.settings.step_max_ns {
            return;
        }
        tracing::warn!(
            step_ms = step / 1_000_000,
            witness_unix_s = unix_s,
            "a witness agrees with the clocks of a majority: their time is taken"
        );
        state.reference = Some(Reference { agreed_ns, boot_ns: now.boot_ns });
        drop(state);
        self.bump();
    }

    /// Notes a peer's answer.
    fn observe(&self, node: u64, sample: Sample) {
        let mut state = self.lock();
        state.samples.insert(node, sample);
        let is_agreed = self.agreed(&state, &Reading::now()).is_some();
        drop(state);
        if is_agreed {
            self.bump();
        }
    }

    /// A round is over: what the clocks say now becomes the reference, or is held back.
    fn round_ended(&self) {
        let now = Reading::now();
        let mut state = self.lock();
        let sets = self.voter_sets();
        state.samples.retain(|node, _| sets.iter().any(|set| set.contains(node)));
        match self.agreed(&state, &now) {
            None => state.vain = Some(now),
            Some(agreed) => self.agree(&mut state, &now, agreed),
        }
        drop(state);
        self.bump();
    }

    fn agree(&self, state: &mut State, now: &Reading, agreed_ns: u64) {
        state.vain = None;
        let last = self.last(0);
        let own = state.reference.map(|reference| reference.at(now));
        let of_peer = |id: u64| {
            let sample = state.samples.get(&id).filter(|sample| sample.is_fresh(now))?;
            sample.reference.map(|reference| reference.at(now))
        };
        let peers = || state.samples.keys().filter_map(|id| of_peer(*id));
        // One peer that remembers the time is enough to hold a step back, and the latest counts: so
        // a lie lets a step pass, as a cold start does, and holds nothing back.
        let latest = peers().filter(|peer| *peer <= agreed_ns).max();
        let reference = own.or(latest).or_else(|| majority(&self.voter_sets(), of_peer));
        let peers = peers().max();
        let known = match reference {
            Some(_) => last,
            None => last.max(peers.unwrap_or(0)),
        };
        let taken = match judge(agreed_ns, reference, known, self.settings.step_max_ns) {
            Judgement::Take => agreed_ns,
            Judgement::TakeStep(step) => {
                tracing::warn!(
                    step_ms = step / 1_000_000,
                    "nobody remembers the time: what the clocks say now is taken"
                );
                state.cold_step = Some(step);
                agreed_ns
            }
            Judgement::Keep | Judgement::Hold(_) => reference.unwrap_or(agreed_ns),
        };
        state.reference = Some(Reference { agreed_ns: taken, boot_ns: now.boot_ns });
        match stamps_ahead(last, agreed_ns) {
            Some(_) => drop(state.ahead_since.get_or_insert(*now)),
            None => state.ahead_since = None,
        }
    }

    /// What a majority's clocks say now.
    fn agreed(&self, state: &State, now: &Reading) -> Option<u64> {
        let offset = majority_offset(&self.voter_sets(), self.me, &state.samples, now)?;
        Some(now.wall_ns.saturating_add_signed(offset))
    }

    fn known(&self, state: &State, now: &Reading, given_out: u64) -> Known {
        Known {
            agreed: self.agreed(state, now),
            asked_in_vain: state.vain.is_some_and(|vain| now.since(&vain) < VAIN_NS),
            reference: state.reference.map(|reference| reference.at(now)),
            last: self.last(given_out),
            ahead_for: state.ahead_since.map_or(0, |since| now.since(&since)),
        }
    }

    /// The newest stamp, of the log or given out and on its way there.
    fn last(&self, given_out: u64) -> u64 {
        self.ledger.head().borrow().last_received.max(given_out)
    }

    fn voter_sets(&self) -> Vec<BTreeSet<u64>> {
        self.known.borrow().membership.get_joint_config().clone()
    }

    fn bump(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Says once why clients are refused.
    fn log(&self, mut state: MutexGuard<'_, State>, hold: Hold) {
        if state.logged.replace(hold.name()) != Some(hold.name()) {
            tracing::error!(why = hold.to_string(), "the clocks: appends are refused");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hold {
    /// For programs.
    pub fn name(&self) -> &'static str {
        match self {
            Hold::NoMajority => "no-majority",
            Hold::Step(_) => "step",
            Hold::Pinned(_) => "pinned",
        }
    }

    /// For a client whose append is refused. Nothing was appended.
    pub fn rejection(&self) -> Rejected {
        Rejected::new(Reason::ReadOnly, self.to_string())
            .with(indelible_proto::reason::key::CLOCK, 1)
            .retry_after(COME_AGAIN)
    }
}

impl std::fmt::Display for Hold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = |ns: &u64| ns / 1_000_000_000;
        match self {
            Hold::NoMajority => write!(
                f,
                "CLOCK: no majority of the nodes' clocks was measured in the last 10 s, so nothing can be stamped; hint: try again"
            ),
            Hold::Step(step) => write!(
                f,
                "CLOCK: a majority of the nodes' clocks is {} s ahead of the time that was agreed on before, more than \
                 clock.step_max_s; hint: set the clocks right, or `indelible accept-clock` if they are",
                seconds(step)
            ),
            Hold::Pinned(ahead) => write!(
                f,
                "CLOCK: the newest stamp has been ahead of the nodes' clocks for 10 minutes, by {} s, and \
                 clock.stop_when_pinned is set; hint: set the clocks right",
                seconds(ahead)
            ),
        }
    }
}
