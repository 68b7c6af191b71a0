//! What is trusted changes: certificates are revoked, authorities come and go.

use std::path::Path;

use indelible_local::{LocalCluster, Signal};
use indelible_tls::issue::Issued;

use super::load::Load;
use super::rotation::{renew, replace, shows, tls_files, watching};
use super::wire::{Attacker, Forge, H2, greets, identity_of, metric, refused, until_greets};
use crate::harness::{
    client, eventually, indelible, leader, nodes_with, stdout, stop_and_compare, view,
};

async fn cert(cluster: &LocalCluster, args: &[&str]) -> String {
    stdout(&indelible(cluster, &[&["cert"], args].concat()).await)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A client's certificate, from a file.
fn read(folder: &Path, name: &str) -> Issued {
    let read = |ending| std::fs::read_to_string(folder.join(format!("{name}.{ending}"))).unwrap();
    Issued { cert_pem: read("crt"), key_pem: read("key").into() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a16_a_revoked_certificate() {
    let mut cluster = nodes_with(3, None, "tls.reload_s = 1\n");
    client(&cluster).await;
    let dir = cluster.dir().to_owned();
    let (ca, crl) = (dir.join("ca"), dir.join("ca/ca.crl"));
    for name in ["lost", "mallory", "app"] {
        cert(&cluster, &["client", name, "--out", text(&dir), "--ca", text(&ca)]).await;
    }
    // A list has at least one entry.
    cert(&cluster, &["revoke", text(&dir.join("lost.crt")), "--ca", text(&ca)]).await;
    let leads = leader(&cluster).await;
    let stolen = if leads == 3 { 2 } else { 3 };
    // The stolen node has no list: it is the others who must not speak with it.
    let honest: Vec<u64> = (1..=3).filter(|id| *id != stolen).collect();
    for id in honest.clone() {
        let node = cluster.node(id).unwrap();
        assert!(node.stop().unwrap().success());
        let mut config = std::fs::read_to_string(&node.config).unwrap();
        config.push_str("tls.crl = \"ca/ca.crl\"\n");
        std::fs::write(&node.config, config).unwrap();
        node.start().unwrap();
        client(&cluster).await;
    }
    transfer_away_from(&cluster, stolen).await;
    let sdk = client(&cluster).await;
    let load = Load::start(&sdk, b"nobody's revoked").await;
    load.goes_on(10).await;

    let (mallory, app) = (read(&dir, "mallory"), read(&dir, "app"));
    let addr = cluster.node(honest[0]).unwrap().client_addr.clone();
    let refusal = greets(&addr, Some(&read(&dir, "lost")), H2).await.unwrap_err();
    assert!(refusal.contains("CertificateRevoked"), "{refusal}");
    let (stream, other) = (watching(&addr, &mallory).await, watching(&addr, &app).await);
    let raft_addr = cluster.node(honest[0]).unwrap().raft_addr.clone();
    let identity = identity_of(cluster.node(stolen).unwrap());
    let peer = Attacker::connect(&raft_addr, Some(&identity)).await;

    let node_crt = tls_files(cluster.node(stolen).unwrap()).0;
    let client_crt = dir.join("mallory.crt");
    let revoke = ["revoke", text(&client_crt), text(&node_crt), "--ca", text(&ca)];
    cert(&cluster, &revoke).await;
    cluster.node(honest[0]).unwrap().signal(Signal::HUP).unwrap();
    stream.ended("the stream of a revoked client").await;
    peer.ended("the connection of a revoked node").await;
    assert!(refused(cluster.node(honest[0]).unwrap(), "client", "distrusted").await >= 1.0);
    assert!(refused(cluster.node(honest[0]).unwrap(), "raft", "distrusted").await >= 1.0);
    assert!(!other.is_over(), "others stay");
    for id in &honest {
        let node = cluster.node(*id).unwrap();
        for (addr, who) in [(&node.client_addr, &mallory), (&node.raft_addr, &identity)] {
            let refusal = until_greets(addr, Some(who), false).await;
            assert!(refusal.contains("CertificateRevoked"), "{refusal}");
        }
        assert_eq!(greets(&node.client_addr, Some(&app), H2).await, Ok(()));
    }
    let lists = std::fs::read_to_string(&crl).unwrap();
    assert_eq!(lists.matches("BEGIN X509 CRL").count(), 1, "one list, with all of them");

    // Nor do the others speak with it on connections that they had made themselves.
    cuts_off(&mut cluster, stolen, &load).await;
}

/// One node gets nothing any more, though it would take it.
async fn cuts_off(cluster: &mut LocalCluster, stolen: u64, load: &Load) {
    // On a busy machine it may have been elected before it was revoked.
    let another = || async { Some(leader(cluster).await).filter(|leads| *leads != stolen) };
    let leads = eventually("another node leads", another).await;
    let addr = cluster.node(leads).unwrap().client_addr.clone();
    let from = eventually("a view of the leader", || view(&addr)).await.committed_index;
    load.goes_on(50).await;
    let to = eventually("a view of the leader", || view(&addr)).await.committed_index;
    let addr = cluster.node(stolen).unwrap().client_addr.clone();
    let there = eventually("a view of the stolen node", || view(&addr)).await.applied_index;
    assert!(to > from && there <= from, "{there}, of {from} to {to}");
}

/// Has another node lead.
async fn transfer_away_from(cluster: &LocalCluster, id: u64) {
    if leader(cluster).await == id {
        stdout(&indelible(cluster, &["transfer-leader", "--reason", "a test"]).await);
        eventually("another leader", || async { (leader(cluster).await != id).then_some(()) })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a19_ca_rollover_with_two_roots() {
    let mut cluster = nodes_with(3, Some(128 * 1024), "tls.reload_s = 1\n");
    let sdk = client(&cluster).await;
    let (dir, old) = (cluster.dir().to_owned(), Forge::of(&cluster));
    // What clients believe, and the folder of the first authority.
    let (first, second) = (dir.join("ca"), dir.join("ca2"));
    let load = Load::start(&sdk, b"under both roots").await;
    load.goes_on(20).await;
    let trail = old.trail.to_string();
    cert(&cluster, &["ca", "--ca", text(&second), "--trail", &trail]).await;
    let new = Forge::at(&second);
    let (old_app, new_app) = (old.client("app"), new.client("app"));

    // 1: everybody believes both.
    let both = format!("{}{}", old.authority.cert_pem(), new.authority.cert_pem());
    replace(&first.join("ca.crt"), &both);
    for node in &cluster.nodes {
        let refusal = greets(&node.client_addr, Some(&new_app), H2).await.unwrap_err();
        assert!(refusal.contains("UnknownCA"), "{refusal}");
        replace(&node.data_dir.join("tls/ca.crt"), &both);
        until_greets(&node.client_addr, Some(&new_app), true).await;
        assert_eq!(greets(&node.client_addr, Some(&old_app), H2).await, Ok(()));
        load.goes_on(10).await;
    }
    // 2: everybody gets a certificate of the new one.
    for node in &cluster.nodes {
        renew(&cluster, &tls_files(node).0, &second).await;
        shows(node).await;
        load.goes_on(10).await;
    }
    renew(&cluster, &dir.join("admin/client.crt"), &second).await;
    // 3: the old one is dropped, and with it all that is left of it.
    replace(&first.join("ca.crt"), new.authority.cert_pem());
    for node in &cluster.nodes {
        let stream = watching(&node.client_addr, &old_app).await;
        replace(&node.data_dir.join("tls/ca.crt"), new.authority.cert_pem());
        stream.ended("the stream of a client of the old authority").await;
        let refusal = greets(&node.client_addr, Some(&old_app), H2).await.unwrap_err();
        assert!(refusal.contains("UnknownCA"), "{refusal}");
        assert_eq!(greets(&node.client_addr, Some(&new_app), H2).await, Ok(()));
        load.goes_on(10).await;
    }
    let fresh = client(&cluster).await;
    let late = Load::start(&fresh, b"a fresh client !").await;
    late.goes_on(10).await;
    late.finish(&cluster, &fresh).await;
    for node in &cluster.nodes {
        assert_eq!(metric(node, "indelible_tls_reload_failures_total").await, 0.0);
    }
    load.finish(&cluster, &sdk).await;
    stop_and_compare(&mut cluster);
}
