//! Asking single peers for entries, so that none of them can hold up or fill up this node.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::StreamExt;
use indelible_core::limits::MENDING_BYTES_MAX;
use indelible_core::{Chain, EntryId, chain};
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::raft::mending::{AskError, Asker, Entries};
use crate::storage::mend::{Fetched, Want};

/// How long the next [`MENDING_BYTES_MAX`] may take; an honest peer sends them in one message or
/// two.
const PART_TIME: Duration = Duration::from_secs(30);
/// What an entry without payload takes in memory, in bytes, and a bit more.
const ENTRY_BYTES: usize = 256;

/// Peers that may have what is missing: id and raft address, in the order in which they are asked.
pub(super) type Peers = Vec<(u64, String)>;

/// Why a peer was of no use for an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PeerFailure {
    /// It has answered, and does not have it; the next one of those asked for that it has.
    Lacks(Option<u64>),
    /// What it has does not follow from what is here.
    Apart(String),
    /// What it says makes no sense, or cannot be.
    Wrong(String),
    /// It has not answered, this time.
    Nothing(String),
}

impl std::fmt::Display for PeerFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PeerFailure::Lacks(_) => f.write_str("does not have it either"),
            PeerFailure::Apart(why) | PeerFailure::Wrong(why) | PeerFailure::Nothing(why) => {
                f.write_str(why)
            }
        }
    }
}

impl From<AskError> for PeerFailure {
    fn from(error: AskError) -> PeerFailure {
        match error {
            AskError::Unreachable(why) => PeerFailure::Nothing(why),
            AskError::Refused(why) | AskError::Removed(why) => PeerFailure::Wrong(why),
        }
    }
}

/// The entries of a peer that is being read from.
struct Stream {
    /// The peer.
    node: u64,
    /// The entry that it gives next, and up to which one it was asked.
    next: (u64, u64),
    entries: Entries,
}

/// Asks peers for entries. Its calls block: for a thread that may.
pub(super) struct Reader {
    pub(super) asker: Asker,
    pub(super) runtime: Handle,
    pub(super) peers: Peers,
    /// Goes on where the last answer has ended.
    stream: Option<Stream>,
    /// Peers that took too long since the reader was last closed: they are asked last.
    late: BTreeSet<u64>,
    /// How long a part may take.
    pub(super) part_time: Duration,
}

impl Reader {
    /// Asks these. Call within a runtime.
    pub(super) fn new(asker: Asker, peers: Peers) -> Reader {
        let (runtime, late) = (Handle::current(), BTreeSet::new());
        Reader { asker, runtime, peers, stream: None, late, part_time: PART_TIME }
    }

    /// Another peer comes first.
    pub(super) fn rotate(&mut self) {
        let one = self.peers.len().min(1);
        self.peers.rotate_left(one);
    }

    /// Ends what is being read, and asks everybody anew.
    pub(super) fn close(&mut self) {
        self.stream = None;
        self.late.clear();
    }

    /// In which order to ask these peers: first whoever is being read from.
    pub(super) fn order(&self, nodes: &[u64], want: &Want, to: u64) -> Vec<u64> {
        let next = (want.from, to);
        let reading = self.stream.as_ref().filter(|stream| stream.next == next);
        let reading = reading.map(|stream| stream.node);
        let mut order = nodes.to_vec();
        order.sort_by_key(|node| (Some(*node) != reading, self.late.contains(node)));
        order
    }

    /// Id and link of one entry of one peer.
    pub(super) fn one(
        &self,
        node: u64,
        index: u64,
    ) -> Result<Option<(EntryId, Chain)>, PeerFailure> {
        let addr = self.addr(node)?;
        self.runtime.block_on(async {
            let mut entries = self.asker.entries(addr, index, index + 1).await?;
            Ok(entries.next().await.transpose()?.map(|(entry, chain)| (entry.id, chain)))
        })
    }

    /// Some consecutive entries of one peer, from the first that is wanted.
    pub(super) fn ask(
        &mut self,
        node: u64,
        want: &Want,
        to: u64,
    ) -> Result<Vec<Fetched>, PeerFailure> {
        let next = (want.from, to);
        let open = self.stream.take().filter(|open| (open.node, open.next) == (node, next));
        let entries = match open {
            Some(open) => open.entries,
            None => {
                let addr = self.addr(node)?;
                self.runtime.block_on(self.asker.entries(addr, want.from, to))?
            }
        };
        let (fetched, rest) = match self.take(entries, want) {
            Ok(taken) => taken,
            Err(said) => {
                if matches!(said, PeerFailure::Nothing(_)) {
                    self.late.insert(node);
                }
                return Err(said);
            }
        };
        let next = (want.from + fetched.len() as u64, to);
        self.stream = rest.map(|entries| Stream { node, next, entries });
        Ok(fetched)
    }

    fn addr(&self, node: u64) -> Result<&str, PeerFailure> {
        let peer = self.peers.iter().find(|(id, _)| *id == node);
        peer.map(|(_, addr)| addr.as_str()).ok_or(PeerFailure::Nothing("it has no address".into()))
    }

    /// A few MiB of consecutive entries from a stream, and the rest of it.
    fn take(
        &self,
        mut entries: Entries,
        want: &Want,
    ) -> Result<(Vec<Fetched>, Option<Entries>), PeerFailure> {
        let mut fetched: Vec<Fetched> = Vec::new();
        let mut bytes = 0;
        let until = Instant::now() + self.part_time;
        while bytes < MENDING_BYTES_MAX {
            let next = async { tokio::time::timeout_at(until, entries.next()).await };
            let Ok(next) = self.runtime.block_on(next) else {
                // Not what came before either: an entry now and then would take for ever.
                return Err(PeerFailure::Nothing(format!(
                    "has not given enough in {:?}",
                    self.part_time
                )));
            };
            let (entry, link) = match next {
                Some(Ok(next)) => next,
                // What came before is good all the same.
                Some(Err(error)) if fetched.is_empty() => return Err(error.into()),
                Some(Err(_)) | None => return ended(fetched, None),
            };
            if entry.id.index != want.from + fetched.len() as u64 {
                return ended(fetched, Some(entry.id.index));
            }
            let before = fetched.last().map_or(want.before, |last| last.chain);
            if chain::link_entry(&before, &entry) != link {
                let apart =
                    format!("has an entry {} that does not follow from ours", entry.id.index);
                return if fetched.is_empty() {
                    Err(PeerFailure::Apart(apart))
                } else {
                    ended(fetched, None)
                };
            }
            bytes += entry.payload_bytes() + ENTRY_BYTES;
            fetched.push(Fetched { entry, chain: link });
        }
        Ok((fetched, Some(entries)))
    }
}

fn ended(
    fetched: Vec<Fetched>,
    next: Option<u64>,
) -> Result<(Vec<Fetched>, Option<Entries>), PeerFailure> {
    if fetched.is_empty() { Err(PeerFailure::Lacks(next)) } else { Ok((fetched, None)) }
}
