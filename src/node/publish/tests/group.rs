//! Nodes with real ledgers and keys, and the notes that they make together.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use indelible_core::{
    Checkpoint, Entry, EntryKind, Hash, Kind, NoteSignature, Policy, ProducerId, SignerKey,
};
use indelible_proto::v1;
use indelible_testkit::{TestKeys, trail};
use prost::Message;

use crate::node::fatal::{Fatal, Stop};
use crate::node::publish::acceptance::ACTION;
use crate::node::publish::cosigner::{Cosigner, NotSigned};
use crate::node::publish::electorate::Electorates;
use crate::node::publish::notebook::{Notebook, open_notes};
use crate::node::publish::shared::Shared;
use crate::raft::types::Peer;
use crate::storage::ledger::tests::trail::{NEVER, TRAIL, TestRecord, Trail, producer};
use crate::storage::notes::Acceptance;
use crate::storage::signed::SignedMarker;

pub(super) const ORIGIN: &str = "audit.example/test";
pub(super) const NOW: u64 = 1_800_000_000;

const KEYS: TestKeys = TestKeys::of(ORIGIN);

pub(super) fn node_key(node: u64) -> SignerKey {
    KEYS.node(node)
}

pub(super) fn log_key() -> SignerKey {
    KEYS.log()
}

pub(super) fn witness_key() -> SignerKey {
    KEYS.witness()
}

pub(super) fn peer(node: u64) -> Peer {
    Peer {
        raft_addr: format!("node{node}:7002"),
        public_key: node_key(node).verifier().public_key,
        trail_id: TRAIL,
        ..Peer::default()
    }
}

/// What `indelible init` gives to auditors.
pub(super) fn policy(nodes: &[u64]) -> Policy {
    KEYS.policy(nodes)
}

/// The payload of a membership entry: one set of voters, or two.
pub(super) fn membership(sets: &[&[u64]]) -> Bytes {
    trail::membership(TRAIL, sets, |id| KEYS.node_public(id)).encode_to_vec().into()
}

/// One node's storage, and what publication keeps on top of it.
pub(super) struct Node {
    pub(super) id: u64,
    pub(super) trail: Trail,
    pub(super) shared: Arc<Shared>,
    pub(super) electorates: Arc<Electorates>,
    pub(super) cosigner: Cosigner,
    pub(super) notebook: Notebook,
    written: u64,
}

impl Node {
    /// A node of a group of three whose trail begins as everybody's.
    pub(super) fn new(id: u64) -> Node {
        let mut trail = Trail::new(NEVER);
        let genesis = membership(&[&[1, 2, 3]]);
        trail.entry(EntryKind::Membership, genesis, Bytes::new()).unwrap();
        trail.open(who()).unwrap();
        Self::on(id, trail, 0)
    }

    fn on(id: u64, trail: Trail, written: u64) -> Node {
        let dir = trail.path().to_owned();
        let shared = Arc::new(Shared::new(dir.clone(), Stop::default(), Arc::new(|_| {})));
        let log_key = Some(log_key().verifier().clone());
        let genesis = (1..=3).map(|id| (id, peer(id))).collect::<BTreeMap<_, _>>();
        let electorates = Electorates::new(trail.ledger.clone(), ORIGIN, log_key, &genesis);
        let electorates = Arc::new(electorates);
        let cosigner = Cosigner {
            node_id: id,
            origin: ORIGIN.into(),
            key: node_key(id),
            dir: dir.clone(),
            log: trail.log.clone(),
            ledger: trail.ledger.clone(),
            marker: SignedMarker::open(&dir).unwrap(),
            is_undecided: false,
            shared: shared.clone(),
        };
        let ledger = trail.ledger.clone();
        let witnesses = vec![witness_key().verifier().clone()];
        let notes = open_notes(&dir, false).unwrap();
        let notebook =
            Notebook::new(notes, ledger, electorates.clone(), witnesses, shared.clone()).unwrap();
        Node { id, trail, shared, electorates, cosigner, notebook, written }
    }

