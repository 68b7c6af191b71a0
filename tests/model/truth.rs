//! What nobody in the group knows: what was acknowledged, who was elected, whose disk was touched.
//! The promises are checked against it.

use crate::disk::{Ballot, Disk, Entry};

/// What a node has seen of the node whose disk is touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Seen {
    /// Number of the newest boot that it has admitted, ever.
    pub boot: u64,
    /// The highest vote that this process of it got.
    pub vote: Ballot,
    /// Up to which committed entry was acknowledged to this process of it.
    pub entries: usize,
}

impl Seen {
    /// Whether that is later than a disk.
    pub fn is_later_than(&self, disk: &Disk) -> bool {
        // hard_state is written first; a start finishes what a crash has left.
        let boot = disk.hard_state.as_ref().map_or(0, |hard_state| hard_state.bound.boot.number);
        // A start raises the promise to that of the log.
        let promise = disk.promise().max(disk.log_promise);
        self.boot > boot || self.vote > promise || self.entries > disk.log.len()
    }
}

/// A consistent older image of a whole disk that has taken the place of a newer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OldImage {
    /// Number of entries in its log.
    pub entries: u8,
    /// Places of the nodes that have seen something later.
    pub seen_by: u8,
}

/// The first promise that was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Broken {
    /// A leader was elected whose log lacks an acknowledged entry.
    Lost,
    /// An entry was acknowledged that a leader with a higher ballot lacks, or another one in its
    /// place.
    Fork,
    /// A peer let a copy take the place of a node that it could reach.
    Displaced,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Truth {
    /// The entries that were acknowledged to clients, and those before them.
    pub committed: Vec<Entry>,
    /// The highest ballot under which that has happened.
    pub committed_under: Ballot,
    /// Everybody who was elected, and the log at that moment.
    pub elected: Vec<(Ballot, Vec<Entry>)>,
    /// Whether somebody has touched the target's disk.
    pub touched: bool,
    /// What each place has seen of the target.
    pub seen: [Seen; 4],
    /// All disks that the target has had since the image was taken.
    pub past: Vec<u64>,
    /// If the target runs on a consistent older image.
    pub old_image: Option<OldImage>,
    /// What was broken.
    pub broken: Option<Broken>,
    /// What happened is one of the two cases that cannot be detected: nothing is promised from
    /// here on.
    pub beyond: bool,
}

impl Truth {
    /// Somebody was elected.
    pub fn elect(&mut self, ballot: Ballot, log: &[Entry], is_excused: bool) {
        if ballot > self.committed_under && !log.starts_with(&self.committed) {
            self.note(Broken::Lost, is_excused);
        }
        self.elected.push((ballot, log.to_vec()));
        self.elected.sort_by_key(|(ballot, _)| *ballot);
    }

    /// A leader has acknowledged everything up to here.
    pub fn commit(&mut self, ballot: Ballot, log: &[Entry], is_excused: bool) {
        let later = self.elected.iter().filter(|(elected, _)| *elected > ballot);
        let is_fork = !log.starts_with(&self.committed) && !self.committed.starts_with(log);
        if is_fork || later.into_iter().any(|(_, theirs)| !theirs.starts_with(log)) {
            self.note(Broken::Fork, is_excused);
        }
        if log.len() > self.committed.len() {
            self.committed = log.to_vec();
        }
        self.committed_under = self.committed_under.max(ballot);
    }

    /// A promise is broken, unless nothing was promised.
    pub fn note(&mut self, broken: Broken, is_excused: bool) {
        match is_excused {
            true => self.beyond = true,
            false => self.broken = self.broken.or(Some(broken)),
        }
    }
}
