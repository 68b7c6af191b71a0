//! The whole group at one moment: nodes, and what the search has spent and knows.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use indelible_lineage::{Admission, Admitted, Boot, Draw, Lineage, LogEnd, admit};

use crate::disk::{Ballot, Disk, Entry, HardState, Members, NODES, bit};
use crate::limits::Limits;
use crate::node::{Heard, Node, root};
use crate::rules::Rules;
use crate::truth::{Broken, Seen, Truth};

/// Place of what is no founder: the node that is added, or the copy.
pub const FOURTH: usize = 3;

/// How much of its limits a search has used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Spent {
    /// Draws at each place.
    pub draws: [u8; NODES],
    /// Events that were written.
    pub events: u8,
    /// Times that the target's disk was touched.
    pub touches: u8,
    /// Notes that were sent.
    pub notes: u8,
    /// Changes of the group.
    pub changes: u8,
}

/// One state of the model.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    /// The three founders, then the node that is added, or the copy of the target.
    pub nodes: Vec<Node>,
    /// An older image of the target's disk.
    pub image: Option<Disk>,
    /// Places that cannot reach the target; only where there is a copy.
    pub cut: u8,
    /// What was used up.
    pub spent: Spent,
    /// What is true, whatever nodes know.
    pub truth: Truth,
}

/// What makes up a model: the rules that hold, and how far to search.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The rules that hold.
    pub rules: Rules,
    /// How far to search.
    pub limits: Limits,
    /// Whether each state is asked if the group would come back; if not, the search is faster.
    pub is_recovery_checked: bool,
}

impl State {
    /// The first state.
    pub fn first(setting: &Setting) -> State {
        let (rules, limits) = (&setting.rules, &setting.limits);
        let nodes = (1..=3).map(|id| Node::new(id, true)).collect();
        let (image, cut) = (None, 0);
        let (spent, truth) = Default::default();
        let mut state = State { nodes, image, cut, spent, truth };
        if !limits.genesis {
            let founders: Vec<Node> = state.nodes.iter().map(|node| started(rules, node)).collect();
            state.nodes = founders;
            let boots = std::array::from_fn(|place| {
                let process = state.nodes.get(place)?.process()?;
                rules.boot_in_membership.then_some(process.boot)
            });
            let members = Some(Arc::new(Members { voters: 0b111, boots }));
            let entry = Entry { ballot: Ballot::default(), writer: Draw([0; 16]), members };
            for node in &mut state.nodes {
                node.disk.log.push(entry.clone());
            }
            state.truth.committed.push(entry);
        }
        match (limits.copy, limits.add) {
            (true, _) => {
                let id = state.nodes[limits.target].id;
                state.nodes.push(Node::new(id, false));
            }
            (_, true) => state.nodes.push(Node::new(4, false)),
            (false, false) => {}
        }
        state
    }

    /// The next number that a process at this place draws: no two processes draw the same.
    pub fn draw(&self, place: usize) -> Draw {
        let mut draw = [0; 16];
        draw[0] = place as u8 + 1;
        draw[1] = self.spent.draws[place] + 1;
        Draw(draw)
    }

    /// One write to a disk.
    pub fn write(&mut self, setting: &Setting, place: usize, write: impl FnOnce(&mut Disk)) {
        write(&mut self.nodes[place].disk);
        self.remember_disk(setting, place);
    }

    /// One write of `hard_state`, which always names the end of the log as it is now.
    pub fn write_hard_state(
        &mut self,
        setting: &Setting,
        place: usize,
        write: impl FnOnce(&mut HardState),
    ) {
        self.write(setting, place, |disk| {
            let log_end = disk.own_log_end();
            let hard_state = disk.hard_state.as_mut().expect("a process has written it");
            hard_state.bound.log_end = log_end;
            write(hard_state);
        });
    }

