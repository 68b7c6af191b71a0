//! What the tests of the log share.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use bytes::Bytes;
pub(super) use indelible_core::{Entry, EntryId, EntryKind, TrailId, chain};
pub(super) use indelible_lineage::{Boot, Draw};

pub(super) use crate::disk::{Dir, Recorder};
pub(super) use crate::storage::hard_state::{PeerBoot, SignedBoot, StoredVote};
pub(super) use crate::storage::log::io::Control;
pub(super) use crate::storage::log::{Done, Log, LogError, LogOptions, SyncPolicy};
pub(super) use crate::storage::recovery::OpenError;
pub(super) use crate::storage::start::NewBoot;
pub(super) use crate::storage::synced::SyncedFile;

/// A directory that goes away; in memory where there is such a place, and it is large enough, since
/// these tests make very many of them.
pub(crate) fn temp_dir() -> tempfile::TempDir {
    let memory = rustix::fs::statvfs("/dev/shm").ok();
    let is_large = memory.is_some_and(|stat| stat.f_bavail * stat.f_frsize >= 1 << 30);
    let memory = is_large.then(|| tempfile::tempdir_in("/dev/shm").ok()).flatten();
    memory.unwrap_or_else(|| tempfile::tempdir().unwrap())
}

/// Small segments, so that short scripts fill several.
pub(super) fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 4096,
        trail_id: TrailId([7; 16]),
        cache_bytes_max: 8 * 1024,
        boot: NewBoot { root: Boot::root(&[7; 16], 1, &[1; 32]), draw: Draw([1; 16]) },
        first_index_any: false,
        sync: SyncPolicy::Always,
    }
}

/// An entry whose bytes follow from its id; `size` bytes, none zero, a quarter of them in the head.
pub(super) fn entry(index: u64, term: u64, size: usize) -> Entry {
    let bytes: Vec<u8> =
        (0..size as u64).map(|i| (index * 31 + term * 7 + i * 13 + 1) as u8 | 1).collect();
    let bytes = Bytes::from(bytes);
    let id = EntryId { index, term, leader: term % 3 + 1 };
    let head = bytes.slice(..size / 4);
    Entry { id, kind: EntryKind::Batch, head, body: bytes.slice(size / 4..) }
}

/// What is remembered of a peer that has started so often.
pub(super) fn peer_boot(number: u64) -> PeerBoot {
    let signed = SignedBoot { boot: Boot { number, hash: [5; 32] }, signature: [7; 64] };
    PeerBoot { signed, is_first_contact: true }
}

/// Starts an operation and waits for its callback.
pub(super) fn wait(start: impl FnOnce(Done)) -> Result<(), Arc<LogError>> {
    let (sender, receiver) = channel();
    start(Box::new(move |outcome| sender.send(outcome).unwrap()));
    receiver.recv().unwrap()
}

/// Appends and waits until it is durable.
pub(in crate::storage) fn append(log: &Log, entries: Vec<Entry>) {
    wait(|done| log.append(entries, done)).unwrap();
}

/// Lets the IO thread do everything that it does when it is idle.
pub(in crate::storage) fn tend(log: &Log) {
    wait(|done| log.control(Control::Tend { done })).unwrap();
}

/// Stops the IO thread until this is dropped.
pub(super) struct Hold {
    _gate: Sender<()>,
    passed: Receiver<()>,
    reached: Receiver<()>,
}

impl Hold {
    /// Queues the stop behind all that was handed over, and returns at once.
    pub(super) fn later(log: &Log) -> Hold {
        let (gate, gated) = channel::<()>();
        let (passed_sender, passed) = channel();
        let (reached_sender, reached) = channel();
        let run = move || {
            let _ = reached_sender.send(());
            let _ = gated.recv();
        };
        log.control(Control::Run { run: Box::new(run), passed: passed_sender });
        Hold { _gate: gate, passed, reached }
    }

    /// Waits until all that was handed over before is in the IO thread's queue. (After a failure
    /// there is none.)
    pub(super) fn wait_queued(&self) {
        let _ = self.passed.recv();
    }

    /// Waits until the IO thread has come to the stop.
    pub(super) fn wait_reached(&self) {
        let _ = self.reached.recv();
    }
}

/// Stops the IO thread.
pub(super) fn hold(log: &Log) -> Hold {
    let hold = Hold::later(log);
    hold.wait_reached();
    hold
}

/// Name and bytes of every segment.
pub(in crate::storage) fn read_segments(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let dir = Dir::open(&dir.join("segments"), false).unwrap();
    let names = dir.list().unwrap().into_iter().filter(|name| name.ends_with(".seg"));
    names.map(|name| (name.clone(), dir.read_file(&name).unwrap().unwrap())).collect()
}

/// Asks the log everything about its entries, which must be these.
pub(super) fn check(log: &Log, entries: &[Entry]) {
    let count = entries.len() as u64;
    assert_eq!(log.last(), entries.last().map(|entry| entry.id));
    let durable = *log.durable().borrow();
    let scanned = log.scan_all().unwrap();
    assert!(durable <= scanned && scanned <= count, "{durable} are durable, {scanned} scanned");
    let mut link = chain::genesis(&options().trail_id);
    for entry in entries {
        let index = entry.id.index;
        link = chain::link_entry(&link, entry);
        assert_eq!(log.id_at(index).unwrap(), Some(entry.id));
        assert_eq!(log.chain_at(index).unwrap(), link);
        if let Some(known) = log.try_chain_at(index) {
            assert_eq!(known, link);
        }
        let location = log.locate(index).unwrap();
        assert_eq!(log.read_at(location).unwrap(), (entry.clone(), link));
        assert_eq!(log.read(index..count, 1).unwrap(), std::slice::from_ref(entry));
    }
    assert_eq!(log.id_at(count).unwrap(), None);
    assert!(matches!(log.read(count..count + 1, 1), Err(LogError::Missing { .. })));
    assert_eq!(log.read(0..0, 1).unwrap(), []);
    assert_eq!(read_all(log, count), entries);
    for step in 1..=count.min(4) {
        let (from, to) = (count / 5 * step % count, count - 1);
        let range = &entries[from as usize..=to as usize];
        let last_of_each: Vec<_> = range
            .iter()
            .enumerate()
            .filter(|(i, entry)| range.get(i + 1).is_none_or(|next| next.id.term != entry.id.term))
            .map(|(_, entry)| entry.id)
            .collect();
        assert_eq!(log.last_of_each_leader(from..=to).unwrap(), last_of_each);
    }
    assert!(*log.chained().borrow() >= *log.durable().borrow());
}

/// All entries, in several reads.
pub(in crate::storage) fn read_all(log: &Log, count: u64) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    while (entries.len() as u64) < count {
        let read = log.read(entries.len() as u64..count, 5000).unwrap();
        assert!(!read.is_empty());
        entries.extend(read);
    }
    entries
}
