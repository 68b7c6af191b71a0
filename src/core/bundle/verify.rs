//! Verifying a bundle while it is read: every record is hashed in place, nothing is allocated for
//! it.

use std::io::Read;
use std::ops::Range;

use sha3::{Digest, Sha3_256};

use super::read::Input;
use super::{
    BundleError, BundleHeader, BundleReader, CHECK_SIZE, KeyRecord, Older, PRESENT,
    RECORD_HEAD_SIZE, RecordFault, SUBTREE_LEVEL, WITHHELD, check_of,
};
use crate::leaf::{LEAF_SIZE, commit, leaf_hash};
use crate::limits::EVENT_BYTES_MAX;
use crate::merkle::{Frontier, verify_consistency, verify_inclusion};
use crate::policy::PolicyError;
use crate::{Checkpoint, Hash, Kind, Leaf, LeafIndex, Policy, Salt, Trusted};

/// A record of a bundle, sound in itself: the leaf is one, and commits to the event. Whether it is
/// in the tree is known only when the whole bundle is verified.
#[derive(Debug, Clone, Copy)]
pub struct RecordRef<'a> {
    /// Its position.
    pub index: LeafIndex,
    /// Its leaf.
    pub leaf: &'a Leaf,
    /// Salt and event; `None` if they are withheld.
    pub content: Option<(&'a [u8; Salt::SIZE], &'a [u8])>,
}

/// How it is known that the trail grew from an older checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// It is of the same size and has the same root.
    Same,
    /// Its root was computed from the records of the bundle.
    Recomputed,
    /// The bundle has a consistency proof.
    Proven,
}

impl Consistency {
    /// Its name in output for people and programs.
    pub fn name(self) -> &'static str {
        match self {
            Consistency::Same => "same",
            Consistency::Recomputed => "recomputed",
            Consistency::Proven => "proven",
        }
    }
}

/// An older checkpoint that the trail was shown to have grown from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Against {
    /// Size of its tree.
    pub size: u64,
    /// How it is known.
    pub consistency: Consistency,
}

/// Size of an older checkpoint, and which signatures the policy misses.
pub type Doubted = (u64, PolicyError);

/// What a bundle proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The tree that the records are in. As good as the bundle unless `trusted` is there.
    pub checkpoint: Checkpoint,
    /// What the policy says; `None` if none was given.
    pub trusted: Option<Trusted>,
    /// The records, all of which were there.
    pub records: Range<LeafIndex>,
    /// Records whose salt and event are withheld.
    pub withheld: u64,
    /// Bytes of all events that were there.
    pub event_bytes: u64,
    /// The older checkpoints that were given.
    pub against: Vec<Against>,
    /// Sizes of the older checkpoints in the bundle, which the trail grew from. Sizes that have a
    /// proof and no checkpoint are not among them: only [`Self::against`] is held against those.
    pub older: Vec<u64>,
    /// Those of them that the policy does not believe, and why: they may be older than the policy's
    /// keys. That the trail grew from them is proven all the same.
    pub older_doubted: Vec<Doubted>,
    /// The records that say whose keys count, all of which are in the tree.
    pub keys: Vec<KeyRecord>,
    /// Indexes of records of kinds 3 and 12 in the range that the key history leaves out.
    pub keys_left_out: Vec<LeafIndex>,
}

/// Most of them that are reported.
const KEYS_LEFT_OUT_MAX: usize = 100;

