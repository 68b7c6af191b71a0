//! What may happen next.

use crate::disk::{Disk, Files};
use crate::node::{Node, Run};
use crate::state::{FOURTH, Setting, State, fingerprint};
use crate::truth::{OldImage, Seen};

/// One step. Numbers are places, not ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// A process ends, wherever it is: a crash, or an orderly stop.
    Stop(usize),
    /// A start makes one write.
    Start(usize),
    /// The same after a crash.
    Restart(usize),
    /// A node that has spoken too early writes what it should have written before.
    WriteLate(usize),
    /// Two nodes open a session.
    Greet(usize, usize),
    /// The first founder asks another one whether it is empty.
    AskEmpty(usize),
    /// The first founder writes the first entry.
    BeginTrail,
    /// A node is elected by itself and a set of places.
    Elect(usize, u8),
    /// A leader writes an event.
    Append(usize),
    /// A leader and a follower make one step.
    Send(usize, usize),
    /// A leader publishes a note, and sends it to another node.
    SendNote(usize, usize),
    /// A leader adds the fourth node.
    Add(usize),
    /// A leader removes the node with this id.
    Remove(usize, u8),
    /// Somebody takes an image of the target's disk, running or not.
    TakeImage,
    /// Somebody deletes files of the target.
    Wipe(Files),
    /// Somebody puts older files into the place of the target's.
    Restore(Files),
    /// Somebody copies the target's disk to another machine.
    Copy,
    /// A peer can reach the target no more.
    Cut(usize),
}

impl Setting {
    /// Everything that may be worth a try.
    pub fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.truth.broken.is_some() {
            return;
        }
        let limits = &self.limits;
        let places = 0..state.nodes.len();
        for place in places.clone() {
            self.of_process(state, place, actions);
            let Some(process) = state.nodes[place].process() else { continue };
            if process.unwritten.is_some() {
                actions.push(Action::WriteLate(place));
            }
            let is_up = |other: &usize| *other != place && state.nodes[*other].process().is_some();
            let others = places.clone().filter(is_up);
            actions.extend(others.clone().filter(|o| place < *o).map(|o| Action::Greet(place, o)));
            elections(state, place, actions);
            if state.nodes[place].lead().is_none() {
                continue;
            }
            actions.extend(others.clone().map(|other| Action::Send(place, other)));
            if state.spent.notes < limits.notes {
                actions.extend(others.map(|other| Action::SendNote(place, other)));
            }
            if state.spent.events < limits.events {
                actions.push(Action::Append(place));
            }
            if limits.add && state.spent.changes == 0 {
                actions.push(Action::Add(place));
            }
            if limits.remove && state.spent.changes <= u8::from(limits.add) {
                actions.extend((1..=4).map(|id| Action::Remove(place, id)));
            }
        }
        if limits.genesis {
            actions.extend([Action::AskEmpty(1), Action::AskEmpty(2), Action::BeginTrail]);
        }
        self.touches(state, actions);
    }

    /// Starts and crashes.
    fn of_process(&self, state: &State, place: usize, actions: &mut Vec<Action>) {
        let is_copied = !self.limits.copy || place != FOURTH || state.spent.touches > 0;
        if is_copied && state.nodes[place].process().is_none() {
            actions.push(Action::Start(place));
        }
        match (&state.nodes[place].run, self.is_touched(place)) {
            (Run::Down, _) => {}
            (_, true) => actions.push(Action::Stop(place)),
            // The others need not be down for long: what does not happen with them is enough.
            (_, false) => actions.push(Action::Restart(place)),
        }
    }

    /// Whether the limit of a place is that of the target.
    fn is_touched(&self, place: usize) -> bool {
        place == self.limits.target || place == FOURTH
    }

    fn touches(&self, state: &State, actions: &mut Vec<Action>) {
        let limits = &self.limits;
        if limits.images > 0 && state.image.is_none() {
            actions.push(Action::TakeImage);
        }
        if state.spent.touches < limits.touches {
            if limits.copy {
                actions.push(Action::Copy);
            } else if matches!(state.nodes[limits.target].run, Run::Down) {
                actions.extend(limits.wiped.subsets().map(Action::Wipe));
                if state.image.is_some() {
                    actions.extend(limits.restored.subsets().map(Action::Restore));
                }
            }
        }
        if limits.copy {
            actions.extend((0..FOURTH).filter(|p| *p != limits.target).map(Action::Cut));
        }
    }

    /// What an action leads to. None: it is not possible, or changes nothing.
    pub fn step(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match action {
            Action::Stop(place) => state.nodes[place].run = Run::Down,
            Action::Start(place) => state.start(self, place)?,
            Action::Restart(place) => {
                state.nodes[place].run = Run::Down;
                state.start(self, place)?;
            }
            Action::WriteLate(place) => {
                state.nodes[place] = state.nodes[place].write_late()?;
                state.remember_disk(self, place);
            }
            Action::Greet(one, other) => {
                state.meet(self, one, other);
            }
            Action::AskEmpty(other) => state.ask_empty(self, other)?,
            Action::BeginTrail => state.begin_trail(self)?,
            Action::Elect(candidate, voters) => state.elect(self, candidate, voters)?,
            Action::Append(leader) => {
                state.spent.events += 1;
                state.append(self, leader, None)?;
            }
            Action::Send(leader, follower) => state.send(self, leader, follower)?,
            Action::SendNote(leader, to) => {
                state.spent.notes += 1;
                state.send_note(self, leader, to)?;
            }
            Action::Add(leader) => {
                state.spent.changes += 1;
                state.add(self, leader)?;
            }
            Action::Remove(leader, id) => {
                state.spent.changes += 1;
                state.remove(self, leader, id)?;
            }
            Action::TakeImage => {
                state.image = Some(state.nodes[self.limits.target].disk.clone());
                state.image.as_ref()?.hard_state.as_ref()?;
                state.remember_disk(self, self.limits.target);
            }
            Action::Wipe(files) => state.wipe(self, files)?,
            Action::Restore(files) => state.restore(self, files)?,
            Action::Copy => {
                state.spent.touches += 1;
                state.nodes[FOURTH].disk = state.nodes[self.limits.target].disk.clone();
            }
            Action::Cut(place) => state.cut |= 1 << place,
        }
        (state != *before).then_some(state)
    }
}

