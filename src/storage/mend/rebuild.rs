//! Mending a log that is not open: from the first damage on, as many segments as it takes until
//! what is there follows from what was written.

use std::ops::Range;

use super::survey::{Anchor, Files};
use super::swap::{self, NewSegment};
use super::walk::{After, Stopped, Walk};
use super::{ClosedLog, Damage, DamageKind, Fetch, MendError, Mended, Own, Survey};
use indelible_lineage::Bound;

use crate::disk::{DiskError, SlotsError};
use crate::storage::frame::{FrameFault, Location};
use crate::storage::hard_state::HardStateFile;
use crate::storage::recovery::OpenError;
use crate::storage::segment::{self, SegmentHeader};
use crate::storage::start;
use crate::storage::synced::{Synced, SyncedFile};

/// How to read what is there. Each attempt that finds it wrong makes the next one more suspicious.
#[derive(Debug, Clone, Copy)]
struct Plan {
    /// A segment that is whole in itself and leads to nothing: peers have to confirm it.
    doubted: Option<u64>,
    /// Holes from here on are open.
    open_from: u64,
    /// An entry of ours behind a hole that nobody could fill: known to be committed, it stays.
    kept: Option<u64>,
}

/// Why an attempt did not succeed.
enum Stop {
    /// This segment has to be doubted.
    Doubt(u64),
    /// What seemed to close the hole that begins here does not.
    Open(u64),
    Failed(MendError),
}

/// A segment that was written anew, beside the one that is there.
struct Made {
    first: u64,
    sealed: bool,
    /// Whether it differs from that.
    changed: bool,
    /// Whether it has entries.
    filled: bool,
}

/// What an attempt has passed.
struct Passed {
    /// Where the last entry's frame ends.
    end: Location,
    /// Whether an entry of a peer was among it.
    of_peers: bool,
    /// Whether the marker has its last entry end where none ends.
    misplaced: bool,
}

/// What an attempt has come to.
struct Outcome {
    made: Vec<Made>,
    fetched: Vec<Range<u64>>,
    /// The next entry, and where the frame before it ends.
    end: (u64, Location),
    /// How the walk ended.
    stopped: Stopped,
    /// The marker that is true after the swap, if the one that is there is not.
    marker: Option<Synced>,
}

impl<E: Into<MendError>> From<E> for Stop {
    fn from(error: E) -> Stop {
        Stop::Failed(error.into())
    }
}

impl ClosedLog {
    /// Mends the first damage of a survey, and what it runs into; then survey again. Asks `fetch`
    /// for what is missing, in order. Durable on return. After an error the log is as it was, and
    /// the caller may try again with other peers.
    pub fn rebuild(&self, survey: &Survey, fetch: &mut Fetch<'_>) -> Result<Mended, MendError> {
        let Some(damage) = survey.damage.first() else { return Ok(Mended::default()) };
        let files = Files::list(&self.data, self.common)?;
        swap::clean(&files.dir)?;
        if damage.kind == DamageKind::Stray {
            let kept = swap::remove(&self.data, &files.dir, damage.from)?;
            let mut mended = Mended::default();
            mended.keep(kept);
            return Ok(mended);
        }
        let start = damage.start.ok_or_else(|| MendError::NotNow { file: damage.file.clone() })?;
        let open_from = if damage.kind == DamageKind::End { start.next } else { u64::MAX };
        let mut plan = Plan { doubted: None, open_from, kept: None };
        loop {
            let attempt = Attempt { log: self, files: &files, survey, damage, plan };
            match attempt.run(start, fetch) {
                Ok(outcome) => return self.swap(&files, survey, outcome),
                Err(Stop::Doubt(first)) if plan.doubted.is_none() => plan.doubted = Some(first),
                Err(Stop::Failed(MendError::NotClosed { from, to })) if from < plan.open_from => {
                    plan = Plan { open_from: from, kept: Some(to), ..plan };
                }
                Err(Stop::Open(from)) if from < plan.open_from => plan.open_from = from,
                Err(Stop::Doubt(index) | Stop::Open(index)) => {
                    swap::clean(&files.dir)?;
                    return Err(MendError::DoesNotJoin { from: index, index: index + 1 });
                }
                Err(Stop::Failed(error)) => {
                    swap::clean(&files.dir)?;
                    return Err(error);
                }
            }
        }
    }

