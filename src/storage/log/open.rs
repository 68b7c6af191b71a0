//! Opening a log: recovery, then the threads. Closing it.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use indelible_core::limits::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
use indelible_core::{EntryId, chain};
use indelible_lineage::{Lineage, LogEnd, log_reaches};

use super::chain::{Chainer, Op};
use super::io::{Control, Io, IoOp};
use super::state::{Shared, State};
use super::writer::{NEXT_FILE, Writer};
use super::{Log, LogOptions, SyncPolicy};
use crate::disk::{Dir, DirLock, DiskError, Recorder, SlotsError};
use crate::storage::frame::Location;
use crate::storage::hard_state::{HardState, HardStateFile, StoredVote};
use crate::storage::mend::swap;
use crate::storage::recovery::{self, Expected, Found, OpenError, SEGMENTS_DIR, Tear};
use crate::storage::segment;
use crate::storage::start::{self, Checked, NewBoot};
use crate::storage::synced::{SYNCED_FILE, Synced, SyncedFile};

/// How long the marker may be behind. What a crash in this time leaves is told from damage by its
/// shape alone.
const MARKER_INTERVAL: Duration = Duration::from_millis(10);

/// What a start has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The last entry.
    pub last: Option<EntryId>,
    /// One past the last entry known to be committed.
    pub committed: u64,
    /// The vote.
    pub vote: Option<StoredVote>,
    /// How often this log has been opened, this time included.
    pub boot_count: u64,
    /// Segment files, and how many of them had to be read.
    pub segments: (usize, usize),
    /// A torn tail that was cut, and where its copy is.
    pub torn: Option<(Tear, PathBuf)>,
}

/// How tests open a log.
#[derive(Debug, Clone)]
pub(in crate::storage) struct Tuning {
    /// Listens to all disk operations.
    pub(in crate::storage) recorder: Option<Arc<Recorder>>,
    /// How long the marker may be behind.
    pub(in crate::storage) marker_interval: Duration,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning { recorder: None, marker_interval: MARKER_INTERVAL }
    }
}

/// Owns the threads and the directory's lock.
#[derive(Debug)]
pub(super) struct Owner {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    lock: Mutex<Option<DirLock>>,
}

impl Log {
    /// Opens the log in a data directory, or makes a new one in an empty directory. Recovers first;
    /// when it refuses, nothing was changed.
    pub fn open(dir: &Path, options: LogOptions) -> Result<(Log, Recovered), OpenError> {
        Self::open_tuned(dir, options, Tuning::default())
    }

    /// As [`Self::open`], for the one who has locked the directory already.
    pub fn open_locked(
        dir: &Path,
        options: LogOptions,
        lock: DirLock,
    ) -> Result<(Log, Recovered), OpenError> {
        Self::recover(dir, options, Tuning::default(), lock)
    }

    pub(in crate::storage) fn open_tuned(
        path: &Path,
        options: LogOptions,
        tuning: Tuning,
    ) -> Result<(Log, Recovered), OpenError> {
        let lock = DirLock::acquire(path)?;
        Self::recover(path, options, tuning, lock)
    }

