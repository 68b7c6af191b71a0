//! Helpers that the JSON formats share.

use serde_json::{Map, Value};

/// A JSON object.
pub(super) type Object = Map<String, Value>;

/// The line as an object, if it is one. Sorted, because the order of keys in a [`Map`] depends on
/// how serde_json was built, and what an import makes of a line must not.
pub(super) fn object(line: &[u8]) -> Option<Object> {
    let mut value: Value = serde_json::from_slice(line).ok()?;
    value.sort_all_objects();
    match value {
        Value::Object(object) => Some(object),
        _ => None,
    }
}

/// The text at `key`, if there is one that is not empty.
pub(super) fn text<'a>(object: &'a Object, key: &str) -> Option<&'a str> {
    object.get(key)?.as_str().filter(|text| !text.is_empty())
}

/// The object at `key`.
pub(super) fn nested<'a>(object: &'a Object, key: &str) -> Option<&'a Object> {
    object.get(key)?.as_object()
}

/// A text, number or truth value as text; nothing for the empty text and the rest.
pub(super) fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}
