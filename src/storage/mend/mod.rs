//! Mending: turning a damaged segment into a whole one.
//!
//! A frame is a pure function of the log, and where it lies follows from the frames before it. So a
//! damaged segment is written anew, front to back, of its own frames where they are whole and of
//! entries that peers hold where they are not; and what comes out is what was there before, byte
//! for byte. Own frames count only where they belong and if the chain leads to them; entries of
//! peers have to be sound in themselves and to follow from the entry before (`walk`).
//!
//! * A *closed* hole, with something whole of ours after it, is filled by whatever leads from the
//!   entry before to the entry after: SHA3 leaves no choice, so any one peer may fill it.
//! * An *open* hole, with nothing of ours after it, may be filled with anything that begins right:
//!   whoever asks the peers decides whom to believe, and where the log ends. A [`Want`] says which
//!   of the two it is.
//!
//! Either may be a place that no other log ever reached; then ours ends there, if nothing says that
//! it was committed.
//!
//! With the log closed, [`ClosedLog`] surveys and mends what a start would refuse on (`survey`,
//! `rebuild`). With the log open, [`super::log::Log`] scrubs and mends one segment at a time. In
//! both cases `swap` puts the new bytes in their place, and keeps the damaged ones in
//! `quarantine/`. [`source`] serves others, whatever state our own log is in.
//!
//! What cannot be mended: a hard state that is gone or damaged (this node could vote twice), an
//! identity that is, and files of another trail only.

mod own;
mod rebuild;
pub mod source;
pub(in crate::storage) mod survey;
pub(in crate::storage) mod swap;
#[cfg(test)]
pub(crate) mod tests;
pub(in crate::storage) mod walk;

use std::ops::Range;
use std::path::{Path, PathBuf};
#[cfg(test)]
use std::sync::Arc;

use indelible_core::limits::{ENTRY_BYTES_MAX, MEMBERSHIP_BYTES_MAX};
use indelible_core::{Batch, Chain, Entry, EntryKind, FormatError, TrailId};

#[cfg(test)]
use crate::disk::Recorder;
use crate::disk::{Dir, DirLock, DiskError, LockError};
use crate::storage::log::LogError;
use crate::storage::recovery::OpenError;
use crate::storage::start::{self, Boot};

pub(in crate::storage) use own::{Found, Own};
use swap::Kept;

pub use source::SegmentSource;
pub use survey::{Damage, DamageKind, Survey};

/// An entry as a peer has given it, with its link of the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The entry.
    pub entry: Entry,
    /// Its link.
    pub chain: Chain,
}

/// Entries that this node lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    /// The first of them.
    pub from: u64,
    /// One past the last of them, as far as known: something whole of ours follows there, which
    /// the answer will have to lead to. None: the hole is open.
    pub to: Option<u64>,
    /// The chain's link before the first.
    pub before: Chain,
}

/// What peers have of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Supply {
    /// Consecutive entries from the first one on, at least one. Those past the hole are ignored.
    Entries(Vec<Fetched>),
    /// A majority of the other voters never had such an entry: the log ends before it, and whatever
    /// of ours follows was never committed.
    End,
    /// What nobody can fill may be no part of the log that counts, with what follows of ours: it is
    /// asked for again as an open hole.
    NotClosed,
}

/// Why peers did not supply.
pub type FetchError = Box<dyn std::error::Error + Send + Sync>;

/// Asks peers. May block; is asked again for what was not supplied.
pub type Fetch<'a> = dyn FnMut(&Want) -> Result<Supply, FetchError> + 'a;

/// What mending has done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mended {
    /// Segments that were written anew, by first entry.
    pub segments: Vec<u64>,
    /// Entries that came from peers.
    pub fetched: Vec<Range<u64>>,
    /// Where the damaged bytes are now.
    pub quarantined: Vec<PathBuf>,
    /// Damaged bytes for which there was no room: what they were, and their digest. For people.
    pub unkept: Vec<String>,
    /// One past the log's last entry, if peers said that it ends there.
    pub end: Option<u64>,
    /// Whether the `synced` marker was changed or made anew.
    pub marker: bool,
}

impl Mended {
    /// Notes what became of damaged bytes.
    pub(in crate::storage) fn keep(&mut self, kept: Kept) {
        match kept {
            Kept::At(path) => self.quarantined.push(path),
            Kept::Noted(what) => self.unkept.push(what),
        }
    }
}