    /// Notes the disk as it is, if it is the one of which there is an image.
    pub fn remember_disk(&mut self, setting: &Setting, place: usize) {
        if place == setting.limits.target && self.image.is_some() {
            let disk = fingerprint(&setting.rules, self.nodes[place].id, &self.nodes[place].disk);
            if self.truth.past.last() != Some(&disk) {
                self.truth.past.push(disk);
            }
        }
    }

    /// Both sides of a new session, or of one that there is. False if one does not admit the other.
    pub fn meet(&mut self, setting: &Setting, one: usize, other: usize) -> bool {
        let is_cut = |target, peer| {
            setting.limits.copy
                && target == setting.limits.target
                && self.cut & 1_u8 << peer != 0_u8
        };
        if one == other || self.nodes[one].id == self.nodes[other].id {
            return false;
        }
        if is_cut(one, other) || is_cut(other, one) {
            return false;
        }
        self.judge(setting, one, other) && self.judge(setting, other, one)
    }

    /// Whether the node at `peer` admits the one at `place`; remembers its boot if that is news.
    fn judge(&mut self, setting: &Setting, peer: usize, place: usize) -> bool {
        let rules = &setting.rules;
        let (judge, node) = (&self.nodes[peer], &self.nodes[place]);
        let (Some(process), Some(_)) = (node.process(), judge.process()) else { return false };
        let (boot, id) = (process.boot, node.id);
        let Some(hard_state) = &judge.disk.hard_state else { return false };
        let is_lost = usize::from(judge.disk.notes[usize::from(id) - 1]) > node.disk.log.len();
        if rules.signatures && is_lost {
            return false;
        }
        if self.asks_in_vain(setting, peer, place) {
            return false;
        }
        let judge = &self.nodes[peer];
        let heard = judge.process().map(|process| process.heard[usize::from(id) - 1]);
        let node = &self.nodes[place].disk;
        let is_behind = |heard: Heard| {
            node.promise() < heard.vote || node.log.len() < usize::from(heard.entries)
        };
        if rules.heard && heard.is_some_and(is_behind) {
            return false;
        }
        let members = judge.disk.members();
        let in_membership = members.map(|members| members.boots[usize::from(id) - 1]);
        let is_known = match members {
            Some(members) => members.has(id),
            // The founders, before there is a log.
            None => judge.disk.genesis && id <= 3,
        };
        if is_known {
            let admitted = hard_state.peers[usize::from(id) - 1];
            let in_membership = in_membership.flatten();
            let lineage = || self.nodes[place].lineage();
            let admission = match admit(in_membership, admitted, boot, None) {
                Admission::Needs { after } => {
                    admit(in_membership, admitted, boot, Some(lineage().draws_after(after)))
                }
                decided => decided,
            };
            let admission = match admission {
                Admission::Current => Admission::Current,
                _ if !rules.extend => Admission::Newer,
                decided => decided,
            };
            let is_first_contact = in_membership.is_none();
            match admission {
                Admission::Current => {}
                Admission::Newer => self.write_hard_state(setting, peer, |hard_state| {
                    hard_state.peers[usize::from(id) - 1] =
                        Some(Admitted { boot, is_first_contact });
                }),
                Admission::Needs { .. } | Admission::Not(_) => return false,
            }
        }
        self.admitted(setting, peer, place, boot);
        true
    }

    /// Whether the peer has a session with another process of this node, which answers.
    fn asks_in_vain(&self, setting: &Setting, peer: usize, place: usize) -> bool {
        setting.rules.ask_the_old_boot && self.answers(setting, peer, place)
    }

    /// Whether another process of the same node, with which the peer has a session, would answer.
    fn answers(&self, setting: &Setting, peer: usize, place: usize) -> bool {
        let index = usize::from(self.nodes[place].id) - 1;
        let session = self.nodes[peer].process().and_then(|process| process.sessions[index]);
        let Some(old) = session.map(usize::from).filter(|old| *old != place) else { return false };
        let is_cut = old == setting.limits.target && self.cut & 1 << peer != 0;
        self.nodes[old].process().is_some() && !is_cut
    }

