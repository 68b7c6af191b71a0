//! `indelible import`: records the lines of a file.
//!
//! The producer's id comes from its name and every line's seq is its number, so the trail itself
//! knows which lines it has: importing a file again, or going on after a crash at any point,
//! records nothing twice and leaves nothing out.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use indelible_client::{AppendError, Producer, Receipts};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::import::Format;
use super::import_chunks::{Chunk, ChunkError, Chunks, Source};
use super::{Global, output};

/// Chunks that are parsed and wait for the producer.
const CHUNKS_MAX: usize = 8;

/// Which file.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What the lines are
    #[arg(long, value_enum)]
    format: Format,
    /// Name of the producer; the same name and line are the same event [default: the file's name]
    #[arg(long, value_name = "NAME", required_if_eq("file", "-"))]
    producer: Option<String>,
    /// Year of syslog timestamps that have none; without it such events have no time of their own
    #[arg(long, value_name = "YYYY")]
    year: Option<i16>,
    /// The file, or - for stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub(super) async fn run(global: &Global, args: Args) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let (input, size) = open(&args.file).await?;
    let name = args.producer.unwrap_or_else(|| file_name(&args.file));
    let client = global.connect().await?;
    let producer = client
        .producer(output::producer_id(&name), &name)
        .timeout(global.timeout_or(300))
        .open()
        .await
        .context("open the producer")?;
    let progress = progress_bar(size);
    let source = Source { format: args.format, name, year: args.year };
    let chunks = parse_in_background(input, source);
    let mut tally = Tally::default();
    let outcome = append_all(&producer, chunks, &mut tally, &progress).await;
    progress.finish_and_clear();
    output::print_json(&tally.summary(started.elapsed()))?;
    outcome?;
    Ok(ExitCode::SUCCESS)
}

async fn open(file: &Path) -> anyhow::Result<(Box<dyn Read + Send>, Option<u64>)> {
    if file == Path::new("-") {
        return Ok((Box::new(io::stdin()), None));
    }
    let doing = || format!("open {}", file.display());
    let input = tokio::fs::File::open(file).await.with_context(doing)?;
    let metadata = input.metadata().await.with_context(doing)?;
    anyhow::ensure!(!metadata.is_dir(), "{} is a directory\nhint: name a file", file.display());
    let size = metadata.is_file().then_some(metadata.len());
    Ok((Box::new(input.into_std().await), size))
}

fn file_name(file: &Path) -> String {
    let name = file.file_name().unwrap_or(file.as_os_str());
    name.to_string_lossy().into_owned()
}

/// Parsing and encoding have a thread of their own; the channel bounds what it is ahead.
fn parse_in_background(
    input: Box<dyn Read + Send>,
    source: Source,
) -> mpsc::Receiver<Result<Chunk, ChunkError>> {
    let (parsed, chunks) = mpsc::channel(CHUNKS_MAX);
    std::thread::spawn(move || {
        let mut chunks = Chunks::new(input, source);
        while let Some(chunk) = chunks.next().transpose() {
            let is_last = chunk.is_err();
            if parsed.blocking_send(chunk).is_err() || is_last {
                return;
            }
        }
    });
    chunks
}

/// Keeps the producer's buffer full until the file ends, and counts receipts as they come. Whatever
/// was read before an error is brought to its end first.
async fn append_all(
    producer: &Producer,
    mut chunks: mpsc::Receiver<Result<Chunk, ChunkError>>,
    tally: &mut Tally,
    progress: &ProgressBar,
) -> anyhow::Result<()> {
    let mut tickets = FuturesOrdered::new();
    let mut failed: Option<anyhow::Error> = None;
    let mut reading = true;
    while reading || !tickets.is_empty() {
        tokio::select! {
            chunk = chunks.recv(), if reading => match chunk {
                None => reading = false,
                Some(Err(error)) => {
                    failed.get_or_insert(error.into());
                    reading = false;
                }
                Some(Ok(chunk)) => {
                    let sent = Sent::new(&chunk);
                    match producer.submit(Some(sent.first_line), chunk.events).await {
                        Ok(ticket) => tickets.push_back(async move {
                            ticket.await_receipts().await.map_err(|error| (sent, error))
                                .map(|receipts| (sent, receipts))
                        }),
                        Err(error) => {
                            failed.get_or_insert_with(|| explain(sent, &error));
                            reading = false;
                        }
                    }
                }
            },
            Some(outcome) = tickets.next() => match outcome {
                Ok((sent, receipts)) => {
                    tally.add(sent, &receipts);
                    progress.inc(sent.read_bytes);
                    progress.set_message(tally.message());
                }
                Err((sent, error)) => {
                    failed.get_or_insert_with(|| explain(sent, &error));
                    reading = false;
                }
            },
        }
    }
    failed.map_or(Ok(()), Err)
}

