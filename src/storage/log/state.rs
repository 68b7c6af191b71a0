//! What the log knows in memory, under one lock that is held for moments.

use std::collections::{BTreeMap, VecDeque};
use std::ops::{Range, RangeInclusive};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use indelible_core::limits::IO_QUEUE_MAX;
use indelible_core::{Chain, Entry, EntryId};
use indelible_lineage::Lineage;
use tokio::sync::watch;

use super::chain::{Append, Op, Placement};
use super::files::Files;
use super::io::IoOp;
use super::{Done, LogError, LogOptions, LogSizes};
use crate::disk::Dir;
use crate::storage::frame::Location;
use crate::storage::hard_state::HardState;
use crate::storage::segment::{self, Summary};

/// What the handle and both threads share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: LogOptions,
    /// All boots of this node; the newest one is this one's.
    pub(super) lineage: Lineage,
    /// The data directory.
    pub(super) data: Dir,
    /// Files for reading.
    pub(super) files: Files,
    /// Held while a segment is mended.
    pub(super) mending: Mutex<()>,
    state: Mutex<State>,
    /// Notified when entries have been chained, and when the log has stopped.
    pub(super) placed: Condvar,
    /// Notified when operations have been finished, and when the log has stopped.
    pub(super) room: Condvar,
    /// One past the last chained entry.
    pub(super) chained: watch::Sender<u64>,
    /// One past the last durable entry.
    pub(super) durable: watch::Sender<u64>,
    /// Why the log has stopped.
    pub(super) failed: watch::Sender<Option<Arc<LogError>>>,
    /// Whether the IO thread sleeps until it is called, so that a new commit index would stay off
    /// the disk.
    pub(super) parked: AtomicBool,
    /// Told of damage that a read has met.
    pub(super) on_damage: Hook,
}

/// Who is told of damage, once that is known.
#[derive(Default)]
pub(super) struct Hook(pub(super) OnceLock<super::OnDamage>);

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Hook").field(&self.0.get().is_some()).finish()
    }
}

/// An entry in memory.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) entry: Entry,
    /// [`State::epoch`] when it was appended: tells it from a truncated entry of the same index.
    epoch: u64,
    /// Set by the chain thread.
    pub(super) placed: Option<Placed>,
}

/// What the chain thread finds out about an entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed {
    pub(super) chain: Chain,
    pub(super) location: Location,
}

/// An entry's link and place: what a truncation goes back to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept {
    pub(super) id: EntryId,
    pub(super) chain: Chain,
    pub(super) location: Location,
    /// Offset at which its frame ends.
    pub(super) frame_end: u64,
}

/// A segment as far as it is chained.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) summary: Summary,
    pub(super) sealed: bool,
    /// [`State::epoch`] when it was begun: tells its file from a removed one of the same name.
    pub(super) epoch: u64,
}

/// Guarded by the lock in [`Shared`].
#[derive(Debug)]
pub(super) struct State {
    /// The newest entries, without gaps up to the last one. All that is not durable is here.
    window: VecDeque<Slot>,
    /// Memory of the window, in bytes.
    window_bytes: usize,
    /// One past the last entry.
    pub(super) next: u64,
    /// The first entry: 0, unless the log may start anywhere.
    first: u64,
    /// Whether the first append decides where the log starts: only in tests.
    first_index_any: bool,
    /// One past the last chained entry.
    pub(super) chained: u64,
    /// One past the last durable entry.
    pub(super) durable: u64,
    /// Where the frame of that entry ends.
    pub(super) durable_end: Location,
    /// One past the last entry known to be committed.
    pub(super) committed: u64,
    /// One past the last applied entry.
    pub(super) applied: u64,
    /// Truncations so far.
    pub(super) epoch: u64,
    /// By first entry.
    pub(super) segments: BTreeMap<u64, Segment>,
    /// Last entry of every leader, in order. Grows with elections for ever, by 24 bytes each: a
    /// million of them, one a minute for two years, are 24 MB.
    pub(super) leaders: Vec<EntryId>,
    /// What is durable of it.
    pub(super) hard_state: HardState,
    /// Operations that are not finished.
    pub(super) queue_ops: usize,
    /// Memory of the entries among them, in bytes.
    pub(super) queue_bytes: usize,
    /// To the chain thread; none once the log is closed.
    pub(super) queue: Option<Sender<Op>>,
    /// To the IO thread, past the chain thread.
    pub(super) nudge: Sender<IoOp>,
    /// Why the log has stopped.
    pub(super) failure: Option<Arc<LogError>>,
}

