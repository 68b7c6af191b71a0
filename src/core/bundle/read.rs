//! Reading a bundle: the header at once, the records block by block.

use std::io::{ErrorKind, Read};

use super::{
    BUNDLE_END, BUNDLE_MAGIC, BUNDLE_VERSION, BundleError, BundleHeader, HEADER_SIZE, KeyRecord,
    Older, RecordFault,
};
use crate::leaf::LEAF_SIZE;
use crate::limits::{
    BUNDLE_BLOCK_BYTES_MAX, BUNDLE_KEYS_BYTES_MAX, BUNDLE_KEYS_MAX, BUNDLE_OLDER_MAX,
    EVENT_BYTES_MAX, NOTE_BYTES_MAX, POLICY_BYTES_MAX,
};
use crate::merkle::{consistency_proof_length, inclusion_proof_length};
use crate::range::cover;
use crate::{Checkpoint, Hash, Leaf, Note, RangeProof, Salt};

/// A bundle whose header was read and not yet verified. Memory is bounded by the limits, whatever
/// the bytes say.
pub struct BundleReader<R: Read> {
    pub(super) input: Input<R>,
    pub(super) header: BundleHeader,
    pub(super) checkpoint: Checkpoint,
}

impl<R: Read> BundleReader<R> {
    /// Reads the header and checks its form.
    pub fn open(input: R) -> Result<BundleReader<R>, BundleError> {
        let mut input = Input { input };
        let fixed: [u8; HEADER_SIZE] = input.array("its header")?;
        if fixed[..8] != BUNDLE_MAGIC {
            return Err(BundleError::Magic);
        }
        let version = u32_at(&fixed, 8);
        if version != BUNDLE_VERSION {
            return Err(BundleError::Version { actual: version });
        }
        if u32_at(&fixed, 28) != 0 {
            return Err(BundleError::Form { what: "reserved bytes are set" });
        }
        let policy_size = limited("policy", u32_at(&fixed, 12), POLICY_BYTES_MAX)?;
        let note_size = limited("note", u32_at(&fixed, 16), NOTE_BYTES_MAX)?;
        let older_count = limited("older checkpoints", u32_at(&fixed, 20), BUNDLE_OLDER_MAX)?;
        let keys_count = limited("key history records", u32_at(&fixed, 24), BUNDLE_KEYS_MAX)?;
        let (from, to) = (u64_at(&fixed, 32), u64_at(&fixed, 40));
        let policy = match policy_size {
            0 => None,
            _ => Some(input.text(policy_size, "its policy")?.parse()?),
        };
        let note = Note::parse(&input.text(note_size, "its checkpoint")?)?;
        let checkpoint = Checkpoint::parse(&note.text)?;
        let size = checkpoint.size;
        let mut proof = RangeProof { from, to, size, left: Vec::new(), right: Vec::new() };
        // Before the numbers fix how many hashes there are, they have to make sense.
        proof.check_numbers().map_err(BundleError::Range)?;
        proof.left = input.hashes(cover(0, from).count(), "its range proof")?;
        proof.right = input.hashes(cover(to, size).count(), "its range proof")?;
        let older = read_older(&mut input, older_count, size)?;
        let keys = read_keys(&mut input, keys_count, size)?;
        let header = BundleHeader { policy, note, proof, older, keys };
        Ok(BundleReader { input, header, checkpoint })
    }

    /// All but the records; as the bundle says it, nothing of it verified.
    pub fn header(&self) -> &BundleHeader {
        &self.header
    }

    /// The checkpoint, unverified.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }
}

fn read_older<R: Read>(
    input: &mut Input<R>,
    count: usize,
    tree_size: u64,
) -> Result<Vec<Older>, BundleError> {
    let place = "its older checkpoints";
    let mut older: Vec<Older> = Vec::new();
    for _ in 0..count {
        let size = u64::from_le_bytes(input.array(place)?);
        let previous = older.last().map_or(0, |older| older.size);
        if size <= previous || size > tree_size {
            return Err(BundleError::Form { what: "older sizes do not ascend to the tree size" });
        }
        let note_size = u32::from_le_bytes(input.array(place)?);
        let note = match limited("older note", note_size, NOTE_BYTES_MAX)? {
            0 => None,
            note_size => Some(Note::parse(&input.text(note_size, place)?)?),
        };
        let proof = input.hashes(consistency_proof_length(size, tree_size), place)?;
        older.push(Older { size, note, proof });
    }
    Ok(older)
}

