//! The nodes of the group in a policy, and what becomes of it when they are others.

use std::collections::BTreeSet;

use super::{Builder, NONE, Name, NodesError, Policy, Threshold, Witness};
use crate::{VerifierKey, node_key_name};

impl Policy {
    /// The cosigners that are nodes of the group: those named `<origin>/node/<id>`.
    pub fn nodes(&self) -> impl Iterator<Item = &VerifierKey> {
        self.witnesses().map(|witness| &witness.key).filter(|key| self.is_node(key))
    }

    /// Whether these are the nodes that it names.
    pub fn has_nodes(&self, nodes: &[VerifierKey]) -> bool {
        let text = |key: &VerifierKey| key.to_string();
        let named: BTreeSet<String> = self.nodes().map(text).collect();
        named == nodes.iter().map(text).collect()
    }

    /// The same policy for a group of other nodes. Where it asked for a majority of the nodes it
    /// does so again, and where it asked for all of them it asks for all. A policy that names no
    /// nodes stays as it is.
    ///
    /// # Errors
    /// Its nodes do not stand in one group of their own, or neither a majority of them nor all are
    /// asked for: then nobody but its author can tell what it means for other nodes.
    pub fn with_nodes(&self, nodes: Vec<VerifierKey>) -> Result<Policy, NodesError> {
        let old = self.node_positions();
        if old.is_empty() {
            return Ok(self.clone());
        }
        let (group, ..) = self.group_of_nodes().ok_or(NodesError::NoGroup)?;
        let mut builder = Builder::default();
        for log in &self.logs {
            builder.log(log.key.clone(), log.url.clone())?;
        }
        for (position, name) in self.names.iter().enumerate() {
            match name {
                Name::Witness(_) if old.contains(&position) => {}
                Name::Witness(witness) => builder.witness(witness.clone())?,
                Name::Group { name, threshold, members } if position == group => {
                    let threshold = scaled(name, *threshold, members.len(), nodes.len())?;
                    builder.group_of(name, threshold, nodes.iter().map(|key| self.named(key)))?;
                }
                Name::Group { name, threshold, members } => {
                    let members: Vec<&str> =
                        members.iter().map(|member| self.names[*member].name()).collect();
                    builder.group(name, Threshold::Number(*threshold as u64), &members)?;
                }
            }
        }
        builder.quorum(self.quorum.map_or(NONE, |position| self.names[position].name()))?;
        Ok(builder.finish()?)
    }

    /// Whether all nodes have to sign, and that is more than a majority. A leader alone can change
    /// who belongs to the group: what such a policy becomes is for a person to look at.
    pub fn asks_for_all_nodes(&self) -> bool {
        let all = |(_, threshold, count)| threshold == count && threshold > count / 2 + 1;
        self.group_of_nodes().is_some_and(all)
    }

    fn node_positions(&self) -> Vec<usize> {
        let is_node =
            |name: &Name| matches!(name, Name::Witness(witness) if self.is_node(&witness.key));
        (0..self.names.len()).filter(|position| is_node(&self.names[*position])).collect()
    }

    /// The group that has all nodes and nobody else: its position, threshold and members.
    fn group_of_nodes(&self) -> Option<(usize, usize, usize)> {
        let nodes = self.node_positions();
        self.names.iter().enumerate().find_map(|(position, name)| match name {
            Name::Group { threshold, members, .. } if same(members, &nodes) => {
                Some((position, *threshold, members.len()))
            }
            _ => None,
        })
    }

    /// A node of the group by what it is called here; a new one by the name of its key.
    fn named(&self, key: &VerifierKey) -> Witness {
        let known = self.witnesses().find(|witness| witness.key == *key).cloned();
        known.unwrap_or_else(|| Witness { name: key.name.clone(), key: key.clone(), url: None })
    }

    fn is_node(&self, key: &VerifierKey) -> bool {
        let first = node_key_name(self.origin(), 0);
        let prefix = first.strip_suffix('0').unwrap_or(&first);
        let id = key.name.strip_prefix(prefix).and_then(|id| id.parse::<u64>().ok());
        id.is_some_and(|id| node_key_name(self.origin(), id) == key.name)
    }
}

/// Whether a group has these members and no other.
fn same(members: &[usize], nodes: &[usize]) -> bool {
    members.len() == nodes.len() && members.iter().all(|member| nodes.contains(member))
}

/// What a threshold means for another number of members. Of one or two, a majority is all: then
/// the majority is meant, which `init` writes.
fn scaled(group: &str, threshold: usize, old: usize, new: usize) -> Result<usize, NodesError> {
    match threshold {
        majority if majority == old / 2 + 1 => Ok(new / 2 + 1),
        all if all == old => Ok(new),
        _ => Err(NodesError::Threshold { group: group.to_owned(), threshold, count: old }),
    }
}
