//! Refuses events that have two readings, or none.
//!
//! The server keeps an event's bytes as they came, and readers of other languages and versions
//! decode them later. So the bytes must mean one thing to all of them: no unknown fields, no
//! singular field twice, no map key twice, nothing that one decoder takes and another refuses.
//! A general decoder forgives all of that; this one walks the bytes along a table of the schema.
//!
//! It runs for every event that is appended: one pass, and no allocation for a valid event (but
//! for a map of more than 64 keys that are not sorted).

mod error;
mod schema;
#[cfg(test)]
mod tests;
mod wire;

use indelible_core::limits::EVENT_BYTES_MAX;

pub use error::EventError;
use schema::{EVENT, Field, Message, Type};
use wire::Cursor;
pub use wire::WireType;

/// Keys of an unsorted map that are compared without allocating.
const KEYS_ON_STACK: usize = 64;

/// Checks the bytes of an encoded `indelible.v1.Event` (indelible/v1/event.proto).
///
/// Wire level, also in nested messages: known fields with their wire types only, singular fields
/// and map keys at most once, shortest varints, lengths within their message, UTF-8 in strings,
/// known enum values. Then: `action`, `actor.id` and the id of at least one target are not empty,
/// trace ids have their W3C sizes or none, the time is not negative, and the whole is at most
/// [`EVENT_BYTES_MAX`] bytes. The order of fields is free.
pub fn validate_event(bytes: &[u8]) -> Result<(), EventError> {
    if bytes.len() > EVENT_BYTES_MAX {
        return Err(EventError::TooLarge { actual: bytes.len(), limit: EVENT_BYTES_MAX });
    }
    let summary = walk(&EVENT, bytes, None).map_err(|refusal| *refusal)?;
    match EVENT.fields.iter().find(|field| EVENT.required & !summary.filled & field.bit() != 0) {
        None => Ok(()),
        Some(field) => Err(EventError::Missing { field: field.required_path() }),
    }
}

/// An error on its way out: one word, so that results of valid fields stay in registers.
type Refusal = Box<EventError>;

/// What the parent of a message needs to know about it.
struct Summary<'a> {
    /// Bits ([`Field::bit`]) of the fields that hold something.
    filled: u32,
    /// Content of the field numbered 1, if that has a length: the key, in an entry of a map.
    first: &'a [u8],
}

/// Where in the event a message is: for error messages, so that nothing is built for a valid event.
#[derive(Clone, Copy)]
struct Place<'a> {
    parent: Option<&'a Place<'a>>,
    field: &'static Field,
}

/// The dotted path of a field of the message at `place`; of the message itself without one.
#[cold]
fn path(place: Option<&Place<'_>>, field: Option<&'static Field>) -> String {
    let outer = place.map(|place| path(place.parent, Some(place.field)));
    match (outer, field) {
        (None, None) => "event".to_owned(),
        (None, Some(field)) => field.name.to_owned(),
        (Some(outer), None) => outer,
        (Some(outer), Some(field)) => format!("{outer}.{}", field.name),
    }
}

/// Walks one message and all within it.
fn walk<'a>(
    message: &'static Message,
    bytes: &'a [u8],
    place: Option<&Place<'_>>,
) -> Result<Summary<'a>, Refusal> {
    let mut cursor = Cursor::new(bytes);
    let mut summary = Summary { filled: 0, first: &[] };
    let mut seen = 0;
    let mut keys = KeyOrder::default();
    while !cursor.is_empty() {
        let (number, wire_type) =
            cursor.tag().map_err(|fault| fault.into_refusal(path(place, None)))?;
        let Some(field) = message.field(number) else {
            let known = message.fields.len() as u32;
            let message = path(place, None);
            return Err(EventError::UnknownField { message, number, known }.into());
        };
        if seen & field.bit() != 0 && !field.repeated {
            return Err(EventError::Repeated { field: path(place, Some(field)) }.into());
        }
        seen |= field.bit();
        let expected = field.kind.wire_type();
        if wire_type != expected {
            let field = path(place, Some(field));
            return Err(EventError::WireType { field, actual: wire_type, expected }.into());
        }
        let filled = if expected == WireType::Varint {
            let value =
                cursor.varint().map_err(|fault| fault.into_refusal(path(place, Some(field))))?;
            check_number(field, value, place)?;
            value != 0
        } else {
            let content =
                cursor.content().map_err(|fault| fault.into_refusal(path(place, Some(field))))?;
            if number == 1 {
                summary.first = content;
            }
            check_content(field, content, place, &mut keys)?
        };
        if filled {
            summary.filled |= field.bit();
        }
    }
    if keys.unsorted != 0 {
        check_unsorted_keys(message, bytes, place, keys.unsorted)?;
    }
    Ok(summary)
}

