//! Records of this node's own producer: what operators did (kind 15), written by the node that was
//! asked, before it does it; and findings (kind 8), written by the leader for whoever has found
//! something.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

use bytes::Bytes;
use indelible_core::{Kind, ProducerId};
use indelible_proto::reason::{Reason, Rejected};
use indelible_proto::v1;
use prost::Message;
use sha3::{Digest, Sha3_256};
use tokio::sync::{Mutex, watch};

use super::batcher::{Append, Batcher, Open};
use crate::raft::peers::Known;
use crate::raft::types::Peer;

/// Times that a record is tried when another opening of this node's producer got in between.
const TRIES: usize = 3;

/// Who asked for an operation, and the reason that was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    /// Authenticated name; empty if the caller was not authenticated.
    pub principal: String,
    /// For people.
    pub reason: String,
}

/// The producer of the node that has this key: the same after every restart.
fn node_producer(public_key: &[u8; 32]) -> ProducerId {
    let mut hasher = Sha3_256::new();
    hasher.update(b"indelible/node/");
    hasher.update(public_key);
    let digest: [u8; 32] = hasher.finalize().into();
    ProducerId::from_slice(&digest[..16]).expect("16 of 32 bytes")
}

/// The producers of all members, in whose names nobody else may write.
pub struct NodeProducers(std::sync::Mutex<Members>);

struct Members {
    known: watch::Receiver<Known>,
    producers: BTreeSet<ProducerId>,
}

impl NodeProducers {
    /// Of the initial members, and of all later ones as they come to be `known`.
    pub fn new(mut known: watch::Receiver<Known>, genesis: &BTreeMap<u64, Peer>) -> NodeProducers {
        known.mark_changed();
        let producers = genesis.values().map(|peer| node_producer(&peer.public_key)).collect();
        NodeProducers(std::sync::Mutex::new(Members { known, producers }))
    }

    /// Whether this is one of them.
    pub fn contains(&self, producer: &ProducerId) -> bool {
        let mut members = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if members.known.has_changed().unwrap_or(false) {
            let known = members.known.borrow_and_update().clone();
            let nodes = known.membership.nodes().chain(known.applied.nodes());
            members.producers.extend(nodes.map(|(_, peer)| node_producer(&peer.public_key)));
        }
        members.producers.contains(producer)
    }
}

/// This node's own producer.
pub struct Operations {
    node_id: u64,
    producer: ProducerId,
    batcher: Batcher,
    /// Epoch and next seq, once opened. Held while a record is written: one at a time.
    opened: Mutex<Option<(u64, u64)>>,
}

impl Operations {
    /// The producer id follows from the node's key, so that it is the same after every restart.
    pub fn new(node_id: u64, public_key: &[u8; 32], batcher: Batcher) -> Self {
        let producer = node_producer(public_key);
        Operations { node_id, producer, batcher, opened: Mutex::new(None) }
    }

    /// Records an operation. Returns its leaf, when it is in the trail.
    pub async fn record(&self, action: &str, detail: String, why: &Why) -> Result<u64, Rejected> {
        self.record_accepted(action, detail, why, 0).await
    }

    /// As [`Self::record`], of an accepted rollback: notes up to this time (Unix seconds) do not
    /// count any more.
    pub async fn record_accepted(
        &self,
        action: &str,
        detail: String,
        why: &Why,
        accepted_unix_s: u64,
    ) -> Result<u64, Rejected> {
        let operation = v1::Operation { accepted_unix_s, ..self.operation(action, detail, why) };
        self.write(Kind::Operation, operation.encode_to_vec().into(), 0).await
    }

    /// As [`Self::record`], of an accepted time in Unix nanoseconds, which is also its stamp.
    pub async fn record_clock(
        &self,
        action: &str,
        detail: String,
        why: &Why,
        accepted_unix_ns: u64,
    ) -> Result<u64, Rejected> {
        let operation = v1::Operation { accepted_unix_ns, ..self.operation(action, detail, why) };
        self.write(Kind::Operation, operation.encode_to_vec().into(), accepted_unix_ns).await
    }

    fn operation(&self, action: &str, detail: String, why: &Why) -> v1::Operation {
        v1::Operation {
            action: action.into(),
            principal: why.principal.clone(),
            detail,
            reason: why.reason.clone(),
            node_id: self.node_id,
            ..Default::default()
        }
    }

    /// Records a finding, encoded. Returns when it is in the trail.
    pub async fn record_finding(&self, finding: Bytes) -> Result<(), Rejected> {
        self.write(Kind::Finding, finding, 0).await.map(drop)
    }

    async fn write(&self, kind: Kind, event: Bytes, stamp_min: u64) -> Result<u64, Rejected> {
        let mut opened = self.opened.lock().await;
        let mut last = Rejected::new(Reason::Busy, "the operation could not be recorded");
        for _ in 0..TRIES {
            let (epoch, seq) = match *opened {
                Some(opened) => opened,
                None => self.open().await?,
            };
            *opened = Some((epoch, seq));
            let append = Append {
                producer: self.producer,
                epoch,
                first_seq: seq,
                kind,
                retention_class: 0,
                events: vec![event.clone()],
                stamp_min,
            };
            match self.append(append).await {
                Ok(index) => {
                    *opened = Some((epoch, seq + 1));
                    return Ok(index);
                }
                Err(rejected) => {
                    *opened = None;
                    match rejected.reason {
                        Reason::ProducerFenced | Reason::SeqGap | Reason::SeqConflict => {
                            last = rejected
                        }
                        _ => return Err(rejected),
                    }
                }
            }
        }
        Err(last)
    }

    async fn append(&self, append: Append) -> Result<u64, Rejected> {
        let appended = self.batcher.append(append).await?;
        Ok(appended.runs.first().expect("one event gives one run").first_leaf)
    }

    async fn open(&self) -> Result<(u64, u64), Rejected> {
        let open = Open {
            producer: self.producer,
            name: format!("node {}", self.node_id),
            public_key: Bytes::new(),
            principal: format!("node {}", self.node_id),
            authentication: "self".into(),
            of_node: true,
        };
        let opened = self.batcher.open(open).await?;
        Ok((opened.epoch, opened.last_seq + 1))
    }
}
