//! What a node must never forget besides the log: its vote, its newest boot, where its log ended,
//! and the newest boots of its peers that it has admitted (docs/FORMAT.md, "Hard state").

use std::collections::VecDeque;

use indelible_lineage::{Admitted, Boot, Bound, Draw, LogEnd};

use crate::disk::{Dir, DiskError, SlotFile, SlotKind, SlotsError};

use super::frame::{u32_at, u64_at};
use super::synced::Promise;

/// Name of the file.
pub const HARD_STATE_FILE: &str = "hard_state";
/// How it is stored.
pub(super) const HARD_STATE_SLOTS: SlotKind =
    SlotKind { name: HARD_STATE_FILE, magic: *b"INDHARDS", slot_size: 4096 };
/// Peers whose boots are kept; the one saved longest ago leaves first.
pub const PEERS_MAX: usize = 24;

const PEERS_OFFSET: usize = 112;
const PEER_SIZE: usize = 120;
const SIZE: usize = PEERS_OFFSET + PEERS_MAX * PEER_SIZE;

const _: () = {
    assert!(SIZE <= HARD_STATE_SLOTS.payload_size());
    // All members besides this node fit, and as many again that have left.
    assert!(PEERS_MAX >= indelible_core::limits::MEMBERS_MAX);
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

impl StoredVote {
    /// Whom it promises to follow.
    pub fn promise(&self) -> Promise {
        Promise { term: self.term, leader: self.node_id }
    }
}

/// A boot with its node's signature, which can be shown to anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignedBoot {
    /// The boot.
    pub boot: Boot,
    /// Ed25519 over [`indelible_lineage::Statement::text`].
    pub signature: [u8; 64],
}

/// What is remembered of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerBoot {
    /// Its newest boot that was admitted.
    pub signed: SignedBoot,
    /// See [`Admitted`].
    pub is_first_contact: bool,
}

impl PeerBoot {
    /// As the rules take it.
    pub fn admitted(&self) -> Admitted {
        Admitted { boot: self.signed.boot, is_first_contact: self.is_first_contact }
    }
}

/// The value of the file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HardState {
    /// The newest vote.
    pub vote: Option<StoredVote>,
    /// The newest boot, and where the log ended; none before the first start.
    pub bound: Option<Bound>,
    /// Peers and the newest boot of each that was admitted, the one saved last at the end.
    peers: VecDeque<(u64, PeerBoot)>,
}

impl HardState {
    /// Number of the newest boot; 0 before the first start.
    pub fn boot_count(&self) -> u64 {
        self.bound.map_or(0, |bound| bound.boot.number)
    }

    /// The promise of the newest vote; the lowest one without a vote.
    pub fn promise(&self) -> Promise {
        self.vote.as_ref().map(StoredVote::promise).unwrap_or_default()
    }

    /// Raises the vote to a promise that is known to have been kept, if it is lower.
    pub fn raise(&mut self, promise: Promise) {
        if self.promise() < promise {
            let Promise { term, leader } = promise;
            // The log was changed under it: that leader was elected.
            self.vote = Some(StoredVote { term, node_id: leader, committed: true });
        }
    }

    /// The newest boot of a peer that was admitted.
    pub fn peer(&self, node_id: u64) -> Option<PeerBoot> {
        self.peers.iter().find(|(id, _)| *id == node_id).map(|(_, peer)| *peer)
    }