impl State {
    /// One write of a start.
    pub fn start(&mut self, setting: &Setting, place: usize) -> Option<()> {
        let draw = self.draw(place);
        let node = self.nodes[place].start_step(&setting.rules, draw)?;
        let draws = |node: &Node| node.disk.hard_state.as_ref().map(|hard| hard.bound.draw);
        let is_drawn = draws(&node) == Some(draw)
            || node.process().is_some_and(|process| process.unwritten.is_some());
        if matches!(self.nodes[place].run, Run::Down) && is_drawn {
            self.spent.draws[place] += 1;
            let limits = &setting.limits;
            let limit = if setting.is_touched(place) { limits.starts } else { limits.restarts };
            let same = |other: &usize| setting.is_touched(*other) == setting.is_touched(place);
            let starts: u8 = (0..4).filter(same).map(|other| self.spent.draws[other]).sum();
            (starts <= limit).then_some(())?;
        }
        // What a process has seen, and not written, ends with it.
        let seen = &mut self.truth.seen[place];
        *seen = Seen { boot: seen.boot, ..Seen::default() };
        self.nodes[place] = node;
        self.remember_disk(setting, place);
        Some(())
    }

    fn wipe(&mut self, setting: &Setting, files: Files) -> Option<()> {
        let target = setting.limits.target;
        let before = self.nodes[target].disk.clone();
        files.copy(&Disk::default(), &mut self.nodes[target].disk);
        (self.nodes[target].disk != before).then_some(())?;
        self.spent.touches += 1;
        self.truth.touched = true;
        self.truth.old_image = None;
        // If the log was empty when hard_state was written, the disk was like this just after that.
        let disk = &self.nodes[target].disk;
        let bound = disk.hard_state.as_ref().map(|hard_state| &hard_state.bound);
        let was_empty = bound.is_some_and(|bound| bound.log_end.entries == 0);
        let is_lineage =
            disk.lineage == before.lineage || bound.is_some_and(|b| b.boot.number == 1);
        if disk.log.is_empty() && was_empty && is_lineage {
            self.note_old_image(target);
        }
        Some(())
    }

    fn note_old_image(&mut self, target: usize) {
        let disk = &self.nodes[target].disk;
        let seen = self.truth.seen.iter().enumerate();
        let seen = seen.filter(|(_, seen)| seen.is_later_than(disk));
        let seen_by = seen.fold(0, |places, (place, _)| places | 1 << place);
        self.truth.old_image = Some(OldImage { entries: disk.log.len() as u8, seen_by });
    }

    fn restore(&mut self, setting: &Setting, files: Files) -> Option<()> {
        let target = setting.limits.target;
        let before = self.nodes[target].disk.clone();
        files.copy(self.image.as_ref()?, &mut self.nodes[target].disk);
        let disk = &self.nodes[target].disk;
        (*disk != before).then_some(())?;
        self.spent.touches += 1;
        self.truth.touched = true;
        self.truth.old_image = None;
        // A disk that has been exactly like this before, whichever files were put back.
        if self.truth.past.contains(&fingerprint(&setting.rules, self.nodes[target].id, disk)) {
            self.note_old_image(target);
        }
        Some(())
    }
}

/// Every smallest majority that could elect a node.
fn elections(state: &State, place: usize, actions: &mut Vec<Action>) {
    let node = &state.nodes[place];
    let Some(members) = node.disk.members().filter(|members| members.has(node.id)) else { return };
    for voters in 1..1_u8 << state.nodes.len() {
        let can_vote = |other: usize| {
            let voter = &state.nodes[other];
            other != place
                && members.has(voter.id)
                && voter.process().is_some()
                && voter.disk.last() <= node.disk.last()
        };
        let chosen = |other: &usize| voters & 1 << other != 0;
        let ids = state.ids(voters | 1 << place);
        let is_smallest = ids.count_ones() == members.voters.count_ones() / 2 + 1;
        if is_smallest && (0..state.nodes.len()).filter(chosen).all(can_vote) {
            actions.push(Action::Elect(place, voters));
        }
    }
}
