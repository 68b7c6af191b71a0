//! Changes of keys: the group has other nodes now, and the policy follows.
//!
//! Who belongs to the group is in the trail. A client moves on to the nodes of a membership once it
//! is proven to be in the tree of a checkpoint that the policy accepts as it is, and that is
//! accepted by what the policy becomes. So the nodes that were trusted have signed for those that
//! are, and nobody's word is taken. Only the nodes are followed: the log's key, witnesses, and how
//! many have to sign stay as the policy says.
//!
//! A client that was away while most of the nodes were replaced finds no such checkpoint: it needs
//! a new policy, by the way on which the first one came.
//!
//! NB: a node may leave the newest memberships out of its answer. That keeps a client where it is,
//! or lets it stop before the newest one until another node answers; never does it go back.

use std::sync::Arc;

use indelible_core::{KeyType, Kind, LeafIndex, Note, Policy, VerifierKey, node_key_name};
use indelible_proto::v1::{MembershipRecord, Node};
use prost::Message;
use tokio::time::{Duration, Instant, timeout};

use super::signed::SignedCheckpoint;
use crate::error::Fault;
use crate::{CallError, Client, Record};

/// Between two looks at what the nodes say.
const PACE: Duration = Duration::from_secs(1);

/// How far a client has followed. Held while it does: one attempt at a time.
#[derive(Default)]
pub(crate) struct Following {
    /// The membership that the policy's nodes are from, once known.
    leaf: Option<LeafIndex>,
    /// When what the nodes say was last compared with the policy.
    looked: Option<Instant>,
}

/// Whose keys counted from one record on.
struct Membership {
    leaf: LeafIndex,
    nodes: Vec<VerifierKey>,
}

impl Client {
    /// Moves on to the nodes that the trail names at this checkpoint, if the policy accepts it.
    /// Happens by itself, too, as soon as the nodes name others, unless the policy asks for all
    /// nodes: a corrupted leader alone can change who they are. With
    /// [`crate::Options::checkpoint_file`] it is remembered. Returns the policy from now on if this
    /// call has changed it.
    ///
    /// # Errors
    /// [`CallError::NotFollowed`] if the policy's nodes are those of no membership, if they or the
    /// new ones have not signed the checkpoint, or if nobody can tell what the policy asks of other
    /// nodes; [`CallError::Fork`] or [`CallError::RolledBack`] if the checkpoint is not of one
    /// history with those seen; and as [`Client::key_history`].
    pub async fn follow_keys(
        &self,
        checkpoint: &Arc<SignedCheckpoint>,
    ) -> Result<Option<Arc<Policy>>, CallError> {
        let mut following = self.trust().following.lock().await;
        self.follow(&mut following, checkpoint).await
    }

    /// After a checkpoint was accepted: follows, if the nodes name others than the policy. That it
    /// fails is no reason to believe what was asked for less.
    pub(crate) async fn follow_named(&self, checkpoint: &Arc<SignedCheckpoint>) {
        let Ok(mut following) = self.trust().following.try_lock() else { return };
        if self.trust().given.as_ref().is_some_and(Policy::asks_for_all_nodes) {
            return;
        }
        // Not with every read: comparing takes keys apart.
        if following.looked.is_some_and(|looked| looked.elapsed() < PACE) {
            return;
        }
        following.looked = Some(Instant::now());
        if !self.names_others() {
            return;
        }
        let limit = self.options().attempt_timeout;
        let followed = timeout(limit, Box::pin(self.follow(&mut following, checkpoint))).await;
        if let Ok(Err(error)) = followed {
            tracing::warn!(%error, "the policy stays as it is");
        }
    }

    /// Whether the nodes say that other nodes vote than those of the policy. Anybody may say so.
    fn names_others(&self) -> bool {
        let Some(policy) = self.policy() else { return false };
        let members = self.table().members();
        !members.is_empty()
            && policy.nodes().next().is_some()
            && voters(policy.origin(), &members).is_ok_and(|voters| !policy.has_nodes(&voters))
    }

