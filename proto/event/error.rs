//! Why an event is refused, in words for whoever wrote the code that sent it.

use crate::event::wire::WireType;

/// Bytes of a map key that an error message shows at most.
const KEY_BYTES_SHOWN: usize = 64;

/// Why an event is refused. `field` is a dotted path, like "actor.id"; "event" is the whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// More bytes than an event may have.
    #[error(
        "event: {actual} bytes, the limit is {limit}; \
         hint: keep large content elsewhere and put its digest and address into the event"
    )]
    TooLarge {
        /// Encoded size in bytes.
        actual: usize,
        /// The largest size in bytes.
        limit: usize,
    },
    /// A required field is missing or empty.
    #[error(
        "{field}: missing or empty, an event needs action, actor.id and at least one target \
         with an id; hint: set {field}"
    )]
    Missing {
        /// Which field.
        field: String,
    },
    /// A field that this schema does not have.
    #[error(
        "{message}: unknown field number {number}, the schema has 1 to {known}; \
         hint: encode with this server's indelible/v1/event.proto, put what it has no field for \
         into attributes"
    )]
    UnknownField {
        /// Path of the message that holds it.
        message: String,
        /// The field number.
        number: u32,
        /// Fields that the message has: 1 to this.
        known: u32,
    },
    /// A singular field that occurs more than once: decoders disagree about which one counts.
    #[error("{field}: occurs more than once, the limit is 1; hint: set it once")]
    Repeated {
        /// Which field.
        field: String,
    },
    /// A key that occurs more than once in a map: decoders disagree about which value counts.
    #[error("{field}: key {key:?} occurs more than once, the limit is 1; hint: merge the values")]
    MapKey {
        /// Which map.
        field: String,
        /// The key, shortened if it is long.
        key: String,
    },
    /// A field that is not written the way its type is.
    #[error(
        "{field}: wire type {actual}, its type is written as {expected}; \
         hint: encode with indelible/v1/event.proto"
    )]
    WireType {
        /// Which field.
        field: String,
        /// What was there.
        actual: WireType,
        /// What the schema says.
        expected: WireType,
    },
    /// A string that is not UTF-8.
    #[error(
        "{field}: not UTF-8 from byte {offset} on; hint: put bytes that are not text into raw.bytes"
    )]
    Utf8 {
        /// Which field.
        field: String,
        /// Bytes of the string before the first bad one.
        offset: usize,
    },
    /// A varint that is longer than it has to be, or of more than 64 bits.
    #[error(
        "{field}: a varint is not in its shortest form of at most 10 bytes; \
         hint: use a standard protobuf encoder"
    )]
    Varint {
        /// Which field, or the message whose tag it is.
        field: String,
    },
    /// A tag whose field number or wire type the format does not have.
    #[error(
        "{field}: tag {tag} has no valid field number (1 to 536870911) and wire type (0 to 5); \
         hint: are these the bytes of an indelible.v1.Event?"
    )]
    Tag {
        /// The message that holds it.
        field: String,
        /// The tag as it was read.
        tag: u64,
    },
    /// The bytes end within a number.
    #[error("{field}: the bytes end within a number; hint: was the event cut off?")]
    Truncated {
        /// Which field, or the message whose tag it is.
        field: String,
    },
    /// A length that runs past the end of the message around it.
    #[error("{field}: says {claimed} bytes, {available} are left; hint: was the event cut off?")]
    Length {
        /// Which field.
        field: String,
        /// Length that the field claims, in bytes.
        claimed: u64,
        /// Bytes that are left in its message.
        available: usize,
    },
    /// A value that the enum does not have.
    #[error(
        "{field}: value {value} is unknown, the largest is {max}; hint: leave it out if unsure"
    )]
    EnumValue {
        /// Which field.
        field: String,
        /// What it held.
        value: u64,
        /// The largest value that the schema has.
        max: u64,
    },
    /// An id of another size than the standard gives it.
    #[error(
        "{field}: {actual} bytes, it has {size} or none; \
         hint: send the id's bytes, not their hexadecimal text"
    )]
    IdSize {
        /// Which field.
        field: String,
        /// Its size in bytes.
        actual: usize,
        /// The size that it must have unless it is empty.
        size: usize,
    },
    /// A time before 1970.
    #[error(
        "{field}: {value} is negative, the least is 0; \
         hint: nanoseconds since 1970-01-01 UTC, 0 if not known"
    )]
    Negative {
        /// Which field.
        field: String,
        /// What it held.
        value: i64,
    },
}

impl EventError {
    /// [`EventError::MapKey`], with the key fit for a message.
    #[cold]
    pub(super) fn map_key(field: String, key: &[u8]) -> EventError {
        let shown = &key[..key.len().min(KEY_BYTES_SHOWN)];
        EventError::MapKey { field, key: String::from_utf8_lossy(shown).into_owned() }
    }
}
