//! Why a node is not spoken to.

use indelible_core::TrailId;
use indelible_lineage::NotAdmitted;
use indelible_proto::raft as pb;
use prost::Message as _;
use tonic::{Code, Status};

use super::boots;
use crate::storage::hard_state::SignedBoot;

/// Why a peer is not spoken to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It belongs to another trail.
    #[error("node {node} belongs to trail {theirs}, this is trail {ours}")]
    OtherTrail {
        /// The peer.
        node: u64,
        /// Its trail.
        theirs: String,
        /// This node's trail.
        ours: TrailId,
    },
    /// The message was meant for another node: addresses are mixed up.
    #[error("this is node {ours}, the peer wanted node {wanted}; hint: compare raft_addr of both")]
    WrongNode {
        /// Whom the peer wanted.
        wanted: u64,
        /// Who this is.
        ours: u64,
    },
    /// Its certificate names somebody else.
    #[error(
        "the certificate is of {named}, the peer says that it is node {node}; hint: `indelible cert show` says whose a \
         certificate is"
    )]
    OtherName {
        /// Who it says it is.
        node: u64,
        /// Whom the certificate names.
        named: String,
    },
    /// It does not show that it has the key.
    #[error(
        "node {node} does not prove that it has the key that it shows; hint: is it an older version?"
    )]
    Unproven {
        /// The peer.
        node: u64,
    },
    /// Its key is not the one that the membership has under its id.
    #[error(
        "node {node} has another key than the membership has for it: a wiped or replaced node; hint: node ids are \
         never reused, add it under a new id"
    )]
    OtherKey {
        /// The peer.
        node: u64,
    },
    /// Its boot is not the one that is remembered, and does not follow from it.
    #[error("node {node}: {why}; hint: node ids are never reused, add it under a new id")]
    NotAdmitted {
        /// The peer.
        node: u64,
        /// What does not fit.
        why: NotAdmitted,
        /// The boot that is remembered, with the peer's own signature.
        remembered: Box<SignedBoot>,
    },
    /// An earlier boot of it is still there.
    #[error(
        "node {node} runs already: its boot {boot} has just answered; hint: a copy of its disk was started, stop one of \
         the two"
    )]
    RunsAlready {
        /// The peer.
        node: u64,
        /// The boot that answers.
        boot: u64,
    },
    /// Its log cannot reach what it has cosigned.
    #[error(
        "node {node} says its log ends at entry {theirs}, but it had cosigned entry {known}: its disk was replaced by an \
         older copy; hint: node ids are never reused, add it under a new id"
    )]
    LostSignature {
        /// The peer.
        node: u64,
        /// Its last log index.
        theirs: u64,
        /// The entry that it has cosigned, as this node's notes say.
        known: u64,
    },
    /// It has cosigned more than it said, perhaps meanwhile: it is to say it again.
    #[error("node {node} has cosigned a later entry than it names; hint: it is asked again")]
    Again {
        /// The peer.
        node: u64,
    },
    /// It has promised less than it had when it voted.
    #[error(
        "node {node} says that it has promised term {theirs}, but it had voted in term {known}: its disk was replaced by \
         an older copy; hint: node ids are never reused, add it under a new id"
    )]
    LostVote {
        /// The peer.
        node: u64,
        /// The term that it has promised.
        theirs: u64,
        /// The term in which it had voted for this node.
        known: u64,
    },
    /// Its log ends before an entry that it had acknowledged, and that is committed.
    #[error(
        "node {node} says its log ends at entry {theirs}, but it had acknowledged entry {known}: its disk was replaced by \
         an older copy; hint: node ids are never reused, add it under a new id"
    )]
    LostLog {
        /// The peer.
        node: u64,
        /// Its last log index.
        theirs: u64,
        /// What it had acknowledged to this node.
        known: u64,
    },
    /// It was removed from the group.
    #[error(
        "node {node} was removed from the group; hint: node ids are never reused, add it under a new id"
    )]
    Removed {
        /// The peer.
        node: u64,
    },
    /// Its segments close elsewhere, so they would not be byte-identical.
    #[error("node {node} has segments of {theirs} bytes, this trail has {ours}")]
    OtherSegmentSize {
        /// The peer.
        node: u64,
        /// Its segment size in bytes.
        theirs: u64,
        /// This node's.
        ours: u64,
    },
    /// The message does not make sense.
    #[error("handshake: {0}")]
    Malformed(&'static str),
    /// This node could not remember the peer's boot.
    #[error("handshake: cannot save the boot: {0}")]
    Storage(String),
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Status {
        let shown = refusal.shown().unwrap_or_default().encode_to_vec();
        Status::with_details(Code::PermissionDenied, refusal.to_string(), shown.into())
    }
}

/// Whether a peer says that this node was removed from the group.
pub(super) fn says_removed(status: &Status) -> bool {
    pb::Refused::decode(status.details()).is_ok_and(|refused| refused.removed)
}

impl Refusal {
    /// What the refused node is shown; none if there is nothing to show.
    pub fn shown(&self) -> Option<pb::Refused> {
        match self {
            Refusal::NotAdmitted { remembered, .. } => {
                let remembered = Some(boots::to_pb(remembered));
                Some(pb::Refused { remembered, ..pb::Refused::default() })
            }
            Refusal::RunsAlready { .. } => {
                Some(pb::Refused { runs_already: true, ..pb::Refused::default() })
            }
            Refusal::Removed { .. } => {
                Some(pb::Refused { removed: true, ..pb::Refused::default() })
            }
            _ => None,
        }
    }
}
