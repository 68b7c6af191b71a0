//! The payload of a batch entry (docs/FORMAT.md, "Batch"): leaves in the head, salts and events in
//! the body.

use std::ops::Range;

use bytes::Bytes;

use crate::leaf::{LEAF_SIZE, commit};
use crate::{FormatError, Leaf, Salt};

/// Bytes of a batch header, before the leaves.
pub const BATCH_HEADER_SIZE: usize = 16;
/// The only batch version so far.
pub const BATCH_VERSION: u8 = 1;
/// The apply rules that this build writes. Every rule set ever shipped stays readable.
pub const RULES: u8 = 1;

/// A batch under construction. Encoded once, by the leader; the same bytes on every node and on the
/// wire.
#[derive(Debug)]
pub struct BatchBuilder {
    /// Header (count still 0) and leaves.
    head: Vec<u8>,
    salts: Vec<u8>,
    events: Vec<u8>,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        let mut head = vec![0; BATCH_HEADER_SIZE];
        head[0] = BATCH_VERSION;
        head[1] = RULES;
        BatchBuilder { head, salts: Vec::new(), events: Vec::new() }
    }
}

impl BatchBuilder {
    /// Adds a record. The caller has computed the leaf's commitment from this salt and event.
    pub fn push(&mut self, leaf: &Leaf, salt: &Salt, event: &[u8]) {
        assert_eq!(leaf.event_size as usize, event.len(), "leaf and event disagree");
        self.head.extend_from_slice(&leaf.encode());
        self.salts.extend_from_slice(&salt.0);
        self.events.extend_from_slice(event);
    }

    /// Records so far.
    pub fn count(&self) -> usize {
        (self.head.len() - BATCH_HEADER_SIZE) / LEAF_SIZE
    }

    /// Bytes of head and body so far.
    pub fn payload_bytes(&self) -> usize {
        self.head.len() + self.salts.len() + self.events.len()
    }

    /// Head and body.
    pub fn finish(mut self) -> (Bytes, Bytes) {
        let count = u32::try_from(self.count()).expect("a batch is far smaller than 2^32");
        self.head[8..12].copy_from_slice(&count.to_le_bytes());
        self.salts.append(&mut self.events);
        (self.head.into(), self.salts.into())
    }
}

/// A decoded batch: lengths, version and reserved fields are checked, commitments are not (see
/// [`Batch::verify`]).
#[derive(Debug, Clone)]
pub struct Batch {
    /// The apply rules it was written under.
    pub rules: u8,
    /// The leaves, in order.
    pub leaves: Vec<Leaf>,
    head: Bytes,
    body: Bytes,
    /// Offset of each event in `body`, and the end of the last.
    offsets: Vec<usize>,
}

impl Batch {
    /// From head and body. Refuses versions, rules, kinds and flags that this build does not know.
    pub fn decode(head: &Bytes, body: &Bytes) -> Result<Batch, FormatError> {
        let (rules, count) = decode_header(head, head.len())?;
        let leaves = head[BATCH_HEADER_SIZE..]
            .chunks_exact(LEAF_SIZE)
            .map(Leaf::decode)
            .collect::<Result<Vec<_>, _>>()?;
        assert_eq!(leaves.len(), count, "the header's count fixes the head's length");
        let mut offsets = Vec::with_capacity(count + 1);
        let mut offset = count * Salt::SIZE;
        for leaf in &leaves {
            offsets.push(offset);
            offset += leaf.event_size as usize;
        }
        offsets.push(offset);
        if offset != body.len() {
            return Err(FormatError::Length {
                what: "batch body",
                expected: offset,
                actual: body.len(),
            });
        }
        Ok(Batch { rules, leaves, head: head.clone(), body: body.clone(), offsets })
    }

    /// Records in the batch.
    pub fn count(&self) -> usize {
        self.leaves.len()
    }

