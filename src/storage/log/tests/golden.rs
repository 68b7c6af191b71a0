//! Golden scripts: what a script does to the disk, in order, is under review.
//!
//! The IO thread is held between commands, so that a script decides what falls into one group.
//! After every command the whole log is checked against what it should hold.
//!
//! * `append 100 200 term=1`: hands over one append; the sizes of its entries and their term.
//! * `vote term=2 node=1`, `boot node=2 count=7`, `truncate after=5` (or `after=none`): hand over
//!   one operation.
//! * `flush`: lets the IO thread take all that was handed over.
//! * `tend`: as if the log had been idle for long.
//! * `commit 5`, `apply 5`: all entries before this one are.
//! * `fail syncs=0`: after so many more syncs the disk fails.
//! * `reopen`: closes and opens.
//! * `state`: what the log says of itself.

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use goldenscript::Command;

use super::support::*;
use crate::disk::recorder::{Event, Op};
use crate::storage::frame::{self, FRAME_HEADER_SIZE, FrameHeader, Location};
use crate::storage::log::Recovered;
use crate::storage::log::open::Tuning;
use crate::storage::segment;

test_each_file::test_each_path! { in "src/storage/log/testscripts" as scripts => test_script }

fn test_script(path: &Path) {
    goldenscript::run(&mut Runner::new(), path).unwrap();
}

struct Runner {
    dir: tempfile::TempDir,
    recorder: Arc<Recorder>,
    /// Holds the IO thread. (Before the log, because that waits for the thread when it goes.)
    gate: Option<Hold>,
    log: Option<Log>,
    /// What the log should hold.
    entries: Vec<Entry>,
    /// Whether the disk was made to fail.
    fails: bool,
}

impl goldenscript::Runner for Runner {
    fn run(&mut self, command: &Command) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let mut output = String::new();
        match command.name.as_str() {
            "append" => {
                let term = args.lookup_parse("term")?.unwrap_or(1);
                let sizes = args.rest_pos();
                let sizes = sizes.iter().map(|size| size.parse()).collect::<Result<_, _>>()?;
                self.append(term, sizes);
            }
            "vote" => {
                let term = args.lookup_parse("term")?.ok_or("term=")?;
                let node_id = args.lookup_parse("node")?.unwrap_or(1);
                let vote = StoredVote { term, node_id, committed: false };
                self.log().save_vote(vote, self.done(format!("vote {term}")));
            }
            "boot" => {
                let node = args.lookup_parse("node")?.ok_or("node=")?;
                let count = args.lookup_parse("count")?.ok_or("count=")?;
                self.log().save_peer(node, peer_boot(count), self.done(format!("boot of {node}")));
            }
            "truncate" => {
                let after = args.lookup("after").ok_or("after=")?.value.clone();
                let after = if after == "none" { None } else { Some(after.parse()?) };
                let done = self.done(format!("truncate after {after:?}"));
                self.log().truncate_after(after, done).map_err(|error| error_name(&error))?;
                self.entries.truncate(after.map_or(0, |after| after as usize + 1));
            }
            "commit" => {
                let index = args.next_pos().ok_or("an index")?.parse()?;
                self.log().set_committed(index);
            }
            "apply" => {
                let index = args.next_pos().ok_or("an index")?.parse()?;
                self.log().set_applied(index);
            }
            "flush" => self.flush(),
            "tend" => {
                let done = self.done("tend".into());
                self.log().control(Control::Tend { done });
                self.flush();
            }
            "fail" => {
                self.recorder.fail_sync_after(args.lookup_parse("syncs")?.unwrap_or(0));
                self.fails = true;
            }
            "reopen" => {
                self.gate = None;
                self.log().close();
                self.log = None;
                self.recorder.note("closed");
                let recovered = self.open()?;
                self.recorder.note(format!("recovered {}", show_recovered(&recovered)));
            }
            "state" => output = self.state(),
            name => return Err(format!("unknown command {name}").into()),
        }
        args.reject_rest()?;
        let events = self.recorder.take();
        let events: String = events.iter().map(|event| show(event) + "\n").collect();
        if !self.fails {
            check(self.log(), &self.entries);
        }
        Ok(events + &output)
    }
}

impl Runner {
    fn new() -> Runner {
        let mut runner = Runner {
            dir: temp_dir(),
            recorder: Recorder::new(),
            log: None,
            gate: None,
            entries: Vec::new(),
            fails: false,
        };
        runner.open().unwrap();
        runner.recorder.take();
        runner
    }

    fn open(&mut self) -> Result<Recovered, Box<dyn Error>> {
        let marker_interval = Duration::from_secs(3600);
        let tuning = Tuning { recorder: Some(self.recorder.clone()), marker_interval };
        let options = LogOptions { cache_bytes_max: 32 * 1024, ..options() };
        let (log, recovered) = Log::open_tuned(self.dir.path(), options, tuning)?;
        self.gate = Some(hold(&log));
        self.log = Some(log);
        Ok(recovered)
    }

    fn log(&self) -> &Log {
        self.log.as_ref().unwrap()
    }

    /// A callback that leaves a note.
    fn done(&self, name: String) -> Done {
        let recorder = self.recorder.clone();
        Box::new(move |outcome| match outcome {
            Ok(()) => recorder.note(format!("callback: {name}")),
            Err(error) => recorder.note(format!("callback: {name}: {}", error_name(&error))),
        })
    }

