//! What nodes do with each other: elections, entries, notes, changes of the group. A request and
//! its answer are one step, and each write to a disk is one, so a crash may come between any two
//! writes. A partition is a step that is not taken.

use std::sync::Arc;

use crate::disk::{Ballot, Entry, Members, NODES, bit};
use crate::node::Lead;
use crate::state::{FOURTH, Setting, State};

impl State {
    /// The founder at place 0 asks another one whether it is empty.
    pub fn ask_empty(&mut self, setting: &Setting, other: usize) -> Option<()> {
        let asks = &self.nodes[0];
        let may = asks.disk.genesis && asks.disk.log.is_empty();
        let is_empty = self.nodes[other].disk.log.is_empty();
        if !may || !is_empty || !self.meet(setting, 0, other) {
            return None;
        }
        let id = self.nodes[other].id;
        let process = self.nodes[0].process_mut()?;
        let asked = process.empty | bit(id);
        (process.empty != asked).then_some(())?;
        process.empty = asked;
        Some(())
    }

    /// It writes the first entry, once both have said so. It has admitted both durably by then.
    pub fn begin_trail(&mut self, setting: &Setting) -> Option<()> {
        let node = &self.nodes[0];
        let process = node.process()?;
        let is_ready = node.disk.genesis && node.disk.log.is_empty() && process.empty == 0b110;
        is_ready.then_some(())?;
        let peers = node.disk.hard_state.as_ref()?.peers;
        let mut boots = peers.map(|admitted| admitted.map(|admitted| admitted.boot));
        boots[0] = Some(process.boot);
        if !setting.rules.boot_in_membership {
            boots = [None; NODES];
        }
        let members = Some(Arc::new(Members { voters: 0b111, boots }));
        let writer = self.writer(0)?;
        let entry = Entry { ballot: Ballot::default(), writer, members };
        self.write(setting, 0, |disk| disk.log.push(entry));
        Some(())
    }

    /// A candidate is elected by itself and `voters`, a set of places.
    pub fn elect(&mut self, setting: &Setting, candidate: usize, voters: u8) -> Option<()> {
        let members = self.nodes[candidate].disk.members()?.clone();
        let places = voters | 1 << candidate;
        let is_enough = members.is_majority(self.ids(places));
        let may = is_enough && members.has(self.nodes[candidate].id);
        may.then_some(())?;
        let voters = || (0..self.nodes.len()).filter(move |place| voters & 1 << place != 0);
        let voters: Vec<usize> = voters().collect();
        for voter in &voters {
            let is_current = self.nodes[*voter].disk.last() <= self.nodes[candidate].disk.last();
            (is_current && self.meet(setting, candidate, *voter)).then_some(())?;
        }
        let all = || voters.iter().copied().chain([candidate]);
        let term = all().map(|place| self.nodes[place].disk.promise().term).max()? + 1;
        (term <= setting.limits.terms).then_some(())?;
        let ballot = Ballot { term, node: self.nodes[candidate].id };
        let everybody: Vec<usize> = all().collect();
        for place in everybody {
            self.promise(setting, place, ballot);
            if place == setting.limits.target {
                self.see(setting, candidate, |seen| seen.vote = ballot);
            }
        }
        for voter in &voters {
            let index = usize::from(self.nodes[*voter].id) - 1;
            let heard = &mut self.nodes[candidate].process_mut()?.heard[index];
            heard.vote = heard.vote.max(ballot);
        }
        let log = self.nodes[candidate].disk.log.clone();
        let mut lead = Lead { ballot, matched: [0; NODES], committed: 0 };
        lead.matched[usize::from(ballot.node) - 1] = log.len() as u8;
        self.nodes[candidate].process_mut()?.lead = Some(lead);
        let is_excused = self.is_excused(setting, places);
        self.truth.elect(ballot, &log, is_excused);
        Some(())
    }