    /// The 64 bytes of a leaf.
    pub fn leaf_bytes(&self, position: usize) -> &[u8; LEAF_SIZE] {
        let start = BATCH_HEADER_SIZE + position * LEAF_SIZE;
        self.head[start..start + LEAF_SIZE].try_into().expect("the length is LEAF_SIZE")
    }

    /// The salt of a record.
    pub fn salt(&self, position: usize) -> Salt {
        let start = position * Salt::SIZE;
        Salt::from_slice(&self.body[start..start + Salt::SIZE])
            .expect("the length is that of a salt")
    }

    /// The event of a record; shares the batch's buffer.
    pub fn event(&self, position: usize) -> Bytes {
        self.body.slice(self.offsets[position]..self.offsets[position + 1])
    }

    /// Recomputes every commitment.
    pub fn verify(&self) -> Result<(), FormatError> {
        for (position, leaf) in self.leaves.iter().enumerate() {
            let event = &self.body[self.offsets[position]..self.offsets[position + 1]];
            if commit(&self.salt(position), event) != leaf.commitment {
                return Err(FormatError::Commitment { what: "batch record", position });
            }
        }
        Ok(())
    }
}

/// Where one record of a batch is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordPlace {
    /// The 64 bytes of its leaf.
    pub leaf: [u8; LEAF_SIZE],
    /// Its salt in the body.
    pub salt: Range<usize>,
    /// Its event in the body.
    pub event: Range<usize>,
}

impl RecordPlace {
    /// Bytes that [`RecordPlace::find`] needs of a head.
    pub fn head_bytes(position: usize) -> usize {
        BATCH_HEADER_SIZE + (position + 1) * LEAF_SIZE
    }

    /// Finds a record from the first bytes of a head of `head_size` bytes, up to its leaf: where an
    /// event is follows from the sizes of those before it. Nothing is checked but the header and
    /// lengths; the caller compares leaf and event with what it trusts.
    pub fn find(
        head: &[u8],
        head_size: usize,
        position: usize,
    ) -> Result<RecordPlace, FormatError> {
        let (_, count) = decode_header(head, head_size)?;
        let (what, actual) = ("batch head", head.len());
        let wanted = RecordPlace::head_bytes(position);
        if position >= count || actual < wanted {
            return Err(FormatError::Length { what, expected: wanted, actual });
        }
        let (leaves, rest) = head[BATCH_HEADER_SIZE..wanted].as_chunks::<LEAF_SIZE>();
        assert!(rest.is_empty(), "a whole number of leaves");
        let (leaf, before) = leaves.split_last().expect("the leaf is one of them");
        let size = |leaf: &[u8; LEAF_SIZE]| {
            u32::from_le_bytes(leaf[4..8].try_into().expect("four bytes")) as usize
        };
        // No overflow: a count is below 2^26, as a head is shorter than 2^32 bytes.
        let start = count * Salt::SIZE + before.iter().map(size).sum::<usize>();
        Ok(RecordPlace {
            leaf: *leaf,
            salt: position * Salt::SIZE..(position + 1) * Salt::SIZE,
            event: start..start + size(leaf),
        })
    }
}

/// Rules and count of a head that has `size` bytes and whose first ones are these.
fn decode_header(head: &[u8], size: usize) -> Result<(u8, usize), FormatError> {
    let length = |expected| FormatError::Length { what: "batch head", expected, actual: size };
    let header: &[u8; BATCH_HEADER_SIZE] =
        head.first_chunk().ok_or_else(|| length(BATCH_HEADER_SIZE))?;
    if header[0] != BATCH_VERSION {
        return Err(FormatError::Unknown { what: "batch version", value: header[0].into() });
    }
    if header[1] != RULES {
        return Err(FormatError::Unknown { what: "batch rules", value: header[1].into() });
    }
    if header[2..8] != [0; 6] || header[12..16] != [0; 4] {
        return Err(FormatError::Reserved { what: "batch header" });
    }
    let count = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
    let expected = BATCH_HEADER_SIZE + count * LEAF_SIZE;
    if size != expected {
        return Err(length(expected));
    }
    Ok((header[1], count))
}
