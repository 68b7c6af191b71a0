//! Records as JSON, for people and programs that do not speak protobuf.
//!
//! One way only: the bytes are the evidence, this is a view of them. Names are those of the
//! .proto files; fields that hold their default are left out.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use indelible_core::Kind;
use prost::{DecodeError, Message};
use serde_json::{Map, Value};

use crate::{v1, validate_event};

/// The event of a record as a JSON object, by the record's kind.
///
/// Times in nanoseconds and other 64-bit numbers are JSON integers. Byte fields are lower-case
/// hexadecimal, but for `raw`: `text` where it is UTF-8, `base64` where it is not. Bytes that are
/// not of the kind's message, and kinds that this build has no message for, give
/// `{"undecodable_hex": ...}`. An event that decodes though the edge would refuse it gets a
/// `schema_violation` with the reason: a general decoder shows only one of its readings.
pub fn event_json(kind: Kind, event_bytes: &[u8]) -> Value {
    let object = match kind {
        Kind::Event => decode(event_bytes, event).map(|object| object_checked(object, event_bytes)),
        Kind::Heartbeat | Kind::Gap => decode(event_bytes, event),
        Kind::Leadership => decode(event_bytes, leadership),
        Kind::Membership => decode(event_bytes, membership_record),
        Kind::ProducerOpened => decode(event_bytes, producer_opened),
        Kind::Operation => decode(event_bytes, operation),
        Kind::Finding => decode(event_bytes, finding),
        _ => Ok(undecodable(event_bytes)),
    };
    object.unwrap_or_else(|_| undecodable(event_bytes)).0.into()
}

fn decode<M: Message + Default>(
    bytes: &[u8],
    view: fn(M) -> Object,
) -> Result<Object, DecodeError> {
    M::decode(bytes).map(view)
}

fn undecodable(bytes: &[u8]) -> Object {
    let mut object = Object::default();
    object.put("undecodable_hex", hex::encode(bytes).into());
    object
}

fn object_checked(mut object: Object, bytes: &[u8]) -> Object {
    if let Err(error) = validate_event(bytes) {
        object.put("schema_violation", error.to_string().into());
    }
    object
}

/// A JSON object that leaves defaults out.
#[derive(Default)]
struct Object(Map<String, Value>);

impl Object {
    /// Puts a value whatever it is.
    fn put(&mut self, name: &str, value: Value) {
        self.0.insert(name.to_owned(), value);
    }

    fn text(mut self, name: &str, value: String) -> Object {
        if !value.is_empty() {
            self.put(name, value.into());
        }
        self
    }

    fn hex(self, name: &str, value: &[u8]) -> Object {
        self.text(name, hex::encode(value))
    }

    fn number(mut self, name: &str, value: u64) -> Object {
        if value != 0 {
            self.put(name, value.into());
        }
        self
    }

    fn object(mut self, name: &str, value: Option<Object>) -> Object {
        if let Some(Object(map)) = value {
            self.put(name, map.into());
        }
        self
    }

    fn list(mut self, name: &str, values: impl Iterator<Item = Object>) -> Object {
        let values: Vec<Value> = values.map(|Object(map)| map.into()).collect();
        if !values.is_empty() {
            self.put(name, values.into());
        }
        self
    }

    fn map(mut self, name: &str, values: impl IntoIterator<Item = (String, String)>) -> Object {
        let map: Map<String, Value> =
            values.into_iter().map(|(key, value)| (key, value.into())).collect();
        if !map.is_empty() {
            self.put(name, map.into());
        }
        self
    }
}

