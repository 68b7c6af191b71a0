//! The log: entries in segments, the vote, and the one thread that writes both.
//!
//! A caller hands over entries and goes on; they are readable at once. Two threads take it from
//! there. *Chain* computes each entry's link and its place. *IO* writes whatever has queued up,
//! makes it durable with one fdatasync, and only then calls back, in order. Votes and truncations
//! go through the same queue, so that nothing overtakes anything on its way to the disk. If a write
//! fails, the log stops for good: what the disk holds is known again only after a restart.
//!
//! ```text
//! append, save_vote, truncate_after -> [state] -> chain -> io -> segments/, hard_state, synced
//! read, chain_at, locate            -> [state], then the disk
//! ```
//!
//! Invariants: no lock is held during disk I/O or a callback. Whatever is not durable is in memory.
//! `durable` never runs ahead of the disk, and the marker never ahead of `durable`.

mod chain;
mod error;
mod files;
mod io;
mod mend;
mod open;
mod read;
mod read_part;
mod scrub;
mod state;
#[cfg(test)]
pub(in crate::storage) mod tests;
mod writer;

use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use indelible_core::{Chain, Entry, EntryId, TrailId};
use indelible_lineage::{Boot, Lineage};
use tokio::sync::watch;

pub use error::LogError;
pub use open::Recovered;
#[cfg(test)]
pub(in crate::storage) use open::Tuning;
pub use read_part::{EntryHead, RawRecord};
pub use scrub::ScrubError;

use crate::storage::frame::Location;
use crate::storage::hard_state::{HardState, PeerBoot, StoredVote};
use crate::storage::recovery::OpenError;
use crate::storage::start::NewBoot;
use chain::Op;
use io::Control;
use open::Owner;
use state::{Shared, Slot};

/// Called once, on the IO thread, when an operation is durable or has failed. It must not block,
/// and must not hand over operations: that may wait for the thread that it would block.
pub type Done = Box<dyn FnOnce(Result<(), Arc<LogError>>) + Send>;

/// Told which segment a read has found damaged, by its first entry; none: it is not known which
/// file is. It must not block.
pub type OnDamage = Box<dyn Fn(Option<u64>) + Send + Sync>;

/// How a log behaves.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// Size in bytes that closes a segment: from the identity.
    pub segment_bytes: u64,
    /// The trail that the log belongs to.
    pub trail_id: TrailId,
    /// Memory for entries that are durable already, in bytes.
    pub cache_bytes_max: usize,
    /// The boot that this start begins.
    pub boot: NewBoot,
    /// Whether the first append may start anywhere: only for openraft's storage suite.
    pub first_index_any: bool,
    /// Whether writes are made durable.
    pub sync: SyncPolicy,
}

/// Whether writes are made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SyncPolicy {
    /// Before anybody is told. The only choice for a node.
    #[default]
    Always,
    /// Never: for tests of other things.
    Never,
}

/// Figures for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSizes {
    /// Segment files.
    pub segments: usize,
    /// Frames in them, in bytes; preallocated space does not count.
    pub bytes: u64,
    /// Entries in memory, in bytes.
    pub cache_bytes: usize,
    /// Operations that are not finished.
    pub queue: usize,
}

/// A log that is open. Cheap to clone; closed by [`Log::close`], or when the last clone goes.
#[derive(Clone, Debug)]
pub struct Log {
    shared: Arc<Shared>,
    /// Joins the threads.
    owner: Arc<Owner>,
}

impl Log {
    /// Has every read that meets damage reported, for mending. Once.
    pub fn on_damage(&self, told: OnDamage) {
        assert!(self.shared.on_damage.0.set(told).is_ok(), "one mender for each log");
    }

    /// Reports a segment whose entry does not fit what was derived from it, or, if that is not
    /// known, that some file is damaged.
    pub fn suspect(&self, segment: Option<u64>) {
        if let Some(told) = self.shared.on_damage.0.get() {
            told(segment);
        }
    }

    /// Passes a result on, and reports damage.
    fn noted<T>(&self, result: Result<T, LogError>) -> Result<T, LogError> {
        if let Err(LogError::Corrupt { file, .. }) = &result {
            let name = file.file_name().and_then(|name| name.to_str());
            self.suspect(name.and_then(crate::storage::segment::parse_file_name));
        }
        result
    }

    /// The last entry; none in an empty log.
    pub fn last(&self) -> Option<EntryId> {
        self.shared.lock().last()
    }

    /// Index of the first entry: 0, except in openraft's storage suite.
    pub fn first(&self) -> u64 {
        self.shared.lock().first()
    }

