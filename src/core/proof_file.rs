//! A proof that stands alone: one record, its place in the tree, and the checkpoint
//! ([c2sp.org/tlog-proof](https://c2sp.org/tlog-proof); the `extra` line: docs/FORMAT.md, "Proof
//! file").

use std::fmt;

use crate::checkpoint::CheckpointError;
use crate::leaf::{LEAF_SIZE, commit, leaf_hash};
use crate::limits::{EVENT_BYTES_MAX, PROOF_FILE_BYTES_MAX};
use crate::merkle::{ProofError, verify_inclusion};
use crate::note::NoteError;
use crate::policy::PolicyError;
use crate::text::{decode_base64, decode_decimal, decode_hash, encode_base64};
use crate::{
    Checkpoint, Commitment, FormatError, Hash, Leaf, LeafIndex, Note, Policy, Salt, Trusted,
};

/// The first line.
pub const PROOF_FILE_HEADER: &str = "c2sp.org/tlog-proof@v1\n";
/// Hashes of the longest inclusion proof: a tree of 2^64 - 1 leaves is 64 high.
const PROOF_HASHES_MAX: usize = 64;

/// A `.tlog-proof` file, of which nothing has been verified. Parsing and writing are inverse to
/// each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProofFile {
    /// The `extra` line, decoded: in files of ours, what [`Extra::decode`] reads.
    pub extra: Option<Vec<u8>>,
    /// Position of the leaf.
    pub index: LeafIndex,
    /// RFC 6962 inclusion proof in the checkpoint's tree.
    pub proof: Vec<Hash>,
    /// The signed checkpoint.
    pub checkpoint: Note,
}

/// What the `extra` line of our files holds: the leaf, and what it commits to unless that is
/// withheld.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extra {
    /// The leaf, encoded.
    pub leaf: [u8; LEAF_SIZE],
    /// Salt and event.
    pub content: Option<(Salt, Vec<u8>)>,
}

/// A record whose place in the tree of a checkpoint is proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Included {
    /// Position of the record.
    pub index: LeafIndex,
    /// Its leaf.
    pub leaf: Leaf,
    /// Salt and event, which are those that the leaf commits to; `None` if they are withheld.
    pub content: Option<(Salt, Vec<u8>)>,
    /// The tree. Whether it is the trail's is for a policy to tell.
    pub checkpoint: Checkpoint,
}

/// A record that is in the trail, by the word of those whom a policy names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenRecord {
    /// Position of the record.
    pub index: LeafIndex,
    /// Its leaf.
    pub leaf: Leaf,
    /// Salt and event, which are those that the leaf commits to; `None` if they are withheld.
    pub content: Option<(Salt, Vec<u8>)>,
    /// The checkpoint that covers it, when it was signed, and by whom.
    pub trusted: Trusted,
}

