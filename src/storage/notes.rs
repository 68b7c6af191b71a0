//! The `notes` file: checkpoints that were cosigned, durable before anybody is shown them
//! (docs/FORMAT.md, "Notes").
//!
//! Notes only grow: what a node has once served must not be forgotten, or a rollback of its disk
//! could not be told from a young trail. What a note says is opaque here; its size comes beside it.
//! Every note is on the other nodes too, so a damaged file is kept aside and fetched again.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use indelible_core::limits::{NOTES_BYTES_MAX, NOTES_KEPT};

use super::frame::{u32_at, u64_at};
use super::recovery::QUARANTINE_DIR;
use crate::disk::{Dir, DiskError, File};

/// Name of the file.
pub const NOTES_FILE: &str = "notes";
/// One note, in bytes.
pub const NOTE_TEXT_BYTES_MAX: usize = 64 * 1024;

const FILE_MAGIC: [u8; 8] = *b"INDNOTES";
const VERSION: u32 = 1;
/// Bytes before the first record.
const RECORDS_START: usize = 16;
const RECORD_MAGIC: [u8; 4] = *b"INDN";
const RECORD_HEADER_SIZE: usize = 32;
/// Zeros are written so far ahead: most appends then change no length, which a disk makes durable
/// much faster.
const RESERVE_BYTES: usize = 256 * 1024;
/// A disk writes a sector whole or not at all.
const SECTOR: usize = 512;
/// The kind of a record that is no note: a rollback was accepted.
const ACCEPTED: u8 = 3;
/// As above: a signature of this node's own is not in the trail any more.
const LOST: u8 = 5;

/// Why notes cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum NotesError {
    /// There is no such file, and the node has been started before.
    #[error(
        "{} does not exist; hint: the node's peers have the notes, it fetches them again",
        path.display()
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A record inside the file is not as it was written.
    #[error(
        "{} is damaged at offset {offset}: {what}; hint: the file is kept in `quarantine`, and the \
         node's peers have the notes",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in it, in bytes.
        offset: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// An earlier write failed: what the file holds is known again after a restart.
    #[error("a note could not be written earlier; hint: the node must be restarted")]
    Failed,
    /// The file could not be read or written.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// What a note carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum NoteKind {
    /// Cosignatures of a majority of the nodes.
    Cosigned = 1,
    /// Those and the signatures of enough witnesses.
    Witnessed = 2,
    /// As `Cosigned`, but of another history than this trail: every disk was rolled back.
    Evidence = 4,
}

/// A note as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredNote {
    /// What it carries.
    pub kind: NoteKind,
    /// Leaves of the tree that it speaks of.
    pub size: u64,
    /// The signed note.
    pub text: String,
}

/// That an operator has accepted a rollback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Acceptance {
    /// Notes that were signed up to this time (Unix seconds) do not count any more; 0 = none was
    /// accepted.
    pub unix_s: u64,
    /// The record of it in the trail; 0 if that is not known.
    pub leaf: u64,
}

/// One record of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Record {
    Note(Arc<StoredNote>),
    /// Notes before this one do not count any more.
    Accepted(Acceptance),
    /// This node has signed a tree of that size that its trail has lost.
    Lost {
        size: u64,
    },
}

/// The open file. Shared by reference; appends queue up, and reading never waits for them.
#[derive(Debug)]
pub struct Notes {
    writer: Mutex<Writer>,
    newest: RwLock<Newest>,
}

#[derive(Debug)]
struct Writer {
    dir: Dir,
    file: File,
    /// Where the next record goes.
    end: usize,
    /// The file's length: zeros follow the last record.
    reserved: usize,
    /// Bytes past which the file is rewritten.
    bytes_max: usize,
    /// Set before a write and taken back after its sync.
    failed: bool,
}

