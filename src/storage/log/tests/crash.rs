//! A recorded run, cut at every point: what was acknowledged must be there after a restart.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::support::*;
use crate::disk::recorder::{Event, Op};
use crate::disk::replay::{Torn, Unsynced, rebuild};
use crate::storage::log::open::Tuning;

/// What the run was told at some point: the entries and the vote that must survive, and what else
/// may be there.
#[derive(Debug, Default, Clone)]
struct Told {
    /// Entries before this one are acknowledged.
    next: u64,
    vote: Option<StoredVote>,
    /// The vote that was asked for last.
    asked: Option<StoredVote>,
    /// Every term in which an entry was appended, by index; the last one is the newest.
    terms: BTreeMap<u64, Vec<u64>>,
    /// For acknowledged entries: the term.
    kept: BTreeMap<u64, u64>,
}

/// A run that appends, votes, truncates and seals; with what it was told before each event.
struct Run {
    log: Log,
    recorder: std::sync::Arc<Recorder>,
    told: Told,
    history: Vec<(usize, Told)>,
}

/// Entries of this term take all the space that is reserved for a segment.
const LARGE: u64 = 99;

fn size(index: u64, term: u64) -> usize {
    if term == LARGE { 8000 } else { 150 + (index as usize * 97) % 500 }
}

impl Run {
    /// What is told from now on.
    fn tell(&mut self, change: impl FnOnce(&mut Told)) {
        change(&mut self.told);
        self.history.push((self.recorder.events().len(), self.told.clone()));
    }

    fn append(&mut self, term: u64, count: u64) {
        let next = self.log.last().map_or(0, |last| last.index + 1);
        let range = next..next + count;
        self.tell(|told| {
            range.clone().for_each(|index| told.terms.entry(index).or_default().push(term));
        });
        append(
            &self.log,
            range.clone().map(|index| entry(index, term, size(index, term))).collect(),
        );
        self.tell(|told| {
            told.next = range.end;
            told.kept.extend(range.map(|index| (index, term)));
        });
    }

    fn vote(&mut self, term: u64) {
        let vote = StoredVote { term, node_id: 1, committed: term.is_multiple_of(2) };
        self.tell(|told| told.asked = Some(vote));
        wait(|done| self.log.save_vote(vote, done)).unwrap();
        self.tell(|told| told.vote = Some(vote));
    }

    fn truncate(&mut self, last_kept: Option<u64>) {
        let next = last_kept.map_or(0, |last| last + 1);
        self.tell(|told| {
            told.next = next;
            told.kept.retain(|index, _| *index < next);
        });
        wait(|done| self.log.truncate_after(last_kept, done).unwrap()).unwrap();
        self.tell(|_| ());
    }
}

type History = Vec<(usize, Told)>;

fn record(script: impl FnOnce(&mut Run)) -> (Vec<Event>, History) {
    let dir = temp_dir();
    let recorder = Recorder::new();
    let marker_interval = Duration::from_secs(3600);
    let tuning = Tuning { recorder: Some(recorder.clone()), marker_interval };
    let (log, _) = Log::open_tuned(dir.path(), unsynced(), tuning).unwrap();
    let mut run = Run { log, recorder, told: Told::default(), history: Vec::new() };
    script(&mut run);
    run.log.close();
    (run.recorder.events(), run.history)
}

fn script(run: &mut Run) {
    run.vote(1);
    run.append(1, 3);
    run.append(1, 1);
    tend(&run.log);
    run.vote(2);
    run.append(2, 9); // over the end of the first segment
    run.truncate(Some(10));
    run.append(3, 4);
    run.log.set_committed(11);
    run.log.set_applied(11);
    tend(&run.log); // seals the first segment
    run.append(3, 14); // two more segments
    run.truncate(Some(12)); // and back over both
    run.vote(4);
    run.append(4, 2);
    run.append(4, 1);
}

/// Syncs are recorded, and need not happen.
fn unsynced() -> LogOptions {
    LogOptions { sync: SyncPolicy::Never, ..options() }
}

#[test]
fn what_was_acknowledged_survives_every_crash() {
    let (events, history) = record(script);
    let ambiguous = crash_everywhere(&events, &history);
    assert!(events.len() > 80 && ambiguous > 0);
}

#[test]
fn sealing_survives_every_crash_when_no_space_was_left() {
    let (events, history) = record(|run| {
        run.append(LARGE, 1);
        run.log.set_applied(1);
        tend(&run.log);
        run.append(LARGE + 1, 1);
    });
    let footer = |event: &Event| matches!(&event.op, Op::Write { offset: 8192, .. });
    assert!(events.iter().any(footer), "{events:?}");
    crash_everywhere(&events, &history);
}

