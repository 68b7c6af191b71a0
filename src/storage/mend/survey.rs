//! What stands in the way of a start: all of it, where a start stops at the first.

use std::path::PathBuf;

use indelible_core::{Chain, EntryId, TrailId, chain};
use indelible_lineage::{Bound, log_reaches};

use super::{ClosedLog, Common, Own};
use crate::disk::{Dir, DiskError, SlotsError};
use crate::storage::frame::Location;
use crate::storage::hard_state::{HARD_STATE_FILE, HardState, HardStateFile};
use crate::storage::recovery::{self, Expected, Judged, OpenError, SEGMENTS_DIR};
use crate::storage::segment::{self, SegmentHeader};
use crate::storage::start;
use crate::storage::synced::{SYNCED_FILE, Synced, SyncedFile};

/// A damaged place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// What kind it is.
    pub kind: DamageKind,
    /// In which file.
    pub file: PathBuf,
    /// Where in it, in bytes.
    pub offset: u64,
    /// The first entry that is affected.
    pub from: u64,
    /// One past the last that is, as far as known: something whole follows. None: up to the end.
    pub to: Option<u64>,
    /// What is wrong.
    pub what: String,
    /// Where mending starts; none if what comes before is damaged, too.
    pub(super) start: Option<Anchor>,
}

impl Damage {
    /// Damage of an open log.
    pub(in crate::storage) fn new(
        kind: DamageKind,
        file: PathBuf,
        offset: u64,
        from: u64,
        to: Option<u64>,
        what: String,
    ) -> Damage {
        Damage { kind, file, offset, from, to, what, start: None }
    }
}

/// The end of a whole part of the log, where a segment ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Anchor {
    /// One past its last entry.
    pub(super) next: u64,
    /// The chain's link of that.
    pub(super) chain: Chain,
    /// Where the frame of that ends.
    pub(super) end: Location,
}

impl Anchor {
    /// Of the log without entries.
    fn genesis(trail_id: &TrailId) -> Anchor {
        Anchor { next: 0, chain: chain::genesis(trail_id), end: Synced::EMPTY.end }
    }
}

/// Kinds of damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DamageKind {
    /// In a segment: its header, its frames, its footer, or where it ends.
    Segment,
    /// Entries without a segment file.
    Missing,
    /// A segment file where none belongs.
    Stray,
    /// Two segments, each whole, that do not follow from each other.
    Chain,
    /// The `synced` marker is missing or damaged, so that nothing says where the log ended.
    Marker,
    /// Each segment is whole, but the log lacks the end that the hard state names: it is older, or
    /// what followed was replaced. None of its entries counts that is not known to be committed.
    End,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at offset {}: {}", self.file.display(), self.offset, self.what)?;
        write!(f, " (entries {} {})", self.from, super::until(self.to))
    }
}

/// What a start would find.
#[derive(Debug, Clone)]
pub struct Survey {
    /// All that it would refuse on, in order of entries; the first can be mended at once. If there
    /// is none, the log opens.
    pub damage: Vec<Damage>,
    /// One past the last entry; none if the end is damaged.
    pub next: Option<u64>,
    /// The last entry, if nothing before it is damaged.
    pub last: Option<EntryId>,
    /// What the marker says; none if it cannot be read.
    pub marker: Option<Synced>,
    /// Segment files.
    pub segments: usize,
}

impl Survey {
    /// Whether entries are missing at the end that this node has had.
    pub fn lacks_end(&self) -> bool {
        self.damage.iter().any(|damage| damage.kind == DamageKind::End)
    }
}

/// Segment files, looked at only as far as is asked.
pub(super) struct Files {
    pub(super) dir: Dir,
    pub(super) common: Common,
    /// In order.
    pub(super) firsts: Vec<u64>,
}

impl Files {
    /// Those of a data directory; makes the directory if there is none.
    pub(super) fn list(data: &Dir, common: Common) -> Result<Files, DiskError> {
        let dir = data.subdir(SEGMENTS_DIR)?;
        let names = dir.list()?;
        let firsts = names.iter().filter_map(|name| segment::parse_file_name(name)).collect();
        Ok(Files { dir, common, firsts })
    }

    /// The header of the segment that starts with this entry, if it has one that is sound.
    pub(super) fn header(&self, first: u64) -> Result<Option<SegmentHeader>, DiskError> {
        if self.firsts.binary_search(&first).is_err() {
            return Ok(None);
        }
        let file = self.dir.open_file_read_only(&segment::file_name(first))?;
        Ok(Own::new(first, Some(&file), &self.common)?.header().copied())
    }

    /// The first segment with a sound header that starts after this entry.
    pub(super) fn later(&self, index: u64) -> Result<Option<u64>, DiskError> {
        let from = self.firsts.partition_point(|first| *first <= index);
        for first in &self.firsts[from..] {
            if self.header(*first)?.is_some() {
                return Ok(Some(*first));
            }
        }
        Ok(None)
    }

