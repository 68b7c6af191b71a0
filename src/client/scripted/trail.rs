//! The trail of scripted nodes: records in memory, and checkpoints signed with the test's keys.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use indelible_core::leaf::commit;
use indelible_core::merkle;
use indelible_core::{Checkpoint, Hash, Kind, Leaf, Policy, RangeProof, Salt, TrailId};
use indelible_proto::v1::{self, AppendRequest, AppendResponse, Record, Run};
use indelible_proto::{Reason, Rejected, reason::key};
use indelible_testkit::{TestKeys, TestRecord, TestTree, trail};
use prost::Message;

pub(crate) const ORIGIN: &str = "example.com/trail";
/// Nodes that the test's policy names; a majority of them is two.
const NODES: [u64; 3] = [1, 2, 3];

/// What is recorded, and what was signed of it.
#[derive(Default, Clone)]
pub(crate) struct Trail {
    pub(crate) records: Vec<Record>,
    /// (epoch, opened, last seq).
    pub(crate) producers: HashMap<Bytes, (u64, u64, u64)>,
    /// The newest signed note.
    pub(crate) published: Option<String>,
    /// The newest one that the witness has signed too.
    pub(crate) witnessed: Option<String>,
    /// Whether a proven append gets a checkpoint.
    pub(crate) signs: bool,
    /// What was reported as evidence of a rollback.
    pub(crate) reported: Vec<String>,
}

/// The trail's keys.
pub(crate) const KEYS: TestKeys = TestKeys::of(ORIGIN);

/// What `init` would have written.
pub(crate) fn policy() -> Policy {
    KEYS.policy(&NODES)
}

/// The same, and the witness.
pub(crate) fn witnessed_policy() -> Policy {
    KEYS.witnessed_policy(&NODES)
}

pub(crate) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// A note over this tree, signed by the log and these nodes.
pub(crate) fn sign(size: u64, root: Hash, nodes: &[u64], unix_s: u64, witness: bool) -> String {
    let checkpoint = Checkpoint::new(ORIGIN, size, root);
    let mut note = KEYS.note(&checkpoint, nodes, unix_s);
    if witness {
        note.signatures.push(KEYS.witness().cosign(&checkpoint, unix_s));
    }
    note.to_string()
}

fn bytes_of(hashes: &[Hash]) -> Vec<Bytes> {
    hashes.iter().map(|hash| Bytes::copy_from_slice(&hash.0)).collect()
}

pub(crate) fn wire(proof: RangeProof) -> v1::RangeProof {
    v1::RangeProof {
        from: proof.from,
        to: proof.to,
        tree_size: proof.size,
        left: bytes_of(&proof.left),
        right: bytes_of(&proof.right),
    }
}

impl Trail {
    /// Signs what there is, now, with all nodes' keys.
    pub(crate) fn publish(&mut self) -> String {
        self.publish_at(now_s())
    }

    pub(crate) fn publish_at(&mut self, unix_s: u64) -> String {
        let note = sign(self.size(), self.root(), &[1, 2, 3], unix_s, false);
        self.published = Some(note.clone());
        note
    }

    /// Has it signed by the witness too; what is published stays.
    pub(crate) fn witness(&mut self) {
        self.witness_by(&[1, 2, 3]);
    }

    /// The same, with the keys of these nodes.
    pub(crate) fn witness_by(&mut self, nodes: &[u64]) {
        self.witnessed = Some(sign(self.size(), self.root(), nodes, now_s(), true));
    }

    pub(crate) fn size(&self) -> u64 {
        self.records.len() as u64
    }

    pub(crate) fn root(&self) -> Hash {
        self.root_at(self.size())
    }

    pub(crate) fn root_at(&self, size: u64) -> Hash {
        self.tree().root_at(size)
    }

    fn tree(&self) -> TestTree {
        let hash = |record: &Record| {
            let leaf: &[u8; 64] = record.leaf.as_ref().try_into().expect("64 bytes");
            merkle::leaf_hash(leaf)
        };
        TestTree::of_hashes(self.records.iter().map(hash).collect())
    }

    pub(crate) fn leaf_hashes(&self, from: u64, to: u64) -> Vec<u8> {
        self.tree().hashes()[from as usize..to as usize].iter().flat_map(|hash| hash.0).collect()
    }

    pub(crate) fn range_proof(&self, from: u64, to: u64, size: u64) -> v1::RangeProof {
        wire(self.tree().range(from, to, size))
    }

    pub(crate) fn consistency(&self, old: u64, new: u64) -> Vec<Bytes> {
        bytes_of(&self.tree().consistency(old, new))
    }

    pub(crate) fn inclusion(&self, index: u64, size: u64) -> Vec<Bytes> {
        bytes_of(&self.tree().inclusion(index, size))
    }