    /// A node promises a ballot, and leads no more.
    fn promise(&mut self, setting: &Setting, place: usize, ballot: Ballot) {
        self.write_hard_state(setting, place, |hard_state| hard_state.promise = ballot);
        if let Some(process) = self.nodes[place].process_mut() {
            process.lead = None;
        }
    }

    /// A leader writes an entry.
    pub fn append(
        &mut self,
        setting: &Setting,
        place: usize,
        members: Option<Arc<Members>>,
    ) -> Option<()> {
        let ballot = self.nodes[place].lead()?.ballot;
        self.names_promise(setting, place, ballot);
        let entry = Entry { ballot, writer: self.writer(place)?, members };
        self.write(setting, place, |disk| disk.log.push(entry));
        self.matched(setting, place, place)
    }

    /// Before the log is changed under a new promise, `synced` names it. True if it did not.
    fn names_promise(&mut self, setting: &Setting, place: usize, ballot: Ballot) -> bool {
        let is_new = self.nodes[place].disk.log_promise < ballot;
        if is_new && setting.rules.log_names_promise {
            self.write(setting, place, |disk| disk.log_promise = ballot);
            return true;
        }
        false
    }

    fn writer(&self, place: usize) -> Option<indelible_lineage::Draw> {
        let lineage = self.nodes[place].lineage();
        lineage.draws().last().copied()
    }

    /// A leader and a node of its group make one step towards the same log.
    pub fn send(&mut self, setting: &Setting, leader: usize, follower: usize) -> Option<()> {
        let lead = self.nodes[leader].lead()?.clone();
        let members = self.nodes[leader].disk.members()?.clone();
        let id = self.nodes[follower].id;
        let may = members.has(id) && lead.ballot >= self.nodes[follower].disk.promise();
        (may && self.meet(setting, leader, follower)).then_some(())?;
        if self.nodes[follower].disk.promise() < lead.ballot {
            self.promise(setting, follower, lead.ballot);
            return Some(());
        }
        let is_written = self.names_promise(setting, follower, lead.ballot);
        // Of the others no file is put back, so nobody sees that these are two writes.
        if is_written && follower == setting.limits.target {
            return Some(());
        }
        let (theirs, ours) = (&self.nodes[follower].disk, &self.nodes[leader].disk.log);
        let same = theirs.log.iter().zip(ours).take_while(|(one, other)| one == other).count();
        if same < theirs.log.len() && same < ours.len() {
            // What hard_state says of the end of the log comes first: a crash in between leaves a
            // log that reaches it.
            let log_end = theirs.log_end(same)?;
            let bound = theirs.hard_state.as_ref()?.bound;
            if bound.log_end != log_end {
                self.write(setting, follower, |disk| {
                    let hard_state = disk.hard_state.as_mut().expect("it has promised");
                    hard_state.bound.log_end = log_end;
                });
            } else {
                self.write(setting, follower, |disk| disk.log.truncate(same));
            }
            return Some(());
        }
        if same < ours.len() {
            let entry = ours[same].clone();
            self.write(setting, follower, |disk| disk.log.push(entry));
        } else if usize::from(lead.matched[usize::from(id) - 1]) == ours.len() {
            return None;
        }
        self.matched(setting, leader, follower)
    }

