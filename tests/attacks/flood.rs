//! Too many connections, and too many requests on one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use indelible_core::limits::{
    CLIENT_CONNECTIONS_MAX, CLIENT_UNKNOWN_CONNECTIONS_MAX, HANDSHAKE_DEADLINE,
    HTTP_CONNECTIONS_MAX, RAFT_UNPROVEN_CONNECTIONS_MAX,
};
use indelible_local::LocalNode;
use indelible_testkit::fail::{environment, within};
use indelible_tls::issue::Issued;
use rustix::process::{Resource, getrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use super::load::Load;
use super::wire::{
    END_HEADERS, Forge, GOAWAY, H2, HEADERS, PREFACE, RST_STREAM, drained, frame, frames,
    greets_over, headers, refused, tcp_from, tls,
};
use crate::harness::{PATIENCE, client, eventually, leader, nodes_with, view};

/// Of one node; the machine's own limit is higher.
const SOCKETS: usize = 10_000;
/// Sockets of everything else in this process.
const OTHERS: usize = 2_000;

/// Sockets that a node has open on its ports. Counted for the whole machine, as only root may look
/// into the node; a socket that is nobody's any more, or was not accepted yet, has inode 0.
fn open_sockets(node: &LocalNode) -> usize {
    let ports = [&node.client_addr, &node.raft_addr, &node.http_addr].map(|addr| {
        let port: u16 = addr.rsplit_once(':').unwrap().1.parse().unwrap();
        format!(":{port:04X}")
    });
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let is_open = |line: &&str| {
        let mut fields = line.split_whitespace();
        let local = fields.nth(1).unwrap_or_default();
        ports.iter().any(|port| local.ends_with(port))
            && fields.nth(7).is_some_and(|inode| inode != "0")
    };
    sockets.lines().filter(is_open).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s12_ten_thousand_silent_sockets() {
    let cluster = nodes_with(1, None, "");
    let sdk = client(&cluster).await;
    let node = &cluster.nodes[0];
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let count = SOCKETS.min(limit.saturating_sub(OTHERS));
    assert!(count > 1_000, "environment: {limit} open files are too few; hint: ulimit -n");

    let load = Load::start(&sdk, b"among the silent").await;
    let began = Instant::now();
    let (mut silent, mut peak) = (JoinSet::new(), 0);
    for number in 0..count {
        let addr = [&node.client_addr, &node.raft_addr, &node.http_addr][number % 3];
        // Of one address, a client port would hold no more than a few.
        let host = u8::try_from(2 + number % 100).unwrap();
        let stream = match tcp_from(host, addr).await {
            Ok(stream) => stream,
            Err(error) => environment(format_args!("connection {number}: {error}")),
        };
        let limit = Duration::from_secs(30);
        silent.spawn(async move { drop(drained("a silent socket ends", limit, stream).await) });
        if number % 256 == 0 {
            peak = peak.max(open_sockets(node));
        }
    }
    peak = peak.max(open_sockets(node));
    while let Some(ended) = silent.join_next().await {
        ended.unwrap();
    }
    eprintln!("{count} sockets closed in {:?}, at most {peak} open at once", began.elapsed());
    let places = CLIENT_CONNECTIONS_MAX + RAFT_UNPROVEN_CONNECTIONS_MAX + HTTP_CONNECTIONS_MAX;
    assert!(peak > 0, "none was counted");
    assert!(peak < places + 256, "{peak} open sockets for {places} places");
    load.goes_on(1).await;
    load.finish(&cluster, &sdk).await;
}

/// Connects again and again, and shows nothing.
fn flood(addrs: Vec<String>, tasks: usize) -> (JoinSet<()>, Arc<AtomicUsize>) {
    let (mut flood, made) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)));
    for number in 0..tasks {
        let (addr, made) = (addrs[number % addrs.len()].clone(), made.clone());
        flood.spawn(async move {
            loop {
                if let Ok(mut stream) = tcp_from(2, &addr).await {
                    made.fetch_add(1, Ordering::Relaxed);
                    // Until the node closes.
                    let _ = stream.read(&mut [0]).await;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
    }
    (flood, made)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a23_connection_flood_leaves_raft_alone() {
    // Only what loses connections may cost the leader its place, not a machine that is busy.
    let patient = "raft.election_timeout_min_ms = 4000\nraft.election_timeout_max_ms = 8000\n";
    let mut cluster = nodes_with(3, None, patient);
    let sdk = client(&cluster).await;
    let leads = leader(&cluster).await;
    let of_leader = |cluster: &indelible_local::LocalCluster| {
        cluster.nodes.iter().find(|node| node.id == leads).unwrap().client_addr.clone()
    };
    let term = view(&of_leader(&cluster)).await.unwrap().term;

    let nodes = cluster.nodes.iter();
    let of_node = |node: &LocalNode| {
        let (raft, client) = (node.raft_addr.clone(), node.client_addr.clone());
        [raft, client.clone(), client]
    };
    let (flood, made) = flood(nodes.flat_map(of_node).collect(), 1_800);
    // As many as all places that strangers of one address have, and then some.
    let wanted = 3 * (RAFT_UNPROVEN_CONNECTIONS_MAX + CLIENT_UNKNOWN_CONNECTIONS_MAX) + 600;
    eventually("the flood comes", || async {
        (made.load(Ordering::Relaxed) > wanted).then_some(())
    })
    .await;
    let load = Load::start(&sdk, b"before the flood").await;
    load.goes_on(50).await;

    let follower = if leads == 1 { 2 } else { 1 };
    cluster.node(follower).unwrap().kill().unwrap();
    load.goes_on(10).await;
    cluster.node(follower).unwrap().start().unwrap();
    let target = view(&of_leader(&cluster)).await.unwrap().committed_index;
    let addr = cluster.node(follower).unwrap().client_addr.clone();
    eventually("the node that was away joins again", || async {
        view(&addr).await.filter(|view| view.applied_index >= target)
    })
    .await;
    // A caller that comes only now gets in too.
    let late = client(&cluster).await;
    let other = Load::start(&late, b"during the flood").await;
    other.goes_on(10).await;
    other.finish(&cluster, &late).await;
    load.finish(&cluster, &sdk).await;

    let after = view(&of_leader(&cluster)).await.unwrap();
    assert_eq!((after.leader_id, after.term), (leads, term), "the leader stays");
    for port in ["raft", "client"] {
        let node = cluster.nodes.iter().find(|node| node.id == leads).unwrap();
        let closed = refused(node, port, "oldest").await;
        assert!(closed > 0.0, "the {port} port was never full");
    }
    eprintln!("{} connections", made.load(Ordering::Relaxed));
    drop(flood);
}

/// Opens a connection from a host of its own, fills the raft port from another one, and only then
/// begins the handshake. Whether it was let in; none if that took longer than a handshake may.
async fn slow_among_many(node: &LocalNode, peer: &Issued) -> Option<Result<(), String>> {
    let began = Instant::now();
    let connect = async |host| match tcp_from(host, &node.raft_addr).await {
        Ok(stream) => stream,
        Err(error) => environment(format_args!("a connection from 127.0.0.{host}: {error}")),
    };
    let slow = connect(1).await;
    let first = connect(2).await;
    let mut flood = Vec::new();
    for _ in 0..RAFT_UNPROVEN_CONNECTIONS_MAX {
        flood.push(connect(2).await);
    }
    drained("the first of the flood makes room", PATIENCE, first).await;
    let greeted = greets_over(slow, Some(peer), H2).await;
    (began.elapsed() < HANDSHAKE_DEADLINE).then_some(greeted)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a23_a_flood_pushes_out_its_own_connections() {
    let cluster = nodes_with(1, None, "");
    client(&cluster).await;
    let (node, peer) = (&cluster.nodes[0], Forge::of(&cluster).issue(indelible_tls::Role::Node(2)));
    let greeted = eventually("a handshake in time", || slow_among_many(node, &peer)).await;
    assert_eq!(greeted, Ok(()), "the oldest of all, and the only one of its host");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a24_rapid_reset() {
    let cluster = nodes_with(1, None, "");
    let sdk = client(&cluster).await;
    let (node, forge) = (&cluster.nodes[0], Forge::of(&cluster));
    let (app, peer) = (forge.client("app"), forge.issue(indelible_tls::Role::Node(2)));
    let load = Load::start(&sdk, b"beside the reset").await;
    for (addr, who, path) in [
        (&node.client_addr, None, "/grpc.health.v1.Health/Check"),
        (&node.client_addr, Some(&app), "/indelible.v1.AuditLog/Append"),
        (&node.raft_addr, Some(&peer), "/indelible.raft.v1.Raft/Handshake"),
    ] {
        let mut stream = tls(addr, who, H2).await.unwrap();
        stream.write_all(PREFACE).await.unwrap();
        let block = headers(path);
        let (from, mut to) = tokio::io::split(stream);
        let resets = async {
            let pair = |id| [frame(HEADERS, END_HEADERS, id, &block), reset(id)].concat();
            for burst in 0..1_000u32 {
                let ids = (0..200).map(|number| 1 + 2 * (200 * burst + number));
                let bytes: Vec<u8> = ids.flat_map(pair).collect();
                if to.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            panic!("{path}: 200,000 requests were begun and taken back on one connection");
        };
        let ((), answer) = tokio::join!(resets, drained(path, Duration::from_secs(60), from));
        let goodbye = frames(&answer).into_iter().find(|(kind, _)| *kind == GOAWAY);
        // Its payload: the last stream, then why (RFC 9113, 6.8): ENHANCE_YOUR_CALM.
        let why = goodbye.map(|(_, payload)| payload[4..8].to_vec());
        assert!(why.is_none_or(|why| why == [0, 0, 0, 0x0b]), "{path}");
    }
    within(Duration::from_secs(60), "the load", load.goes_on(10)).await;
    load.finish(&cluster, &sdk).await;
}

/// CANCEL (RFC 9113, 7).
fn reset(id: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, id, &[0, 0, 0, 8])
}