    fn recover(
        path: &Path,
        options: LogOptions,
        tuning: Tuning,
        lock: DirLock,
    ) -> Result<(Log, Recovered), OpenError> {
        let sizes = SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX;
        assert!(sizes.contains(&options.segment_bytes), "segments of {}", options.segment_bytes);
        let syncs = options.sync == SyncPolicy::Always;
        let data = match tuning.recorder {
            Some(recorder) => Dir::open_recorded(path, syncs, recorder)?,
            None => Dir::open(path, syncs)?,
        };
        let NewBoot { root, draw } = options.boot;
        let checked = start::check(&data, root)?;
        let (mut hard_state, marker, marked, checked) = open_slots(&data, checked)?;
        let segments = data.subdir(SEGMENTS_DIR)?;
        let mut found = recover(&segments, &options, &marked)?;
        check_end(&segments, &found, hard_state.value())?;

        // From here on the disk is changed: the log is accepted.
        let torn = settle(&data, &segments, &mut found)?;
        let last = recovery::leaders(&found.segments).last().copied();
        let log_end = start::end_with(last);
        // Crash before: this start does not count. It has told nobody its number.
        let lineage = checked.begin(&data, &mut hard_state, draw, log_end, marked.promise)?;
        let recovered = Recovered {
            last,
            committed: marked.committed,
            vote: hard_state.value().vote,
            boot_count: hard_state.value().boot_count(),
            segments: (found.segments.len(), found.scanned.len()),
            torn,
        };
        let parts = Parts { data, segments, found, hard_state, lineage, marker, marked };
        let log = start_threads(options, parts, tuning.marker_interval, lock)?;
        Ok((log, recovered))
    }
}

/// Opens hard state and marker; makes them in a directory that has neither.
fn open_slots(
    data: &Dir,
    mut checked: Checked,
) -> Result<(HardStateFile, SyncedFile, Synced, Checked), OpenError> {
    let hard_state = match checked.hard_state.take() {
        Some(file) => file,
        // Crash after: a hard state without a vote, and the marker is made next time. No vote is
        // saved before there is one, so that a hard state that goes missing later is missed.
        None => HardStateFile::create(data)?,
    };
    let never_started = hard_state.value().boot_count() == 0;
    if !data.exists(SYNCED_FILE)? && never_started && !start::has_segments(data)? {
        return Ok((hard_state, SyncedFile::create(data)?, Synced::EMPTY, checked));
    }
    let (marker, marked) = open_marker(data)?;
    Ok((hard_state, marker, marked, checked))
}

fn open_marker(data: &Dir) -> Result<(SyncedFile, Synced), OpenError> {
    if !data.exists(SYNCED_FILE)? {
        return Err(recovery::damaged_marker(data.path().join(SYNCED_FILE)));
    }
    SyncedFile::open(data).map_err(|error| match error {
        SlotsError::Damaged { path } => recovery::damaged_marker(path),
        SlotsError::Disk(error) => error.into(),
    })
}

/// Whether the log has the end that the hard state names: it had it, durably.
fn check_end(segments: &Dir, found: &Found, hard_state: &HardState) -> Result<(), OpenError> {
    let Some(bound) = &hard_state.bound else { return Ok(()) };
    let leaders = recovery::leaders(&found.segments);
    let LogEnd { entries, .. } = bound.log_end;
    if log_reaches(bound, start::log_end(&leaders, entries)) {
        return Ok(());
    }
    let (first, offset) = found.segments.last().map_or((0, 0), |(last, _)| (last.first, 0));
    Err(OpenError::Corrupt {
        file: segments.path().join(segment::file_name(first)),
        offset,
        first: leaders.last().map_or(0, |last| last.index + 1).min(entries.saturating_sub(1)),
        last: entries.saturating_sub(1),
        what: start::lacks_end(&bound.log_end),
    })
}

fn recover(segments: &Dir, options: &LogOptions, marked: &Synced) -> Result<Found, OpenError> {
    let expected = Expected {
        trail_id: options.trail_id,
        segment_bytes: options.segment_bytes,
        first_index_any: options.first_index_any,
        read_all: false,
    };
    recovery::find(segments, &expected, marked, &mut |_| {})
}