impl<R: Read> BundleReader<R> {
    /// Verifies all of it: the checkpoint by the policy, the key history and the older checkpoints
    /// in the bundle, every record, and that all of them are the leaves of the checkpoint's tree.
    /// Then that the trail grew from the older checkpoints `against`.
    ///
    /// `each` sees every record in order, before it is known that it is in the tree: what it makes
    /// of them counts only if this function returns `Ok`.
    pub fn verify(
        self,
        policy: Option<&Policy>,
        against: &[Checkpoint],
        mut each: impl FnMut(RecordRef<'_>),
    ) -> Result<Verified, BundleError> {
        let BundleReader { mut input, header, checkpoint } = self;
        let trusted = policy.map(|policy| policy.check(&header.note)).transpose()?;
        check_keys(&header, &checkpoint)?;
        let (older, older_doubted) = check_older(&header, &checkpoint, policy)?;
        let mut sizes = OldRoots::plan(&header, &checkpoint, against)?;
        let records = header.proof.from..header.proof.to;
        let mut walk = Walk::new(&header)?;
        let mut block = Vec::new();
        while walk.frontier.size() < records.end {
            input.block(&mut block, walk.frontier.size())?;
            walk.block(&block, records.end, &mut sizes, &mut each)?;
        }
        sizes.see(&walk.frontier);
        let wrong = walk.compare_subtrees(&mut input)?;
        input.end()?;
        let Walk { frontier, withheld, event_bytes, keys_left_out, .. } = walk;
        let computed = header.proof.finish(frontier).map_err(BundleError::Range)?;
        if computed != checkpoint.root {
            let Checkpoint { size: tree_size, root: expected, .. } = checkpoint;
            return Err(BundleError::Root { tree_size, expected, computed, records, wrong });
        }
        if let Some(records) = wrong {
            return Err(BundleError::Subtree { records });
        }
        // Not before it is known that the records are the checkpoint's: a damaged file is no
        // evidence against anybody.
        sizes.outcome()?;
        let against = compare(&header, &checkpoint, against)?;
        Ok(Verified {
            checkpoint,
            trusted,
            records,
            withheld,
            event_bytes,
            against,
            older,
            older_doubted,
            keys: header.keys,
            keys_left_out,
        })
    }
}

/// Every record of the key history is in the tree, and its event the one that it commits to.
fn check_keys(header: &BundleHeader, checkpoint: &Checkpoint) -> Result<(), BundleError> {
    for record in &header.keys {
        let KeyRecord { index, leaf, salt, event, proof } = record;
        let fault = |fault| BundleError::KeyRecord { index: *index, fault };
        let (expected, actual) = (leaf.commitment, commit(salt, event));
        if actual != expected {
            return Err(fault(RecordFault::Commitment { expected, actual }));
        }
        let hash = leaf_hash(&leaf.encode());
        verify_inclusion(*index, checkpoint.size, &hash, proof, &checkpoint.root)
            .map_err(|source| fault(RecordFault::Proof(source)))?;
    }
    Ok(())
}

/// Every older checkpoint of the bundle is one of this trail, and consistent. Returns their sizes,
/// and which of them lack signatures that the policy wants.
fn check_older(
    header: &BundleHeader,
    checkpoint: &Checkpoint,
    policy: Option<&Policy>,
) -> Result<(Vec<u64>, Vec<Doubted>), BundleError> {
    let (mut sizes, mut doubted) = (Vec::new(), Vec::new());
    for older in &header.older {
        let Some(note) = &older.note else { continue };
        let (size, tree_size) = (older.size, checkpoint.size);
        match policy.map(|policy| policy.check(note)) {
            None | Some(Ok(_)) => {}
            // The log's key does not change with the nodes.
            Some(Err(lack @ PolicyError::Quorum { .. })) => doubted.push((size, lack)),
            Some(Err(source)) => return Err(BundleError::OlderUntrusted { size, source }),
        }
        sizes.push(size);
        let old = Checkpoint::parse(&note.text)?;
        if old.origin != checkpoint.origin || old.size != size {
            return Err(BundleError::Form { what: "an older checkpoint is another one" });
        }
        verify_consistency(size, tree_size, &older.proof, &old.root, &checkpoint.root)
            .map_err(|source| BundleError::Older { size, tree_size, source })?;
    }
    Ok((sizes, doubted))
}

/// The older checkpoints whose roots the records give, by ascending size.
struct OldRoots<'a> {
    rest: Vec<&'a Checkpoint>,
    /// The first one that has another root, and the root that the records give.
    other: Option<(&'a Checkpoint, Hash)>,
}

impl<'a> OldRoots<'a> {
    /// Refuses, before the records are read, what they will not tell.
    fn plan(
        header: &BundleHeader,
        checkpoint: &Checkpoint,
        against: &'a [Checkpoint],
    ) -> Result<OldRoots<'a>, BundleError> {
        let mut rest = Vec::new();
        for old in against {
            if old.origin != checkpoint.origin {
                let (expected, actual) = (checkpoint.origin.clone(), old.origin.clone());
                return Err(BundleError::AgainstOrigin { expected, actual });
            }
            if let How::Records = how(header, checkpoint, old)? {
                rest.push(old);
            }
        }
        // The smallest is taken from the end.
        rest.sort_by_key(|old| std::cmp::Reverse(old.size));
        Ok(OldRoots { rest, other: None })
    }

