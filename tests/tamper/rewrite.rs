//! The clever attack: one event altered, and everything that follows from it computed again, with
//! the product's own code: commitment, leaf, checksums, chain, footers. What the attacker cannot
//! have are the other nodes' signatures.

use std::path::Path;

use bytes::{Bytes, BytesMut};
use indelible::storage::identity::Identity;
use indelible::storage::log::{Log, LogOptions, SyncPolicy};
use indelible::storage::start::NewBoot;
use indelible_core::leaf::{LEAF_SIZE, commit};
use indelible_core::{Entry, EntryKind, Salt};
use indelible_lineage::Draw;

/// Header of a batch before its leaves (docs/FORMAT.md, "Batch").
const BATCH_HEADER: usize = 16;
/// Offset of the commitment in a leaf.
const COMMITMENT: usize = 32;

/// Rewrites the log in `dir`, whose untouched copy is `copy`, and throws derived state away.
pub fn rewrite(dir: &Path, copy: &Path) {
    let identity = Identity::read(dir).unwrap();
    let options = LogOptions {
        segment_bytes: identity.segment_bytes,
        trail_id: identity.trail_id,
        cache_bytes_max: 64 << 20,
        boot: NewBoot::of(&identity, Draw([1; 16])),
        first_index_any: false,
        sync: SyncPolicy::Always,
    };
    let scratch = tempfile::tempdir().unwrap();
    let original = scratch.path().join("original");
    crate::harness::copy_folder(copy, &original);
    let forged = scratch.path().join("forged");
    std::fs::create_dir(&forged).unwrap();
    let (from, _) = Log::open(&original, options.clone()).unwrap();
    let (to, _) = Log::open(&forged, options).unwrap();
    let mut altered = false;
    for index in 0..from.next() {
        let mut entry = from.read(index..index + 1, 1).unwrap().remove(0);
        if !altered && entry.kind == EntryKind::Batch && index > from.next() / 3 {
            entry = alter(entry);
            altered = true;
        }
        let (done, durable) = std::sync::mpsc::channel();
        to.append(
            vec![entry],
            Box::new(move |result| done.send(result.is_ok()).unwrap_or_default()),
        );
        assert!(durable.recv().unwrap());
    }
    assert!(altered, "there was a batch to alter");
    to.set_committed(from.committed());
    to.close();
    from.close();
    for name in ["segments", "derived"] {
        std::fs::remove_dir_all(dir.join(name)).unwrap();
    }
    crate::harness::copy_folder(&forged.join("segments"), &dir.join("segments"));
    std::fs::copy(forged.join("synced"), dir.join("synced")).unwrap();
}

/// The last byte of the batch's first event, and the commitment that fits it.
fn alter(entry: Entry) -> Entry {
    let mut head = BytesMut::from(&entry.head[..]);
    let mut body = BytesMut::from(&entry.body[..]);
    let count = (head.len() - BATCH_HEADER) / LEAF_SIZE;
    let leaf = &mut head[BATCH_HEADER..BATCH_HEADER + LEAF_SIZE];
    let size = u32::from_le_bytes(leaf[4..8].try_into().unwrap()) as usize;
    let salt = Salt::from_slice(&body[..Salt::SIZE]).unwrap();
    let events = count * Salt::SIZE;
    body[events + size - 1] ^= 1;
    let commitment = commit(&salt, &body[events..events + size]);
    leaf[COMMITMENT..].copy_from_slice(&commitment.0);
    Entry { head: Bytes::from(head), body: Bytes::from(body), ..entry }
}
