//! The trail, computed again from its first entry.

use indelible_core::merkle::Frontier;
use indelible_core::{Batch, EntryKind, Hash};

use super::compare::Derived;
use super::files::Files;
use super::segments::{self, Found};
use super::{Problem, Problems, Report};
use crate::disk::{Dir, DiskError};
use crate::storage::ledger::machine::{Machine, Prepared};
use crate::storage::ledger::{DERIVED_DIR, INDEX_DIR};
use crate::storage::recovery::SEGMENTS_DIR;
use crate::storage::segment;

/// Applies entries again.
struct Replay<'a> {
    data: &'a Dir,
    machine: Machine,
    frontier: Frontier,
    derived: Derived,
    /// Entries before this one are known to be committed.
    committed: u64,
    /// Whether an entry was missing or could not be applied: what follows cannot be applied either.
    broken: bool,
    entries: u64,
    leaf_hashes: Vec<Hash>,
    /// A file that could not be read.
    failed: Option<DiskError>,
}

pub(super) fn check(
    data: &Dir,
    files: &Files,
    derived: Derived,
    mut problems: Problems,
) -> Result<Report, DiskError> {
    // What the index has was committed, even if a crash came before the marker said so.
    let committed = files.synced.committed.max(derived.next());
    let mut replay = Replay {
        data,
        machine: Machine::new(files.trail_id().unwrap_or_default()),
        frontier: Frontier::new(),
        derived,
        committed,
        broken: false,
        entries: 0,
        leaf_hashes: Vec::new(),
        failed: None,
    };
    let walked = segments::walk(data, files, &mut problems, &mut |problems, found| {
        replay.entry(found, problems);
    })?;
    if let Some(error) = replay.failed.take() {
        return Err(error);
    }
    let mut notes: Vec<String> = walked.torn.into_iter().collect();
    replay.finish(walked.next, &mut problems, &mut notes);
    Ok(Report {
        problems: problems.0,
        notes,
        closed: files.closed,
        segments: walked.segments,
        entries: replay.entries,
        applied: replay.machine.next(),
        leaves: replay.frontier.size(),
        root: replay.frontier.root(),
        chain: walked.chain,
    })
}

impl Replay<'_> {
    fn entry(&mut self, found: Found, problems: &mut Problems) {
        self.entries += 1;
        let index = found.entry.id.index;
        let path =
            self.data.path().join(SEGMENTS_DIR).join(segment::file_name(found.location.segment));
        let at = |what: String| {
            Problem::new(&path, what).at(found.location.offset).entries(index..=index)
        };
        // Committed or not: a follower checks as much before it acknowledges.
        if found.entry.kind == EntryKind::Batch {
            let batch = Batch::decode(&found.entry.head, &found.entry.body);
            if let Err(fault) = batch.and_then(|batch| batch.verify()) {
                problems.push(at(fault.to_string()));
            }
        }
        if index >= self.committed {
            return;
        }
        self.broken |= index != self.machine.next();
        if self.broken || self.failed.is_some() {
            return;
        }
        let step = Prepared::new(&found.entry, found.chain, found.location)
            .and_then(|prepared| self.machine.apply(prepared));
        let step = match step {
            Ok(step) => step,
            Err(fault) => {
                self.broken = true;
                problems.push(at(fault.to_string()));
                return;
            }
        };
        step.leaf_hashes(&mut self.leaf_hashes);
        self.derived.row(&step.row, problems);
        let result = self.append(problems);
        self.failed = result.err();
        if self.machine.next() == self.derived.next() {
            self.derived.state_reached(&self.machine, self.frontier.root(), problems);
        }
    }

    /// Adds the leaves of an entry to the tree and compares all nodes that they complete.
    fn append(&mut self, problems: &mut Problems) -> Result<(), DiskError> {
        let mut result = Ok(());
        for hash in &self.leaf_hashes {
            self.frontier.append_with(*hash, |level, index, hash| {
                if result.is_ok() {
                    result = self.derived.node(level, index, hash, problems);
                }
            });
        }
        result
    }

    fn finish(&self, next: u64, problems: &mut Problems, notes: &mut Vec<String>) {
        let applied = self.machine.next();
        if applied < self.committed.min(next) {
            notes
                .push(format!("entries from {applied} on were not applied: one before is damaged"));
        } else if self.derived.next() > applied {
            let index = self.data.path().join(DERIVED_DIR).join(INDEX_DIR);
            let what =
                format!("the index has entry {}, the log ends before", self.derived.next() - 1);
            problems.push(Problem::new(index, what));
        }
    }
}