    /// Puts everything in its place.
    fn swap(&self, files: &Files, survey: &Survey, outcome: Outcome) -> Result<Mended, MendError> {
        let (next, end) = outcome.end;
        let ends = outcome.stopped != Stopped::Closed || next == 0;
        let mut mended = Mended { fetched: outcome.fetched, ..Mended::default() };
        mended.end = (outcome.stopped == Stopped::EndOfPeers).then_some(next);
        for made in outcome.made.into_iter().rev() {
            if made.changed && made.filled {
                // Crash between two of them: the first of the damage is still there, so that the
                // rest is mended again before the log opens.
                if let Some(kept) = swap::replace(&self.data, &files.dir, made.first)? {
                    mended.keep(kept);
                }
                mended.segments.push(made.first);
            } else {
                swap::discard(&files.dir, made.first)?;
            }
        }
        mended.segments.reverse();
        // After the new ones: what follows a damaged segment says that it is no torn end.
        for first in files.firsts.iter().filter(|first| ends && **first >= next).rev() {
            // Crash before: the log does not end there, which is damage again, or goes on with
            // whole entries of ours.
            mended.keep(swap::remove(&self.data, &files.dir, *first)?);
        }
        let lost = survey.marker.is_none() && ends;
        let lost = lost.then_some(Synced { next, end, ..Synced::EMPTY });
        if let Some(marker) = outcome.marker.or(lost) {
            self.sync_all()?;
            // Crash before: there is no marker, or one that wants more entries, or has the last one
            // end elsewhere: peers are asked again. After: all that it claims is durable.
            self.write_marker(marker)?;
            mended.marker = true;
        }
        if mended.end.is_some() {
            // Crash before: the log lacks the end that the hard state names, and peers are asked
            // again.
            self.name_end()?;
        }
        Ok(mended)
    }

    /// Has the hard state name the end that peers have settled, if the log does not reach the one
    /// that it names.
    fn name_end(&self) -> Result<(), MendError> {
        let survey = self.survey()?;
        let Some(DamageKind::End) = survey.damage.first().map(|damage| damage.kind) else {
            return Ok(());
        };
        self.sync_all()?;
        let mut file = HardStateFile::open(&self.data).map_err(|error| match error {
            SlotsError::Damaged { path } => OpenError::NoHardState { path },
            SlotsError::Disk(error) => error.into(),
        })?;
        let log_end = start::end_with(survey.last);
        file.update(|state| state.bound = state.bound.map(|bound| Bound { log_end, ..bound }))?;
        Ok(())
    }

    /// Makes the segments durable that nothing says are: all that are not sealed.
    fn sync_all(&self) -> Result<(), DiskError> {
        let files = Files::list(&self.data, self.common)?;
        let sealed = files.sealed_until()?;
        for first in files.firsts.iter().filter(|first| **first >= sealed) {
            files.dir.open_file(&segment::file_name(*first))?.sync_all()?;
        }
        files.dir.sync()
    }

    fn write_marker(&self, marker: Synced) -> Result<(), MendError> {
        let empty = Synced { promise: marker.promise, ..Synced::EMPTY };
        let marker = if marker.next == 0 { empty } else { marker };
        match SyncedFile::open(&self.data) {
            Ok((mut file, _)) => file.write(&marker)?,
            Err(_) => SyncedFile::create_as(&self.data, &marker)?,
        }
        Ok(())
    }
}

/// One attempt.
struct Attempt<'a> {
    log: &'a ClosedLog,
    files: &'a Files,
    survey: &'a Survey,
    damage: &'a Damage,
    plan: Plan,
}

