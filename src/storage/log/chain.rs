//! The chain thread: links each entry to the one before, decides its place, and builds its frame's
//! header.
//!
//! Links and places are a pure function of the log: how appends were grouped, or when they were
//! flushed, does not matter.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};

use indelible_core::{Chain, Entry, EntryId, chain};

use super::io::{Control, FailOnPanic, Frame, IoOp, Write};
use super::state::{Placed, Shared};
use super::{Done, LogError};
use crate::storage::frame::{FrameHeader, Location};
use crate::storage::segment::{self, FRAMES_START};

/// What callers hand over.
#[derive(Debug)]
pub(super) enum Op {
    Append(Append),
    /// Everything else: passed on in order.
    Control(Control),
}

/// Entries to append.
pub(super) struct Append {
    pub(super) entries: Vec<Entry>,
    /// Truncations before it.
    pub(super) epoch: u64,
    /// Memory of the entries, in bytes.
    pub(super) bytes: usize,
    pub(super) done: Done,
}

/// What was found out about one entry.
#[derive(Debug)]
pub(super) struct Placement {
    pub(super) id: EntryId,
    pub(super) placed: Placed,
    /// Bytes of its frame.
    pub(super) frame_bytes: u64,
    /// The link before it, if it begins a segment.
    pub(super) opens: Option<Chain>,
}

/// The thread's state.
#[derive(Debug)]
pub(super) struct Chainer {
    pub(super) shared: Arc<Shared>,
    pub(super) queue: Receiver<Op>,
    pub(super) io: Sender<IoOp>,
    /// Link of the last entry.
    pub(super) chain: Chain,
    /// Where its frame ends; none in an empty log.
    pub(super) end: Option<Location>,
}

impl Op {
    /// Reports the outcome of an operation that was not done.
    pub(super) fn finish(self, outcome: Result<(), Arc<LogError>>) {
        match self {
            Op::Append(append) => (append.done)(outcome),
            Op::Control(control) => control.finish(outcome),
        }
    }
}

impl std::fmt::Debug for Append {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Append").field("entries", &self.entries.len()).finish_non_exhaustive()
    }
}

impl Chainer {
    /// Runs until the log is closed.
    pub(super) fn run(mut self) {
        let _guard = FailOnPanic(self.shared.clone());
        while let Ok(op) = self.queue.recv() {
            let (op, closes) = match op {
                Op::Append(append) => (IoOp::Write(self.append(append)), false),
                Op::Control(control) => {
                    self.follow(&control);
                    let closes = matches!(control, Control::Close);
                    (IoOp::Control(control), closes)
                }
            };
            if let Err(error) = self.io.send(op) {
                error.0.finish(Err(Arc::new(LogError::Panicked)));
            }
            if closes {
                break;
            }
        }
    }

    /// A truncation goes back to the kept entry; nothing else moves the end.
    fn follow(&mut self, control: &Control) {
        #[cfg(test)]
        if let Control::Run { passed, .. } = control {
            let _ = passed.send(());
        }
        let Control::Truncate { kept, .. } = control else { return };
        match kept {
            Some(kept) => {
                self.chain = kept.chain;
                let segment = kept.location.segment;
                self.end = Some(Location { segment, offset: kept.frame_end });
            }
            None => {
                self.chain = chain::genesis(&self.shared.options.trail_id);
                self.end = None;
            }
        }
    }

    fn append(&mut self, append: Append) -> Write {
        let Append { entries, epoch, bytes, done } = append;
        let first = entries.first().map_or(0, |entry| entry.id.index);
        let range = first..first + entries.len() as u64;
        let last = entries.last().map(|entry| entry.id);
        let mut placements = Vec::with_capacity(entries.len());
        let mut frames = Vec::with_capacity(entries.len());
        for entry in entries {
            let (placement, frame) = self.place(entry);
            placements.push(placement);
            frames.push(frame);
        }
        let mut state = self.shared.lock();
        state.place(epoch, &placements);
        // Under the lock, so that a truncation's lower number is not followed by this one.
        self.shared.chained.send_replace(state.chained);
        drop(state);
        self.shared.placed.notify_all();
        Write { frames, range, last, epoch, bytes, done }
    }

    /// Link, place and frame of the next entry.
    fn place(&mut self, entry: Entry) -> (Placement, Frame) {
        let segment_bytes = self.shared.options.segment_bytes;
        let open = self.end.filter(|end| !segment::is_closed(end.offset, segment_bytes));
        let opens = open.is_none().then_some(self.chain);
        let location = open.unwrap_or(Location { segment: entry.id.index, offset: FRAMES_START });
        self.chain = chain::link_entry(&self.chain, &entry);
        let header = FrameHeader::new(&entry, self.chain, location);
        let frame_bytes = header.frame_size();
        self.end = Some(Location { offset: location.offset + frame_bytes, ..location });
        let placed = Placed { chain: self.chain, location };
        let frame = Frame {
            index: entry.id.index,
            location,
            opens,
            header: header.encode(location),
            head: entry.head,
            body: entry.body,
        };
        (Placement { id: entry.id, placed, frame_bytes, opens }, frame)
    }
}
