//! A range of records as a stream: read from disk as the reader takes them, never buffered for a
//! slow one.

use bytes::Bytes;
use futures_util::Stream;
use indelible_core::limits::{READ_BYTES_MAX, READ_RECORDS_MAX};
use indelible_proto::reason::{Reason, Rejected};
use indelible_proto::v1;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tonic::Status;

use crate::node::duplicates::failed;
use crate::storage::ledger::{Head, Ledger, StoredRecord};

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
                Err(rejected) => Some((Err(rejected.into()), None)),
            }
        })
    }

    /// The next records, waiting for them if this is a tail.
    async fn step(&mut self) -> Result<Option<v1::ReadResponse>, Rejected> {
        if self.end.is_some_and(|end| self.next >= end) {
            return Ok(None);
        }
        let stopping =
            || Rejected::new(Reason::Stopping, "the node is stopping; hint: read on from another");
        let next = self.next;
        let size = tokio::select! {
            head = self.head.wait_for(|head| head.tree_size > next) => {
                head.map_err(|_| stopping())?.tree_size
            }
            _ = self.draining.wait_for(|draining| *draining) => return Err(stopping()),
        };
        let range = next..self.end.unwrap_or(size).min(size);
        let ledger = self.ledger.clone();
        let read = tokio::task::spawn_blocking(move || {
            ledger.records(range, READ_BYTES_MAX, READ_RECORDS_MAX)
        });
        let records = read.await.map_err(|_| stopping())?.map_err(|error| failed(&error))?;
        let last = records.last().expect("a range below the tree size has records");
        self.next = last.index + 1;
        Ok(Some(v1::ReadResponse {
            records: records.into_iter().map(record).collect(),
            meta: Some(v1::ReadMeta { node_id: self.node_id, tree_size: size }),
            ..Default::default()
        }))
    }
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
