//! The state machine: what one entry does to the trail, in memory and without looking anywhere
//! else.
//!
//! The running ledger, recovery and the offline check all go through [`Machine::apply`], so there
//! is one way in which an entry becomes leaves.

use bytes::Bytes;
use indelible_core::leaf::leaf_hash;
use indelible_core::{Batch, Chain, Entry, EntryId, EntryKind, Hash, TrailId, chain};
use indelible_proto::v1::Membership;
use prost::Message;

use super::derived::Derived;
use super::error::EntryFault;
use super::producers::Producers;
use super::rules::{Rejection, decide, stretches};
use crate::storage::frame::Location;
use crate::storage::index::{IndexError, Loaded};
use crate::storage::rows::EntryRow;

/// What an entry did. The same on every node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The entry.
    pub id: EntryId,
    /// Size of the tree before it: index of its first leaf, if it has any.
    pub first_leaf: u64,
    /// Leaves that it added. The one of accepted position `p` of its batch has index `first_leaf`
    /// plus the accepted positions before `p`.
    pub accepted: u32,
    /// Positions in its batch that gave no leaf, in order, and why.
    pub rejected: Vec<(u32, Rejection)>,
}

/// Everything that the next entry's outcome depends on, but for the tree, which only grows.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) trail_id: TrailId,
    /// The newest applied entry.
    pub(crate) id: Option<EntryId>,
    /// Its link of the chain; the genesis link before the first.
    pub(crate) chain: Chain,
    pub(crate) tree_size: u64,
    /// `received` of the newest leaf; 0 before the first.
    pub(crate) last_received: u64,
    /// The newest membership entry and its payload.
    pub(crate) membership: Option<(EntryId, Bytes)>,
    /// Whether it is newer than the last commit.
    pub(crate) membership_changed: bool,
    pub(crate) max_node_id: u64,
    pub(crate) producers: Producers,
}

/// An entry that was found to be sound: what can be done before the state is locked.
#[derive(Debug)]
pub(crate) struct Prepared {
    id: EntryId,
    kind: EntryKind,
    chain: Chain,
    location: Location,
    payload: Payload,
}

#[derive(Debug)]
enum Payload {
    Blank(Entry),
    /// With the highest node id in it.
    Membership(Entry, u64),
    Batch(Batch),
}

/// What applying an entry gave.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) applied: Applied,
    pub(crate) row: EntryRow,
    /// Leaves to hash: a derived one, or those of a batch that were accepted.
    leaves: Leaves,
}

#[derive(Debug)]
enum Leaves {
    Derived(Derived),
    Batch(Batch),
}

impl Prepared {
    /// Decodes an entry. `chain` is its link, `location` its frame's place; the caller knows that
    /// both belong to it.
    pub(crate) fn new(
        entry: &Entry,
        chain: Chain,
        location: Location,
    ) -> Result<Prepared, EntryFault> {
        let payload = match entry.kind {
            EntryKind::Blank => Payload::Blank(entry.clone()),
            EntryKind::Membership => Payload::Membership(entry.clone(), highest_id(&entry.head)?),
            EntryKind::Batch => Payload::Batch(Batch::decode(&entry.head, &entry.body)?),
        };
        Ok(Prepared { id: entry.id, kind: entry.kind, chain, location, payload })
    }
}

impl Machine {
    /// Before the first entry.
    pub(crate) fn new(trail_id: TrailId) -> Machine {
        Machine {
            trail_id,
            id: None,
            chain: chain::genesis(&trail_id),
            tree_size: 0,
            last_received: 0,
            membership: None,
            membership_changed: false,
            max_node_id: 0,
            producers: Producers::default(),
        }
    }

    /// As the index has it.
    pub(crate) fn load(loaded: Loaded) -> Result<Machine, IndexError> {
        let state = loaded.state;
        Ok(Machine {
            producers: Producers::load(&loaded)?,
            trail_id: state.trail_id,
            id: Some(state.id),
            chain: state.chain,
            tree_size: state.tree_size,
            last_received: state.last_received,
            membership: Some(loaded.membership),
            membership_changed: false,
            max_node_id: state.max_node_id,
        })
    }

