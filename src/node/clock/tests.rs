//! The rules of time, for clocks of all sorts.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::rules::*;

const S: u64 = 1_000_000_000;
const H: u64 = 3600 * S;
/// Some time in 2026, and a machine that has run for a day.
const NOW: Reading = Reading { wall_ns: 1_790_000_000 * S, boot_ns: 86_400 * S };
const SETTINGS: Settings = Settings { step_max_ns: H, stop_when_pinned: false };

fn later(reading: Reading, ns: u64) -> Reading {
    Reading { wall_ns: reading.wall_ns + ns, boot_ns: reading.boot_ns + ns }
}

fn set(ids: &[u64]) -> BTreeSet<u64> {
    ids.iter().copied().collect()
}

fn sample(at: Reading, offset_ns: i64) -> Sample {
    Sample { at, offset_ns, reference: None }
}

fn known(agreed: Option<u64>, reference: Option<u64>, last: u64) -> Known {
    Known { agreed, asked_in_vain: false, reference, last, ahead_for: 0 }
}

#[test]
fn an_answer_that_took_long_or_saw_a_step_says_nothing() {
    let theirs = NOW.wall_ns + 7 * S;
    let quick = Sample::measure(NOW, later(NOW, S / 100), theirs, None).unwrap();
    // Taken to be half a round trip old.
    assert_eq!(quick.offset_ns, (7 * S - S / 200) as i64);
    assert!(Sample::measure(NOW, later(NOW, S / 2), theirs, None).is_none());
    for step in [-(H as i64), H as i64] {
        let mut at = later(NOW, S / 100);
        at.wall_ns = at.wall_ns.saturating_add_signed(step);
        assert!(Sample::measure(NOW, at, theirs, None).is_none());
    }
}

#[test]
fn an_offset_counts_for_ten_seconds_without_a_step() {
    let one = sample(NOW, 0);
    assert!(one.is_fresh(&later(NOW, 10 * S)));
    assert!(!one.is_fresh(&later(NOW, 10 * S + 1)));
    let mut stepped = later(NOW, S);
    stepped.wall_ns += S / 4;
    assert!(one.is_fresh(&stepped), "250 ms are no step");
    stepped.wall_ns += 1;
    assert!(!one.is_fresh(&stepped));
    // Twice the rate: too far off after a quarter of a second.
    let fast = |ns: u64| Reading { wall_ns: NOW.wall_ns + 2 * ns, boot_ns: NOW.boot_ns + ns };
    assert!(one.is_fresh(&fast(S / 4)) && !one.is_fresh(&fast(S / 4 + 1)));
}

#[test]
fn f4_a_leader_whose_clock_has_jumped_asks_before_it_stamps() {
    let samples = BTreeMap::from([(2, sample(NOW, 0)), (3, sample(NOW, 0))]);
    let sets = [set(&[1, 2, 3])];
    let jumped = Reading { wall_ns: NOW.wall_ns + H, boot_ns: NOW.boot_ns + 1 };
    let offset = majority_offset(&sets, 1, &samples, &jumped);
    assert_eq!(offset, None, "offsets to the clock before the jump");
    let at = known(offset.map(|_| jumped.wall_ns), Some(NOW.wall_ns), NOW.wall_ns);
    assert_eq!(decide(&at, &SETTINGS), Decision::Ask);
    // Asked again, the other two outvote it.
    let back = -(H as i64);
    let samples = BTreeMap::from([(2, sample(jumped, back)), (3, sample(jumped, back))]);
    let offset = majority_offset(&sets, 1, &samples, &jumped).unwrap();
    assert_eq!(jumped.wall_ns.saturating_add_signed(offset), NOW.wall_ns);
}

#[test]
fn a_majority_of_both_sets_is_needed_while_members_change() {
    let sets = [set(&[1, 2, 3]), set(&[1, 2, 3, 4, 5])];
    let say = |ids: &'static [u64]| move |id: u64| ids.contains(&id).then_some(id);
    assert_eq!(majority(&sets, say(&[1, 2])), None);
    assert_eq!(majority(&sets, say(&[1, 4, 5])), None);
    assert_eq!(majority(&sets, say(&[1, 2, 5])), Some(1), "the lower one of 1 and 2");
    assert_eq!(majority(&[], say(&[1, 2, 3])), None);
    assert_eq!(majority(&[set(&[1])], say(&[1])), Some(1));
}

#[test]
fn a_bad_clock_is_the_one_that_differs_from_the_majority() {
    let sets = [set(&[1, 2, 3])];
    let hour = H as i64;
    // This node's own clock is an hour behind the two others.
    let samples = BTreeMap::from([(2, sample(NOW, hour)), (3, sample(NOW, hour + 5))]);
    let bad = |node| is_bad(&sets, 1, &samples, &NOW, node);
    assert_eq!((bad(1), bad(2), bad(3)), (Some(true), Some(false), Some(false)));
    assert_eq!(bad(4), None, "nobody has asked it");
    // Of two clocks that differ the earlier one is believed; of one alone nothing is known.
    let samples = BTreeMap::from([(2, sample(NOW, hour))]);
    let bad = |now: &Reading, node| is_bad(&sets, 1, &samples, now, node);
    assert_eq!((bad(&NOW, 1), bad(&NOW, 2)), (Some(false), Some(true)));
    assert_eq!(bad(&later(NOW, 11 * S), 2), None);
}