/// Checks the value of a varint field.
fn check_number(
    field: &'static Field,
    value: u64,
    place: Option<&Place<'_>>,
) -> Result<(), Refusal> {
    match field.kind {
        Type::Enum { max, .. } if value > max => {
            Err(EventError::EnumValue { field: path(place, Some(field)), value, max }.into())
        }
        // A negative int64 is sent as its two's complement.
        Type::Time if value > i64::MAX as u64 => {
            let value = value.cast_signed();
            Err(EventError::Negative { field: path(place, Some(field)), value }.into())
        }
        _ => Ok(()),
    }
}

/// Checks the content of a field that has a length. Whether it holds something: for a message,
/// whether all that it requires does.
fn check_content<'a>(
    field: &'static Field,
    content: &'a [u8],
    place: Option<&Place<'_>>,
    keys: &mut KeyOrder<'a>,
) -> Result<bool, Refusal> {
    match field.kind {
        Type::String if is_ascii(content) => Ok(!content.is_empty()),
        Type::String => match std::str::from_utf8(content) {
            Ok(_) => Ok(true),
            Err(error) => {
                let offset = error.valid_up_to();
                Err(EventError::Utf8 { field: path(place, Some(field)), offset }.into())
            }
        },
        Type::Message(message) => {
            let nested = walk(message, content, Some(&Place { parent: place, field }))?;
            Ok(message.required & !nested.filled == 0)
        }
        Type::Map(message) => {
            let nested = walk(message, content, Some(&Place { parent: place, field }))?;
            if keys.is_repetition(field, nested.first) {
                return Err(EventError::map_key(path(place, Some(field)), nested.first).into());
            }
            Ok(true)
        }
        Type::Id { size } if !content.is_empty() && content.len() != size => {
            let actual = content.len();
            Err(EventError::IdSize { field: path(place, Some(field)), actual, size }.into())
        }
        Type::Bytes | Type::Id { .. } => Ok(!content.is_empty()),
        Type::Enum { .. } | Type::Time | Type::Unsigned => {
            unreachable!("{} has no length", field.name)
        }
    }
}

/// Whether all bytes are ASCII. Most strings are, and short: faster for those than what std has.
#[inline]
fn is_ascii(bytes: &[u8]) -> bool {
    const HIGH_BITS: u64 = 0x8080_8080_8080_8080;
    if let Some(last) = bytes.last_chunk::<8>() {
        // The last word overlaps the one before it unless the length is a multiple of 8.
        let (words, _) = bytes.as_chunks::<8>();
        let bits = words.iter().fold(0, |bits, word| bits | u64::from_le_bytes(*word));
        (bits | u64::from_le_bytes(*last)) & HIGH_BITS == 0
    } else {
        bytes.iter().all(|byte| byte.is_ascii())
    }
}

/// Watches the keys of a message's maps go by. Sorted keys, as encoders with ordered maps write
/// them, cost one comparison each; maps in another order are remembered, and looked at again.
#[derive(Default)]
struct KeyOrder<'a> {
    /// Bit of the map that the last entry belonged to; 0 before the first.
    map: u32,
    /// Maps that had entries.
    seen: u32,
    /// Maps whose entries were not sorted, or not together.
    unsorted: u32,
    last: &'a [u8],
}

impl<'a> KeyOrder<'a> {
    /// Takes in an entry's key; whether it is the one before it again.
    fn is_repetition(&mut self, field: &Field, key: &'a [u8]) -> bool {
        let map = field.bit();
        if self.map == map {
            if key == self.last {
                return true;
            }
            if key < self.last {
                self.unsorted |= map;
            }
        } else if self.seen & map != 0 {
            self.unsorted |= map;
        }
        (self.map, self.last) = (map, key);
        self.seen |= map;
        false
    }
}

/// Looks for a key that occurs twice in the maps of `message` whose bits are in `maps`. The
/// message has been walked: its wire format is valid.
#[cold]
fn check_unsorted_keys(
    message: &'static Message,
    bytes: &[u8],
    place: Option<&Place<'_>>,
    maps: u32,
) -> Result<(), Refusal> {
    for field in message.fields.iter().filter(|field| maps & field.bit() != 0) {
        let count = map_keys(field, bytes).count();
        let mut on_stack: [&[u8]; KEYS_ON_STACK] = [&[]; KEYS_ON_STACK];
        let mut on_heap = Vec::new();
        let keys = if count <= KEYS_ON_STACK {
            &mut on_stack[..count]
        } else {
            on_heap.resize(count, &[][..]);
            &mut on_heap[..]
        };
        for (slot, key) in keys.iter_mut().zip(map_keys(field, bytes)) {
            *slot = key;
        }
        keys.sort_unstable();
        if let Some(pair) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(EventError::map_key(path(place, Some(field)), pair[0]).into());
        }
    }
    Ok(())
}

/// Keys of one map of a message whose wire format is valid.
fn map_keys<'a>(field: &'static Field, bytes: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    Cursor::new(bytes)
        .fields()
        .filter(move |(number, _)| *number == field.number)
        // An entry without a key has the empty one.
        .map(|(_, entry)| {
            let key = Cursor::new(entry).fields().find(|(number, _)| *number == 1);
            key.map_or(&[][..], |(_, key)| key)
        })
}