/// Why a proof file proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofFileError {
    /// Larger than any proof file that this program reads.
    #[error("proof file of {actual} bytes, the limit is {PROOF_FILE_BYTES_MAX}")]
    TooLarge {
        /// Its size in bytes.
        actual: usize,
    },
    /// The first line is another.
    #[error("not a proof file: its first line is not c2sp.org/tlog-proof@v1")]
    Header,
    /// A line that does not belong where it is.
    #[error("line {line} of the proof file is not {expected}")]
    Line {
        /// Which, from 1.
        line: usize,
        /// What belongs there.
        expected: &'static str,
    },
    /// The checkpoint is no note.
    #[error("checkpoint of the proof file: {0}")]
    Note(#[from] NoteError),
    /// The file is sound, yet has no leaf: another log's, or one whose leaf travels apart.
    #[error("the proof file has no extra line, so it does not say what it proves")]
    NoLeaf,
    /// The extra line is neither a leaf nor a leaf with salt and event.
    #[error("the extra line has {actual} bytes: a leaf has 64, with salt and event at least 80")]
    ExtraLength {
        /// Bytes that it has.
        actual: usize,
    },
    /// The leaf is of a version or kind that this program does not know.
    #[error(transparent)]
    Leaf(#[from] FormatError),
    /// The event has another size than the leaf says.
    #[error("leaf {index}: the event has {actual} bytes, the leaf says {expected}")]
    Size {
        /// Position of the leaf.
        index: LeafIndex,
        /// Bytes that the leaf says.
        expected: usize,
        /// Bytes that are there.
        actual: usize,
    },
    /// Salt and event are not those that the leaf commits to.
    #[error("leaf {index}: commitment {expected}, salt and event give {actual}")]
    Commitment {
        /// Position of the leaf.
        index: LeafIndex,
        /// What the leaf says.
        expected: Commitment,
        /// What salt and event give.
        actual: Commitment,
    },
    /// The note's text is no checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The leaf is not in the checkpoint's tree, or the proof does not show it.
    #[error("leaf {index}: {source}")]
    Proof {
        /// Position of the leaf.
        index: LeafIndex,
        /// What is wrong with the proof.
        source: ProofError,
    },
    /// The policy does not believe the checkpoint.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

impl Extra {
    /// From the bytes of the line: 64, or 80 and the event.
    pub fn decode(bytes: &[u8]) -> Result<Extra, ProofFileError> {
        let length = || ProofFileError::ExtraLength { actual: bytes.len() };
        let (leaf, rest) = bytes.split_first_chunk::<LEAF_SIZE>().ok_or_else(length)?;
        if rest.is_empty() {
            return Ok(Extra { leaf: *leaf, content: None });
        }
        let (salt, event) = rest.split_first_chunk().ok_or_else(length)?;
        if event.len() > EVENT_BYTES_MAX {
            return Err(length());
        }
        Ok(Extra { leaf: *leaf, content: Some((Salt(*salt), event.to_vec())) })
    }

    /// The bytes of the line.
    pub fn encode(&self) -> Vec<u8> {
        match &self.content {
            None => self.leaf.to_vec(),
            Some((salt, event)) => [&self.leaf[..], &salt.0, event].concat(),
        }
    }
}

impl ProofFile {
    /// From the bytes of a file, which must be all there is.
    pub fn parse(text: &str) -> Result<ProofFile, ProofFileError> {
        if text.len() > PROOF_FILE_BYTES_MAX {
            return Err(ProofFileError::TooLarge { actual: text.len() });
        }
        let mut lines = Lines { rest: text, line: 0 };
        let mut line = lines.next(PROOF_FILE_HEADER.trim_end())?;
        if line != PROOF_FILE_HEADER.trim_end() {
            return Err(ProofFileError::Header);
        }
        line = lines.next("an index or extra line")?;
        let mut extra = None;
        if let Some(bytes) = line.strip_prefix("extra ") {
            let bytes = decode_base64(bytes).filter(|bytes| !bytes.is_empty());
            extra = Some(bytes.ok_or_else(|| lines.expected("\"extra\" and base64"))?);
            line = lines.next("\"index\" and a number")?;
        }
        let index = line.strip_prefix("index ").and_then(decode_decimal);
        let index = index.ok_or_else(|| lines.expected("\"index\" and a number"))?;
        let mut proof = Vec::new();
        loop {
            line = lines.next("a hash or empty")?;
            if line.is_empty() {
                break;
            }
            let hash = decode_hash(line).filter(|_| proof.len() < PROOF_HASHES_MAX);
            proof.push(hash.ok_or_else(|| lines.expected("a hash or empty"))?);
        }
        Ok(ProofFile { extra, index, proof, checkpoint: Note::parse(lines.rest)? })
    }

    /// Checks everything that needs no policy: the form of leaf and event, that the leaf commits to
    /// the event, and that it is in the tree which the checkpoint names.
    pub fn check_inclusion(&self) -> Result<Included, ProofFileError> {
        let Extra { leaf: bytes, content } =
            Extra::decode(self.extra.as_deref().ok_or(ProofFileError::NoLeaf)?)?;
        let (index, leaf) = (self.index, Leaf::decode(&bytes)?);
        if let Some((salt, event)) = &content {
            let (expected, actual) = (leaf.event_size as usize, event.len());
            if actual != expected {
                return Err(ProofFileError::Size { index, expected, actual });
            }
            let (expected, actual) = (leaf.commitment, commit(salt, event));
            if actual != expected {
                return Err(ProofFileError::Commitment { index, expected, actual });
            }
        }
        let hash = leaf_hash(&bytes);
        let checkpoint = Checkpoint::parse(&self.checkpoint.text)?;
        verify_inclusion(index, checkpoint.size, &hash, &self.proof, &checkpoint.root)
            .map_err(|source| ProofFileError::Proof { index, source })?;
        Ok(Included { index, leaf, content, checkpoint })
    }

    /// Checks all that there is to check: [`ProofFile::check_inclusion`], then that the checkpoint
    /// is one of this trail, and that those whom the policy names have signed it.
    pub fn verify(&self, policy: &Policy) -> Result<ProvenRecord, ProofFileError> {
        let Included { index, leaf, content, checkpoint } = self.check_inclusion()?;
        let trusted = policy.check(&self.checkpoint)?;
        assert_eq!(trusted.checkpoint, checkpoint, "both were read from the same text");
        Ok(ProvenRecord { index, leaf, content, trusted })
    }
}

impl fmt::Display for ProofFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PROOF_FILE_HEADER)?;
        if let Some(extra) = &self.extra {
            writeln!(f, "extra {}", encode_base64(extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        self.proof.iter().try_for_each(|hash| writeln!(f, "{}", encode_base64(&hash.0)))?;
        write!(f, "\n{}", self.checkpoint)
    }
}

/// The lines of a text, each of which ends with a line feed.
struct Lines<'a> {
    rest: &'a str,
    /// Lines that were taken.
    line: usize,
}

impl<'a> Lines<'a> {
    fn next(&mut self, expected: &'static str) -> Result<&'a str, ProofFileError> {
        self.line += 1;
        let (line, rest) = self.rest.split_once('\n').ok_or_else(|| self.expected(expected))?;
        self.rest = rest;
        Ok(line)
    }

    /// An error in the line that was taken last.
    fn expected(&self, expected: &'static str) -> ProofFileError {
        ProofFileError::Line { line: self.line, expected }
    }
}
