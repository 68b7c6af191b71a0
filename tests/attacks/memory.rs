//! Messages that are begun and never finished.

use std::future::Future;
use std::pin::Pin;

use indelible_core::limits::{
    BODY_DEADLINE, BODY_OVERHEAD_BYTES, CLIENT_MESSAGE_BYTES_MAX, CLIENT_STREAMED_REQUESTS_MAX,
    CLIENT_UNKNOWN_BODIES_BYTES_MAX, HANDSHAKE_BYTES_MAX, RAFT_BODIES_OF_A_NODE_BYTES_MAX,
    RAFT_MESSAGE_BYTES_MAX, RAFT_STREAMED_REQUESTS_MAX, RAFT_STREAMS_MAX,
    RAFT_UNPROVEN_CONNECTIONS_MAX, STREAMS_KNOWN_MAX, STREAMS_UNKNOWN_MAX,
};
use indelible_local::LocalNode;
use indelible_testkit::fail::within;
use indelible_tls::Role;
use indelible_tls::exporter_of_client;
use indelible_tls::issue::Issued;
use prost::Message;
use tonic::Code;

use super::load::Load;
use super::wire::{
    Attacker, Forge, H2, HalfSent, identity_of, memory_peak_mib, tcp_from, tls_over,
};
use crate::harness::{PATIENCE, client, eventually, leader, nodes_with, view};
use crate::thief::Thief;

/// What a node may have had at most, under 256 half-sent messages on each of 100 connections.
/// Three of them offer almost five times what the budget holds.
const PEAK_MIB: u64 = 400;
const CONNECTIONS: usize = 3;

const APPEND: &str = "/indelible.v1.AuditLog/Append";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const HEALTH: &str = "/grpc.health.v1.Health/Check";
const HANDSHAKE: &str = "/indelible.raft.v1.Raft/Handshake";
const RAFT_APPEND: &str = "/indelible.raft.v1.Raft/Append";
const PUBLISH: &str = "/indelible.raft.v1.Publication/Publish";

/// How the requests end: those that were refused at once, and those whose time ran out.
async fn endings(requests: Vec<HalfSent>) -> (usize, usize) {
    let (mut refused, mut late) = (0, 0);
    for request in requests {
        match request.status().await.map(Code::from_i32) {
            Ok(Code::ResourceExhausted) => refused += 1,
            Ok(Code::DeadlineExceeded) => late += 1,
            // Begun before the number of streams at once was known.
            Err(error) if error.contains("refused stream") => refused += 1,
            other => panic!("half a message ended with {other:?}"),
        }
    }
    (refused, late)
}

type Status = Pin<Box<dyn Future<Output = Result<i32, String>> + Send>>;

/// One of the streams, whichever comes last, is one too many; the others stay open.
async fn one_is_refused(streams: Vec<HalfSent>) -> Vec<Status> {
    let statuses = streams.into_iter().map(|stream| Box::pin(stream.status()) as Status);
    let (status, _, held) = futures_util::future::select_all(statuses).await;
    assert_eq!(status, Ok(Code::ResourceExhausted as i32));
    held
}

fn size(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap()
}

