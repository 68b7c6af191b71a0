//! Who has to sign: the voters in force at a tree size, and whether enough of them have.
//!
//! A node judges notes by the membership in its own trail, never by a policy file: the file is for
//! those outside, who cannot see the trail before they trust it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use indelible_core::key::KeyError;
use indelible_core::{Checkpoint, KeyType, LeafIndex, Note, VerifierKey, node_key_name};
use indelible_proto::v1;
use prost::Message;

use crate::raft::membership;
use crate::raft::types::{Membership, Peer};
use crate::storage::ledger::{Ledger, LedgerError};

/// A node's cosigner key, from its public half in the membership.
pub fn node_key(origin: &str, node_id: u64, peer: &Peer) -> Result<VerifierKey, KeyError> {
    VerifierKey::new(node_key_name(origin, node_id), KeyType::Cosigner, peer.public_key)
}

/// The voters of one membership, with their keys.
#[derive(Debug)]
pub struct Electorate {
    origin: String,
    /// None on a node that was not given it: then cosignatures alone count.
    log: Option<VerifierKey>,
    /// Every member whose key can sign, voter or not.
    members: BTreeMap<u64, (VerifierKey, Peer)>,
    /// One set of voters, or two while a change is under way.
    sets: Vec<BTreeSet<u64>>,
}

/// A note that enough voters have signed.
#[derive(Debug, Clone)]
pub struct Valid {
    /// It.
    pub note: Note,
    /// What was signed.
    pub checkpoint: Checkpoint,
    /// The newest time, in Unix seconds, at or after which a majority had signed.
    pub unix_s: u64,
    /// Which members have signed, and when.
    pub signed: BTreeMap<u64, u64>,
}

/// Why a text is no note that a majority stands behind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Not a signed note.
    #[error(transparent)]
    Note(#[from] indelible_core::note::NoteError),
    /// Not a checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] indelible_core::checkpoint::CheckpointError),
    /// Of another trail, or with lines that nobody audits.
    #[error("the checkpoint is of {actual:?}, this trail is {expected:?}")]
    Origin {
        /// This trail's origin.
        expected: String,
        /// The checkpoint's.
        actual: String,
    },
    /// Has lines after the root: a trail's checkpoints have none.
    #[error("the checkpoint has extension lines, which no node signs")]
    Extensions,
    /// A signature under a known key's name that is not by this key.
    #[error("the signature of {name} does not hold: {source}")]
    Signature {
        /// The key's name.
        name: String,
        /// Why not.
        source: indelible_core::key::SignatureError,
    },
    /// The log has not signed.
    #[error("the log's own signature is missing")]
    NoLogSignature,
    /// Too few voters have signed.
    #[error("cosigned by nodes {signed:?}, which is no majority of the voters {voters:?}")]
    TooFew {
        /// Members that have signed.
        signed: Vec<u64>,
        /// Whose majority counts, in each set.
        voters: Vec<Vec<u64>>,
    },
}

impl Electorate {
    /// Of a membership. Members whose bytes are no key cannot sign.
    pub fn new(origin: &str, log: Option<VerifierKey>, membership: &Membership) -> Electorate {
        Self::of(origin, log, membership.nodes(), membership.get_joint_config().clone())
    }

    /// Of the initial voters, before there is a membership.
    pub fn genesis(
        origin: &str,
        log: Option<VerifierKey>,
        peers: &BTreeMap<u64, Peer>,
    ) -> Electorate {
        let sets = if peers.is_empty() { vec![] } else { vec![peers.keys().copied().collect()] };
        Self::of(origin, log, peers.iter(), sets)
    }