    /// Index of the entry that comes next.
    pub(crate) fn next(&self) -> u64 {
        self.id.map_or(0, |id| id.index + 1)
    }

    /// Applies the next entry. An error leaves the state as it was.
    pub(crate) fn apply(&mut self, prepared: Prepared) -> Result<Step, EntryFault> {
        let Prepared { id, kind, chain, location, payload } = prepared;
        assert_eq!(id.index, self.next(), "entries are applied in order");
        self.check_genesis(&payload)?;
        let first_leaf = self.tree_size;
        let received = self.last_received;
        let derive =
            |entry: &Entry| Derived::of(entry, &self.chain, received).expect("it is no batch");
        let (accepted, rejected, leaves) = match payload {
            Payload::Blank(entry) => (1, Vec::new(), Leaves::Derived(derive(&entry))),
            Payload::Membership(entry, highest_id) => {
                let leaves = Leaves::Derived(derive(&entry));
                self.max_node_id = self.max_node_id.max(highest_id);
                self.membership = Some((id, entry.head));
                self.membership_changed = true;
                (1, Vec::new(), leaves)
            }
            Payload::Batch(batch) => {
                let decision =
                    decide(&batch, &mut self.producers, first_leaf, &mut self.last_received);
                (decision.accepted, decision.rejected, Leaves::Batch(batch))
            }
        };
        assert!(self.last_received >= received, "received never runs backwards");
        self.id = Some(id);
        self.chain = chain;
        self.tree_size += u64::from(accepted);
        let row = EntryRow {
            index: id.index,
            kind,
            first_leaf,
            accepted,
            rejected: stretches(&rejected),
            location,
            received: self.last_received,
        };
        Ok(Step { applied: Applied { id, first_leaf, accepted, rejected }, row, leaves })
    }

    /// Leaf 0 is the membership that the trail began with, and names the trail.
    fn check_genesis(&self, payload: &Payload) -> Result<(), EntryFault> {
        match payload {
            _ if self.tree_size > 0 => Ok(()),
            Payload::Membership(entry, _) => {
                let membership = Membership::decode(&entry.head[..]);
                match membership.map(|m| m.trail_id == self.trail_id.0[..]) {
                    Ok(true) => Ok(()),
                    _ => Err(EntryFault::OtherTrail { expected: self.trail_id }),
                }
            }
            _ => Err(EntryFault::NoGenesis),
        }
    }
}

impl Step {
    /// Leaf hashes of what was accepted, in order, into `hashes`, which is cleared first.
    pub(crate) fn leaf_hashes(&self, hashes: &mut Vec<Hash>) {
        hashes.clear();
        match &self.leaves {
            Leaves::Derived(derived) => hashes.push(leaf_hash(&derived.leaf)),
            Leaves::Batch(batch) => {
                let mut rejected = self.applied.rejected.iter().map(|(position, _)| *position);
                let mut skip = rejected.next();
                for position in 0..batch.count() {
                    if skip == Some(position as u32) {
                        skip = rejected.next();
                        continue;
                    }
                    hashes.push(leaf_hash(batch.leaf_bytes(position)));
                }
            }
        }
        assert_eq!(hashes.len(), self.applied.accepted as usize, "one hash for each leaf");
    }
}

/// The highest node id in a membership's payload.
fn highest_id(payload: &[u8]) -> Result<u64, EntryFault> {
    let membership = Membership::decode(payload).map_err(|_| EntryFault::Membership)?;
    let members = membership.members.iter().map(|member| member.id);
    let voters = membership.voter_sets.iter().flat_map(|set| set.node_ids.iter().copied());
    Ok(members.chain(voters).max().unwrap_or(0))
}
