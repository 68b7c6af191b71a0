//! What a start does about the boots of its node: whether the files on the disk are of one age, and
//! the boot that it begins (docs/adr/0011, rules 1 to 5). Nobody is asked.

use indelible_core::EntryId;
use indelible_lineage::{Bound, Draw, Found, Lineage, LogEnd, Start, check_start};

use crate::disk::{Dir, SlotsError};

use super::hard_state::{HARD_STATE_FILE, HardStateFile};
use super::identity::Identity;
use super::lineage::{FoundLineage, LineageFile};
use super::recovery::{OpenError, SEGMENTS_DIR};
use super::segment;
use super::synced::{Promise, SYNCED_FILE};

pub use indelible_lineage::Boot;

/// What a start has to know to begin a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewBoot {
    /// The root of this node's lineage.
    pub root: Boot,
    /// What this start has drawn at random.
    pub draw: Draw,
}

impl NewBoot {
    /// For the node with this identity.
    pub fn of(identity: &Identity, draw: Draw) -> NewBoot {
        NewBoot { root: root_of(identity), draw }
    }
}

/// What the lineage of the node with this identity begins with.
pub fn root_of(identity: &Identity) -> Boot {
    Boot::root(&identity.trail_id.0, identity.node_id, &identity.public_key)
}

/// Files of one age.
#[derive(Debug)]
pub(super) struct Checked {
    root: Boot,
    /// None before the very first start.
    pub(super) hard_state: Option<HardStateFile>,
    lineage: FoundLineage,
    start: Start,
}

/// Compares the files of a data directory; changes nothing. An error if they are of different ages:
/// then the node must not start, whatever its peers say.
pub(super) fn check(data: &Dir, root: Boot) -> Result<Checked, OpenError> {
    let hard_state = match data.exists(HARD_STATE_FILE)? {
        false => None,
        true => Some(HardStateFile::open(data).map_err(|error| match error {
            SlotsError::Damaged { path } => OpenError::NoHardState { path },
            SlotsError::Disk(error) => error.into(),
        })?),
    };
    let lineage = FoundLineage::read(data, root)?;
    // The very first start makes `synced` after `hard_state`.
    let is_missed = hard_state.is_none() && data.exists(SYNCED_FILE)?;
    let bound = hard_state.as_ref().and_then(|file| file.value().bound);
    let found = Found {
        lineage: lineage.lineage.as_ref(),
        bound: bound.as_ref(),
        has_entries: is_missed || has_segments(data)?,
    };
    let start = check_start(root, &found)?;
    Ok(Checked { root, hard_state, lineage, start })
}

pub(super) fn has_segments(data: &Dir) -> Result<bool, OpenError> {
    if !data.exists(SEGMENTS_DIR)? {
        return Ok(false);
    }
    // Only looked at: whoever opens it makes its name durable.
    let names = Dir::open(&data.path().join(SEGMENTS_DIR), true)?.list()?;
    Ok(names.iter().any(|name| segment::parse_file_name(name).is_some()))
}

impl Checked {
    /// Whether both copies of the lineage are as they should be.
    pub(super) fn is_whole(&self) -> bool {
        self.lineage.is_whole
    }

    /// Begins the boot. `log_end` is where the log ends, durably; `promise` is the one under which
    /// it was changed last. Both files are durable on return, and only then may the node say
    /// anything.
    pub(super) fn begin(
        self,
        data: &Dir,
        hard_state: &mut HardStateFile,
        draw: Draw,
        log_end: LogEnd,
        promise: Promise,
    ) -> Result<Lineage, OpenError> {
        let mut lineage: LineageFile = self.lineage.open(data, self.root)?;
        if let Start::Finish(draw) = self.start {
            // Crash before: the next start does this.
            lineage.push(draw)?;
        }
        let boot = lineage.lineage().newest().next(draw);
        hard_state.update(|state| {
            state.bound = Some(Bound { boot, draw, log_end });
            state.raise(promise);
        })?;
        // Crash here: the hard state is one boot ahead, and the next start finishes this one.
        lineage.push(draw)?;
        Ok(lineage.into_lineage())
    }
}

impl OpenError {
    /// Whether it says that the disk, or a part of it, is older than this node: it must not start
    /// on it, now or later.
    pub fn is_old_disk(&self) -> bool {
        match self {
            OpenError::NoHardState { .. }
            | OpenError::OldFiles(_)
            | OpenError::TwoLineages { .. } => true,
            OpenError::Locked(_)
            | OpenError::Disk(_)
            | OpenError::Corrupt { .. }
            | OpenError::Ambiguous { .. }
            | OpenError::Foreign { .. } => false,
        }
    }
}

/// The end of a log cut to so many entries; none if it has fewer. `leaders` has the last entry of
/// every leader, in order.
pub fn log_end(leaders: &[EntryId], entries: u64) -> Option<LogEnd> {
    let Some(last) = entries.checked_sub(1) else { return Some(LogEnd::default()) };
    let leader = leaders.iter().find(|leader| leader.index >= last)?;
    Some(LogEnd { entries, term: leader.term, leader: leader.leader })
}

/// What is wrong with a log that lacks the end that the hard state names. For people.
pub fn lacks_end(end: &LogEnd) -> String {
    let LogEnd { entries, term, leader } = end;
    format!(
        "the log lacks entry {} of term {term} and leader {leader}, with which hard_state says \
         that it ended: it is older than hard_state, or was replaced",
        entries.saturating_sub(1)
    )
}

/// Where a log with this last entry ends.
pub fn end_with(last: Option<EntryId>) -> LogEnd {
    let Some(EntryId { index, term, leader }) = last else { return LogEnd::default() };
    LogEnd { entries: index + 1, term, leader }
}
