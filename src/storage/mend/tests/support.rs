//! Logs of real batches in plain directories, copies of them as peers, and ways to damage them.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use indelible_core::{Chain, Entry, EntryId, EntryKind, Salt, TrailId};
use indelible_lineage::{Boot, Draw};
use indelible_testkit::{TestRecord, trail};
use tempfile::TempDir;

use crate::storage::frame::{self, FrameHeader, Location};
pub(super) use crate::storage::log::tests::support::read_segments;
use crate::storage::log::tests::support::{append, read_all, tend};

use crate::storage::log::{Log, LogOptions, SyncPolicy, Tuning};
pub(super) use crate::storage::mend::source::{LogEnd, SegmentSource};
pub(super) use crate::storage::mend::{
    ClosedLog, Common, DamageKind, FetchError, Fetched, MendError, Mended, Refusal, Supply, Want,
};
use crate::storage::recovery::OpenError;
use crate::storage::segment::{self, FRAMES_START, SegmentHeader};
use crate::storage::start::NewBoot;

pub(crate) const TRAIL: TrailId = TrailId([7; 16]);
pub(crate) const SEGMENT_BYTES: u64 = 4096;
pub(super) const COMMON: Common = Common { trail_id: TRAIL, segment_bytes: SEGMENT_BYTES };

pub(crate) fn options() -> LogOptions {
    LogOptions {
        segment_bytes: SEGMENT_BYTES,
        trail_id: TRAIL,
        cache_bytes_max: 4 * 1024,
        boot: NewBoot { root: Boot::root(&[7; 16], 1, &[1; 32]), draw: Draw([1; 16]) },
        first_index_any: false,
        sync: SyncPolicy::Never,
    }
}

pub(crate) fn temp_dir() -> TempDir {
    crate::storage::log::tests::support::temp_dir()
}

/// An entry of a few records, whose bytes follow from its index, its term and `flavour`.
pub(crate) fn entry_of(index: u64, term: u64, flavour: u8) -> Entry {
    let id = EntryId { index, term, leader: term % 3 + 1 };
    if index.is_multiple_of(9) {
        return Entry { id, kind: EntryKind::Blank, head: Bytes::new(), body: Bytes::new() };
    }
    let records = (0..1 + index % 3).map(|number| {
        let size = 40 + (index * 37 + number * 11) % 160;
        let event: Vec<u8> = (0..size).map(|i| (i + index * 3) as u8 ^ flavour).collect();
        let salt = Salt([(index * 5 + number) as u8; 16]);
        (TestRecord::event(2, index * 3 + number, 1000 + index, event), salt)
    });
    let (head, body) = trail::batch(records);
    Entry { id, kind: EntryKind::Batch, head, body }
}

pub(crate) fn entry(index: u64) -> Entry {
    entry_of(index, index / 20 + 1, 0)
}

pub(crate) fn entries(count: u64) -> Vec<Entry> {
    (0..count).map(entry).collect()
}

/// A directory with a log of these entries, closed in order: all of it is below the marker,
/// committed, and sealed as far as it can be.
pub(crate) fn closed(entries: &[Entry]) -> TempDir {
    let dir = temp_dir();
    let (log, _) = Log::open(dir.path(), options()).unwrap();
    append(&log, entries.to_vec());
    log.set_committed(entries.len() as u64);
    log.set_applied(entries.len() as u64);
    tend(&log);
    log.close();
    dir
}

/// As after a crash: the last `above` entries are above the marker, nothing is sealed.
pub(crate) fn crashed(entries: &[Entry], above: usize) -> TempDir {
    let (dir, copied) = (temp_dir(), temp_dir());
    let tuning = Tuning { recorder: None, marker_interval: Duration::from_secs(3600) };
    let (log, _) = Log::open_tuned(dir.path(), options(), tuning).unwrap();
    let below = entries.len() - above;
    append(&log, entries[..below].to_vec());
    log.set_committed(below as u64);
    tend(&log);
    append(&log, entries[below..].to_vec());
    copy(dir.path(), copied.path());
    log.close();
    copied
}

