//! Mending from peers that answer on ports of this process: which of them is believed.

mod fake;
mod start;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use indelible_core::limits::MENDING_SEGMENTS_MAX;
use indelible_core::{Entry, EntryId, EntryKind, chain};
use indelible_proto::raft as pb;
use tempfile::TempDir;

use self::fake::{Fake, Parts};
use super::reader::Peers;
use super::supply::{Own, Supplier};
use crate::net::Credentials;
use crate::raft::mending::{Asker, Digests, Mending, Source, Standing};
use crate::storage::log::Log;
use crate::storage::mend::tests::support::{
    SEGMENT_BYTES, TRAIL, assert_log, change, closed, copy, copy_of, entries, entry_of, firsts,
    options, path_of, place_of, set_marker, temp_dir,
};
use crate::storage::mend::{ClosedLog, SegmentSource, Supply, Want};

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

fn asker() -> Asker {
    Asker { trail_id: TRAIL, node_id: 1, credentials: Credentials::clear() }
}

/// Asks in the name of node 1, of which `voters` are the group.
fn supplier(peers: Peers, voters: &[u64]) -> Supplier {
    let voters: BTreeSet<u64> = voters.iter().copied().collect();
    let own = Own { term: 3, committed: 20, voters: vec![voters], ..Own::default() };
    Supplier::new(asker(), peers, own)
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

/// What it is, and how it is told.
type Lie = (&'static str, fn(&mut Fake));

/// What a peer that lies may say, and have this node wait, allocate, give up or die.
fn lies() -> Vec<Lie> {
    fn stream(parts: impl Stream<Item = pb::EntriesResponse> + Send + 'static) -> Parts {
        Box::pin(parts.map(Ok))
    }
    vec![
        ("parts without entries, for ever", |fake| {
            let parts = || stream(futures_util::stream::repeat(pb::EntriesResponse::default()));
            fake.entries = Box::new(move |_| Some(Ok(parts())));
        }),
        ("nothing, for ever", |fake| {
            fake.entries = Box::new(|_| Some(Ok(stream(futures_util::stream::pending()))));
        }),
        ("it leads, and has nothing", |fake| {
            fake.standing = Box::new(|standing| {
                (standing.last, standing.open, standing.led_term) = (None, true, u64::MAX);
                Ok(())
            });
        }),
        ("it leads, and has all entries that there can be", |fake| {
            fake.standing = Box::new(|standing| {
                let last = pb::LogId { term: 9, leader: 2, index: u64::MAX };
                (standing.last, standing.open, standing.led_term) = (Some(last), true, u64::MAX);
                Ok(())
            });
        }),
        ("it leads, and gives nothing", |fake| {
            fake.standing = Box::new(|standing| {
                (standing.open, standing.led_term) = (true, u64::MAX);
                Ok(())
            });
            fake.entries = Box::new(|request| {
                (request.to > request.from + 1).then(|| Ok(stream(futures_util::stream::pending())))
            });
        }),
    ]
}

/// It is asked first, and an honest leader after it.
#[tokio::test(flavor = "multi_thread")]
async fn one_lying_peer_does_not_keep_a_node_from_mending() {
    let (whole, dir) = (closed(&entries(COUNT)), temp_dir());
    let three = copy_of(whole.path());
    let (log, _) = Log::open(three.path(), options()).unwrap();
    let inside = copy_of(whole.path());
    let first = firsts(inside.path())[3];
    std::fs::remove_file(path_of(inside.path(), first)).unwrap();
    // Of a closed hole, and of an open one.
    for damaged in [inside, damaged()] {
        for (what, lie) in lies() {
            copy(damaged.path(), dir.path());
            let mut two = Fake::new(2, closed_source(whole.path()));
            lie(&mut two);
            let peers = vec![(2, two.serve().await), serve(3, leader_source(&log)).await];
            let mut supplier = supplier(peers, &[1, 2, 3]);
            supplier.answers_within(Duration::from_millis(100));
            let mended = mend(dir.path(), supplier, 6).await;
            mended.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_log(dir.path(), &entries(COUNT));
        }
    }
}

/// Blank entries have no bytes that count, and yet take room.
#[tokio::test(flavor = "multi_thread")]
async fn entries_without_bytes_are_taken_in_parts() {
    let id = |index| EntryId { index, term: 1, leader: 1 };
    let blank = |index| Entry { id: id(index), kind: EntryKind::Blank, ..entry_of(0, 1, 0) };
    let blanks: Vec<Entry> = (0..20_000).map(blank).collect();
    let two = closed(&blanks);
    let mut supplier = supplier(vec![serve_closed(2, two.path()).await], &[1, 2]);
    let want = Want { from: 0, to: Some(20_000), before: chain::genesis(&TRAIL) };
    let supplied = tokio::task::spawn_blocking(move || supplier.supply(&want).unwrap());
    let Supply::Entries(entries) = supplied.await.unwrap() else { panic!("it has them") };
    assert!((1_000..10_000).contains(&entries.len()), "{}", entries.len());
}

/// A liar can name segments without end, none of which is ours.
#[tokio::test(flavor = "multi_thread")]
async fn only_segments_of_ours_are_asked_about() {
    let two = closed(&entries(COUNT));
    let firsts: BTreeSet<u64> = firsts(two.path()).into_iter().collect();
    let mut fake = Fake::new(2, closed_source(two.path()));
    fake.segments = Box::new(|from| {
        let segment = |first| pb::SealedSegment {
            first,
            next: first + 1,
            chain: vec![7; 32].into(),
            ..Default::default()
        };
        Some((from..from + MENDING_SEGMENTS_MAX as u64).map(segment).collect())
    });
    let said = asker().segments(&fake.serve().await, &firsts).await.unwrap();
    assert_eq!(said.iter().map(|one| one.first).collect::<BTreeSet<u64>>(), firsts);
}