impl Shared {
    pub(super) fn new(
        options: LogOptions,
        data: Dir,
        segments: Dir,
        lineage: Lineage,
        state: State,
    ) -> Shared {
        Shared {
            options,
            lineage,
            data,
            files: Files::new(segments),
            mending: Mutex::new(()),
            chained: watch::Sender::new(state.chained),
            durable: watch::Sender::new(state.durable),
            failed: watch::Sender::new(None),
            parked: AtomicBool::new(false),
            on_damage: Hook::default(),
            state: Mutex::new(state),
            placed: Condvar::new(),
            room: Condvar::new(),
        }
    }

    /// The state. Nobody panics while holding it half changed, except on a broken invariant, which
    /// stops the log.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, once the queue has room for another operation.
    pub(super) fn lock_with_room(&self) -> MutexGuard<'_, State> {
        let bytes_max = self.options.cache_bytes_max;
        let full = |state: &mut State| {
            let full = state.queue_ops >= IO_QUEUE_MAX || state.queue_bytes > bytes_max;
            full && state.failure.is_none() && state.queue.is_some()
        };
        self.room.wait_while(self.lock(), full).unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the chain thread has made progress.
    pub(super) fn wait_placed<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.placed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops the log for good. The first reason stays.
    pub(super) fn fail(&self, error: LogError) -> Arc<LogError> {
        let mut state = self.lock();
        let error = state.failure.get_or_insert_with(|| Arc::new(error)).clone();
        drop(state);
        self.failed.send_replace(Some(error.clone()));
        self.placed.notify_all();
        self.room.notify_all();
        error
    }

    pub(super) fn set_committed(&self, index_plus_one: u64) {
        let mut state = self.lock();
        if index_plus_one <= state.committed {
            return;
        }
        state.committed = index_plus_one;
        if self.parked.swap(false, Ordering::Relaxed) {
            // A closed log has written its last marker, and needs no other.
            let _ = state.nudge.send(IoOp::Nudge);
        }
    }
}

impl State {
    /// Index of the first entry.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// An error if the log is closed or has stopped.
    pub(super) fn check_open(&self) -> Result<(), Arc<LogError>> {
        match (&self.failure, &self.queue) {
            (Some(failure), _) => Err(failure.clone()),
            (None, None) => Err(Arc::new(LogError::Closed)),
            (None, Some(_)) => Ok(()),
        }
    }

    /// Hands an operation to the chain thread. Under the lock, so that operations queue in the
    /// order of their effects.
    pub(super) fn send(&self, op: Op) {
        let queue = self.queue.as_ref().expect("checked by check_open under the same lock");
        if let Err(error) = queue.send(op) {
            // The thread has panicked and said so; nobody may wait for an answer that never comes.
            error.0.finish(Err(Arc::new(LogError::Panicked)));
        }
    }

    /// Index of the first entry in the window.
    pub(super) fn window_first(&self) -> u64 {
        self.next - self.window.len() as u64
    }

    pub(super) fn slot(&self, index: u64) -> Option<&Slot> {
        self.window.get(index.checked_sub(self.window_first())? as usize)
    }

    pub(super) fn last(&self) -> Option<EntryId> {
        self.leaders.last().copied()
    }

    pub(super) fn id_at(&self, index: u64) -> Option<EntryId> {
        let position = self.leaders.partition_point(|leader| leader.index < index);
        let leader = self.leaders.get(position).filter(|_| index >= self.first)?;
        Some(EntryId { index, ..*leader })
    }