    /// A follower, or the leader itself, has acknowledged its log.
    fn matched(&mut self, setting: &Setting, leader: usize, follower: usize) -> Option<()> {
        let entries = self.nodes[follower].disk.log.len();
        let index = usize::from(self.nodes[follower].id) - 1;
        let (log, members) = {
            let disk = &self.nodes[leader].disk;
            (disk.log.clone(), disk.members()?.clone())
        };
        let lead = self.nodes[leader].process_mut()?.lead.as_mut()?;
        lead.matched[index] = entries.min(log.len()) as u8;
        let lead = lead.clone();
        let has =
            |id: u8, entries: usize| usize::from(lead.matched[usize::from(id) - 1]) >= entries;
        let having =
            |entries| (1..=4).filter(|id| has(*id, entries)).fold(0, |ids, id| ids | bit(id));
        let committed = (1..=log.len()).rev().find(|entries| {
            log[entries - 1].ballot == lead.ballot && members.is_majority(having(*entries))
        });
        self.hear(setting, leader, committed.unwrap_or_default());
        let committed = committed.filter(|entries| *entries > usize::from(lead.committed));
        let Some(entries) = committed else { return Some(()) };
        self.nodes[leader].process_mut()?.lead.as_mut()?.committed = entries as u8;
        let by = having(entries);
        let places = (0..self.nodes.len()).filter(|place| by & bit(self.nodes[*place].id) != 0);
        let places = places.fold(0, |places, place| places | 1 << place);
        let is_excused = self.is_excused(setting, places);
        self.truth.commit(lead.ballot, &log[..entries], is_excused);
        Some(())
    }

    /// A leader remembers who has acknowledged what is committed.
    fn hear(&mut self, setting: &Setting, leader: usize, committed: usize) {
        let target = usize::from(self.nodes[setting.limits.target].id) - 1;
        let Some(process) = self.nodes[leader].process_mut() else { return };
        let Some(lead) = &process.lead else { return };
        for (heard, matched) in process.heard.iter_mut().zip(lead.matched) {
            heard.entries = heard.entries.max(matched.min(committed as u8));
        }
        let entries = process.heard[target].entries.into();
        if leader != setting.limits.target {
            self.see(setting, leader, |seen| seen.entries = entries);
        }
    }

    /// A leader gathers the signatures of those that have what is committed, and sends the note to
    /// another node. Nobody signs past its own durable log.
    pub fn send_note(&mut self, setting: &Setting, leader: usize, to: usize) -> Option<()> {
        let lead = self.nodes[leader].lead()?.clone();
        let members = self.nodes[leader].disk.members()?.clone();
        (lead.committed > 1 && self.meet(setting, leader, to)).then_some(())?;
        let mut notes = self.nodes[to].disk.notes;
        for id in (1..=4).filter(|id| members.has(*id)) {
            let index = usize::from(id) - 1;
            if lead.matched[index] >= lead.committed {
                notes[index] = notes[index].max(lead.committed);
            }
        }
        (notes != self.nodes[to].disk.notes).then_some(())?;
        self.write(setting, to, |disk| disk.notes = notes);
        Some(())
    }

    /// A leader adds the fourth node.
    pub fn add(&mut self, setting: &Setting, leader: usize) -> Option<()> {
        let mut members = self.settled_members(setting, leader)?;
        (!members.has(4) && self.meet(setting, leader, FOURTH)).then_some(())?;
        let boot = self.nodes[FOURTH].process()?.boot;
        members.voters |= bit(4);
        members.boots[FOURTH] = setting.rules.boot_in_membership.then_some(boot);
        self.append(setting, leader, Some(Arc::new(members)))
    }

    /// A leader removes another node.
    pub fn remove(&mut self, setting: &Setting, leader: usize, id: u8) -> Option<()> {
        let mut members = self.settled_members(setting, leader)?;
        (members.has(id) && self.nodes[leader].id != id).then_some(())?;
        members.voters &= !bit(id);
        members.boots[usize::from(id) - 1] = None;
        self.append(setting, leader, Some(Arc::new(members)))
    }

    /// The group, if the leader may change it: the change before is committed, under itself.
    fn settled_members(&self, setting: &Setting, leader: usize) -> Option<Members> {
        let node = &self.nodes[leader];
        let lead = node.lead()?;
        let log = &node.disk.log;
        let changed = log.iter().rposition(|entry| entry.members.is_some())?;
        let is_committed = lead.committed > 0 && usize::from(lead.committed) > changed;
        // The first entry is everybody's, and a second change is not possible.
        let is_settled = is_committed || changed == 0 && !setting.limits.remove;
        is_settled.then_some(())?;
        node.disk.members().map(|members| **members)
    }
}
