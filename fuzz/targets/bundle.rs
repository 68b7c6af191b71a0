//! Bundles: bounded in memory, and only records of the trail are proved.
#![no_main]

#[allow(dead_code)]
#[path = "../common.rs"]
mod common;

use std::sync::LazyLock;

use indelible_core::bundle::{BundleError, BundleReader};
use indelible_core::{Checkpoint, Policy};
use libfuzzer_sys::fuzz_target;

static POLICY: LazyLock<Policy> = LazyLock::new(common::policy);
static OLD: LazyLock<Vec<Checkpoint>> =
    LazyLock::new(|| [3, 8, 260].map(common::checkpoint).to_vec());

fuzz_target!(init: common::write_seeds(&seeds()), |data: &[u8]| {
    let Ok(reader) = BundleReader::open(data) else { return };
    let mut next = reader.header().proof.from;
    let each = |record: indelible_core::bundle::RecordRef<'_>| {
        assert_eq!(record.index, next);
        next += 1;
    };
    let _ = reader.verify(None, &OLD, each);
    let mut records = Vec::new();
    let reader = BundleReader::open(data).expect("it was opened before");
    let verified = reader.verify(Some(&POLICY), &[], |record| {
        let content = record.content.map(|(salt, event)| (*salt, event.to_vec()));
        records.push((record.index, *record.leaf, content));
    });
    match verified {
        Ok(_) => {
            for (index, leaf, content) in records {
                let (expected, salt, event) = common::record(index);
                assert_eq!(leaf, expected);
                assert!(content.is_none_or(|content| content == (salt.0, event)));
            }
        }
        Err(BundleError::Io(error)) => panic!("memory gives no such error: {error}"),
        Err(_) => {}
    }
});

fn seeds() -> Vec<Vec<u8>> {
    let ranges = [(0, 0, &[][..]), (5, 12, &[3, 4]), (250, 300, &[1])];
    ranges.map(|(from, to, older)| common::bundle(from, to, older)).to_vec()
}