    async fn follow(
        &self,
        following: &mut Following,
        checkpoint: &Arc<SignedCheckpoint>,
    ) -> Result<Option<Arc<Policy>>, CallError> {
        let Some(policy) = self.policy().filter(|policy| policy.nodes().next().is_some()) else {
            return Ok(None);
        };
        let note =
            Note::parse(&checkpoint.note).map_err(|error| not_followed(error.to_string()))?;
        policy
            .check(&note)
            .map_err(|error| not_followed(format!("it does not accept the checkpoint: {error}")))?;
        let history = self.key_history(checkpoint).await?;
        let memberships = memberships(policy.origin(), &history)?;
        let begin = following.leaf.or_else(|| {
            let of_policy = memberships.iter().rfind(|found| policy.has_nodes(&found.nodes));
            of_policy.map(|found| found.leaf)
        });
        let Some(begin) = begin else {
            return Err(not_followed("its nodes are those of no membership of the trail".into()));
        };
        following.leaf = Some(begin);
        let Some(newest) = memberships.last().filter(|newest| newest.leaf > begin) else {
            return Ok(None);
        };
        let mut changed = None;
        if !policy.has_nodes(&newest.nodes) {
            // Of the first policy: what all of two nodes are, a majority of them is as well.
            let given = self.trust().given.as_ref().unwrap_or(&policy);
            let followed = given.with_nodes(newest.nodes.clone());
            let followed = followed.map_err(|error| not_followed(error.to_string()))?;
            followed.check(&note).map_err(|error| {
                not_followed(format!("the new nodes do not stand behind the checkpoint: {error}"))
            })?;
            self.link_to_seen(None, checkpoint).await.map_err(unlinked)?;
            changed = Some(self.trust().follow(followed, checkpoint));
            tracing::info!(leaf = newest.leaf, "the group has other nodes, and so has the policy");
        }
        following.leaf = Some(newest.leaf);
        Ok(changed)
    }
}

/// The memberships of a key history. Of a change that is under way, what it leads to.
fn memberships(origin: &str, history: &[Record]) -> Result<Vec<Membership>, CallError> {
    let records = history.iter().filter(|record| record.leaf.kind == Kind::Membership);
    let read = records.map(|record| {
        let unreadable = |what: String| {
            not_followed(format!("the membership of leaf {} cannot be read: {what}", record.index))
        };
        let decoded = MembershipRecord::decode(record.event.clone());
        let membership = decoded.map_err(|error| unreadable(error.to_string()))?.membership;
        let membership = membership.unwrap_or_default();
        let sets = membership.voter_sets;
        let voters = sets.last().map(|set| set.node_ids.as_slice()).unwrap_or_default();
        let members = membership.members.iter().filter(|member| voters.contains(&member.id));
        let nodes = node_keys(origin, members.map(|member| (member.id, &member.public_key[..])));
        Ok(Membership { leaf: record.index, nodes: nodes.map_err(unreadable)? })
    });
    read.collect()
}

/// The keys of the voters that a node names.
pub(super) fn voters(origin: &str, members: &[Node]) -> Result<Vec<VerifierKey>, String> {
    let voters = members.iter().filter(|node| node.voter);
    node_keys(origin, voters.map(|node| (node.id, &node.public_key[..])))
}

fn node_keys<'a>(
    origin: &str,
    nodes: impl Iterator<Item = (u64, &'a [u8])>,
) -> Result<Vec<VerifierKey>, String> {
    let key = |(id, key): (u64, &[u8])| {
        let key = key.try_into().map_err(|_| format!("node {id} has no key"))?;
        VerifierKey::new(node_key_name(origin, id), KeyType::Cosigner, key)
            .map_err(|error| error.to_string())
    };
    nodes.map(key).collect()
}

/// A checkpoint that is not of one history with those seen leads nowhere.
fn unlinked(fault: Fault) -> CallError {
    match fault {
        Fault::Final(error) | Fault::Unproven(error) => error,
        Fault::Lie(what, _) | Fault::Broken(what) => not_followed(what),
        Fault::Failure(failure) => not_followed(failure.text()),
    }
}

fn not_followed(what: String) -> CallError {
    CallError::NotFollowed { what }
}
