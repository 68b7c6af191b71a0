//! What a start finds on the disk, before anybody is asked.

use crate::{Boot, Draw, Lineage};

/// Where a log ends: how many entries it has, and which the last one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct LogEnd {
    /// Number of entries.
    pub entries: u64,
    /// Term of the last entry; 0 for an empty log.
    pub term: u64,
    /// Leader of the last entry; 0 for an empty log.
    pub leader: u64,
}

/// What `hard_state` says of the two other files, each time that it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bound {
    /// The newest boot.
    pub boot: Boot,
    /// Its draw: a crash may have come before the lineage had it.
    pub draw: Draw,
    /// Where the log ended, durably. Written anew before the log is shortened.
    pub log_end: LogEnd,
}

/// What a start finds.
#[derive(Debug, Clone, Copy)]
pub struct Found<'a> {
    /// The file `lineage`, if it is there.
    pub lineage: Option<&'a Lineage>,
    /// What `hard_state` says, if it is there.
    pub bound: Option<&'a Bound>,
    /// Whether the log has an entry.
    pub has_entries: bool,
}

/// What a start does about its lineage, before it draws a number of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// There is nothing yet.
    First,
    /// `lineage` is complete.
    Complete,
    /// A crash has come between `hard_state` and `lineage`: this draw is added to `lineage` first.
    Finish(Draw),
}

/// Why a node must not start: its files are of different ages. Nobody needs to be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StartRefusal {
    /// There is a log or a lineage, and no `hard_state`.
    #[error(
        "hard_state is missing beside files of earlier boots: the vote and the boots of peers are \
         lost; hint: node ids are never reused, add the node under a new id"
    )]
    NoHardState,
    /// There is a `hard_state` of a later boot than the first, and no `lineage`.
    #[error(
        "there is no lineage of this node, and hard_state is of boot {boot}: `lineage` was deleted, \
         or it, or `identity`, is another node's; hint: put back the file that belongs here, or add \
         the node under a new id"
    )]
    NoLineage {
        /// Number of the boot in `hard_state`.
        boot: u64,
    },
    /// The files are of different boots.
    #[error(
        "hard_state is of boot {hard_state}, lineage ends with boot {lineage}, and one does not \
         follow from the other: one of the files was replaced by an older or another one; hint: \
         put back the newer file, or add the node under a new id"
    )]
    OtherBoot {
        /// Number of the boot in `hard_state`.
        hard_state: u64,
        /// Number of the newest boot in `lineage`.
        lineage: u64,
    },
}

/// Compares the files of one disk. `root` is the root of this node's lineage.
///
/// `hard_state` is written first at a start, so it is of the newest boot of `lineage` or of the
/// one after that. What a crash has left is finished, but a start always draws a number of its own
/// after that: two copies of the disk must not finish the same start.
pub fn check_start(root: Boot, found: &Found<'_>) -> Result<Start, StartRefusal> {
    let newest = found.lineage.map_or(root, Lineage::newest);
    let Some(bound) = found.bound else {
        let is_new = newest == root && !found.has_entries;
        return if is_new { Ok(Start::First) } else { Err(StartRefusal::NoHardState) };
    };
    if bound.boot == newest {
        return Ok(Start::Complete);
    }
    if newest.next(bound.draw) == bound.boot {
        return Ok(Start::Finish(bound.draw));
    }
    let (hard_state, lineage) = (bound.boot.number, newest.number);
    Err(match found.lineage {
        None => StartRefusal::NoLineage { boot: hard_state },
        Some(_) => StartRefusal::OtherBoot { hard_state, lineage },
    })
}

/// Whether a log has everything that it had when `hard_state` was written. `at_end` is the end of
/// the log cut to as many entries as [`Bound::log_end`] has; none if it has fewer. If not, entries
/// are missing at its end: they are mended (docs/adr/0007) before the node votes.
pub fn log_reaches(bound: &Bound, at_end: Option<LogEnd>) -> bool {
    at_end == Some(bound.log_end)
}
