//! Who is let in, and how long somebody may take.

use std::time::Duration;

use indelible_client::Client;
use indelible_local::{LocalCluster, LocalNode, free_ports};
use indelible_testkit::fail::within;
use indelible_tls::Role;
use indelible_tls::issue::{Authority, Issued};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::wire::{
    Attacker, CONTINUATION, DATA, END_HEADERS, END_STREAM, Forge, H2, HEADERS, HTTP, PING, PREFACE,
    drained, frame, frames, greets, headers, refused, tls,
};
use crate::harness::{PATIENCE, client, nodes_with, options};

/// For what has to be over after 5 s, and after 10 s.
const AFTER_5_S: Duration = Duration::from_secs(9);
const AFTER_10_S: Duration = Duration::from_secs(14);
/// Between two bytes of somebody slow.
const SLOWLY: Duration = Duration::from_millis(200);
/// The same for frames of headers, of which HTTP/2 itself takes only a few.
const VERY_SLOWLY: Duration = Duration::from_secs(9);

const HEALTH: &str = "/grpc.health.v1.Health/Check";
const HANDSHAKE: &str = "/indelible.raft.v1.Raft/Handshake";

/// One node with all of its ports; the address of the metrics port.
fn one_node() -> (LocalCluster, String) {
    let metrics = format!("127.0.0.1:{}", free_ports(1).unwrap()[0]);
    (nodes_with(1, None, &format!("metrics_addr = \"{metrics}\"\n")), metrics)
}

