//! What is said of one file.

use indelible_core::{Checkpoint, Leaf, LeafIndex, Salt, Trusted};
use indelible_proto::event_json;
use serde_json::{Value, json};

use crate::cli::output;

/// What came out.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Right, by the word of those whom the policy names.
    Verified,
    /// Right in itself; who signed it was not asked.
    Sound,
    /// Right in itself; who signed it could not be asked.
    Unverified,
    /// Wrong, and why.
    Wrong(String),
}

/// What is known of one file. What stands in it besides the outcome is worth no more than that.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) file: String,
    /// "checkpoint", "proof", "bundle" or "unknown".
    pub(super) kind: &'static str,
    pub(super) outcome: Outcome,
    pub(super) checkpoint: Option<Checkpoint>,
    pub(super) trusted: Option<Trusted>,
    /// Of a proof.
    pub(super) record: Option<RecordLine>,
    /// Of a bundle.
    pub(super) records: Option<Records>,
    /// Kept checkpoints that it was compared with.
    pub(super) against: Vec<Old>,
    /// Sizes of older checkpoints that a bundle proves to have grown from.
    pub(super) older: Vec<u64>,
    /// Records of a bundle's key history.
    pub(super) keys: Option<usize>,
    /// What a person should know, without being an error.
    pub(super) notes: Vec<String>,
}

/// The record that a proof proves.
#[derive(Debug)]
pub(super) struct RecordLine {
    index: LeafIndex,
    leaf: Leaf,
    /// `None` if it is withheld.
    event: Option<Value>,
}

/// The records of a bundle.
#[derive(Debug)]
pub(super) struct Records {
    pub(super) from: LeafIndex,
    pub(super) to: LeafIndex,
    pub(super) withheld: u64,
    pub(super) event_bytes: u64,
    /// What it took to verify all of the bundle.
    pub(super) seconds: f64,
}

/// A kept checkpoint.
#[derive(Debug)]
pub(super) struct Old {
    pub(super) file: String,
    pub(super) size: u64,
    /// How it is known that the trail grew from it.
    pub(super) how: &'static str,
}

impl RecordLine {
    pub(super) fn new(index: LeafIndex, leaf: &Leaf, content: Option<&(Salt, Vec<u8>)>) -> Self {
        let event = content.map(|(_, event)| event_json(leaf.kind, event));
        RecordLine { index, leaf: *leaf, event }
    }
}

impl Records {
    fn count(&self) -> u64 {
        self.to - self.from
    }

    fn per_second(&self) -> f64 {
        self.count() as f64 / self.seconds.max(1e-9)
    }
}

impl Report {
    pub(super) fn new(file: String) -> Report {
        Report {
            file,
            kind: "unknown",
            outcome: Outcome::Unverified,
            checkpoint: None,
            trusted: None,
            record: None,
            records: None,
            against: Vec::new(),
            older: Vec::new(),
            keys: None,
            notes: Vec::new(),
        }
    }

    pub(super) fn is_wrong(&self) -> bool {
        matches!(self.outcome, Outcome::Wrong(_))
    }

    /// To stdout; what is wrong also to stderr, where a person looks for it.
    pub(super) fn print(&self, as_json: bool) -> anyhow::Result<()> {
        if as_json {
            output::print_json(&self.to_json())?;
        } else {
            output::print(self.to_text())?;
        }
        Ok(())
    }