/// Makes `to` what `from` is, but for what is in quarantine.
pub(crate) fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to.join("segments"));
    let _ = std::fs::remove_dir_all(to.join("quarantine"));
    std::fs::create_dir(to.join("segments")).unwrap();
    for name in ["hard_state", "synced", "lineage", "lineage.copy"] {
        let _ = std::fs::remove_file(to.join(name));
        if from.join(name).exists() {
            std::fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
    for (name, bytes) in read_segments(from) {
        std::fs::write(to.join("segments").join(name), bytes).unwrap();
    }
}

pub(crate) fn copy_of(from: &Path) -> TempDir {
    let dir = temp_dir();
    copy(from, dir.path());
    dir
}

/// First entries of all segments.
pub(crate) fn firsts(dir: &Path) -> Vec<u64> {
    let names = read_segments(dir).into_iter();
    names.map(|(name, _)| segment::parse_file_name(&name).unwrap()).collect()
}

pub(crate) fn path_of(dir: &Path, first: u64) -> std::path::PathBuf {
    dir.join("segments").join(segment::file_name(first))
}

/// Changes a segment's bytes.
pub(crate) fn change(dir: &Path, first: u64, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path_of(dir, first)).unwrap();
    change(&mut bytes);
    std::fs::write(path_of(dir, first), bytes).unwrap();
}

/// Place and header of every frame of a whole segment.
pub(crate) fn frames(dir: &Path, first: u64) -> Vec<(Location, FrameHeader)> {
    let bytes = std::fs::read(path_of(dir, first)).unwrap();
    let mut found = Vec::new();
    let mut location = Location { segment: first, offset: FRAMES_START };
    while let Some(Ok(header)) =
        bytes.get(location.offset as usize..).map(|bytes| frame::check(bytes, location))
    {
        found.push((location, header));
        location.offset += header.frame_size();
    }
    found
}

/// Where the frame of `entry(index)` is.
pub(crate) fn place_of(index: u64) -> Location {
    let mut location = Location { segment: 0, offset: FRAMES_START };
    for before in 0..=index {
        if segment::is_closed(location.offset, SEGMENT_BYTES) {
            location = Location { segment: before, offset: FRAMES_START };
        }
        if before < index {
            location.offset += frame::frame_size(entry(before).payload_bytes());
        }
    }
    location
}

/// Flips a bit of an entry's body, or of its header if it has none.
pub(crate) fn damage_entry(dir: &Path, index: u64) {
    let location = place_of(index);
    let entry = entry(index);
    let in_frame = if entry.body.is_empty() { 40 } else { 96 + entry.head.len() + 3 };
    change(dir, location.segment, |bytes| bytes[location.offset as usize + in_frame] ^= 4);
}

/// Writes entries as a segment with right checksums and a right chain, sealed or not, over the one
/// that starts with the first of them. Returns the chain after it.
pub(crate) fn forge(dir: &Path, chain_before: Chain, entries: &[Entry], sealed: bool) -> Chain {
    let first = entries[0].id.index;
    let header =
        SegmentHeader { trail_id: TRAIL, first, segment_bytes: SEGMENT_BYTES, chain_before };
    let segments = crate::disk::Dir::open(&dir.join("segments"), false).unwrap();
    let mut new = crate::storage::mend::swap::NewSegment::create(&segments, &header).unwrap();
    let mut summary = segment::Summary::new(first, chain_before);
    for entry in entries {
        let location = Location { segment: first, offset: summary.frames_end };
        let chain = indelible_core::chain::link_entry(&summary.chain_after, entry);
        let header = FrameHeader::new(entry, chain, location);
        new.put(entry, &header, location).unwrap();
        summary.push(entry.id, chain, header.frame_size());
    }
    new.finish(&summary, sealed, SEGMENT_BYTES).unwrap();
    segments.rename(&format!("{first:020}.mend"), &segment::file_name(first)).unwrap();
    summary.chain_after
}

