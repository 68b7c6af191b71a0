//! One entry under construction: stamps, salts and commitments.

use bytes::Bytes;
use indelible_core::leaf::commit;
use indelible_core::limits::{BATCH_EVENTS_MAX, ENTRY_BYTES_MAX};
use indelible_core::{BatchBuilder, Kind, Leaf, ProducerId, Salt};
use indelible_proto::v1;
use prost::Message;
use tokio::sync::OwnedSemaphorePermit;

use super::{Append, Appended, Open, Opened, RECORD_OVERHEAD, Reply};
use crate::raft::BatchPayload;

/// An entry that requests are put into.
pub(super) struct Draft {
    builder: BatchBuilder,
    parts: Vec<Part>,
    /// Whose records are in it, each once.
    producers: Vec<ProducerId>,
    /// For all of its leaves.
    received: u64,
}

/// What one request has in an entry.
pub(super) struct Part {
    /// Position of its first record.
    pub(super) start: usize,
    /// Its records.
    pub(super) count: usize,
    /// Whose answer it is.
    pub(super) of: PartOf,
}

/// The request behind a part.
pub(super) enum PartOf {
    Append {
        append: Append,
        /// Events before `start` that were recorded earlier.
        skip: usize,
        reply: Reply<Appended>,
        /// Held until the answer is sent.
        permit: OwnedSemaphorePermit,
    },
    Open {
        open: Open,
        epoch: u64,
        known: bool,
        reply: Reply<Opened>,
        /// Held until the answer is sent.
        _permit: OwnedSemaphorePermit,
    },
}

/// An entry that is ready to be proposed.
pub(super) struct Proposal {
    pub(super) payload: BatchPayload,
    pub(super) parts: Vec<Part>,
    pub(super) producers: Vec<ProducerId>,
}

impl Draft {
    /// Empty, with the stamp for everything in it: Unix time in nanoseconds.
    pub(super) fn new(received: u64) -> Draft {
        let (parts, producers) = (Vec::new(), Vec::new());
        Draft { builder: BatchBuilder::default(), parts, producers, received }
    }

    /// The stamp of everything in it.
    pub(super) fn stamp(&self) -> u64 {
        self.received
    }

    /// Raises the stamp if it is below `min`. False if there is something in it that has the lower
    /// one.
    pub(super) fn stamp_from(&mut self, min: u64) -> bool {
        if self.received >= min {
            return true;
        }
        if self.is_empty() {
            self.received = min;
        }
        self.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Whether this many records with these event bytes still go in.
    pub(super) fn fits(&self, records: usize, event_bytes: usize) -> bool {
        self.builder.count() + records <= BATCH_EVENTS_MAX
            && self.builder.payload_bytes() + event_bytes + records * RECORD_OVERHEAD
                <= ENTRY_BYTES_MAX
    }

    /// Whether nothing of this producer is in the entry yet.
    pub(super) fn has_none_of(&self, producer: &ProducerId) -> bool {
        !self.producers.contains(producer)
    }

    /// Adds the events of a request from `skip` on.
    pub(super) fn push_append(
        &mut self,
        append: Append,
        opened: u64,
        skip: usize,
        reply: Reply<Appended>,
        permit: OwnedSemaphorePermit,
    ) {
        let start = self.builder.count();
        for (position, event) in append.events.iter().enumerate().skip(skip) {
            let seq = append.first_seq + position as u64;
            self.push_record(append.kind, append.retention_class, opened, seq, event);
        }
        if self.has_none_of(&append.producer) {
            self.producers.push(append.producer);
        }
        let count = append.events.len() - skip;
        self.parts.push(Part { start, count, of: PartOf::Append { append, skip, reply, permit } });
    }

    /// Adds the record that opens a producer.
    pub(super) fn push_open(
        &mut self,
        open: Open,
        epoch: u64,
        known: bool,
        reply: Reply<Opened>,
        _permit: OwnedSemaphorePermit,
    ) {
        let event = v1::ProducerOpened {
            producer_id: Bytes::copy_from_slice(&open.producer.0),
            epoch,
            name: open.name.clone(),
            principal: open.principal.clone(),
            authentication: open.authentication.clone(),
            public_key: open.public_key.clone(),
        };
        let start = self.builder.count();
        self.push_record(Kind::ProducerOpened, 0, 0, epoch, &event.encode_to_vec());
        assert!(self.has_none_of(&open.producer), "an opening waits for what is on the way");
        self.producers.push(open.producer);
        self.parts.push(Part {
            start,
            count: 1,
            of: PartOf::Open { open, epoch, known, reply, _permit },
        });
    }

    pub(super) fn finish(self) -> Proposal {
        let (head, body) = self.builder.finish();
        assert!(head.len() + body.len() <= ENTRY_BYTES_MAX, "fits() was asked before each push");
        let payload = BatchPayload { head, body };
        Proposal { payload, parts: self.parts, producers: self.producers }
    }

    fn push_record(
        &mut self,
        kind: Kind,
        retention_class: u16,
        opened: u64,
        seq: u64,
        event: &[u8],
    ) {
        let salt = Salt(rand::random());
        let leaf = Leaf {
            kind,
            retention_class,
            event_size: u32::try_from(event.len()).expect("the edge limits an event"),
            received: self.received,
            opened,
            seq,
            commitment: commit(&salt, event),
        };
        self.builder.push(&leaf, &salt, event);
    }
}
