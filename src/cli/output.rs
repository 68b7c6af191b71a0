//! What commands print, and how.

use std::io::{self, Write};

use anyhow::Context;
use comfy_table::{ContentArrangement, Table, presets};
use indelible_client::{ProducerId, Record};
use indelible_proto::event_json;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use sha3::{Digest, Sha3_256};

/// A record as programs read it. The order of the fields is that of the output.
#[derive(Debug, Serialize)]
pub(super) struct RecordView {
    index: u64,
    /// RFC 3339.
    received: String,
    /// The 64 bytes, hexadecimal.
    leaf: String,
    kind: &'static str,
    event: Value,
}

impl RecordView {
    pub(super) fn new(record: &Record) -> RecordView {
        RecordView {
            index: record.index,
            received: time(record.leaf.received),
            leaf: hex::encode(record.leaf.encode()),
            kind: record.leaf.kind.name(),
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
