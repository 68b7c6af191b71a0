//! Proof files: one spelling; and only records of the trail are proved.
#![no_main]

#[allow(dead_code)]
#[path = "../common.rs"]
mod common;

use std::sync::LazyLock;

use indelible_core::{Policy, ProofFile};
use libfuzzer_sys::fuzz_target;

static POLICY: LazyLock<Policy> = LazyLock::new(common::policy);

fuzz_target!(init: common::write_seeds(&seeds()), |data: &[u8]| {
    let Ok(text) = str::from_utf8(data) else { return };
    let Ok(file) = ProofFile::parse(text) else { return };
    assert_eq!(file.to_string(), text);
    let _ = file.check_inclusion();
    if let Ok(proven) = file.verify(&POLICY) {
        let (leaf, salt, event) = common::record(proven.index);
        assert_eq!(proven.leaf, leaf);
        assert!(proven.content.is_none_or(|content| content == (salt, event)));
    }
});

fn seeds() -> Vec<Vec<u8>> {
    let proofs = [(0, true), (7, false), (299, true)];
    let file = |(index, content)| common::proof_file(index, content).to_string().into_bytes();
    proofs.map(file).to_vec()
}
