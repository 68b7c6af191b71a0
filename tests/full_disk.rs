//! All disks nearly full: nothing is taken and nothing dies, reads and elections go on, and appends
//! go on by themselves once there is space.

use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use indelible_client::{Event, Level, ProducerId};
use indelible_proto::{Reason, Rejected, v1};

use crate::harness::{audit_log, client, eventually, nodes_with, view};

/// What a file takes of the disk that the nodes share, and gives back when it is dropped.
struct Ballast {
    _file: tempfile::NamedTempFile,
}

impl Ballast {
    fn new(dir: &Path, bytes: u64) -> Ballast {
        let file = tempfile::NamedTempFile::new_in(dir).unwrap();
        let whole = rustix::fs::FallocateFlags::empty();
        if rustix::fs::fallocate(file.as_file(), whole, 0, bytes).is_err() {
            // Not every file system can.
            std::io::copy(&mut std::io::repeat(1).take(bytes), &mut file.as_file()).unwrap();
        }
        Ballast { _file: file }
    }
}

fn free_bytes(dir: &Path) -> u64 {
    let stat = rustix::fs::statvfs(dir).unwrap();
    stat.f_bavail * stat.f_frsize
}

/// The reserve is set so high that a ballast of a few hundred MiB goes below it: the disk of the
/// test machine need not be filled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disks_refuse_events_and_nothing_else() {
    let dir = std::env::temp_dir();
    let margin = (free_bytes(&dir) / 8).min(2 << 30);
    let reserve = free_bytes(&dir) - 2 * margin;
    let cluster =
        nodes_with(3, Some(128 * 1024), &format!("[storage]\ndisk_reserve_bytes = {reserve}\n"));
    let client = client(&cluster).await;
    let producer = client.producer(ProducerId([7; 16]), "disk").open().await.unwrap();
    let first = producer.append(Event::new("a", "before", "t")).await.unwrap();

    let ballast = Ballast::new(&dir, 3 * margin);
    eventually("all nodes are read-only", || async {
        let mut all = true;
        for node in &cluster.nodes {
            let view = view(&node.client_addr).await?;
            all &= view.state() == v1::ServingState::ReadOnly;
        }
        all.then_some(())
    })
    .await;
    // A leader that finds nobody with room stays: each hand-over would be a record. The window is
    // longer than two of its attempts.
    let (_, term) = client.wait_for_leader().await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(5) {
        let record = client.get(first.index, Level::Linearizable).await.unwrap();
        assert_eq!(record.index, first.index);
    }
    let (leader, term_after) = client.wait_for_leader().await;
    // One hand-over may have been under way, to a follower that found out a moment later.
    assert!(term_after <= term + 1, "terms {term} to {term_after}: leadership goes round");
    let refused = refused_append(&cluster.nodes[leader as usize - 1].client_addr).await;
    assert_eq!(refused.reason, Reason::ReadOnly, "{refused}");

    let waiting = tokio::spawn(async move {
        let after = producer.append(Event::new("a", "after", "t")).await;
        after.unwrap().index
    });
    drop(ballast);
    let index = waiting.await.unwrap();
    assert!(index > first.index);
    for mut node in cluster.nodes {
        assert!(node.is_running(), "{}", node.log_tail());
    }
}

/// What the node at `addr` says to an opening: it is refused like an event.
async fn refused_append(addr: &str) -> Rejected {
    let request = v1::OpenProducerRequest {
        producer_id: vec![8; 16].into(),
        name: "other".into(),
        ..Default::default()
    };
    let status = audit_log(addr).await.open_producer(request).await.unwrap_err();
    Rejected::from_status(&status).unwrap_or_else(|| panic!("{status:?}"))
}
