//! Keys of logs, nodes and witnesses, and what they sign.
//!
//! Two kinds, both Ed25519 (RFC 8032): a *log* key signs a note's text as it is
//! ([c2sp.org/signed-note](https://c2sp.org/signed-note)); a *cosigner* key signs it together with
//! the time ([c2sp.org/tlog-cosignature](https://c2sp.org/tlog-cosignature)). The messages of the
//! two cannot be confused, as no origin begins with `cosignature/v1` and a line feed.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};

use crate::text::{decode_base64, encode_base64, is_key_name};
use crate::{Checkpoint, NoteSignature};

/// Bytes of the time in a cosignature.
const TIME_SIZE: usize = 8;
/// Latest time of a cosignature, in Unix seconds (tlog-cosignature, "Format").
const TIME_MAX: u64 = i64::MAX as u64;
/// What a secret key's text begins with; the form is that of Go's `sumdb/note`.
const SECRET_PREFIX: &str = "PRIVATE+KEY+";

/// What a key signs. The numbers are those of C2SP signed-note.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum KeyType {
    /// The text of a note, as it is.
    Log = 0x01,
    /// The text of a checkpoint, with the time.
    Cosigner = 0x04,
}

impl KeyType {
    fn from_u8(value: u8) -> Option<KeyType> {
        match value {
            0x01 => Some(KeyType::Log),
            0x04 => Some(KeyType::Cosigner),
            _ => None,
        }
    }

    /// Its number.
    pub fn as_u8(self) -> u8 {
        self as u8
    }

    /// Its name in messages.
    pub fn name(self) -> &'static str {
        match self {
            KeyType::Log => "log",
            KeyType::Cosigner => "cosigner",
        }
    }
}

/// Name of a node's cosigner key.
pub fn node_key_name(origin: &str, node_id: u64) -> String {
    format!("{origin}/node/{node_id}")
}

/// A public key with its name. As text it is what C2SP calls a vkey.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct VerifierKey {
    /// Whose it is: a schema-less URL. Without spaces and plus signs.
    pub name: String,
    /// What it signs.
    pub key_type: KeyType,
    /// Ed25519.
    pub public_key: [u8; 32],
}

/// What a valid signature says besides the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signed {
    /// When it was made, in Unix seconds, by the signer's clock. A log key says no time.
    pub unix_s: Option<u64>,
}

/// Why a text is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not of the form.
    #[error("a key is written NAME+ID+KEY, ID being eight hexadecimal digits and KEY base64")]
    Form,
    /// Not of the form.
    #[error("a secret key is written PRIVATE+KEY+NAME+ID+KEY")]
    SecretForm,
    /// The name is empty or has spaces, plus signs or control characters.
    #[error("{name:?} cannot name a key: it must not be empty or have spaces or plus signs")]
    Name {
        /// The name.
        name: String,
    },
    /// A type that this program does not know.
    #[error(
        "key {name} has type {actual:#04x}; known are 0x01 (Ed25519, logs) and 0x04 (Ed25519, cosigners)"
    )]
    Type {
        /// The key's name.
        name: String,
        /// The type's number.
        actual: u8,
    },
    /// Not 32 bytes.
    #[error("key {name} has {actual} bytes, Ed25519 has 32")]
    Length {
        /// The key's name.
        name: String,
        /// Its bytes.
        actual: usize,
    },
    /// 32 bytes that are no point of the curve, or one of the few that anybody can sign for.
    #[error("key {name} is no Ed25519 public key")]
    Point {
        /// The key's name.
        name: String,
    },
    /// The id is not that of name, type and key: a typing error, or a key under a false name.
    #[error("key {name} has the id {actual}, name and key give {expected}")]
    Id {
        /// The key's name.
        name: String,
        /// The id that follows from name and key.
        expected: String,
        /// The id that was written.
        actual: String,
    },
}

/// Why a signature proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// It is another key's.
    #[error("the signature is by another key")]
    OtherKey,
    /// Fewer or more bytes than signatures of this type have.
    #[error("the signature has {actual} bytes, one of this type has {expected}")]
    Length {
        /// Bytes that it should have.
        expected: usize,
        /// Bytes that it has.
        actual: usize,
    },
    /// A time that C2SP does not allow.
    #[error("the cosignature says that it was made {unix_s} s after 1970, which is past 2^63")]
    Time {
        /// Unix seconds.
        unix_s: u64,
    },
    /// The key has not signed this.
    #[error("the signature is not by this key over this text")]
    Wrong,
}

