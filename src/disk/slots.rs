//! A small value in two slots, each with a generation and a checksum (docs/FORMAT.md,
//! "Slot").
//!
//! A write goes into the slot that does not hold the newest value, so that a torn write leaves the
//! value before it. The slots are a page apart: no sector size in use makes one write touch both.

use std::path::PathBuf;

use super::{Dir, DiskError, File};

/// Bytes of a file of slots.
pub const SLOT_FILE_SIZE: usize = 8192;
/// Bytes from the start of one slot to the start of the other.
pub const SLOT_STRIDE: usize = 4096;

const SLOT_OFFSETS: [u64; 2] = [0, SLOT_STRIDE as u64];
/// magic(8) and generation(8).
const PAYLOAD_OFFSET: usize = 16;
/// The checksum, at the end of a slot.
const CRC_SIZE: usize = 4;

/// Which file of slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotKind {
    /// Its name.
    pub name: &'static str,
    /// First eight bytes of each slot.
    pub magic: [u8; 8],
    /// Bytes of a slot, with all that frames the value.
    pub slot_size: usize,
}

impl SlotKind {
    /// Bytes that a value may have; shorter ones are padded with zeros.
    pub const fn payload_size(&self) -> usize {
        assert!(self.slot_size <= SLOT_STRIDE, "a slot does not fit its page");
        self.slot_size - PAYLOAD_OFFSET - CRC_SIZE
    }
}

/// A file of two slots, open for writing by one owner.
#[derive(Debug)]
pub struct SlotFile {
    file: File,
    /// Which file this is.
    kind: SlotKind,
    /// Of the newest value; from 1.
    generation: u64,
    /// The slot that holds the newest value.
    current: usize,
}

/// Why a value could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SlotsError {
    /// Neither slot holds a valid value.
    #[error("{}: both slots are damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The file could not be read.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl SlotFile {
    /// Makes the file durably with its first value, in both slots. Replaces what had the name.
    pub fn create(dir: &Dir, kind: SlotKind, payload: &[u8]) -> Result<SlotFile, DiskError> {
        let name = kind.name;
        let temporary = format!("{name}.tmp");
        let file = dir.create_file(&temporary, 0o600)?;
        file.allocate(SLOT_FILE_SIZE as u64)?;
        let slot = encode(kind, 1, payload);
        file.write_all_at(&slot, SLOT_OFFSETS[0])?;
        file.write_all_at(&slot, SLOT_OFFSETS[1])?;
        // Crash before the rename is durable: the name is free or holds the old file. After: the
        // value is there.
        file.sync_all()?;
        dir.rename(&temporary, name)?;
        dir.sync()?;
        // Opened anew, so that errors name it right.
        let file = dir.open_file(name)?;
        Ok(SlotFile { file, kind, generation: 1, current: 0 })
    }

    /// Opens the file and reads the newest value. A single damaged slot is passed over: it is what
    /// a crash during a write leaves, and such a write was never reported as done.
    pub fn open(dir: &Dir, kind: SlotKind) -> Result<(SlotFile, Vec<u8>), SlotsError> {
        let file = dir.open_file(kind.name)?;
        let Newest { position, generation, payload } = read_newest(&file, kind)?;
        Ok((SlotFile { file, kind, generation, current: position }, payload))
    }

    /// Reads the newest value of a file that stays closed.
    pub fn read(dir: &Dir, kind: SlotKind) -> Result<Vec<u8>, SlotsError> {
        Ok(read_newest(&dir.open_file_read_only(kind.name)?, kind)?.payload)
    }

    /// Writes a value and makes it durable. Crash before the return: this value or the one before
    /// it.
    pub fn write(&mut self, payload: &[u8]) -> Result<(), DiskError> {
        self.generation += 1;
        self.current = 1 - self.current;
        self.put(self.current, payload)
    }

    /// As [`Self::write`], into both slots one after the other: a slot that rots later takes
    /// nothing with it.
    pub fn write_both(&mut self, payload: &[u8]) -> Result<(), DiskError> {
        self.write(payload)?;
        self.put(1 - self.current, payload)
    }

    fn put(&self, position: usize, payload: &[u8]) -> Result<(), DiskError> {
        let slot = encode(self.kind, self.generation, payload);
        self.file.write_all_at(&slot, SLOT_OFFSETS[position])?;
        self.file.sync_data()
    }
}

