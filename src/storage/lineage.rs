//! The draws of all starts of this node, in two copies (docs/FORMAT.md, "Lineage"; what follows
//! from them: docs/adr/0011).
//!
//! Each copy is appended to and made durable by itself, so that a crash tears one of them at most.
//! Every record says what it leads to, so that it counts wherever it is whole: a damaged copy is
//! written anew from the other one, and two that are damaged in different places from each other.

use std::path::Path;

use indelible_lineage::{Boot, Draw, Lineage};

use crate::disk::{Dir, DiskError, File};

use super::identity::Identity;
use super::recovery::OpenError;
use super::start::root_of;

/// Names of the two copies.
pub const LINEAGE_FILES: [&str; 2] = ["lineage", "lineage.copy"];

const MAGIC: [u8; 8] = *b"INDLINEA";
/// Magic, hash of the root, zeros, checksum.
const HEADER_SIZE: usize = 64;
const HEADER_CRC_OFFSET: usize = HEADER_SIZE - 4;
/// A draw, and the first half of the hash of its boot.
const RECORD_SIZE: usize = 32;
const DRAW_SIZE: usize = 16;

/// The draws as they are on the disk, before anything is changed there.
#[derive(Debug)]
pub(super) struct FoundLineage {
    /// None: neither copy has a draw.
    pub(super) lineage: Option<Lineage>,
    /// Whether both copies are as they should be.
    pub(super) is_whole: bool,
}

/// All boots of a node that is not running, as its data directory has them.
pub fn read(dir: &Path, identity: &Identity) -> Result<Lineage, OpenError> {
    let root = root_of(identity);
    let found = FoundLineage::read(&Dir::open(dir, true)?, root)?;
    Ok(found.lineage.unwrap_or_else(|| Lineage::new(root)))
}

/// Both copies, open for appending.
#[derive(Debug)]
pub(super) struct LineageFile {
    copies: [File; 2],
    lineage: Lineage,
}

impl FoundLineage {
    /// Reads both copies. An error if they are of two nodes, or of two lives of one node.
    pub(super) fn read(data: &Dir, root: Boot) -> Result<FoundLineage, OpenError> {
        let mut copies = Vec::with_capacity(LINEAGE_FILES.len());
        for name in LINEAGE_FILES {
            copies.push(data.read_file(name)?.unwrap_or_default());
        }
        let mut lineage = Lineage::new(root);
        loop {
            let newest = lineage.newest();
            let draws = copies.iter().filter_map(|copy| draw_after(copy, newest));
            let draws: Vec<Draw> = draws.collect();
            let Some(draw) = draws.first() else { break };
            if draws.iter().any(|other| other != draw) {
                let (path, boot) = (data.path().join(LINEAGE_FILES[0]), newest.number + 1);
                return Err(OpenError::TwoLineages { path, boot });
            }
            lineage.push(*draw);
        }
        let expected = encode(&lineage);
        let is_whole = copies.iter().all(|copy| *copy == expected);
        let lineage = (lineage.newest() != root).then_some(lineage);
        Ok(FoundLineage { lineage, is_whole })
    }

    /// Opens both copies; makes those anew that are not as they should be.
    pub(super) fn open(self, data: &Dir, root: Boot) -> Result<LineageFile, DiskError> {
        let lineage = self.lineage.unwrap_or_else(|| Lineage::new(root));
        if !self.is_whole {
            // Crash in between: each copy is the old one or the new one, and neither has less than
            // was found, so the next start does this again.
            LINEAGE_FILES.into_iter().try_for_each(|name| make(data, name, &lineage))?;
        }
        let [first, second] = LINEAGE_FILES;
        let copies = [data.open_file(first)?, data.open_file(second)?];
        Ok(LineageFile { copies, lineage })
    }
}

impl LineageFile {
    /// All boots.
    pub(super) fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    /// The same, for a node that adds no more.
    pub(super) fn into_lineage(self) -> Lineage {
        self.lineage
    }

    /// Adds a boot, durably in both copies. Crash before the first of them: the hard state has the
    /// draw, and the next start adds it. In between: the second copy is made anew.
    pub(super) fn push(&mut self, draw: Draw) -> Result<(), DiskError> {
        let offset = HEADER_SIZE + self.lineage.draws().len() * RECORD_SIZE;
        self.lineage.push(draw);
        let record = record(draw, self.lineage.newest());
        for copy in &self.copies {
            copy.write_all_at(&record, offset as u64)?;
            copy.sync_data()?;
        }
        Ok(())
    }
}

/// Writes one copy anew, durably.
fn make(data: &Dir, name: &str, lineage: &Lineage) -> Result<(), DiskError> {
    let temporary = format!("{name}.tmp");
    let file = data.create_file(&temporary, 0o600)?;
    file.write_all_at(&encode(lineage), 0)?;
    file.sync_all()?;
    data.rename(&temporary, name)?;
    data.sync()
}

/// What one copy says of the boot after `newest`; none if it says nothing that holds.
fn draw_after(copy: &[u8], newest: Boot) -> Option<Draw> {
    let (_, records) = copy.split_at_checked(HEADER_SIZE)?;
    let position = usize::try_from(newest.number).ok()?;
    let here = records.chunks_exact(RECORD_SIZE).nth(position)?;
    let draw = Draw(*here.first_chunk::<DRAW_SIZE>()?);
    (here == record(draw, newest.next(draw))).then_some(draw)
}

