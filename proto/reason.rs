//! The error table: why a call was refused, as both ends of the wire spell it.
//!
//! A [`Rejected`] travels as `google.rpc.ErrorInfo` (domain [`DOMAIN`], the reason's name,
//! metadata) and, where a delay is known, `google.rpc.RetryInfo`, in the details of the gRPC
//! status. The code alone is never enough to decide by: a tonic client maps transport errors to
//! codes differently from build to build, so callers decide by [`Reason`], and a status without one
//! means that the outcome is unknown.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// Domain of every `ErrorInfo`; details of another domain are not ours and are ignored.
pub const DOMAIN: &str = "indelible.v1";

/// Metadata keys of `ErrorInfo`, besides those of the leader hint.
pub mod key {
    /// With `SEQ_GAP`: the seq that the trail expects next.
    pub const EXPECTED: &str = "expected";
    /// With `PRODUCER_FENCED`: the epoch in force.
    pub const EPOCH: &str = "epoch";
    /// With `ROLLED_BACK`: the tree size of the checkpoint that reaches past the trail.
    pub const CHECKPOINT_SIZE: &str = "checkpoint_size";
    /// With `READ_ONLY`: 1 if it is because of the clocks.
    pub const CLOCK: &str = "clock";
    /// The limit that was hit, in the unit that the message names.
    pub const LIMIT: &str = "limit";
    pub(super) const LEADER_ID: &str = "leader_id";
    pub(super) const LEADER_ADDR: &str = "leader_addr";
    pub(super) const TERM: &str = "term";
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident, $wire:literal, $code:ident;)*) => {
        /// Why a call was refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            /// Every reason, in the order of the table.
            pub const ALL: &[Reason] = &[$(Reason::$name),*];

            /// Its spelling in `ErrorInfo`.
            pub fn name(self) -> &'static str {
                match self { $(Reason::$name => $wire,)* }
            }

            /// The gRPC code that carries it.
            pub fn code(self) -> Code {
                match self { $(Reason::$name => Code::$code,)* }
            }
        }
    };
}

reasons! {
    /// Another node leads; the hint says which. Nothing was appended.
    NotLeader, "NOT_LEADER", FailedPrecondition;
    /// No leader is known. Nothing was appended.
    NoLeader, "NO_LEADER", Unavailable;
    /// Leadership is being handed to the node in the hint, which may not lead yet. Nothing was
    /// appended.
    LeaderTransferring, "LEADER_TRANSFERRING", Unavailable;
    /// The leader has not heard from a majority. Nothing was appended.
    LeaseExpired, "LEASE_EXPIRED", Unavailable;
    /// The events were proposed and may or may not be in the trail: send them again under the same
    /// seq.
    CommitUnknown, "COMMIT_UNKNOWN", Aborted;
    /// The first seq is not the next one of this producer (`expected` is). Nothing was appended.
    SeqGap, "SEQ_GAP", Aborted;
    /// The seq is in the trail with other content. Nothing was appended.
    SeqConflict, "SEQ_CONFLICT", AlreadyExists;
    /// The producer was opened again under a higher epoch (`epoch`). Nothing was appended.
    ProducerFenced, "PRODUCER_FENCED", FailedPrecondition;
    /// The producer was never opened.
    ProducerUnknown, "PRODUCER_UNKNOWN", FailedPrecondition;
    /// The trail knows as many producers as it may (`limit`).
    TooManyProducers, "TOO_MANY_PRODUCERS", ResourceExhausted;
    /// Queues are full; the retry delay says when to come again. Nothing was appended.
    Busy, "BUSY", ResourceExhausted;
    /// The disk is too full for new events. Nothing was appended.
    ReadOnly, "READ_ONLY", ResourceExhausted;
    /// A valid checkpoint reaches past the trail (`checkpoint_size`): all disks were rolled back.
    /// Nothing was appended.
    RolledBack, "ROLLED_BACK", FailedPrecondition;
    /// This node has not applied what the read level asks for: ask another one.
    StaleReplica, "STALE_REPLICA", FailedPrecondition;
    /// There is no such record, node or size.
    NotFound, "NOT_FOUND", NotFound;
    /// The request can never be accepted.
    Invalid, "INVALID", InvalidArgument;
    /// The request is over a size limit (`limit`) and can never be accepted.
    TooLarge, "TOO_LARGE", InvalidArgument;
    /// The stored bytes do not match their checksums or hashes on this node: ask another one.
    Damaged, "DAMAGED", DataLoss;
    /// The node is shutting down, or still starting. Nothing was appended.
    Stopping, "STOPPING", Unavailable;
    /// The membership does not allow this change now.
    Membership, "MEMBERSHIP", FailedPrecondition;
    /// The caller did not say who it is: it has no certificate, or one that does not count here.
    /// Nothing was done.
    Unauthenticated, "UNAUTHENTICATED", Unauthenticated;
    /// The caller is known, and may not do this. Nothing was done.
    Forbidden, "FORBIDDEN", PermissionDenied;
}

impl Reason {
    /// The reason with this spelling, if this build knows it.
    pub fn from_name(name: &str) -> Option<Reason> {
        Reason::ALL.iter().copied().find(|reason| reason.name() == name)
    }
}

/// Where the leader is, as far as the answering node knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderHint {
    /// Node id.
    pub id: u64,
    /// Address of its client port, `host:port`. Empty if unknown.
    pub addr: String,
    /// Term in which it leads; a hint of a lower term than one already seen is stale.
    pub term: u64,
}

