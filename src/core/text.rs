//! What the text formats share: base64, decimals, characters.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::Hash;

/// RFC 4648 section 4, with padding.
pub(crate) fn encode_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The inverse of [`encode_base64`]: `None` for whatever that would not have written, such as
/// missing padding or bits that are set beyond the last byte.
pub(crate) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// A hash in base64.
pub(crate) fn decode_hash(text: &str) -> Option<Hash> {
    Hash::from_slice(&decode_base64(text)?)
}

/// A decimal number as a machine writes it: digits alone, no zero in front.
pub(crate) fn decode_decimal(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let leading_zero = text.len() > 1 && text.starts_with('0');
    if digits && !leading_zero { text.parse().ok() } else { None }
}

/// The first control character below U+0020 other than a line feed: a signed note has none.
pub(crate) fn control_character(text: &str) -> Option<char> {
    text.chars().find(|character| *character < ' ' && *character != '\n')
}

/// Whether a key may be called this: not empty, no Unicode space, no plus sign, and nothing that a
/// note could not hold.
pub(crate) fn is_key_name(name: &str) -> bool {
    let bad = |character: char| character.is_whitespace() || character == '+' || character < ' ';
    !name.is_empty() && !name.contains(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_has_one_spelling() {
        assert_eq!(encode_base64(b"ab"), "YWI=");
        assert_eq!(decode_base64("YWI=").unwrap(), b"ab");
        assert_eq!(decode_base64("").unwrap(), b"");
        for bad in ["YWI", "YWJ=", "YW I=", "YWI=\n", "YWI==", "YWI=YWI=", "YQ-_", "="] {
            assert_eq!(decode_base64(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn decimals_have_one_spelling() {
        assert_eq!(decode_decimal("0"), Some(0));
        assert_eq!(decode_decimal("18446744073709551615"), Some(u64::MAX));
        for bad in ["", "00", "01", "+1", "-1", " 1", "1 ", "1_0", "0x1", "18446744073709551616"] {
            assert_eq!(decode_decimal(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn key_names() {
        for good in ["a", "example.com/log", "ü", "none"] {
            assert!(is_key_name(good), "{good:?}");
        }
        for bad in ["", "a b", "a+b", "a\u{a0}b", "a\u{2003}", "a\n", "a\r", "a\0"] {
            assert!(!is_key_name(bad), "{bad:?}");
        }
    }
}