/// What is remembered of a chunk while it is under way.
#[derive(Debug, Clone, Copy)]
struct Sent {
    first_line: u64,
    lines: u64,
    unparsed: u64,
    read_bytes: u64,
}

impl Sent {
    fn new(chunk: &Chunk) -> Sent {
        Sent {
            first_line: chunk.first_line,
            lines: chunk.events.len() as u64,
            unparsed: chunk.unparsed,
            read_bytes: chunk.read_bytes,
        }
    }
}

fn explain(sent: Sent, error: &AppendError) -> anyhow::Error {
    let last_line = sent.first_line + sent.lines - 1;
    let what = match error {
        AppendError::Conflict(rejected) => format!(
            "{rejected}\nhint: the file, or --year, is not what was imported under this name; if \
             it is another file, give it another --producer"
        ),
        AppendError::Unknown { .. }
        | AppendError::NotSent { .. }
        | AppendError::Partial(_)
        | AppendError::Fenced(_) => {
            format!("{error}\nhint: import it again; what is recorded is not recorded twice")
        }
        _ => error.to_string(),
    };
    anyhow::anyhow!("lines {} to {last_line}: {what}", sent.first_line)
}

/// What the receipts add up to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    events: u64,
    duplicates: u64,
    unparsed: u64,
    first_index: Option<u64>,
    last_index: Option<u64>,
}

impl Tally {
    fn add(&mut self, sent: Sent, receipts: &Receipts) {
        self.events += sent.lines;
        self.unparsed += sent.unparsed;
        self.duplicates += receipts.duplicates();
        for run in receipts.runs() {
            let last = run.first_index + run.count - 1;
            self.first_index = Some(self.first_index.unwrap_or(u64::MAX).min(run.first_index));
            self.last_index = Some(self.last_index.unwrap_or(0).max(last));
        }
    }

    fn message(&self) -> String {
        format!("{} events recorded", self.events)
    }

    fn summary(&self, elapsed: Duration) -> Summary {
        Summary {
            events: self.events,
            recorded: self.events - self.duplicates,
            duplicates: self.duplicates,
            unparsed: self.unparsed,
            first_index: self.first_index,
            last_index: self.last_index,
            seconds: elapsed.as_millis() as f64 / 1000.0,
        }
    }
}

/// The last line of an import.
#[derive(Debug, Serialize)]
struct Summary {
    /// Lines that are in the trail now.
    events: u64,
    /// Of these, recorded by this import.
    recorded: u64,
    /// Of these, recorded by an earlier one.
    duplicates: u64,
    /// Of these, not understood and kept as raw events.
    unparsed: u64,
    first_index: Option<u64>,
    last_index: Option<u64>,
    seconds: f64,
}

/// On stderr, and only if that is a terminal.
fn progress_bar(size: Option<u64>) -> ProgressBar {
    let (bar, template) = match size {
        Some(size) => (
            ProgressBar::new(size),
            "{bar:30} {bytes}/{total_bytes} {msg} ({bytes_per_sec}, {eta} left)",
        ),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes} {msg} ({bytes_per_sec})"),
    };
    let style = ProgressStyle::with_template(template).expect("the template is a constant");
    bar.with_style(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_has_the_documented_keys() {
        let tally = Tally {
            events: 10,
            duplicates: 4,
            unparsed: 1,
            first_index: Some(2),
            last_index: Some(12),
        };
        let text = |tally: Tally, millis| {
            let summary = tally.summary(Duration::from_millis(millis));
            serde_json::to_string(&summary).expect("plain fields")
        };
        assert_eq!(
            text(tally, 1234),
            r#"{"events":10,"recorded":6,"duplicates":4,"unparsed":1,"#.to_owned()
                + r#""first_index":2,"last_index":12,"seconds":1.234}"#
        );
        assert!(text(Tally::default(), 0).contains(r#""first_index":null"#));
    }

    #[test]
    fn a_file_names_its_producer() {
        assert_eq!(file_name(Path::new("/var/log/auth.log")), "auth.log");
    }
}