impl VerifierKey {
    /// A key under its name; refuses names that no note can hold, and bytes that are no key.
    pub fn new(
        name: impl Into<String>,
        key_type: KeyType,
        public_key: [u8; 32],
    ) -> Result<VerifierKey, KeyError> {
        let name = name.into();
        if !is_key_name(&name) {
            return Err(KeyError::Name { name });
        }
        match VerifyingKey::from_bytes(&public_key) {
            Ok(point) if !point.is_weak() => Ok(VerifierKey { name, key_type, public_key }),
            _ => Err(KeyError::Point { name }),
        }
    }

    /// The first four bytes of SHA-256(name ‖ 0x0A ‖ type ‖ public key).
    pub fn key_id(&self) -> [u8; 4] {
        let mut hasher = Sha256::new();
        hasher.update(&self.name);
        hasher.update([b'\n', self.key_type.as_u8()]);
        hasher.update(self.public_key);
        let digest: [u8; 32] = hasher.finalize().into();
        [digest[0], digest[1], digest[2], digest[3]]
    }

    /// Whether a signature says that it is by this key: name and id both fit.
    pub fn is_named_by(&self, signature: &NoteSignature) -> bool {
        signature.name == self.name && signature.key_id == self.key_id()
    }

    /// Checks a signature over the text of a note.
    pub fn verify(&self, text: &str, signature: &NoteSignature) -> Result<Signed, SignatureError> {
        if !self.is_named_by(signature) {
            return Err(SignatureError::OtherKey);
        }
        match self.key_type {
            KeyType::Log => {
                let bytes = exactly::<{ Signature::BYTE_SIZE }>(&signature.signature)?;
                self.verify_bytes(text.as_bytes(), bytes)?;
                Ok(Signed { unix_s: None })
            }
            KeyType::Cosigner => {
                let bytes = exactly::<{ TIME_SIZE + Signature::BYTE_SIZE }>(&signature.signature)?;
                let (time, bytes) = bytes.split_first_chunk::<TIME_SIZE>().expect("72 bytes");
                let unix_s = u64::from_be_bytes(*time);
                if unix_s > TIME_MAX {
                    return Err(SignatureError::Time { unix_s });
                }
                let bytes = bytes.try_into().expect("64 bytes are left of 72");
                self.verify_bytes(cosigned_message(unix_s, text).as_bytes(), bytes)?;
                Ok(Signed { unix_s: Some(unix_s) })
            }
        }
    }

    /// NB: strict verification, so that all verifiers agree on what is a signature, and none has
    /// two forms.
    fn verify_bytes(
        &self,
        message: &[u8],
        signature: &[u8; Signature::BYTE_SIZE],
    ) -> Result<(), SignatureError> {
        VerifyingKey::from_bytes(&self.public_key)
            .and_then(|key| key.verify_strict(message, &Signature::from_bytes(signature)))
            .map_err(|_| SignatureError::Wrong)
    }
}

fn exactly<const N: usize>(bytes: &[u8]) -> Result<&[u8; N], SignatureError> {
    bytes.try_into().map_err(|_| SignatureError::Length { expected: N, actual: bytes.len() })
}

/// What a cosigner signs (tlog-cosignature, "Ed25519 signed message").
fn cosigned_message(unix_s: u64, text: &str) -> String {
    format!("cosignature/v1\ntime {unix_s}\n{text}")
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_key(f, &self.name, self.key_id(), self.key_type, &self.public_key)
    }
}

impl FromStr for VerifierKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<VerifierKey, KeyError> {
        let (name, id, key_type, bytes) = parse_key(text).ok_or(KeyError::Form)?;
        let key = VerifierKey::new(name, known_type(name, key_type)?, thirty_two(name, &bytes)?)?;
        check_id(&key, id)?;
        Ok(key)
    }
}

/// A secret key with its name. It is wiped from memory when dropped.
#[derive(Clone)]
pub struct SignerKey {
    verifier: VerifierKey,
    secret: SigningKey,
}