    /// Stops the node, lets something happen to its disk, and starts it again.
    pub(super) fn restart(self, change: impl FnOnce(&std::path::Path)) -> Node {
        let Node { id, trail, cosigner, notebook, electorates, written, .. } = self;
        drop((cosigner, notebook, electorates));
        Self::on(id, trail.restart(change).unwrap(), written)
    }

    /// Records events; nodes that record the same numbers have the same trail.
    pub(super) fn events(&mut self, count: u64) {
        let (first, last) = (self.written + 1, self.written + count);
        self.trail.events(who(), first..=last).unwrap();
        self.written = last;
    }

    /// Events that are in its log and not applied yet: it was killed before its marker said that
    /// they are committed.
    pub(super) fn events_to_apply(&mut self, count: u64) -> Entry {
        let seqs = self.written + 1..=self.written + count;
        let records: Vec<_> = seqs.map(|seq| self.trail.event(who(), seq)).collect();
        self.written += count;
        let (batch, body) = self.trail.encode(&records);
        self.trail.append_only(EntryKind::Batch, batch, body)
    }

    /// What an operator has accepted, without the record of it.
    pub(super) fn accept(&mut self, unix_s: u64) -> bool {
        self.notebook.accept(Acceptance { unix_s, leaf: 0 })
    }

    /// The record of an accepted rollback.
    pub(super) fn record_acceptance(&mut self, unix_s: u64) -> Acceptance {
        self.written += 1;
        record_acceptance(&mut self.trail, self.written, unix_s)
    }

    /// Another history from here on: a leader that the others do not know of.
    pub(super) fn diverge(&mut self) {
        self.trail.leader = 9;
        self.trail.blank().unwrap();
        self.trail.leader = 1;
    }

    pub(super) fn head(&self) -> Checkpoint {
        Checkpoint::new(ORIGIN, self.trail.size(), self.trail.root())
    }

    pub(super) fn cosign(&mut self, checkpoint: &Checkpoint) -> Result<NoteSignature, NotSigned> {
        self.cosigner.cosign(checkpoint, NOW)
    }

    pub(super) fn fatal(&self) -> Option<Fatal> {
        self.shared.fatal.borrow().clone()
    }

    pub(super) fn newest_size(&self) -> Option<u64> {
        self.shared.newest.borrow().as_ref().map(|note| note.checkpoint.size)
    }

    pub(super) fn beyond_size(&self) -> Option<u64> {
        self.shared.beyond.borrow().as_ref().map(|note| note.checkpoint.size)
    }

    pub(super) fn has_evidence(&self, name: &str) -> bool {
        self.trail.path().join("evidence").join(name).exists()
    }
}

/// The record of an accepted rollback, under that seq.
pub(super) fn record_acceptance(trail: &mut Trail, seq: u64, unix_s: u64) -> Acceptance {
    let leaf = trail.size();
    let operation =
        v1::Operation { action: ACTION.into(), accepted_unix_s: unix_s, ..Default::default() };
    let event = operation.encode_to_vec().into();
    let record = TestRecord { kind: Kind::Operation, event, ..trail.event(who(), seq) };
    trail.batch(&[record]).unwrap();
    assert_eq!(trail.size(), leaf + 1);
    Acceptance { unix_s, leaf }
}

pub(super) fn who() -> ProducerId {
    producer('a')
}

/// A note with whatever signatures somebody has keys for: nobody asks whether it is true.
pub(super) fn forge(checkpoint: &Checkpoint, nodes: &[u64], with_log: bool, unix_s: u64) -> String {
    let mut note = KEYS.note(checkpoint, nodes, unix_s);
    if !with_log {
        note.signatures.remove(0);
    }
    note.to_string()
}

pub(super) fn other_root(checkpoint: &Checkpoint) -> Checkpoint {
    Checkpoint { root: Hash([0xee; 32]), ..checkpoint.clone() }
}
