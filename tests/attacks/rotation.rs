//! Certificates that end, and certificates that are replaced while nodes and clients run.

use std::path::{Path, PathBuf};
use std::time::Duration;

use indelible_local::{LocalCluster, LocalNode, Signal};
use indelible_proto::v1;
use indelible_testkit::fail::within;
use indelible_tls::Role;
use indelible_tls::issue::{Authority, Issued, Leaf};

use super::load::Load;
use super::wire::{Attacker, Forge, H2, der, greets, metric, refused, shown, unix_s, until_greets};
use crate::harness::{PATIENCE, client, eventually, indelible, leader, nodes_with, stdout, view};

const WATCH: &str = "/indelible.v1.Cluster/WatchCluster";
const FAILURES: &str = "indelible_tls_reload_failures_total";
const EXPIRES: &str = "indelible_tls_certificate_expires_unix_seconds";

/// How long a certificate is still valid.
const LEFT_S: i64 = 6;

/// A node's certificate and key.
pub(super) fn tls_files(node: &LocalNode) -> (PathBuf, PathBuf) {
    let folder = node.data_dir.join("tls");
    (folder.join("node.crt"), folder.join("node.key"))
}

/// Replaces a file in one step, as a careful operator does.
pub(super) fn replace(path: &Path, text: &str) {
    let draft = path.with_extension("draft");
    std::fs::write(&draft, text).unwrap();
    let mode = std::fs::metadata(path).unwrap().permissions();
    std::fs::set_permissions(&draft, mode).unwrap();
    std::fs::rename(&draft, path).unwrap();
}

pub(super) fn install(node: &LocalNode, issued: &Issued) {
    let (cert, key) = tls_files(node);
    replace(&key, &issued.key_pem);
    replace(&cert, &issued.cert_pem);
}

/// `indelible cert renew`, with the authority in `ca`.
pub(super) async fn renew(cluster: &LocalCluster, cert: &Path, ca: &Path) {
    let args = ["cert", "renew", cert.to_str().unwrap(), "--ca", ca.to_str().unwrap()];
    stdout(&indelible(cluster, &args).await);
}

/// Waits until a node shows the certificate that is in its file.
pub(super) async fn shows(node: &LocalNode) {
    let wanted = der(&tls_files(node).0);
    eventually("the new certificate is shown", || async {
        (shown(&node.client_addr, None).await == wanted).then_some(())
    })
    .await;
}

