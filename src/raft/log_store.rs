//! openraft's log on top of [`Log`]: appends return at once and complete when fdatasync has, votes
//! share their queue.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds, RangeInclusive};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use indelible_core::Entry as LogEntry;
use indelible_core::limits::REPLICATION_BYTES_MAX;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::types::{Entry, LogId, TypeConfig, Vote, entry_id, log_id, raft_vote, stored_vote};
use crate::storage::log::{Log, LogError};

/// How long a damaged entry may take to be mended before openraft is told, which stops the node.
const MENDING: Duration = Duration::from_secs(60);
/// Between two looks whether it is.
const MENDING_AGAIN: Duration = Duration::from_millis(100);

/// A handle to the log. Every reader that openraft takes is a clone.
#[derive(Clone)]
pub struct LogStore {
    log: Log,
}

impl LogStore {
    /// On an open log.
    pub fn new(log: Log) -> Self {
        LogStore { log }
    }

    /// Entries of a range, at most about `bytes_max` of them and at least one; off the runtime if a
    /// disk is needed.
    async fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        if start >= end {
            return Ok(Vec::new());
        }
        let entries = match self.log.read_cached(start..end, bytes_max) {
            Some(entries) => entries,
            None => self.read_disk(start, end, bytes_max).await?,
        };
        entries.into_iter().map(|entry| Entry::from_log(entry).map_err(io::Error::other)).collect()
    }

    /// Reads the disk. What is damaged there is being mended from peers as soon as a read has met
    /// it: openraft would stop for good, so it is not told before that has had its time.
    async fn read_disk(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<LogEntry>> {
        let until = Instant::now() + MENDING;
        loop {
            let log = self.log.clone();
            let read = tokio::task::spawn_blocking(move || log.read(start..end, bytes_max));
            match read.await.map_err(io::Error::other)? {
                Ok(entries) => return Ok(entries),
                Err(error @ LogError::Corrupt { .. }) if Instant::now() < until => {
                    tracing::warn!(%error, "an entry is damaged: waiting until it is mended");
                    tokio::time::sleep(MENDING_AGAIN).await;
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }

    /// The part of a range that the log has.
    fn clamp<RB: RangeBounds<u64>>(&self, range: &RB) -> (u64, u64) {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end + 1,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        (start.max(self.log.first()), end.min(self.log.next()))
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let (mut start, end) = self.clamp(&range);
        let mut entries = Vec::new();
        while start < end {
            let part = self.read(start, end, REPLICATION_BYTES_MAX).await?;
            start += part.len() as u64;
            entries.extend(part);
        }
        Ok(entries)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.log.vote().map(raft_vote))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start, end, REPLICATION_BYTES_MAX).await
    }

    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = io::Result<Entry>> + Send
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let (start, end) = self.clamp(&range);
        let store = self.clone();
        let parts =
            futures_util::stream::try_unfold((store, start), move |(store, start)| async move {
                if start >= end {
                    return Ok(None);
                }
                let part = store.read(start, end, REPLICATION_BYTES_MAX).await?;
                let next = start + part.len() as u64;
                Ok::<_, io::Error>(Some((part, (store, next))))
            });
        parts.flat_map(|part| {
            let items = match part {
                Ok(entries) => entries.into_iter().map(Ok).collect::<Vec<_>>(),
                Err(error) => vec![Err(error)],
            };
            futures_util::stream::iter(items)
        })
    }

    /// NB: openraft wants the *last* entry of each leader, whatever its documentation says.
    async fn get_key_log_ids(&mut self, range: RangeInclusive<LogId>) -> io::Result<Vec<LogId>> {
        let indexes = range.start().index..=range.end().index;
        let ids = self.log.last_of_each_leader(indexes).map_err(io::Error::other)?;
        Ok(ids.into_iter().map(log_id).collect())
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let last_log_id = self.log.last().map(log_id);
        Ok(LogState { last_purged_log_id: None, last_log_id })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let (done, saved) = oneshot::channel();
        self.log.save_vote(
            stored_vote(vote),
            Box::new(move |result| {
                // The receiver is gone only if openraft is.
                let _ = done.send(result);
            }),
        );
        saved.await.map_err(io::Error::other)?.map_err(io::Error::other)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        if let Some(committed) = committed {
            self.log.set_committed(committed.index + 1);
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        match self.log.committed().checked_sub(1) {
            None => Ok(None),
            Some(index) => {
                let id = self.log.id_at(index).map_err(io::Error::other)?;
                Ok(id.map(log_id))
            }
        }
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let entries: Vec<_> = entries.into_iter().map(|entry| entry.to_log()).collect();
        self.log.append(
            entries,
            Box::new(move |result| callback.io_completed(result.map_err(io::Error::other))),
        );
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        if last.is_some_and(|last| last.index + 1 >= self.log.next()) {
            return Ok(());
        }
        let (done, truncated) = oneshot::channel();
        self.log
            .truncate_after(
                last.map(|last| last.index),
                Box::new(move |result| {
                    let _ = done.send(result);
                }),
            )
            .map_err(io::Error::other)?;
        truncated.await.map_err(io::Error::other)?.map_err(io::Error::other)
    }

    /// Nothing is ever purged: openraft asks for it only if it believes in a snapshot, and there is
    /// none.
    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        Err(io::Error::other(format!("refused to purge the trail up to {}", entry_id(&upto).index)))
    }
}