    /// Whether the segment before the one that starts with this entry is sealed, or there is none.
    pub(super) fn is_sealed_before(&self, first: u64) -> Result<bool, DiskError> {
        let position = self.firsts.partition_point(|known| *known < first);
        let Some(before) = position.checked_sub(1) else { return Ok(first == 0) };
        let before = self.firsts[before];
        let file = self.dir.open_file_read_only(&segment::file_name(before))?;
        let footer = Own::new(before, Some(&file), &self.common)?.footer()?;
        Ok(footer.is_some_and(|summary| summary.next == first))
    }

    /// One past the last entry of the last sealed segment; 0 if there is none.
    pub(super) fn sealed_until(&self) -> Result<u64, DiskError> {
        for first in self.firsts.iter().rev() {
            let file = self.dir.open_file_read_only(&segment::file_name(*first))?;
            // A file that cannot be read says nothing.
            if let Ok(Some(summary)) = Own::new(*first, Some(&file), &self.common)?.footer() {
                return Ok(summary.next);
            }
        }
        Ok(0)
    }
}

/// What the loop over the segments knows.
struct Surveyor<'a> {
    files: &'a Files,
    marker: &'a Synced,
    damage: Vec<Damage>,
    /// Where the log has come to; none after damage.
    at: Option<Anchor>,
    /// Where it had come to before the last segment; none if there is none, or after damage.
    last: Option<Anchor>,
    /// Where each whole segment starts, as long as there was no damage.
    passed: Vec<Anchor>,
    /// Last entry of each leader in them.
    leaders: Vec<EntryId>,
}

impl ClosedLog {
    /// Judges the log as a start would and goes on after damage; changes nothing. Without a marker
    /// this reads all of the log, otherwise what a start reads. An error if mending cannot help.
    pub fn survey(&self) -> Result<Survey, OpenError> {
        let files = Files::list(&self.data, self.common)?;
        let hard_state = self.hard_state(&files)?;
        let marker = match (self.data.exists(SYNCED_FILE)?, hard_state.boot_count()) {
            (false, 0) if files.firsts.is_empty() => Some(Synced::EMPTY),
            (false, _) => None,
            (true, _) => match SyncedFile::read(&self.data) {
                Ok(marker) => Some(marker),
                Err(SlotsError::Damaged { .. }) => None,
                Err(SlotsError::Disk(error)) => return Err(error.into()),
            },
        };
        self.check_foreign(&files)?;
        let mut surveyor = Surveyor {
            files: &files,
            marker: marker.as_ref().unwrap_or(&Synced::EMPTY),
            damage: Vec::new(),
            at: Some(Anchor::genesis(&self.common.trail_id)),
            last: None,
            passed: Vec::new(),
            leaders: Vec::new(),
        };
        for (position, first) in files.firsts.iter().enumerate() {
            surveyor.segment(*first, files.firsts.get(position + 1).copied())?;
        }
        surveyor.end();
        if let Some(bound) = hard_state.bound.filter(|_| marker.is_some()) {
            surveyor.check_end(&bound);
        }
        let mut damage = surveyor.damage;
        let at = surveyor.at;
        if marker.is_none() {
            damage.push(Damage {
                kind: DamageKind::Marker,
                file: self.data.path().join(SYNCED_FILE),
                offset: 0,
                from: at.map_or(0, |at| at.next),
                to: None,
                what: "the synced marker cannot be read, so nothing says where the log ended"
                    .into(),
                start: surveyor.last.or(at),
            });
        }
        let last = surveyor.leaders.last().copied();
        let (next, segments) = (at.map(|at| at.next), files.firsts.len());
        Ok(Survey { damage, next, last, marker, segments })
    }

    /// The hard state; an error if it cannot be read, which nothing can mend.
    fn hard_state(&self, files: &Files) -> Result<HardState, OpenError> {
        let refuse = || OpenError::NoHardState { path: self.data.path().join(HARD_STATE_FILE) };
        if !self.data.exists(HARD_STATE_FILE)? {
            let has_log = !files.firsts.is_empty() || self.data.exists(SYNCED_FILE)?;
            return if has_log { Err(refuse()) } else { Ok(HardState::default()) };
        }
        match HardStateFile::open(&self.data) {
            Ok(file) => Ok(file.value().clone()),
            Err(SlotsError::Damaged { .. }) => Err(refuse()),
            Err(SlotsError::Disk(error)) => Err(error.into()),
        }
    }

    /// One segment of another trail is damage. Nothing but such segments is another node's disk.
    fn check_foreign(&self, files: &Files) -> Result<(), OpenError> {
        let expected = expected(&self.common);
        let mut foreign = None;
        for first in &files.firsts {
            let file = files.dir.open_file_read_only(&segment::file_name(*first))?;
            match recovery::read_header(&file, *first, &expected) {
                Err(error @ OpenError::Foreign { .. }) => foreign = Some(error),
                _ => return Ok(()),
            }
        }
        foreign.map_or(Ok(()), Err)
    }
}

