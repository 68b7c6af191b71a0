//! From clear text to TLS, node by node, under load.

use indelible_client::{Client, Options};
use indelible_core::limits::CLIENT_UNKNOWN_CONNECTIONS_MAX;
use indelible_local::LocalCluster;
use indelible_testkit::fail::{environment, within};
use tokio::net::TcpStream;

use super::load::Load;
use super::wire::{Attacker, H2, greets, metric, refused};
use crate::harness::{BINARY, PATIENCE, client, eventually, options, start, stop_and_compare};

const HEALTH: &str = "/grpc.health.v1.Health/Check";

/// Options of a client that still speaks clear text.
fn clear(cluster: &LocalCluster) -> Options {
    let options = options(cluster);
    Options { tls: None, clear_text: true, ..options }
}

fn in_clear_text(nodes: u64) -> LocalCluster {
    start(indelible_local::LocalOptions {
        binary: BINARY.into(),
        nodes,
        segment_bytes: Some(128 * 1024),
        config: String::new(),
        clear_text: true,
    })
}

/// A client that still speaks clear text, of a group that has a leader.
async fn clear_client(cluster: &LocalCluster) -> Client {
    let connect = || async { Client::connect_with(clear(cluster)).await.ok() };
    let client = eventually("a node answers", connect).await;
    within(PATIENCE, "a leader", client.wait_for_leader()).await;
    client
}

/// Stops a node in order, changes its setting, and waits until it has caught up.
async fn restart(cluster: &mut LocalCluster, id: u64, from: &str, to: &str) {
    let target = newest(cluster).await;
    let node = cluster.node(id).unwrap();
    assert!(node.stop().unwrap().success(), "{}", node.log_tail());
    let config = std::fs::read_to_string(&node.config).unwrap();
    assert!(config.contains(from), "{config}");
    std::fs::write(&node.config, config.replace(from, to)).unwrap();
    node.start().unwrap();
    let addr = node.probe_addr.clone();
    eventually("the node is ready again", || async {
        let addr = addr.clone();
        let ask =
            move || std::net::TcpStream::connect(&addr).map(|_| crate::http::get(&addr, "/readyz"));
        let answer = tokio::task::spawn_blocking(ask).await.unwrap();
        answer.is_ok_and(|answer| answer.status == 200).then_some(())
    })
    .await;
    eventually("the node has caught up", || async {
        let node = cluster.nodes.iter().find(|node| node.id == id).unwrap();
        (metric(node, "indelible_tree_size").await >= target).then_some(())
    })
    .await;
}

async fn newest(cluster: &LocalCluster) -> f64 {
    let mut newest: f64 = 0.0;
    for node in &cluster.nodes {
        newest = newest.max(metric(node, "indelible_tree_size").await);
    }
    newest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a26_accept_to_require_rolling() {
    let mut cluster = in_clear_text(3);
    let old = clear_client(&cluster).await;
    let load = Load::start(&old, b"in clear text...").await;
    load.goes_on(20).await;
    // TLS is not understood yet.
    assert!(greets(&cluster.nodes[0].client_addr, None, H2).await.is_err());

    // The first round: both are accepted.
    for id in 1..=3 {
        restart(&mut cluster, id, "tls.mode = \"off\"", "tls.mode = \"accept\"").await;
        load.goes_on(20).await;
    }
    for node in &cluster.nodes {
        assert_eq!(greets(&node.client_addr, None, H2).await, Ok(()), "node {}", node.id);
        assert_eq!(metric(node, "indelible_insecure").await, 1.0);
    }
    // Callers move at any time before the second round.
    let new = client(&cluster).await;
    let over_tls = Load::start(&new, b"and over TLS....").await;
    over_tls.goes_on(20).await;
    let clear_calls = load.finish(&cluster, &new).await;
    drop(old);

    // The second round: nothing but TLS.
    for id in 1..=3 {
        restart(&mut cluster, id, "tls.mode = \"accept\"", "tls.mode = \"require\"").await;
        over_tls.goes_on(20).await;
    }
    for node in &cluster.nodes {
        assert_eq!(metric(node, "indelible_insecure").await, 0.0, "node {}", node.id);
    }
    let careless = Client::connect_with(clear(&cluster)).await.map(drop);
    let refusal = careless.unwrap_err().to_string();
    assert!(refusal.contains("speaks TLS"), "{refusal}");
    let tls_calls = over_tls.finish(&cluster, &new).await;
    assert!(clear_calls >= 60 && tls_calls >= 60, "{clear_calls} and {tls_calls} calls");
    stop_and_compare(&mut cluster);
}

/// More than an address may have that could show a certificate and does not.
async fn many_in_clear_text(addr: &str) -> Vec<Attacker> {
    let mut clients = Vec::new();
    for number in 0..CLIENT_UNKNOWN_CONNECTIONS_MAX + 8 {
        let stream = match TcpStream::connect(addr).await {
            Ok(stream) => stream,
            Err(error) => environment(format_args!("connection {number}: {error}")),
        };
        let mut client = Attacker::over(stream).await.unwrap();
        assert_eq!(client.call(HEALTH).await, Ok(0));
        clients.push(client);
    }
    clients
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clear_text_clients_do_not_push_each_other_out() {
    let mut cluster = in_clear_text(1);
    drop(clear_client(&cluster).await);
    for mode in ["off", "accept"] {
        if mode == "accept" {
            restart(&mut cluster, 1, "tls.mode = \"off\"", "tls.mode = \"accept\"").await;
        }
        let node = &cluster.nodes[0];
        let mut clients = many_in_clear_text(&node.client_addr).await;
        for client in &mut clients {
            assert_eq!(client.call(HEALTH).await, Ok(0), "{mode}");
        }
        assert_eq!(refused(node, "client", "closed").await, 0.0, "{mode}");
    }
    // Over TLS they could show who they are.
    let node = &cluster.nodes[0];
    let mut strangers = Vec::new();
    for _ in 0..=CLIENT_UNKNOWN_CONNECTIONS_MAX {
        strangers.push(Attacker::connect(&node.client_addr, None).await);
    }
    strangers.swap_remove(0).ended("the oldest stranger makes room").await;
    assert_eq!(refused(node, "client", "closed").await, 1.0);
}
