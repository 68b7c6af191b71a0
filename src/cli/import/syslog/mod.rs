//! Syslog lines: the [`header`] says when, where and which program; the [`message`] who did what.

mod header;
mod message;

use std::collections::BTreeMap;

use indelible_proto::v1::{Actor, Event, Outcome, Source, Target};

use super::Parsed;
use header::{Header, Time};
use message::Finding;

/// The event of a line with a header that can be read. Bytes that are not UTF-8 are replaced in
/// what is read from them; `raw` has them as they came.
pub(super) fn parse(line: &[u8], year: Option<i16>) -> Option<Parsed> {
    let text = String::from_utf8_lossy(line);
    let header = header::parse(&text, year)?;
    let finding = message::understand(header.message);
    let event = Event {
        time_unix_ns: match header.time {
            Time::Known(time) => time,
            Time::Text(_) => 0,
        },
        r#type: finding.event_type.to_owned(),
        action: finding.action.to_owned(),
        outcome: finding.outcome.into(),
        actor: Some(actor(&header, &finding)),
        targets: targets(&header, &finding),
        source: finding.address.map(|ip| Source { ip: ip.to_owned(), user_agent: String::new() }),
        reason: match finding.outcome {
            Outcome::Failure => header.message.trim().to_owned(),
            _ => String::new(),
        },
        resource: pairs([("service.name", header.program), ("host.name", header.host)]),
        attributes: attributes(&header, &finding),
        ..Event::default()
    };
    Some(Parsed { event, recognized: true })
}

/// Whoever is named; else whoever is at the other end; else the program that wrote the line.
fn actor(header: &Header<'_>, finding: &Finding<'_>) -> Actor {
    let candidates =
        [(finding.user, "user"), (finding.address, "system"), (Some(header.program), "service")];
    let named = candidates.into_iter().find_map(|(id, kind)| Some((id?, kind)));
    let (id, kind) = named.filter(|(id, _)| !id.is_empty()).unwrap_or((header.host, "system"));
    Actor { id: id.to_owned(), r#type: kind.to_owned(), name: String::new() }
}

/// The host, and the account on it.
fn targets(header: &Header<'_>, finding: &Finding<'_>) -> Vec<Target> {
    let target = |id: &str, kind: &str| Target {
        id: id.to_owned(),
        r#type: kind.to_owned(),
        name: String::new(),
    };
    let account = finding.user.map(|user| target(user, "account"));
    [target(header.host, "host")].into_iter().chain(account).collect()
}

fn attributes(header: &Header<'_>, finding: &Finding<'_>) -> BTreeMap<String, String> {
    let timestamp = match header.time {
        Time::Text(text) => text,
        Time::Known(_) => "",
    };
    let mut attributes = pairs([
        ("process.pid", header.pid),
        ("source.port", finding.port.unwrap_or_default()),
        ("syslog.message_id", header.message_id),
        ("syslog.repeated", finding.repeated.unwrap_or_default()),
        ("syslog.structured_data", header.structured_data),
        ("syslog.timestamp", timestamp),
    ]);
    if let Some(priority) = header.priority {
        attributes.insert("syslog.facility".to_owned(), (priority / 8).to_string());
        attributes.insert("syslog.severity".to_owned(), (priority % 8).to_string());
    }
    attributes
}

/// A map without the empty values.
fn pairs<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    let filled = pairs.into_iter().filter(|(_, value)| !value.is_empty());
    filled.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}