    /// One past the last entry.
    pub fn next(&self) -> u64 {
        self.shared.lock().next
    }

    /// Index, term and leader of an entry. Memory only.
    pub fn id_at(&self, index: u64) -> Result<Option<EntryId>, LogError> {
        Ok(self.shared.lock().id_at(index))
    }

    /// Appends entries that follow the last one. They are readable when this returns and durable
    /// when `done` is called. Never waits for the disk, except when `IO_QUEUE_MAX` operations or
    /// `cache_bytes_max` bytes wait for it already: admission and replication keep far below that.
    pub fn append(&self, entries: Vec<Entry>, done: Done) {
        let mut state = self.shared.lock_with_room();
        if let Err(error) = state.check_open() {
            drop(state);
            return done(Err(error));
        }
        let follows = state.follows(&entries);
        if !follows {
            let next = state.next;
            drop(state);
            let first = entries.first().map(|entry| entry.id.index);
            panic!("append starts at {first:?} or has gaps; the log's next entry is {next}");
        }
        let append = state.append(entries, done);
        state.send(Op::Append(append));
    }

    /// Makes a vote durable, after everything that was handed over before it.
    pub fn save_vote(&self, vote: StoredVote, done: Done) {
        self.change_hard_state(Box::new(move |state| state.vote = Some(vote)), done);
    }

    /// The newest vote that is durable.
    pub fn vote(&self) -> Option<StoredVote> {
        self.shared.lock().hard_state.vote
    }

    /// All boots of this node, this one included.
    pub fn lineage(&self) -> &Lineage {
        &self.shared.lineage
    }

    /// This boot.
    pub fn boot(&self) -> Boot {
        self.lineage().newest()
    }

    /// The newest boot of a peer that was admitted.
    pub fn peer(&self, node_id: u64) -> Option<PeerBoot> {
        self.shared.lock().hard_state.peer(node_id)
    }

    /// Makes the newest boot of a peer durable, after everything that was handed over before it.
    pub fn save_peer(&self, node_id: u64, peer: PeerBoot, done: Done) {
        self.change_hard_state(Box::new(move |state| state.set_peer(node_id, peer)), done);
    }

    /// Forgets the boots of all peers, durably: all disks were put back together, and each was
    /// copied at another moment.
    pub fn forget_peers(&self, done: Done) {
        self.change_hard_state(Box::new(HardState::forget_peers), done);
    }

    fn change_hard_state(&self, change: Box<dyn FnOnce(&mut HardState) + Send>, done: Done) {
        self.control(Control::HardState { change, done });
    }

    /// Removes all entries after `last_kept` (none: all). They are gone for readers when this
    /// returns, and from the disk when `done` is called. Waits for the chain up to `last_kept`.
    ///
    /// Refuses, and does nothing, if one of them is applied or committed ([`LogError::Committed`]),
    /// or if `last_kept` does not exist ([`LogError::Missing`]); `done` is not called then.
    pub fn truncate_after(&self, last_kept: Option<u64>, done: Done) -> Result<(), LogError> {
        loop {
            let epoch = self.shared.lock().epoch;
            let kept = last_kept.map(|index| self.shared.kept(index)).transpose()?;
            let mut state = self.shared.lock();
            if state.epoch != epoch {
                continue;
            }
            state.check_open().map_err(LogError::Stopped)?;
            state.truncate(kept.as_ref())?;
            self.shared.chained.send_replace(state.chained);
            self.shared.durable.send_replace(state.durable);
            state.queue_ops += 1;
            state.send(Op::Control(Control::Truncate { kept, done }));
            return Ok(());
        }
    }

    fn control(&self, control: Control) {
        let mut state = self.shared.lock_with_room();
        if let Err(error) = state.check_open() {
            drop(state);
            return control.finish(Err(error));
        }
        state.queue_ops += 1;
        state.send(Op::Control(control));
    }

    /// Entries from `range`, as many as have `bytes_max` bytes of payload, at least one if the
    /// range is not empty. Reads the disk unless they are in memory; every checksum is checked. An
    /// error if the range starts past the end.
    pub fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<Entry>, LogError> {
        self.noted(self.shared.read(range, bytes_max))
    }

    /// As [`Self::read`], from memory; none if that does not have all of it.
    pub fn read_cached(&self, range: Range<u64>, bytes_max: usize) -> Option<Vec<Entry>> {
        self.shared.lock().read_cached(range, bytes_max)
    }

