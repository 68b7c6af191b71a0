//! Signed notes: a text and who signed it ([c2sp.org/signed-note](https://c2sp.org/signed-note)).
//!
//! Parsing and writing are inverse to each other: there is one byte form for each note, so a note
//! that went through this program is the one that was signed. A parsed note says nothing yet; what
//! its signatures are worth is for [`crate::Policy::check`] to tell.

use std::fmt;

use crate::limits::{NOTE_BYTES_MAX, NOTE_SIGNATURES_MAX};
use crate::text::{control_character, decode_base64, encode_base64, is_key_name};

/// What every signature line begins with: em dash, space.
const PREFIX: &str = "\u{2014} ";
/// Bytes of a key id in front of a signature.
const KEY_ID_SIZE: usize = 4;

/// A text and its signatures, none of which has been verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What is signed; ends with a line feed.
    pub text: String,
    /// At least one.
    pub signatures: Vec<NoteSignature>,
}

/// One signature line of a note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteSignature {
    /// Name of the key. With the id, says which key it was.
    pub name: String,
    /// First four bytes of the hash of name, type and public key.
    pub key_id: [u8; 4],
    /// What the key's type says, without the key id; at least one byte.
    pub signature: Vec<u8>,
}

/// Why a text is no signed note.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Larger than any note that this program reads.
    #[error("note of {actual} bytes, the limit is {NOTE_BYTES_MAX}")]
    TooLarge {
        /// Its size in bytes.
        actual: usize,
    },
    /// Holds a control character that is no line feed.
    #[error("{}", control_message(*character))]
    Control {
        /// Which.
        character: char,
    },
    /// Not a text, an empty line and signature lines.
    #[error("not a signed note: no empty line between text and signatures")]
    Unsigned,
    /// The last line has no line feed: something is missing.
    #[error("the note's last line does not end with a line feed; hint: it may have been cut off")]
    Cut,
    /// A line after the empty one is not a signature.
    #[error("signature line {line} of the note is not \"\u{2014} NAME BASE64\"")]
    Line {
        /// Which, from 1.
        line: usize,
    },
    /// More signatures than this program looks at.
    #[error("the note has more than {NOTE_SIGNATURES_MAX} signatures")]
    TooManySignatures,
}

fn control_message(character: char) -> String {
    let code = u32::from(character);
    let hint = match character {
        '\r' => "; hint: its lines end with CR LF, a note's end with LF alone",
        _ => "",
    };
    format!("the note holds the control character U+{code:04X}{hint}")
}

impl Note {
    /// From its bytes, which must be all there is: nothing may follow the last signature.
    pub fn parse(text: &str) -> Result<Note, NoteError> {
        if text.len() > NOTE_BYTES_MAX {
            return Err(NoteError::TooLarge { actual: text.len() });
        }
        if let Some(character) = control_character(text) {
            return Err(NoteError::Control { character });
        }
        // The last empty line: the text may have some of its own.
        let end = text.rfind("\n\n").ok_or(NoteError::Unsigned)?;
        let (text, lines) = (&text[..=end], &text[end + 2..]);
        if lines.is_empty() {
            return Err(NoteError::Unsigned);
        }
        let lines = lines.strip_suffix('\n').ok_or(NoteError::Cut)?;
        let mut signatures = Vec::new();
        for (position, line) in lines.split('\n').enumerate() {
            if position == NOTE_SIGNATURES_MAX {
                return Err(NoteError::TooManySignatures);
            }
            let signature = parse_signature(line).ok_or(NoteError::Line { line: position + 1 })?;
            signatures.push(signature);
        }
        Ok(Note { text: text.to_owned(), signatures })
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures.iter().try_for_each(|signature| signature.fmt(f))
    }
}

impl NoteSignature {
    /// From one signature line, with its line feed.
    pub fn parse_line(line: &str) -> Result<NoteSignature, NoteError> {
        if line.len() > NOTE_BYTES_MAX {
            return Err(NoteError::TooLarge { actual: line.len() });
        }
        let line = line.strip_suffix('\n').ok_or(NoteError::Cut)?;
        parse_signature(line).ok_or(NoteError::Line { line: 1 })
    }
}

/// A signature line without its line feed.
fn parse_signature(line: &str) -> Option<NoteSignature> {
    let (name, bytes) = line.strip_prefix(PREFIX)?.split_once(' ')?;
    let bytes = decode_base64(bytes)?;
    let (key_id, signature) = bytes.split_first_chunk::<KEY_ID_SIZE>()?;
    if !is_key_name(name) || signature.is_empty() {
        return None;
    }
    Some(NoteSignature { name: name.to_owned(), key_id: *key_id, signature: signature.to_vec() })
}

/// One line, with its line feed.
impl fmt::Display for NoteSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&self.key_id[..], &self.signature[..]].concat();
        writeln!(f, "{PREFIX}{} {}", self.name, encode_base64(&bytes))
    }
}