fn read_keys<R: Read>(
    input: &mut Input<R>,
    count: usize,
    tree_size: u64,
) -> Result<Vec<KeyRecord>, BundleError> {
    let place = "its key history";
    let (mut keys, mut next, mut bytes) = (Vec::new(), 0, 0u64);
    for _ in 0..count {
        let index = u64::from_le_bytes(input.array(place)?);
        if index < next || index >= tree_size {
            return Err(BundleError::Form { what: "the key history does not ascend" });
        }
        next = index + 1;
        let leaf: [u8; LEAF_SIZE] = input.array(place)?;
        let leaf = Leaf::decode(&leaf)
            .map_err(|fault| BundleError::KeyRecord { index, fault: RecordFault::Leaf(fault) })?;
        let salt = Salt(input.array(place)?);
        let size = limited("event", leaf.event_size, EVENT_BYTES_MAX)?;
        bytes += size as u64;
        if bytes > BUNDLE_KEYS_BYTES_MAX as u64 {
            let (what, limit) = ("bytes of the key history", BUNDLE_KEYS_BYTES_MAX as u64);
            return Err(BundleError::Limit { what, limit, actual: bytes });
        }
        let mut event = Vec::new();
        input.fill(&mut event, size, place)?;
        let proof = input.hashes(inclusion_proof_length(index, tree_size), place)?;
        keys.push(KeyRecord { index, leaf, salt, event, proof });
    }
    Ok(keys)
}

/// What is read from, with errors that say where it ended.
pub(super) struct Input<R> {
    input: R,
}

impl<R: Read> Input<R> {
    /// Reads the next block into `block`, whatever was there before.
    pub(super) fn block(&mut self, block: &mut Vec<u8>, next: u64) -> Result<(), BundleError> {
        let place = || format!("record {next}");
        let mut size = [0; 4];
        self.exactly(&mut size, place)?;
        let size = limited("block", u32::from_le_bytes(size), BUNDLE_BLOCK_BYTES_MAX)?;
        if size == 0 {
            return Err(BundleError::Form { what: "a block is empty" });
        }
        block.resize(size, 0);
        self.exactly(block, place)
    }

    /// The end of the bundle, after which nothing follows.
    pub(super) fn end(&mut self) -> Result<(), BundleError> {
        let end: [u8; 8] = self.array("its last bytes")?;
        if end != BUNDLE_END {
            return Err(BundleError::Form { what: "the end mark is not where it belongs" });
        }
        match self.exactly(&mut [0], || "") {
            Err(BundleError::Cut { .. }) => Ok(()),
            Err(error) => Err(error),
            Ok(()) => Err(BundleError::Trailing),
        }
    }

    pub(super) fn array<const N: usize>(
        &mut self,
        place: &'static str,
    ) -> Result<[u8; N], BundleError> {
        let mut bytes = [0; N];
        self.exactly(&mut bytes, || place)?;
        Ok(bytes)
    }

    fn hashes(&mut self, count: usize, place: &'static str) -> Result<Vec<Hash>, BundleError> {
        (0..count).map(|_| self.array(place).map(Hash)).collect()
    }

    fn text(&mut self, size: usize, place: &'static str) -> Result<String, BundleError> {
        let mut bytes = Vec::new();
        self.fill(&mut bytes, size, place)?;
        String::from_utf8(bytes).map_err(|_| BundleError::Form { what: "text is not UTF-8" })
    }

    /// `size` is within a limit.
    fn fill(
        &mut self,
        bytes: &mut Vec<u8>,
        size: usize,
        place: &'static str,
    ) -> Result<(), BundleError> {
        bytes.resize(size, 0);
        self.exactly(bytes, || place)
    }

    fn exactly<T: Into<String>>(
        &mut self,
        bytes: &mut [u8],
        place: impl FnOnce() -> T,
    ) -> Result<(), BundleError> {
        self.input.read_exact(bytes).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => BundleError::Cut { place: place().into() },
            _ => BundleError::Io(error),
        })
    }
}

fn limited(what: &'static str, actual: u32, limit: usize) -> Result<usize, BundleError> {
    let size = actual as usize;
    if size <= limit {
        return Ok(size);
    }
    Err(BundleError::Limit { what, limit: limit as u64, actual: actual.into() })
}

fn u32_at(bytes: &[u8; HEADER_SIZE], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8; HEADER_SIZE], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().expect("eight bytes"))
}