    fn admitted(&mut self, setting: &Setting, peer: usize, place: usize, boot: Boot) {
        let limits = &setting.limits;
        let is_target = self.nodes[place].id == self.nodes[limits.target].id;
        if is_target {
            self.see(setting, peer, |seen| seen.boot = seen.boot.max(boot.number));
        }
        if !limits.copy {
            return;
        }
        if is_target {
            let original = self.nodes[limits.target].process().is_some();
            if self.answers(setting, peer, place) {
                self.truth.note(Broken::Displaced, false);
            } else if place == FOURTH && original || place != FOURTH && self.truth.touched {
                // Two processes of one node, each with peers that do not hear the other one; or
                // the original after its copy has run, with a peer that has not heard of that.
                self.truth.beyond = true;
            }
            if place == FOURTH {
                self.truth.touched = true;
            }
        }
        let index = usize::from(self.nodes[place].id) - 1;
        if let Some(process) = self.nodes[peer].process_mut() {
            process.sessions[index] = Some(place as u8);
        }
    }

    /// A peer sees something of the target. Kept only if an image may be put back.
    pub fn see(&mut self, setting: &Setting, peer: usize, see: impl FnOnce(&mut Seen)) {
        if setting.limits.touches > 0 {
            see(&mut self.truth.seen[peer]);
        }
    }

    /// Whether a majority may do the wrong thing because of an older image that nobody else in it
    /// could tell from the newest disk: the first of the two cases that cannot be detected.
    pub fn is_excused(&self, setting: &Setting, places: u8) -> bool {
        let target = setting.limits.target;
        if setting.limits.copy {
            // The copy may be an older image; that is looked at where there is no copy.
            return self.truth.touched;
        }
        let Some(old) = self.truth.old_image else { return false };
        let saw = |place: usize| {
            let noted = self.nodes[place].disk.notes[usize::from(self.nodes[target].id) - 1];
            old.seen_by & 1 << place != 0 || noted > old.entries
        };
        let others = || (0..self.nodes.len()).filter(|place| *place != target);
        places & 1 << target != 0 && !others().any(|place| places & 1 << place != 0 && saw(place))
    }

    /// The place of a node. Not for models with a copy of it.
    pub fn place(&self, id: u8) -> Option<usize> {
        self.nodes.iter().position(|node| node.id == id)
    }

    /// Nodes as a set of ids, from a set of places.
    pub fn ids(&self, places: u8) -> u8 {
        let chosen = self.nodes.iter().enumerate().filter(|(place, _)| places & 1 << place != 0);
        chosen.fold(0, |ids, (_, node)| ids | bit(node.id))
    }
}

/// A disk as a number, as the next start makes it: that finishes a start that a crash has cut off,
/// and raises the promise. Where the log ended is no part of it: that is only for comparing files.
pub fn fingerprint(rules: &Rules, id: u8, disk: &Disk) -> u64 {
    let mut disk = disk.clone();
    let log_promise = disk.log_promise;
    if let Some(hard_state) = &mut disk.hard_state {
        hard_state.bound.log_end = LogEnd::default();
        if rules.log_names_promise {
            hard_state.promise = hard_state.promise.max(log_promise);
        }
    }
    if let Some(hard_state) = &disk.hard_state {
        let mut lineage = disk.lineage.take().unwrap_or_else(|| Lineage::new(root(id)));
        if lineage.newest().next(hard_state.bound.draw) == hard_state.bound.boot {
            lineage.push(hard_state.bound.draw);
        }
        disk.lineage = Some(lineage);
    }
    let mut hasher = DefaultHasher::new();
    disk.hash(&mut hasher);
    hasher.finish()
}

/// A founder that runs for the first time.
fn started(rules: &Rules, node: &Node) -> Node {
    let draw = Draw([0, node.id, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let written = node.start_step(rules, draw).and_then(|node| node.start_step(rules, draw));
    written.expect("nothing keeps a new node from starting")
}
