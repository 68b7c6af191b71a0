//! Damage on one node is found and mended from the others, at start and while it runs, and the
//! trail says so. Damage everywhere is refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use indelible_client::{Client, Level, ProducerId};
use indelible_core::{Kind, Leaf};
use indelible_local::{LocalCluster, LocalNode};
use indelible_proto::v1;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{
    Trail, audit_log, client, ended, eventually, nodes_with, stop_and_compare, view,
};

/// Small segments, so that there are many.
const SEGMENT_BYTES: u64 = 16 * 1024;
/// The scrub looks all the time.
const QUICK: &str = "[storage]\nscrub_bytes_per_s = 100000000\nscrub_every_s = 1\n";
/// It does not look at all: only reads find damage.
const NO_SCRUB: &str = "[storage]\nscrub_bytes_per_s = 0\n";

/// Three nodes whose trail fills a few segments.
async fn filled(config: &str, events: u64) -> (LocalCluster, Client) {
    let cluster = nodes_with(3, Some(SEGMENT_BYTES), config);
    let sdk = client(&cluster).await;
    fill(&sdk, b"fills segments..", events).await;
    (cluster, sdk)
}

async fn fill(sdk: &Client, id: &[u8; 16], events: u64) {
    let producer = sdk.producer(ProducerId(*id), "m").open().await.unwrap();
    for number in 0..events {
        producer.append(indelible::cli::generate::event_of_size(number, 900)).await.unwrap();
    }
}

fn segments(node: &LocalNode) -> Vec<PathBuf> {
    let dir = node.data_dir.join("segments");
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut names: Vec<PathBuf> =
        names.filter(|path| path.extension().is_some_and(|end| end == "seg")).collect();
    names.sort();
    names
}

/// Segments that end with a footer.
fn sealed(node: &LocalNode) -> Vec<PathBuf> {
    let is_sealed = |path: &PathBuf| std::fs::read(path).unwrap().ends_with(b"INDSEALD");
    segments(node).into_iter().filter(is_sealed).collect()
}

fn flip(path: &Path, offset: u64) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[offset as usize] ^= 0x40;
    std::fs::write(path, bytes).unwrap();
}