#[test]
fn a_time_far_ahead_of_the_reference_is_held_and_one_far_behind_moves_nothing() {
    let (now, step) = (NOW.wall_ns, SETTINGS.step_max_ns);
    let years = 10 * 365 * 24 * H;
    assert_eq!(judge(now + step, Some(now), now, step), Judgement::Take);
    assert_eq!(judge(now + step + 1, Some(now), now, step), Judgement::Hold(step + 1));
    assert_eq!(judge(now - years, Some(now), now, step), Judgement::Keep);
    // All clocks ten years back and right again: nothing has to be accepted.
    assert_eq!(judge(now, Some(now), now, step), Judgement::Take);
    // What is in the trail already is not held a second time: after `accept-clock`, by any leader.
    assert_eq!(judge(now + years, Some(now), now + years, step), Judgement::Take);
    // Nobody remembers: taken, and found if it is a step from what the trail says.
    assert_eq!(judge(now, None, 0, step), Judgement::Take);
    assert_eq!(judge(now, None, now - step, step), Judgement::Take);
    assert_eq!(judge(now + years, None, now, step), Judgement::TakeStep(years));
    assert_eq!(judge(now - years, None, now, step), Judgement::Take);
}

#[test]
fn without_a_majority_clients_are_refused_once_it_was_asked() {
    let asked = |asked_in_vain| Known { asked_in_vain, ..known(None, Some(5), 5) };
    assert_eq!(decide(&asked(false), &SETTINGS), Decision::Ask);
    assert_eq!(decide(&asked(true), &SETTINGS), Decision::Refuse(Hold::NoMajority));
    // A majority's clocks, and no word yet of what they said before.
    assert_eq!(decide(&known(Some(7), None, 5), &SETTINGS), Decision::Ask);
}

#[test]
fn stamps_that_are_ahead_stay_and_stop_appends_only_if_that_is_wanted() {
    let now = NOW.wall_ns;
    let pinned = Known { ahead_for: PINNED_NS, ..known(Some(now), Some(now), now + H) };
    assert_eq!(decide(&pinned, &SETTINGS), Decision::Stamp(now + H));
    let stop = Settings { stop_when_pinned: true, ..SETTINGS };
    assert_eq!(decide(&pinned, &stop), Decision::Refuse(Hold::Pinned(H)));
    let not_yet = Known { ahead_for: PINNED_NS - 1, ..pinned };
    assert_eq!(decide(&not_yet, &stop), Decision::Stamp(now + H));
    let near = Known { last: now + AHEAD_NS, ..pinned };
    assert_eq!(decide(&near, &stop), Decision::Stamp(now + AHEAD_NS), "10 s are not ahead");
}

/// Any time at all, with those around now more often.
fn any_time() -> impl Strategy<Value = u64> {
    prop_oneof![any::<u64>(), (NOW.wall_ns - 4 * H)..(NOW.wall_ns + 4 * H)]
}

proptest! {
    /// With every voter answering and fewer than half of the clocks wrong, however wrong, agreed
    /// time is within what the right ones say.
    #[test]
    fn less_than_half_of_the_clocks_move_nothing(
        right in prop::collection::vec(-1_000_000_i64..1_000_000, 3..8),
        wrong in prop::collection::vec(any::<i64>(), 0..7),
    ) {
        let wrong = &wrong[..wrong.len().min(right.len() - 1)];
        let offsets: Vec<i64> = right.iter().chain(wrong).copied().collect();
        let ids: BTreeSet<u64> = (0..offsets.len() as u64).collect();
        let agreed = majority(&[ids], |id| offsets.get(id as usize).copied()).unwrap();
        prop_assert!(right.iter().min().unwrap() <= &agreed);
        prop_assert!(right.iter().max().unwrap() >= &agreed);
    }

    /// Whatever the clocks say, a stamp is never below the last one, and one that is above it is
    /// what a majority says, at most `step_max` ahead of everything that was agreed or stamped.
    #[test]
    fn stamps_never_decrease_and_never_leap(
        agreed in prop::option::of(any_time()),
        reference in prop::option::of(any_time()),
        last in any_time(),
        asked_in_vain: bool,
        ahead_for: u64,
        stop_when_pinned: bool,
    ) {
        let known = Known { agreed, asked_in_vain, reference, last, ahead_for };
        let settings = Settings { stop_when_pinned, ..SETTINGS };
        if let Decision::Stamp(stamp) = decide(&known, &settings) {
            prop_assert!(stamp >= last);
            let (agreed, reference) = (agreed.unwrap(), reference.unwrap());
            prop_assert!(stamp == last || stamp == agreed);
            prop_assert!(stamp.saturating_sub(reference.max(last)) <= settings.step_max_ns);
        }
    }

    /// A sample that was steady is fresh until it is old, at any rate that clocks have.
    #[test]
    fn a_clock_that_drifts_as_clocks_do_stays_fresh(ppm in -500_i64..500, ns in 0..10 * S) {
        let drift = ns as i64 / 1_000_000 * ppm;
        let mut now = later(NOW, ns);
        now.wall_ns = now.wall_ns.saturating_add_signed(drift);
        prop_assert!(sample(NOW, 0).is_fresh(&now));
    }

    /// Agreed time goes on with CLOCK_BOOTTIME, whatever the wall clock does.
    #[test]
    fn the_reference_knows_no_wall_clock(wall_ns: u64, ns in 0..H) {
        let reference = Reference { agreed_ns: NOW.wall_ns, boot_ns: NOW.boot_ns };
        let now = Reading { wall_ns, boot_ns: NOW.boot_ns + ns };
        prop_assert_eq!(reference.at(&now), NOW.wall_ns + ns);
    }
}