impl Attempt<'_> {
    /// Walks from the damaged segment on, which starts at `start`, and writes new segments beside
    /// the old ones.
    fn run(&self, start: Anchor, fetch: &mut Fetch<'_>) -> Result<Outcome, Stop> {
        let mut walk = Walk::new(start.next, start.chain, fetch);
        walk.doubting = self.plan.doubted.is_some() || self.doubts_all();
        walk.open_from = self.plan.open_from;
        let sealed_until = self.files.sealed_until()?;
        let mut made: Vec<Made> = Vec::new();
        let mut passed = Passed { end: start.end, of_peers: false, misplaced: false };
        loop {
            let first = walk.index;
            let committed = match made.last() {
                Some(before) if before.sealed => self.committed(),
                None if self.files.is_sealed_before(first)? => self.committed(),
                _ => 0,
            };
            let sealed_until = sealed_until.max(committed);
            let (new, stopped) = self.segment(&mut walk, sealed_until, &mut passed)?;
            made.push(new);
            let ended = stopped != Stopped::Closed || self.at_end(&walk)?;
            if !ended && !self.goes_on(&mut walk, first)? {
                continue;
            }
            if let Some(run) = walk.run.filter(|run| ended && run.closed) {
                return Err(Stop::Open(run.from));
            }
            let end = (walk.index, passed.end);
            self.check_kept(&walk)?;
            let stopped = match ended {
                true if stopped == Stopped::EndOfPeers => Stopped::EndOfPeers,
                true => Stopped::End,
                false => Stopped::Closed,
            };
            let marker = if ended { self.marker(end, &passed)? } else { None };
            return Ok(Outcome { made, fetched: walk.fetched, end, stopped, marker });
        }
    }

    /// One segment of the walk, written anew. If it is closed, and ends at `sealed_until` or
    /// before, it is sealed: it was, or may be.
    fn segment(
        &self,
        walk: &mut Walk<'_, '_>,
        sealed_until: u64,
        passed: &mut Passed,
    ) -> Result<(Made, Stopped), Stop> {
        let (common, dir) = (&self.log.common, &self.files.dir);
        let first = walk.index;
        let name = segment::file_name(first);
        let file = match self.files.firsts.binary_search(&first) {
            Ok(_) => Some(dir.open_file_read_only(&name)?),
            Err(_) => None,
        };
        let mut own = Own::new(first, file.as_ref(), common)?;
        let header = SegmentHeader {
            trail_id: common.trail_id,
            first,
            segment_bytes: common.segment_bytes,
            chain_before: walk.chain,
        };
        let mut new = NewSegment::create(dir, &header)?;
        let mut of_peers = false;
        let (summary, stopped) = walk.segment(
            &mut own,
            common.segment_bytes,
            self.plan.doubted == Some(first) || self.doubts_all(),
            u64::MAX,
            &mut |own, summary, fault, of_peer| self.judge(own, summary, fault, of_peer),
            &mut |entry, header, location, of_peer| {
                of_peers |= of_peer;
                passed.of_peers |= of_peer;
                let offset = location.offset + header.frame_size();
                passed.end = Location { offset, ..location };
                passed.misplaced |= self.is_misplaced((entry.id.index + 1, passed.end));
                new.put(entry, header, location)
            },
        )?;
        if passed.misplaced && !passed.of_peers && !walk.doubting {
            return Err(Stop::Doubt(first));
        }
        let sealed = stopped == Stopped::Closed && summary.next <= sealed_until;
        new.finish(&summary, sealed, common.segment_bytes)?;
        let changed = of_peers || !own.is_whole(&summary, sealed)?;
        let filled = summary.next > first;
        Ok((Made { first, sealed, changed, filled }, stopped))
    }

    /// Whether the walk has passed our entry behind a hole as it was, if it is committed.
    fn check_kept(&self, walk: &Walk<'_, '_>) -> Result<(), MendError> {
        let committed = self.committed();
        let Some(kept) = self.plan.kept.filter(|kept| *kept < committed) else { return Ok(()) };
        if walk.index > kept && !walk.fetched.iter().any(|range| range.contains(&kept)) {
            return Ok(());
        }
        Err(MendError::Committed { end: self.plan.open_from, committed })
    }

    /// Entries before this one are committed, and their segments may be sealed, in order.
    fn committed(&self) -> u64 {
        self.survey.marker.map_or(0, |marker| marker.committed)
    }

    /// Whether own frames count only as far as peers have the same.
    fn doubts_all(&self) -> bool {
        self.damage.kind == DamageKind::End
    }

    /// Whether a log that ends before this entry may be complete.
    fn is_reached(&self, next: u64) -> bool {
        !self.doubts_all() && self.survey.marker.is_some_and(|marker| next >= marker.next)
    }

    /// Whether the marker has the entry before `end` end elsewhere.
    fn is_misplaced(&self, (next, end): (u64, Location)) -> bool {
        self.survey.marker.is_some_and(|marker| marker.next == next && marker.end != end)
    }

    fn judge(
        &self,
        own: &mut Own<'_>,
        summary: &segment::Summary,
        fault: FrameFault,
        of_peer: bool,
    ) -> Result<After, DiskError> {
        if let Some((next, _)) = own.following(summary.frames_end, summary.next)? {
            return Ok(After::Hole(Some(next)));
        }
        if let Some(first) = self.files.later(summary.next)? {
            return Ok(After::Hole(Some(first)));
        }
        // Where the end itself was damaged, what is left says nothing about what was above the
        // marker: peers know.
        let reached = self.is_reached(summary.next);
        let ended = reached && !of_peer && own.ends(summary, fault)?;
        Ok(if ended { After::End } else { After::Hole(None) })
    }

    /// After a closed segment: whether nothing is there, and nothing is missing.
    fn at_end(&self, walk: &Walk<'_, '_>) -> Result<bool, DiskError> {
        let reached = self.is_reached(walk.index) && walk.run.is_none();
        let nothing = self.files.firsts.binary_search(&walk.index).is_err();
        Ok(reached && nothing && self.files.later(walk.index)?.is_none())
    }

    /// After a closed segment that started with `first`: whether what follows it is whole and
    /// follows from it, so that the walk is done.
    fn goes_on(&self, walk: &mut Walk<'_, '_>, first: u64) -> Result<bool, Stop> {
        let Some(header) = self.files.header(walk.index)? else { return Ok(false) };
        if header.chain_before == walk.chain {
            walk.run = None;
            let name = self.files.dir.path().join(segment::file_name(walk.index));
            let damaged = self.survey.damage.iter().any(|damage| {
                damage.file == name || damage.start.is_some_and(|start| start.next == walk.index)
            });
            let is_end_open = matches!(self.damage.kind, DamageKind::Marker | DamageKind::End);
            return Ok(!damaged && !is_end_open);
        }
        match walk.run {
            _ if walk.doubting => Ok(false),
            Some(run) if run.closed => {
                Err(MendError::DoesNotJoin { from: run.from, index: walk.index }.into())
            }
            // The hole was asked for as an open one: this is no part of the log.
            Some(_) => Ok(false),
            None => Err(Stop::Doubt(first)),
        }
    }

    /// The marker to write after the swap, if the one that is there would not be true then. An
    /// error if peers let the log end before what is committed.
    fn marker(
        &self,
        (next, end): (u64, Location),
        passed: &Passed,
    ) -> Result<Option<Synced>, MendError> {
        let Some(marker) = self.survey.marker else { return Ok(None) };
        if next < marker.committed {
            return Err(MendError::Committed { end: next, committed: marker.committed });
        }
        if next >= marker.next && !passed.misplaced {
            return Ok(None);
        }
        Ok(Some(Synced { next, end, ..marker }))
    }
}