fn contents(paths: &[PathBuf]) -> BTreeMap<PathBuf, Vec<u8>> {
    paths.iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// Waits until each of these files is again what it was.
async fn as_before(files: &BTreeMap<PathBuf, Vec<u8>>) {
    for (path, bytes) in files {
        let same = || async { (std::fs::read(path).ok()? == *bytes).then_some(()) };
        eventually(&format!("{} is as before", path.display()), same).await;
    }
}

async fn serves(node: &LocalNode) {
    eventually("it serves", || async {
        let view = view(&node.client_addr).await?;
        (view.leader_id != 0 && view.state() == v1::ServingState::Serving).then_some(())
    })
    .await;
}

/// Findings about a node that are in the trail, as the node at `addr` has it.
async fn findings(addr: &str, node_id: u64) -> Vec<v1::Finding> {
    let request = v1::ReadRequest {
        level: Some(v1::ReadLevel { level: Some(v1::read_level::Level::Linearizable(true)) }),
        ..Default::default()
    };
    let mut found = Vec::new();
    let Ok(stream) = audit_log(addr).await.read(request).await else { return found };
    let mut stream = stream.into_inner();
    while let Ok(Some(response)) = stream.message().await {
        for record in response.records {
            if Leaf::decode(&record.leaf).unwrap().kind == Kind::Finding {
                found.push(v1::Finding::decode(&record.event[..]).unwrap());
            }
        }
    }
    found.retain(|finding| finding.node_id == node_id);
    found
}

/// Waits until the trail has as many findings about a node, all of them mended.
async fn found_mended(addr: &str, node_id: u64, count: usize) {
    let found = eventually("the findings are in the trail", || async {
        let found = findings(addr, node_id).await;
        let mended = found.iter().filter(|one| one.outcome == "mended").count();
        (mended >= count).then_some(found)
    })
    .await;
    for finding in &found {
        // A first attempt may have failed, which is told as well.
        let is_known = ["mended", "pending"].contains(&finding.outcome.as_str());
        assert!(finding.what == "damage" && is_known, "{finding:?}");
        assert!(finding.place.starts_with("segments/"), "{finding:?}");
    }
}

/// A path of the HTTP port; status and body.
async fn http(addr: &str, path: &str) -> Option<(u16, String)> {
    let mut stream = tokio::net::TcpStream::connect(addr).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let code = answer.split_whitespace().nth(1)?.parse().ok()?;
    Some((code, answer))
}

async fn metric(node: &LocalNode, name: &str) -> Option<u64> {
    let (_, text) = http(&node.probe_addr, "/metrics").await?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// Damages a stopped node, starts it, and waits until everything is as it was.
async fn mended_after(
    cluster: &mut LocalCluster,
    node_id: u64,
    damage: impl FnOnce(&LocalNode) -> Vec<PathBuf>,
) {
    let node = cluster.node(node_id).unwrap();
    assert!(node.stop().unwrap().success(), "{}", node.log_tail());
    let before = contents(&sealed(node));
    let damaged = damage(node);
    assert!(!damaged.is_empty(), "something was damaged");
    node.start().unwrap();
    as_before(&before).await;
    serves(node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_nodes_sealed_segments_are_mended_whatever_was_done_to_them() {
    let (mut cluster, sdk) = filled(QUICK, 150).await;
    let pick = |node: &LocalNode, nth: usize| {
        let sealed = sealed(node);
        assert!(sealed.len() > 4, "{} sealed segments", sealed.len());
        sealed[nth].clone()
    };
    // Header, a frame's header, an event, the footer.
    let flips: [fn(u64) -> u64; 4] = [|_| 40, |_| 96 + 60, |size| size / 2, |size| size - 40];
    for (nth, place) in flips.into_iter().enumerate() {
        mended_after(&mut cluster, 2, |node| {
            let path = pick(node, nth);
            flip(&path, place(std::fs::metadata(&path).unwrap().len()));
            vec![path]
        })
        .await;
    }
    mended_after(&mut cluster, 2, |node| {
        let path = pick(node, 1);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 3]).unwrap();
        vec![path]
    })
    .await;
    mended_after(&mut cluster, 2, |node| {
        let paths = vec![pick(node, 2), pick(node, 0)];
        paths.iter().for_each(|path| std::fs::remove_file(path).unwrap());
        paths
    })
    .await;
    let addr = cluster.node(1).unwrap().client_addr.clone();
    found_mended(&addr, 2, 6).await;
    let trail = Trail::read_everywhere(&cluster, &sdk).await;
    assert_eq!(trail.events_by_producer().values().map(Vec::len).max(), Some(150));
    stop_and_compare(&mut cluster);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_log_and_what_is_derived_from_it_come_back() {
    let (mut cluster, sdk) = filled(QUICK, 60).await;
    let active = |node: &LocalNode| segments(node).pop().unwrap();
    // In the middle of the frames, in the last frame, and all of it.
    mended_after(&mut cluster, 3, |node| {
        flip(&active(node), 96 + 20);
        vec![active(node)]
    })
    .await;
    fill(&sdk, b"some more of it.", 5).await;
    mended_after(&mut cluster, 3, |node| {
        let path = active(node);
        let bytes = std::fs::read(&path).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        flip(&path, end as u64 - 100);
        vec![path]
    })
    .await;
    fill(&sdk, b"and still more..", 5).await;
    mended_after(&mut cluster, 3, |node| {
        let path = active(node);
        std::fs::remove_file(&path).unwrap();
        std::fs::remove_dir_all(node.data_dir.join("derived")).unwrap();
        vec![path]
    })
    .await;
    mended_after(&mut cluster, 3, |node| {
        std::fs::remove_file(node.data_dir.join("synced")).unwrap();
        vec![node.data_dir.join("synced")]
    })
    .await;
    let trail = Trail::read_everywhere(&cluster, &sdk).await;
    let counts: Vec<usize> = trail.events_by_producer().values().map(Vec::len).collect();
    assert_eq!(counts.iter().sum::<usize>(), 70);
    stop_and_compare(&mut cluster);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_node_is_mended_by_its_scrub() {
    let (mut cluster, sdk) = filled(QUICK, 100).await;
    let node = cluster.node(1).unwrap();
    let paths = sealed(node);
    let before = contents(&paths);
    // Written over in place: the running node has the file open.
    flip(&paths[1], 300);
    flip(&paths[3], 700);
    std::fs::remove_file(&paths[2]).unwrap();
    as_before(&before).await;
    eventually("it counts", || async {
        let mended = metric(node, "indelible_mended_total").await?;
        (mended >= 3 && metric(node, "indelible_scrub_bytes_total").await? > 0).then_some(())
    })
    .await;
    let addr = node.client_addr.clone();
    found_mended(&addr, 1, 3).await;
    Trail::read_everywhere(&cluster, &sdk).await;
    stop_and_compare(&mut cluster);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_meets_damage_is_refused_and_has_it_mended() {
    let (mut cluster, sdk) = filled(NO_SCRUB, 100).await;
    let size = sdk.tree_head(Level::Linearizable).await.unwrap().tree_size;
    let node = cluster.node(2).unwrap();
    // A restart empties its memory: what is read comes from the disk.
    assert!(node.stop().unwrap().success());
    let path = sealed(node)[1].clone();
    let before = contents(std::slice::from_ref(&path));
    flip(&path, std::fs::metadata(&path).unwrap().len() / 2);
    node.start().unwrap();
    serves(node).await;
    let node = cluster.node(2).unwrap();
    let mut direct = audit_log(&node.client_addr).await;
    let mut refused = 0;
    for index in 0..size {
        let level = Some(v1::ReadLevel { level: Some(v1::read_level::Level::Any(true)) });
        let get = v1::GetRequest { index, level, ..Default::default() };
        if let Err(status) = direct.get(get).await {
            assert_eq!(status.code(), tonic::Code::DataLoss, "{status}");
            refused += 1;
        }
    }
    assert!(refused > 0, "the damage was met");
    as_before(&before).await;
    found_mended(&node.client_addr.clone(), 2, 1).await;
    Trail::read_everywhere(&cluster, &sdk).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_each_damaged_elsewhere_mend_each_other() {
    let (mut cluster, sdk) = filled(QUICK, 150).await;
    for node in &mut cluster.nodes {
        assert!(node.stop().unwrap().success());
    }
    let mut before = BTreeMap::new();
    for (position, node) in cluster.nodes.iter().enumerate() {
        let paths = sealed(node);
        before.extend(contents(&paths));
        // Every segment is bad on exactly one node: a frame, the header, all of it.
        for (nth, path) in paths.iter().enumerate().filter(|(nth, _)| nth % 3 == position) {
            match nth / 3 % 3 {
                0 => flip(path, 500),
                1 => flip(path, 40),
                _ => std::fs::remove_file(path).unwrap(),
            }
        }
    }
    for node in &mut cluster.nodes {
        node.start().unwrap();
    }
    as_before(&before).await;
    for node in &cluster.nodes {
        serves(node).await;
    }
    fill(&sdk, b"after all of it.", 10).await;
    let trail = Trail::read_everywhere(&cluster, &sdk).await;
    assert_eq!(trail.events_by_producer().values().map(Vec::len).sum::<usize>(), 160);
    for id in 1..=3 {
        found_mended(&cluster.nodes[0].client_addr, id, 1).await;
    }
    stop_and_compare(&mut cluster);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_on_every_copy_is_refused() {
    let (mut cluster, _sdk) = filled(QUICK, 60).await;
    for node in &mut cluster.nodes {
        assert!(node.stop().unwrap().success());
    }
    for node in &cluster.nodes {
        std::fs::remove_file(&sealed(node)[1]).unwrap();
    }
    // One alone waits for the others, and says so.
    cluster.nodes[0].start().unwrap();
    let addr = cluster.nodes[0].probe_addr.clone();
    eventually("it says what it waits for", || async {
        let (code, text) = http(&addr, "/readyz").await?;
        (code == 503 && text.contains("mending")).then_some(())
    })
    .await;
    let (code, _) = http(&addr, "/livez").await.unwrap();
    assert_eq!(code, 200);
    for node in &mut cluster.nodes[1..] {
        node.start().unwrap();
    }
    for node in &mut cluster.nodes {
        // Waiting for it at once would close its standard input, which stops it.
        let ended = ended(node).await;
        let text = node.log_text();
        assert_eq!(ended.code(), Some(9), "{text}");
        assert!(text.contains("segments/") && text.contains("does not have it either"), "{text}");
    }
}
