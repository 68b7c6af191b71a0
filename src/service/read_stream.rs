//! A range of records as a stream: read from disk as the reader takes them, never buffered for a
//! slow one.
//!
//! With proofs, each message holds only records that the newest checkpoint covers. If there are
//! none, the stream waits for the next checkpoint, and if that does not come in time the records go
//! out without proof: nobody is kept from what is recorded because the group cannot sign.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use indelible_core::RangeProof;
use indelible_core::limits::{READ_BYTES_MAX, READ_RECORDS_MAX};
use indelible_proto::reason::{Reason, Rejected};
use indelible_proto::v1;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tonic::Status;

use super::metrics::Metrics;
use super::proofs::{PROOF_WAIT, range_proof};
use crate::node::duplicates::failed;
use crate::node::publish::{Publication, Published};
use crate::storage::ledger::{Head, Ledger, LedgerError, StoredRecord};

/// A read in progress.
pub(super) struct ReadStream {
    pub(super) node_id: u64,
    pub(super) ledger: Ledger,
    pub(super) head: watch::Receiver<Head>,
    /// True once the node is on its way out.
    pub(super) draining: watch::Receiver<bool>,
    /// Next leaf index.
    pub(super) next: u64,
    /// One past the last leaf index; `None` = a tail without end.
    pub(super) end: Option<u64>,
    /// What records are proved against; `None` = the reader wants no proofs.
    pub(super) publication: Option<Publication>,
    /// The checkpoint of the message before, if it had one.
    pub(super) sent: Option<Arc<Published>>,
    pub(super) metrics: Arc<Metrics>,
    /// Bounds the number of streams.
    pub(super) _permit: OwnedSemaphorePermit,
}

impl ReadStream {
    pub(super) fn into_stream(
        self,
    ) -> impl Stream<Item = Result<v1::ReadResponse, Status>> + Send + 'static {
        futures_util::stream::unfold(Some(self), |read| async move {
            let mut read = read?;
            match read.step().await {
                Ok(None) => None,
                Ok(Some(response)) => Some((Ok(response), Some(read))),
                Err(rejected) => {
                    read.metrics.rejected(rejected.reason);
                    Some((Err(rejected.into()), None))
                }
            }
        })
    }

    /// The next records, waiting for them if this is a tail.
    async fn step(&mut self) -> Result<Option<v1::ReadResponse>, Rejected> {
        if self.end.is_some_and(|end| self.next >= end) {
            return Ok(None);
        }
        let next = self.next;
        let size = tokio::select! {
            head = self.head.wait_for(|head| head.tree_size > next) => {
                head.map_err(|_| stopping())?.tree_size
            }
            _ = self.draining.wait_for(|draining| *draining) => return Err(stopping()),
        };
        let checkpoint = match &self.publication {
            None => None,
            Some(publication) => tokio::select! {
                covering = publication.wait(next + 1, false, PROOF_WAIT) => covering,
                _ = self.draining.wait_for(|draining| *draining) => return Err(stopping()),
            },
        };
        let covered = checkpoint.as_ref().map_or(size, |newest| newest.checkpoint.size);
        let range = next..self.end.unwrap_or(u64::MAX).min(covered);
        let (ledger, against) = (self.ledger.clone(), checkpoint.clone());
        let read = tokio::task::spawn_blocking(move || read(&ledger, range, against.as_deref()));
        let (records, proof) =
            read.await.map_err(|_| stopping())?.map_err(|error| failed(&error))?;
        let last = records.last().expect("a range below the tree size has records");
        self.next = last.index + 1;
        Ok(Some(v1::ReadResponse {
            records: records.into_iter().map(record).collect(),
            meta: Some(v1::ReadMeta { node_id: self.node_id, tree_size: size }),
            checkpoint: self.note(checkpoint),
            proof: proof.map(|proof| {
                self.metrics.proved();
                range_proof(proof)
            }),
        }))
    }

    /// The note to send, if it is not that of the message before.
    fn note(&mut self, checkpoint: Option<Arc<Published>>) -> String {
        let same =
            self.sent.as_ref().zip(checkpoint.as_ref()).is_some_and(|(a, b)| a.note == b.note);
        let note = checkpoint.as_ref().filter(|_| !same).map(|newest| newest.note.clone());
        self.sent = checkpoint;
        note.unwrap_or_default()
    }
}

/// As many records as fit a message, and their proof. Blocks.
fn read(
    ledger: &Ledger,
    range: Range<u64>,
    against: Option<&Published>,
) -> Result<(Vec<StoredRecord>, Option<RangeProof>), LedgerError> {
    let records = ledger.records(range, READ_BYTES_MAX, READ_RECORDS_MAX)?;
    let prove = |newest: &Published| {
        ledger.prove_records(&records, newest.checkpoint.size, &newest.checkpoint.root)
    };
    let proof = against.map(prove).transpose()?;
    Ok((records, proof))
}

fn stopping() -> Rejected {
    Rejected::new(Reason::Stopping, "the node is stopping; hint: read on from another")
}

/// A stored record as it goes over the wire.
pub(super) fn record(record: StoredRecord) -> v1::Record {
    v1::Record {
        index: record.index,
        leaf: Bytes::copy_from_slice(&record.leaf),
        salt: Bytes::copy_from_slice(&record.salt.0),
        event: record.event,
    }
}
