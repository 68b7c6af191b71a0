//! Never lost, never twice: real audit files are imported while leaders are killed, and all nodes
//! at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indelible_client::{Level, ProducerId, Receipt};
use indelible_local::{LocalCluster, Signal};
use prost::Message;
use serde_json::Value;

use crate::harness::{
    CLOUDTRAIL, PATIENCE, SSHD, Trail, client, data, eventually, indelible_at, leader, stdout,
    stop_and_compare, three_nodes, view,
};

/// Imports both files under names of their own, over and over, until told to stop. Returns the
/// names.
async fn import_until(
    endpoints: Vec<String>,
    stop: Arc<AtomicBool>,
) -> Vec<(String, &'static str)> {
    let mut names = Vec::new();
    for round in 0.. {
        for (format, file) in [("cloudtrail", CLOUDTRAIL), ("syslog", SSHD)] {
            let name = format!("{format}-{round}");
            import(&endpoints, format, file, &name).await;
            names.push((name, file));
        }
        if stop.load(Ordering::Relaxed) {
            return names;
        }
    }
    unreachable!("the rounds do not end by themselves")
}

async fn import(endpoints: &[String], format: &str, file: &str, name: &str) -> Value {
    let path = data(file);
    let path = path.to_str().unwrap();
    let args = ["import", "--timeout", "60", "--format", format, "--producer", name, path];
    let output = indelible_at(endpoints, &args).await;
    let text = stdout(&output);
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

/// One caller of the SDK that appends until told to stop. Returns what was acknowledged.
async fn append_until(
    client: indelible_client::Client,
    id: ProducerId,
    stop: Arc<AtomicBool>,
) -> Vec<(indelible_client::Event, Receipt)> {
    let producer = client.producer(id, "caller").open().await.unwrap();
    let mut acknowledged = Vec::new();
    let mut number = 0u64;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let event = indelible::cli::generate::event(number);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let receipt = producer.append_with_deadline(event.clone(), deadline).await.unwrap();
        acknowledged.push((event, receipt));
    }
    acknowledged
}

async fn kill_leader_and_restart(cluster: &mut LocalCluster) {
    let id = leader(cluster).await;
    cluster.node(id).unwrap().kill().unwrap();
    let next = leader(cluster).await;
    assert_ne!(next, id);
    cluster.node(id).unwrap().start().unwrap();
    caught_up(cluster).await;
}

/// Every node is up and has applied what the leader had committed when this was called.
async fn caught_up(cluster: &LocalCluster) {
    let target = eventually("a leader with a tree", || async {
        for node in &cluster.nodes {
            if let Some(view) = view(&node.client_addr).await
                && view.leader_id == view.node_id
            {
                return Some(view.committed_index);
            }
        }
        None
    })
    .await;
    for node in &cluster.nodes {
        eventually("a node catches up", || async {
            view(&node.client_addr).await.filter(|view| view.applied_index >= target)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_twice_while_leaders_and_whole_groups_die() {
    let mut cluster = three_nodes();
    let sdk = client(&cluster).await;
    let stop = Arc::new(AtomicBool::new(false));
    let imports = tokio::spawn(import_until(cluster.endpoints(), stop.clone()));
    let id = ProducerId(*b"a chaos caller!!");
    let caller = tokio::spawn(append_until(sdk.clone(), id, stop.clone()));

    for round in 0..3 {
        kill_leader_and_restart(&mut cluster).await;
        kill_leader_and_restart(&mut cluster).await;
        for node in &mut cluster.nodes {
            node.kill().unwrap();
        }
        for node in &mut cluster.nodes {
            node.start().unwrap();
        }
        caught_up(&cluster).await;
        eprintln!("round {round}: two leaders and one whole group killed");
    }
    stop.store(true, Ordering::Relaxed);
    let names = imports.await.unwrap();
    let acknowledged = caller.await.unwrap();
    assert!(!acknowledged.is_empty() && names.len() >= 2);

    // Importing again records nothing.
    for (name, file) in &names {
        let format = name.split('-').next().unwrap();
        let summary = import(&cluster.endpoints(), format, file, name).await;
        assert_eq!(summary["recorded"], 0, "{name}: {summary}");
        assert_eq!(summary["events"], summary["duplicates"], "{name}: {summary}");
    }

    let trail = Trail::read_everywhere(&cluster, &sdk).await;
    let events = trail.events_by_producer();
    check_imports(&events, &names);
    assert_eq!(events[&id.0.to_vec()].len(), acknowledged.len(), "never twice");
    for (event, receipt) in &acknowledged {
        let (leaf, bytes) = &trail.records[receipt.index as usize];
        assert_eq!(*leaf, receipt.leaf, "never altered");
        assert_eq!(*bytes, event.encode_to_vec(), "never altered");
    }
    eprintln!(
        "{} records, {} imports, {} calls",
        trail.records.len(),
        names.len(),
        acknowledged.len()
    );
    assert!(stop_and_compare(&mut cluster) > 0, "some segments were sealed");
}

/// Every line of every imported file is there, once, in order, byte for byte.
fn check_imports(events: &BTreeMap<Vec<u8>, Vec<Vec<u8>>>, names: &[(String, &str)]) {
    for (name, file) in names {
        let text = std::fs::read(data(file)).unwrap();
        let lines: Vec<&[u8]> = text
            .split(|byte| *byte == b'\n')
            .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
            .filter(|line| !line.is_empty())
            .collect();
        let producer = indelible::cli::output::producer_id(name);
        let recorded = &events[&producer.0.to_vec()];
        assert_eq!(recorded.len(), lines.len(), "{name}");
        for (line, event) in lines.iter().zip(recorded) {
            let event = indelible_client::Event::decode(&event[..]).unwrap();
            let raw = event.raw.unwrap().bytes;
            let raw = raw.strip_suffix(b"\r").unwrap_or(&raw);
            assert_eq!(raw, *line, "{name}: the original line is kept");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_leader_that_wakes_up_changes_nothing() {
    let mut cluster = three_nodes();
    let sdk = client(&cluster).await;
    let stop = Arc::new(AtomicBool::new(false));
    let id = ProducerId(*b"a patient caller");
    let size = || async { sdk.tree_head(Level::Linearizable).await.unwrap().tree_size };
    let empty = size().await;
    let caller = tokio::spawn(append_until(sdk.clone(), id, stop.clone()));
    // Its opening and its first event: a loaded machine may take longer to begin than two pauses.
    eventually("the caller has begun", || async { (size().await >= empty + 2).then_some(()) })
        .await;
    for _ in 0..2 {
        let paused = leader(&cluster).await;
        cluster.node(paused).unwrap().signal(Signal::STOP).unwrap();
        let others: Vec<String> = cluster
            .nodes
            .iter()
            .filter(|node| node.id != paused)
            .map(|node| node.client_addr.clone())
            .collect();
        eventually("another leader", || async {
            for addr in &others {
                if let Some(view) = view(addr).await
                    && view.leader_id == view.node_id
                {
                    return Some(());
                }
            }
            None
        })
        .await;
        cluster.node(paused).unwrap().signal(Signal::CONT).unwrap();
        caught_up(&cluster).await;
    }
    stop.store(true, Ordering::Relaxed);
    let acknowledged = caller.await.unwrap();
    let trail = Trail::read_everywhere(&cluster, &sdk).await;
    let found = trail.events_by_producer().get(id.0.as_slice()).map_or(0, Vec::len);
    assert_eq!(found, acknowledged.len());
    assert!(found > 0);
    stop_and_compare(&mut cluster);
}
