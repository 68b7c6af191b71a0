//! Writing a bundle, block by block.

use std::io::Write;

use super::{
    BUNDLE_END, BUNDLE_MAGIC, BUNDLE_VERSION, BundleError, BundleHeader, PRESENT, RECORD_HEAD_SIZE,
    SUBTREE_LEVEL, WITHHELD, check_of,
};
use crate::leaf::{LEAF_SIZE, leaf_hash};
use crate::limits::{
    BUNDLE_BLOCK_BYTES_MAX, BUNDLE_KEYS_BYTES_MAX, BUNDLE_KEYS_MAX, BUNDLE_OLDER_MAX,
};
use crate::merkle::{Frontier, consistency_proof_length, inclusion_proof_length};
use crate::{Checkpoint, Hash, Leaf, Salt};

/// Writes a bundle. Nothing is a bundle before [`BundleWriter::finish`] has said so.
pub struct BundleWriter<W: Write> {
    out: W,
    header: BundleHeader,
    checkpoint: Checkpoint,
    /// The tree up to the record written last.
    frontier: Frontier,
    /// Roots of the subtrees that the records completed.
    subtrees: Vec<Hash>,
    /// Records that wait to be written.
    block: Vec<u8>,
}

impl<W: Write> BundleWriter<W> {
    /// Writes the header. Refuses one that no reader would take; whether its proofs prove anything
    /// is not checked here.
    pub fn new(mut out: W, header: BundleHeader) -> Result<BundleWriter<W>, BundleError> {
        let checkpoint = check_header(&header)?;
        let frontier = header.proof.start().map_err(BundleError::Range)?;
        out.write_all(&encode_header(&header))?;
        let (subtrees, block) = (Vec::new(), Vec::with_capacity(BUNDLE_BLOCK_BYTES_MAX));
        Ok(BundleWriter { out, header, checkpoint, frontier, subtrees, block })
    }

    /// Adds the next record, with salt and event unless they are withheld.
    ///
    /// Panics if the event has another size than the leaf says, or past the end of the range.
    pub fn push(
        &mut self,
        leaf: &Leaf,
        content: Option<(&Salt, &[u8])>,
    ) -> Result<(), BundleError> {
        assert!(self.frontier.size() < self.header.proof.to, "a record past the end of the range");
        let content_size = content.map_or(0, |(_, event)| Salt::SIZE + event.len());
        if self.block.len() + RECORD_HEAD_SIZE + content_size > BUNDLE_BLOCK_BYTES_MAX {
            self.flush_block()?;
        }
        let bytes = leaf.encode();
        let hash = leaf_hash(&bytes);
        let presence = if content.is_some() { PRESENT } else { WITHHELD };
        self.block.extend_from_slice(&bytes);
        self.block.extend_from_slice(&check_of(&hash, presence));
        self.block.push(presence);
        if let Some((salt, event)) = content {
            assert_eq!(leaf.event_size as usize, event.len(), "leaf and event disagree");
            self.block.extend_from_slice(&salt.0);
            self.block.extend_from_slice(event);
        }
        assert!(self.block.len() <= BUNDLE_BLOCK_BYTES_MAX, "a record is smaller than a block");
        self.frontier.append_with(hash, |level, _, root| {
            if level == SUBTREE_LEVEL {
                self.subtrees.push(*root);
            }
        });
        Ok(())
    }

