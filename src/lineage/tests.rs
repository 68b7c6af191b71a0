use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn root() -> Boot {
    Boot::root(&[1; 16], 2, &[3; 32])
}

fn draws() -> impl Strategy<Value = Vec<Draw>> {
    // Few values, so that lineages share beginnings.
    vec((0..3_u8).prop_map(|value| Draw([value; 16])), 0..6)
}

fn lineage(draws: Vec<Draw>) -> Lineage {
    Lineage::of(root(), draws)
}

fn remembered(boot: Boot) -> Option<Admitted> {
    Some(Admitted { boot, is_first_contact: false })
}

/// What a peer that is shown all it asks for decides.
fn admits(first: Option<Boot>, admitted: Option<Admitted>, shown: &Lineage) -> Admission {
    match admit(first, admitted, shown.newest(), None) {
        Admission::Needs { after } => {
            admit(first, admitted, shown.newest(), Some(shown.draws_after(after)))
        }
        decided => decided,
    }
}

proptest! {
    #[test]
    fn a_boot_is_admitted_if_and_only_if_it_extends_what_is_remembered(
        seen in draws(), shown in draws()
    ) {
        let (seen, shown) = (lineage(seen), lineage(shown));
        let extends = shown.draws().starts_with(seen.draws());
        let (theirs, ours) = (shown.newest().number, seen.newest().number);
        let expected = if shown == seen {
            Admission::Current
        } else if extends {
            Admission::Newer
        } else if theirs < ours {
            Admission::Not(NotAdmitted::Older { shown: theirs, remembered: ours })
        } else {
            Admission::Not(NotAdmitted::Forked { shown: theirs, remembered: ours })
        };
        prop_assert_eq!(admits(None, remembered(seen.newest()), &shown), expected);
        prop_assert_eq!(admits(Some(seen.newest()), None, &shown), expected);
    }

    #[test]
    fn after_a_first_contact_both_are_extended(
        added in draws(), met in draws(), shown in draws()
    ) {
        let (added, met, shown) = (lineage(added), lineage(met), lineage(shown));
        let admitted = Admitted { boot: met.newest(), is_first_contact: true };
        let extends = |seen: &Lineage| shown.draws().starts_with(seen.draws());
        let admission = admits(Some(added.newest()), Some(admitted), &shown);
        let is_admitted = matches!(admission, Admission::Current | Admission::Newer);
        prop_assert_eq!(is_admitted, extends(&added) && extends(&met), "{:?}", admission);
        // A session costs no proof if nothing is new.
        if shown == met && shown == added {
            prop_assert_eq!(admission, Admission::Current);
        }
    }

    #[test]
    fn draws_of_other_boots_admit_nothing(
        seen in draws(), shown in draws(), lies in draws()
    ) {
        let (seen, shown) = (lineage(seen), lineage(shown));
        if admit(Some(seen.newest()), None, shown.newest(), Some(&lies)) == Admission::Newer {
            prop_assert!(shown.draws().starts_with(seen.draws()));
            prop_assert_eq!(&lies[..], shown.draws_after(seen.newest().number));
        }
    }

    #[test]
    fn a_node_takes_only_its_own_boots_for_its_own(own in draws(), shown in draws()) {
        let (own, shown) = (lineage(own), lineage(shown));
        let is_own = own.draws().starts_with(shown.draws());
        let expected = |otherwise| if is_own { AfterRefusal::GoOn } else { otherwise };
        prop_assert_eq!(
            after_refusal(&own, shown.newest(), false), expected(AfterRefusal::Stop)
        );
        prop_assert_eq!(
            after_refusal(&own, shown.newest(), true), expected(AfterRefusal::Alarm)
        );
    }

    #[test]
    fn a_start_accepts_files_of_one_age_and_what_a_crash_leaves(
        lineages in vec(draws(), 2), in_hard_state in 0..7_usize
    ) {
        // hard_state is of boot `in_hard_state` of the first one, lineage is the second one.
        let written = &lineages[0];
        let on_disk = lineage(lineages[1].clone());
        prop_assume!(in_hard_state >= 1 && in_hard_state <= written.len());
        let (before, rest) = written.split_at(in_hard_state - 1);
        let boot = lineage(written[..in_hard_state].to_vec()).newest();
        let bound = Bound { boot, draw: rest[0], log_end: LogEnd::default() };
        let found =
            Found { lineage: Some(&on_disk), bound: Some(&bound), has_entries: true };
        let start = check_start(root(), &found);
        if on_disk.draws() == &written[..in_hard_state] {
            prop_assert_eq!(start, Ok(Start::Complete));
        } else if on_disk.draws() == before {
            prop_assert_eq!(start, Ok(Start::Finish(rest[0])));
        } else {
            let refused = matches!(start, Err(StartRefusal::OtherBoot { .. }));
            prop_assert!(refused, "{:?}", start);
        }
    }
}

