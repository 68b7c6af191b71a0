//! Reading a range as a stream that outlives the node it is read from.

use std::collections::VecDeque;
use std::ops::RangeBounds;
use std::sync::Arc;

use futures_util::Stream;
use indelible_core::LeafIndex;
use indelible_proto::v1::{ReadRequest, ReadResponse};
use indelible_proto::{Reason, Rejected};
use tonic::{Status, Streaming};

use crate::error::{Failure, Fault};
use crate::nodes::Nodes;
use crate::reader::{Level, Prove, invalid};
use crate::table::{InFlight, Link, Table};
use crate::{CallError, Client, Record, SignedCheckpoint};

/// How a range is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReadOptions {
    /// How fresh the read is when it begins.
    pub level: Level,
    /// Whether to wait for records that do not exist yet, instead of ending at the tree size at the
    /// beginning.
    pub follow: bool,
    /// Whether the records are proven against a checkpoint.
    pub prove: Prove,
}

/// Verified records in order, without gaps. When a node fails, another one goes on from the next
/// index.
pub struct RecordStream {
    client: Client,
    follow: bool,
    /// Whether proofs are asked for.
    prove: bool,
    /// The next index.
    next: LeafIndex,
    /// One past the last index. `None`: no end.
    end: Option<LeafIndex>,
    /// Of the next request: what was asked for, then at least what was seen.
    level: Level,
    nodes: Nodes,
    open: Option<Open>,
    /// Verified, not handed out yet. At most one message.
    ready: VecDeque<Record>,
    failed: bool,
}

/// A stream from one node.
struct Open {
    link: Link,
    messages: Streaming<ReadResponse>,
    /// Of the last message that brought one: messages leave out what has not changed.
    checkpoint: Option<Arc<SignedCheckpoint>>,
    _in_flight: InFlight,
}

impl Client {
    /// Records of a range of leaf indexes: `0..100`, `5..`, `..`. Without `follow` the read ends at
    /// the tree size of its beginning.
    pub async fn read(
        &self,
        range: impl RangeBounds<LeafIndex>,
        options: ReadOptions,
    ) -> Result<RecordStream, CallError> {
        use std::ops::Bound;
        let next = match range.start_bound() {
            Bound::Included(first) => *first,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let mut end = match range.end_bound() {
            Bound::Included(last) => Some(last.saturating_add(1)),
            Bound::Excluded(end) => Some(*end),
            Bound::Unbounded => None,
        };
        if end.is_some_and(|end| end < next) {
            return Err(invalid(format!(
                "the range ends at {} before it begins at {next}",
                end.unwrap_or(0)
            )));
        }
        let mut level = options.level;
        if !options.follow {
            // The end is fixed once, so that a stream that moves to another node still ends there.
            let tree_size = self.tree_head(level).await?.tree_size;
            end = Some(end.unwrap_or(tree_size).min(tree_size));
            if level != Level::Any {
                level = Level::AtLeast(tree_size);
            }
        }
        Ok(RecordStream {
            client: self.clone(),
            follow: options.follow,
            prove: self.proves(options.prove),
            next,
            end,
            level,
            nodes: Nodes::new(self.options()),
            open: None,
            ready: VecDeque::new(),
            failed: false,
        })
    }
}

impl RecordStream {
    /// The next record. `None` at the end of the range; after an error, which is the last item,
    /// too.
    pub async fn next(&mut self) -> Option<Result<Record, CallError>> {
        loop {
            if let Some(record) = self.ready.pop_front() {
                return Some(Ok(record));
            }
            if self.failed || self.end.is_some_and(|end| self.next >= end) {
                return None;
            }
            if let Err(error) = self.fill().await {
                self.failed = true;
                return Some(Err(error));
            }
        }
    }

    /// Records that can be had without waiting.
    pub fn buffered(&self) -> usize {
        self.ready.len()
    }

    /// As a stream of `futures`, for its combinators.
    pub fn into_stream(self) -> impl Stream<Item = Result<Record, CallError>> {
        futures_util::stream::unfold(self, |mut stream| async {
            stream.next().await.map(|record| (record, stream))
        })
    }

    /// One message, or one failed attempt.
    async fn fill(&mut self) -> Result<(), CallError> {
        let table = self.client.table();
        if self.open.is_some() {
            // There was progress: if this stream breaks now, all attempts and the whole time are
            // left.
            self.nodes = Nodes::new(self.client.options());
        }
        let mut open = match self.open.take() {
            Some(open) => open,
            None => {
                let link = self.nodes.next(table).await?;
                match self.request(&link).await {
                    Ok(open) => open,
                    Err(failure) => return self.nodes.fault(&self.client, &link, failure.into()),
                }
            }
        };
        let message = tokio::select! {
            message = open.messages.message() => message,
            () = gone(table, &open.link) => Err(Status::unavailable("the connection is gone")),
        };
        let link = open.link.clone();
        let fault = match message {
            Ok(Some(message)) => match self.take(&mut open, message).await {
                Ok(()) => {
                    self.open = Some(open);
                    return Ok(());
                }
                Err(fault) => fault,
            },
            Ok(None) => {
                let early = Rejected::new(Reason::StaleReplica, "the stream ended early");
                Failure::Rejected(early).into()
            }
            Err(status) => status.into(),
        };
        self.nodes.fault(&self.client, &link, fault)
    }

    async fn request(&self, link: &Link) -> Result<Open, Failure> {
        let request = ReadRequest {
            from: self.next,
            to: self.end.unwrap_or(0),
            follow: self.follow,
            level: Some(self.level.into()),
            prove: self.prove,
        };
        let in_flight = link.begin();
        let limit = self.nodes.attempt_limit();
        let opened = tokio::time::timeout(limit, link.audit().read(request)).await;
        let messages = opened.map_err(|_| Failure::TimedOut(limit))??.into_inner();
        Ok(Open { link: link.clone(), messages, checkpoint: None, _in_flight: in_flight })
    }

    /// Verifies a message and keeps its records. Nothing of a message that does not verify is kept.
    async fn take(&mut self, open: &mut Open, message: ReadResponse) -> Result<(), Fault> {
        let mut next = self.next;
        let mut records = Vec::with_capacity(message.records.len());
        for record in message.records {
            if self.end.is_some_and(|end| next >= end) {
                let what = format!("record {} is past the end of the range", record.index);
                return Err(what.into());
            }
            records.push(Record::verify(record, next)?);
            next += 1;
        }
        if self.prove {
            if let Some(checkpoint) = self.client.checkpoint_in(&message.checkpoint)? {
                open.checkpoint = Some(checkpoint);
            }
            let (client, checkpoint) = (&self.client, open.checkpoint.clone());
            client.prove_records(&open.link, &mut records, checkpoint, message.proof).await?;
        }
        if let Some(meta) = message.meta {
            self.client.table().saw_tree_size(meta.tree_size);
        }
        self.next = next;
        self.ready = records.into();
        // What was seen once is not unseen on the next node.
        self.level = match self.level {
            Level::Any => Level::Any,
            Level::AtLeast(tree_size) => Level::AtLeast(tree_size.max(next)),
            Level::Linearizable => Level::AtLeast(next),
        };
        Ok(())
    }
}

/// Waits until a connection is no longer its node's: a hung node ends no stream by itself.
async fn gone(table: &Table, link: &Link) {
    let mut changes = table.subscribe();
    while table.is_current(link) {
        if changes.changed().await.is_err() {
            return;
        }
    }
}
