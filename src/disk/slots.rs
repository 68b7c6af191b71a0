//! A small value in two slots, each with a generation and a checksum (docs/FORMAT.md,
//! "Slot").
//!
//! A write goes into the slot that does not hold the newest value, so that a torn write leaves the
//! value before it. The slots are a page apart: no sector size in use makes one write touch both.

use std::path::PathBuf;

use super::{Dir, DiskError, File};

/// Bytes that a value may have; shorter ones are padded with zeros.
pub const SLOT_PAYLOAD_SIZE: usize = 492;

const SLOT_SIZE: usize = 512;
const SLOT_OFFSETS: [u64; 2] = [0, 4096];
const FILE_SIZE: u64 = 8192;
/// magic(8) and generation(8).
const PAYLOAD_OFFSET: usize = 16;
const CRC_OFFSET: usize = SLOT_SIZE - 4;

const _: () = assert!(PAYLOAD_OFFSET + SLOT_PAYLOAD_SIZE == CRC_OFFSET);

/// A file of two slots, open for writing by one owner.
#[derive(Debug)]
pub struct SlotFile {
    file: File,
    /// First eight bytes of each slot: which file this is.
    magic: [u8; 8],
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
    pub fn create(
        dir: &Dir,
        name: &str,
        magic: [u8; 8],
        payload: &[u8],
    ) -> Result<SlotFile, DiskError> {
        let temporary = format!("{name}.tmp");
        let file = dir.create_file(&temporary, 0o600)?;
        file.allocate(FILE_SIZE)?;
        let slot = encode(magic, 1, payload);
        file.write_all_at(&slot, SLOT_OFFSETS[0])?;
        file.write_all_at(&slot, SLOT_OFFSETS[1])?;
        // Crash before the rename is durable: the name is free or holds the old file. After: the
        // value is there.
        file.sync_all()?;
        dir.rename(&temporary, name)?;
        dir.sync()?;
        // Opened anew, so that errors name it right.
        let file = dir.open_file(name)?;
        Ok(SlotFile { file, magic, generation: 1, current: 0 })
    }

    /// Opens the file and reads the newest value. A single damaged slot is passed over: it is what
    /// a crash during a write leaves, and such a write was never reported as done.
    pub fn open(
        dir: &Dir,
        name: &str,
        magic: [u8; 8],
    ) -> Result<(SlotFile, [u8; SLOT_PAYLOAD_SIZE]), SlotsError> {
        let file = dir.open_file(name)?;
        let Newest { position, generation, payload } = read_newest(&file, magic)?;
        Ok((SlotFile { file, magic, generation, current: position }, payload))
    }

    /// Reads the newest value of a file that stays closed.
    pub fn read(
        dir: &Dir,
        name: &str,
        magic: [u8; 8],
    ) -> Result<[u8; SLOT_PAYLOAD_SIZE], SlotsError> {
        Ok(read_newest(&dir.open_file_read_only(name)?, magic)?.payload)
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
        let slot = encode(self.magic, self.generation, payload);
        self.file.write_all_at(&slot, SLOT_OFFSETS[position])?;
        self.file.sync_data()
    }
}

/// The newest valid slot.
struct Newest {
    position: usize,
    generation: u64,
    payload: [u8; SLOT_PAYLOAD_SIZE],
}

fn read_newest(file: &File, magic: [u8; 8]) -> Result<Newest, SlotsError> {
    let mut newest: Option<Newest> = None;
    for (position, offset) in SLOT_OFFSETS.into_iter().enumerate() {
        let mut slot = [0; SLOT_SIZE];
        file.read_at(&mut slot, offset)?;
        if let Some((generation, payload)) = decode(magic, &slot)
            && newest.as_ref().is_none_or(|newest| generation > newest.generation)
        {
            newest = Some(Newest { position, generation, payload });
        }
    }
    newest.ok_or_else(|| SlotsError::Damaged { path: file.path().to_owned() })
}

fn encode(magic: [u8; 8], generation: u64, payload: &[u8]) -> [u8; SLOT_SIZE] {
    assert!(payload.len() <= SLOT_PAYLOAD_SIZE, "a slot's value has {} bytes", payload.len());
    assert!(generation > 0, "generations start at 1, so that an empty slot is older than any");
    let mut slot = [0; SLOT_SIZE];
    slot[..8].copy_from_slice(&magic);
    slot[8..16].copy_from_slice(&generation.to_le_bytes());
    slot[PAYLOAD_OFFSET..PAYLOAD_OFFSET + payload.len()].copy_from_slice(payload);
    let crc = crc32c::crc32c(&slot[..CRC_OFFSET]);
    slot[CRC_OFFSET..].copy_from_slice(&crc.to_le_bytes());
    slot
}

/// Generation and value of a slot that is valid.
fn decode(magic: [u8; 8], slot: &[u8; SLOT_SIZE]) -> Option<(u64, [u8; SLOT_PAYLOAD_SIZE])> {
    let crc = crc32c::crc32c(&slot[..CRC_OFFSET]);
    if slot[..8] != magic || slot[CRC_OFFSET..] != crc.to_le_bytes() {
        return None;
    }
    let generation = u64::from_le_bytes(slot[8..16].try_into().ok()?);
    let payload = slot[PAYLOAD_OFFSET..CRC_OFFSET].try_into().ok()?;
    (generation > 0).then_some((generation, payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAGIC: [u8; 8] = *b"TESTSLOT";

    fn damage(dir: &Dir, slot: usize) {
        let file = dir.open_file("slots").unwrap();
        file.write_all_at(&[9], SLOT_OFFSETS[slot] + 20).unwrap();
    }

    fn value(dir: &Dir) -> Result<u8, SlotsError> {
        SlotFile::read(dir, "slots", MAGIC).map(|payload| payload[0])
    }

    #[test]
    fn the_newest_valid_slot_counts() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path(), true).unwrap();
        let mut slots = SlotFile::create(&dir, "slots", MAGIC, &[1]).unwrap();
        for number in 2..10 {
            slots.write(&[number]).unwrap();
            assert_eq!(value(&dir).unwrap(), number);
        }
        // A torn write leaves the value before it, and the next write does not touch that.
        damage(&dir, slots.current);
        let (mut slots, payload) = SlotFile::open(&dir, "slots", MAGIC).unwrap();
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
            let mut slots = SlotFile::create(&dir, "slots", MAGIC, &[1]).unwrap();
            for number in 2..6 {
                slots.write_both(&[number]).unwrap();
                damage(&dir, slot);
                assert_eq!(value(&dir).unwrap(), number);
                slots = SlotFile::open(&dir, "slots", MAGIC).unwrap().0;
            }
        }
    }
}
