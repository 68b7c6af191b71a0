//! Events for demonstrations and measurements: plausible, and the same for the same number.

use indelible_proto::v1;
use prost::Message;

const ACTORS: [&str; 6] = ["alice", "bob", "carol", "dave", "svc-backup", "svc-deploy"];
const ACTIONS: [(&str, &str); 6] = [
    ("user.login", "LOGIN"),
    ("invoice.delete", "DELETE"),
    ("role.grant", "GRANT"),
    ("secret.read", "READ"),
    ("policy.update", "UPDATE"),
    ("export.start", "EXPORT"),
];

/// Event number `number`.
pub fn event(number: u64) -> v1::Event {
    let pick = |count: usize, step: u64| (number / step) as usize % count;
    let (kind, action) = ACTIONS[pick(ACTIONS.len(), 1)];
    let actor = ACTORS[pick(ACTORS.len(), 7)];
    let target = format!("{}/{}", kind.split('.').next().unwrap_or(kind), number % 1000);
    let outcome = match number % 11 {
        0 => v1::Outcome::Failure,
        _ => v1::Outcome::Success,
    };
    let actor_type = if actor.starts_with("svc") { "service" } else { "user" };
    v1::Event {
        id: format!("generated-{number}"),
        r#type: kind.into(),
        action: action.into(),
        outcome: outcome.into(),
        actor: Some(v1::Actor { id: actor.into(), r#type: actor_type.into(), name: String::new() }),
        targets: vec![v1::Target { id: target, ..Default::default() }],
        source: Some(v1::Source {
            ip: format!("10.0.{}.{}", number % 256, number / 256 % 256),
            user_agent: String::new(),
        }),
        ..Default::default()
    }
}

/// Event number `number`, padded to `bytes` bytes when encoded. Events that are longer stay so.
pub fn event_of_size(number: u64, bytes: usize) -> v1::Event {
    let mut event = event(number);
    // Tag and length of the field take two bytes up to 127, three beyond.
    let missing = bytes.saturating_sub(event.encoded_len());
    let padding = missing.saturating_sub(if missing > 129 { 3 } else { 2 });
    event.reason = "x".repeat(padding);
    event
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padded_events_have_the_size_asked_for() {
        for number in [0, 1, 99, 123_456_789] {
            for bytes in [180, 256, 1024, 4096] {
                assert_eq!(event_of_size(number, bytes).encoded_len(), bytes, "{number} {bytes}");
            }
        }
    }
}
