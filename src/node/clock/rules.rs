//! The rules of time, as functions over values: what may be stamped, and when a majority has to be
//! asked first (docs/adr/0012). Pure: no clock, no network.
//!
//! Two clocks are read of each node: the wall clock, which may step and run at any rate, and
//! CLOCK_BOOTTIME, which counts since the machine was started and nobody sets. All times are in
//! nanoseconds, those of wall clocks since 1970.

use std::collections::{BTreeMap, BTreeSet};

const MS: u64 = 1_000_000;
const S: u64 = 1000 * MS;

/// How long a measured offset counts.
pub const FRESH_NS: u64 = 10 * S;
/// An answer that took as long as this says too little of the clock at its other end.
pub const ROUND_TRIP_MAX_NS: u64 = 500 * MS;
/// A wall clock that has moved by more than this against CLOCK_BOOTTIME was set.
pub const STEP_NS: u64 = 250 * MS;
/// Stamps that are further than this ahead of agreed time are ahead; less is what clocks differ by.
pub const AHEAD_NS: u64 = 10 * S;
/// How long stamps may be ahead before a leader with `clock.stop_when_pinned` takes no more events.
pub const PINNED_NS: u64 = 600 * S;
/// A clock that differs by more than this from agreed time is a bad one.
pub const BAD_NS: u64 = S;

/// Both clocks of a node, read together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Its wall clock.
    pub wall_ns: u64,
    /// Its CLOCK_BOOTTIME.
    pub boot_ns: u64,
}

impl Reading {
    /// Whether the wall clock has only moved with CLOCK_BOOTTIME since an earlier reading.
    pub fn is_steady_since(&self, earlier: &Reading) -> bool {
        let moved = |now: u64, then: u64| i128::from(now) - i128::from(then);
        let wall = moved(self.wall_ns, earlier.wall_ns);
        let boot = moved(self.boot_ns, earlier.boot_ns);
        (wall - boot).unsigned_abs() <= u128::from(STEP_NS)
    }

    /// Nanoseconds since an earlier reading.
    pub fn since(&self, earlier: &Reading) -> u64 {
        self.boot_ns.saturating_sub(earlier.boot_ns)
    }
}

/// What a peer has answered to a question for its clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// This node's clocks when the answer came.
    pub at: Reading,
    /// The peer's wall clock minus this node's.
    pub offset_ns: i64,
    /// Agreed time as the peer knew it, moved on to `at`; none if it knew none.
    pub reference: Option<Reference>,
}

impl Sample {
    /// From an answer to a question that was sent at `sent` and came back at `at`. None if it took
    /// too long, or if this node's wall clock was set meanwhile.
    pub fn measure(
        sent: Reading,
        at: Reading,
        theirs_ns: u64,
        agreed_ns: Option<u64>,
    ) -> Option<Sample> {
        let took = at.since(&sent);
        if took >= ROUND_TRIP_MAX_NS || !at.is_steady_since(&sent) {
            return None;
        }
        // The answer is taken to be as old as half of the round trip.
        let ours = at.wall_ns.saturating_sub(took / 2);
        let reference = agreed_ns.map(|agreed_ns| Reference { agreed_ns, boot_ns: at.boot_ns });
        Some(Sample { at, offset_ns: difference(theirs_ns, ours), reference })
    }

    /// Whether it still says what the peer's clock is.
    pub fn is_fresh(&self, now: &Reading) -> bool {
        now.since(&self.at) <= FRESH_NS && now.is_steady_since(&self.at)
    }
}

/// One time minus another, as far as the type goes (292 years).
pub fn difference(a: u64, b: u64) -> i64 {
    let difference = i128::from(a) - i128::from(b);
    let bound = difference.clamp(i128::from(i64::MIN), i128::from(i64::MAX));
    i64::try_from(bound).expect("it is within the bounds of the type")
}

/// Who decides together: every set of voters, one but while the members change.
pub type VoterSets = [BTreeSet<u64>];

/// What a majority of every set says, `me` included: the lower median of what the voters of each
/// set say, and the lowest of several sets. None without such a majority.
///
/// The lower one of two in the middle: stamps that are behind cost nothing, stamps that are ahead
/// stay for as long as they are.
pub fn majority<T: Ord + Copy>(sets: &VoterSets, say: impl Fn(u64) -> Option<T>) -> Option<T> {
    let median = |set: &BTreeSet<u64>| {
        let mut values: Vec<T> = set.iter().filter_map(|id| say(*id)).collect();
        values.sort_unstable();
        let is_majority = values.len() > set.len() / 2;
        values.get(values.len().saturating_sub(1) / 2).copied().filter(|_| is_majority)
    };
    let medians: Option<Vec<T>> = sets.iter().map(median).collect();
    medians?.into_iter().min()
}

