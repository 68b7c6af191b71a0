//! Errors, named by what the caller can do about them.

use std::sync::Arc;
use std::time::Duration;

use indelible_proto::{Reason, Rejected};
use tonic::{Code, Status};

use crate::connect::{DialError, TlsError};
use crate::producer::partial::{Lines, Part};
use crate::profile::ProfileError;
use crate::table::Link;
use crate::trust::evidence::{Evidence, Fork, Lie, RolledBack};
use crate::trust::{FileError, FirstUseError};

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
    /// Nothing says how to speak with the nodes.
    #[error(
        "it is not said how to speak with the nodes: there is no certificate authority to believe them by\n\
         hint: give the profile of the cluster (INDELIBLE_PROFILE, --profile, Options::from_profile); clear text \
         (--clear-text, Options::clear_text) is for nodes with `[tls] mode = \"off\"`"
    )]
    NoTransport,
    /// TLS and clear text are asked for at once.
    #[error("certificates are given, and clear text is asked for\nhint: leave one of them out")]
    TwoTransports,
    /// The profile, or a file that it names, is of no use.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The certificates are of no use.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Every endpoint answered, and none of them in a way that another attempt could mend.
    #[error("no connection to any node{}", by_reason(.errors))]
    Refused {
        /// Address and error of each.
        errors: Vec<(String, String)>,
    },
    /// No endpoint answered in time.
    #[error(
        "no node answered within {waited:.1?}{}\n\
         hint: are the nodes running, and are the endpoints right?",
        by_reason(.errors)
    )]
    NoNode {
        /// How long they were asked.
        waited: Duration,
        /// Address and last error of each.
        errors: Vec<(String, String)>,
    },
    /// The node that answered belongs to another trail than the policy is for.
    #[error(
        "the policy is for the trail {expected}, and node {node_id} belongs to {actual}\n\
         hint: are the endpoints those of the right cluster?"
    )]
    OtherTrail {
        /// Which node.
        node_id: u64,
        /// The policy's origin.
        expected: String,
        /// The node's.
        actual: String,
    },
    /// The checkpoint file is of no use.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is nothing to trust on first use.
    #[error(transparent)]
    FirstUse(#[from] FirstUseError),
}

/// A call that is not an append failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// A node refused it, for good or until something changes.
    #[error("{}{}", .0, advice(.0))]
    Rejected(Box<Rejected>),
    /// No node did it in time. Whether a change took place is unknown.
    #[error("no answer within {waited:.1?}: {last}{}", majority(.last))]
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
    /// A node's answer makes no sense to this version, and no other node gave a better one.
    #[error("node {node_id} ({addr}) gave an answer that cannot be read: {what}")]
    Broken {
        /// Which node.
        node_id: u64,
        /// Where it is.
        addr: String,
        /// What does not fit.
        what: String,
    },
    /// A node's answer contradicts itself or what was signed, and no other node gave a better one.
    /// This client does not ask that node again.
    #[error(
        "node {node_id} ({addr}) is not to be believed: {what}\n\
         hint: stop that node, and keep its disk as evidence; this client asks the others"
    )]
    NodeLied {
        /// Which node.
        node_id: u64,
        /// Where it is.
        addr: String,
        /// What does not fit.
        what: String,
        /// What shows it.
        evidence: Box<Evidence>,
    },
    /// Two checkpoints that the policy accepts contradict each other. Never tried again.
    #[error("{0}")]
    Fork(Box<Fork>),
    /// What was signed or acknowledged is no longer in the trail.
    #[error("{0}")]
    RolledBack(Box<RolledBack>),
    /// No node has a checkpoint that is fresh enough to say what the trail is now.
    #[error(
        "the newest checkpoint (size {size}) was signed {age:.0?} ago, the limit is {age_max:.0?}\n\
         hint: `indelible status` shows whether a majority of the nodes signs; is this machine's clock right?"
    )]
    StaleCheckpoint {
        /// Leaves of its tree.
        size: u64,
        /// How long ago it was signed, by this machine's clock.
        age: Duration,
        /// [`crate::Options::checkpoint_age_max`].
        age_max: Duration,
    },
    /// The group has other nodes than the policy, and the policy cannot follow it there.
    #[error(
        "the policy cannot follow the group to other nodes: {what}\n\
         hint: try again when all nodes run; if it stays so, a new policy has to come by the way on which this one did"
    )]
    NotFollowed {
        /// Why not.
        what: String,
    },
    /// The nodes that answered could not prove what they say. They may only lag.
    #[error("not proven: {what}\nhint: try again; a node that was just started catches up first")]
    NotProven {
        /// What was to be proven, and what came instead.
        what: String,
    },
}

impl CallError {
    /// Whether it says that somebody broke a rule, rather than that something did not work now.
    pub fn is_alarming(&self) -> bool {
        matches!(self, CallError::NodeLied { .. } | CallError::Fork(_) | CallError::RolledBack(_))
    }
}

