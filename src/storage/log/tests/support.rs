//! What the tests of the log share.

use std::sync::Arc;
use std::sync::mpsc::channel;

pub(super) use crate::storage::hard_state::StoredVote;
pub(super) use crate::storage::log::{Done, Log, LogError, LogOptions, SyncPolicy};
use bytes::Bytes;
pub(super) use indelible_core::{Entry, EntryId, EntryKind, TrailId};

/// Small segments, so that short scripts fill several.
pub(super) fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 4096,
        trail_id: TrailId([7; 16]),
        cache_bytes_max: 8 * 1024,
        first_index_any: false,
        sync: SyncPolicy::Always,
    }
}

/// An entry whose bytes follow from its id; `size` bytes, a quarter of them in the head.
pub(super) fn entry(index: u64, term: u64, size: usize) -> Entry {
    let bytes: Vec<u8> =
        (0..size as u64).map(|i| (index * 31 + term * 7 + i * 13 + 1) as u8 | 1).collect();
    let bytes = Bytes::from(bytes);
    let id = EntryId { index, term, leader: term % 3 + 1 };
    let head = bytes.slice(..size / 4);
    Entry { id, kind: EntryKind::Batch, head, body: bytes.slice(size / 4..) }
}

/// Starts an operation and waits for its callback.
pub(super) fn wait(start: impl FnOnce(Done)) -> Result<(), Arc<LogError>> {
    let (sender, receiver) = channel();
    start(Box::new(move |outcome| sender.send(outcome).unwrap()));
    receiver.recv().unwrap()
}

/// Appends and waits until it is durable.
pub(super) fn append(log: &Log, entries: Vec<Entry>) {
    wait(|done| log.append(entries, done)).unwrap();
}
