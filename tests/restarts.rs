//! No healthy node is ever refused: nodes whose disks nobody touches are killed, stopped, paused and
//! started again in any order, under load (docs/adr/0011).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indelible_client::{Client, ProducerId};
use indelible_local::{LocalCluster, Signal};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::harness::{PATIENCE, Trail, client, eventually, stop_and_compare, three_nodes, view};

/// Restarts in the gate; `INDELIBLE_RESTARTS` for more by hand.
const RESTARTS: usize = 24;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Appends until told to stop. Returns how many events were acknowledged.
async fn append_until(sdk: Client, stop: Arc<AtomicBool>) -> u64 {
    let producer = sdk.producer(ProducerId(*b"through restarts"), "r").open().await.unwrap();
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let event = indelible::cli::generate::event(count);
        producer.append_with_deadline(event, deadline).await.unwrap();
        count += 1;
    }
    count
}

/// Nobody has refused anybody, and nobody has ended by itself.
fn assert_no_refusal(cluster: &mut LocalCluster, step: &str) {
    for node in &mut cluster.nodes {
        let text = node.log_text();
        for complaint in ["refuses this node", "refuses a peer", "copy of this node's disk"] {
            let found = text.lines().find(|line| line.contains(complaint));
            assert_eq!(found, None, "node {} after {step}", node.id);
        }
        assert!(node.is_running(), "node {} after {step}: {}", node.id, node.log_tail());
    }
}

/// All nodes answer, and know a leader.
async fn all_serve(cluster: &LocalCluster) {
    for node in &cluster.nodes {
        eventually("a node serves", || async {
            view(&node.client_addr).await.filter(|view| view.leader_id != 0)
        })
        .await;
    }
}

/// One to three nodes go down, in one way or another, and come back.
async fn restart_some(cluster: &mut LocalCluster, rng: &mut StdRng) -> (String, usize) {
    let (mut ids, mut restarts) = (vec![1, 2, 3], 0);
    let mut step = String::new();
    for _ in 0..rng.random_range(1..=3) {
        let id = ids.swap_remove(rng.random_range(0..ids.len()));
        let how = rng.random_range(0..4);
        step += &format!("{id}/{how} ");
        let node = cluster.node(id).unwrap();
        match how {
            0 => assert!(node.stop().unwrap().success()),
            1 => {
                // Peers give its sessions up, and it does not know that.
                node.signal(Signal::STOP).unwrap();
                tokio::time::sleep(Duration::from_millis(rng.random_range(1..900))).await;
                node.signal(Signal::CONT).unwrap();
                continue;
            }
            2 => {
                node.kill().unwrap();
                node.start().unwrap();
                // In the middle of a start.
                tokio::time::sleep(Duration::from_millis(rng.random_range(0..120))).await;
                node.kill().unwrap();
                restarts += 1;
            }
            _ => {
                node.kill().unwrap();
            }
        }
        cluster.node(id).unwrap().start().unwrap();
        restarts += 1;
    }
    (step, restarts)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_healthy_node_is_refused_in_any_order_of_restarts() {
    let seed = number("INDELIBLE_SEED").unwrap_or_else(rand::random);
    let wanted = number("INDELIBLE_RESTARTS").map_or(RESTARTS, |count| count as usize);
    println!("INDELIBLE_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut cluster = three_nodes();
    let sdk = client(&cluster).await;
    let stop = Arc::new(AtomicBool::new(false));
    let caller = tokio::spawn(append_until(sdk.clone(), stop.clone()));
    let mut restarts = 0;
    while restarts < wanted {
        let (step, done) = restart_some(&mut cluster, &mut rng).await;
        restarts += done;
        all_serve(&cluster).await;
        assert_no_refusal(&mut cluster, &step);
    }
    stop.store(true, Ordering::Relaxed);
    let count = caller.await.unwrap();
    println!("{restarts} restarts, {count} events");
    let trail = Trail::read_everywhere(&cluster, &sdk).await;
    assert_eq!(trail.events_by_producer().values().map(Vec::len).sum::<usize>(), count as usize);
    assert_no_refusal(&mut cluster, "all of it");
    stop_and_compare(&mut cluster);
}
