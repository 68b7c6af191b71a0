//! What commands print, and how.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use comfy_table::{ContentArrangement, Table, presets};
use indelible_client::{AppendError, CallError, Client, ProducerId, Record, Verification};
use indelible_proto::event_json;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use sha3::{Digest, Sha3_256};
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt;

/// Said of a checkpoint whose time is from fewer than three clocks: one wrong clock may have set
/// it.
pub(super) fn few_clocks(clocks: usize) -> String {
    match clocks {
        1 => " (by 1 clock)".into(),
        0 | 2 => format!(" (by {clocks} clocks)"),
        _ => String::new(),
    }
}

/// A record as programs read it. The order of the fields is that of the output.
#[derive(Debug, Serialize)]
pub(super) struct RecordView {
    index: u64,
    /// RFC 3339.
    received: String,
    /// The 64 bytes, hexadecimal.
    leaf: String,
    kind: &'static str,
    /// Whether it is proven to be in the trail, as the policy wants it.
    verified: bool,
    /// Size of the checkpoint that it was held against.
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoint_size: Option<u64>,
    event: Value,
}

impl RecordView {
    pub(super) fn new(record: &Record) -> RecordView {
        RecordView {
            index: record.index,
            received: time(record.leaf.received),
            leaf: hex::encode(record.leaf.encode()),
            kind: record.leaf.kind.name(),
            verified: record.verification.is_verified(),
            checkpoint_size: record.proof().map(|proof| proof.checkpoint.checkpoint.size),
            event: event_json(record.leaf.kind, &record.event),
        }
    }
}

/// Unix nanoseconds as RFC 3339 in UTC, nanoseconds and all, so that programs lose nothing.
pub(super) fn time(unix_ns: u64) -> String {
    match Timestamp::from_nanosecond(i128::from(unix_ns)) {
        Ok(time) => format!("{time:.9}"),
        // Past the year 9999, which no honest clock says: shown as it is.
        Err(_) => format!("{unix_ns} ns"),
    }
}

/// The id of the producer with this name: the first 16 bytes of SHA3-256("indelible/producer/" +
/// name). So a name is a producer on every machine and in every run.
pub fn producer_id(name: &str) -> ProducerId {
    let mut hasher = Sha3_256::new();
    hasher.update(b"indelible/producer/");
    hasher.update(name);
    let digest: [u8; 32] = hasher.finalize().into();
    ProducerId::from_slice(&digest[..ProducerId::SIZE]).expect("the length is that of an id")
}

/// An empty table that fits the terminal.
pub(super) fn table() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table
}

/// Prints to stdout as one line of JSON.
pub(super) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string(value).context("write JSON")?;
    Ok(print(text)?)
}

/// Prints to stdout, with a line feed.
pub(super) fn print(text: impl std::fmt::Display) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{text}")
}

/// An error for people: what was tried, then what came of it. Many errors name their cause in their
/// own text: a cause that was said already is not said again.
pub(super) fn describe(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        let cause = cause.trim_end();
        if !text.contains(cause) {
            let separator = if text.is_empty() { "" } else { ": " };
            text = format!("{text}{separator}{cause}");
        }
    }
    text
}

/// What is wrong is more than that something did not work: somebody is not to be believed, or what
/// was signed is gone.
pub(super) const EXIT_ALARM: u8 = 3;
/// It is recorded; the proof that was asked for is pending.
pub(super) const EXIT_PENDING: u8 = 4;

/// Whether an error is an alarm, with what shows it.
pub(super) fn alarm(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| {
        if let Some(error) = cause.downcast_ref::<CallError>() {
            return match error {
                CallError::NodeLied { evidence, .. } => Some(evidence.to_string()),
                CallError::Fork(fork) => Some(fork.evidence.to_string()),
                error => error.is_alarming().then(String::new),
            };
        }
        let error = cause.downcast_ref::<AppendError>()?;
        let alarms =
            matches!(error, AppendError::ReceiptBroken { .. } | AppendError::RolledBack(_));
        alarms.then(String::new)
    })
}

