//! The payload of a membership entry: `indelible.v1.Membership`, encoded once, by the leader that
//! proposes it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use indelible_core::TrailId;
use indelible_core::limits::{MEMBERS_MAX, MEMBERSHIP_BYTES_MAX};
use indelible_proto::{raft as pb, v1};
use prost::Message;

use super::boots;
use super::types::{Membership, Peer};

/// Bytes that are no membership.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// Not the message.
    #[error("membership payload: {0}")]
    Decode(#[from] prost::DecodeError),
    /// A message that makes no sense.
    #[error("membership payload: {0}")]
    Invalid(String),
}

/// The bytes of a membership. All members must be of one trail: only peers of this trail get
/// through the handshake.
pub fn encode(membership: &Membership) -> Bytes {
    let trail_id = membership.nodes().next().map(|(_, peer)| peer.trail_id).unwrap_or_default();
    let members = membership
        .nodes()
        .map(|(id, peer)| {
            assert_eq!(peer.trail_id, trail_id, "member {id} is of another trail");
            let boot = peer.boot.as_ref().map(boots::to_pb).unwrap_or_default();
            v1::Member {
                id: *id,
                client_addr: peer.client_addr.clone(),
                raft_addr: peer.raft_addr.clone(),
                http_addr: peer.http_addr.clone(),
                public_key: Bytes::copy_from_slice(&peer.public_key),
                boot: boot.number,
                boot_hash: boot.hash,
                boot_signature: boot.signature,
            }
        })
        .collect();
    let voter_sets = membership
        .get_joint_config()
        .iter()
        .map(|set| v1::VoterSet { node_ids: set.iter().copied().collect() })
        .collect();
    let trail_id = Bytes::copy_from_slice(&trail_id.0);
    v1::Membership { trail_id, voter_sets, members }.encode_to_vec().into()
}

/// A membership from its bytes.
pub fn decode(bytes: &[u8]) -> Result<Membership, MembershipError> {
    let invalid = |what: String| Err(MembershipError::Invalid(what));
    if bytes.len() > MEMBERSHIP_BYTES_MAX {
        return invalid(format!("{} bytes, the limit is {MEMBERSHIP_BYTES_MAX}", bytes.len()));
    }
    let message = v1::Membership::decode(bytes)?;
    if message.members.len() > MEMBERS_MAX {
        return invalid(format!("{} members, the limit is {MEMBERS_MAX}", message.members.len()));
    }
    let Some(trail_id) = TrailId::from_slice(&message.trail_id) else {
        return invalid(format!("trail id of {} bytes", message.trail_id.len()));
    };
    let mut nodes = BTreeMap::new();
    for member in message.members {
        let Ok(public_key) = <[u8; 32]>::try_from(&member.public_key[..]) else {
            return invalid(format!("member {}: key is not of 32 bytes", member.id));
        };
        let (hash, signature) = (member.boot_hash, member.boot_signature);
        let boot = pb::Boot { number: member.boot, hash, signature };
        let boot = match boot == pb::Boot::default() {
            true => None,
            false => match boots::from_pb(&boot) {
                Some(boot) => Some(boot),
                None => return invalid(format!("member {}: a boot that is none", member.id)),
            },
        };
        let peer = Peer {
            client_addr: member.client_addr,
            raft_addr: member.raft_addr,
            http_addr: member.http_addr,
            public_key,
            trail_id,
            boot,
        };
        nodes.insert(member.id, peer);
    }
    let sets = message
        .voter_sets
        .into_iter()
        .map(|set| set.node_ids.into_iter().collect::<BTreeSet<u64>>())
        .collect();
    Membership::new(sets, nodes).map_err(|error| MembershipError::Invalid(error.to_string()))
}
