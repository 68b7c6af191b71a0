//! Mending from peers that answer on ports of this process: which of them is believed.

mod fake;
mod start;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use indelible_core::Entry;
use tempfile::TempDir;

use self::fake::Fake;
use super::supply::{Own, Peers, Supplier};
use crate::raft::mending::{Asker, Digests, Mending, Source, Standing};
use crate::storage::log::Log;
use crate::storage::mend::tests::support::{
    SEGMENT_BYTES, TRAIL, assert_log, change, closed, copy_of, entries, entry_of, firsts, options,
    path_of, place_of, set_marker,
};
use crate::storage::mend::{ClosedLog, SegmentSource};

/// Entries of the log that counts.
const COUNT: u64 = 60;
/// Where another log goes on otherwise.
const SPLIT: u64 = 40;

/// The common prefix, and then entries that were never committed.
fn other_end(next: u64) -> Vec<Entry> {
    let before = entries(SPLIT).into_iter();
    before.chain((SPLIT..next).map(|index| entry_of(index, 2, 7))).collect()
}

/// A node that answers: its id and address.
async fn serve(node_id: u64, source: Source) -> (u64, String) {
    (node_id, Fake::new(node_id, source).serve().await)
}

/// Of a node whose log is not open.
fn closed_source(dir: &Path) -> Source {
    let segments = Arc::new(SegmentSource::open(dir, TRAIL, SEGMENT_BYTES).unwrap());
    let end = segments.end().unwrap();
    let (last, tail_damaged) = (end.last, !end.certain);
    let standing = Standing { last, tail_damaged, term: 3, boot_count: 1, ..Standing::default() };
    Source::Closed { segments, standing }
}

async fn serve_closed(node_id: u64, dir: &Path) -> (u64, String) {
    serve(node_id, closed_source(dir)).await
}

/// Of a node that leads term 9.
fn leader_source(log: &Log) -> Source {
    let last = log.last();
    let standing =
        Standing { last, open: true, term: 9, led_term: 9, boot_count: 1, ..Standing::default() };
    let (log, digests) = (log.clone(), Arc::new(Digests::default()));
    let standing = Arc::new(move || standing.clone());
    Source::Open { log, digests, standing }
}

/// Node 1: what comes after entry 30 or so is lost, and nothing says that it is committed.
fn damaged() -> TempDir {
    let dir = closed(&entries(COUNT));
    set_marker(dir.path(), COUNT, 20);
    for first in firsts(dir.path()).iter().filter(|first| **first > 30) {
        std::fs::remove_file(path_of(dir.path(), *first)).unwrap();
    }
    dir
}

/// Asks in the name of node 1, of which `voters` are the group.
fn supplier(peers: Peers, voters: &[u64]) -> Supplier {
    let voters: BTreeSet<u64> = voters.iter().copied().collect();
    let own = Own { term: 3, committed: 20, voters: vec![voters], ..Own::default() };
    Supplier::new(Asker { trail_id: TRAIL, node_id: 1 }, peers, own)
}

/// Mends as a start does, in so many rounds at most; the last one's error if all fail.
async fn mend(dir: &Path, mut supplier: Supplier, rounds: usize) -> Result<(), String> {
    let closed = ClosedLog::lock(dir, TRAIL, SEGMENT_BYTES).unwrap();
    let mend = move || {
        let mut error = String::new();
        for _ in 0..rounds {
            supplier.restart();
            match closed.mend(&mut |want| supplier.supply(want)) {
                Ok(_) => return Ok(()),
                Err(failed) => error = failed.to_string(),
            }
            supplier.rotate();
        }
        Err(error)
    };
    tokio::task::spawn_blocking(mend).await.unwrap()
}

/// Node 2 has the uncommitted end of a leader that failed, which links to what node 1 has just as
/// well, and is asked first. It was taken as far as it goes; then the leader's log did not link to
/// it, and the log of node 1 was taken to end there: without what was acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_hole_is_filled_with_the_anchors_entries() {
    // Shorter than the log that counts, and longer.
    for next in [SPLIT + 6, COUNT + 6] {
        let (dir, two, three) = (damaged(), closed(&other_end(next)), closed(&entries(COUNT)));
        let (log, _) = Log::open(three.path(), options()).unwrap();
        let peers = vec![serve_closed(2, two.path()).await, serve(3, leader_source(&log)).await];
        mend(dir.path(), supplier(peers, &[1, 2, 3]), 1).await.unwrap();
        assert_log(dir.path(), &entries(COUNT));
    }
}

/// Where the anchor itself is damaged, others fill in; those whose entries do not lead to its next
/// one are asked last after that.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_anchor_lacks_must_lead_to_what_it_has() {
    let original = closed(&entries(COUNT));
    let (dir, three) = (damaged(), copy_of(original.path()));
    for index in SPLIT..SPLIT + 3 {
        let place = place_of(index);
        change(three.path(), place.segment, |bytes| bytes[place.offset as usize + 50] ^= 1);
    }
    // Of a lower term, and shorter: node 3 has the log that counts.
    let (two, four) = (closed(&other_end(COUNT + 6)), closed(&entries(COUNT - 5)));
    let peers = vec![
        serve_closed(2, two.path()).await,
        serve_closed(3, three.path()).await,
        serve_closed(4, four.path()).await,
    ];
    mend(dir.path(), supplier(peers, &[1, 2, 3, 4]), 2).await.unwrap();
    assert_log(dir.path(), &entries(COUNT));
}
