//! Peers that lie, and nodes whose files somebody rewrote with everything recomputed.

use std::cell::RefCell;
use std::path::Path;

use indelible_core::{Entry, chain};

use super::support::*;

/// The chain before an entry.
fn chain_before(entries: &[Entry], index: u64) -> indelible_core::Chain {
    entries[..index as usize]
        .iter()
        .fold(chain::genesis(&TRAIL), |chain, entry| chain::link_entry(&chain, entry))
}

/// Rewrites a segment so that entry `from` and those after it in the segment differ, with right
/// checksums and a right chain.
fn rewrite(dir: &Path, entries: &[Entry], first: u64, next: u64, from: u64) {
    let mut forged = entries[first as usize..next as usize].to_vec();
    for entry in forged.iter_mut().filter(|entry| entry.id.index >= from) {
        *entry = entry_of(entry.id.index, entry.id.term, 0x0F);
    }
    forge(dir, chain_before(entries, first), &forged, true);
}

/// A liar gives entries with a chain of their own, which do not lead to what we have.
#[test]
fn a_liar_cannot_fill_a_closed_hole() {
    let entries = entries(80);
    let original = closed(&entries);
    let [dir, liar] = [(); 2].map(|()| copy_of(original.path()));
    let firsts = firsts(dir.path());
    let (first, next) = (firsts[3], firsts[4]);
    rewrite(liar.path(), &entries, first, next, first + 2);
    // Inside a segment, a whole segment, its end.
    type Harm<'a> = &'a dyn Fn(&Path);
    let inside: Harm<'_> = &|dir| {
        damage_entry(dir, first + 2);
        change(dir, first, |bytes| bytes[10] ^= 1);
    };
    let whole: Harm<'_> = &|dir| std::fs::remove_file(path_of(dir, first)).unwrap();
    let end: Harm<'_> = &|dir| {
        damage_entry(dir, next - 1);
        change(dir, first, |bytes| bytes[10] ^= 1);
    };
    for (what, harm) in [("inside", inside), ("whole", whole), ("end", end)] {
        copy(original.path(), dir.path());
        harm(dir.path());
        let before = read_segments(dir.path());
        let error = mend(dir.path(), &[liar.path()]).unwrap_err();
        let refused = matches!(
            error,
            MendError::DoesNotJoin { .. } | MendError::Refused { why: Refusal::Chain, .. }
        );
        assert!(refused, "{what}: {error}");
        assert_eq!(read_segments(dir.path()), before, "{what}: nothing was changed");
        mend(dir.path(), &[original.path()]).unwrap();
        assert_same(dir.path(), original.path(), what);
    }
}

/// Entries whose events are not what their leaves commit to, whose sizes are wrong, or others than
/// those asked for.
#[test]
fn unsound_entries_are_refused() {
    let entries = entries(40);
    let original = closed(&entries);
    let dir = copy_of(original.path());
    let last = *firsts(dir.path()).last().unwrap();
    let victim = last + u64::from(last.is_multiple_of(9));
    damage_entry(dir.path(), victim);
    let before = chain_before(&entries, victim);
    let honest =
        |entry: &Entry| Fetched { entry: entry.clone(), chain: chain::link_entry(&before, entry) };
    let mut forged = entries[victim as usize].clone();
    let mut body = forged.body.to_vec();
    *body.last_mut().unwrap() ^= 1;
    forged.body = body.into();
    let mut longer = entries[victim as usize].clone();
    longer.body = vec![1; 2 << 20].into();
    for (what, wrong) in [
        ("commitment", honest(&forged)),
        ("size", honest(&longer)),
        ("term", honest(&entry_of(victim, entries[victim as usize].id.term - 1, 0))),
        ("index", honest(&entries[victim as usize + 1])),
        ("chain", Fetched { chain: before, ..honest(&entries[victim as usize]) }),
    ] {
        let mut liar = |_: &Want| Ok(Supply::Entries(vec![wrong.clone()]));
        let error = lock(dir.path()).mend(&mut liar).unwrap_err();
        let refused = match &error {
            MendError::Refused { index, .. } => *index == victim,
            // Another entry than those asked for is no answer at all.
            MendError::NotSupplied { from, .. } => *from == victim && what == "index",
            _ => false,
        };
        assert!(refused, "{what}: {error}");
    }
    let mut nothing = |_: &Want| Ok(Supply::Entries(Vec::new()));
    let error = lock(dir.path()).mend(&mut nothing).unwrap_err();
    assert!(matches!(error, MendError::NotSupplied { .. }), "{error}");
    let mut denial = |_: &Want| Ok(Supply::End);
    let error = lock(dir.path()).mend(&mut denial).unwrap_err();
    assert!(matches!(error, MendError::Committed { .. }), "{error}");
}