#[test]
fn every_subset_of_missing_files() {
    let one = lineage(vec![Draw([1; 16])]);
    let two = lineage(vec![Draw([1; 16]), Draw([2; 16])]);
    let bound_of = |lineage: &Lineage| Bound {
        boot: lineage.newest(),
        draw: *lineage.draws().last().unwrap(),
        log_end: LogEnd::default(),
    };
    let (first, second) = (bound_of(&one), bound_of(&two));
    let check =
        |lineage, bound, has_entries| check_start(root(), &Found { lineage, bound, has_entries });
    for has_entries in [false, true] {
        assert_eq!(check(Some(&two), Some(&second), has_entries), Ok(Start::Complete));
        assert_eq!(check(Some(&two), None, has_entries), Err(StartRefusal::NoHardState));
        let no_lineage = Err(StartRefusal::NoLineage { boot: 2 });
        assert_eq!(check(None, Some(&second), has_entries), no_lineage);
        // The very first start, cut off by a crash.
        assert_eq!(check(None, Some(&first), has_entries), Ok(Start::Finish(Draw([1; 16]))));
    }
    assert_eq!(check(None, None, false), Ok(Start::First));
    assert_eq!(check(None, None, true), Err(StartRefusal::NoHardState));
    // An empty file is as good as none.
    assert_eq!(check(Some(&lineage(vec![])), None, false), Ok(Start::First));
}

#[test]
fn the_end_that_hard_state_names_must_be_in_the_log() {
    let end = LogEnd { entries: 3, term: 2, leader: 1 };
    let bound = Bound { boot: root(), draw: Draw([0; 16]), log_end: end };
    assert!(log_reaches(&bound, Some(end)));
    for other in [None, Some(LogEnd { term: 1, ..end }), Some(LogEnd { leader: 2, ..end })] {
        assert!(!log_reaches(&bound, other), "{other:?}");
    }
}

#[test]
fn founders_without_a_log_admit_each_other_at_the_first_contact() {
    assert_eq!(admit(None, None, root().next(Draw([1; 16])), None), Admission::Newer);
}

#[test]
fn nothing_but_the_same_node_has_the_same_root() {
    let same = Boot::root(&[1; 16], 2, &[3; 32]);
    assert_eq!(same, root());
    for other in [
        Boot::root(&[0; 16], 2, &[3; 32]),
        Boot::root(&[1; 16], 3, &[3; 32]),
        Boot::root(&[1; 16], 2, &[4; 32]),
    ] {
        assert_ne!(other.hash, same.hash);
    }
}

#[test]
fn a_statement_says_which_boot_of_which_node_of_which_trail() {
    let trail = [1; 16];
    let boot = root().next(Draw([9; 16]));
    let statement = Statement { trail: &trail, node: 2, boot };
    let text = statement.text();
    assert!(text.starts_with(b"indelible/boot/v1\n"));
    assert_eq!(text.len(), 18 + 16 + 8 + 8 + 32);
    for other in [
        Statement { trail: &[2; 16], ..statement },
        Statement { node: 3, ..statement },
        Statement { boot: Boot { number: 2, ..boot }, ..statement },
        Statement { boot: Boot { hash: [0; 32], ..boot }, ..statement },
    ] {
        assert_ne!(other.text(), text);
    }
}

/// Others compute the same: the bytes are part of the format.
#[test]
fn known_hashes() {
    let hex = |boot: Boot| boot.hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let first = root().next(Draw([9; 16]));
    let expected = [
        "fc3104bec7be144c8e7482b3c5104a9c2c13859fa38439c082d60eb9ca691015",
        "4adf1a40b61d08606c28c9b55bcd256648530bcc1d12ac661ff596c1a20f9728",
    ];
    assert_eq!([hex(root()), hex(first)], expected);
}
