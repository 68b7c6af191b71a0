//! The IO thread: the only one that writes. One write and one fdatasync for all that has queued up,
//! then the callbacks.
//!
//! A failed write or sync ends it all: every callback, pending or later, gets the error, and
//! nothing is tried again. After a failed fdatasync the system may have dropped the pages, and a
//! second one would report success for what is lost.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use indelible_core::{Chain, EntryId};
use indelible_lineage::Bound;

use super::mend::{self, Patch};
use super::state::{Kept, Shared};
use super::writer::Writer;
use super::{Done, LogError};
use crate::disk::DiskError;
use crate::storage::frame::{FRAME_HEADER_SIZE, Location};
use crate::storage::hard_state::{HardState, HardStateFile};
use crate::storage::start;
use crate::storage::synced::{Promise, Synced, SyncedFile};

/// Frames that one group may have, in bytes, before it is made durable: keeps the first callback
/// from waiting for the last.
const GROUP_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What the chain thread hands over.
#[derive(Debug)]
pub(super) enum IoOp {
    Write(Write),
    Control(Control),
    /// The marker has something new to carry.
    Nudge,
}

/// Frames of one append.
pub(super) struct Write {
    pub(super) frames: Vec<Frame>,
    /// Their entries.
    pub(super) range: Range<u64>,
    /// The last of them.
    pub(super) last: Option<EntryId>,
    /// Truncations before the append.
    pub(super) epoch: u64,
    /// Memory of the entries, in bytes.
    pub(super) bytes: usize,
    pub(super) done: Done,
}

/// A frame, ready to be written.
pub(super) struct Frame {
    pub(super) index: u64,
    pub(super) location: Location,
    /// The link before the entry, if it begins a segment.
    pub(super) opens: Option<Chain>,
    pub(super) header: [u8; FRAME_HEADER_SIZE],
    pub(super) head: Bytes,
    pub(super) body: Bytes,
}

/// Operations other than appends.
pub(super) enum Control {
    HardState {
        change: Box<dyn FnOnce(&mut HardState) + Send>,
        done: Done,
    },
    Truncate {
        kept: Option<Kept>,
        done: Done,
    },
    /// Writes over damaged bytes of a segment that is not sealed.
    Patch {
        first: u64,
        patches: Vec<Patch>,
        done: Done,
    },
    /// Does what else there is to do, as if the log had been idle for long.
    #[cfg(test)]
    Tend {
        done: Done,
    },
    /// Runs something on the IO thread.
    #[cfg(test)]
    Run {
        run: Box<dyn FnOnce() + Send>,
        /// Told by the chain thread when all that came before is in the IO thread's queue.
        passed: std::sync::mpsc::Sender<()>,
    },
    Close,
}

impl IoOp {
    /// Reports the outcome of an operation that was not done.
    pub(super) fn finish(self, outcome: Result<(), Arc<LogError>>) {
        match self {
            IoOp::Write(write) => (write.done)(outcome),
            IoOp::Control(control) => control.finish(outcome),
            IoOp::Nudge => {}
        }
    }
}

impl Control {
    /// Reports the outcome.
    pub(super) fn finish(self, outcome: Result<(), Arc<LogError>>) {
        match self {
            Control::HardState { done, .. }
            | Control::Truncate { done, .. }
            | Control::Patch { done, .. } => done(outcome),
            #[cfg(test)]
            Control::Tend { done } => done(outcome),
            #[cfg(test)]
            Control::Run { .. } => {}
            Control::Close => {}
        }
    }
}

impl std::fmt::Debug for Write {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Write").field("range", &self.range).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self {
            Control::HardState { .. } => "HardState",
            Control::Truncate { .. } => "Truncate",
            Control::Patch { .. } => "Patch",
            #[cfg(test)]
            Control::Tend { .. } => "Tend",
            #[cfg(test)]
            Control::Run { .. } => "Run",
            Control::Close => "Close",
        };
        f.write_str(name)
    }
}