/// Half-sent messages on each stream of so many connections of a client. They hold no more than
/// the budget, and the memory that a node may need.
async fn half_send(node: &LocalNode, app: &Issued, connections: usize) -> Vec<Attacker> {
    let before = memory_peak_mib(node);
    let (mut attackers, mut requests) = (Vec::new(), Vec::new());
    for _ in 0..connections {
        let mut attacker = Attacker::connect(&node.client_addr, Some(app)).await;
        for _ in 0..STREAMS_KNOWN_MAX {
            requests.push(attacker.half_sent(APPEND, size(CLIENT_MESSAGE_BYTES_MAX)).await);
        }
        attackers.push(attacker);
    }
    let (refused, late) = endings(requests).await;
    let peak = memory_peak_mib(node);
    eprintln!("{refused} refused, {late} late; {before} MiB before, {peak} MiB at most");
    assert!(peak <= PEAK_MIB, "{peak} MiB");
    assert!(refused > 0 && late > 0, "{refused} refused, {late} late");
    attackers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a20_unfinished_messages_pin_no_memory() {
    let cluster = nodes_with(1, None, "");
    let sdk = client(&cluster).await;
    let (node, app) = (&cluster.nodes[0], Forge::of(&cluster).client("app"));
    let mut attackers = half_send(node, &app, CONNECTIONS).await;
    // All of the budget is there again, at once, for those who mean it.
    let load = Load::start(&sdk, b"after the attack").await;
    within(BODY_DEADLINE, "the budget is free again", load.goes_on(10)).await;
    let mut attacker = attackers.pop().unwrap();
    let whole = usize::try_from(STREAMS_KNOWN_MAX).unwrap() / 2;
    let mut requests = Vec::new();
    for _ in 0..whole {
        requests.push(attacker.half_sent(APPEND, size(CLIENT_MESSAGE_BYTES_MAX)).await);
    }
    assert_eq!(
        endings(requests).await,
        (0, whole),
        "half of the budget holds half of the messages"
    );
    load.finish(&cluster, &sdk).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes long: scripts/full.sh runs it"]
async fn a20_a_hundred_connections_pin_no_memory() {
    let cluster = nodes_with(1, None, "");
    client(&cluster).await;
    let (node, app) = (&cluster.nodes[0], Forge::of(&cluster).client("app"));
    drop(half_send(node, &app, 100).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a20_strangers_use_up_no_budget_of_clients() {
    let cluster = nodes_with(1, None, "");
    let sdk = client(&cluster).await;
    let node = &cluster.nodes[0];
    // Twice what their own budget holds, and more than that of clients.
    let held =
        CLIENT_UNKNOWN_BODIES_BYTES_MAX / (BODY_OVERHEAD_BYTES as usize + HANDSHAKE_BYTES_MAX);
    let streams = STREAMS_UNKNOWN_MAX as usize;
    let (mut attackers, mut requests) = (Vec::new(), Vec::new());
    for _ in 0..2 * held / streams {
        let stream = tcp_from(2, &node.client_addr).await.unwrap();
        let stream = tls_over(stream, None, H2).await.unwrap();
        let mut attacker = Attacker::over(stream).await.unwrap();
        for _ in 0..streams {
            requests.push(attacker.half_sent(HEALTH, size(HANDSHAKE_BYTES_MAX - 5)).await);
        }
        attackers.push(attacker);
    }
    let load = Load::start(&sdk, b"among strangers!").await;
    within(BODY_DEADLINE, "clients are served meanwhile", load.goes_on(10)).await;
    let (refused, late) = endings(requests).await;
    assert!(refused > 0 && late > 0, "{refused} refused, {late} late");
    // And no stranger sends more than such a call can need.
    let more = attackers[0].half_sent(HEALTH, size(4 * HANDSHAKE_BYTES_MAX)).await;
    assert_eq!(endings(vec![more]).await, (1, 0));
    load.finish(&cluster, &sdk).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a20_streams_of_messages_are_few() {
    let cluster = nodes_with(1, None, "");
    client(&cluster).await;
    let (node, app) = (&cluster.nodes[0], Forge::of(&cluster).client("app"));
    let mut attacker = Attacker::connect(&node.client_addr, Some(&app)).await;
    let mut streams = Vec::new();
    for _ in 0..CLIENT_STREAMED_REQUESTS_MAX {
        streams.push(attacker.half_sent(REFLECTION, 4 << 20).await);
    }
    // Of all connections together.
    let mut other = Attacker::connect(&node.client_addr, Some(&app)).await;
    streams.push(other.half_sent(REFLECTION, 4 << 20).await);
    let mut held = one_is_refused(streams).await;
    drop(held.pop());
    eventually("the place is free again", || async {
        let mut other = Attacker::connect(&node.client_addr, Some(&app)).await;
        // No message at all is answered with success.
        let empty = other.begin(REFLECTION, Default::default(), true).await.unwrap();
        (empty.status().await == Ok(0)).then_some(())
    })
    .await;
    let peak = memory_peak_mib(node);
    assert!(peak <= PEAK_MIB, "{peak} MiB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a20_unproven_nodes_pin_no_memory() {
    let mut cluster = nodes_with(3, None, "");
    let sdk = client(&cluster).await;
    let leads = leader(&cluster).await;
    let away = if leads == 1 { 2 } else { 1 };
    cluster.node(away).unwrap().kill().unwrap();
    let load = Load::start(&sdk, b"beside the nodes").await;

    // Their certificate is good, and they prove nothing.
    let thief = Forge::of(&cluster).issue(Role::Node(9));
    let victim = cluster.nodes.iter().find(|node| node.id == leads).unwrap();
    let (mut attackers, mut requests) = (Vec::new(), Vec::new());
    for _ in 0..RAFT_UNPROVEN_CONNECTIONS_MAX {
        let stream = tcp_from(2, &victim.raft_addr).await.unwrap();
        let stream = tls_over(stream, Some(&thief), H2).await.unwrap();
        let Ok(mut attacker) = Attacker::over(stream).await else { continue };
        for _ in 0..RAFT_STREAMS_MAX {
            requests.push(attacker.half_sent(HANDSHAKE, size(HANDSHAKE_BYTES_MAX - 5)).await);
        }
        attackers.push(attacker);
    }
    // One that is more than a handshake.
    let mut attacker = Attacker::connect(&victim.raft_addr, Some(&thief)).await;
    let large = attacker.half_sent(HANDSHAKE, size(8 * HANDSHAKE_BYTES_MAX)).await;
    assert_eq!(endings(vec![large]).await, (1, 0));
    let target = view(&victim.client_addr).await.unwrap().committed_index;
    cluster.node(away).unwrap().start().unwrap();
    let addr = cluster.node(away).unwrap().client_addr.clone();
    eventually("a node proves itself among them", || async {
        view(&addr).await.filter(|view| view.applied_index >= target)
    })
    .await;
    load.goes_on(10).await;
    let victim = cluster.node(leads).unwrap();
    let peak = memory_peak_mib(victim);
    eprintln!("{} half-sent handshakes, {peak} MiB at most", requests.len());
    assert!(peak <= PEAK_MIB, "{peak} MiB");
    load.finish(&cluster, &sdk).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a20_a_proven_node_pins_little_memory() {
    let mut cluster = nodes_with(3, None, "");
    client(&cluster).await;
    let leads = leader(&cluster).await;
    let stolen = if leads == 1 { 2 } else { 1 };
    let node = cluster.node(stolen).unwrap();
    node.kill().unwrap();
    let (thief, identity) = (Thief::new(&node.data_dir), identity_of(node));
    let victim = cluster.nodes.iter().find(|node| node.id == leads).unwrap();

    let stream = tcp_from(2, &victim.raft_addr).await.unwrap();
    let stream = tls_over(stream, Some(&identity), H2).await.unwrap();
    let binding = exporter_of_client(stream.get_ref().1).unwrap();
    let mut attacker = Attacker::over(stream).await.unwrap();
    let hello = thief.hello(leads, binding).encode_to_vec();
    let message = [&[0][..], &size(hello.len()).to_be_bytes(), &hello].concat();
    let welcome = attacker.begin(HANDSHAKE, message.into(), true).await.unwrap();
    assert_eq!(within(PATIENCE, "a welcome", welcome.status()).await, Ok(0));

    let message = size(RAFT_MESSAGE_BYTES_MAX);
    let mut streams = Vec::new();
    for _ in 0..=RAFT_STREAMED_REQUESTS_MAX {
        streams.push(attacker.half_sent(RAFT_APPEND, message).await);
    }
    let _held = one_is_refused(streams).await;
    let mut requests = Vec::new();
    for _ in RAFT_STREAMED_REQUESTS_MAX..RAFT_STREAMS_MAX as usize {
        requests.push(attacker.half_sent(PUBLISH, message).await);
    }
    let offered = requests.len();
    let (refused, late) = endings(requests).await;
    assert_eq!(refused + late, offered);
    assert!(late <= RAFT_BODIES_OF_A_NODE_BYTES_MAX / RAFT_MESSAGE_BYTES_MAX, "{late} held");
    let peak = memory_peak_mib(victim);
    eprintln!("{refused} refused, {late} late; {peak} MiB at most");
    assert!(peak <= PEAK_MIB, "{peak} MiB");
}