fn event(event: v1::Event) -> Object {
    let outcome = outcome(event.outcome);
    let mut object = Object::default()
        .text("id", event.id)
        .text("type", event.r#type)
        .text("action", event.action)
        .object("actor", event.actor.map(actor))
        .list("delegation", event.delegation.into_iter().map(actor))
        .list("targets", event.targets.into_iter().map(target))
        .object("source", event.source.map(source))
        .text("reason", event.reason)
        .list("changes", event.changes.into_iter().map(change))
        .object("trace", event.trace.map(trace))
        .map("resource", event.resource)
        .map("attributes", event.attributes)
        .object("raw", event.raw.map(raw))
        .object("producer_signature", event.producer_signature.map(producer_signature))
        .hex("producer_previous_hash", &event.producer_previous_hash);
    // "unknown" is an answer too, so the outcome is always there.
    object.put("outcome", outcome);
    if event.time_unix_ns != 0 {
        object.put("time_unix_ns", event.time_unix_ns.into());
    }
    object
}

/// The outcome's name; its number if it has none.
fn outcome(value: i32) -> Value {
    match v1::Outcome::try_from(value) {
        Ok(v1::Outcome::Success) => "success".into(),
        Ok(v1::Outcome::Failure) => "failure".into(),
        Ok(v1::Outcome::Unknown) => "unknown".into(),
        Err(_) => value.into(),
    }
}

fn actor(actor: v1::Actor) -> Object {
    Object::default().text("id", actor.id).text("type", actor.r#type).text("name", actor.name)
}

fn target(target: v1::Target) -> Object {
    Object::default().text("id", target.id).text("type", target.r#type).text("name", target.name)
}

fn source(source: v1::Source) -> Object {
    Object::default().text("ip", source.ip).text("user_agent", source.user_agent)
}

fn change(change: v1::Change) -> Object {
    Object::default()
        .text("path", change.path)
        .text("before", change.before)
        .text("after", change.after)
}

fn trace(trace: v1::TraceContext) -> Object {
    Object::default()
        .hex("trace_id", &trace.trace_id)
        .hex("span_id", &trace.span_id)
        .number("duration_ns", trace.duration_ns)
}

fn raw(raw: v1::Raw) -> Object {
    let object = Object::default().text("media_type", raw.media_type);
    match std::str::from_utf8(&raw.bytes) {
        Ok(text) => object.text("text", text.to_owned()),
        Err(_) => object.text("base64", STANDARD.encode(&raw.bytes)),
    }
}

fn producer_signature(signature: v1::ProducerSignature) -> Object {
    Object::default()
        .text("algorithm", signature.algorithm)
        .hex("value", &signature.value)
        .hex("certificate", &signature.certificate)
}

fn leadership(record: v1::Leadership) -> Object {
    entry(record.index, record.term, record.leader, &record.previous_chain)
}

fn membership_record(record: v1::MembershipRecord) -> Object {
    entry(record.index, record.term, record.leader, &record.previous_chain)
        .object("membership", record.membership.map(membership))
}

/// What leadership and membership records say of their Raft entry. Zeros are left in: they are
/// positions, and the genesis is at 0.
fn entry(index: u64, term: u64, leader: u64, previous_chain: &[u8]) -> Object {
    let mut object = Object::default().hex("previous_chain", previous_chain);
    object.put("index", index.into());
    object.put("term", term.into());
    object.put("leader", leader.into());
    object
}

fn membership(membership: v1::Membership) -> Object {
    let voter_set = |set: v1::VoterSet| {
        let mut object = Object::default();
        object.put("node_ids", set.node_ids.into());
        object
    };
    Object::default()
        .hex("trail_id", &membership.trail_id)
        .list("voter_sets", membership.voter_sets.into_iter().map(voter_set))
        .list("members", membership.members.into_iter().map(member))
}

fn member(member: v1::Member) -> Object {
    Object::default()
        .number("id", member.id)
        .text("client_addr", member.client_addr)
        .text("raft_addr", member.raft_addr)
        .text("http_addr", member.http_addr)
        .hex("public_key", &member.public_key)
}

fn producer_opened(record: v1::ProducerOpened) -> Object {
    Object::default()
        .hex("producer_id", &record.producer_id)
        .number("epoch", record.epoch)
        .text("name", record.name)
        .text("principal", record.principal)
        .text("authentication", record.authentication)
        .hex("public_key", &record.public_key)
}

fn operation(record: v1::Operation) -> Object {
    Object::default()
        .text("action", record.action)
        .text("principal", record.principal)
        .text("detail", record.detail)
        .text("reason", record.reason)
        .number("node_id", record.node_id)
        .number("accepted_unix_s", record.accepted_unix_s)
}

fn finding(record: v1::Finding) -> Object {
    Object::default()
        .number("node_id", record.node_id)
        .text("what", record.what)
        .text("place", record.place)
        .number("first_entry", record.first_entry)
        .number("next_entry", record.next_entry)
        .text("outcome", record.outcome)
        .text("detail", record.detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn event_with_everything() {
        let event = v1::Event {
            id: "e-1".into(),
            time_unix_ns: 1_700_000_000_123_456_789,
            delegation: vec![v1::Actor { id: "bot".into(), ..Default::default() }],
            source: Some(v1::Source { ip: "::1".into(), user_agent: "curl".into() }),
            reason: "why".into(),
            changes: vec![v1::Change { path: "p".into(), before: "".into(), after: "1".into() }],
            trace: Some(v1::TraceContext {
                trace_id: vec![0xab; 16].into(),
                span_id: vec![1; 8].into(),
                duration_ns: u64::MAX,
            }),
            resource: [("service.name".to_owned(), "login".to_owned())].into(),
            raw: Some(v1::Raw { bytes: "a\nä".into(), media_type: "text/plain".into() }),
            producer_signature: Some(v1::ProducerSignature {
                algorithm: "ed25519".into(),
                value: vec![1, 2].into(),
                certificate: vec![].into(),
            }),
            producer_previous_hash: vec![0xff].into(),
            ..v1::Event::new("alice", "LOGIN", "db")
                .with_outcome(v1::Outcome::Failure)
                .with_type("user.login.failure")
                .with_attribute("k", "v")
        };
        let expected = json!({
            "id": "e-1",
            "time_unix_ns": 1_700_000_000_123_456_789_u64,
            "type": "user.login.failure",
            "action": "LOGIN",
            "outcome": "failure",
            "actor": {"id": "alice"},
            "delegation": [{"id": "bot"}],
            "targets": [{"id": "db"}],
            "source": {"ip": "::1", "user_agent": "curl"},
            "reason": "why",
            "changes": [{"path": "p", "after": "1"}],
            "trace": {
                "trace_id": "ab".repeat(16), "span_id": "01".repeat(8), "duration_ns": u64::MAX,
            },
            "resource": {"service.name": "login"},
            "attributes": {"k": "v"},
            "raw": {"media_type": "text/plain", "text": "a\nä"},
            "producer_signature": {"algorithm": "ed25519", "value": "0102"},
            "producer_previous_hash": "ff",
        });
        assert_eq!(event_json(Kind::Event, &event.encode_to_vec()), expected);
    }

    #[test]
    fn defaults_are_left_out_and_binary_raw_is_base64() {
        let mut event = v1::Event::new("a", "b", "c");
        event.raw = Some(v1::Raw { bytes: vec![0xff, 0xfe].into(), media_type: String::new() });
        let expected = json!({
            "action": "b", "actor": {"id": "a"}, "targets": [{"id": "c"}], "outcome": "unknown",
            "raw": {"base64": "//4="},
        });
        assert_eq!(event_json(Kind::Event, &event.encode_to_vec()), expected);
    }

    #[test]
    fn what_the_edge_would_refuse_is_marked() {
        let mut bytes = v1::Event::new("a", "b", "c").encode_to_vec();
        bytes.extend_from_slice(b"\x22\x01x");
        let json = event_json(Kind::Event, &bytes);
        assert_eq!(json["action"], "x");
        let violation = json["schema_violation"].as_str().expect("a text");
        assert!(violation.starts_with("action: occurs more than once"), "{violation}");
    }

    #[test]
    fn records_of_the_nodes() {
        let leadership =
            v1::Leadership { previous_chain: vec![1; 32].into(), ..Default::default() };
        let expected =
            json!({"index": 0, "term": 0, "leader": 0, "previous_chain": "01".repeat(32)});
        assert_eq!(event_json(Kind::Leadership, &leadership.encode_to_vec()), expected);

        let member = v1::Member { id: 1, client_addr: "h:1".into(), ..Default::default() };
        let membership = v1::Membership {
            trail_id: vec![7; 16].into(),
            voter_sets: vec![v1::VoterSet { node_ids: vec![1, 2] }],
            members: vec![member],
        };
        let record =
            v1::MembershipRecord { leader: 1, membership: Some(membership), ..Default::default() };
        let expected = json!({
            "index": 0, "term": 0, "leader": 1,
            "membership": {
                "trail_id": "07".repeat(16),
                "voter_sets": [{"node_ids": [1, 2]}],
                "members": [{"id": 1, "client_addr": "h:1"}],
            },
        });
        assert_eq!(event_json(Kind::Membership, &record.encode_to_vec()), expected);

        let opened = v1::ProducerOpened {
            producer_id: vec![3; 16].into(),
            epoch: 2,
            name: "web".into(),
            authentication: "none".into(),
            ..Default::default()
        };
        let expected = json!({
            "producer_id": "03".repeat(16), "epoch": 2, "name": "web", "authentication": "none",
        });
        assert_eq!(event_json(Kind::ProducerOpened, &opened.encode_to_vec()), expected);

        let operation = v1::Operation { action: "START".into(), node_id: 3, ..Default::default() };
        let expected = json!({"action": "START", "node_id": 3});
        assert_eq!(event_json(Kind::Operation, &operation.encode_to_vec()), expected);

        let finding = v1::Finding { node_id: 2, what: "damage".into(), ..Default::default() };
        let expected = json!({"node_id": 2, "what": "damage"});
        assert_eq!(event_json(Kind::Finding, &finding.encode_to_vec()), expected);
    }

    #[test]
    fn what_cannot_be_decoded() {
        for kind in Kind::ALL {
            let json = event_json(kind, &[0xff]);
            assert_eq!(json, json!({"undecodable_hex": "ff"}), "{kind:?}");
        }
        let heartbeat = event_json(Kind::Heartbeat, &[]);
        assert_eq!(heartbeat, json!({"outcome": "unknown"}));
    }
}