/// A call that was refused, with everything the caller needs to decide what to do next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({})", reason.name())]
pub struct Rejected {
    /// Why.
    pub reason: Reason,
    /// For people: what happened, the value and the limit.
    pub message: String,
    /// Who leads, where the answering node knows.
    pub leader: Option<LeaderHint>,
    /// When to come again. Whole milliseconds survive the wire.
    pub retry: Option<Duration>,
    /// Further facts under the keys of [`key`].
    pub metadata: BTreeMap<&'static str, u64>,
}

impl Rejected {
    /// A refusal without hint, delay or further facts.
    pub fn new(reason: Reason, message: impl Into<String>) -> Rejected {
        let message = message.into();
        Rejected { reason, message, leader: None, retry: None, metadata: BTreeMap::new() }
    }

    /// Adds who leads.
    #[must_use]
    pub fn leader(mut self, hint: LeaderHint) -> Rejected {
        self.leader = Some(hint);
        self
    }

    /// Adds when to come again.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Rejected {
        self.retry = Some(delay);
        self
    }

    /// Adds a fact under one of the keys of [`key`].
    #[must_use]
    pub fn with(mut self, key: &'static str, value: u64) -> Rejected {
        self.metadata.insert(key, value);
        self
    }

    /// The seq that the trail expects next, with `SEQ_GAP`.
    pub fn expected(&self) -> Option<u64> {
        self.metadata.get(key::EXPECTED).copied()
    }

    /// The refusal in a status, or `None` if the status does not come from a node's own table (a
    /// transport error, a proxy's answer, a reason that this build does not know): then the outcome
    /// of the call is unknown.
    pub fn from_status(status: &Status) -> Option<Rejected> {
        let info = status.get_details_error_info()?;
        if info.domain != DOMAIN {
            return None;
        }
        let reason = Reason::from_name(&info.reason)?;
        let number = |key: &str| info.metadata.get(key).and_then(|value| value.parse().ok());
        let leader = number(key::LEADER_ID).map(|id| LeaderHint {
            id,
            addr: info.metadata.get(key::LEADER_ADDR).cloned().unwrap_or_default(),
            term: number(key::TERM).unwrap_or(0),
        });
        let retry = status.get_details_retry_info().and_then(|retry| retry.retry_delay);
        let metadata = [key::EXPECTED, key::EPOCH, key::CHECKPOINT_SIZE, key::LIMIT, key::CLOCK]
            .into_iter()
            .filter_map(|key| Some((key, number(key)?)))
            .collect();
        Some(Rejected { reason, message: status.message().to_owned(), leader, retry, metadata })
    }
}

impl From<Rejected> for Status {
    fn from(rejected: Rejected) -> Status {
        let mut metadata: HashMap<String, String> = HashMap::new();
        for (key, value) in &rejected.metadata {
            metadata.insert((*key).to_owned(), value.to_string());
        }
        if let Some(leader) = rejected.leader {
            metadata.insert(key::LEADER_ID.to_owned(), leader.id.to_string());
            metadata.insert(key::LEADER_ADDR.to_owned(), leader.addr);
            metadata.insert(key::TERM.to_owned(), leader.term.to_string());
        }
        let mut details = ErrorDetails::with_error_info(rejected.reason.name(), DOMAIN, metadata);
        if let Some(delay) = rejected.retry {
            details.set_retry_info(Some(delay));
        }
        Status::with_error_details(rejected.reason.code(), rejected.message, details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_survives_the_wire() {
        for reason in Reason::ALL.iter().copied() {
            let sent = Rejected::new(reason, "why")
                .leader(LeaderHint { id: 3, addr: "127.0.0.1:7103".into(), term: 9 })
                .retry_after(Duration::from_millis(25))
                .with(key::EXPECTED, 7)
                .with(key::LIMIT, u64::MAX);
            let status = Status::from(sent.clone());
            assert_eq!(status.code(), reason.code());
            assert_eq!(Rejected::from_status(&status), Some(sent));
            assert_eq!(Reason::from_name(reason.name()), Some(reason));
        }
    }

    #[test]
    fn the_table_for_people_has_every_reason_with_its_code() {
        let table = include_str!("../docs/ERRORS.md");
        let rows: Vec<Vec<&str>> = table
            .lines()
            .filter(|line| line.starts_with("| ") && !line.starts_with("| reason"))
            .map(|line| line.split('|').map(str::trim).collect())
            .collect();
        let code = |reason: Reason| format!("{:?}", reason.code()).to_uppercase();
        let expected: Vec<_> =
            Reason::ALL.iter().map(|reason| (reason.name().to_owned(), code(*reason))).collect();
        let found: Vec<_> =
            rows.iter().map(|row| (row[1].to_owned(), row[2].replace('_', ""))).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_status_of_somebody_else_is_no_rejection() {
        assert_eq!(Rejected::from_status(&Status::unavailable("connection reset")), None);
        let foreign = ErrorDetails::with_error_info("BUSY", "example.com", HashMap::new());
        let status = Status::with_error_details(Code::ResourceExhausted, "busy", foreign);
        assert_eq!(Rejected::from_status(&status), None);
        let newer = ErrorDetails::with_error_info("NOT_YET_INVENTED", DOMAIN, HashMap::new());
        let status = Status::with_error_details(Code::Internal, "?", newer);
        assert_eq!(Rejected::from_status(&status), None);
    }
}
