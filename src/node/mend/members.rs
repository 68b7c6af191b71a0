//! Whom to ask, before the log is open: the newest membership that can be read from the segments,
//! else the nodes with which the trail began.

use std::collections::{BTreeMap, BTreeSet};

use indelible_core::EntryKind;

use crate::disk::DiskError;
use crate::raft::membership;
use crate::raft::types::Membership;
use crate::storage::identity::Genesis;
use crate::storage::mend::SegmentSource;

/// Bytes of entries that are read together.
const READ_BYTES: usize = 4 * 1024 * 1024;

/// Members and voters, as far as this node can tell.
#[derive(Debug, Clone, Default)]
pub struct Members {
    /// Raft addresses of all members, by id.
    pub addrs: BTreeMap<u64, String>,
    /// The voters; two sets while a change is under way.
    pub voters: Vec<BTreeSet<u64>>,
    /// One past the entry that says so; 0 if the genesis does, or it is not known.
    pub(super) since: u64,
}

impl Members {
    /// Of the genesis.
    pub fn of_genesis(genesis: Option<&Genesis>) -> Members {
        let nodes = genesis.map(|genesis| &genesis.nodes[..]).unwrap_or_default();
        let addrs: BTreeMap<u64, String> =
            nodes.iter().map(|node| (node.id, node.raft_addr.clone())).collect();
        let voters: BTreeSet<u64> = addrs.keys().copied().collect();
        let voters = if voters.is_empty() { Vec::new() } else { vec![voters] };
        Members { addrs, voters, since: 0 }
    }

    /// Of a membership.
    pub fn of(membership: &Membership) -> Members {
        Members {
            addrs: membership.nodes().map(|(id, peer)| (*id, peer.raft_addr.clone())).collect(),
            voters: membership.get_joint_config().clone(),
            since: 0,
        }
    }

    /// The newest in the segments. Blocks, and reads all of them: only a damaged log pays for it.
    pub(super) fn read(
        source: &SegmentSource,
        genesis: Option<&Genesis>,
    ) -> Result<Members, DiskError> {
        let mut members = Members::of_genesis(genesis);
        let mut next = 0;
        loop {
            let entries = source.entries(next..u64::MAX, READ_BYTES)?;
            let Some(last) = entries.last() else { return Ok(members) };
            next = last.entry.id.index + 1;
            for fetched in &entries {
                if fetched.entry.kind == EntryKind::Membership
                    && let Ok(membership) = membership::decode(&fetched.entry.head)
                {
                    let since = fetched.entry.id.index + 1;
                    members = Members { since, ..Members::of(&membership) };
                }
            }
        }
    }

    /// All but one, in an order that begins after it: nodes that mend each other do not all ask the
    /// same one first.
    pub(super) fn others(&self, node_id: u64) -> Vec<(u64, String)> {
        let pair = |(id, addr): (&u64, &String)| (*id, addr.clone());
        let after = self.addrs.range(node_id + 1..).map(pair);
        after.chain(self.addrs.range(..node_id).map(pair)).collect()
    }
}
