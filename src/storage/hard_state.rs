//! What a node must never forget besides the log: its vote, and how often it and its peers have
//! started (docs/FORMAT.md, "Hard state").

use std::collections::VecDeque;

use crate::disk::{Dir, DiskError, SLOT_PAYLOAD_SIZE, SlotFile, SlotsError};

use super::frame::{u32_at, u64_at};

/// Name of the file.
pub const HARD_STATE_FILE: &str = "hard_state";
/// Peers whose boot counters are kept; the one saved longest ago leaves first.
pub const PEER_BOOTS_MAX: usize = 24;

const MAGIC: [u8; 8] = *b"INDHARDS";
const PEERS_OFFSET: usize = 88;
const PEER_SIZE: usize = 16;
const SIZE: usize = PEERS_OFFSET + PEER_BOOTS_MAX * PEER_SIZE;

const _: () = {
    assert!(SIZE <= SLOT_PAYLOAD_SIZE);
    // All members besides this node fit, and as many again that have left.
    assert!(PEER_BOOTS_MAX >= indelible_core::limits::MEMBERS_MAX);
};

/// A vote as Raft means it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StoredVote {
    /// In this term,
    pub term: u64,
    /// for this node,
    pub node_id: u64,
    /// which is known to have won (or not yet).
    pub committed: bool,
}

/// The value of the file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HardState {
    /// The newest vote.
    pub vote: Option<StoredVote>,
    /// How often this node has opened its log.
    pub boot_count: u64,
    /// Node id and boot counter of peers, the one saved last at the end.
    peer_boots: VecDeque<(u64, u64)>,
}

impl HardState {
    /// The boot counter of a peer that was saved last.
    pub fn peer_boot(&self, node_id: u64) -> Option<u64> {
        self.peer_boots.iter().find(|(id, _)| *id == node_id).map(|(_, boot)| *boot)
    }

    /// The boot counters of all peers, by id.
    pub fn peer_boots(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.peer_boots.iter().copied()
    }

    /// Notes the boot counter of a peer; past the limit the one noted longest ago is forgotten.
    pub fn set_peer_boot(&mut self, node_id: u64, boot: u64) {
        self.peer_boots.retain(|(id, _)| *id != node_id);
        if self.peer_boots.len() == PEER_BOOTS_MAX {
            self.peer_boots.pop_front();
        }
        self.peer_boots.push_back((node_id, boot));
    }

    fn encode(&self) -> [u8; SIZE] {
        let mut out = [0; SIZE];
        if let Some(vote) = self.vote {
            out[0] = 1;
            out[1] = vote.committed.into();
            out[8..16].copy_from_slice(&vote.term.to_le_bytes());
            out[16..24].copy_from_slice(&vote.node_id.to_le_bytes());
        }
        out[24..32].copy_from_slice(&self.boot_count.to_le_bytes());
        // 32..80 is reserved: the last signed size and root have a file of their own (`signed`).
        out[80..84].copy_from_slice(&(self.peer_boots.len() as u32).to_le_bytes());
        for (slot, (id, boot)) in
            out[PEERS_OFFSET..].chunks_exact_mut(PEER_SIZE).zip(&self.peer_boots)
        {
            slot[..8].copy_from_slice(&id.to_le_bytes());
            slot[8..].copy_from_slice(&boot.to_le_bytes());
        }
        out
    }

    fn decode(bytes: &[u8; SLOT_PAYLOAD_SIZE]) -> Option<HardState> {
        let vote = match (bytes[0], bytes[1]) {
            (0, 0) => None,
            (1, committed @ (0 | 1)) => Some(StoredVote {
                term: u64_at(bytes, 8),
                node_id: u64_at(bytes, 16),
                committed: committed == 1,
            }),
            _ => return None,
        };
        let count = u32_at(bytes, 80) as usize;
        if count > PEER_BOOTS_MAX {
            return None;
        }
        let peers = bytes[PEERS_OFFSET..].chunks_exact(PEER_SIZE).take(count);
        let peer_boots = peers.map(|peer| (u64_at(peer, 0), u64_at(peer, 8))).collect();
        Some(HardState { vote, boot_count: u64_at(bytes, 24), peer_boots })
    }
}

/// The file, and the value in it.
#[derive(Debug)]
pub struct HardStateFile {
    slots: SlotFile,
    /// What both slots hold.
    value: HardState,
}

impl HardStateFile {
    /// Makes the file of a node that has never started.
    pub fn create(dir: &Dir) -> Result<HardStateFile, DiskError> {
        let value = HardState::default();
        let slots = SlotFile::create(dir, HARD_STATE_FILE, MAGIC, &value.encode())?;
        Ok(HardStateFile { slots, value })
    }

    /// Opens the file and reads it.
    pub fn open(dir: &Dir) -> Result<HardStateFile, SlotsError> {
        let (slots, payload) = SlotFile::open(dir, HARD_STATE_FILE, MAGIC)?;
        let damaged = || SlotsError::Damaged { path: dir.path().join(HARD_STATE_FILE) };
        let value = HardState::decode(&payload).ok_or_else(damaged)?;
        Ok(HardStateFile { slots, value })
    }

    /// The value.
    pub fn value(&self) -> &HardState {
        &self.value
    }

    /// Changes the value durably, in both slots: a vote is written rarely, and a slot that rots
    /// must not bring back the vote before it. Crash before the return: the old value or the new
    /// one; nobody has been told of the new one.
    pub fn update(&mut self, change: impl FnOnce(&mut HardState)) -> Result<(), DiskError> {
        let mut value = self.value.clone();
        change(&mut value);
        assert!(value.boot_count >= self.value.boot_count, "the boot counter went back");
        self.slots.write_both(&value.encode())?;
        self.value = value;
        Ok(())
    }
}
