//! What is on the disk of a node.

use std::sync::Arc;

use indelible_lineage::{Admitted, Boot, Bound, Draw, Lineage, LogEnd};

/// Nodes that there can be; ids are 1 to 4.
pub const NODES: usize = 4;

/// Term and leader: what is voted for. Every candidacy has its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Ballot {
    /// The term.
    pub term: u8,
    /// Who leads in it.
    pub node: u8,
}

/// The group, as an entry of the log says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Members {
    /// Bit `id - 1` for each voter.
    pub voters: u8,
    /// With which boot each of them was added, if the rule holds.
    pub boots: [Option<Boot>; NODES],
}

impl Members {
    /// Whether a node is in the group.
    pub fn has(&self, id: u8) -> bool {
        self.voters & bit(id) != 0
    }

    /// Whether these nodes are a majority.
    pub fn is_majority(&self, nodes: u8) -> bool {
        2 * (nodes & self.voters).count_ones() > self.voters.count_ones()
    }
}

/// The bit of a node in a set of nodes.
pub fn bit(id: u8) -> u8 {
    1 << (id - 1)
}

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Under whom it was written.
    pub ballot: Ballot,
    /// What its writer had drawn: two processes never write the same entry.
    pub writer: Draw,
    /// The group from here on; none: an event.
    pub members: Option<Arc<Members>>,
}

/// What `hard_state` holds. It is written as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HardState {
    /// Boot, draw, and end of the log.
    pub bound: Bound,
    /// Nothing below this is voted for, or acknowledged.
    pub promise: Ballot,
    /// The newest boot that was admitted of each node.
    pub peers: [Option<Admitted>; NODES],
}

/// Every file but the identity: without its key a node can say nothing, and nobody else either.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Disk {
    /// `genesis`: the node knows who the three founders are.
    pub genesis: bool,
    /// `lineage`.
    pub lineage: Option<Lineage>,
    /// `hard_state`.
    pub hard_state: Option<HardState>,
    /// `segments` and `synced`.
    pub log: Vec<Entry>,
    /// Also in `synced`: under which promise the log was changed last.
    pub log_promise: Ballot,
    /// `notes`: up to which entry this node has seen each node's signature.
    pub notes: [u8; NODES],
}

impl Disk {
    /// The newest group in the log, committed or not.
    pub fn members(&self) -> Option<&Arc<Members>> {
        self.log.iter().rev().find_map(|entry| entry.members.as_ref())
    }

    /// Ballot of the last entry, and number of entries: the greater one is more up to date.
    pub fn last(&self) -> (Ballot, usize) {
        (self.log.last().map(|entry| entry.ballot).unwrap_or_default(), self.log.len())
    }

    /// The end of the log if it is cut to so many entries. None: it has fewer.
    pub fn log_end(&self, entries: usize) -> Option<LogEnd> {
        let last = match entries.checked_sub(1) {
            None => Ballot::default(),
            Some(last) => self.log.get(last)?.ballot,
        };
        let (term, leader) = (last.term.into(), last.node.into());
        Some(LogEnd { entries: entries as u64, term, leader })
    }

    /// Where the log ends.
    pub fn own_log_end(&self) -> LogEnd {
        self.log_end(self.log.len()).expect("the log has as many entries as it has")
    }

    /// What is promised.
    pub fn promise(&self) -> Ballot {
        self.hard_state.as_ref().map(|hard_state| hard_state.promise).unwrap_or_default()
    }
}

/// A set of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Files(pub u8);

impl Files {
    /// `genesis`.
    pub const GENESIS: Files = Files(1);
    /// `lineage`.
    pub const LINEAGE: Files = Files(2);
    /// `hard_state`.
    pub const HARD_STATE: Files = Files(4);
    /// `segments` and `synced`.
    pub const LOG: Files = Files(8);
    /// `notes`.
    pub const NOTES: Files = Files(16);
    /// All of them.
    pub const ALL: Files = Files(31);

    /// All subsets but the empty one.
    pub fn subsets(self) -> impl Iterator<Item = Files> {
        (1..=self.0).filter(move |files| files & !self.0 == 0).map(Files)
    }

    fn has(self, other: Files) -> bool {
        self.0 & other.0 != 0
    }

    /// Puts these files of `from` into the place of those of `to`.
    pub fn copy(self, from: &Disk, to: &mut Disk) {
        if self.has(Files::GENESIS) {
            to.genesis = from.genesis;
        }
        if self.has(Files::LINEAGE) {
            to.lineage.clone_from(&from.lineage);
        }
        if self.has(Files::HARD_STATE) {
            to.hard_state.clone_from(&from.hard_state);
        }
        if self.has(Files::LOG) {
            to.log.clone_from(&from.log);
            to.log_promise = from.log_promise;
        }
        if self.has(Files::NOTES) {
            to.notes = from.notes;
        }
    }
}