/// Ports that speak TLS, with the protocol on them.
fn tls_ports<'a>(node: &'a LocalNode, metrics: &'a str) -> [(&'a str, &'a str, &'a str); 4] {
    [
        ("client", &node.client_addr, H2),
        ("raft", &node.raft_addr, H2),
        ("http", &node.http_addr, HTTP),
        ("metrics", metrics, HTTP),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a13_clear_text_is_refused() {
    let (cluster, metrics) = one_node();
    client(&cluster).await;
    let node = &cluster.nodes[0];
    for (port, addr, _) in tls_ports(node, &metrics) {
        for bytes in [PREFACE, b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"] {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            let answer = drained("the port closes", PATIENCE, stream).await;
            // Nothing, or a TLS alert.
            assert!(answer.first().is_none_or(|kind| *kind == 0x15), "{port}: {answer:?}");
        }
        assert_eq!(refused(node, port, "handshake").await, 2.0, "{port}");
    }
    let careless = indelible_client::Options { tls: None, clear_text: true, ..options(&cluster) };
    let error = Client::connect_with(careless).await.map(drop).unwrap_err().to_string();
    assert!(error.contains("speaks TLS"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a14_another_ca_is_refused() {
    let (cluster, metrics) = one_node();
    client(&cluster).await;
    let (node, ours) = (&cluster.nodes[0], Forge::of(&cluster));
    // The same names, and whatever is in them, under another key.
    let authority = Authority::new(&ours.trail).unwrap();
    let theirs = Forge { authority, trail: ours.trail };
    let roles = [Role::Admin("admin".into()), Role::Client("a".into()), Role::Node(1)];
    for (port, addr, protocol) in tls_ports(node, &metrics) {
        for role in roles.clone() {
            let (good, bad) = (ours.issue(role.clone()), theirs.issue(role.clone()));
            if port == "http" {
                // It asks for no certificate, so none is shown.
                assert_eq!(greets(addr, Some(&bad), protocol).await, Ok(()));
                continue;
            }
            let may = port != "raft" || role == Role::Node(1);
            let greeted = greets(addr, Some(&good), protocol).await;
            assert_eq!(greeted.is_ok(), may, "{port} {role:?}: {greeted:?}");
            let refusal = greets(addr, Some(&bad), protocol).await.expect_err(port);
            assert!(refusal.contains("UnknownCA"), "{port} {role:?}: {refusal}");
        }
    }
    // Nor does a client take a node of another authority for one of ours.
    let folder = cluster.dir().join("theirs.crt");
    std::fs::write(&folder, theirs.authority.cert_pem()).unwrap();
    let profile = std::fs::read_to_string(cluster.profile()).unwrap();
    let profile = profile.replace("ca/ca.crt", "theirs.crt");
    let path = cluster.dir().join("theirs.toml");
    std::fs::write(&path, profile).unwrap();
    let error = Client::from_profile(&path).await.map(drop).unwrap_err().to_string();
    assert!(error.contains("is not issued by"), "{error}");
}

/// Sends one byte after the other until the port closes.
async fn trickle<S>(
    what: &str,
    limit: Duration,
    stream: S,
    pace: Duration,
    byte: impl Fn(u8) -> Vec<u8>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (from, mut to) = tokio::io::split(stream);
    let sending = async {
        for number in (b'a'..=b'z').cycle() {
            if to.write_all(&byte(number)).await.is_err() {
                break;
            }
            tokio::time::sleep(pace).await;
        }
        // The other half says when it is over.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = drained(what, limit, from) => {}
        () = sending => {}
    }
}

/// A whole call with an empty message.
fn request(path: &str) -> Vec<u8> {
    let head = frame(HEADERS, END_HEADERS, 1, &headers(path));
    [head, frame(DATA, END_STREAM, 1, &[0; 5])].concat()
}

/// One whole request, then the beginning of another one, slowly.
async fn slow_http<S: AsyncRead + AsyncWrite + Unpin>(what: &str, mut stream: S) {
    stream.write_all(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut answer = [0; 4096];
    let read = within(PATIENCE, what, stream.read(&mut answer)).await.unwrap();
    assert!(answer[..read].starts_with(b"HTTP/1.1 200"), "{what}");
    stream.write_all(b"GET /livez HTTP/1.1\r\nx: ").await.unwrap();
    trickle(what, AFTER_5_S, stream, SLOWLY, |byte| vec![byte]).await;
}

/// Headers that never end (RFC 9113, 6.10), after a whole request or before any.
async fn slow_continuation(addr: &str, limit: Duration, begin: &[u8], stream_id: u32) {
    let mut stream = tls(addr, None, H2).await.unwrap();
    stream.write_all(PREFACE).await.unwrap();
    stream.write_all(begin).await.unwrap();
    stream.write_all(&frame(HEADERS, 0, stream_id, &headers("/a"))).await.unwrap();
    let one = |byte| frame(CONTINUATION, 0, stream_id, &[0, 1, byte, 1, byte]);
    trickle("headers that never end", limit, stream, VERY_SLOWLY, one).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a21_slow_headers_are_cut() {
    let (cluster, _) = one_node();
    client(&cluster).await;
    let node = &cluster.nodes[0];
    let http = tls(&node.http_addr, None, HTTP).await.unwrap();
    let probe = TcpStream::connect(&node.probe_addr).await.unwrap();
    // Later, only pings tell whether somebody is there, and who is in the midst of headers may not
    // answer them.
    let (after_pings, whole) = (Duration::from_secs(28), request(HEALTH));
    tokio::join!(
        slow_http("headers of the HTTP port", http),
        slow_http("headers of the probe port", probe),
        slow_continuation(&node.client_addr, AFTER_10_S, &[], 1),
        slow_continuation(&node.client_addr, after_pings, &whole, 3),
        long_headers(node),
    );
    assert_eq!(refused(node, "client", "silent").await, 1.0);
}

/// Two connections to a port make a call each, and say nothing more of their own. One of them
/// answers pings: it stays. The other one does not.
async fn only_pings(port: &str, addr: &str, who: &Issued, path: &str) {
    let mut lively = Attacker::connect(addr, Some(who)).await;
    lively.call(path).await.unwrap();
    let mut mute = tls(addr, Some(who), H2).await.unwrap();
    mute.write_all(&[PREFACE, &request(path)].concat()).await.unwrap();
    let heard = drained("a connection that answers no ping ends", PATIENCE, mute).await;
    let pings = frames(&heard).iter().filter(|(kind, _)| *kind == PING).count();
    assert_eq!(pings, 1, "{port}");
    lively.call(path).await.unwrap();
    assert!(!lively.is_over(), "{port}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a21_an_answer_to_a_ping_is_demanded() {
    let cluster = nodes_with(1, None, "");
    client(&cluster).await;
    let (node, forge) = (&cluster.nodes[0], Forge::of(&cluster));
    let (app, peer) = (forge.client("app"), forge.issue(Role::Node(2)));
    tokio::join!(
        only_pings("client", &node.client_addr, &app, HEALTH),
        only_pings("raft", &node.raft_addr, &peer, HANDSHAKE),
    );
}

/// More headers than the limit are not kept either.
async fn long_headers(node: &LocalNode) {
    let mut stream = tls(&node.http_addr, None, HTTP).await.unwrap();
    let request = format!("GET /livez HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat(20 * 1024));
    stream.write_all(request.as_bytes()).await.unwrap();
    let answer = drained("an answer to long headers", PATIENCE, stream).await;
    assert!(answer.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&answer));

    let mut attacker = Attacker::connect(&node.client_addr, None).await;
    let request = tonic::codegen::http::Request::builder()
        .uri("https://node.indelible/grpc.health.v1.Health/Check")
        .header("x", "a".repeat(20 * 1024));
    let (answer, _) = attacker.send.send_request(request.body(()).unwrap(), true).unwrap();
    let answer = within(PATIENCE, "an answer to long headers", answer).await.unwrap();
    assert_eq!(answer.status(), 431);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a22_silent_connections_are_cut() {
    let (cluster, metrics) = one_node();
    client(&cluster).await;
    let (node, forge) = (&cluster.nodes[0], Forge::of(&cluster));
    let (app, peer) = (forge.client("app"), forge.issue(Role::Node(2)));
    let ports = tls_ports(node, &metrics);

    let mut silent = tokio::task::JoinSet::new();
    for addr in ports.iter().map(|(_, addr, _)| *addr).chain([&node.probe_addr[..]]) {
        let stream = TcpStream::connect(addr).await.unwrap();
        silent.spawn(async move { drop(drained("no byte at all", AFTER_5_S, stream).await) });
    }
    for (_, addr, _) in ports {
        // A handshake message of 256 bytes.
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(&[0x16, 3, 1, 1, 0, 1, 0, 0, 0xfc, 3, 3]).await.unwrap();
        silent.spawn(trickle("a slow handshake", AFTER_5_S, stream, SLOWLY, |byte| vec![byte]));
    }
    for (port, addr, protocol) in ports {
        let who = if port == "raft" { &peer } else { &app };
        let stream = tls(addr, Some(who), protocol).await.unwrap();
        silent.spawn(async move { drop(drained("no request", AFTER_10_S, stream).await) });
    }
    for (addr, who) in
        [(&node.client_addr, None), (&node.client_addr, Some(&app)), (&node.raft_addr, Some(&peer))]
    {
        // It answers pings, and has no request.
        let attacker = Attacker::connect(addr, who).await;
        silent.spawn(async move {
            within(AFTER_10_S, "pings only", attacker.ended("pings only")).await;
        });
    }
    while let Some(ended) = silent.join_next().await {
        ended.unwrap();
    }
    for (port, times) in [("client", 5.0), ("raft", 4.0)] {
        assert_eq!(refused(node, port, "silent").await, times, "{port}");
    }
}