    fn of<'a>(
        origin: &str,
        log: Option<VerifierKey>,
        members: impl Iterator<Item = (&'a u64, &'a Peer)>,
        sets: Vec<BTreeSet<u64>>,
    ) -> Electorate {
        let members = members
            .filter_map(|(id, peer)| {
                let key = node_key(origin, *id, peer).ok()?;
                Some((*id, (key, peer.clone())))
            })
            .collect();
        Electorate { origin: origin.to_owned(), log, members, sets }
    }

    /// Every voter, with where it is.
    pub fn voters(&self) -> impl Iterator<Item = (u64, &Peer)> {
        let votes = |id: &u64| self.sets.iter().any(|set| set.contains(id));
        self.members.iter().filter(move |(id, _)| votes(id)).map(|(id, (_, peer))| (*id, peer))
    }

    /// A member's key.
    pub fn key(&self, node_id: u64) -> Option<&VerifierKey> {
        self.members.get(&node_id).map(|(key, _)| key)
    }

    /// Whether these nodes are a majority of every set of voters.
    pub fn is_majority(&self, nodes: impl Fn(u64) -> bool) -> bool {
        let enough =
            |set: &BTreeSet<u64>| set.iter().filter(|id| nodes(**id)).count() > set.len() / 2;
        !self.sets.is_empty() && self.sets.iter().all(enough)
    }

    /// The newest time at or after which a majority of every set had signed; none if no majority
    /// has.
    pub fn majority_time(&self, signed: &BTreeMap<u64, u64>) -> Option<u64> {
        let time = |set: &BTreeSet<u64>| {
            let mut times: Vec<u64> = set.iter().filter_map(|id| signed.get(id).copied()).collect();
            times.sort_unstable_by(|a, b| b.cmp(a));
            times.get(set.len() / 2).copied()
        };
        let times: Option<Vec<u64>> = self.sets.iter().map(time).collect();
        times?.into_iter().min()
    }

    /// Checks a note: this trail's checkpoint, signed by the log and by a majority. Signatures of
    /// others are passed over; one under a member's name must hold.
    pub fn check(&self, text: &str) -> Result<Valid, Invalid> {
        let note = Note::parse(text)?;
        let checkpoint = self.checkpoint(&note.text)?;
        let mut log_has_signed = self.log.is_none();
        let mut signed: BTreeMap<u64, u64> = BTreeMap::new();
        for signature in &note.signatures {
            let wrong = |source| Invalid::Signature { name: signature.name.clone(), source };
            if let Some(log) = self.log.as_ref().filter(|log| log.is_named_by(signature)) {
                log.verify(&note.text, signature).map_err(wrong)?;
                log_has_signed = true;
                continue;
            }
            let member = self.members.iter().find(|(_, (key, _))| key.is_named_by(signature));
            let Some((id, (key, _))) = member else { continue };
            let unix_s = key.verify(&note.text, signature).map_err(wrong)?.unix_s.unwrap_or(0);
            let newest = signed.entry(*id).or_default();
            *newest = unix_s.max(*newest);
        }
        if !log_has_signed {
            return Err(Invalid::NoLogSignature);
        }
        let Some(unix_s) = self.majority_time(&signed) else {
            let voters = self.sets.iter().map(|set| set.iter().copied().collect()).collect();
            return Err(Invalid::TooFew { signed: signed.into_keys().collect(), voters });
        };
        Ok(Valid { note, checkpoint, unix_s, signed })
    }

    /// The checkpoint of a text, if it is one that this trail's nodes sign.
    pub fn checkpoint(&self, text: &str) -> Result<Checkpoint, Invalid> {
        let checkpoint = Checkpoint::parse(text)?;
        if checkpoint.origin != self.origin {
            let (expected, actual) = (self.origin.clone(), checkpoint.origin);
            return Err(Invalid::Origin { expected, actual });
        }
        if !checkpoint.extensions.is_empty() {
            return Err(Invalid::Extensions);
        }
        Ok(checkpoint)
    }
}

/// The voters in force at every size, out of the trail itself.
#[derive(Debug)]
pub struct Electorates {
    ledger: Ledger,
    origin: String,
    log: Option<VerifierKey>,
    genesis: Arc<Electorate>,
    /// By the leaf of their membership record. Memberships never change, so this is only a cache;
    /// it is as small as their number.
    known: Mutex<BTreeMap<LeafIndex, Arc<Electorate>>>,
}

impl Electorates {
    /// `genesis` are the initial voters; empty on a node that was added later.
    pub fn new(
        ledger: Ledger,
        origin: &str,
        log: Option<VerifierKey>,
        genesis: &BTreeMap<u64, Peer>,
    ) -> Electorates {
        let genesis = Arc::new(Electorate::genesis(origin, log.clone(), genesis));
        Electorates { ledger, origin: origin.to_owned(), log, genesis, known: Mutex::default() }
    }

    /// The voters of the newest membership among the first `size` leaves, or among those that are
    /// applied here if there are fewer. May read the disk the first time.
    pub fn at(&self, size: u64) -> Result<Arc<Electorate>, LedgerError> {
        let size = size.min(self.ledger.head().borrow().tree_size);
        let Some(leaf) = self.ledger.key_records(size)?.pop() else {
            return Ok(self.genesis.clone());
        };
        if let Some(known) = self.known().get(&leaf) {
            return Ok(known.clone());
        }
        let damaged = |what| LedgerError::Damaged { leaf, what };
        let record = self.ledger.record(leaf)?.ok_or(damaged("it is missing"))?;
        let record = v1::MembershipRecord::decode(record.event)
            .map_err(|_| damaged("it is no membership record"))?;
        let payload = record.membership.unwrap_or_default().encode_to_vec();
        let membership = membership::decode(&payload)
            .map_err(|_| damaged("its membership cannot be decoded"))?;
        let electorate = Arc::new(Electorate::new(&self.origin, self.log.clone(), &membership));
        self.known().insert(leaf, electorate.clone());
        Ok(electorate)
    }

    /// The newest voters that are applied here.
    pub fn newest(&self) -> Result<Arc<Electorate>, LedgerError> {
        self.at(u64::MAX)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<LeafIndex, Arc<Electorate>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