fn encode(lineage: &Lineage) -> Vec<u8> {
    let mut boot = lineage.boot(0).expect("every lineage has a root");
    let mut out = header_of(boot).to_vec();
    for draw in lineage.draws() {
        boot = boot.next(*draw);
        out.extend_from_slice(&record(*draw, boot));
    }
    out
}

fn header_of(root: Boot) -> [u8; HEADER_SIZE] {
    let mut header = [0; HEADER_SIZE];
    header[..8].copy_from_slice(&MAGIC);
    header[8..40].copy_from_slice(&root.hash);
    let crc = crc32c::crc32c(&header[..HEADER_CRC_OFFSET]);
    header[HEADER_CRC_OFFSET..].copy_from_slice(&crc.to_le_bytes());
    header
}

fn record(draw: Draw, boot: Boot) -> [u8; RECORD_SIZE] {
    let mut record = [0; RECORD_SIZE];
    record[..DRAW_SIZE].copy_from_slice(&draw.0);
    record[DRAW_SIZE..].copy_from_slice(&boot.hash[..RECORD_SIZE - DRAW_SIZE]);
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> Boot {
        Boot::root(&[1; 16], 2, &[3; 32])
    }

    /// A directory with so many boots.
    fn written(count: u8) -> (tempfile::TempDir, Dir, Lineage) {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path(), false).unwrap();
        let mut file = FoundLineage::read(&dir, root()).unwrap().open(&dir, root()).unwrap();
        (1..=count).for_each(|number| file.push(Draw([number; 16])).unwrap());
        (temp, dir, file.lineage)
    }

    fn read(dir: &Dir) -> Option<Lineage> {
        FoundLineage::read(dir, root()).unwrap().lineage
    }

    /// Opens both copies, which makes them whole.
    fn repair(dir: &Dir) {
        FoundLineage::read(dir, root()).unwrap().open(dir, root()).unwrap();
        let copies = LINEAGE_FILES.map(|name| dir.read_file(name).unwrap().unwrap());
        assert_eq!(copies[0], copies[1]);
    }

    fn change(dir: &Dir, copy: usize, change: impl FnOnce(&mut Vec<u8>)) {
        let path = dir.path().join(LINEAGE_FILES[copy]);
        let mut bytes = std::fs::read(&path).unwrap();
        change(&mut bytes);
        std::fs::write(path, bytes).unwrap();
    }

    #[test]
    fn a_copy_that_is_damaged_anywhere_or_cut_is_made_anew_from_the_other() {
        let (_temp, dir, lineage) = written(3);
        let size = encode(&lineage).len();
        for copy in [0, 1] {
            for at in 0..size {
                change(&dir, copy, |bytes| bytes[at] ^= 1);
                assert_eq!(read(&dir).as_ref(), Some(&lineage), "copy {copy}, byte {at}");
                repair(&dir);
                change(&dir, copy, |bytes| bytes.truncate(at));
                assert_eq!(read(&dir).as_ref(), Some(&lineage), "copy {copy}, cut at {at}");
                repair(&dir);
            }
            std::fs::remove_file(dir.path().join(LINEAGE_FILES[copy])).unwrap();
            repair(&dir);
        }
        assert_eq!(read(&dir), Some(lineage));
    }

    #[test]
    fn two_copies_that_are_damaged_in_different_places_make_one() {
        let (_temp, dir, lineage) = written(4);
        change(&dir, 0, |bytes| bytes[HEADER_SIZE + RECORD_SIZE] ^= 1);
        change(&dir, 1, |bytes| bytes[HEADER_SIZE + 3 * RECORD_SIZE] ^= 1);
        assert_eq!(read(&dir).as_ref(), Some(&lineage));
        repair(&dir);
        // Both in one place: what follows it leads nowhere.
        (0..2).for_each(|copy| change(&dir, copy, |bytes| bytes[HEADER_SIZE + RECORD_SIZE] ^= 1));
        assert_eq!(read(&dir).unwrap().newest(), lineage.boot(1).unwrap());
    }

    #[test]
    fn an_older_copy_is_brought_up_and_another_life_is_refused() {
        let (_temp, dir, lineage) = written(2);
        let old = dir.read_file(LINEAGE_FILES[1]).unwrap().unwrap();
        let mut file = FoundLineage::read(&dir, root()).unwrap().open(&dir, root()).unwrap();
        file.push(Draw([9; 16])).unwrap();
        std::fs::write(dir.path().join(LINEAGE_FILES[1]), old).unwrap();
        assert_eq!(read(&dir).as_ref(), Some(file.lineage()));
        repair(&dir);
        let mut other = lineage;
        other.push(Draw([8; 16]));
        std::fs::write(dir.path().join(LINEAGE_FILES[1]), encode(&other)).unwrap();
        let error = FoundLineage::read(&dir, root()).unwrap_err();
        assert!(matches!(error, OpenError::TwoLineages { boot: 3, .. }), "{error}");
        assert!(error.to_string().contains("hint: "), "{error}");
    }

    #[test]
    fn the_lineage_of_another_node_says_nothing() {
        let (_temp, dir, _) = written(2);
        let other = Boot::root(&[1; 16], 3, &[3; 32]);
        assert!(FoundLineage::read(&dir, other).unwrap().lineage.is_none());
    }
}
