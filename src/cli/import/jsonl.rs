//! JSON objects with the usual names for who did what; everything else becomes attributes.

use indelible_proto::v1::{Actor, Event, Outcome, Source, Target};
use serde_json::Value;

use super::json::{Object, object, scalar};
use super::{ACTION_RAW, Origin, Parsed, unix_ns};

/// Attributes of one event at most.
const ATTRIBUTES_MAX: usize = 128;
/// Objects within objects that are flattened into dotted names; deeper ones are kept as JSON.
const DEPTH_MAX: usize = 4;
/// Name or value of an attribute, in bytes.
const ATTRIBUTE_BYTES_MAX: usize = 4096;
/// Targets, and principals of a delegation, of one event at most.
const PARTIES_MAX: usize = 64;
/// Says how many attributes were left out because of these limits.
const OMITTED: &str = "import.attributes_omitted";

/// The event of an object. It is recognized if it says who did what; without that it gets the
/// producer as its actor, or [`ACTION_RAW`] as its action.
pub(super) fn parse(line: &[u8], origin: Origin<'_>) -> Option<Parsed> {
    let mut builder = Builder::default();
    for (key, value) in object(line)? {
        if !builder.take_known(&key, &value) {
            builder.flatten(&key, &value, 1);
        }
    }
    Some(builder.finish(origin))
}

#[derive(Default)]
struct Builder {
    event: Event,
    omitted: u64,
}

