//! Golden scripts: commands to a trail, and what they did, for review. After every command the
//! whole data directory is checked.
//!
//! | command | does |
//! |---|---|
//! | `start commits=every\|never` | makes an empty trail; `never` commits only when told |
//! | `membership 1 2 3`, `blank` | appends and applies such an entry |
//! | `open a [epoch=N]` | a batch that opens producer a |
//! | `append a=1..3 b=1 [opened=N] [kind=K] [back=N]` | a batch, in this order; stamped earlier |
//! | `lead term=T leader=L` | who proposes the entries from here on |
//! | `commit`, `reopen`, `crash` | writes out; restarts after a close; restarts without one |
//! | `delete NAME` | restarts with a part of the derived files removed |
//! | `get N`, `list`, `producer a`, `runs a FROM..TO`, `head` | reads |
//! | `prove LEAF SIZE`, `consistency OLD NEW` | proofs, verified by the core |

use std::error::Error;
use std::fmt::Write as _;

use goldenscript::{Argument, Command};
use indelible_core::leaf::leaf_hash;
use indelible_core::merkle::{verify_consistency, verify_inclusion};
use indelible_core::{Hash, Kind, Leaf};

use super::trail::{EVERY_ENTRY, NEVER, TestRecord, Trail, producer, scratch_dir};
use crate::disk::Dir;
use crate::storage::check::check_unlocked;
use crate::storage::ledger::{Applied, StoredRecord};

type Outcome = Result<String, Box<dyn Error>>;

test_each_file::test_each_path! { in "src/storage/ledger/testscripts" as scripts => test_script }

fn test_script(path: &std::path::Path) {
    goldenscript::run(&mut Runner { trail: None }, path).expect("the script runs");
}

struct Runner {
    /// None before `start`, and while it restarts.
    trail: Option<Trail>,
}

impl goldenscript::Runner for Runner {
    fn run(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        match command.name.as_str() {
            "start" => {
                let commits: Option<String> = args.lookup_parse("commits")?;
                let policy = if commits.as_deref() == Some("never") { NEVER } else { EVERY_ENTRY };
                self.trail = Some(Trail::new(policy));
            }
            "membership" => {
                let nodes =
                    args.rest_pos().iter().map(|a| a.parse()).collect::<Result<Vec<_>, _>>()?;
                let applied = self.trail().membership(&nodes)?;
                return self.applied(&applied);
            }
            "blank" => {
                let applied = self.trail().blank()?;
                return self.applied(&applied);
            }
            "open" => {
                let id = producer(letter(args.next_pos())?);
                let applied = match args.lookup_parse("epoch")? {
                    None => self.trail().open(id)?,
                    Some(epoch) => {
                        let opening = self.trail().opening(id, epoch);
                        self.trail().batch(&[opening])?
                    }
                };
                return self.applied(&applied);
            }
            "append" => {
                let records = self.records(command)?;
                let applied = self.trail().batch(&records)?;
                return self.applied(&applied);
            }
            "lead" => {
                self.trail().term = args.lookup_parse("term")?.ok_or("which term?")?;
                self.trail().leader = args.lookup_parse("leader")?.ok_or("which leader?")?;
            }
            "commit" => self.trail().ledger.commit_now()?,
            "reopen" => return self.restarted(|trail| trail.reopen()),
            "crash" => return self.restarted(|trail| trail.crash()),
            "delete" => {
                let name = args.next_pos().ok_or("delete what?")?.value.clone();
                return self.restarted(|trail| {
                    trail.restart(|dir| {
                        let path = dir.join(name);
                        let removed = match path.is_dir() {
                            true => std::fs::remove_dir_all(path),
                            false => std::fs::remove_file(path),
                        };
                        removed.expect("there is such a file");
                    })
                });
            }
            _ => return self.read(command),
        }
        Ok(String::new())
    }

    /// Checks everything; the ledger's and the log's threads may be writing meanwhile, so what is
    /// wrong must stay wrong.
    fn end_command(&mut self, command: &Command) -> Outcome {
        let Some(trail) = &self.trail else { return Ok(String::new()) };
        let scratch = scratch_dir();
        let data = Dir::open(trail.path(), true)?;
        let mut problems = String::new();
        for _ in 0..5 {
            match check_unlocked(&data, Some(scratch.path())) {
                Ok(report) if report.is_sound() => return Ok(String::new()),
                Ok(report) => problems = format!("{:#?}", report.problems),
                Err(error) => problems = error.to_string(),
            }
            std::thread::sleep(std::time::Duration::from_millis(30));
        }
        panic!("after {command:?}: {problems}");
    }
}

impl Runner {
    fn trail(&mut self) -> &mut Trail {
        self.trail.as_mut().expect("a script begins with `start`")
    }