/// Why something was not mended. Nothing was changed, but for what the variant says.
#[derive(Debug, thiserror::Error)]
pub enum MendError {
    /// Nobody had the entries.
    #[error("nobody has entries {from} {}: {source}", until(*.to))]
    NotSupplied {
        /// The first of them.
        from: u64,
        /// One past the last, if that is known.
        to: Option<u64>,
        /// Why not.
        source: FetchError,
    },
    /// A supplied entry is not what belongs there. Whoever gave it is damaged, or lies: ask another
    /// peer.
    #[error("entry {index} of a peer was refused: {why}")]
    Refused {
        /// The entry.
        index: u64,
        /// What is wrong with it.
        why: Refusal,
    },
    /// Supplied entries follow from each other, and our whole entry after them does not follow from
    /// the last: whoever gave them is damaged, or lies. Ask another peer.
    #[error("entries {from} to {} of a peer do not lead to our entry {index}", .index - 1)]
    DoesNotJoin {
        /// The first that was supplied.
        from: u64,
        /// The entry of ours.
        index: u64,
    },
    /// A closed hole has to be asked for as an open one.
    #[error("entries {from} to {}: perhaps what follows here is no part of the log", .to - 1)]
    NotClosed {
        /// The first of them.
        from: u64,
        /// Our entry after them.
        to: u64,
    },
    /// Peers said that the log ends before an entry that is known to be committed.
    #[error("the log cannot end before entry {end}: those before {committed} are committed")]
    Committed {
        /// One past the last entry, as peers have it.
        end: u64,
        /// One past the last committed entry.
        committed: u64,
    },
    /// The damage was mended, and is there again.
    #[error("{0}; hint: the disk may be failing, replace it and join as a new node")]
    Persists(Box<Damage>),
    /// The damage is in a file that the running log writes to, or what comes before it is damaged
    /// too.
    #[error("{} cannot be mended now; hint: restart the node, that mends it", file.display())]
    NotNow {
        /// The file.
        file: PathBuf,
    },
    /// The entries were truncated meanwhile, or never existed.
    #[error("entry {index} is not in the log any more")]
    Gone {
        /// The entry.
        index: u64,
    },
    /// The log was not closed in order, or is another one's.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The running log has stopped.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

fn until(to: Option<u64>) -> String {
    to.map_or("to the end of the log".into(), |to| format!("to {}", to.saturating_sub(1)))
}

/// What is wrong with an entry that a peer has given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Another entry was asked for.
    #[error("entry {asked} was asked for")]
    Index {
        /// The one asked for.
        asked: u64,
    },
    /// Terms never fall within a log.
    #[error("it is of term {term}, the entry before of term {before}")]
    Term {
        /// Its term.
        term: u64,
        /// The term of the entry before.
        before: u64,
    },
    /// It does not follow from the entry before.
    #[error("its chain does not follow from the entry before")]
    Chain,
    /// It is larger than any entry may be, or has bytes where there must be none.
    #[error("it has {bytes} bytes, its kind may have {max}")]
    Size {
        /// Bytes of head and body.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// Its batch is none, or does not hold what its leaves commit to.
    #[error(transparent)]
    Batch(#[from] FormatError),
}

/// Checks all that an entry can tell by itself: size, format and commitments.
pub fn check_entry(entry: &Entry) -> Result<(), Refusal> {
    let bytes = entry.payload_bytes();
    let max = match entry.kind {
        EntryKind::Blank => 0,
        EntryKind::Membership => MEMBERSHIP_BYTES_MAX,
        EntryKind::Batch => ENTRY_BYTES_MAX,
    };
    if bytes > max || (entry.kind == EntryKind::Membership && !entry.body.is_empty()) {
        return Err(Refusal::Size { bytes, max });
    }
    if entry.kind == EntryKind::Batch {
        Batch::decode(&entry.head, &entry.body)?.verify()?;
    }
    Ok(())
}

/// What all segments of a log have in common.
#[derive(Debug, Clone, Copy)]
pub(in crate::storage) struct Common {
    pub(in crate::storage) trail_id: TrailId,
    /// The size that closes a segment, in bytes.
    pub(in crate::storage) segment_bytes: u64,
}

/// A data directory whose log is not open, and is kept from being opened.
#[derive(Debug)]
pub struct ClosedLog {
    data: Dir,
    common: Common,
    lock: DirLock,
}

impl ClosedLog {
    /// Takes the directory's lock.
    pub fn lock(
        path: &Path,
        trail_id: TrailId,
        segment_bytes: u64,
    ) -> Result<ClosedLog, LockError> {
        let lock = DirLock::acquire(path)?;
        let common = Common { trail_id, segment_bytes };
        Ok(ClosedLog { data: Dir::open(path, true)?, common, lock })
    }

    #[cfg(test)]
    fn lock_recorded(path: &Path, common: Common, recorder: Arc<Recorder>) -> ClosedLog {
        let lock = DirLock::acquire(path).expect("nobody has it");
        let data = Dir::open_recorded(path, false, recorder).expect("it exists");
        ClosedLog { data, common, lock }
    }

    /// Whether the files are of one age, as a start checks it before anything else. `root` is the
    /// root of this node's lineage.
    pub fn check_start(&self, root: Boot) -> Result<(), OpenError> {
        start::check(&self.data, root).map(|_| ())
    }

    /// Gives the lock on: to [`super::Storage::open_locked`].
    pub fn unlock(self) -> DirLock {
        self.lock
    }

    /// Mends everything that a start would refuse on: surveys and rebuilds until there is no
    /// damage. Each step stays if a later one fails.
    pub fn mend(&self, fetch: &mut Fetch<'_>) -> Result<Vec<Mended>, MendError> {
        let mut done = Vec::new();
        let mut last: Option<Damage> = None;
        loop {
            let mut survey = self.survey()?;
            if survey.damage.is_empty() {
                return Ok(done);
            }
            if last.as_ref() == survey.damage.first() {
                return Err(MendError::Persists(Box::new(survey.damage.swap_remove(0))));
            }
            done.push(self.rebuild(&survey, fetch)?);
            last = Some(survey.damage.swap_remove(0));
        }
    }
}