impl SignerKey {
    /// The key that follows from 32 secret random bytes.
    pub fn new(
        name: impl Into<String>,
        key_type: KeyType,
        seed: [u8; 32],
    ) -> Result<SignerKey, KeyError> {
        let secret = SigningKey::from_bytes(&seed);
        let verifier = VerifierKey::new(name, key_type, secret.verifying_key().to_bytes())?;
        Ok(SignerKey { verifier, secret })
    }

    /// The public half.
    pub fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    /// Signs a checkpoint as a log. Panics if it is no log key.
    pub fn sign(&self, checkpoint: &Checkpoint) -> NoteSignature {
        assert_eq!(self.verifier.key_type, KeyType::Log, "key {} signs no logs", self.name());
        self.line(self.secret.sign(checkpoint.to_string().as_bytes()).to_vec())
    }

    /// Signs a checkpoint and the time, as a node or a witness. Panics if it is no cosigner key, or
    /// if the time does not fit 63 bits.
    pub fn cosign(&self, checkpoint: &Checkpoint, unix_s: u64) -> NoteSignature {
        assert_eq!(self.verifier.key_type, KeyType::Cosigner, "key {} cosigns not", self.name());
        assert!(unix_s <= TIME_MAX, "time {unix_s} is past 2^63");
        let message = cosigned_message(unix_s, &checkpoint.to_string());
        let signature = self.secret.sign(message.as_bytes()).to_bytes();
        self.line([&unix_s.to_be_bytes()[..], &signature[..]].concat())
    }

    fn line(&self, signature: Vec<u8>) -> NoteSignature {
        let key_id = self.verifier.key_id();
        NoteSignature { name: self.verifier.name.clone(), key_id, signature }
    }

    fn name(&self) -> &str {
        &self.verifier.name
    }

    /// The secret key as text, without a line feed: for a file that only its owner may read.
    pub fn to_secret_text(&self) -> String {
        struct Text<'a>(&'a SignerKey);
        impl fmt::Display for Text<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let SignerKey { verifier, secret } = self.0;
                let (id, seed) = (verifier.key_id(), secret.as_bytes());
                write!(f, "{SECRET_PREFIX}")?;
                write_key(f, &verifier.name, id, verifier.key_type, seed)
            }
        }
        Text(self).to_string()
    }
}

/// Without the secret.
impl fmt::Debug for SignerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignerKey").field("verifier", &self.verifier).finish_non_exhaustive()
    }
}

impl FromStr for SignerKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<SignerKey, KeyError> {
        let (name, id, key_type, bytes) =
            text.strip_prefix(SECRET_PREFIX).and_then(parse_key).ok_or(KeyError::SecretForm)?;
        let key = SignerKey::new(name, known_type(name, key_type)?, thirty_two(name, &bytes)?)?;
        check_id(&key.verifier, id)?;
        Ok(key)
    }
}

fn write_key(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    id: [u8; 4],
    key_type: KeyType,
    key: &[u8; 32],
) -> fmt::Result {
    let key = encode_base64(&[&[key_type.as_u8()], &key[..]].concat());
    write!(f, "{name}+{:08x}+{key}", u32::from_be_bytes(id))
}

/// Name, id, type and bytes of `NAME+ID+BASE64`, none of them checked against another.
fn parse_key(text: &str) -> Option<(&str, &str, u8, Vec<u8>)> {
    // Base64 has plus signs, name and id have none.
    let (name, rest) = text.split_once('+')?;
    let (id, key) = rest.split_once('+')?;
    let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if id.len() != 8 || !id.bytes().all(is_hex) {
        return None;
    }
    let bytes = decode_base64(key)?;
    let (key_type, key) = bytes.split_first()?;
    Some((name, id, *key_type, key.to_vec()))
}

fn known_type(name: &str, key_type: u8) -> Result<KeyType, KeyError> {
    KeyType::from_u8(key_type)
        .ok_or_else(|| KeyError::Type { name: name.to_owned(), actual: key_type })
}

fn thirty_two(name: &str, bytes: &[u8]) -> Result<[u8; 32], KeyError> {
    let length = || KeyError::Length { name: name.to_owned(), actual: bytes.len() };
    bytes.try_into().map_err(|_| length())
}

fn check_id(key: &VerifierKey, actual: &str) -> Result<(), KeyError> {
    let expected = format!("{:08x}", u32::from_be_bytes(key.key_id()));
    if actual == expected {
        return Ok(());
    }
    Err(KeyError::Id { name: key.name.clone(), expected, actual: actual.to_owned() })
}