/// A stream that does not end by itself, opened by a client with a certificate.
pub(super) async fn watching(addr: &str, who: &Issued) -> Attacker {
    use prost::Message;
    let mut attacker = Attacker::connect(addr, Some(who)).await;
    let message = v1::WatchClusterRequest::default().encode_to_vec();
    let message =
        [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), &message].concat();
    let stream = attacker.begin(WATCH, message.into(), true).await.unwrap();
    let mut body = within(PATIENCE, "a stream", stream.opened()).await;
    assert!(within(PATIENCE, "a view", body.data()).await.unwrap().is_ok());
    attacker.keep(body);
    attacker
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a15_an_expired_certificate_ends_its_connections() {
    // Who leads does not change by chance: clients believe no leader whose certificate has expired.
    let patient = "raft.election_timeout_min_ms = 3000\nraft.election_timeout_max_ms = 6000\n";
    let mut cluster = nodes_with(3, None, &format!("tls.reload_s = 1\n{patient}"));
    let sdk = client(&cluster).await;
    let forge = Forge::of(&cluster);
    let until = |role, end| Leaf { not_after: Some(end), ..forge.leaf(role) };
    let load = Load::start(&sdk, b"not the expired!").await;

    // The node that expires will be needed: one of the others goes.
    let leads = leader(&cluster).await;
    let [expiring, away] =
        [1, 2, 3].into_iter().filter(|id| *id != leads).collect::<Vec<u64>>()[..]
    else {
        unreachable!("three nodes")
    };
    let node = cluster.node(expiring).unwrap();
    let addr = node.client_addr.clone();
    let end = unix_s() + LEFT_S;
    let issued = forge.authority.issue(&until(Role::Node(expiring), end)).unwrap();
    install(node, &issued);
    shows(cluster.node(expiring).unwrap()).await;
    let dies = unix_s() + LEFT_S;
    let dying = until(Role::Client("dying".into()), dies);
    let dying = forge.authority.issue(&dying).unwrap();
    let (stream, other) =
        (watching(&addr, &dying).await, watching(&addr, &forge.client("app")).await);
    stream.ended("the stream of an expired certificate").await;
    let over = unix_s();
    assert!((dies - 1..dies + 10).contains(&over), "{over}: not before {dies}, and soon after");
    assert_eq!(refused(cluster.node(expiring).unwrap(), "client", "expired").await, 1.0);
    let refusal = until_greets(&addr, Some(&dying), false).await;
    assert!(refusal.contains("CertificateExpired"), "{refusal}");
    assert!(!other.is_over(), "the other client stays");

    // Between nodes it is an alarm. Connections go on, and new ones are made in both directions.
    let node = cluster.node(expiring).unwrap();
    eventually("the end comes", || async { (unix_s() > end).then_some(()) }).await;
    assert!(metric(node, EXPIRES).await < unix_s() as f64);
    node.kill().unwrap();
    node.start().unwrap();
    let node = cluster.node(expiring).unwrap();
    eventually("the alarm", || async {
        node.log_text().contains("this node's certificate has expired").then_some(())
    })
    .await;
    let probe = node.probe_addr.clone();
    eventually("the expired node is ready", || async {
        let probe = probe.clone();
        let ask = move || {
            std::net::TcpStream::connect(&probe).map(|_| crate::http::get(&probe, "/readyz").status)
        };
        let status = tokio::task::spawn_blocking(ask).await.unwrap();
        (status.ok() == Some(200)).then_some(())
    })
    .await;
    cluster.node(away).unwrap().kill().unwrap();
    load.goes_on(20).await;

    // Renewed, clients believe it again.
    let (cert, _) = tls_files(cluster.node(expiring).unwrap());
    renew(&cluster, &cert, &cluster.dir().join("ca")).await;
    shows(cluster.node(expiring).unwrap()).await;
    cluster.node(away).unwrap().start().unwrap();
    let away = cluster.node(away).unwrap().client_addr.clone();
    for addr in [&addr, &away] {
        eventually("a view of the node", || view(addr)).await;
    }
    load.finish(&cluster, &sdk).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_certificate_expires_hands_over() {
    let patient = "raft.election_timeout_min_ms = 3000\nraft.election_timeout_max_ms = 6000\n";
    let mut cluster = nodes_with(3, None, &format!("tls.reload_s = 1\n{patient}"));
    let sdk = client(&cluster).await;
    let load = Load::start(&sdk, b"a leader expires").await;
    load.goes_on(1).await;
    let leads = leader(&cluster).await;
    let forge = Forge::of(&cluster);
    let leaf = Leaf { not_after: Some(unix_s() + LEFT_S), ..forge.leaf(Role::Node(leads)) };
    let issued = forge.authority.issue(&leaf).unwrap();
    let node = cluster.node(leads).unwrap();
    install(node, &issued);
    shows(node).await;
    let node = cluster.node(leads).unwrap();
    eventually("the expired leader hands over", || async {
        node.log_text().contains("has expired: handed over").then_some(())
    })
    .await;
    // A client that comes now finds the next leader.
    let late = client(&cluster).await;
    let second = Load::start(&late, b"who comes late!!").await;
    second.goes_on(5).await;
    let (cert, _) = tls_files(cluster.node(leads).unwrap());
    renew(&cluster, &cert, &cluster.dir().join("ca")).await;
    shows(cluster.node(leads).unwrap()).await;
    assert_ne!(leader(&cluster).await, leads);
    second.finish(&cluster, &late).await;
    load.finish(&cluster, &sdk).await;
}

/// All certificates have expired. A connection keeps the one that it was made with, so the leader
/// asks for the new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_leader_finds_the_node_that_was_renewed() {
    let patient = "raft.election_timeout_min_ms = 3000\nraft.election_timeout_max_ms = 6000\n";
    let mut cluster = nodes_with(3, None, &format!("tls.reload_s = 1\n{patient}"));
    client(&cluster).await;
    let leads = leader(&cluster).await;
    let forge = Forge::of(&cluster);
    for id in (1..=3).filter(|id| *id != leads).chain([leads]) {
        let leaf = Leaf { not_after: Some(unix_s() + LEFT_S), ..forge.leaf(Role::Node(id)) };
        let node = cluster.node(id).unwrap();
        install(node, &forge.authority.issue(&leaf).unwrap());
        shows(node).await;
        if id != leads {
            // The leader sees it on a new connection.
            node.kill().unwrap();
            node.start().unwrap();
        }
    }
    let log_of = |cluster: &LocalCluster, what: &'static str| {
        let node = cluster.nodes.iter().find(|node| node.id == leads).unwrap();
        node.log_text().contains(what).then_some(())
    };
    eventually("the leader finds nobody", || async {
        log_of(&cluster, "no voter that answers is better")
    })
    .await;
    let renewed = if leads == 1 { 2 } else { 1 };
    let (cert, _) = tls_files(cluster.node(renewed).unwrap());
    renew(&cluster, &cert, &cluster.dir().join("ca")).await;
    shows(cluster.node(renewed).unwrap()).await;
    eventually("it hands over", || async { log_of(&cluster, "has expired: handed over") }).await;
    let addr = cluster.node(renewed).unwrap().client_addr.clone();
    let leading = || async { view(&addr).await.filter(|view| view.leader_id == renewed) };
    eventually("the renewed node leads", leading).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a17_rotation_under_load_loses_nothing() {
    let cluster = nodes_with(3, Some(128 * 1024), "tls.reload_s = 1\n");
    let (sdk, ca) = (client(&cluster).await, cluster.dir().join("ca"));
    let load = Load::start(&sdk, b"while it rotates").await;
    load.goes_on(20).await;
    for round in 0..2 {
        for node in &cluster.nodes {
            let (cert, _) = tls_files(node);
            let before = der(&cert);
            renew(&cluster, &cert, &ca).await;
            assert_ne!(der(&cert), before);
            // By itself it looks every second.
            if node.id == 1 {
                node.signal(Signal::HUP).unwrap();
            }
            shows(node).await;
            load.goes_on(10).await;
        }
        let admin = cluster.dir().join("admin/client.crt");
        renew(&cluster, &admin, &ca).await;
        // Connections that are made from now on show the new one: a restarted node's are.
        let fresh = client(&cluster).await;
        let late = Load::start(&fresh, [b"a fresh client 0", b"a fresh client 1"][round]).await;
        late.goes_on(10).await;
        late.finish(&cluster, &fresh).await;
    }
    for node in &cluster.nodes {
        assert_eq!(metric(node, FAILURES).await, 0.0, "node {}", node.id);
        assert!(metric(node, EXPIRES).await > (unix_s() + 390 * 86_400) as f64);
    }
    load.finish(&cluster, &sdk).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a18_a_broken_certificate_file_keeps_the_old_one() {
    let cluster = nodes_with(1, None, "tls.reload_s = 1\n");
    let sdk = client(&cluster).await;
    let (node, forge) = (&cluster.nodes[0], Forge::of(&cluster));
    let load = Load::start(&sdk, b"before it breaks").await;
    let (cert, key) = tls_files(node);
    let ca = cert.with_file_name("ca.crt");
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    let good = [(&cert, read(&cert)), (&key, read(&key)), (&ca, read(&ca))];
    let before = der(&cert);

    let other = forge.issue(Role::Node(1));
    let second = forge.issue(Role::Node(2));
    let admin = forge.issue(Role::Admin("admin".into()));
    let past = Leaf { not_after: Some(unix_s() - 60), ..forge.leaf(Role::Node(1)) };
    let past = forge.authority.issue(&past).unwrap();
    let stranger = Authority::new(&forge.trail).unwrap();
    let foreign = stranger.issue(&forge.leaf(Role::Node(1))).unwrap();
    let cut = good[0].1[..good[0].1.len() / 2].to_owned();
    let cases: Vec<(&str, Vec<(&PathBuf, &str)>)> = vec![
        ("garbage", vec![(&cert, "garbage")]),
        ("nothing", vec![(&cert, "")]),
        ("half a certificate", vec![(&cert, &cut)]),
        ("no key", vec![(&key, "")]),
        ("the key of another certificate", vec![(&key, &other.key_pem)]),
        ("another certificate of the key", vec![(&cert, &other.cert_pem)]),
        ("another node", vec![(&cert, &second.cert_pem), (&key, &second.key_pem)]),
        ("no node", vec![(&cert, &admin.cert_pem), (&key, &admin.key_pem)]),
        ("an end in the past", vec![(&cert, &past.cert_pem), (&key, &past.key_pem)]),
        ("another authority", vec![(&cert, &foreign.cert_pem), (&key, &foreign.key_pem)]),
        ("no authority", vec![(&ca, "")]),
        ("a leaf as authority", vec![(&ca, &other.cert_pem)]),
        ("an authority that did not issue this", vec![(&ca, stranger.cert_pem())]),
    ];
    for (what, files) in cases {
        let failures = metric(node, FAILURES).await;
        for (path, text) in &files {
            replace(path, text);
        }
        // Also what was refused before is counted when somebody asks.
        node.signal(Signal::HUP).unwrap();
        eventually(&format!("{what} is refused"), || async {
            (metric(node, FAILURES).await > failures).then_some(())
        })
        .await;
        assert_eq!(shown(&node.client_addr, None).await, before, "{what}");
        assert_eq!(greets(&node.client_addr, Some(&admin), H2).await, Ok(()), "{what}");
        load.goes_on(2).await;
        for (path, text) in &good {
            replace(path, text);
        }
    }
    assert!(node.log_text().contains("those before stay in use"), "{}", node.log_tail());
    // Nothing of that keeps a good one out.
    renew(&cluster, &cert, &cluster.dir().join("ca")).await;
    node.signal(Signal::HUP).unwrap();
    within(Duration::from_secs(20), "a good one is taken", shows(node)).await;
    load.finish(&cluster, &sdk).await;
}