    /// Whether the first append may start anywhere.
    fn starts_anywhere(&self) -> bool {
        self.first_index_any && self.window.is_empty() && self.segments.is_empty()
    }

    pub(super) fn last_of_each_leader(&self, range: RangeInclusive<u64>) -> Vec<EntryId> {
        let from = self.leaders.partition_point(|leader| leader.index < *range.start());
        let mut found = Vec::new();
        for leader in &self.leaders[from..] {
            found.push(EntryId { index: leader.index.min(*range.end()), ..*leader });
            if leader.index >= *range.end() {
                break;
            }
        }
        found
    }

    /// Whether these entries follow the last one without gaps.
    pub(super) fn follows(&self, entries: &[Entry]) -> bool {
        let first = entries.first().map_or(self.next, |entry| entry.id.index);
        (self.starts_anywhere() || first == self.next)
            && entries.iter().zip(first..).all(|(entry, index)| entry.id.index == index)
    }

    /// Takes entries into the window; returns what the chain thread needs.
    pub(super) fn append(&mut self, entries: Vec<Entry>, done: Done) -> Append {
        if self.starts_anywhere()
            && let Some(first) = entries.first()
        {
            self.first = first.id.index;
            self.next = self.first;
            self.chained = self.first;
            self.durable = self.first;
        }
        let mut bytes = 0;
        for entry in &entries {
            segment::push_leader(&mut self.leaders, entry.id);
            let slot = Slot { entry: entry.clone(), epoch: self.epoch, placed: None };
            bytes += slot.memory_bytes();
            self.window.push_back(slot);
        }
        self.next += entries.len() as u64;
        self.window_bytes += bytes;
        self.queue_ops += 1;
        self.queue_bytes += bytes;
        Append { entries, epoch: self.epoch, bytes, done }
    }

    /// Takes what the chain thread has found out. Entries that were truncated meanwhile are passed
    /// over.
    pub(super) fn place(&mut self, epoch: u64, placements: &[Placement]) {
        for placement in placements {
            let (id, placed) = (placement.id, placement.placed);
            let position = id.index.checked_sub(self.window_first()).map(|p| p as usize);
            let slot = position.and_then(|position| self.window.get_mut(position));
            let Some(slot) = slot.filter(|slot| slot.epoch == epoch) else { continue };
            slot.placed = Some(placed);
            if let Some(chain_before) = placement.opens {
                let summary = Summary::new(id.index, chain_before);
                let segment = Segment { summary, sealed: false, epoch: self.epoch };
                let before = self.segments.insert(id.index, segment);
                assert!(before.is_none(), "segment {} was begun twice", id.index);
            }
            let segment = self.segments.get_mut(&placed.location.segment);
            let summary = &mut segment.expect("an entry's segment has been begun").summary;
            assert_eq!(summary.frames_end, placed.location.offset, "frames have no gaps");
            summary.push(id, placed.chain, placement.frame_bytes);
            assert_eq!(self.chained, id.index, "entries are chained in order");
            self.chained += 1;
        }
    }

    /// Takes note that these entries were made durable. Those that were truncated meanwhile do not
    /// count.
    pub(super) fn set_durable(&mut self, epoch: u64, entries: Range<u64>) {
        while self.durable < entries.end {
            let Some(slot) = self.slot(self.durable).filter(|slot| slot.epoch == epoch) else {
                return;
            };
            assert!(self.durable >= entries.start, "entries become durable in order");
            let location = slot.placed.expect("what is durable is chained").location;
            let payload_bytes = slot.entry.payload_bytes();
            let offset = location.offset + crate::storage::frame::frame_size(payload_bytes);
            self.durable_end = Location { segment: location.segment, offset };
            self.durable += 1;
        }
    }

    /// Drops the oldest entries until the rest fits. What is not durable stays, and so does what is
    /// not applied, up to twice the limit: whoever applies falls back to the disk before memory
    /// grows without bound.
    pub(super) fn evict(&mut self, bytes_max: usize) {
        while self.window_bytes > bytes_max && self.window_first() < self.durable {
            if self.window_first() >= self.applied && self.window_bytes <= 2 * bytes_max {
                break;
            }
            let slot = self.window.pop_front().expect("entries before `next` are in the window");
            self.window_bytes -= slot.memory_bytes();
        }
    }