/// The offset of a majority's clocks from this node's wall clock, by fresh samples.
pub fn majority_offset(
    sets: &VoterSets,
    me: u64,
    samples: &BTreeMap<u64, Sample>,
    now: &Reading,
) -> Option<i64> {
    majority(sets, |id| match id == me {
        true => Some(0),
        false => {
            samples.get(&id).filter(|sample| sample.is_fresh(now)).map(|sample| sample.offset_ns)
        }
    })
}

/// Whether a node's clock differs from what a majority says by more than [`BAD_NS`]; none if that
/// is not known now.
pub fn is_bad(
    sets: &VoterSets,
    me: u64,
    samples: &BTreeMap<u64, Sample>,
    now: &Reading,
    node: u64,
) -> Option<bool> {
    let agreed = majority_offset(sets, me, samples, now)?;
    let offset = match node == me {
        true => 0,
        false => samples.get(&node).filter(|sample| sample.is_fresh(now))?.offset_ns,
    };
    Some(offset.abs_diff(agreed) > BAD_NS)
}

/// Agreed time: what a majority's clocks said, and CLOCK_BOOTTIME then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference {
    /// What a majority agreed on.
    pub agreed_ns: u64,
    /// This node's CLOCK_BOOTTIME at that moment.
    pub boot_ns: u64,
}

impl Reference {
    /// Agreed time now.
    pub fn at(&self, now: &Reading) -> u64 {
        self.agreed_ns.saturating_add(now.boot_ns.saturating_sub(self.boot_ns))
    }
}

/// What becomes of the reference when a majority says another time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// It is what the majority says.
    Take,
    /// The same, and nobody knew a reference: time has jumped by so much over everything known.
    TakeStep(u64),
    /// The majority is so far behind it that it stays: clocks that were set back must be able to
    /// come back.
    Keep,
    /// The majority is ahead of it by so much, which is more than it may be.
    Hold(u64),
}

/// Judges what a majority says. `reference` is this node's, or a majority's if this one has none;
/// `known` is the latest of everything else that says a time: the newest stamp, peers' references.
pub fn judge(agreed: u64, reference: Option<u64>, known: u64, step_max: u64) -> Judgement {
    let Some(reference) = reference else {
        return match agreed.checked_sub(known) {
            Some(step) if known > 0 && step > step_max => Judgement::TakeStep(step),
            _ => Judgement::Take,
        };
    };
    // A stamp that is in the trail cannot be taken back: up to there nothing is held.
    match agreed.checked_sub(reference.max(known)) {
        Some(step) if step > step_max => Judgement::Hold(step),
        _ if agreed.saturating_add(step_max) < reference => Judgement::Keep,
        _ => Judgement::Take,
    }
}

/// Why a leader takes no events of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// No majority has said its time lately.
    NoMajority,
    /// The majority's time is ahead of the reference by so much.
    Step(u64),
    /// Stamps have been ahead of agreed time for long, and the operator wants that to stop appends.
    /// By so much.
    Pinned(u64),
}

/// What a leader knows when it stamps.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// What a majority's clocks say now.
    pub agreed: Option<u64>,
    /// Whether a majority was asked in vain a moment ago.
    pub asked_in_vain: bool,
    /// Agreed time as this node knew it.
    pub reference: Option<u64>,
    /// The newest stamp.
    pub last: u64,
    /// For how long stamps have been ahead of agreed time.
    pub ahead_for: u64,
}

/// What an operator has set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How far agreed time may be ahead of the reference.
    pub step_max_ns: u64,
    /// Whether stamps that have been ahead for [`PINNED_NS`] stop appends.
    pub stop_when_pinned: bool,
}

/// What a leader does with the next entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It stamps it so.
    Stamp(u64),
    /// It asks a majority for its time first.
    Ask,
    /// It takes nothing of clients.
    Refuse(Hold),
}

/// Decides. A stamp is never below the newest one.
pub fn decide(known: &Known, settings: &Settings) -> Decision {
    let (Some(agreed), Some(reference)) = (known.agreed, known.reference) else {
        return match known.asked_in_vain {
            true => Decision::Refuse(Hold::NoMajority),
            false => Decision::Ask,
        };
    };
    if let Judgement::Hold(step) = judge(agreed, Some(reference), known.last, settings.step_max_ns)
    {
        return Decision::Refuse(Hold::Step(step));
    }
    match stamps_ahead(known.last, agreed) {
        Some(ahead) if settings.stop_when_pinned && known.ahead_for >= PINNED_NS => {
            Decision::Refuse(Hold::Pinned(ahead))
        }
        _ => Decision::Stamp(agreed.max(known.last)),
    }
}

/// By how much the newest stamp is ahead of agreed time, if it is.
pub fn stamps_ahead(last: u64, agreed: u64) -> Option<u64> {
    last.checked_sub(agreed).filter(|ahead| *ahead > AHEAD_NS)
}