/// What counts, of all that is in the file.
#[derive(Debug, Default, Clone)]
struct Newest {
    any: Option<Arc<StoredNote>>,
    witnessed: Option<Arc<StoredNote>>,
    evidence: Option<Arc<StoredNote>>,
    lost: Option<u64>,
    accepted: Acceptance,
}

impl Notes {
    /// Opens the file of a data directory that [`super::Storage::open`] has opened, which makes it
    /// at the very first start. A torn last record, which nobody was shown, is cut off.
    pub fn open(dir: &Path) -> Result<Notes, NotesError> {
        let dir = Dir::open(dir, true)?;
        let path = dir.path().join(NOTES_FILE);
        let Some(bytes) = dir.read_file(NOTES_FILE)? else {
            return Err(NotesError::Missing { path });
        };
        let damaged = |(offset, what)| NotesError::Damaged { path: path.clone(), offset, what };
        let (records, end) = decode(&bytes).map_err(damaged)?;
        let file = dir.open_file(NOTES_FILE)?;
        if end < bytes.len() {
            // Crash before: the tear is found and cut again.
            file.set_len(end as u64)?;
            file.sync_all()?;
        }
        Ok(Self::new(dir, file, end, &records))
    }

    /// Makes the file anew from what is whole in it, and keeps the damaged one in `quarantine`; an
    /// empty one if there was none. The caller adds what its peers have. Returns how many records
    /// were whole as well.
    pub fn recover(dir: &Path) -> Result<(Notes, usize), NotesError> {
        let dir = Dir::open(dir, true)?;
        let bytes = dir.read_file(NOTES_FILE)?.unwrap_or_default();
        if !bytes.is_empty() {
            let quarantine = dir.subdir(QUARANTINE_DIR)?;
            let number = quarantine.list()?.len();
            // Crash after: the damaged file is found and copied once more.
            quarantine.write_new(&format!("{NOTES_FILE}-{number}.damaged"), 0o600, &bytes)?;
        }
        let records = salvage(&bytes);
        let (file, end) = rewrite(&dir, &records)?;
        Ok((Self::new(dir, file, end, &records), records.len()))
    }

    /// Makes an empty file.
    pub(super) fn create(dir: &Dir) -> Result<(), DiskError> {
        rewrite(dir, &[]).map(|_| ())
    }

    fn new(dir: Dir, file: File, end: usize, records: &[Record]) -> Notes {
        let mut newest = Newest::default();
        records.iter().for_each(|record| newest.add(record));
        let bytes_max = NOTES_BYTES_MAX;
        let writer = Writer { dir, file, end, reserved: end, bytes_max, failed: false };
        Notes { writer: Mutex::new(writer), newest: RwLock::new(newest) }
    }

    /// The note of the largest tree; of several of that size the one that was added last.
    pub fn newest(&self) -> Option<Arc<StoredNote>> {
        self.newest.read().unwrap_or_else(PoisonError::into_inner).any.clone()
    }

    /// As [`Self::newest`], of those that carry witnesses.
    pub fn newest_witnessed(&self) -> Option<Arc<StoredNote>> {
        self.newest.read().unwrap_or_else(PoisonError::into_inner).witnessed.clone()
    }

    /// As [`Self::newest`], of those that are evidence of a rollback; that one does not show them.
    pub fn newest_evidence(&self) -> Option<Arc<StoredNote>> {
        self.newest.read().unwrap_or_else(PoisonError::into_inner).evidence.clone()
    }

    /// The largest tree that this node is known to have signed and to have lost, if nobody has
    /// accepted that.
    pub fn newest_lost(&self) -> Option<u64> {
        self.newest.read().unwrap_or_else(PoisonError::into_inner).lost
    }

    /// Up to when notes are void because an operator has accepted a rollback.
    pub fn accepted(&self) -> Acceptance {
        self.newest.read().unwrap_or_else(PoisonError::into_inner).accepted
    }