/// Stops the log if its thread panics, so that nobody waits for it.
#[derive(Debug)]
pub(super) struct FailOnPanic(pub(super) Arc<Shared>);

impl Drop for FailOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(LogError::Panicked);
        }
    }
}

/// The thread's state.
#[derive(Debug)]
pub(super) struct Io {
    pub(super) shared: Arc<Shared>,
    pub(super) queue: Receiver<IoOp>,
    pub(super) writer: Writer,
    pub(super) hard_state: HardStateFile,
    pub(super) marker: SyncedFile,
    /// What the marker says.
    pub(super) marked: Synced,
    /// The last entry that is durable. NB: not the log's last entry, which may be on its way.
    pub(super) last: Option<EntryId>,
    /// At most this long after something has become durable, the marker says so.
    pub(super) marker_interval: Duration,
    /// Since when the marker has been behind. The one clock in storage: it paces the marker and
    /// decides nothing else.
    pub(super) behind_since: Option<Instant>,
    /// Written, not durable.
    pub(super) group: Vec<Write>,
    /// Frames in the group, in bytes.
    pub(super) group_bytes: usize,
}

impl Io {
    /// Runs until the log is closed.
    pub(super) fn run(mut self) {
        let _guard = FailOnPanic(self.shared.clone());
        let mut closed = false;
        while !closed {
            match self.next() {
                Ok(op) => {
                    closed = self.take(op);
                    while !closed && self.group_bytes < GROUP_BYTES_MAX {
                        let Ok(op) = self.queue.try_recv() else { break };
                        closed = self.take(op);
                    }
                    self.finish_group();
                    self.tend_if_idle();
                }
                Err(RecvTimeoutError::Timeout) => self.tend(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.finish_queue();
    }

    /// The next operation; a timeout when the marker must be written.
    fn next(&mut self) -> Result<IoOp, RecvTimeoutError> {
        // Parked first and looked second: a commit that is noted in between sends a nudge.
        self.shared.parked.store(self.behind_since.is_none(), Ordering::Relaxed);
        if self.behind_since.is_none() && self.target() != self.marked {
            self.behind_since = Some(Instant::now());
        }
        let op = match self.behind_since {
            Some(since) => {
                self.queue.recv_timeout(self.marker_interval.saturating_sub(since.elapsed()))
            }
            None => self.queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        self.shared.parked.store(false, Ordering::Relaxed);
        op
    }

    /// What the marker should say. Once the log has stopped: what it says.
    fn target(&self) -> Synced {
        let state = self.shared.lock();
        if state.failure.is_some() {
            return self.marked;
        }
        let (next, end) = self.writer.durable();
        let promise = self.marked.promise;
        Synced { next, end, committed: state.committed.min(next), promise }
    }

    /// Begins or does one operation; true if it was the last.
    fn take(&mut self, op: IoOp) -> bool {
        match op {
            IoOp::Write(write) => self.write(write),
            IoOp::Control(control) => {
                // Nothing overtakes the entries before it.
                self.finish_group();
                return self.control(control);
            }
            IoOp::Nudge => {
                self.behind_since.get_or_insert_with(Instant::now);
            }
        }
        false
    }

    fn write(&mut self, mut write: Write) {
        let written = match self.failure() {
            Some(failure) => Err(failure),
            None => self.stage(&mut write).map_err(|error| self.shared.fail(error.into())),
        };
        self.group.push(write);
        if written.is_err() {
            self.finish_group();
        }
    }

    fn stage(&mut self, write: &mut Write) -> Result<(), DiskError> {
        self.name_promise()?;
        write.frames.drain(..).try_for_each(|frame| {
            self.group_bytes += frame.head.len() + frame.body.len();
            self.writer.stage(frame)
        })
    }

    /// Before the log is changed under a new promise, the marker names that. Once for each leader
    /// that this node follows, or is.
    fn name_promise(&mut self) -> Result<(), DiskError> {
        let promise = self.promise();
        if promise == self.marked.promise {
            return Ok(());
        }
        // Crash before: no entry was taken under that promise. After: the next start promises it
        // again, which is what the hard state says too.
        self.mark(Synced { promise, ..self.marked })
    }

    /// The highest promise that the log was, or is about to be, changed under.
    fn promise(&self) -> Promise {
        self.hard_state.value().promise().max(self.marked.promise)
    }

    fn failure(&self) -> Option<Arc<LogError>> {
        self.shared.lock().failure.clone()
    }

    /// Makes the group durable and reports it, in order.
    fn finish_group(&mut self) {
        self.group_bytes = 0;
        if self.group.is_empty() {
            return;
        }
        let outcome = match self.failure() {
            Some(failure) => Err(failure),
            None => self.writer.finish().map_err(|error| self.shared.fail(error.into())),
        };
        let mut state = self.shared.lock();
        for write in &self.group {
            if outcome.is_ok() {
                state.set_durable(write.epoch, write.range.clone());
            }
            state.queue_ops -= 1;
            state.queue_bytes -= write.bytes;
        }
        state.evict(self.shared.options.cache_bytes_max);
        drop(state);
        self.shared.room.notify_all();
        if outcome.is_ok() {
            self.last = self.group.iter().rev().find_map(|write| write.last).or(self.last);
        }
        for write in self.group.drain(..) {
            (write.done)(outcome.clone());
        }
        if outcome.is_ok() {
            let state = self.shared.lock();
            // Under the lock, so that a truncation's lower number is not followed by this one.
            self.shared.durable.send_replace(state.durable);
            drop(state);
            self.behind_since.get_or_insert_with(Instant::now);
        }
    }

    /// Does one operation; true if it was the last.
    fn control(&mut self, control: Control) -> bool {
        let outcome = self.failure().map_or(Ok(()), Err);
        let (done, outcome) = match control {
            Control::HardState { change, done } => {
                (Some(done), outcome.and_then(|()| self.change_hard_state(change)))
            }
            Control::Truncate { kept, done } => {
                let truncate = |()| {
                    let truncated = self.truncate(kept.as_ref());
                    truncated.map_err(|error| self.shared.fail(error.into()))
                };
                (Some(done), outcome.and_then(truncate))
            }
            Control::Patch { first, patches, done } => {
                let patch = |()| {
                    let name = crate::storage::segment::file_name(first);
                    let file = self.shared.files.dir().open_file(&name);
                    let patched = file.and_then(|file| mend::write(&file, &patches));
                    patched.map_err(|error| self.shared.fail(error.into()))
                };
                (Some(done), outcome.and_then(patch))
            }
            #[cfg(test)]
            Control::Tend { done } => {
                self.tend();
                while self.failure().is_none() && self.keep_house() {}
                (Some(done), self.failure().map_or(Ok(()), Err))
            }
            #[cfg(test)]
            Control::Run { run, .. } => {
                run();
                (None, outcome)
            }
            Control::Close => {
                self.tend();
                self.shared.lock().queue_ops -= 1;
                return true;
            }
        };
        self.shared.lock().queue_ops -= 1;
        self.shared.room.notify_all();
        if let Some(done) = done {
            done(outcome);
        }
        false
    }

    fn change_hard_state(
        &mut self,
        change: Box<dyn FnOnce(&mut HardState) + Send>,
    ) -> Result<(), Arc<LogError>> {
        // Crash before: the vote is as it was, and nobody has been told otherwise. After: it is
        // what the callback says.
        let log_end = start::end_with(self.last);
        let change = |state: &mut HardState| {
            change(state);
            state.bound.as_mut().expect("the start has written it").log_end = log_end;
        };
        self.hard_state.update(change).map_err(|error| self.shared.fail(error.into()))?;
        self.shared.lock().hard_state = self.hard_state.value().clone();
        Ok(())
    }

    /// Removes everything after `kept` from the disk.
    fn truncate(&mut self, kept: Option<&Kept>) -> Result<(), DiskError> {
        let (next, end) = kept.map_or((0, Synced::EMPTY.end), |kept| {
            let segment = kept.location.segment;
            (kept.id.index + 1, Location { segment, offset: kept.frame_end })
        });
        let last = kept.map(|kept| kept.id);
        let bound = self.hard_state.value().bound.expect("the start has written it");
        if bound.log_end.entries > next {
            // Crash before: the old log is there, and nobody has been told otherwise. After: the
            // log reaches the end that the hard state names, and goes on after it.
            let log_end = start::end_with(last);
            self.hard_state.update(|state| state.bound = Some(Bound { log_end, ..bound }))?;
            self.shared.lock().hard_state = self.hard_state.value().clone();
        }
        let promise = self.promise();
        if next < self.marked.next || promise != self.marked.promise {
            // Crash before: the old log is there, and nobody has been told otherwise. After: the
            // marker claims less than the disk has, which is true; entries past it are still whole
            // and are found again.
            let (next, end) = if next < self.marked.next {
                (next, end)
            } else {
                (self.marked.next, self.marked.end)
            };
            let committed = self.marked.committed.min(next);
            self.mark(Synced { next, end, committed, promise })?;
        }
        self.writer.truncate(next, end)?;
        self.last = last;
        Ok(())
    }

    fn mark(&mut self, synced: Synced) -> Result<(), DiskError> {
        // Crash before: the marker claims less than is durable, which is true.
        self.marker.write(&synced)?;
        self.marked = synced;
        Ok(())
    }

    /// Does what else there is to do if nobody is waiting, or if it has waited long enough.
    fn tend_if_idle(&mut self) {
        let due = self.behind_since.is_some_and(|since| since.elapsed() >= self.marker_interval);
        if due {
            self.tend();
        } else if self.shared.lock().queue_ops == 0 && self.failure().is_none() {
            self.keep_house();
        }
    }

    /// Brings the marker up to date, and does one step of housekeeping.
    fn tend(&mut self) {
        self.behind_since = None;
        if self.failure().is_some() {
            return;
        }
        if let Err(error) = self.update_marker() {
            self.shared.fail(error.into());
            return;
        }
        self.keep_house();
    }

    fn update_marker(&mut self) -> Result<(), DiskError> {
        let synced = self.target();
        if synced != self.marked { self.mark(synced) } else { Ok(()) }
    }

    /// Seals a segment or prepares the next; true if there was something to do.
    fn keep_house(&mut self) -> bool {
        let done = match self.seal_one() {
            Ok(false) => match self.writer.prepare_next() {
                // A full disk is no reason to stop before somebody needs the space.
                Err(error) if error.is_full() => Ok(false),
                prepared => prepared,
            },
            sealed => sealed,
        };
        done.unwrap_or_else(|error| {
            self.shared.fail(error.into());
            false
        })
    }

    /// Seals the oldest segment that is closed, applied and durable but not sealed; true if there
    /// was one.
    fn seal_one(&mut self) -> Result<bool, DiskError> {
        let segment_bytes = self.shared.options.segment_bytes;
        let state = self.shared.lock();
        let settled = state.applied.min(state.durable);
        let unsealed = state.segments.values().rev().take_while(|segment| !segment.sealed).last();
        let summary = unsealed.map(|segment| &segment.summary).filter(|summary| {
            let closed = crate::storage::segment::is_closed(summary.frames_end, segment_bytes);
            closed && summary.next <= settled
        });
        let Some(summary) = summary.cloned() else { return Ok(false) };
        drop(state);
        if self.marked.next < summary.next {
            // A sealed segment is taken on trust at start, so it lies below the marker.
            self.update_marker()?;
        }
        assert!(self.marked.next >= summary.next, "only what is marked durable is sealed");
        self.writer.seal(&summary)?;
        let mut state = self.shared.lock();
        state.segments.get_mut(&summary.first).expect("applied entries stay").sealed = true;
        Ok(true)
    }

    /// Answers what came after the end.
    fn finish_queue(&mut self) {
        while let Ok(op) = self.queue.try_recv() {
            op.finish(Err(Arc::new(LogError::Closed)));
        }
    }
}