pub(super) fn expected(common: &Common) -> Expected {
    Expected {
        trail_id: common.trail_id,
        segment_bytes: common.segment_bytes,
        first_index_any: false,
        read_all: false,
    }
}

impl Surveyor<'_> {
    fn segment(&mut self, first: u64, successor: Option<u64>) -> Result<(), OpenError> {
        let file = self.files.dir.path().join(segment::file_name(first));
        let header = self.files.header(first)?;
        if let Some(at) = self.at
            && first != at.next
        {
            if first < at.next {
                let what = format!("a segment before it goes up to entry {}", at.next - 1);
                self.push(DamageKind::Stray, file, 0, (first, Some(first)), what, self.at);
                return Ok(());
            }
            let missing = self.files.dir.path().join(segment::file_name(at.next));
            let (entries, what) = ((at.next, Some(first)), "the segment file is missing".into());
            self.push(DamageKind::Missing, missing, 0, entries, what, self.at);
            self.forget();
        }
        if let (Some(at), Some(header)) = (self.at, &header)
            && header.chain_before != at.chain
        {
            let what = "the chain does not follow from the segment before".into();
            let start = self.last.or(self.at);
            let entries = (start.map_or(first, |start| start.next), Some(first));
            self.push(DamageKind::Chain, file.clone(), 0, entries, what, start);
            self.forget();
        }
        let anchor = self.at.map(|at| (at.next, at.chain));
        let anchor = anchor.or(header.map(|header| (first, header.chain_before)));
        let expected = expected(&self.files.common);
        let dir = &self.files.dir;
        let judged =
            recovery::judge(dir, &expected, self.marker, first, anchor, successor, &mut |_| {});
        let (file, offset, from, what) = match judged {
            Ok(Judged { summary, .. }) => {
                let end = Location { segment: first, offset: summary.frames_end };
                let at = Anchor { next: summary.next, chain: summary.chain_after, end };
                self.passed.extend(self.at);
                (self.last, self.at) = (self.at, Some(at));
                summary.leaders.iter().for_each(|id| segment::push_leader(&mut self.leaders, *id));
                return Ok(());
            }
            Err(
                OpenError::Corrupt { file, offset, first, what, .. }
                | OpenError::Ambiguous { file, offset, first, what, .. },
            ) => (file, offset, first, what),
            Err(OpenError::Foreign { file, what }) => (file, 0, first, what),
            Err(OpenError::Disk(error)) if error.path == file => {
                (file, 0, first, error.to_string())
            }
            Err(error) => return Err(error),
        };
        let entries = (from, self.whole_after(first, offset, from)?);
        self.push(DamageKind::Segment, file, offset, entries, what, self.at);
        self.forget();
        Ok(())
    }

    /// The first whole entry behind damage at an offset of a segment.
    fn whole_after(&self, first: u64, offset: u64, from: u64) -> Result<Option<u64>, DiskError> {
        let file = self.files.dir.open_file_read_only(&segment::file_name(first))?;
        let mut own = Own::new(first, Some(&file), &self.files.common)?;
        let offset = offset.max(segment::FRAMES_START);
        match own.following(offset, from)? {
            Some((index, _)) => Ok(Some(index)),
            None => self.files.later(from.saturating_sub(1)),
        }
    }

    fn push(
        &mut self,
        kind: DamageKind,
        file: PathBuf,
        offset: u64,
        (from, to): (u64, Option<u64>),
        what: String,
        start: Option<Anchor>,
    ) {
        self.damage.push(Damage { kind, file, offset, from, to, what, start });
    }

    /// After damage: the next segment is judged by what it says itself.
    fn forget(&mut self) {
        self.at = None;
        self.last = None;
    }

    /// Whether the log goes as far as the marker says.
    fn end(&mut self) {
        let Some(at) = self.at.filter(|at| at.next < self.marker.next) else { return };
        let (next, durable) = (at.next, self.marker.next);
        let what = format!("the log ends before entry {next}, those before {durable} were durable");
        let file = self.files.dir.path().join(segment::file_name(next));
        self.push(DamageKind::Missing, file, 0, (next, None), what, self.last.or(self.at));
        self.at = None;
    }

    /// Whether a log without damage has the end that the hard state names.
    fn check_end(&mut self, bound: &Bound) {
        let entries = bound.log_end.entries;
        if !self.damage.is_empty() || log_reaches(bound, start::log_end(&self.leaders, entries)) {
            return;
        }
        // Up to there nothing can differ from what others have.
        let committed = self.marker.committed;
        let start = self.passed.iter().rev().find(|at| at.next <= committed).copied().or(self.at);
        let from = start.map_or(0, |start| start.next);
        let file = self.files.dir.path().join(segment::file_name(from));
        let what = start::lacks_end(&bound.log_end);
        self.push(DamageKind::End, file, 0, (from, None), what, start);
    }
}