    pub(super) fn to_json(&self) -> Value {
        let (outcome, error) = match &self.outcome {
            Outcome::Verified => ("verified", Value::Null),
            Outcome::Sound => ("sound", Value::Null),
            Outcome::Unverified => ("unverified", "no policy".into()),
            Outcome::Wrong(error) => ("wrong", error.as_str().into()),
        };
        let mut object = json!({
            "file": self.file,
            "kind": self.kind,
            "outcome": outcome,
            "verified": self.outcome == Outcome::Verified,
            "error": error,
        });
        let mut set = |name: &str, value: Value| object[name] = value;
        if let Some(checkpoint) = &self.checkpoint {
            let Checkpoint { origin, size, root, .. } = checkpoint;
            set("checkpoint", json!({ "origin": origin, "size": size, "root": root.to_string() }));
        }
        if let Some(trusted) = &self.trusted {
            set(
                "signed",
                json!({ "unix_s": trusted.unix_s, "time": time(trusted), "by": trusted.signers }),
            );
        }
        if let Some(record) = &self.record {
            set("record", record.to_json());
        }
        if let Some(records) = &self.records {
            set("from", records.from.into());
            set("to", records.to.into());
            set("events", records.count().into());
            set("withheld", records.withheld.into());
            set("event_bytes", records.event_bytes.into());
            set("seconds", records.seconds.into());
            set("events_per_s", records.per_second().into());
        }
        if let Some(keys) = self.keys {
            set("key_history", keys.into());
            set("older_sizes", json!(self.older));
        }
        let against = |old: &Old| json!({ "file": old.file, "size": old.size, "how": old.how });
        set("against", self.against.iter().map(against).collect());
        set("notes", json!(self.notes));
        object
    }

    pub(super) fn to_text(&self) -> String {
        let outcome = match &self.outcome {
            Outcome::Verified => "verified".to_owned(),
            Outcome::Sound => "sound; who signed it was not checked".to_owned(),
            Outcome::Unverified => "unverified: no policy".to_owned(),
            Outcome::Wrong(error) => format!("WRONG: {error}"),
        };
        let mut text = format!("{}: {outcome}", self.file);
        // Nothing that a wrong file says is worth showing.
        if self.is_wrong() {
            return text;
        }
        let mut line = |name: &str, value: String| text += &format!("\n  {name:<12} {value}");
        if let Some(record) = &self.record {
            line("record", record.to_text());
            if let Some(event) = &record.event {
                line("event", event.to_string());
            }
        }
        if let Some(records) = &self.records {
            line("records", records.to_text());
        }
        if let Some(Checkpoint { origin, size, root, .. }) = &self.checkpoint {
            line("checkpoint", format!("{origin}, size {size}"));
            line("root", root.to_string());
        }
        if let Some(trusted) = &self.trusted {
            let signers = trusted.signers.iter();
            let clocks = signers.filter(|name| **name != trusted.checkpoint.origin).count();
            line(
                "signed",
                time(trusted).map_or_else(
                    || "at a time that nobody says".into(),
                    |time| time + &output::few_clocks(clocks),
                ),
            );
            line("by", trusted.signers.join(", "));
        }
        if let Some(keys) = self.keys {
            line("key history", format!("{keys} records, all in the tree"));
        }
        if !self.older.is_empty() {
            let sizes: Vec<String> = self.older.iter().map(ToString::to_string).collect();
            line(
                "grew from",
                format!("sizes {} (checkpoints and proofs inside)", sizes.join(", ")),
            );
        }
        for old in &self.against {
            line("grew from", format!("{}, size {} ({})", old.file, old.size, old.how));
        }
        for note in &self.notes {
            line("note", note.clone());
        }
        text
    }
}

/// When a quorum had signed; `None` if the policy asks for no cosignature.
fn time(trusted: &Trusted) -> Option<String> {
    let unix_s = Some(trusted.unix_s).filter(|unix_s| *unix_s > 0)?;
    let time = i64::try_from(unix_s).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
    Some(time.map_or_else(|| format!("{unix_s} s after 1970"), |time| time.to_string()))
}

impl RecordLine {
    fn to_json(&self) -> Value {
        json!({
            "index": self.index,
            "received": output::time(self.leaf.received),
            "leaf": hex::encode(self.leaf.encode()),
            "kind": self.leaf.kind.name(),
            "event": self.event,
        })
    }

    fn to_text(&self) -> String {
        let withheld = if self.event.is_none() { ", its event withheld" } else { "" };
        let (kind, received) = (self.leaf.kind.name(), output::time(self.leaf.received));
        format!("leaf {}, {kind}, received {received}{withheld}", self.index)
    }
}

impl Records {
    fn to_text(&self) -> String {
        let withheld = match self.withheld {
            0 => String::new(),
            withheld => format!(", {withheld} events withheld"),
        };
        format!(
            "{} ({}..{}), {} bytes of events{withheld}; {:.1} s, {:.0} a second",
            self.count(),
            self.from,
            self.to,
            self.event_bytes,
            self.seconds,
            self.per_second()
        )
    }
}
