//! Errors, named by what the caller can do about them.

use std::sync::Arc;
use std::time::Duration;

use indelible_proto::{Reason, Rejected};
use tonic::Status;

/// No connection to the cluster.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectError {
    /// An endpoint that cannot be one.
    #[error("endpoint {endpoint:?}: {why}\nhint: write host:port, for example 127.0.0.1:7101")]
    Endpoint {
        /// As it was given.
        endpoint: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// No endpoint answered in time.
    #[error(
        "no node answered within {waited:.1?}{}\n\
         hint: are the nodes running, and are the endpoints right?",
        .errors.iter().map(|(addr, error)| format!("\n  {addr}: {error}")).collect::<String>()
    )]
    NoNode {
        /// How long they were asked.
        waited: Duration,
        /// Address and last error of each.
        errors: Vec<(String, String)>,
    },
}

/// A call that is not an append failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// A node refused it, for good or until something changes.
    #[error("{0}")]
    Rejected(Box<Rejected>),
    /// No node did it in time. Whether a change took place is unknown.
    #[error("no answer within {waited:.1?}: {last}")]
    TimedOut {
        /// How long it was tried.
        waited: Duration,
        /// What the last attempt met.
        last: String,
    },
    /// The connection broke while a change was under way that must not be sent twice.
    #[error(
        "the outcome is unknown: {what}\nhint: look at the cluster's status before trying again"
    )]
    Unknown {
        /// What broke.
        what: String,
    },
    /// A node's answer failed verification, and no other node gave a better one.
    #[error("node {node_id} ({addr}) gave an answer that does not verify: {what}")]
    Broken {
        /// Which node.
        node_id: u64,
        /// Where it is.
        addr: String,
        /// What does not fit.
        what: String,
    },
}

/// An append without a receipt.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// It can never be accepted, and was not sent.
    #[error("{0}")]
    Invalid(String),
    /// The deadline passed while it waited its turn: it was never sent, so it is not recorded.
    #[error(
        "not sent within {waited:.1?}: {last}\nhint: the event is not recorded; append it again"
    )]
    NotSent {
        /// How long it waited.
        waited: Duration,
        /// What holds the producer up.
        last: String,
    },
    /// The deadline passed after it was sent: it may or may not be recorded. The producer goes on
    /// sending it; asking again with [`crate::Producer::append_at`], the same seq and the same
    /// bytes resolves it without recording it twice.
    #[error("seq {seq} was sent, but whether it is recorded is not known: {last}")]
    Unknown {
        /// Seq of its first event.
        seq: u64,
        /// What the last attempt met.
        last: String,
    },
    /// The seq is in the trail with other content: two sources number their events under one
    /// producer id.
    #[error("{0}\nhint: another source uses this producer id, or events were renumbered")]
    Conflict(Box<Rejected>),
    /// The producer was opened elsewhere since; this instance may append nothing more.
    #[error(
        "{0}\nhint: another instance took this producer over; run one, or give each its own id"
    )]
    Fenced(Box<Rejected>),
    /// The node refused it for another definite reason; it is not recorded.
    #[error("{0}")]
    Rejected(Box<Rejected>),
    /// The receipt does not fit the event that was sent: the node is faulty or lies. Whether the
    /// event is recorded is unknown; what that node says about it is not to be believed.
    #[error("node {node_id} ({addr}) gave a receipt for seq {seq} that does not verify: {what}")]
    ReceiptBroken {
        /// Which node.
        node_id: u64,
        /// Where it is.
        addr: String,
        /// Seq of the first event that does not fit.
        seq: u64,
        /// What does not fit.
        what: String,
    },
    /// An earlier append stopped the producer; this one was not sent.
    #[error("not sent, because the producer stopped earlier: {0}")]
    Stopped(Arc<AppendError>),
}

/// How one attempt failed.
#[derive(Debug, Clone)]
pub(crate) enum Failure {
    /// A node said why: the outcome is definite, except with `COMMIT_UNKNOWN`.
    Rejected(Rejected),
    /// The connection broke: the request may have been carried out.
    Broken(String),
    /// No answer in time, on a connection that may be well: the request may have been carried out.
    TimedOut(Duration),
}

impl Failure {
    /// The last word on a call that is out of time.
    pub(crate) fn text(&self) -> String {
        match self {
            Failure::Rejected(rejected) => rejected.to_string(),
            Failure::Broken(text) => text.clone(),
            Failure::TimedOut(limit) => format!("no answer within {limit:.1?}"),
        }
    }

    /// Whether the request may have been carried out.
    pub(crate) fn is_unknown(&self) -> bool {
        match self {
            Failure::Rejected(rejected) => rejected.reason == Reason::CommitUnknown,
            Failure::Broken(_) | Failure::TimedOut(_) => true,
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Failure {
        if let Some(rejected) = Rejected::from_status(&status) {
            return Failure::Rejected(rejected);
        }
        // tonic hides what happened ("connection refused") below generic texts: the innermost
        // source says most.
        let mut source = std::error::Error::source(&status);
        let mut text = status.message().to_owned();
        while let Some(inner) = source {
            text = inner.to_string();
            source = inner.source();
        }
        Failure::Broken(text)
    }
}
