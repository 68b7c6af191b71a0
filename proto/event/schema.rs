//! What indelible/v1/event.proto says, as a table that can be walked fast.
//!
//! A test compares it with the compiled descriptor: a field that is added there and not here
//! fails the build.

use crate::event::wire::WireType;

/// A message: its fields are numbered 1, 2, 3, ... in this order.
pub(super) struct Message {
    /// Name in the package `indelible.v1`.
    #[cfg_attr(not(test), expect(dead_code, reason = "compared with the descriptor by a test"))]
    pub(super) name: &'static str,
    pub(super) fields: &'static [Field],
    /// Bits of the fields that must hold something for the message to count as filled.
    pub(super) required: u32,
}

impl Message {
    /// The field with this number, if there is one.
    #[inline]
    pub(super) fn field(&self, number: u32) -> Option<&Field> {
        self.fields.get(number.wrapping_sub(1) as usize)
    }
}

/// A field of a message.
pub(super) struct Field {
    pub(super) number: u32,
    pub(super) name: &'static str,
    pub(super) kind: Type,
    pub(super) repeated: bool,
}

impl Field {
    /// Its bit in sets of fields; numbers are at most 32.
    #[inline]
    pub(super) fn bit(&self) -> u32 {
        1 << (self.number - 1)
    }

    /// The path of what makes this field count as filled.
    pub(super) fn required_path(&self) -> String {
        let nested = match self.kind {
            Type::Message(message) => {
                message.fields.iter().find(|field| message.required & field.bit() != 0)
            }
            _ => None,
        };
        match nested {
            Some(field) => format!("{}.{}", self.name, field.name),
            None => self.name.to_owned(),
        }
    }
}

/// What a field holds.
#[derive(Clone, Copy)]
pub(super) enum Type {
    String,
    Bytes,
    /// Bytes that are empty or of this size.
    Id {
        size: usize,
    },
    /// An int64 that is not negative.
    Time,
    /// A uint64.
    Unsigned,
    /// Values from 0 to `max`, without gaps.
    Enum {
        #[cfg_attr(not(test), expect(dead_code, reason = "as Message::name"))]
        name: &'static str,
        max: u64,
    },
    Message(&'static Message),
    /// Entries of this message: key 1, value 2.
    Map(&'static Message),
}

impl Type {
    /// How it is written.
    #[inline]
    pub(super) fn wire_type(self) -> WireType {
        match self {
            Type::Time | Type::Unsigned | Type::Enum { .. } => WireType::Varint,
            _ => WireType::Len,
        }
    }
}

const fn one(number: u32, name: &'static str, kind: Type) -> Field {
    Field { number, name, kind, repeated: false }
}

const fn many(number: u32, name: &'static str, kind: Type) -> Field {
    Field { number, name, kind, repeated: true }
}

/// The bit of the field with this number.
const fn bit(number: u32) -> u32 {
    1 << (number - 1)
}

pub(super) static EVENT: Message = Message {
    name: "Event",
    fields: &[
        one(1, "id", Type::String),
        one(2, "time_unix_ns", Type::Time),
        one(3, "type", Type::String),
        one(4, "action", Type::String),
        one(5, "outcome", Type::Enum { name: "Outcome", max: 2 }),
        one(6, "actor", Type::Message(&ACTOR)),
        many(7, "delegation", Type::Message(&ACTOR)),
        many(8, "targets", Type::Message(&TARGET)),
        one(9, "source", Type::Message(&SOURCE)),
        one(10, "reason", Type::String),
        many(11, "changes", Type::Message(&CHANGE)),
        one(12, "trace", Type::Message(&TRACE_CONTEXT)),
        many(13, "resource", Type::Map(&RESOURCE_ENTRY)),
        many(14, "attributes", Type::Map(&ATTRIBUTES_ENTRY)),
        one(15, "raw", Type::Message(&RAW)),
        one(16, "producer_signature", Type::Message(&PRODUCER_SIGNATURE)),
        one(17, "producer_previous_hash", Type::Bytes),
    ],
    required: bit(4) | bit(6) | bit(8),
};

static ACTOR: Message = Message {
    name: "Actor",
    fields: &[
        one(1, "id", Type::String),
        one(2, "type", Type::String),
        one(3, "name", Type::String),
    ],
    required: bit(1),
};

static TARGET: Message = Message {
    name: "Target",
    fields: &[
        one(1, "id", Type::String),
        one(2, "type", Type::String),
        one(3, "name", Type::String),
    ],
    required: bit(1),
};

static SOURCE: Message = Message {
    name: "Source",
    fields: &[one(1, "ip", Type::String), one(2, "user_agent", Type::String)],
    required: 0,
};

static CHANGE: Message = Message {
    name: "Change",
    fields: &[
        one(1, "path", Type::String),
        one(2, "before", Type::String),
        one(3, "after", Type::String),
    ],
    required: 0,
};

static TRACE_CONTEXT: Message = Message {
    name: "TraceContext",
    fields: &[
        one(1, "trace_id", Type::Id { size: 16 }),
        one(2, "span_id", Type::Id { size: 8 }),
        one(3, "duration_ns", Type::Unsigned),
    ],
    required: 0,
};

static RESOURCE_ENTRY: Message = Message {
    name: "Event.ResourceEntry",
    fields: &[one(1, "key", Type::String), one(2, "value", Type::String)],
    required: 0,
};

static ATTRIBUTES_ENTRY: Message = Message {
    name: "Event.AttributesEntry",
    fields: &[one(1, "key", Type::String), one(2, "value", Type::String)],
    required: 0,
};

static RAW: Message = Message {
    name: "Raw",
    fields: &[one(1, "bytes", Type::Bytes), one(2, "media_type", Type::String)],
    required: 0,
};

static PRODUCER_SIGNATURE: Message = Message {
    name: "ProducerSignature",
    fields: &[
        one(1, "algorithm", Type::String),
        one(2, "value", Type::Bytes),
        one(3, "certificate", Type::Bytes),
    ],
    required: 0,
};