impl Builder {
    /// Takes a key that an event has a field for. Whether it did: a value that does not fit the
    /// field, or a second one for it, is left to the attributes.
    fn take_known(&mut self, key: &str, value: &Value) -> bool {
        let event = &mut self.event;
        match key {
            "id" | "event_id" => put(&mut event.id, scalar(value)),
            "type" | "event_type" => put(&mut event.r#type, text(value)),
            "action" => put(&mut event.action, text(value)),
            "reason" => put(&mut event.reason, text(value)),
            "time" | "timestamp" | "@timestamp" | "time_unix_ns" => {
                match time(value).filter(|_| event.time_unix_ns == 0) {
                    Some(time) => event.time_unix_ns = time,
                    None => return false,
                }
                true
            }
            "outcome" => match outcome(value) {
                Some(outcome) => {
                    event.set_outcome(outcome);
                    true
                }
                None => false,
            },
            "source_ip" => put(&mut source(event).ip, text(value)),
            "user_agent" => put(&mut source(event).user_agent, text(value)),
            "actor" => self.take_actor(value),
            "target" => self.take_target(value),
            "targets" | "source" | "attributes" | "resource" => self.take_nested(key, value),
            _ => false,
        }
    }

    fn take_actor(&mut self, value: &Value) -> bool {
        let Some(Party { id, kind, name, rest }) = party(value) else { return false };
        self.event.actor = Some(Actor { id, r#type: kind, name });
        self.flatten_all("actor", &rest);
        true
    }

    fn take_target(&mut self, value: &Value) -> bool {
        let party = party(value).filter(|_| self.event.targets.len() < PARTIES_MAX);
        let Some(Party { id, kind, name, rest }) = party else { return false };
        self.event.targets.push(Target { id, r#type: kind, name });
        self.flatten_all("target", &rest);
        true
    }

    /// Takes what holds several values, each as far as it fits.
    fn take_nested(&mut self, key: &str, value: &Value) -> bool {
        match (key, value) {
            ("targets", Value::Array(values)) => {
                for (position, value) in values.iter().enumerate() {
                    if !self.take_target(value) {
                        self.flatten(&format!("targets.{position}"), value, 2);
                    }
                }
            }
            ("attributes", Value::Object(object)) => {
                for (key, value) in object {
                    self.flatten(key, value, 1);
                }
            }
            ("source", Value::Object(object)) => {
                for (key, value) in object {
                    let taken = match key.as_str() {
                        "ip" => put(&mut source(&mut self.event).ip, text(value)),
                        "user_agent" => put(&mut source(&mut self.event).user_agent, text(value)),
                        _ => false,
                    };
                    if !taken {
                        self.flatten(&format!("source.{key}"), value, 2);
                    }
                }
            }
            ("resource", Value::Object(object)) => {
                for (key, value) in object {
                    match scalar(value).filter(|_| self.event.resource.len() < ATTRIBUTES_MAX) {
                        Some(value) => drop(self.event.resource.insert(key.clone(), value)),
                        None => self.flatten(&format!("resource.{key}"), value, 2),
                    }
                }
            }
            _ => return false,
        }
        true
    }

    fn flatten_all(&mut self, prefix: &str, object: &Object) {
        for (key, value) in object {
            self.flatten(&format!("{prefix}.{key}"), value, 2);
        }
    }

    /// Puts a value into the attributes, objects under dotted names and arrays as JSON.
    fn flatten(&mut self, name: &str, value: &Value, depth: usize) {
        let value = match value {
            Value::Null => return,
            Value::Object(object) if depth < DEPTH_MAX => {
                for (key, value) in object {
                    self.flatten(&format!("{name}.{key}"), value, depth + 1);
                }
                return;
            }
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let attributes = &mut self.event.attributes;
        let fits = attributes.len() < ATTRIBUTES_MAX
            && name.len() <= ATTRIBUTE_BYTES_MAX
            && value.len() <= ATTRIBUTE_BYTES_MAX;
        // Two paths can give one name ("a.b", and "b" in "a"): the first one stays.
        if fits && !attributes.contains_key(name) {
            attributes.insert(name.to_owned(), value);
        } else {
            self.omitted += 1;
        }
    }

    fn finish(mut self, origin: Origin<'_>) -> Parsed {
        if self.omitted > 0 {
            self.event.attributes.insert(OMITTED.to_owned(), self.omitted.to_string());
        }
        let recognized = self.event.actor.is_some() && !self.event.action.is_empty();
        if self.event.action.is_empty() {
            self.event.action = ACTION_RAW.to_owned();
        }
        self.event.actor.get_or_insert_with(|| origin.actor());
        if self.event.targets.is_empty() {
            self.event.targets.push(origin.target());
        }
        self.event.source.take_if(|source| *source == Source::default());
        Parsed { event: self.event, recognized }
    }
}

/// Sets a field that is still empty; whether it did.
fn put(field: &mut String, value: Option<String>) -> bool {
    match value.filter(|_| field.is_empty()) {
        Some(value) => {
            *field = value;
            true
        }
        None => false,
    }
}

fn source(event: &mut Event) -> &mut Source {
    event.source.get_or_insert_default()
}

/// A text that is not empty.
fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

/// An actor or a target.
struct Party {
    /// Not empty.
    id: String,
    kind: String,
    name: String,
    /// What else was said about it.
    rest: Object,
}

/// From an id, or from an object with an id, or at least a name.
fn party(value: &Value) -> Option<Party> {
    let Value::Object(object) = value else {
        let id = scalar(value)?;
        return Some(Party { id, kind: String::new(), name: String::new(), rest: Object::new() });
    };
    let mut rest = object.clone();
    let mut take = |key: &str| {
        let value = rest.get(key).and_then(scalar)?;
        rest.remove(key);
        Some(value)
    };
    let (id, kind, name) = (take("id"), take("type"), take("name"));
    let id = id.or_else(|| name.clone())?;
    Some(Party { id, kind: kind.unwrap_or_default(), name: name.unwrap_or_default(), rest })
}

/// RFC 3339, or a number since 1970 whose size gives its unit: seconds until the year 5138, then
/// milliseconds, microseconds, nanoseconds by factors of 1,000.
fn time(value: &Value) -> Option<i64> {
    if let Some(text) = value.as_str() {
        return unix_ns(text);
    }
    let number = value.as_i64().filter(|number| *number >= 0)?;
    let factor = match number {
        0..100_000_000_000 => 1_000_000_000,
        100_000_000_000..100_000_000_000_000 => 1_000_000,
        100_000_000_000_000..100_000_000_000_000_000 => 1_000,
        _ => 1,
    };
    number.checked_mul(factor)
}

fn outcome(value: &Value) -> Option<Outcome> {
    let text = match value {
        Value::Bool(true) => "success".to_owned(),
        Value::Bool(false) => "failure".to_owned(),
        _ => value.as_str()?.to_ascii_lowercase(),
    };
    match text.as_str() {
        "success" | "succeeded" | "ok" | "allowed" => Some(Outcome::Success),
        "failure" | "failed" | "error" | "denied" => Some(Outcome::Failure),
        "unknown" => Some(Outcome::Unknown),
        _ => None,
    }
}
