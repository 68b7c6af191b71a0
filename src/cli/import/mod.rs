//! Lines of other systems' audit logs, as events.
//!
//! Pure functions: the same line of the same file gives the same bytes, always. So an import that
//! is run again, or goes on after a crash, submits the same events under the same numbers, and
//! the trail records each once. No clock, no randomness, no environment.
//!
//! The original line goes along byte for byte as `raw`: what a parser gets wrong or leaves out can
//! be read there. A line that no parser understands is an event all the same.

mod cloudtrail;
mod json;
mod jsonl;
mod syslog;
#[cfg(test)]
mod tests;

use indelible_core::limits::EVENT_BYTES_MAX;
use indelible_proto::v1::{Actor, Event, Raw, Target};
use prost::Message;

/// What the lines of a file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// One JSON object a line, with the usual names for who did what.
    Jsonl,
    /// One AWS CloudTrail record a line.
    Cloudtrail,
    /// RFC 3164 or RFC 5424, with what sshd and PAM say understood.
    Syslog,
}

/// A line as an event.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    /// Passes [`indelible_proto::validate_event`], unless the line alone is larger than an event
    /// may be ([`EVENT_BYTES_MAX`] less about 100 bytes and twice the producer's name).
    pub event: Event,
    /// Whether the format's parser understood it. If not, the event says little more than `raw`.
    pub recognized: bool,
}

/// Action of events whose line says none.
const ACTION_RAW: &str = "IMPORT_RAW";

/// The event of a line, which comes without its line feed (a carriage return at its end is kept in
/// `raw` and not looked at).
///
/// `producer_name` and `line_number` (from 1) name the line where it does not name itself. `year`
/// is that of RFC 3164 timestamps, which have none and are taken as UTC; without it the time is 0
/// and the attribute `syslog.timestamp` keeps the text.
pub fn parse_line(
    format: Format,
    producer_name: &str,
    line_number: u64,
    line: &[u8],
    year: Option<i16>,
) -> Parsed {
    // An event needs an actor, also of a file without a name.
    let producer = if producer_name.is_empty() { "import" } else { producer_name };
    let origin = Origin { producer, line_number };
    let content = line.strip_suffix(b"\r").unwrap_or(line);
    let parsed = match format {
        Format::Jsonl => jsonl::parse(content, origin),
        Format::Cloudtrail => cloudtrail::parse(content),
        Format::Syslog => syslog::parse(content, year),
    };
    let media_type = match (format, &parsed) {
        (Format::Jsonl | Format::Cloudtrail, Some(_)) => "application/json",
        (Format::Syslog, Some(_)) => "text/syslog",
        (_, None) if std::str::from_utf8(line).is_ok() => "text/plain",
        (_, None) => "application/octet-stream",
    };
    let raw = Raw { bytes: line.to_vec().into(), media_type: media_type.to_owned() };
    let mut parsed =
        parsed.unwrap_or_else(|| Parsed { event: origin.raw_event(), recognized: false });
    if parsed.event.id.is_empty() {
        parsed.event.id = origin.line_id();
    }
    parsed.event.raw = Some(raw);
    fit(parsed, origin)
}

/// Makes an event fit the limit: what was parsed is in `raw` too, so that goes first.
fn fit(mut parsed: Parsed, origin: Origin<'_>) -> Parsed {
    if parsed.event.encoded_len() > EVENT_BYTES_MAX {
        parsed.event.attributes.clear();
    }
    if parsed.event.encoded_len() > EVENT_BYTES_MAX {
        let raw = parsed.event.raw.take();
        parsed = Parsed { event: Event { raw, ..origin.raw_event() }, recognized: false };
    }
    parsed
}

/// Where a line comes from: what an event falls back on.
#[derive(Debug, Clone, Copy)]
struct Origin<'a> {
    /// Not empty.
    producer: &'a str,
    line_number: u64,
}

impl Origin<'_> {
    /// Names the line.
    fn line_id(self) -> String {
        format!("{}:{}", self.producer, self.line_number)
    }

    /// The producer, as whoever wrote down what nobody is named for.
    fn actor(self) -> Actor {
        Actor { id: self.producer.to_owned(), r#type: "service".to_owned(), name: String::new() }
    }

    /// The line, as a target.
    fn target(self) -> Target {
        Target { id: self.line_id(), r#type: "line".to_owned(), name: String::new() }
    }

    /// An event that says only that there was a line.
    fn raw_event(self) -> Event {
        Event {
            action: ACTION_RAW.to_owned(),
            actor: Some(self.actor()),
            targets: vec![self.target()],
            ..Event::default()
        }
    }
}

/// An RFC 3339 time as Unix time in nanoseconds. Nothing for what an event cannot hold: before
/// 1970 or after 2262.
fn unix_ns(text: &str) -> Option<i64> {
    let timestamp: jiff::Timestamp = text.parse().ok()?;
    i64::try_from(timestamp.as_nanosecond()).ok().filter(|ns| *ns >= 0)
}
