//! Notes and checkpoints: one spelling each; and only what was signed is believed.
#![no_main]

#[allow(dead_code)]
#[path = "../common.rs"]
mod common;

use std::sync::LazyLock;

use indelible_core::{Checkpoint, Note, NoteSignature, Policy};
use libfuzzer_sys::fuzz_target;

static POLICY: LazyLock<Policy> = LazyLock::new(common::policy);
static SIGNED: LazyLock<String> = LazyLock::new(|| common::checkpoint(5).to_string());

fuzz_target!(init: common::write_seeds(&seeds()), |data: &[u8]| {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(checkpoint) = Checkpoint::parse(text) {
        assert_eq!(checkpoint.to_string(), text);
    }
    if let Ok(signature) = NoteSignature::parse_line(text) {
        assert_eq!(signature.to_string(), text);
    }
    if let Ok(note) = Note::parse(text) {
        assert_eq!(note.to_string(), text);
        if let Ok(checkpoint) = Checkpoint::parse(&note.text) {
            assert_eq!(checkpoint.to_string(), note.text);
        }
        if POLICY.check(&note).is_ok() {
            assert_eq!(note.text, *SIGNED);
        }
    }
});

fn seeds() -> Vec<Vec<u8>> {
    let note = common::signed(&common::checkpoint(5)).to_string();
    let text = common::checkpoint(5).to_string();
    vec![note.into_bytes(), text.into_bytes(), "a b\n0\nx\n\n\u{2014} a AAAAAAA=\n".into()]
}