    fn read(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        let ledger = self.trail().ledger.clone();
        match command.name.as_str() {
            "head" => self.head(),
            "get" => {
                let leaf = args.next_pos().ok_or("which leaf?")?.parse()?;
                let record = ledger.record(leaf)?;
                Ok(record.map_or("none".into(), |record| self.show(&record)))
            }
            "list" => {
                let records = ledger.records(0..u64::MAX, usize::MAX, usize::MAX)?;
                Ok(records.iter().map(|record| self.show(record) + "\n").collect())
            }
            "producer" => {
                let state = ledger.producer(&producer(letter(args.next_pos())?));
                Ok(state.map_or("none".into(), |state| format!("{state:?}")))
            }
            "runs" => {
                let id = producer(letter(args.next_pos())?);
                let (from, to) = range(args.next_pos().ok_or("which seqs?")?)?;
                let runs = ledger.runs(&id, from..to)?;
                let show = |run: &super::super::SeqRun| {
                    let (first, last) = (run.first_seq, run.first_seq + run.count - 1);
                    format!("seq {first} to {last} at leaf {}\n", run.first_leaf)
                };
                Ok(runs.iter().map(show).collect())
            }
            "prove" => {
                let leaf = args.next_pos().ok_or("which leaf?")?.parse()?;
                let size = args.next_pos().ok_or("which size?")?.parse()?;
                let proof = ledger.prove(leaf, size)?;
                let record = ledger.record(leaf)?.ok_or("a proof of no leaf")?;
                let root = ledger.root_at(size)?;
                verify_inclusion(leaf, size, &leaf_hash(&record.leaf), &proof, &root)?;
                Ok(format!("{} hashes lead to root {}", proof.len(), short(&root)))
            }
            "consistency" => {
                let old = args.next_pos().ok_or("which size?")?.parse()?;
                let new = args.next_pos().ok_or("which size?")?.parse()?;
                let proof = ledger.prove_consistency(old, new)?;
                let (old_root, new_root) = (ledger.root_at(old)?, ledger.root_at(new)?);
                verify_consistency(old, new, &proof, &old_root, &new_root)?;
                let roots = (short(&old_root), short(&new_root));
                Ok(format!("{} hashes lead from root {} to {}", proof.len(), roots.0, roots.1))
            }
            name => Err(format!("unknown command {name}").into()),
        }
    }

    fn records(&mut self, command: &Command) -> Result<Vec<TestRecord>, Box<dyn Error>> {
        let mut args = command.consume_args();
        let opened: Option<u64> = args.lookup_parse("opened")?;
        let back: u64 = args.lookup_parse("back")?.unwrap_or(0);
        let kind: Option<String> = args.lookup_parse("kind")?;
        let mut records = Vec::new();
        for arg in args.rest_key() {
            let id = producer(arg.name().chars().next().ok_or("whose record?")?);
            let (first, end) = range(arg)?;
            for seq in first..end {
                let mut record = self.trail().event(id, seq);
                record.event = format!("event {seq}").into();
                record.opened = opened.unwrap_or(record.opened);
                record.received -= back;
                if let Some(name) = &kind {
                    let named = Kind::ALL.into_iter().find(|kind| kind.name() == name);
                    record.kind = named.ok_or("unknown kind")?;
                }
                records.push(record);
            }
        }
        Ok(records)
    }

    fn restarted(
        &mut self,
        restart: impl FnOnce(Trail) -> Result<Trail, crate::storage::ledger::LedgerError>,
    ) -> Outcome {
        let trail = self.trail.take().expect("a script begins with `start`");
        self.trail = Some(restart(trail)?);
        self.head()
    }

    /// What an entry did.
    fn applied(&mut self, applied: &Applied) -> Outcome {
        let mut out = String::new();
        let leaves = applied.first_leaf..applied.first_leaf + u64::from(applied.accepted);
        for record in self.trail().ledger.records(leaves, usize::MAX, usize::MAX)? {
            writeln!(out, "entry {}: {}", applied.id.index, self.show(&record))?;
        }
        for (position, rejection) in &applied.rejected {
            writeln!(out, "entry {}: position {position} rejected: {rejection}", applied.id.index)?;
        }
        out += &self.head()?;
        Ok(out)
    }

    fn head(&mut self) -> Outcome {
        let head = *self.trail().ledger.head().borrow();
        Ok(format!(
            "size {}, root {}, next entry {}",
            head.tree_size,
            short(&head.root),
            head.applied
        ))
    }

    fn show(&self, record: &StoredRecord) -> String {
        let leaf = Leaf::decode(&record.leaf).expect("the ledger returns leaves");
        let name = leaf.kind.name();
        let (opened, seq, received) = (leaf.opened, leaf.seq, leaf.received);
        let event = match leaf.kind {
            Kind::Leadership | Kind::Membership | Kind::ProducerOpened => {
                format!("{} bytes", record.event.len())
            }
            _ => format!("{:?}", String::from_utf8_lossy(&record.event)),
        };
        format!(
            "leaf {} {name} opened={opened} seq={seq} received={received} {event}",
            record.index
        )
    }
}

/// `3..5` is 3, 4, 5; `3` is 3. Returns the first and one past the last.
fn range(arg: &Argument) -> Result<(u64, u64), Box<dyn Error>> {
    let (first, last) = arg.value.split_once("..").unwrap_or((&arg.value, &arg.value));
    Ok((first.parse()?, last.parse::<u64>()? + 1))
}

fn letter(arg: Option<&Argument>) -> Result<char, Box<dyn Error>> {
    Ok(arg.and_then(|arg| arg.value.chars().next()).ok_or("which producer?")?)
}

fn short(hash: &Hash) -> String {
    hash.to_string()[..8].to_owned()
}