    /// Writes the end, and gives back what was written to. An error if the records are not those
    /// of the checkpoint: then what was written is worth nothing.
    pub fn finish(mut self) -> Result<W, BundleError> {
        let proof = &self.header.proof;
        if self.frontier.size() != proof.to {
            return Err(BundleError::Cut { place: format!("record {}", self.frontier.size()) });
        }
        let records = proof.from..proof.to;
        let computed = proof.finish(self.frontier.clone()).map_err(BundleError::Range)?;
        let Checkpoint { size: tree_size, root: expected, .. } = self.checkpoint;
        if computed != expected {
            return Err(BundleError::Root { tree_size, expected, computed, records, wrong: None });
        }
        self.flush_block()?;
        for root in &self.subtrees {
            self.out.write_all(&root.0)?;
        }
        self.out.write_all(&BUNDLE_END)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn flush_block(&mut self) -> Result<(), BundleError> {
        if !self.block.is_empty() {
            self.out.write_all(&(self.block.len() as u32).to_le_bytes())?;
            self.out.write_all(&self.block)?;
            self.block.clear();
        }
        Ok(())
    }
}

/// Everything that a reader refuses in a header.
fn check_header(header: &BundleHeader) -> Result<Checkpoint, BundleError> {
    let checkpoint = Checkpoint::parse(&header.note.text)?;
    let size = checkpoint.size;
    if header.proof.size != size {
        return Err(BundleError::Form { what: "the range proof is for another size" });
    }
    header.proof.check_form().map_err(BundleError::Range)?;
    limit("older checkpoints", BUNDLE_OLDER_MAX, header.older.len())?;
    let mut previous = 0;
    for older in &header.older {
        if older.size <= previous || older.size > size {
            return Err(BundleError::Form { what: "older sizes do not ascend to the tree size" });
        }
        if older.proof.len() != consistency_proof_length(older.size, size) {
            return Err(BundleError::Form { what: "a consistency proof has another length" });
        }
        previous = older.size;
    }
    limit("key history records", BUNDLE_KEYS_MAX, header.keys.len())?;
    let bytes = header.keys.iter().map(|record| record.event.len()).sum();
    limit("bytes of the key history", BUNDLE_KEYS_BYTES_MAX, bytes)?;
    let mut next = 0;
    for record in &header.keys {
        if record.index < next || record.index >= size {
            return Err(BundleError::Form { what: "the key history does not ascend" });
        }
        if record.proof.len() != inclusion_proof_length(record.index, size)
            || record.event.len() != record.leaf.event_size as usize
        {
            return Err(BundleError::Form { what: "a record of the key history is malformed" });
        }
        next = record.index + 1;
    }
    Ok(checkpoint)
}

fn limit(what: &'static str, limit: usize, actual: usize) -> Result<(), BundleError> {
    if actual <= limit {
        return Ok(());
    }
    Err(BundleError::Limit { what, limit: limit as u64, actual: actual as u64 })
}

/// The header's bytes (docs/FORMAT.md, "Bundle").
fn encode_header(header: &BundleHeader) -> Vec<u8> {
    let mut out = Vec::new();
    let policy = header.policy.as_ref().map(ToString::to_string).unwrap_or_default();
    let note = header.note.to_string();
    out.extend_from_slice(&BUNDLE_MAGIC);
    out.extend_from_slice(&BUNDLE_VERSION.to_le_bytes());
    let counts = [policy.len(), note.len(), header.older.len(), header.keys.len()];
    for count in counts {
        out.extend_from_slice(&(count as u32).to_le_bytes());
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&header.proof.from.to_le_bytes());
    out.extend_from_slice(&header.proof.to.to_le_bytes());
    out.extend_from_slice(policy.as_bytes());
    out.extend_from_slice(note.as_bytes());
    extend_hashes(&mut out, &header.proof.left);
    extend_hashes(&mut out, &header.proof.right);
    for older in &header.older {
        let note = older.note.as_ref().map(ToString::to_string).unwrap_or_default();
        out.extend_from_slice(&older.size.to_le_bytes());
        out.extend_from_slice(&(note.len() as u32).to_le_bytes());
        out.extend_from_slice(note.as_bytes());
        extend_hashes(&mut out, &older.proof);
    }
    for record in &header.keys {
        let leaf: [u8; LEAF_SIZE] = record.leaf.encode();
        out.extend_from_slice(&record.index.to_le_bytes());
        out.extend_from_slice(&leaf);
        out.extend_from_slice(&record.salt.0);
        out.extend_from_slice(&record.event);
        extend_hashes(&mut out, &record.proof);
    }
    out
}

fn extend_hashes(out: &mut Vec<u8>, hashes: &[Hash]) {
    hashes.iter().for_each(|hash| out.extend_from_slice(&hash.0));
}
