//! A node: a disk, and a process that may run on it.

use indelible_lineage::{Boot, Bound, Draw, Found, Lineage, Start, check_start, log_reaches};

use crate::disk::{Ballot, Disk, HardState, NODES};
use crate::rules::Rules;

/// The trail, and the key of each node.
pub fn root(id: u8) -> Boot {
    Boot::root(&[7; 16], id.into(), &[id; 32])
}

/// A leader, in memory.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Lead {
    /// Under which it was elected.
    pub ballot: Ballot,
    /// Up to which entry each node has acknowledged its log.
    pub matched: [u8; NODES],
    /// Up to which entry its log is committed.
    pub committed: u8,
}

/// What a process has had of another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Heard {
    /// The highest vote.
    pub vote: Ballot,
    /// Up to which committed entry it has acknowledged the log.
    pub entries: u8,
}

/// A process, and what it has in memory.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Process {
    /// Which boot it says it is.
    pub boot: Boot,
    /// What it has drawn and not written, if that is allowed.
    pub unwritten: Option<Draw>,
    /// What it has as a leader.
    pub lead: Option<Lead>,
    /// Founders that have told it that they are empty.
    pub empty: u8,
    /// What it has had of each node.
    pub heard: [Heard; NODES],
    /// With which process of each node it has a session; only where there is a copy.
    pub sessions: [Option<u8>; NODES],
}

/// What runs on a disk.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Run {
    /// Nothing.
    Down,
    /// A start has written `hard_state`, and not yet `lineage`.
    Starting,
    /// A node that speaks.
    Up(Process),
}

/// One disk and what runs on it. Two of them have the same id where there is a copy.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Node {
    /// Its id, from 1.
    pub id: u8,
    /// Its disk.
    pub disk: Disk,
    /// Its process.
    pub run: Run,
}

impl Node {
    /// A node that was never started.
    pub fn new(id: u8, genesis: bool) -> Node {
        Node { id, disk: Disk { genesis, ..Disk::default() }, run: Run::Down }
    }

    /// The process, if the node speaks.
    pub fn process(&self) -> Option<&Process> {
        match &self.run {
            Run::Up(process) => Some(process),
            Run::Down | Run::Starting => None,
        }
    }

    /// The same.
    pub fn process_mut(&mut self) -> Option<&mut Process> {
        match &mut self.run {
            Run::Up(process) => Some(process),
            Run::Down | Run::Starting => None,
        }
    }

    /// What it knows as a leader; none if it does not lead, or has promised more since.
    pub fn lead(&self) -> Option<&Lead> {
        let lead = self.process()?.lead.as_ref()?;
        (lead.ballot == self.disk.promise()).then_some(lead)
    }

    /// All boots that its process can show.
    pub fn lineage(&self) -> Lineage {
        let mut lineage = stored(self);
        if let Some(draw) = self.process().and_then(|process| process.unwritten) {
            lineage.push(draw);
        }
        lineage
    }

    /// One file that a start writes before it speaks, or none if the disk does not allow a start.
    pub fn start_step(&self, rules: &Rules, draw: Draw) -> Option<Node> {
        match self.run {
            Run::Down => self.begin(rules, draw),
            Run::Starting => Some(self.finish()),
            Run::Up(_) => None,
        }
    }

    fn begin(&self, rules: &Rules, draw: Draw) -> Option<Node> {
        let hard_state = self.disk.hard_state.as_ref();
        let bound = hard_state.map(|hard_state| &hard_state.bound);
        let has_entries = !self.disk.log.is_empty();
        let found = Found { lineage: self.disk.lineage.as_ref(), bound, has_entries };
        match check_start(root(self.id), &found) {
            Ok(Start::First | Start::Complete) => {}
            Ok(Start::Finish(_)) if !rules.finish_start => return None,
            Ok(Start::Finish(draw)) => return Some(self.with_draw(draw)),
            Err(_) if rules.same_boot || hard_state.is_none() => return None,
            Err(_) => {}
        }
        let reaches = |bound: &Bound| {
            let entries = usize::try_from(bound.log_end.entries).expect("logs are short");
            log_reaches(bound, self.disk.log_end(entries))
        };
        if rules.log_end && !bound.is_none_or(reaches) {
            return None;
        }
        let own_signature = usize::from(self.disk.notes[usize::from(self.id) - 1]);
        if rules.signatures && own_signature > self.disk.log.len() {
            return None;
        }
        let boot = stored(self).newest().next(draw);
        let mut node = self.clone();
        if !rules.durable_first && hard_state.is_some() {
            node.run = Run::Up(Process::new(boot, Some(draw)));
            return Some(node);
        }
        node.write_bound(boot, draw);
        if rules.log_names_promise {
            let log_promise = node.disk.log_promise;
            let hard_state = node.disk.hard_state.as_mut().expect("written above");
            hard_state.promise = hard_state.promise.max(log_promise);
        }
        // Crash before: the disk as it was. Crash after: the next start finishes this one.
        node.run = Run::Starting;
        Some(node)
    }

    /// `lineage` gets what `hard_state` has, and the node speaks.
    fn finish(&self) -> Node {
        let bound = self.disk.hard_state.as_ref().expect("written by the step before").bound;
        let mut node = self.with_draw(bound.draw);
        node.run = Run::Up(Process::new(bound.boot, None));
        node
    }

    /// A node that has spoken too early writes what it should have written before.
    pub fn write_late(&self) -> Option<Node> {
        let process = self.process()?;
        let (boot, draw) = (process.boot, process.unwritten?);
        let mut node = self.with_draw(draw);
        node.write_bound(boot, draw);
        node.process_mut()?.unwritten = None;
        Some(node)
    }

    fn with_draw(&self, draw: Draw) -> Node {
        let mut lineage = stored(self);
        lineage.push(draw);
        let disk = Disk { lineage: Some(lineage), ..self.disk.clone() };
        Node { disk, ..self.clone() }
    }

    fn write_bound(&mut self, boot: Boot, draw: Draw) {
        let bound = Bound { boot, draw, log_end: self.disk.own_log_end() };
        match &mut self.disk.hard_state {
            Some(hard_state) => hard_state.bound = bound,
            none => {
                let promise = Ballot::default();
                *none = Some(HardState { bound, promise, peers: [None; NODES] });
            }
        }
    }
}

impl Process {
    fn new(boot: Boot, unwritten: Option<Draw>) -> Process {
        Process {
            boot,
            unwritten,
            lead: None,
            empty: 0,
            heard: Default::default(),
            sessions: [None; NODES],
        }
    }
}

fn stored(node: &Node) -> Lineage {
    node.disk.lineage.clone().unwrap_or_else(|| Lineage::new(root(node.id)))
}