/// Asks directories, in this order, as a node asks its peers. The log ends only where all of them
/// are certain that it does.
pub(crate) fn peers<'a>(
    dirs: &'a [&'a Path],
) -> impl FnMut(&Want) -> Result<Supply, FetchError> + 'a {
    let sources: Vec<_> =
        dirs.iter().map(|dir| SegmentSource::open(dir, TRAIL, SEGMENT_BYTES).unwrap()).collect();
    move |want| {
        for source in &sources {
            let range = want.from..want.to.unwrap_or(u64::MAX);
            let mut found = source.entries(range, 1500).unwrap();
            let consecutive = found.iter().zip(want.from..);
            let count = consecutive.take_while(|(f, index)| f.entry.id.index == *index).count();
            found.truncate(count);
            if count > 0 {
                return Ok(Supply::Entries(found));
            }
        }
        let ends = |end: LogEnd| end.certain && end.last.is_none_or(|last| last.index < want.from);
        if sources.iter().all(|source| ends(source.end().unwrap())) {
            return Ok(Supply::End);
        }
        Err("every copy is damaged".into())
    }
}

/// Mends a directory from others.
pub(crate) fn mend(dir: &Path, from: &[&Path]) -> Result<Vec<Mended>, MendError> {
    lock(dir).mend(&mut peers(from))
}

pub(crate) fn lock(dir: &Path) -> ClosedLog {
    ClosedLog::lock(dir, TRAIL, SEGMENT_BYTES).unwrap()
}

/// Whether a start accepts a copy of this directory.
pub(crate) fn opens(dir: &Path) -> Result<(), OpenError> {
    let copied = copy_of(dir);
    Log::open(copied.path(), options()).map(|_| ())
}

/// The directory opens, and its log has these entries.
pub(crate) fn assert_log(dir: &Path, entries: &[Entry]) {
    let copied = copy_of(dir);
    let (log, recovered) = Log::open(copied.path(), options()).unwrap();
    assert_eq!(recovered.last, entries.last().map(|entry| entry.id));
    assert_eq!(log.scan_all().unwrap(), entries.len() as u64);
    assert_eq!(read_all(&log, entries.len() as u64), entries);
}

/// The directory has the segments of another one, byte for byte.
pub(crate) fn assert_same(dir: &Path, as_in: &Path, what: &str) {
    let (here, there) = (read_segments(dir), read_segments(as_in));
    let names = |files: &[(String, Vec<u8>)]| files.iter().map(|f| f.0.clone()).collect::<Vec<_>>();
    assert_eq!(names(&here), names(&there), "{what}");
    for ((name, here), (_, there)) in here.iter().zip(&there) {
        // What was closed and committed may be sealed by mending.
        let is_sealed = |bytes: &[u8]| bytes.len().is_multiple_of(8);
        let first = segment::parse_file_name(name).unwrap();
        let end = match is_sealed(here) && !is_sealed(there) {
            true => frames(as_in, first).last().map(|(at, h)| at.offset + h.frame_size()).unwrap(),
            false => there.len().max(here.len()) as u64,
        };
        let (here, there) = (here.get(..end as usize), there.get(..end as usize));
        assert!(here.is_some() && here == there, "{what}: {name} differs");
    }
    let rest = std::fs::read_dir(dir.join("segments")).unwrap();
    let rest = rest.filter(|entry| entry.as_ref().unwrap().file_name() != "next").count();
    assert_eq!(rest, here.len(), "{what}: nothing else is left in segments/");
}

/// Makes the marker say that so many entries are committed.
pub(crate) fn set_marker(dir: &Path, next: u64, committed: u64) {
    use crate::storage::synced::{Synced, SyncedFile};
    let dir = crate::disk::Dir::open(dir, false).unwrap();
    let marker = SyncedFile::read(&dir).unwrap();
    assert_eq!(marker.next, next);
    SyncedFile::create_as(&dir, &Synced { committed, ..marker }).unwrap();
}
