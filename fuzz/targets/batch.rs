//! Batches: what decodes is what the builder makes of the same records.
#![no_main]

#[allow(dead_code)]
#[path = "../common.rs"]
mod common;

use bytes::Bytes;
use indelible_core::{Batch, BatchBuilder};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: common::write_seeds(&seeds()), |data: &[u8]| {
    let Some((size, rest)) = data.split_first_chunk::<2>() else { return };
    let rest = Bytes::copy_from_slice(rest);
    let head = rest.slice(..rest.len().min(u16::from_le_bytes(*size).into()));
    let body = rest.slice(head.len()..);
    let Ok(batch) = Batch::decode(&head, &body) else { return };
    let _ = batch.verify();
    let mut builder = BatchBuilder::default();
    for position in 0..batch.count() {
        let leaf = &batch.leaves[position];
        assert_eq!(&leaf.encode(), batch.leaf_bytes(position));
        builder.push(leaf, &batch.salt(position), &batch.event(position));
    }
    assert_eq!(builder.finish(), (head, body));
});

fn seeds() -> Vec<Vec<u8>> {
    common::batches()
}
