//! Checkpoints: which tree a log has ([c2sp.org/tlog-checkpoint](https://c2sp.org/tlog-checkpoint)).

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::Hash;
use crate::text::{control_character, decode_decimal, decode_hash, encode_base64};

/// The text of a checkpoint note: origin, tree size and root. Parsing and writing are inverse to
/// each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Name of the log; one line, not empty.
    pub origin: String,
    /// Leaves of its tree.
    pub size: u64,
    /// Root of its tree, RFC 6962.
    pub root: Hash,
    /// Further lines, none of them empty. Signed, but nobody audits them: a trail has none.
    pub extensions: Vec<String>,
}

/// Why a text is no checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Fewer lines than origin, size and root, or no line feed at the end.
    #[error("a checkpoint has three lines that end with a line feed: origin, tree size and root")]
    Lines,
    /// Holds a control character that is no line feed.
    #[error("the checkpoint holds a control character")]
    Control,
    /// Some line is empty.
    #[error("line {line} of the checkpoint is empty")]
    Empty {
        /// Which, from 1.
        line: usize,
    },
    /// The second line is no tree size.
    #[error("the checkpoint's second line is no tree size: decimal, no zeros in front, below 2^64")]
    Size,
    /// The third line is no root hash.
    #[error("the checkpoint's third line is no root hash: 32 bytes in base64")]
    Root,
}

impl Checkpoint {
    /// A checkpoint without extensions.
    pub fn new(origin: impl Into<String>, size: u64, root: Hash) -> Checkpoint {
        Checkpoint { origin: origin.into(), size, root, extensions: Vec::new() }
    }

    /// From the text of a note, which must be all there is.
    pub fn parse(text: &str) -> Result<Checkpoint, CheckpointError> {
        if control_character(text).is_some() {
            return Err(CheckpointError::Control);
        }
        let lines: Vec<&str> =
            text.strip_suffix('\n').ok_or(CheckpointError::Lines)?.split('\n').collect();
        if let Some(position) = lines.iter().position(|line| line.is_empty()) {
            return Err(CheckpointError::Empty { line: position + 1 });
        }
        let [origin, size, root, extensions @ ..] = &lines[..] else {
            return Err(CheckpointError::Lines);
        };
        Ok(Checkpoint {
            origin: (*origin).to_owned(),
            size: decode_decimal(size).ok_or(CheckpointError::Size)?,
            root: decode_hash(root).ok_or(CheckpointError::Root)?,
            extensions: extensions.iter().map(|line| (*line).to_owned()).collect(),
        })
    }
}

/// What names a log in the paths of witnesses' monitors (tlog-witness): SHA-256 of its origin.
pub fn origin_hash(origin: &str) -> Hash {
    Hash(Sha256::digest(origin).into())
}

impl FromStr for Checkpoint {
    type Err = CheckpointError;

    fn from_str(text: &str) -> Result<Checkpoint, CheckpointError> {
        Checkpoint::parse(text)
    }
}

/// The text that is signed, with its final line feed.
impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}\n{}", self.origin, self.size, encode_base64(&self.root.0))?;
        self.extensions.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}