    /// The chain's link of an entry. Waits for it if it is being computed; reads the disk for old
    /// entries.
    pub fn chain_at(&self, index: u64) -> Result<Chain, LogError> {
        Ok(self.noted(self.shared.kept(index))?.chain)
    }

    /// The chain's link of an entry that is in memory and has been chained.
    pub fn try_chain_at(&self, index: u64) -> Option<Chain> {
        self.shared.lock().slot(index)?.placed.map(|placed| placed.chain)
    }

    /// The chain's link before the first entry.
    pub fn genesis(&self) -> Chain {
        indelible_core::chain::genesis(&self.shared.options.trail_id)
    }

    /// One past the last entry whose link has been computed.
    pub fn chained(&self) -> watch::Receiver<u64> {
        self.shared.chained.subscribe()
    }

    /// One past the last entry that is durable here.
    pub fn durable(&self) -> watch::Receiver<u64> {
        self.shared.durable.subscribe()
    }

    /// Why the log has stopped, once it has: the process must exit then.
    pub fn failed(&self) -> watch::Receiver<Option<Arc<LogError>>> {
        self.shared.failed.subscribe()
    }

    /// The last entry in `range` of each leader that has one there. Memory only.
    pub fn last_of_each_leader(
        &self,
        range: RangeInclusive<u64>,
    ) -> Result<Vec<EntryId>, LogError> {
        Ok(self.shared.lock().last_of_each_leader(range))
    }

    /// Notes that all entries before `index_plus_one` are committed. The marker carries it to the
    /// disk some time later.
    pub fn set_committed(&self, index_plus_one: u64) {
        self.shared.set_committed(index_plus_one);
    }

    /// One past the last entry known to be committed: a lower bound.
    pub fn committed(&self) -> u64 {
        self.shared.lock().committed
    }

    /// Notes that all entries before `index_plus_one` are applied: they are never truncated, and
    /// their segments may be sealed.
    pub fn set_applied(&self, index_plus_one: u64) {
        let mut state = self.shared.lock();
        assert!(index_plus_one <= state.next, "applied {index_plus_one}, past the end");
        state.applied = state.applied.max(index_plus_one);
    }

    /// Where an entry's frame is. Waits until that is known; may read the disk for old entries.
    pub fn locate(&self, index: u64) -> Result<Location, LogError> {
        Ok(self.noted(self.shared.kept(index))?.location)
    }

    /// The entry whose frame is at a place that [`Self::locate`] has named, with its link of the
    /// chain. One positioned read if it is not in memory; every checksum is checked.
    pub fn read_at(&self, location: Location) -> Result<(Entry, Chain), LogError> {
        self.noted(self.shared.read_at(location))
    }

    /// One record of the batch whose frame is at a place, by its position in the batch. Reads the
    /// frame's start up to the record's leaf, its salt and its event, not the whole entry. Only the
    /// header's checksum is checked: the caller compares the event with the leaf, and the leaf with
    /// the tree.
    pub fn read_record_at(
        &self,
        location: Location,
        position: usize,
    ) -> Result<RawRecord, LogError> {
        self.shared.read_record_at(location, position)
    }

    /// Header and head of the entry whose frame is at a place; both checksums are checked.
    pub fn read_head_at(&self, location: Location) -> Result<EntryHead, LogError> {
        self.shared.read_head_at(location)
    }

    /// Reads an entry from the disk and recomputes its link of the chain. False if the link is
    /// another one.
    pub fn verify_link(&self, index: u64) -> Result<bool, LogError> {
        let (entry, link) = self.read_at(self.locate(index)?)?;
        let previous = match index.checked_sub(1) {
            None => self.genesis(),
            Some(before) => self.chain_at(before)?,
        };
        Ok(link == indelible_core::chain::link_entry(&previous, &entry))
    }

    /// Reads everything that is durable, checks every checksum and the chain, and returns how many
    /// entries that was.
    pub fn scan_all(&self) -> Result<u64, OpenError> {
        self.shared.scan_all()
    }

    /// Figures for metrics.
    pub fn sizes(&self) -> LogSizes {
        self.shared.lock().sizes()
    }

    /// Finishes all that was handed over, makes the marker durable, and stops the threads. Later
    /// calls that change the log get [`LogError::Closed`]; reads still work.
    pub fn close(&self) {
        self.owner.close(&self.shared);
    }
}

impl Slot {
    /// What an entry costs in memory besides its payload, in bytes: this struct, and what its
    /// buffers allocate.
    const OVERHEAD: usize = 256;

    /// What it costs in memory, in bytes.
    fn memory_bytes(&self) -> usize {
        self.entry.payload_bytes() + Self::OVERHEAD
    }
}
