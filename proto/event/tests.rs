//! Valid events pass, each kind of invalid one is refused for its own reason, and nothing panics.

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type as ProtoType};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorProto};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::schema::{EVENT, Message, Type};
use super::{EventError, WireType, validate_event};
use crate::v1;

fn seeded() -> StdRng {
    let seed = match std::env::var("INDELIBLE_SEED") {
        Ok(text) => text.parse().expect("INDELIBLE_SEED is a number"),
        Err(_) => rand::rng().random(),
    };
    println!("INDELIBLE_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// An event that uses every field.
fn full() -> v1::Event {
    let map = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
    };
    v1::Event {
        id: "0191d6c8-7a2b".into(),
        time_unix_ns: 1_700_000_000_123_456_789,
        r#type: "user.login.failure".into(),
        action: "LOGIN".into(),
        outcome: v1::Outcome::Failure.into(),
        actor: Some(v1::Actor { id: "alice".into(), r#type: "user".into(), name: "Älice".into() }),
        delegation: vec![v1::Actor { id: "bot".into(), ..Default::default() }; 2],
        targets: vec![v1::Target { id: "db-1".into(), r#type: "db".into(), name: "x".into() }; 2],
        source: Some(v1::Source { ip: "10.0.0.1".into(), user_agent: "curl/8".into() }),
        reason: "bad password".into(),
        changes: vec![v1::Change { path: "a".into(), before: "1".into(), after: "2".into() }],
        trace: Some(v1::TraceContext {
            trace_id: vec![1; 16].into(),
            span_id: vec![2; 8].into(),
            duration_ns: u64::MAX,
        }),
        resource: map(&[("service.name", "login"), ("host.name", "web-1")]),
        attributes: map(&[("a", "1"), ("b", ""), ("", "empty key")]),
        raw: Some(v1::Raw { bytes: vec![0xff, 0].into(), media_type: "text/plain".into() }),
        producer_signature: Some(v1::ProducerSignature {
            algorithm: "ed25519".into(),
            value: vec![0xfe; 64].into(),
            certificate: vec![0xfd; 3].into(),
        }),
        producer_previous_hash: vec![9; 32].into(),
    }
}

fn minimal() -> v1::Event {
    v1::Event::new("alice", "LOGIN", "db-1")
}

/// Encoded pieces of an event, one after the other.
fn bytes(pieces: &[&[u8]]) -> Vec<u8> {
    pieces.concat()
}

/// The minimal event, and then something.
fn minimal_and(more: &[u8]) -> Vec<u8> {
    bytes(&[&minimal().encode_to_vec(), more])
}

fn refusal(bytes: &[u8]) -> EventError {
    let error = validate_event(bytes).expect_err("must be refused");
    let text = error.to_string();
    assert!(text.contains("hint: "), "{text}");
    error
}

#[test]
fn valid_events_pass() {
    validate_event(&minimal().encode_to_vec()).unwrap();
    validate_event(&full().encode_to_vec()).unwrap();
    // Defaults may be written out, and fields may come in any order.
    validate_event(&minimal_and(&[0x0a, 0, 0x28, 0, 0x3a, 0, 0x6a, 0])).unwrap();
    validate_event(&bytes(&[b"\x42\x03\x0a\x01t", b"\x32\x03\x0a\x01a", b"\x22\x01x"])).unwrap();
    // One target with an id is enough.
    validate_event(&minimal_and(&[0x42, 0])).unwrap();
}

#[test]
fn required_fields() {
    let without = |change: fn(&mut v1::Event)| {
        let mut event = full();
        change(&mut event);
        match refusal(&event.encode_to_vec()) {
            EventError::Missing { field } => field,
            other => panic!("{other}"),
        }
    };
    assert_eq!(without(|event| event.action.clear()), "action");
    assert_eq!(without(|event| event.actor = None), "actor.id");
    assert_eq!(without(|event| event.actor = Some(v1::Actor::default())), "actor.id");
    assert_eq!(without(|event| event.targets.clear()), "targets.id");
    let no_id = |event: &mut v1::Event| event.targets.iter_mut().for_each(|t| t.id.clear());
    assert_eq!(without(no_id), "targets.id");
    assert_eq!(refusal(&[]), EventError::Missing { field: "action".into() });
}

#[test]
fn values_within_their_limits() {
    let mut event = full();
    event.time_unix_ns = -1;
    let expected = EventError::Negative { field: "time_unix_ns".into(), value: -1 };
    assert_eq!(refusal(&event.encode_to_vec()), expected);

    let id_size = |trace_id: usize, span_id: usize| {
        let mut event = full();
        let trace = event.trace.as_mut().unwrap();
        trace.trace_id = vec![1; trace_id].into();
        trace.span_id = vec![1; span_id].into();
        validate_event(&event.encode_to_vec())
    };
    for (trace_id, span_id) in (0..40).flat_map(|n| (0..20).map(move |m| (n, m))) {
        let valid = matches!(trace_id, 0 | 16) && matches!(span_id, 0 | 8);
        assert_eq!(id_size(trace_id, span_id).is_ok(), valid, "{trace_id}, {span_id}");
    }
    let expected = EventError::IdSize { field: "trace.span_id".into(), actual: 16, size: 8 };
    assert_eq!(id_size(16, 16), Err(expected));

    for outcome in [3, 127, 128, i32::MAX, -1, i32::MIN] {
        event.time_unix_ns = 0;
        event.outcome = outcome;
        let error = refusal(&event.encode_to_vec());
        assert!(
            matches!(&error, EventError::EnumValue { field, max: 2, .. } if field == "outcome")
        );
    }
    let limit = indelible_core::limits::EVENT_BYTES_MAX;
    let too_large = EventError::TooLarge { actual: limit + 1, limit };
    let (mut large, size) = (minimal(), minimal().encoded_len());
    // Two tags with lengths of four bytes around the reason: a string of the rest.
    large.reason = "x".repeat(limit - size - 4);
    assert_eq!(large.encoded_len(), limit);
    validate_event(&large.encode_to_vec()).unwrap();
    large.reason.push('x');
    assert_eq!(refusal(&large.encode_to_vec()), too_large);
}

#[test]
fn what_has_two_readings() {
    let repeated = |field: &str| EventError::Repeated { field: field.into() };
    assert_eq!(refusal(&minimal_and(b"\x22\x01x")), repeated("action"));
    assert_eq!(refusal(&minimal_and(b"\x32\x03\x0a\x01b")), repeated("actor"));
    assert_eq!(refusal(&minimal_and(b"\x28\x00\x28\x00")), repeated("outcome"));
    assert_eq!(refusal(&minimal_and(b"\x4a\x06\x0a\x01a\x0a\x01b")), repeated("source.ip"));
    assert_eq!(refusal(&minimal_and(b"\x3a\x04\x1a\x00\x1a\x00")), repeated("delegation.name"));
    assert_eq!(refusal(&minimal_and(b"\x72\x04\x0a\x00\x0a\x00")), repeated("attributes.key"));

    let unknown = |message: &str, number, known| EventError::UnknownField {
        message: message.into(),
        number,
        known,
    };
    assert_eq!(refusal(&minimal_and(b"\x92\x01\x00")), unknown("event", 18, 17));
    assert_eq!(refusal(&minimal_and(b"\xf8\xff\xff\xff\x0f\x00")), unknown("event", 536870911, 17));
    assert_eq!(refusal(&minimal_and(b"\x4a\x02\x18\x00")), unknown("source", 3, 2));
    assert_eq!(refusal(&minimal_and(b"\x72\x02\x18\x00")), unknown("attributes", 3, 2));
    assert_eq!(refusal(&minimal_and(b"\x5a\x02\x22\x00")), unknown("changes", 4, 3));
}

#[test]
fn wire_types() {
    for (tag, actual) in [
        (0x20, WireType::Varint),
        (0x21, WireType::Fixed64),
        (0x23, WireType::GroupStart),
        (0x24, WireType::GroupEnd),
        (0x25, WireType::Fixed32),
    ] {
        let expected =
            EventError::WireType { field: "action".into(), actual, expected: WireType::Len };
        assert_eq!(refusal(&[tag, 0, 0, 0, 0, 0, 0, 0, 0]), expected);
    }
    let error = refusal(&minimal_and(b"\x62\x02\x1a\x00"));
    let (actual, expected) = (WireType::Len, WireType::Varint);
    assert_eq!(error, EventError::WireType { field: "trace.duration_ns".into(), actual, expected });
    for tag in [0x26, 0x27, 0x00, 0x02] {
        let expected = EventError::Tag { field: "event".into(), tag: tag.into() };
        assert_eq!(refusal(&minimal_and(&[tag, 0])), expected);
    }
}

#[test]
fn numbers_and_lengths() {
    let varint = |field: &str| EventError::Varint { field: field.into() };
    // Longer than necessary: a tag, a length, a value.
    assert_eq!(refusal(&minimal_and(b"\x8a\x00\x00")), varint("event"));
    assert_eq!(refusal(&minimal_and(b"\x0a\x80\x00")), varint("id"));
    assert_eq!(refusal(&minimal_and(b"\x62\x03\x18\x81\x00")), varint("trace.duration_ns"));
    // 2^64 - 1 is the largest; then 2^64, and eleven bytes.
    let value = |last: &[u8]| {
        minimal_and(&bytes(&[&[0x62, last.len() as u8 + 10, 0x18], &[0xff; 9], last]))
    };
    validate_event(&value(&[0x01])).unwrap();
    assert_eq!(refusal(&value(&[0x02])), varint("trace.duration_ns"));
    assert_eq!(refusal(&value(&[0x81, 0x00])), varint("trace.duration_ns"));

    let truncated = |field: &str| EventError::Truncated { field: field.into() };
    assert_eq!(refusal(&minimal_and(b"\x92")), truncated("event"));
    assert_eq!(refusal(&minimal_and(b"\x0a")), truncated("id"));
    assert_eq!(refusal(&minimal_and(b"\x62\x02\x18\xff")), truncated("trace.duration_ns"));

    let length = |field: &str, claimed, available| EventError::Length {
        field: field.into(),
        claimed,
        available,
    };
    assert_eq!(refusal(&minimal_and(b"\x0a\x02x")), length("id", 2, 1));
    // Within its message, not only within the event.
    assert_eq!(refusal(&minimal_and(b"\x4a\x03\x0a\x02x\x0a\x00")), length("source.ip", 2, 1));
    let huge = b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
    assert_eq!(refusal(&minimal_and(huge)), length("id", u64::MAX, 0));

    let utf8 = |field: &str, offset| EventError::Utf8 { field: field.into(), offset };
    assert_eq!(refusal(&minimal_and(b"\x0a\x02x\xff")), utf8("id", 1));
    assert_eq!(refusal(&minimal_and(b"\x6a\x04\x12\x02\xc3\x28")), utf8("resource.value", 0));
    // A surrogate, and an overlong form.
    assert_eq!(refusal(&minimal_and(b"\x0a\x03\xed\xa0\x80")), utf8("id", 0));
    assert_eq!(refusal(&minimal_and(b"\x0a\x02\xc0\x80")), utf8("id", 0));
}

/// An entry of `attributes`.
fn attribute(key: &str) -> Vec<u8> {
    let entry = bytes(&[&[0x0a, key.len() as u8], key.as_bytes(), b"\x12\x01v"]);
    bytes(&[&[0x72, entry.len() as u8], &entry])
}

#[test]
fn map_keys_twice() {
    let mut rng = seeded();
    for count in [2, 3, 10, 63, 64, 65, 66, 1_000] {
        let mut keys: Vec<String> = (0..count).map(|n| format!("key-{n}")).collect();
        for sorted in [true, false] {
            if sorted {
                keys.sort()
            } else {
                keys.shuffle(&mut rng)
            };
            let event =
                minimal_and(&keys.iter().flat_map(|key| attribute(key)).collect::<Vec<_>>());
            validate_event(&event).unwrap();
            // The same key in the other map is another key.
            validate_event(&bytes(&[&event, b"\x6a\x07\x0a\x05key-1"])).unwrap();
            let twice = &keys[rng.random_range(0..count)];
            let expected = EventError::MapKey { field: "attributes".into(), key: twice.clone() };
            assert_eq!(refusal(&bytes(&[&event, &attribute(twice)])), expected);
            // Also with the other map in between.
            let event = bytes(&[&event, b"\x6a\x02\x0a\x00", &attribute(twice)]);
            assert_eq!(refusal(&event), expected);
        }
    }
    // A missing key is the empty one; values do not count.
    let expected = EventError::MapKey { field: "resource".into(), key: String::new() };
    assert_eq!(refusal(&minimal_and(b"\x6a\x00\x6a\x02\x0a\x00")), expected);
    assert_eq!(refusal(&minimal_and(b"\x6a\x03\x12\x01v\x6a\x03\x12\x01w")), expected);
}

/// What passes here must be taken by the general decoder too, and mean what it says: encoding
/// it again gives an event that passes.
fn check(bytes: &[u8]) -> bool {
    let valid = validate_event(bytes).is_ok();
    if valid {
        let event = v1::Event::decode(bytes).expect("a valid event decodes");
        validate_event(&event.encode_to_vec()).expect("and stays valid");
        assert_eq!(v1::Event::decode(&*event.encode_to_vec()).unwrap(), event);
    }
    valid
}

#[test]
fn truncation_at_every_byte() {
    let encoded = full().encode_to_vec();
    let valid = (0..encoded.len()).filter(|end| check(&encoded[..*end])).count();
    // Only between fields that come after the targets.
    assert!((1..30).contains(&valid), "{valid}");
}

#[test]
fn every_bit_flipped() {
    let encoded = full().encode_to_vec();
    let refused = (0..encoded.len() * 8)
        .filter(|bit| {
            let mut flipped = encoded.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            !check(&flipped)
        })
        .count();
    assert!(refused > 1_000, "{refused}");
}

#[test]
fn random_bytes_and_splices() {
    let mut rng = seeded();
    let encoded = full().encode_to_vec();
    let (mut refused, mut valid) = (0, 0);
    for round in 0..40_000 {
        let mut bytes = if round % 2 == 0 { encoded.clone() } else { Vec::new() };
        for _ in 0..rng.random_range(1..6) {
            let at = rng.random_range(0..=bytes.len());
            match rng.random_range(0..4) {
                0 => bytes.insert(at, rng.random()),
                1 => drop(bytes.splice(at..at, (0..rng.random_range(0..9)).map(|_| 0x0a))),
                2 => bytes.truncate(at.max(1)),
                _ => {
                    let from = rng.random_range(0..encoded.len());
                    let to = rng.random_range(from..encoded.len());
                    drop(bytes.splice(at..at, encoded[from..to].iter().copied()));
                }
            }
        }
        *(if check(&bytes) { &mut valid } else { &mut refused }) += 1;
    }
    assert!(refused > 30_000, "refused {refused}, valid {valid}");
}

#[test]
fn schema_is_that_of_the_descriptor() {
    let files = prost_types::FileDescriptorSet::decode(crate::DESCRIPTORS).unwrap();
    let is_event = |file: &&FileDescriptorProto| file.name() == "indelible/v1/event.proto";
    let file = files.file.iter().find(is_event).unwrap();
    let mut messages = std::collections::BTreeSet::new();
    compare(&EVENT, file, &mut messages);
    // All messages of the file are part of an event: none is left out here.
    let count: usize = file.message_type.iter().map(|message| 1 + message.nested_type.len()).sum();
    assert_eq!(messages.len(), count, "{messages:?}");
}

fn compare(
    ours: &'static Message,
    file: &FileDescriptorProto,
    done: &mut std::collections::BTreeSet<&'static str>,
) {
    done.insert(ours.name);
    let theirs = descriptor(file, ours.name);
    assert_eq!(ours.fields.len(), theirs.field.len(), "fields of {}", ours.name);
    assert!(ours.fields.len() <= 32, "bits of {}", ours.name);
    for (position, field) in ours.fields.iter().enumerate() {
        assert_eq!(field.number as usize, position + 1, "{}.{}", ours.name, field.name);
        let proto = theirs.field.iter().find(|proto| proto.number() == field.number as i32);
        let proto = proto.unwrap();
        assert_eq!(field.name, proto.name());
        assert_eq!(field.repeated, proto.label() == Label::Repeated, "{}", field.name);
        compare_type(field.kind, proto, file, done);
    }
}

fn compare_type(
    ours: Type,
    theirs: &FieldDescriptorProto,
    file: &FileDescriptorProto,
    done: &mut std::collections::BTreeSet<&'static str>,
) {
    let type_name = theirs.type_name().trim_start_matches(".indelible.v1.");
    let proto_type = match ours {
        Type::String => ProtoType::String,
        Type::Bytes | Type::Id { .. } => ProtoType::Bytes,
        Type::Time => ProtoType::Int64,
        Type::Unsigned => ProtoType::Uint64,
        Type::Enum { name, max } => {
            assert_eq!(name, type_name);
            let values = file.enum_type.iter().find(|e| e.name() == name).unwrap();
            let numbers: Vec<i32> = values.value.iter().map(|value| value.number()).collect();
            assert_eq!(numbers, (0..=max as i32).collect::<Vec<_>>());
            ProtoType::Enum
        }
        Type::Message(message) | Type::Map(message) => {
            assert_eq!(message.name, type_name);
            let options = descriptor(file, type_name).options.clone().unwrap_or_default();
            assert_eq!(matches!(ours, Type::Map(_)), options.map_entry(), "{type_name}");
            compare(message, file, done);
            ProtoType::Message
        }
    };
    assert_eq!(proto_type, theirs.r#type(), "{}", theirs.name());
}

/// The message of this name, which may be "Outer.Inner".
fn descriptor<'a>(file: &'a FileDescriptorProto, name: &str) -> &'a DescriptorProto {
    let find = |messages: &'a [DescriptorProto], name: &str| {
        messages.iter().find(|message| message.name() == name).unwrap()
    };
    match name.split_once('.') {
        Some((outer, inner)) => find(&find(&file.message_type, outer).nested_type, inner),
        None => find(&file.message_type, name),
    }
}