/// Says on stderr why something is not called verified. Returns the exit code for it.
pub(super) fn unverified(client: &Client, verification: Verification) -> ExitCode {
    match (verification, client.policy()) {
        (Verification::Verified { .. }, _) => ExitCode::SUCCESS,
        (_, None) => {
            eprintln!("note: not verified, as nobody says whom to believe");
            eprintln!(
                "hint: give the profile or the policy that `indelible init` wrote with --profile FILE or --policy FILE"
            );
            ExitCode::SUCCESS
        }
        (_, Some(_)) => {
            eprintln!("note: not verified yet: no checkpoint that the policy accepts covers it");
            eprintln!("hint: `indelible status` shows whether a majority of the nodes signs");
            ExitCode::from(EXIT_PENDING)
        }
    }
}

/// Writes a whole file that nobody sees half of, and that only its owner can read: it may hold what
/// was recorded.
pub(super) async fn write_private(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let draft = draft_of(path);
    let file = create_private(&draft).await.with_context(|| format!("write {}", path.display()))?;
    finish(path, &draft, file, bytes).await
}

/// The same for what is to be handed on: checkpoints and policies.
pub(super) async fn write_public(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let draft = draft_of(path);
    let file = File::create(&draft).await.with_context(|| format!("write {}", path.display()))?;
    finish(path, &draft, file, bytes).await
}

/// A new file for its owner only, in the place of what was there.
pub(super) async fn create_private(path: &Path) -> io::Result<File> {
    match tokio::fs::remove_file(path).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // NB: a mode counts only for a file that is made here.
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).await
}

async fn finish(path: &Path, draft: &Path, mut file: File, bytes: &[u8]) -> anyhow::Result<()> {
    let doing = || format!("write {}", path.display());
    file.write_all(bytes).await.with_context(doing)?;
    file.sync_all().await.with_context(doing)?;
    // Crash here: a draft that nobody reads, and what was there before.
    tokio::fs::rename(draft, path).await.with_context(doing)
}

/// Where a file is written before it has its name.
pub(super) fn draft_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

/// Whether whoever read our output went away, as `head` does: no error of ours.
pub(super) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let kinds = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    kinds.into_iter().any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

/// Makes a `println!` into a pipe that was closed (`| head`) end the process quietly, as any Unix
/// tool does. Its panic has no other mark than its text.
pub(super) fn end_on_closed_pipe() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.payload().downcast_ref::<String>().map_or("", String::as_str);
        if text.starts_with("failed printing to stdout") && text.contains("os error 32") {
            std::process::exit(0);
        }
        print(panic);
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_recorded_is_written_for_its_owner_only() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("proof");
        let mode = async || tokio::fs::metadata(&path).await.expect("it is there").mode() & 0o777;
        write_public(&path, b"an older one").await.expect("writes");
        // A draft that a crash has left is not taken as it is.
        tokio::fs::write(draft_of(&path), b"half").await.expect("writes");
        write_private(&path, b"the newer one").await.expect("writes");
        assert_eq!(mode().await, 0o600);
        assert_eq!(tokio::fs::read(&path).await.expect("reads"), b"the newer one");
    }

    #[test]
    fn times_keep_their_nanoseconds() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(time(1_763_692_000_123_456_789), "2025-11-21T02:26:40.123456789Z");
        assert_eq!(time(u64::MAX), "2554-07-21T23:34:33.709551615Z");
    }

    #[test]
    fn a_producer_id_is_the_name_hashed() {
        assert_eq!(producer_id("a").to_string().len(), 32);
        assert_ne!(producer_id("a"), producer_id("b"));
        let digest = Sha3_256::digest(b"indelible/producer/sshd.log");
        assert_eq!(producer_id("sshd.log").0, digest[..16]);
    }
}
