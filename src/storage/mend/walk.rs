//! The walk through a log that has holes: entry by entry, own ones where they are whole, peers'
//! where they are not.

use std::collections::VecDeque;
use std::ops::Range;

use indelible_core::{Chain, Entry, chain};

use super::own::Found;
use super::{Fetch, Fetched, MendError, Own, Refusal, Supply, Want, check_entry};
use crate::disk::DiskError;
use crate::storage::frame::{FrameFault, FrameHeader, Location};
use crate::storage::segment::{self, Summary};

/// Where the walk is, and how it came there.
pub(in crate::storage) struct Walk<'a, 'f> {
    fetch: &'a mut Fetch<'f>,
    /// The entry that comes next.
    pub(in crate::storage) index: u64,
    /// The chain before it.
    pub(in crate::storage) chain: Chain,
    /// The term of the entry before it; 0 if it is not known.
    term: u64,
    /// Entries of peers that are not used up.
    supplied: VecDeque<Fetched>,
    /// Peers' entries up to here that nothing of ours has followed yet.
    pub(in crate::storage) run: Option<Run>,
    /// Entries of peers that were used.
    pub(in crate::storage) fetched: Vec<Range<u64>>,
    /// Own frames that do not follow are damage, too, whatever came before them.
    pub(in crate::storage) doubting: bool,
    /// Holes from here on are open, whatever seems to follow.
    pub(in crate::storage) open_from: u64,
}

/// Consecutive entries of peers.
#[derive(Debug, Clone, Copy)]
pub(in crate::storage) struct Run {
    /// The first.
    pub(in crate::storage) from: u64,
    /// Whether they were asked for as a closed hole, so that any one peer may have given them.
    pub(in crate::storage) closed: bool,
}

/// Where a segment of the walk stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::storage) enum Stopped {
    /// The segment is closed.
    Closed,
    /// The log ends, as far as this node can tell.
    End,
    /// Peers said that it ends.
    EndOfPeers,
}

/// What follows a place where there is no whole frame of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::storage) enum After {
    /// Nothing, and nothing is missing.
    End,
    /// A hole up to this entry; none: an open one.
    Hole(Option<u64>),
}

/// Entries as the walk passes them: each one, its link, its place, and whether it is a peer's.
pub(in crate::storage) type Put<'p> =
    dyn FnMut(&Entry, &FrameHeader, Location, bool) -> Result<(), DiskError> + 'p;
