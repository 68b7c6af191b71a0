//! Policies and keys: what is read and written again is the same.
#![no_main]

#[allow(dead_code)]
#[path = "../common.rs"]
mod common;

use std::sync::LazyLock;

use indelible_core::{Note, Policy, SignerKey, VerifierKey};
use libfuzzer_sys::fuzz_target;

static NOTE: LazyLock<Note> = LazyLock::new(|| common::signed(&common::checkpoint(5)));

fuzz_target!(init: common::write_seeds(&seeds()), |data: &[u8]| {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(key) = text.parse::<VerifierKey>() {
        assert_eq!(key.to_string(), text);
    }
    if let Ok(key) = text.parse::<SignerKey>() {
        assert_eq!(key.to_secret_text(), text);
    }
    if let Ok(policy) = text.parse::<Policy>() {
        assert_eq!(policy.to_string().parse::<Policy>().as_ref(), Ok(&policy));
        if let Ok(trusted) = policy.check(&NOTE) {
            assert!(!trusted.signers.is_empty());
        }
    }
});

fn seeds() -> Vec<Vec<u8>> {
    let policy = common::policy().to_string();
    let groups = format!("# a\n{policy}")
        .replace("group nodes all", "group g any")
        .replace("quorum nodes", "quorum g");
    let keys = [common::log_key().to_secret_text(), common::witness_key().verifier().to_string()];
    keys.into_iter().chain([policy, groups]).map(String::into_bytes).collect()
}