    /// Adds a note that the caller has verified; durable on return, and only then may it be served.
    /// After an error the node must stop.
    pub fn append(&self, kind: NoteKind, size: u64, text: &str) -> Result<(), NotesError> {
        assert!(text.len() <= NOTE_TEXT_BYTES_MAX, "a note of {} bytes", text.len());
        self.add(&Record::Note(Arc::new(StoredNote { kind, size, text: text.into() })))
    }

    /// Notes that an operator has accepted a rollback: no note before this call counts any more,
    /// and the caller adds again what still does. Durable on return.
    pub fn accept(&self, accepted: Acceptance) -> Result<(), NotesError> {
        self.add(&Record::Accepted(accepted))
    }

    /// Notes that this node has signed a tree of that size which its trail has lost: that counts
    /// until it is accepted. Durable on return.
    pub fn lost(&self, size: u64) -> Result<(), NotesError> {
        self.add(&Record::Lost { size })
    }

    /// All notes in the file, oldest first.
    pub fn all(&self) -> Result<Vec<Arc<StoredNote>>, NotesError> {
        let records = self.writer().records()?;
        let notes = records.into_iter().filter_map(|record| match record {
            Record::Note(note) => Some(note),
            Record::Accepted(_) | Record::Lost { .. } => None,
        });
        Ok(notes.collect())
    }