    /// Removes all entries after `kept`. An error, and nothing done, if one of them must stay.
    pub(super) fn truncate(&mut self, kept: Option<&Kept>) -> Result<(), LogError> {
        let next = kept.map_or(0, |kept| kept.id.index + 1);
        let must_stay = self.applied.max(self.committed);
        if next < must_stay {
            return Err(LogError::Committed { first: next, kept: must_stay });
        }
        assert!(next <= self.next, "the kept entry exists");
        self.epoch += 1;
        while self.next > next {
            let Some(slot) = self.window.pop_back() else { break };
            self.window_bytes -= slot.memory_bytes();
            self.next -= 1;
        }
        self.next = next;
        let removed = self.segments.split_off(&next);
        assert!(removed.values().all(|segment| !segment.sealed), "sealed segments stay");
        match kept {
            Some(kept) => {
                segment::truncate_leaders(&mut self.leaders, kept.id.index);
                let segment = self.segments.get_mut(&kept.location.segment);
                let segment = segment.expect("the kept entry has a segment");
                if segment.summary.next > next {
                    assert!(!segment.sealed, "sealed segments are not cut");
                    segment.summary.truncate(kept.id, kept.chain, kept.frame_end);
                }
                let segment = kept.location.segment;
                if self.durable > next {
                    self.durable_end = Location { segment, offset: kept.frame_end };
                }
            }
            None => {
                self.leaders.clear();
                self.durable_end = Location { segment: 0, offset: 0 };
            }
        }
        self.chained = self.chained.min(next);
        self.durable = self.durable.min(next);
        assert_eq!(self.leaders.last().map_or(0, |last| last.index + 1), next);
        Ok(())
    }

    pub(super) fn read_cached(&self, range: Range<u64>, bytes_max: usize) -> Option<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        for index in range {
            let entry = &self.slot(index)?.entry;
            bytes += entry.payload_bytes();
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Some(entries)
    }

    /// The entry in memory whose frame is at this place.
    pub(super) fn slot_at(&self, location: Location) -> Option<&Slot> {
        let before = |slot: &Slot| slot.placed.is_some_and(|placed| placed.location < location);
        let slot = self.window.get(self.window.partition_point(before))?;
        slot.placed.is_some_and(|placed| placed.location == location).then_some(slot)
    }

    pub(super) fn sizes(&self) -> LogSizes {
        LogSizes {
            segments: self.segments.len(),
            bytes: self.segments.values().map(|segment| segment.summary.frames_end).sum(),
            cache_bytes: self.window_bytes,
            queue: self.queue_ops,
        }
    }

    /// The state of a log that was just opened.
    pub(super) fn opened(
        segments: Vec<(Summary, bool)>,
        committed: u64,
        hard_state: HardState,
        first_index_any: bool,
        queue: Sender<Op>,
        nudge: Sender<IoOp>,
    ) -> State {
        let leaders = crate::storage::recovery::leaders(&segments);
        let last = segments.last().map(|(summary, _)| summary);
        let next = last.map_or(0, |summary| summary.next);
        let durable_end = last.map_or(Location { segment: 0, offset: 0 }, |summary| Location {
            segment: summary.first,
            offset: summary.frames_end,
        });
        State {
            window: VecDeque::new(),
            window_bytes: 0,
            next,
            first: segments.first().map_or(0, |(summary, _)| summary.first),
            first_index_any,
            chained: next,
            durable: next,
            durable_end,
            committed,
            applied: 0,
            epoch: 0,
            segments: segments
                .into_iter()
                .map(|(summary, sealed)| (summary.first, Segment { summary, sealed, epoch: 0 }))
                .collect(),
            leaders,
            hard_state,
            queue_ops: 0,
            queue_bytes: 0,
            queue: Some(queue),
            nudge,
            failure: None,
        }
    }
}