    /// The newest boots of all peers, by id.
    pub fn peers(&self) -> impl Iterator<Item = (u64, PeerBoot)> + '_ {
        self.peers.iter().copied()
    }

    /// Notes the newest boot of a peer; past the limit the one noted longest ago is forgotten.
    pub fn set_peer(&mut self, node_id: u64, peer: PeerBoot) {
        self.peers.retain(|(id, _)| *id != node_id);
        if self.peers.len() == PEERS_MAX {
            self.peers.pop_front();
        }
        self.peers.push_back((node_id, peer));
    }

    /// Forgets the boots of all peers.
    pub fn forget_peers(&mut self) {
        self.peers.clear();
    }

    fn encode(&self) -> [u8; SIZE] {
        let mut out = [0; SIZE];
        if let Some(vote) = self.vote {
            out[0] = 1;
            out[1] = vote.committed.into();
            out[8..16].copy_from_slice(&vote.term.to_le_bytes());
            out[16..24].copy_from_slice(&vote.node_id.to_le_bytes());
        }
        if let Some(Bound { boot, draw, log_end }) = self.bound {
            assert!(boot.number > 0, "the root of a lineage is no start");
            out[24..32].copy_from_slice(&boot.number.to_le_bytes());
            out[32..64].copy_from_slice(&boot.hash);
            out[64..80].copy_from_slice(&draw.0);
            out[80..88].copy_from_slice(&log_end.entries.to_le_bytes());
            out[88..96].copy_from_slice(&log_end.term.to_le_bytes());
            out[96..104].copy_from_slice(&log_end.leader.to_le_bytes());
        }
        out[104..108].copy_from_slice(&(self.peers.len() as u32).to_le_bytes());
        for (slot, (id, peer)) in out[PEERS_OFFSET..].chunks_exact_mut(PEER_SIZE).zip(&self.peers) {
            slot[..8].copy_from_slice(&id.to_le_bytes());
            slot[8..16].copy_from_slice(&peer.signed.boot.number.to_le_bytes());
            slot[16..48].copy_from_slice(&peer.signed.boot.hash);
            slot[48] = peer.is_first_contact.into();
            slot[56..120].copy_from_slice(&peer.signed.signature);
        }
        out
    }

    fn decode(bytes: &[u8]) -> Option<HardState> {
        let vote = match (bytes[0], bytes[1]) {
            (0, 0) => None,
            (1, committed @ (0 | 1)) => Some(StoredVote {
                term: u64_at(bytes, 8),
                node_id: u64_at(bytes, 16),
                committed: committed == 1,
            }),
            _ => return None,
        };
        let boot = boot_at(bytes, 24);
        let bound = (boot.number > 0).then(|| Bound {
            boot,
            draw: Draw(array_at(bytes, 64)),
            log_end: LogEnd {
                entries: u64_at(bytes, 80),
                term: u64_at(bytes, 88),
                leader: u64_at(bytes, 96),
            },
        });
        let count = u32_at(bytes, 104) as usize;
        if count > PEERS_MAX {
            return None;
        }
        let peers = bytes[PEERS_OFFSET..].chunks_exact(PEER_SIZE).take(count);
        let peers = peers.map(|peer| {
            let is_first_contact = match peer[48] {
                flag @ (0 | 1) => flag == 1,
                _ => return None,
            };
            let signed = SignedBoot { boot: boot_at(peer, 8), signature: array_at(peer, 56) };
            Some((u64_at(peer, 0), PeerBoot { signed, is_first_contact }))
        });
        Some(HardState { vote, bound, peers: peers.collect::<Option<_>>()? })
    }
}

/// Number and hash.
fn boot_at(bytes: &[u8], offset: usize) -> Boot {
    Boot { number: u64_at(bytes, offset), hash: array_at(bytes, offset + 8) }
}

fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    bytes[offset..offset + N].try_into().expect("so many bytes")
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
        let slots = SlotFile::create(dir, HARD_STATE_SLOTS, &value.encode())?;
        Ok(HardStateFile { slots, value })
    }

    /// Opens the file and reads it.
    pub fn open(dir: &Dir) -> Result<HardStateFile, SlotsError> {
        let (slots, payload) = SlotFile::open(dir, HARD_STATE_SLOTS)?;
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
        let (before, after) = (self.value.boot_count(), value.boot_count());
        assert!(after >= before, "the boot went back from {before} to {after}");
        self.slots.write_both(&value.encode())?;
        self.value = value;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(number: u64) -> PeerBoot {
        let boot = Boot { number, hash: [number as u8; 32] };
        let signed = SignedBoot { boot, signature: [number as u8 + 1; 64] };
        PeerBoot { signed, is_first_contact: number.is_multiple_of(2) }
    }

    #[test]
    fn all_of_it_is_read_back() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path(), true).unwrap();
        let mut file = HardStateFile::create(&dir).unwrap();
        assert_eq!(file.value(), &HardState::default());
        let boot = Boot { number: 3, hash: [9; 32] };
        let log_end = LogEnd { entries: 10, term: 4, leader: 2 };
        file.update(|state| {
            state.vote = Some(StoredVote { term: 5, node_id: 1, committed: true });
            state.bound = Some(Bound { boot, draw: Draw([7; 16]), log_end });
            (1..=PEERS_MAX as u64 + 2).for_each(|id| state.set_peer(id, admitted(id)));
            state.set_peer(4, admitted(1));
        })
        .unwrap();
        let read = HardStateFile::open(&dir).unwrap();
        assert_eq!(read.value(), file.value());
        assert_eq!((read.value().peer(2), read.value().peer(4)), (None, Some(admitted(1))));
        assert_eq!(read.value().peers().count(), PEERS_MAX);
        assert_eq!(read.value().bound.unwrap().log_end, log_end);
    }

    #[test]
    fn a_vote_is_raised_and_never_lowered() {
        let mut state = HardState::default();
        state.raise(Promise::default());
        assert_eq!(state.vote, None);
        state.raise(Promise { term: 2, leader: 3 });
        let raised = StoredVote { term: 2, node_id: 3, committed: true };
        assert_eq!(state.vote, Some(raised));
        for lower in [Promise { term: 2, leader: 2 }, Promise { term: 1, leader: 9 }] {
            state.raise(lower);
            assert_eq!(state.vote, Some(raised));
        }
    }
}
