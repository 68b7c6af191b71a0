//! Why a text is no policy, why a policy does not believe a note, and why it cannot be one for
//! other nodes.

use crate::checkpoint::CheckpointError;
use crate::key::{KeyError, SignatureError};
use crate::limits::{NOTE_SIGNATURES_MAX, POLICY_BYTES_MAX, POLICY_NAMES_MAX};

/// Why a policy does not believe a note.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The note's text is no checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// It is a checkpoint of another trail.
    #[error("the checkpoint is one of {actual}, the policy is for {expected}")]
    Origin {
        /// The policy's origin.
        expected: String,
        /// The checkpoint's.
        actual: String,
    },
    /// A key that the policy names has not made the signature that bears its name.
    #[error("signature of {name}: {source}")]
    Signature {
        /// The key's name.
        name: String,
        /// What is wrong with the signature.
        source: SignatureError,
    },
    /// None of the log's keys has signed.
    #[error("the checkpoint is not signed by the log {origin}")]
    NoLogSignature {
        /// The log's name.
        origin: String,
    },
    /// Too few cosigners have signed.
    #[error("quorum {quorum} is not reached: signed by {}, not by {}", list(signed), list(missing))]
    Quorum {
        /// Name of the quorum.
        quorum: String,
        /// Cosigners of the policy whose signatures are there.
        signed: Vec<String>,
        /// Those whose signatures are not.
        missing: Vec<String>,
    },
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "nobody".to_owned() } else { names.join(", ") }
}

/// Why a text is no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{fault}", place(*line))]
pub struct PolicySyntaxError {
    /// In which line, from 1; 0 if the policy is wrong as a whole.
    pub line: usize,
    /// What is wrong.
    pub fault: PolicyFault,
}

fn place(line: usize) -> String {
    if line == 0 { "policy: ".to_owned() } else { format!("policy, line {line}: ") }
}

/// What is wrong with a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyFault {
    /// Larger than any policy that this program reads.
    #[error("{actual} bytes, the limit is {POLICY_BYTES_MAX}")]
    TooLarge {
        /// Its size in bytes.
        actual: usize,
    },
    /// The last line has no line feed: lines may be missing.
    #[error("the last line does not end with a line feed; hint: the file may have been cut off")]
    Cut,
    /// A control character other than tab and line feed.
    #[error("control character U+{:04X}; hint: lines end with LF alone", u32::from(*character))]
    Control {
        /// Which.
        character: char,
    },
    /// Not a line that a policy has.
    #[error("{word:?} is none of log, witness, group and quorum")]
    Keyword {
        /// Its first word.
        word: String,
    },
    /// A name or an address that a line cannot hold.
    #[error("{word:?} is empty or has spaces or control characters")]
    Word {
        /// Which.
        word: String,
    },
    /// Too few or too many words.
    #[error("write: {form}")]
    Form {
        /// How the line is written.
        form: &'static str,
    },
    /// Not a key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A log with the key of a cosigner, or the other way round.
    #[error("{name} is not the key of a {expected}")]
    KeyType {
        /// The key's name.
        name: String,
        /// "log" or "cosigner".
        expected: &'static str,
    },
    /// The same key twice, under whichever names.
    #[error("{second} has the same key as {first}; each key may stand here once")]
    KeyTwice {
        /// Name of the key that was there.
        first: String,
        /// Name of the key that came.
        second: String,
    },
    /// Logs of several trails.
    #[error("{second} is another trail than {first}; hint: a policy is for one trail")]
    TwoOrigins {
        /// Name of the first log.
        first: String,
        /// Name of the log that came.
        second: String,
    },
    /// A name that is taken, or reserved.
    #[error("the name {name:?} is taken")]
    NameTaken {
        /// Which.
        name: String,
    },
    /// A name that no line before defines.
    #[error("{name:?} is not defined above this line")]
    UnknownName {
        /// Which.
        name: String,
    },
    /// A member of two groups, or twice in one.
    #[error("{name:?} is already a member of a group; its signature may count once")]
    MemberTwice {
        /// Which.
        name: String,
    },
    /// More members asked for than there are, or none.
    #[error("group {name} asks for {threshold} of {count} members")]
    Threshold {
        /// Name of the group.
        name: String,
        /// Members asked for.
        threshold: usize,
        /// Members there are.
        count: usize,
    },
    /// Two quorum lines.
    #[error("there is a quorum line already")]
    TwoQuorums,
    /// No quorum line.
    #[error("there is no quorum line; hint: the file may have been cut off")]
    NoQuorum,
    /// No log line.
    #[error("there is no log line")]
    NoLog,
    /// More names than this program takes.
    #[error("more than {POLICY_NAMES_MAX} logs, witnesses and groups")]
    TooManyNames,
    /// A quorum that no note can satisfy.
    #[error("it takes {needed} signatures, a note has at most {NOTE_SIGNATURES_MAX}")]
    TooManySignatures {
        /// Signatures of the smallest note that would satisfy it.
        needed: usize,
    },
}

/// Why a policy cannot follow the group to other nodes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodesError {
    /// Nodes stand in several groups, in none, or beside others.
    #[error(
        "the nodes of the group do not stand in one group of their own, so only its author can tell what the policy \
         asks of other nodes"
    )]
    NoGroup,
    /// Neither a majority nor all.
    #[error(
        "group {group} asks for {threshold} of {count} nodes, which is neither a majority nor all, so only its author \
         can tell what the policy asks of other nodes"
    )]
    Threshold {
        /// Name of the group.
        group: String,
        /// Members asked for.
        threshold: usize,
        /// Members there are.
        count: usize,
    },
    /// The nodes make no policy.
    #[error(transparent)]
    Policy(#[from] PolicyFault),
}