/// What fills a closed hole is not used for an open one behind it: whom to believe there, the
/// caller decides.
#[test]
fn an_open_hole_is_asked_for_as_one() {
    let entries = entries(80);
    let original = closed(&entries);
    let dir = copy_of(original.path());
    let last = *firsts(dir.path()).last().unwrap();
    damage_entry(dir.path(), last);
    for index in last + 2..80 {
        damage_entry(dir.path(), index);
    }
    let wants = RefCell::new(Vec::new());
    let source = SegmentSource::open(original.path(), TRAIL, SEGMENT_BYTES).unwrap();
    let mut fetch = |want: &Want| {
        wants.borrow_mut().push((want.from, want.to));
        // More than was asked for.
        let found = source.entries(want.from..u64::MAX, usize::MAX)?;
        Ok(if found.is_empty() { Supply::End } else { Supply::Entries(found) })
    };
    lock(dir.path()).mend(&mut fetch).unwrap();
    assert_same(dir.path(), original.path(), "mended");
    assert_eq!(*wants.borrow(), [(last, Some(last + 1)), (last + 2, None), (80, None)]);
}

/// Bytes inside an event look like a whole frame of a later entry: they close no hole.
#[test]
fn a_frame_inside_an_event_closes_nothing() {
    use crate::storage::frame::{FrameHeader, Location};
    let mut entries = entries(3);
    // The event of the last entry is filled, after the damage, with a frame that would be whole
    // there.
    entries.push(entry(3));
    let original = closed(&entries);
    let dir = copy_of(original.path());
    let (location, header) = frames(dir.path(), 0)[3];
    let fake = entry(9);
    let at = Location { offset: location.offset + 96, ..location };
    let id = indelible_core::EntryId { index: 4, ..fake.id };
    let fake = Entry { id, ..fake };
    let bytes = FrameHeader::new(&fake, header.chain, at).encode(at);
    change(dir.path(), 0, |file| {
        file[location.offset as usize + 4] ^= 1;
        file[at.offset as usize..][..96].copy_from_slice(&bytes);
    });
    let wants = RefCell::new(Vec::new());
    let mut honest = peers_of(original.path());
    let mut fetch = |want: &Want| {
        wants.borrow_mut().push((want.from, want.to));
        honest(want)
    };
    lock(dir.path()).mend(&mut fetch).unwrap();
    assert_same(dir.path(), original.path(), "mended");
    // Asked for as closed, and, when nothing followed, once more as open.
    assert_eq!(*wants.borrow(), [(3, Some(4)), (4, None), (3, None), (4, None)]);
}

fn peers_of(dir: &Path) -> impl FnMut(&Want) -> Result<Supply, FetchError> {
    let source = SegmentSource::open(dir, TRAIL, SEGMENT_BYTES).unwrap();
    move |want| {
        let found = source.entries(want.from..want.to.unwrap_or(u64::MAX), usize::MAX)?;
        Ok(if found.is_empty() { Supply::End } else { Supply::Entries(found) })
    }
}

/// Somebody has rewritten one segment of a node, checksums, chain and footer included.
#[test]
fn a_rewritten_segment_is_replaced() {
    let entries = entries(80);
    let original = closed(&entries);
    let firsts = firsts(original.path());
    for victim in [0, 3, firsts.len() - 2] {
        let dir = copy_of(original.path());
        rewrite(dir.path(), &entries, firsts[victim], firsts[victim + 1], firsts[victim] + 1);
        let damage = lock(dir.path()).survey().unwrap().damage;
        assert_eq!(damage[0].kind, DamageKind::Chain, "{damage:?}");
        mend(dir.path(), &[original.path()]).unwrap();
        assert_same(dir.path(), original.path(), "rewritten");
    }
}

/// Of two segments that do not lead to each other, it is the second that was rewritten, with all
/// that follows it.
#[test]
fn a_rewritten_tail_is_replaced() {
    let entries = entries(80);
    let original = closed(&entries);
    let dir = copy_of(original.path());
    let firsts = firsts(dir.path());
    let start = 4;
    let mut chain = indelible_core::Hash([0x77; 32]);
    for (position, first) in firsts.iter().enumerate().skip(start) {
        let next = firsts.get(position + 1).copied().unwrap_or(80);
        let sealed = position + 1 < firsts.len();
        let part = &entries[*first as usize..next as usize];
        chain = forge(dir.path(), chain, part, sealed);
    }
    let damage = lock(dir.path()).survey().unwrap().damage;
    assert_eq!(damage[0].kind, DamageKind::Chain, "{damage:?}");
    mend(dir.path(), &[original.path()]).unwrap();
    assert_same(dir.path(), original.path(), "rewritten");
}