    /// Size at which to look next.
    fn next(&self) -> u64 {
        self.rest.last().map_or(u64::MAX, |old| old.size)
    }

    /// Compares those that are of the size that was reached.
    fn see(&mut self, frontier: &Frontier) {
        while let Some(old) = self.rest.pop_if(|old| old.size == frontier.size()) {
            let root = frontier.root();
            if old.root != root && self.other.is_none() {
                self.other = Some((old, root));
            }
        }
    }

    fn outcome(&self) -> Result<(), BundleError> {
        assert!(self.rest.is_empty(), "every size of the range was reached");
        match self.other {
            None => Ok(()),
            Some((old, actual)) => {
                let (size, expected) = (old.size, old.root);
                Err(BundleError::AgainstRoot { size, expected, actual })
            }
        }
    }
}

/// What tells whether the trail grew from an older checkpoint.
enum How<'a> {
    Root,
    Records,
    Proof(&'a Older),
    /// Every trail grew from nothing.
    Nothing,
}

fn how<'a>(
    header: &'a BundleHeader,
    checkpoint: &Checkpoint,
    old: &Checkpoint,
) -> Result<How<'a>, BundleError> {
    let (size, tree_size, records) =
        (old.size, checkpoint.size, header.proof.from..header.proof.to);
    if size > tree_size {
        return Err(BundleError::AgainstNewer { size, tree_size });
    }
    if size == tree_size {
        return Ok(How::Root);
    }
    if (records.start..=records.end).contains(&size) {
        return Ok(How::Records);
    }
    if size == 0 {
        return Ok(How::Nothing);
    }
    let proof = header.older.iter().find(|older| older.size == size);
    proof.map(How::Proof).ok_or(BundleError::AgainstUnknown { size, records })
}

/// What the records did not tell; and what to say of all of them.
fn compare(
    header: &BundleHeader,
    checkpoint: &Checkpoint,
    against: &[Checkpoint],
) -> Result<Vec<Against>, BundleError> {
    let mut compared = Vec::new();
    for old in against {
        let (size, tree_size) = (old.size, checkpoint.size);
        let (proof, consistency) = match how(header, checkpoint, old)? {
            How::Records => {
                compared.push(Against { size, consistency: Consistency::Recomputed });
                continue;
            }
            How::Root => (&[][..], Consistency::Same),
            How::Nothing => (&[][..], Consistency::Recomputed),
            How::Proof(older) => (&older.proof[..], Consistency::Proven),
        };
        if consistency == Consistency::Same && old.root != checkpoint.root {
            let (expected, actual) = (old.root, checkpoint.root);
            return Err(BundleError::AgainstRoot { size, expected, actual });
        }
        verify_consistency(size, tree_size, proof, &old.root, &checkpoint.root)
            .map_err(|source| BundleError::AgainstProof { size, tree_size, source })?;
        compared.push(Against { size, consistency });
    }
    Ok(compared)
}

/// On the way through the records.
struct Walk<'a> {
    /// The tree up to the record before.
    frontier: Frontier,
    /// When the record before was received.
    received: u64,
    withheld: u64,
    event_bytes: u64,
    /// Roots of the subtrees that the records completed, as computed.
    subtrees: Vec<Hash>,
    /// The first of them, counted from the beginning of the trail.
    first_subtree: u64,
    /// Key history that is at or after the record that comes.
    keys: &'a [KeyRecord],
    keys_left_out: Vec<LeafIndex>,
}