    fn add(&self, record: &Record) -> Result<(), NotesError> {
        let mut writer = self.writer();
        writer.add(record)?;
        // Under the writer's lock: what counts changes in the order of the file.
        self.newest.write().unwrap_or_else(PoisonError::into_inner).add(record);
        Ok(())
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer {
    fn add(&mut self, record: &Record) -> Result<(), NotesError> {
        if std::mem::replace(&mut self.failed, true) {
            return Err(NotesError::Failed);
        }
        let mut bytes = record.encode(self.end);
        let end = self.end + bytes.len();
        if end > self.bytes_max {
            self.compact(record)?;
        } else {
            if end > self.reserved {
                bytes.resize(bytes.len() + RESERVE_BYTES, 0);
                self.reserved = end + RESERVE_BYTES;
            }
            // Crash before the return: a torn record, which the next start cuts off, or a whole one
            // that nobody has been shown.
            self.file.write_all_at(&bytes, self.end as u64)?;
            self.file.sync_data()?;
            self.end = end;
        }
        self.failed = false;
        Ok(())
    }

    /// Writes a new file with what is worth keeping, and `last`.
    fn compact(&mut self, last: &Record) -> Result<(), NotesError> {
        let mut records = self.records()?;
        records.push(last.clone());
        (self.file, self.end) = rewrite(&self.dir, &worth_keeping(records, self.bytes_max / 2))?;
        self.reserved = self.end;
        Ok(())
    }

    fn records(&self) -> Result<Vec<Record>, NotesError> {
        let mut bytes = vec![0; self.end];
        self.file.read_exact_at(&mut bytes, 0)?;
        let path = self.file.path().to_owned();
        let damaged = |(offset, what)| NotesError::Damaged { path, offset, what };
        Ok(decode(&bytes).map_err(damaged)?.0)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // A closed file ends with its last record. Crash before, or a failure: the next start cuts
        // the zeros off.
        if !self.failed && self.reserved > self.end {
            let _ = self.file.set_len(self.end as u64);
        }
    }
}

impl Newest {
    fn add(&mut self, record: &Record) {
        match record {
            Record::Accepted(accepted) => {
                let newer = accepted.unix_s > self.accepted.unix_s;
                let accepted = if newer { *accepted } else { self.accepted };
                *self = Newest { accepted, ..Newest::default() };
            }
            Record::Lost { size } => self.lost = self.lost.max(Some(*size)),
            Record::Note(note) => {
                let newer = |known: &Option<Arc<StoredNote>>| {
                    known.as_ref().is_none_or(|known| note.size >= known.size)
                };
                if note.kind == NoteKind::Evidence {
                    if newer(&self.evidence) {
                        self.evidence = Some(note.clone());
                    }
                    return;
                }
                if newer(&self.any) {
                    self.any = Some(note.clone());
                }
                if note.kind == NoteKind::Witnessed && newer(&self.witnessed) {
                    self.witnessed = Some(note.clone());
                }
            }
        }
    }
}

/// The last records, up to `bytes_max`, and before them those that count though they are older.
fn worth_keeping(records: Vec<Record>, bytes_max: usize) -> Vec<Record> {
    let mut newest = Newest::default();
    records.iter().for_each(|record| newest.add(record));
    let mut bytes = 0;
    let fits = |record: &&Record| {
        bytes += record.encode(0).len();
        bytes <= bytes_max
    };
    let recent = records.iter().rev().take(NOTES_KEPT).take_while(fits).count();
    let recent = records.len() - recent;
    let counts = |record: &Record| match record {
        Record::Accepted(accepted) => *accepted == newest.accepted,
        Record::Lost { size } => Some(*size) == newest.lost,
        Record::Note(note) => {
            let counts = [&newest.any, &newest.witnessed, &newest.evidence];
            counts.iter().any(|known| known.as_ref() == Some(note))
        }
    };
    let kept = records.into_iter().enumerate();
    kept.filter(|(at, record)| *at >= recent || counts(record)).map(|(_, record)| record).collect()
}

/// Replaces the file by one with these records; returns it and its length.
fn rewrite(dir: &Dir, records: &[Record]) -> Result<(File, usize), DiskError> {
    let mut bytes = FILE_MAGIC.to_vec();
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    for record in records {
        let encoded = record.encode(bytes.len());
        bytes.extend_from_slice(&encoded);
    }
    let temporary = format!("{NOTES_FILE}.tmp");
    let file = dir.create_file(&temporary, 0o600)?;
    file.write_all_at(&bytes, 0)?;
    // Crash before the rename is durable: the old file is there, or none. After: the new one is,
    // whole.
    file.sync_all()?;
    dir.rename(&temporary, NOTES_FILE)?;
    dir.sync()?;
    // Opened anew, so that errors name it right.
    Ok((dir.open_file(NOTES_FILE)?, bytes.len()))
}

impl Record {
    /// Its bytes at an offset of the file.
    fn encode(&self, offset: usize) -> Vec<u8> {
        let leaf;
        let (kind, value, text) = match self {
            Record::Note(note) => (note.kind as u8, note.size, note.text.as_bytes()),
            Record::Accepted(accepted) => {
                leaf = accepted.leaf.to_string();
                (ACCEPTED, accepted.unix_s, leaf.as_bytes())
            }
            Record::Lost { size } => (LOST, *size, &[][..]),
        };
        let mut out = vec![0; RECORD_HEADER_SIZE];
        out[..4].copy_from_slice(&RECORD_MAGIC);
        out[8] = kind;
        out[12..16].copy_from_slice(&(text.len() as u32).to_le_bytes());
        out[16..24].copy_from_slice(&value.to_le_bytes());
        out[24..28].copy_from_slice(&crc32c::crc32c_append(seed(offset), text).to_le_bytes());
        let crc = crc32c::crc32c_append(seed(offset), &out[8..]);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(text);
        out
    }

    /// The record at an offset of the file, and where it ends.
    fn decode(bytes: &[u8], offset: usize) -> Result<(Record, usize), Fault> {
        let rest = &bytes[offset..];
        let header: &[u8; RECORD_HEADER_SIZE] = rest.first_chunk().ok_or(Fault::Short)?;
        let crc = crc32c::crc32c_append(seed(offset), &header[8..]);
        if header[..4] != RECORD_MAGIC || u32_at(header, 4) != crc {
            return Err(Fault::Header);
        }
        let size = u32_at(header, 12) as usize;
        let text = rest[RECORD_HEADER_SIZE..].get(..size).ok_or(Fault::Cut)?;
        if crc32c::crc32c_append(seed(offset), text) != u32_at(header, 24) {
            return Err(Fault::Text);
        }
        let text = std::str::from_utf8(text).map_err(|_| Fault::Text)?;
        let value = u64_at(header, 16);
        let kind = match header[8] {
            1 => NoteKind::Cosigned,
            2 => NoteKind::Witnessed,
            4 => NoteKind::Evidence,
            ACCEPTED => {
                // Files of before it was kept have none.
                let leaf = if size == 0 { Ok(0) } else { text.parse() };
                let accepted =
                    Acceptance { unix_s: value, leaf: leaf.map_err(|_| Fault::Unknown)? };
                return Ok((Record::Accepted(accepted), offset + RECORD_HEADER_SIZE + size));
            }
            LOST if size == 0 => {
                return Ok((Record::Lost { size: value }, offset + RECORD_HEADER_SIZE));
            }
            _ => return Err(Fault::Unknown),
        };
        let note = StoredNote { kind, size: value, text: text.into() };
        Ok((Record::Note(Arc::new(note)), offset + RECORD_HEADER_SIZE + size))
    }
}

/// What is wrong with the bytes of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Fewer bytes than a header has.
    Short,
    Header,
    /// A valid header of a text that the file ends in.
    Cut,
    Text,
    Unknown,
}

/// Bytes that ended up elsewhere do not validate.
fn seed(offset: usize) -> u32 {
    crc32c::crc32c(&(offset as u64).to_le_bytes())
}

/// The first damaged place of a file that is not open, and what is wrong there.
pub(super) fn check(bytes: &[u8]) -> Option<(usize, &'static str)> {
    decode(bytes).err()
}

/// All records and where they end, without a torn one; where something else is wrong, and what.
fn decode(bytes: &[u8]) -> Result<(Vec<Record>, usize), (usize, &'static str)> {
    let header: &[u8; RECORDS_START] =
        bytes.first_chunk().ok_or((0, "it is shorter than its header"))?;
    let crc = crc32c::crc32c(&header[..12]);
    if header[..8] != FILE_MAGIC || u32_at(header, 8) != VERSION || u32_at(header, 12) != crc {
        return Err((0, "its header is damaged, or of another version"));
    }
    let mut records = Vec::new();
    let mut offset = RECORDS_START;
    while offset < bytes.len() {
        match Record::decode(bytes, offset) {
            Ok((record, end)) => {
                records.push(record);
                offset = end;
            }
            Err(fault) if is_torn(bytes, offset, fault) => break,
            Err(_) => return Err((offset, "a record is damaged")),
        }
    }
    Ok((records, offset))
}

/// Whether this is what a crash leaves of the last record: its first bytes, and then the file's end
/// or zeros from a sector boundary on.
fn is_torn(bytes: &[u8], offset: usize, fault: Fault) -> bool {
    let rest = &bytes[offset..];
    let begins = rest.iter().zip(RECORD_MAGIC).all(|(byte, magic)| *byte == magic);
    let nonzero = rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    if nonzero == 0 {
        return true;
    }
    let written = (offset + nonzero).next_multiple_of(SECTOR);
    match fault {
        Fault::Cut => true,
        Fault::Short => begins,
        Fault::Header => begins && written < offset + RECORD_HEADER_SIZE,
        // No note has zeros: those before its own end were never written.
        Fault::Text => written < offset + RECORD_HEADER_SIZE + u32_at(rest, 12) as usize,
        Fault::Unknown => false,
    }
}

/// Every record that is whole, wherever it is.
fn salvage(bytes: &[u8]) -> Vec<Record> {
    let mut records = Vec::new();
    let mut offset = 0;
    while offset + RECORD_HEADER_SIZE <= bytes.len() {
        match Record::decode(bytes, offset) {
            Ok((record, end)) => {
                records.push(record);
                offset = end;
            }
            Err(_) => offset += 1,
        }
    }
    records
}

#[cfg(test)]
mod tests;
