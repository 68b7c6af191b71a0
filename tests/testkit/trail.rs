//! Records, batches and memberships of trails that tests make up.

use std::collections::BTreeSet;

use bytes::Bytes;
use indelible_core::leaf::commit;
use indelible_core::{BatchBuilder, Kind, Leaf, Salt, TrailId};
use indelible_proto::v1;

/// A record before it has a salt.
#[derive(Debug, Clone)]
pub struct TestRecord {
    /// What kind of record.
    pub kind: Kind,
    /// Leaf index of the record that opened its producer.
    pub opened: u64,
    /// Number of the event among those of its producer.
    pub seq: u64,
    /// Unix time in ns, as the leader stamps it.
    pub received: u64,
    /// The encoded event.
    pub event: Bytes,
}

impl TestRecord {
    /// An event.
    pub fn event(opened: u64, seq: u64, received: u64, event: impl Into<Bytes>) -> TestRecord {
        TestRecord { kind: Kind::Event, opened, seq, received, event: event.into() }
    }

    /// The leaf that commits to it.
    pub fn leaf(&self, salt: &Salt) -> Leaf {
        Leaf {
            kind: self.kind,
            retention_class: 0,
            event_size: u32::try_from(self.event.len()).expect("an event of a test is small"),
            received: self.received,
            opened: self.opened,
            seq: self.seq,
            commitment: commit(salt, &self.event),
        }
    }

    /// The record as a node sends it.
    pub fn to_wire(&self, index: u64, salt: &Salt) -> v1::Record {
        v1::Record {
            index,
            leaf: Bytes::copy_from_slice(&self.leaf(salt).encode()),
            salt: Bytes::copy_from_slice(&salt.0),
            event: self.event.clone(),
        }
    }
}

/// Head and body of a batch of these records.
pub fn batch(records: impl IntoIterator<Item = (TestRecord, Salt)>) -> (Bytes, Bytes) {
    let mut batch = BatchBuilder::default();
    for (record, salt) in records {
        batch.push(&record.leaf(&salt), &salt, &record.event);
    }
    batch.finish()
}

/// A membership of one set of voters, or of two while a change is under way.
pub fn membership(
    trail_id: TrailId,
    sets: &[&[u64]],
    public_key: impl Fn(u64) -> [u8; 32],
) -> v1::Membership {
    let ids: BTreeSet<u64> = sets.iter().flat_map(|set| set.iter().copied()).collect();
    let member = |id: u64| v1::Member {
        id,
        client_addr: format!("node{id}:7001"),
        raft_addr: format!("node{id}:7002"),
        http_addr: format!("node{id}:7003"),
        public_key: Bytes::copy_from_slice(&public_key(id)),
        ..Default::default()
    };
    v1::Membership {
        trail_id: Bytes::copy_from_slice(&trail_id.0),
        voter_sets: sets.iter().map(|set| v1::VoterSet { node_ids: set.to_vec() }).collect(),
        members: ids.into_iter().map(member).collect(),
    }
}