impl<'a> Walk<'a> {
    fn new(header: &'a BundleHeader) -> Result<Walk<'a>, BundleError> {
        let proof = &header.proof;
        let before = header.keys.partition_point(|key| key.index < proof.from);
        Ok(Walk {
            frontier: proof.start().map_err(BundleError::Range)?,
            received: 0,
            withheld: 0,
            event_bytes: 0,
            subtrees: Vec::new(),
            first_subtree: proof.from >> SUBTREE_LEVEL,
            keys: &header.keys[before..],
            keys_left_out: Vec::new(),
        })
    }

    fn block(
        &mut self,
        mut rest: &[u8],
        end: LeafIndex,
        sizes: &mut OldRoots<'_>,
        each: &mut impl FnMut(RecordRef<'_>),
    ) -> Result<(), BundleError> {
        while !rest.is_empty() {
            let index = self.frontier.size();
            if index == end {
                return Err(BundleError::Form { what: "more records than the range has" });
            }
            if index == sizes.next() {
                sizes.see(&self.frontier);
            }
            rest = self
                .record(index, rest, each)
                .map_err(|fault| BundleError::Record { index, fault })?;
        }
        Ok(())
    }

    /// Checks the record at the beginning of `bytes` and returns what follows it.
    fn record<'b>(
        &mut self,
        index: LeafIndex,
        bytes: &'b [u8],
        each: &mut impl FnMut(RecordRef<'_>),
    ) -> Result<&'b [u8], RecordFault> {
        let short = |expected: usize, actual: usize| RecordFault::Size {
            expected: expected as u64,
            actual: actual as u64,
        };
        let (head, rest) = bytes
            .split_first_chunk::<RECORD_HEAD_SIZE>()
            .ok_or_else(|| short(RECORD_HEAD_SIZE, bytes.len()))?;
        let (leaf_bytes, check) = head.split_first_chunk::<LEAF_SIZE>().expect("69 bytes");
        let (check, presence) = (&check[..CHECK_SIZE], check[CHECK_SIZE]);
        let hash = leaf_hash(leaf_bytes);
        let computed = check_of(&hash, presence);
        if check != computed {
            let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            return Err(RecordFault::Check { expected: hex(check), actual: hex(&computed) });
        }
        let leaf = Leaf::decode(leaf_bytes)?;
        if leaf.received < self.received {
            let (previous, actual) = (self.received, leaf.received);
            return Err(RecordFault::Received { previous, actual });
        }
        self.received = leaf.received;
        let (content, rest) = match presence {
            WITHHELD => {
                self.withheld += 1;
                (None, rest)
            }
            PRESENT => {
                let size = leaf.event_size as usize;
                if size > EVENT_BYTES_MAX || rest.len() < Salt::SIZE + size {
                    return Err(short(size, rest.len().saturating_sub(Salt::SIZE)));
                }
                // The presence byte is the first one of what the commitment hashes.
                let hashed = &bytes[RECORD_HEAD_SIZE - 1..RECORD_HEAD_SIZE + Salt::SIZE + size];
                let (expected, actual) = (leaf.commitment, Hash(Sha3_256::digest(hashed).into()));
                if actual != expected {
                    return Err(RecordFault::Commitment { expected, actual });
                }
                self.event_bytes += size as u64;
                let (salt, rest) = rest.split_first_chunk().expect("the length was checked");
                let (event, rest) = rest.split_at(size);
                (Some((salt, event)), rest)
            }
            actual => return Err(RecordFault::Presence { actual }),
        };
        self.key_record(index, &leaf);
        let subtrees = &mut self.subtrees;
        self.frontier.append_with(hash, |level, _, root| {
            if level == SUBTREE_LEVEL {
                subtrees.push(*root);
            }
        });
        each(RecordRef { index, leaf: &leaf, content });
        Ok(rest)
    }

    /// Notes a record about keys that the key history leaves out.
    fn key_record(&mut self, index: LeafIndex, leaf: &Leaf) {
        if let [key, rest @ ..] = self.keys
            && key.index == index
        {
            self.keys = rest;
        } else if matches!(leaf.kind, Kind::Membership | Kind::Key)
            && self.keys_left_out.len() < KEYS_LEFT_OUT_MAX
        {
            self.keys_left_out.push(index);
        }
    }

    /// Reads the list of subtrees and says where it first differs from what was computed.
    fn compare_subtrees(
        &self,
        input: &mut Input<impl Read>,
    ) -> Result<Option<Range<LeafIndex>>, BundleError> {
        let mut wrong = None;
        for (position, computed) in self.subtrees.iter().enumerate() {
            let listed = Hash(input.array("its list of subtrees")?);
            if listed != *computed && wrong.is_none() {
                let subtree = self.first_subtree + position as u64;
                wrong = Some(subtree << SUBTREE_LEVEL..(subtree + 1) << SUBTREE_LEVEL);
            }
        }
        Ok(wrong)
    }
}