/// Cuts a run at every point; returns how often the start was refused as ambiguous.
fn crash_everywhere(events: &[Event], history: &History) -> usize {
    let told_at = |position: usize| {
        let before = history.partition_point(|(told_at, _)| *told_at <= position);
        before.checked_sub(1).map(|last| history[last].1.clone()).unwrap_or_default()
    };
    let (mut states, mut torn_states, mut ambiguous) = (0, 0, 0);
    for count in 1..=events.len() {
        let run = &events[..count];
        // Told during an operation may be what was told before or after it: the weaker counts.
        let told = told_at(count - 1);
        for data in [Unsynced::Kept, Unsynced::Dropped] {
            for names in [Unsynced::Kept, Unsynced::Dropped] {
                recovers(run, data, names, None, &told, false);
                states += 1;
            }
        }
        let Some(Event { name, op: Op::Write { offset, bytes } }) = run.last() else { continue };
        let log_write = name.ends_with(".seg");
        let frames = log_write && bytes.starts_with(b"INDF");
        for cut in cuts(*offset as usize, bytes.len(), frames) {
            // Only whole sectors are written: a tear elsewhere may look like damage, and then the
            // start is refused.
            let may_refuse = frames && !(*offset as usize + cut).is_multiple_of(512);
            let kept = Unsynced::Kept;
            let after = Some(Torn::After(cut));
            ambiguous += usize::from(!recovers(run, kept, kept, after, &told, may_refuse));
            torn_states += 1;
            if log_write {
                recovers(run, kept, kept, Some(Torn::FileEnds(cut)), &told, false);
                torn_states += 1;
            }
        }
    }
    println!(
        "{} operations: {states} crash states, {torn_states} torn writes ({ambiguous} ambiguous)",
        events.len()
    );
    ambiguous
}

/// Where a write is cut: frames of usual size at every byte, large writes and slots at their start,
/// at sectors, and here and there.
fn cuts(offset: usize, size: usize, frames: bool) -> impl Iterator<Item = usize> {
    (0..size).filter(move |cut| {
        let sector = (offset + cut).is_multiple_of(512);
        let near = *cut < 100 || size - cut < 20 || cut.is_multiple_of(61);
        sector || near || frames && size < 1500
    })
}

/// Opens what is there after a crash, twice, and checks it against what was told; false if that was
/// refused as ambiguous.
fn recovers(
    run: &[Event],
    data: Unsynced,
    names: Unsynced,
    torn: Option<Torn>,
    told: &Told,
    may_refuse: bool,
) -> bool {
    let case = || format!("after {} operations, {data:?} {names:?} {torn:?}: {told:?}", run.len());
    let dir = temp_dir();
    rebuild(None, run, data, names, torn, dir.path());
    let first = match open(dir.path()) {
        Ok(first) => first,
        Err(OpenError::Ambiguous { .. }) if may_refuse => return false,
        Err(error) => panic!("{}: {error}", case()),
    };
    let (entries, vote) = &first;
    assert!(entries.len() as u64 >= told.next, "{} entries {}", entries.len(), case());
    for found in entries {
        let EntryId { index, term, .. } = found.id;
        assert_eq!(*found, entry(index, term, size(index, term)), "{}", case());
        assert!(told.terms[&index].contains(&term), "entry {index} of term {term} {}", case());
        if let Some(kept) = told.kept.get(&index) {
            assert_eq!(term, *kept, "entry {index} {}", case());
        }
    }
    assert!(*vote == told.vote || *vote == told.asked, "{vote:?} {}", case());
    assert_eq!(open(dir.path()).unwrap(), first, "the second start differs: {}", case());
    true
}

type State = (Vec<Entry>, Option<StoredVote>);

fn open(dir: &Path) -> Result<State, OpenError> {
    let (log, recovered) = Log::open(dir, unsynced())?;
    let count = recovered.last.map_or(0, |last| last.index + 1);
    assert_eq!(log.scan_all()?, count);
    Ok((read_all(&log, count), recovered.vote))
}

#[test]
fn a_crash_during_recovery_changes_nothing() {
    let (events, _) = record(script);
    let is_frames =
        |event: &Event| matches!(&event.op, Op::Write { bytes, .. } if bytes.starts_with(b"INDF"));
    let mut states = 0;
    for (position, event) in events.iter().enumerate().filter(|(_, event)| is_frames(event)) {
        let Op::Write { bytes, .. } = &event.op else { continue };
        let torn = temp_dir();
        let cut = Some(Torn::FileEnds(bytes.len() - 30));
        rebuild(None, &events[..=position], Unsynced::Kept, Unsynced::Kept, cut, torn.path());
        // What recovery does to it, recorded.
        let recovered = temp_dir();
        rebuild(None, &events[..=position], Unsynced::Kept, Unsynced::Kept, cut, recovered.path());
        let recorder = Recorder::new();
        let tuning = Tuning { recorder: Some(recorder.clone()), ..Tuning::default() };
        Log::open_tuned(recovered.path(), unsynced(), tuning).unwrap().0.close();
        let expected = open(recovered.path()).unwrap();
        let recovery = recorder.events();
        assert!(recovery.iter().any(|event| event.name == "quarantine"), "{recovery:?}");
        for count in 1..=recovery.len() {
            for data in [Unsynced::Kept, Unsynced::Dropped] {
                for names in [Unsynced::Kept, Unsynced::Dropped] {
                    let dir = temp_dir();
                    rebuild(Some(torn.path()), &recovery[..count], data, names, None, dir.path());
                    assert_eq!(open(dir.path()).unwrap(), expected, "{count} {data:?} {names:?}");
                    states += 1;
                }
            }
        }
    }
    println!("{states} crashes during recovery");
    assert!(states > 100);
}