    /// The newest note that covers the first `size` leaves, with its size.
    pub(crate) fn covering(&self, size: u64) -> Option<(String, u64)> {
        let note = self.published.clone()?;
        let covered = size_of(&note);
        (covered >= size && covered <= self.size()).then_some((note, covered))
    }

    /// Puts another event in the place of a recorded one.
    pub(crate) fn alter(&mut self, index: u64) {
        let record = &mut self.records[index as usize];
        let mut leaf = Leaf::decode(&record.leaf).expect("ours");
        record.event = Bytes::from_static(b"somebody else did it");
        let salt = Salt::from_slice(&record.salt).expect("16 bytes");
        leaf.event_size = record.event.len() as u32;
        leaf.commitment = commit(&salt, &record.event);
        record.leaf = Bytes::copy_from_slice(&leaf.encode());
    }

    /// A membership record. Two sets: a change from the first to the second is under way.
    pub(crate) fn change_members(&mut self, sets: &[&[u64]]) {
        let membership = trail::membership(TrailId([9; 16]), sets, |id| KEYS.node_public(id));
        let record = v1::MembershipRecord { membership: Some(membership), ..Default::default() };
        self.push(Kind::Membership, 0, 0, Salt::default(), &record.encode_to_vec());
    }

    /// The membership records among the first `size`.
    pub(crate) fn memberships(&self, size: u64) -> Vec<Record> {
        let is_membership =
            |record: &&Record| Leaf::decode(&record.leaf).expect("ours").kind == Kind::Membership;
        self.records[..size as usize].iter().filter(is_membership).cloned().collect()
    }

    /// Signs what there is, now, with the keys of these nodes.
    pub(crate) fn publish_by(&mut self, nodes: &[u64]) {
        self.published = Some(sign(self.size(), self.root(), nodes, now_s(), false));
    }

    pub(crate) fn push(
        &mut self,
        kind: Kind,
        opened: u64,
        seq: u64,
        salt: Salt,
        event: &[u8],
    ) -> u64 {
        let index = self.records.len() as u64;
        let event = Bytes::copy_from_slice(event);
        let record = TestRecord { kind, opened, seq, received: index, event };
        self.records.push(record.to_wire(index, &salt));
        index
    }

    pub(crate) fn append(&mut self, request: &AppendRequest) -> Result<AppendResponse, Rejected> {
        let unknown = || Rejected::new(Reason::ProducerUnknown, "unknown producer");
        let producer = self.producers.get(&request.producer_id);
        let (epoch, opened, mut last) = *producer.ok_or_else(unknown)?;
        if request.epoch != epoch {
            return Err(Rejected::new(Reason::ProducerFenced, "fenced").with(key::EPOCH, epoch));
        }
        if request.first_seq > last + 1 {
            let gap = Rejected::new(Reason::SeqGap, "gap").with(key::EXPECTED, last + 1);
            return Err(gap);
        }
        let mut response = AppendResponse::default();
        let (mut leaves, mut salts) = (Vec::new(), Vec::new());
        for (seq, event) in (request.first_seq..).zip(&request.events) {
            let duplicate = seq <= last;
            let index = if duplicate {
                self.find(seq, event)?
            } else {
                last = seq;
                self.push(Kind::Event, opened, seq, Salt(rand::random()), event)
            };
            let record = &self.records[index as usize];
            leaves.extend_from_slice(&record.leaf);
            salts.extend_from_slice(&record.salt);
            response.runs.push(Run { first_seq: seq, first_leaf: index, count: 1, duplicate });
        }
        self.producers.insert(request.producer_id.clone(), (epoch, opened, last));
        (response.leaves, response.salts) = (leaves.into(), salts.into());
        response.tree_size = self.records.len() as u64;
        if request.ack() > v1::AckLevel::Durable && self.signs {
            self.publish();
            if request.ack() == v1::AckLevel::Witnessed {
                self.witness();
                self.published.clone_from(&self.witnessed);
            }
            response.ack = request.ack;
            response.checkpoint = self.published.clone().expect("just signed");
            let runs = response.runs.iter();
            response.proofs = runs
                .map(|run| {
                    let to = run.first_leaf + u64::from(run.count);
                    self.range_proof(run.first_leaf, to, self.size())
                })
                .collect();
        }
        Ok(response)
    }

    /// Where a seq is. These tests have one producer.
    fn find(&self, seq: u64, event: &[u8]) -> Result<u64, Rejected> {
        let of_seq = |record: &&Record| {
            let leaf = Leaf::decode(&record.leaf).expect("ours");
            leaf.kind == Kind::Event && leaf.seq == seq
        };
        let record = self.records.iter().find(of_seq).expect("recorded before");
        if record.event != event {
            return Err(Rejected::new(Reason::SeqConflict, format!("seq {seq} has other content")));
        }
        Ok(record.index)
    }
}

/// Size in a note's text.
pub(crate) fn size_of(note: &str) -> u64 {
    note.lines().nth(1).and_then(|size| size.parse().ok()).expect("a checkpoint")
}
