//! The keys that the trail itself names, beside those of the policy.

use indelible_core::bundle::KeyRecord;
use indelible_core::{Checkpoint, Kind, Policy, node_key_name};
use indelible_proto::v1;
use prost::Message;

/// What differs between the policy and the newest membership of a key history, in sentences. No
/// error: a policy may be older than the membership, or ask for witnesses alone.
pub(super) fn differences(
    policy: &Policy,
    checkpoint: &Checkpoint,
    keys: &[KeyRecord],
) -> Vec<String> {
    let newest = keys.iter().rev().find(|record| record.leaf.kind == Kind::Membership);
    let Some(record) = newest else {
        return vec!["it names no members, so their keys were not compared with the policy".into()];
    };
    let index = record.index;
    let membership = v1::MembershipRecord::decode(record.event.as_slice())
        .ok()
        .and_then(|record| record.membership);
    let Some(membership) = membership else {
        return vec![format!("leaf {index} is a membership that this program cannot read")];
    };
    let mut found = Vec::new();
    for member in &membership.members {
        let id = member.id;
        match policy.node_key(id) {
            None if membership.voter_sets.iter().any(|set| set.node_ids.contains(&id)) => {
                found.push(format!(
                    "node {id}, a voter since leaf {index} or before, is not in the policy"
                ));
            }
            Some(key) if key.public_key[..] != member.public_key[..] => {
                found.push(format!(
                    "node {id} has another key in the membership of leaf {index} than in the policy"
                ));
            }
            _ => {}
        }
    }
    for key in policy.nodes() {
        let is_key = |member: &v1::Member| node_key_name(&checkpoint.origin, member.id) == key.name;
        if !membership.members.iter().any(is_key) {
            let id = key.name.rsplit('/').next().unwrap_or_default();
            found.push(format!("node {id} of the policy is not in the membership of leaf {index}"));
        }
    }
    if !found.is_empty() {
        found.push("`indelible policy` brings a policy up to date".into());
    }
    found
}