impl From<Lie> for CallError {
    fn from(lie: Lie) -> CallError {
        let Lie { node_id, addr, what, evidence } = lie;
        CallError::NodeLied { node_id, addr, what, evidence: Box::new(evidence) }
    }
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
    /// Events that took several requests, and not all of these have receipts. What has the outcome
    /// [`AppendError::NotSent`] may be appended again, and nothing else; after
    /// [`crate::Producer::append_at`] all of it may.
    #[error("{}\nhint: append those again that were not sent, and only them", Lines(.0))]
    Partial(Vec<Part>),
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
    #[error("{}{}", .0, advice(.0))]
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
    /// Events that were acknowledged are not in the trail any more.
    #[error("{0}")]
    RolledBack(Box<RolledBack>),
    /// An earlier append stopped the producer; this one was not sent.
    #[error("not sent, because the producer stopped earlier: {0}")]
    Stopped(Arc<AppendError>),
}

/// What to do if nothing came of a call, where the last attempt does not say it.
fn majority(last: &str) -> &'static str {
    match last.contains("hint:") {
        true => "",
        false => "\nhint: `indelible status` shows which nodes run; a majority of them has to",
    }
}

/// What to do about a refusal, where the node does not say it.
fn advice(rejected: &Rejected) -> &'static str {
    if rejected.message.contains("hint:") {
        return "";
    }
    match rejected.reason {
        Reason::Unauthenticated => {
            "\nhint: connect with a profile that names a valid certificate (INDELIBLE_PROFILE); \
             `indelible cert show FILE` prints what one is and until when"
        }
        Reason::Forbidden => {
            "\nhint: changes of the group need an admin certificate, such as that of the profile \
             admin.toml that `indelible init` wrote"
        }
        _ => "",
    }
}

/// Indented lines; addresses with the same error are together.
fn by_reason(errors: &[(String, String)]) -> String {
    let mut lines = String::new();
    for (position, (_, error)) in errors.iter().enumerate() {
        let same = |other: &&(String, String)| other.1 == *error;
        if errors.iter().take(position).any(|other| same(&other)) {
            continue;
        }
        let addresses: Vec<&str> =
            errors.iter().filter(same).map(|(addr, _)| addr.as_str()).collect();
        let error = error.replace('\n', "\n    ");
        lines.push_str(&format!("\n  {}: {error}", addresses.join(", ")));
    }
    lines
}

/// Why a node is not connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// For people.
    pub(crate) text: String,
    /// Another attempt would end in the same way.
    pub(crate) is_final: bool,
}

impl From<String> for Trouble {
    fn from(text: String) -> Trouble {
        Trouble { text, is_final: false }
    }
}

impl From<&str> for Trouble {
    fn from(text: &str) -> Trouble {
        text.to_owned().into()
    }
}

impl From<DialError> for Trouble {
    fn from(error: DialError) -> Trouble {
        Trouble { text: error.to_string(), is_final: error.is_final() }
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Trouble {
        let is_final = match &failure {
            Failure::Rejected(rejected) => {
                [Reason::Unauthenticated, Reason::Forbidden].contains(&rejected.reason)
            }
            Failure::Broken(_) | Failure::TimedOut(_) => false,
        };
        Trouble { text: failure.text(), is_final }
    }
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
            Failure::Rejected(rejected) => format!("{rejected}{}", advice(rejected)),
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
        // A proxy in between may say so too, without details.
        let refused = match status.code() {
            Code::Unauthenticated => Some(Reason::Unauthenticated),
            Code::PermissionDenied => Some(Reason::Forbidden),
            _ => None,
        };
        if let Some(reason) = refused {
            return Failure::Rejected(Rejected::new(reason, status.message()));
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

/// What is wrong with one node's answer, and so what to do about the node.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It failed in an honest way.
    Failure(Failure),
    /// It cannot be read: another node may be of another version.
    Broken(String),
    /// It contradicts itself or what was signed: that node is not asked again.
    Lie(String, Evidence),
    /// It may be true, and is not shown to be: another node may do better.
    Unproven(CallError),
    /// No node can do better.
    Final(CallError),
}

impl Fault {
    /// As the error of a call to this one node.
    pub(crate) fn into_error(self, link: &Link, limit: Duration) -> CallError {
        let (node_id, addr) = (link.node_id, link.addr.to_string());
        match self {
            Fault::Failure(Failure::Rejected(rejected)) => CallError::Rejected(Box::new(rejected)),
            Fault::Failure(failure) => CallError::TimedOut { waited: limit, last: failure.text() },
            Fault::Broken(what) => CallError::Broken { node_id, addr, what },
            Fault::Lie(what, evidence) => Lie { node_id, addr, what, evidence }.into(),
            Fault::Unproven(error) | Fault::Final(error) => error,
        }
    }
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Fault {
        Fault::Failure(failure)
    }
}

impl From<Status> for Fault {
    fn from(status: Status) -> Fault {
        Fault::Failure(status.into())
    }
}

impl From<String> for Fault {
    fn from(what: String) -> Fault {
        Fault::Broken(what)
    }
}

impl From<&str> for Fault {
    fn from(what: &str) -> Fault {
        Fault::Broken(what.to_owned())
    }
}