/// Judges a place without a whole frame: the segment so far, what is wrong there, and whether what
/// comes before is a peer's.
pub(in crate::storage) type Judge<'j> =
    dyn FnMut(&mut Own<'_>, &Summary, FrameFault, bool) -> Result<After, DiskError> + 'j;

impl<'a, 'f> Walk<'a, 'f> {
    /// A walk from entry `index`; the chain before it is `chain`.
    pub(in crate::storage) fn new(
        index: u64,
        chain: Chain,
        fetch: &'a mut Fetch<'f>,
    ) -> Walk<'a, 'f> {
        Walk {
            fetch,
            index,
            chain,
            term: 0,
            supplied: VecDeque::new(),
            run: None,
            fetched: Vec::new(),
            doubting: false,
            open_from: u64::MAX,
        }
    }

    /// Walks through the segment that starts with the next entry, up to entry `until` at most.
    /// `doubted`: its own frames count only if a peer has the same.
    pub(in crate::storage) fn segment(
        &mut self,
        own: &mut Own<'_>,
        segment_bytes: u64,
        doubted: bool,
        until: u64,
        judge: &mut Judge<'_>,
        put: &mut Put<'_>,
    ) -> Result<(Summary, Stopped), MendError> {
        let mut summary = Summary::new(self.index, self.chain);
        loop {
            if segment::is_closed(summary.frames_end, segment_bytes) {
                return Ok((summary, Stopped::Closed));
            }
            if self.index >= until {
                return Ok((summary, Stopped::End));
            }
            let found = own.look(summary.frames_end, self.index, &self.chain)?;
            let (entry, chain, of_peer) = match found {
                Found::Next(entry, header) if !doubted => {
                    self.run = None;
                    (entry, header.chain, false)
                }
                Found::Other if self.run.is_some_and(|run| run.closed) && !self.doubting => {
                    let from = self.run.map_or(self.index, |run| run.from);
                    return Err(MendError::DoesNotJoin { from, index: self.index });
                }
                found => {
                    let (own_chain, fault) = match found {
                        Found::Next(_, header) => (Some(header.chain), FrameFault::Chain),
                        Found::Other => (None, FrameFault::Chain),
                        Found::Nothing(fault) => (None, fault),
                    };
                    let to = match judge(own, &summary, fault, self.run.is_some())? {
                        After::End => return Ok((summary, Stopped::End)),
                        After::Hole(to) => to.filter(|_| self.index < self.open_from),
                    };
                    let Some(Fetched { entry, chain }) = self.next_of_peers(to)? else {
                        return Ok((summary, Stopped::EndOfPeers));
                    };
                    let same = own_chain == Some(chain);
                    self.count(to.is_some(), same);
                    (entry, chain, !same)
                }
            };
            let location = Location { segment: summary.first, offset: summary.frames_end };
            let header = FrameHeader::new(&entry, chain, location);
            put(&entry, &header, location, of_peer)?;
            summary.push(entry.id, chain, header.frame_size());
            self.index += 1;
            self.chain = chain;
            self.term = entry.id.term;
        }
    }

    /// An entry of peers is used; `same` if ours says the same.
    fn count(&mut self, closed: bool, same: bool) {
        if same {
            self.run = None;
            return;
        }
        let run = self.run.get_or_insert(Run { from: self.index, closed: false });
        run.closed |= closed;
        match self.fetched.last_mut() {
            Some(last) if last.end == self.index => last.end += 1,
            _ => self.fetched.push(self.index..self.index + 1),
        }
    }

    /// The next entry, of peers and checked; none if the log ends before it.
    fn next_of_peers(&mut self, to: Option<u64>) -> Result<Option<Fetched>, MendError> {
        let index = self.index;
        while self.supplied.front().is_some_and(|fetched| fetched.entry.id.index < index) {
            self.supplied.pop_front();
        }
        let fits = |fetched: &Fetched| fetched.entry.id.index == index;
        if !self.supplied.front().is_some_and(fits) {
            let want = Want { from: index, to, before: self.chain };
            let not_supplied = |source| MendError::NotSupplied { from: index, to, source };
            match (self.fetch)(&want).map_err(not_supplied)? {
                Supply::End => return Ok(None),
                Supply::NotClosed => {
                    let from = self.run.map_or(index, |run| run.from);
                    return Err(MendError::NotClosed { from, to: to.unwrap_or(index + 1) });
                }
                Supply::Entries(mut entries) => {
                    // What fills a closed hole may not be good enough for an open one after it.
                    entries.retain(|fetched| to.is_none_or(|to| fetched.entry.id.index < to));
                    self.supplied = entries.into();
                }
            }
        }
        let Some(fetched) = self.supplied.pop_front() else {
            return Err(MendError::NotSupplied {
                from: index,
                to,
                source: "no entries came".into(),
            });
        };
        let refused = |why| Err(MendError::Refused { index, why });
        if !fits(&fetched) {
            return refused(Refusal::Index { asked: index });
        }
        let term = fetched.entry.id.term;
        if term < self.term {
            return refused(Refusal::Term { term, before: self.term });
        }
        if let Err(why) = check_entry(&fetched.entry) {
            return refused(why);
        }
        if chain::link_entry(&self.chain, &fetched.entry) != fetched.chain {
            return refused(Refusal::Chain);
        }
        Ok(Some(fetched))
    }
}