/// Makes durable what was found, without what was torn.
fn settle(
    data: &Dir,
    segments: &Dir,
    found: &mut Found,
) -> Result<Option<(Tear, PathBuf)>, DiskError> {
    let torn = match found.tear {
        Some(tear) => Some((tear, recovery::quarantine(data, segments, &tear)?)),
        None => None,
    };
    if segments.exists(NEXT_FILE)? {
        segments.remove(NEXT_FILE)?;
    }
    swap::clean(segments)?;
    if let Some((last, _)) = found.segments.pop_if(|(last, _)| last.next == last.first) {
        // Begun, and the crash came before its first entry. The next entry begins it anew: no
        // segment is ever empty.
        segments.remove(&segment::file_name(last.first))?;
        found.scanned.retain(|first| *first != last.first);
    }
    for first in &found.scanned {
        // After a killed process, what was read may be in the system's memory alone. Crash before:
        // it may be gone at the next start; nobody has been told of it.
        segments.open_file(&segment::file_name(*first))?.sync_all()?;
    }
    // Crash before: the removed names may be back, and are removed again.
    segments.sync()?;
    Ok(torn)
}

/// What recovery leaves to the running log.
struct Parts {
    data: Dir,
    segments: Dir,
    found: Found,
    hard_state: HardStateFile,
    lineage: Lineage,
    marker: SyncedFile,
    marked: Synced,
}

/// Starts the threads.
fn start_threads(
    options: LogOptions,
    parts: Parts,
    marker_interval: Duration,
    lock: DirLock,
) -> Result<Log, OpenError> {
    let Parts { data, segments, found, hard_state, lineage, marker, marked } = parts;
    let last = found.segments.last().map(|(summary, _)| summary);
    let (trail_id, segment_bytes) = (options.trail_id, options.segment_bytes);
    let writer = Writer::resume(segments.clone(), trail_id, segment_bytes, last)?;
    let chain = last.map_or_else(|| chain::genesis(&trail_id), |last| last.chain_after);
    let end = last.map(|last| Location { segment: last.first, offset: last.frames_end });

    let (to_chain, chain_queue) = channel();
    let (to_io, io_queue) = channel();
    let state = State::opened(
        found.segments,
        marked.committed,
        hard_state.value().clone(),
        options.first_index_any,
        to_chain,
        to_io.clone(),
    );
    let last = state.last();
    let shared = Arc::new(Shared::new(options, data, segments, lineage, state));
    let chainer = Chainer { shared: shared.clone(), queue: chain_queue, io: to_io, chain, end };
    let files = Markers { hard_state, marker, marked, last };
    let io = new_io(&shared, io_queue, writer, files, marker_interval);
    let threads = Mutex::new(vec![
        spawn("log-chain", move || chainer.run())?,
        spawn("log-io", move || io.run())?,
    ]);
    let owner = Owner { shared: shared.clone(), threads, lock: Mutex::new(Some(lock)) };
    Ok(Log { shared, owner: Arc::new(owner) })
}

/// What the IO thread writes besides segments.
struct Markers {
    hard_state: HardStateFile,
    marker: SyncedFile,
    marked: Synced,
    /// The last entry that is durable.
    last: Option<EntryId>,
}

fn new_io(
    shared: &Arc<Shared>,
    queue: Receiver<IoOp>,
    writer: Writer,
    files: Markers,
    marker_interval: Duration,
) -> Io {
    let Markers { hard_state, marker, marked, last } = files;
    Io {
        shared: shared.clone(),
        queue,
        writer,
        hard_state,
        marker,
        marked,
        last,
        marker_interval,
        behind_since: None,
        group: Vec::new(),
        group_bytes: 0,
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, DiskError> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(run);
    thread.map_err(|error| DiskError::new("start thread", Path::new(name), error))
}

impl Owner {
    /// Stops the log and waits for its threads.
    pub(super) fn close(&self, shared: &Shared) {
        let mut state = shared.lock();
        if let Some(queue) = state.queue.take() {
            state.queue_ops += 1;
            // If the thread has panicked there is nothing left to finish.
            let _ = queue.send(Op::Control(Control::Close));
        }
        drop(state);
        shared.room.notify_all();
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // The last handle may be dropped by a callback, on the IO thread itself.
            if thread.thread().id() != std::thread::current().id() {
                // A panic was reported through `failed` already.
                let _ = thread.join();
            }
        }
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.close(&self.shared);
    }
}