/// The newest valid slot.
struct Newest {
    position: usize,
    generation: u64,
    payload: Vec<u8>,
}

fn read_newest(file: &File, kind: SlotKind) -> Result<Newest, SlotsError> {
    let mut newest: Option<Newest> = None;
    for (position, offset) in SLOT_OFFSETS.into_iter().enumerate() {
        let mut slot = vec![0; kind.slot_size];
        file.read_at(&mut slot, offset)?;
        if let Some((generation, payload)) = decode(kind, &slot)
            && newest.as_ref().is_none_or(|newest| generation > newest.generation)
        {
            newest = Some(Newest { position, generation, payload });
        }
    }
    newest.ok_or_else(|| SlotsError::Damaged { path: file.path().to_owned() })
}

fn encode(kind: SlotKind, generation: u64, payload: &[u8]) -> Vec<u8> {
    let (size, max) = (payload.len(), kind.payload_size());
    assert!(size <= max, "the value of {} has {size} bytes, its slot takes {max}", kind.name);
    assert!(generation > 0, "generations start at 1, so that an empty slot is older than any");
    let mut slot = kind.magic.to_vec();
    slot.extend_from_slice(&generation.to_le_bytes());
    slot.extend_from_slice(payload);
    slot.resize(kind.slot_size - CRC_SIZE, 0);
    let crc = crc32c::crc32c(&slot);
    slot.extend_from_slice(&crc.to_le_bytes());
    slot
}

/// Generation and value of a slot that is valid.
fn decode(kind: SlotKind, slot: &[u8]) -> Option<(u64, Vec<u8>)> {
    let (covered, crc) = slot.split_last_chunk::<CRC_SIZE>()?;
    if !covered.starts_with(&kind.magic) || *crc != crc32c::crc32c(covered).to_le_bytes() {
        return None;
    }
    let generation = u64::from_le_bytes(covered[8..PAYLOAD_OFFSET].try_into().ok()?);
    (generation > 0).then(|| (generation, covered[PAYLOAD_OFFSET..].to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: SlotKind = SlotKind { name: "slots", magic: *b"TESTSLOT", slot_size: 2048 };

    fn damage(dir: &Dir, slot: usize) {
        let file = dir.open_file("slots").unwrap();
        file.write_all_at(&[9], SLOT_OFFSETS[slot] + 20).unwrap();
    }

    fn value(dir: &Dir) -> Result<u8, SlotsError> {
        SlotFile::read(dir, KIND).map(|payload| payload[0])
    }

    #[test]
    fn the_newest_valid_slot_counts() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path(), true).unwrap();
        let mut slots = SlotFile::create(&dir, KIND, &[1]).unwrap();
        for number in 2..10 {
            slots.write(&[number]).unwrap();
            assert_eq!(value(&dir).unwrap(), number);
        }
        // A torn write leaves the value before it, and the next write does not touch that.
        damage(&dir, slots.current);
        let (mut slots, payload) = SlotFile::open(&dir, KIND).unwrap();
        assert_eq!(payload[0], 8);
        slots.put(1 - slots.current, &[0; 7]).unwrap();
        damage(&dir, 1 - slots.current);
        assert_eq!(value(&dir).unwrap(), 8);
        slots.write(&[11]).unwrap();
        assert_eq!(value(&dir).unwrap(), 11);
        damage(&dir, 0);
        damage(&dir, 1);
        assert!(matches!(value(&dir), Err(SlotsError::Damaged { .. })));
    }

    #[test]
    fn a_value_in_both_slots_survives_either() {
        for slot in [0, 1] {
            let temp = tempfile::tempdir().unwrap();
            let dir = Dir::open(temp.path(), true).unwrap();
            let mut slots = SlotFile::create(&dir, KIND, &[1]).unwrap();
            for number in 2..6 {
                slots.write_both(&[number]).unwrap();
                damage(&dir, slot);
                assert_eq!(value(&dir).unwrap(), number);
                slots = SlotFile::open(&dir, KIND).unwrap().0;
            }
        }
    }
}
