//! Reads the protobuf wire format, strictly: <https://protobuf.dev/programming-guides/encoding/>.

use crate::event::EventError;

/// How a field is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireType {
    /// 0: int64, uint64, enum.
    Varint,
    /// 1: fixed64, double. No field of an event has it.
    Fixed64,
    /// 2: string, bytes, message.
    Len,
    /// 3: the start of a group, which proto3 does not have.
    GroupStart,
    /// 4: the end of a group.
    GroupEnd,
    /// 5: fixed32, float. No field of an event has it.
    Fixed32,
}

impl std::fmt::Display for WireType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            WireType::Varint => "0 (varint)",
            WireType::Fixed64 => "1 (64 bits)",
            WireType::Len => "2 (length-delimited)",
            WireType::GroupStart => "3 (group)",
            WireType::GroupEnd => "4 (end of group)",
            WireType::Fixed32 => "5 (32 bits)",
        })
    }
}

/// What is wrong with the bytes at hand. Small and without a place: that is added on the way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The message ends within a varint.
    Truncated,
    /// A varint of more than 64 bits, or with zero bytes at its end.
    Varint,
    /// A field number or wire type that the format does not have.
    Tag(u64),
    /// A length that runs past the end of the message.
    Length { claimed: u64, available: usize },
}

impl Fault {
    #[cold]
    pub(super) fn into_refusal(self, field: String) -> Box<EventError> {
        Box::new(match self {
            Fault::Truncated => EventError::Truncated { field },
            Fault::Varint => EventError::Varint { field },
            Fault::Tag(tag) => EventError::Tag { field, tag },
            Fault::Length { claimed, available } => {
                EventError::Length { field, claimed, available }
            }
        })
    }
}

/// Bytes of a message that are still to be read.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { rest: bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// A field's number and wire type.
    #[inline]
    pub(super) fn tag(&mut self) -> Result<(u32, WireType), Fault> {
        let tag = self.varint()?;
        let wire_type = match tag & 7 {
            0 => WireType::Varint,
            1 => WireType::Fixed64,
            2 => WireType::Len,
            3 => WireType::GroupStart,
            4 => WireType::GroupEnd,
            5 => WireType::Fixed32,
            _ => return Err(Fault::Tag(tag)),
        };
        // Numbers go from 1 to 2^29 - 1.
        match u32::try_from(tag >> 3) {
            Ok(number @ 1..0x2000_0000) => Ok((number, wire_type)),
            _ => Err(Fault::Tag(tag)),
        }
    }

    /// A varint in its shortest form.
    #[inline]
    pub(super) fn varint(&mut self) -> Result<u64, Fault> {
        match self.rest {
            [byte, rest @ ..] if *byte < 0x80 => {
                self.rest = rest;
                Ok(u64::from(*byte))
            }
            _ => {
                let (value, rest) = long_varint(self.rest)?;
                self.rest = rest;
                Ok(value)
            }
        }
    }

    /// A length and as many bytes.
    #[inline]
    pub(super) fn content(&mut self) -> Result<&'a [u8], Fault> {
        let claimed = self.varint()?;
        let available = self.rest.len();
        if claimed > available as u64 {
            return Err(Fault::Length { claimed, available });
        }
        let (content, rest) = self.rest.split_at(claimed as usize);
        self.rest = rest;
        Ok(content)
    }

    /// Fields that have a length, of a message that has been found valid; ends at any fault.
    pub(super) fn fields(mut self) -> impl Iterator<Item = (u32, &'a [u8])> {
        std::iter::from_fn(move || {
            while !self.is_empty() {
                match self.tag().ok()? {
                    (number, WireType::Len) => return Some((number, self.content().ok()?)),
                    (_, WireType::Varint) => self.varint().ok()?,
                    _ => return None,
                };
            }
            None
        })
    }
}

/// A varint of two bytes or more, and what comes after it.
fn long_varint(bytes: &[u8]) -> Result<(u64, &[u8]), Fault> {
    let mut value = 0;
    for (position, &byte) in bytes.iter().enumerate() {
        // The tenth byte holds bit 63 alone.
        if position == 9 && byte > 1 {
            return Err(Fault::Varint);
        }
        value |= u64::from(byte & 0x7f) << (7 * position);
        if byte < 0x80 {
            let is_shortest = byte != 0;
            let rest = &bytes[position + 1..];
            return if is_shortest { Ok((value, rest)) } else { Err(Fault::Varint) };
        }
    }
    Err(Fault::Truncated)
}