    fn append(&mut self, term: u64, sizes: Vec<usize>) {
        let next = self.entries.len() as u64;
        let entries: Vec<_> =
            sizes.iter().zip(next..).map(|(size, index)| entry(index, term, *size)).collect();
        let last = next + entries.len() as u64 - 1;
        self.entries.extend_from_slice(&entries);
        self.log().append(entries, self.done(format!("append {next}..={last}")));
    }

    /// Lets the IO thread take all that is queued as one batch, and holds it again.
    fn flush(&mut self) {
        let next = Hold::later(self.log());
        next.wait_queued();
        self.gate = None;
        next.wait_reached();
        self.gate = Some(next);
    }

    fn state(&self) -> String {
        let log = self.log();
        let mut out = String::new();
        let (chained, durable) = (*log.chained().borrow(), *log.durable().borrow());
        let last = log.last().map_or("none".into(), |id| id.index.to_string());
        writeln!(out, "last {last}, chained {chained}, durable {durable}").unwrap();
        writeln!(out, "committed {}, vote {:?}", log.committed(), log.vote()).unwrap();
        let state = log.shared.lock();
        for segment in state.segments.values() {
            let summary = &segment.summary;
            let (first, next, end) = (summary.first, summary.next, summary.frames_end);
            let sealed = if segment.sealed { ", sealed" } else { "" };
            writeln!(out, "segment {first}: entries {first}..{next}, {end} bytes{sealed}").unwrap();
        }
        writeln!(out, "in memory: entries {}..{}", state.window_first(), state.next).unwrap();
        let leaders: Vec<_> =
            state.leaders.iter().map(|id| format!("{}@{}", id.index, id.term)).collect();
        writeln!(out, "last of each leader: {}", leaders.join(" ")).unwrap();
        out
    }
}

fn error_name(error: &LogError) -> String {
    match error {
        LogError::Disk(error) => format!("disk failed to {}", error.operation),
        LogError::Stopped(error) => format!("the log has stopped: {}", error_name(error)),
        other => other.to_string(),
    }
}

fn show_recovered(recovered: &Recovered) -> String {
    let last = recovered.last.map_or("none".into(), |id| id.index.to_string());
    let (segments, read) = recovered.segments;
    format!(
        "last {last}, committed {}, vote {:?}, boot {}, segments {segments} ({read} read)",
        recovered.committed, recovered.vote, recovered.boot_count
    )
}

/// One line for an operation on the disk.
fn show(event: &Event) -> String {
    let name = short(&event.name);
    match &event.op {
        Op::Create { name } => format!("create {}", short(name)),
        Op::MakeDir { name } => format!("create directory {name}"),
        Op::Write { offset, bytes } => {
            format!("write {name} {}", show_write(event, *offset, bytes))
        }
        Op::Allocate { length } => format!("allocate {name} {length}"),
        Op::SetLength { length } => format!("set length {name} {length}"),
        Op::Sync => format!("sync {name}"),
        Op::Rename { from, to } => format!("rename {} to {}", short(from), short(to)),
        Op::Link { name, to } => format!("link {} as {to}", short(name)),
        Op::Remove { name } => format!("remove {}", short(name)),
        Op::SyncDir => format!("sync directory {}", if name.is_empty() { "." } else { &name }),
        Op::Note(text) => text.clone(),
    }
}

fn short(name: &str) -> String {
    let name = name.strip_prefix("segments/").unwrap_or(name);
    match segment::parse_file_name(name) {
        Some(first) => format!("{first}.seg"),
        None => name.to_owned(),
    }
}

fn show_write(event: &Event, offset: u64, bytes: &[u8]) -> String {
    let size = bytes.len();
    let name = event.name.strip_prefix("segments/").unwrap_or(&event.name);
    let first = segment::parse_file_name(name);
    match first {
        Some(segment) if bytes.starts_with(b"INDF") => {
            let frames = show_frames(segment, offset, bytes);
            format!("at {offset}: {size} bytes: {frames}")
        }
        Some(_) => format!("at {offset}: {size} bytes: footer"),
        None if bytes.starts_with(b"INDSEGMT") => {
            let header = segment::SegmentHeader::decode(bytes).unwrap();
            format!("at {offset}: header of segment {}", header.first)
        }
        None if name == "synced" => {
            let field = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
            let (next, segment, end, committed) = (field(16), field(24), field(32), field(40));
            let promise = match (field(48), field(56)) {
                (0, 0) => String::new(),
                (term, leader) => format!(", promised term {term} of {leader}"),
            };
            format!(
                "at {offset}: next {next} at {segment}.seg {end}, committed {committed}{promise}"
            )
        }
        None => format!("at {offset}"),
    }
}

fn show_frames(segment: u64, mut offset: u64, bytes: &[u8]) -> String {
    let mut rest = Bytes::copy_from_slice(bytes);
    let mut frames = Vec::new();
    while rest.len() >= FRAME_HEADER_SIZE {
        let (entry, header): (Entry, FrameHeader) =
            frame::decode(&rest, Location { segment, offset }).unwrap();
        frames.push(format!("{}@{}", entry.id.index, entry.id.term));
        rest = rest.slice(header.frame_size() as usize..);
        offset += header.frame_size();
    }
    assert!(rest.is_empty());
    frames.join(" ")
}
