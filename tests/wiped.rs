//! A node that lost its disk, or got an older copy of it back, is refused under its old id.

use std::path::Path;
use std::time::Duration;

use indelible_client::v1::Role;
use indelible_client::{Level, ProducerId};
use indelible_local::{LocalCluster, LocalNode, Signal};

use crate::harness::{
    Trail, client, copy_folder, ended, eventually, indelible_at, leader, note, stop_and_compare,
    three_nodes, view,
};
use crate::thief::Thief;

async fn some_events(sdk: &indelible_client::Client, id: &[u8; 16], count: u64) {
    let producer = sdk.producer(ProducerId(*id), "w").open().await.unwrap();
    for number in 0..count {
        producer.append(indelible::cli::generate::event(number)).await.unwrap();
    }
}

/// Deletes everything else of a node's disk.
fn keep_only(dir: &Path, names: &[&str]) {
    for name in std::fs::read_dir(dir).unwrap() {
        let path = name.unwrap().path();
        let keep = names.iter().any(|name| path.ends_with(name));
        match (keep, path.is_dir()) {
            (true, _) => {}
            (false, true) => std::fs::remove_dir_all(path).unwrap(),
            (false, false) => std::fs::remove_file(path).unwrap(),
        }
    }
}

/// Until a node that is neither this one nor the leader has a note of at least this size with this
/// node's signature.
async fn signed(cluster: &LocalCluster, id: u64, size: u64) {
    let leads = leader(cluster).await;
    let third = cluster.nodes.iter().find(|node| node.id != id && node.id != leads).unwrap();
    let signer = format!("/node/{id} ");
    eventually("the third node has its signature", || async {
        note(&third.client_addr, size).await.contains(&signer).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_under_its_old_id_is_refused() {
    let mut cluster = three_nodes();
    let sdk = client(&cluster).await;
    some_events(&sdk, b"before the wipe!", 50).await;
    let leads = leader(&cluster).await;
    let wiped = if leads == 1 { 2 } else { 1 };
    signed(&cluster, wiped, 1).await;
    let node = cluster.node(wiped).unwrap();
    node.kill().unwrap();
    // Only what says who it is survives: everything it ever promised is gone.
    keep_only(&node.data_dir, &["identity", "genesis", "tls"]);
    node.start().unwrap();
    // Its peers hold checkpoints that it has signed.
    let node = cluster.node(wiped).unwrap();
    let code = ended(node).await.code();
    let text = node.log_text();
    assert_eq!(code, Some(7), "{text}");
    assert!(text.contains("wiped") && text.contains("never reused"), "{text}");
    assert!(node.data_dir.join("evidence").exists(), "what it had signed");
    some_events(&sdk, b"after the wipe!!", 50).await;
    cluster.nodes.retain(|node| node.id != wiped);
    let trail = Trail::read_everywhere(&cluster, &sdk).await;
    assert_eq!(trail.events_by_producer().values().map(Vec::len).sum::<usize>(), 100);
    stop_and_compare(&mut cluster);
}

/// F1: the last one that knew what a group had acknowledged has lost its disk, but for what says who
/// it is. It was refused at its first start and a voter again at its second, with an empty log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f1_a_wiped_voter_is_refused_for_good_at_any_start() {
    let mut cluster = three_nodes();
    let sdk = client(&cluster).await;
    some_events(&sdk, b"seen by all nods", 20).await;
    let leads = leader(&cluster).await;
    let (wiped, lags) = if leads == 1 { (2, 3) } else { (1, if leads == 2 { 3 } else { 2 }) };
    cluster.node(lags).unwrap().kill().unwrap();
    some_events(&sdk, b"not seen by one.", 200).await;
    for id in [leads, wiped] {
        cluster.node(id).unwrap().kill().unwrap();
    }
    let node = cluster.node(wiped).unwrap();
    keep_only(&node.data_dir, &["identity", "log_key", "tls"]);
    cluster.node(lags).unwrap().start().unwrap();
    let addr = cluster.node(lags).unwrap().client_addr.clone();
    for start in 1..=3 {
        let node = cluster.node(wiped).unwrap();
        node.start().unwrap();
        // The other one shows it a boot of its own that is not on its disk any more.
        let code = ended(node).await.code();
        let text = node.log_text();
        assert_eq!(code, Some(7), "at start {start}: {text}");
        assert!(text.contains("signed with its key") && text.contains("wiped"), "{text}");
        let view = eventually("the other one answers", || view(&addr)).await;
        assert_ne!(view.role(), Role::Leader, "at start {start}: {view:?}");
    }
    // With the one that has it all, it is there again.
    cluster.node(leads).unwrap().start().unwrap();
    some_events(&sdk, b"after all that..", 20).await;
    cluster.nodes.retain(|node| node.id != wiped);
    let trail = Trail::read_everywhere(&cluster, &sdk).await;
    assert_eq!(trail.events_by_producer().values().map(Vec::len).sum::<usize>(), 240);
    stop_and_compare(&mut cluster);
}

/// F2: `hard_state`, which has the vote, is put back as it was at an earlier start. It was refused at
/// two starts and let in at the third.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f2_an_old_hard_state_is_refused_at_every_start() {
    let mut cluster = three_nodes();
    let sdk = client(&cluster).await;
    some_events(&sdk, b"before the copy!", 20).await;
    let leads = leader(&cluster).await;
    let rolled_back = if leads == 1 { 2 } else { 1 };
    let node = cluster.node(rolled_back).unwrap();
    let (file, addr) = (node.data_dir.join("hard_state"), node.client_addr.clone());
    let old = std::fs::read(&file).unwrap();
    assert!(node.stop().unwrap().success());
    node.start().unwrap();
    eventually("it follows", || async { view(&addr).await.filter(|view| view.leader_id != 0) })
        .await;
    let node = cluster.node(rolled_back).unwrap();
    node.kill().unwrap();
    let newest = std::fs::read(&file).unwrap();
    std::fs::write(&file, old).unwrap();
    for start in 1..=3 {
        let node = cluster.node(rolled_back).unwrap();
        node.start().unwrap();
        let code = ended(node).await.code();
        let text = node.log_text();
        assert_eq!(code, Some(7), "at start {start}: {text}");
        assert!(text.contains("hard_state is of boot 1, lineage ends with boot 2"), "{text}");
    }
    some_events(&sdk, b"without that one", 20).await;
    // Nothing was changed on that disk: with the file that belongs there it is a node again.
    std::fs::write(&file, newest).unwrap();
    cluster.node(rolled_back).unwrap().start().unwrap();
    eventually("it follows", || async { view(&addr).await.filter(|view| view.leader_id != 0) })
        .await;
    let trail = Trail::read_everywhere(&cluster, &sdk).await;
    assert_eq!(trail.events_by_producer().values().map(Vec::len).sum::<usize>(), 40);
    stop_and_compare(&mut cluster);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_of_a_disk_is_refused() {
    let mut cluster = three_nodes();
    let sdk = client(&cluster).await;
    some_events(&sdk, b"before the copy!", 20).await;
    let leads = leader(&cluster).await;
    let rolled_back = if leads == 1 { 2 } else { 1 };
    let copy = cluster.dir().join("copy");
    let node = cluster.node(rolled_back).unwrap();
    assert!(node.stop().unwrap().success());
    copy_folder(&node.data_dir, &copy);
    // Two more starts after the copy was taken, both seen by the others.
    for _ in 0..2 {
        cluster.node(rolled_back).unwrap().start().unwrap();
        let addr = cluster.node(rolled_back).unwrap().client_addr.clone();
        eventually("it follows", || async { view(&addr).await.filter(|view| view.leader_id != 0) })
            .await;
        assert!(cluster.node(rolled_back).unwrap().stop().unwrap().success());
    }
    let node = cluster.node(rolled_back).unwrap();
    std::fs::remove_dir_all(&node.data_dir).unwrap();
    std::fs::rename(&copy, &node.data_dir).unwrap();
    node.start().unwrap();
    for _start in 0..2 {
        let node = cluster.node(rolled_back).unwrap();
        let code = ended(node).await.code();
        let text = node.log_text();
        assert_eq!(code, Some(7), "{text}");
        assert!(text.contains("older copy") && text.contains("never reused"), "{text}");
        node.start().unwrap();
    }
    some_events(&sdk, b"after the copy!!", 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hot_copy_of_a_disk_gives_itself_away() {
    let mut cluster = three_nodes();
    let sdk = client(&cluster).await;
    some_events(&sdk, b"before the copy.", 20).await;
    let leads = leader(&cluster).await;
    let rolled_back = if leads == 1 { 2 } else { 1 };
    let copy = cluster.dir().join("copy");
    let node = cluster.node(rolled_back).unwrap();
    let addr = node.client_addr.clone();
    // As a snapshot of a running machine has it: the node is not stopped for it.
    node.signal(Signal::STOP).unwrap();
    copy_folder(&node.data_dir, &copy);
    node.signal(Signal::CONT).unwrap();
    some_events(&sdk, b"behind the copy.", 200).await;
    let size = sdk.tree_head(Level::Linearizable).await.unwrap().tree_size;
    eventually("it has acknowledged them", || async {
        view(&addr).await.filter(|view| view.tree_size >= size)
    })
    .await;
    signed(&cluster, rolled_back, size).await;
    let node = cluster.node(rolled_back).unwrap();
    node.kill().unwrap();
    std::fs::remove_dir_all(&node.data_dir).unwrap();
    std::fs::rename(&copy, &node.data_dir).unwrap();
    // The leader that it had acknowledged to is gone: only what it has signed gives it away.
    let leads = leader(&cluster).await;
    cluster.node(leads).unwrap().kill().unwrap();
    cluster.node(leads).unwrap().start().unwrap();
    let node = cluster.node(rolled_back).unwrap();
    node.start().unwrap();
    let code = ended(node).await.code();
    let text = node.log_text();
    assert_eq!(code, Some(7), "{text}");
    assert!(text.contains("older copy") && text.contains("--all-rolled-back"), "{text}");
    // The others go on without it.
    some_events(&sdk, b"without the copy", 20).await;
}

/// F5: a copy of a running node's disk is started. Peers that hear the original do not let it in,
/// and remember nothing of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f5_a_copy_does_not_take_the_place_of_a_node_that_runs() {
    let mut cluster = three_nodes();
    let sdk = client(&cluster).await;
    some_events(&sdk, b"before the copy-", 20).await;
    let leads = leader(&cluster).await;
    let (copied, peer) = (leads, if leads == 1 { 2 } else { 1 });
    let (target, dir) = {
        let find = |id| cluster.nodes.iter().find(|node| node.id == id).unwrap();
        (find(peer).raft_addr.clone(), find(copied).data_dir.clone())
    };
    // Whatever it knows is on the disk; it draws a number of its own.
    let thief = Thief::new(&dir);
    let status = eventually("its peer asks the one that runs", || async {
        thief.try_call(peer, &target).await.1.err()
    })
    .await;
    assert!(status.message().contains("runs already"), "{status:?}");
    // It is no matter of who comes first: a start of the original is admitted as ever.
    some_events(&sdk, b"beside the copy-", 20).await;
    let node = cluster.node(copied).unwrap();
    assert!(!node.log_text().contains("refuses this node"), "{}", node.log_text());
    node.kill().unwrap();
    node.start().unwrap();
    let trail = Trail::read_everywhere(&cluster, &sdk).await;
    assert_eq!(trail.events_by_producer().values().map(Vec::len).sum::<usize>(), 40);
    stop_and_compare(&mut cluster);
}

/// F5: a peer that did not hear the original follows the copy. The original raises an alarm and
/// goes on with the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f5_the_original_goes_on_when_a_peer_follows_its_copy() {
    let mut cluster = three_nodes();
    let sdk = client(&cluster).await;
    some_events(&sdk, b"before the copy+", 20).await;
    let leads = leader(&cluster).await;
    let copied = if leads == 1 { 2 } else { 1 };
    let node = cluster.nodes.iter().find(|node| node.id == copied).unwrap();
    let peer = cluster.nodes.iter().find(|node| node.id == leads).unwrap();
    let thief = Thief::new(&node.data_dir);
    node.signal(Signal::STOP).unwrap();
    // What it had sent before it was paused may still answer for it.
    let session = eventually("its peer follows the copy", || async {
        let (session, welcome) = thief.try_call(leads, &peer.raft_addr).await;
        welcome.is_ok().then_some(session)
    })
    .await;
    node.signal(Signal::CONT).unwrap();
    eventually("the original raises an alarm", || async {
        node.log_text().contains("started from a copy of this node's disk").then_some(())
    })
    .await;
    // Its acknowledgements do not count for that peer any more: the copy may give others.
    let third = 6 - leads - copied;
    cluster.node(third).unwrap().kill().unwrap();
    let producer = sdk.producer(ProducerId(*b"one is too few ."), "c");
    let opened = tokio::time::timeout(Duration::from_secs(3), producer.open()).await;
    assert!(!matches!(opened, Ok(Ok(_))), "the leader and the original are no majority");
    drop(session);
    cluster.node(third).unwrap().start().unwrap();
    some_events(&sdk, b"beside the copy+", 20).await;
    let node = cluster.node(copied).unwrap();
    assert!(node.is_running(), "{}", node.log_tail());
}

/// Backups that were taken of one node after the other: each has seen the others at another start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disks_that_were_all_put_back_start_together_however_they_were_copied() {
    let mut cluster = three_nodes();
    let sdk = client(&cluster).await;
    some_events(&sdk, b"before backups--", 20).await;
    let copy = |node: &LocalNode| node.data_dir.with_extension("backup");
    let mut terms = Vec::new();
    for id in 1..=3 {
        let node = cluster.node(id).unwrap();
        terms.push(view(&node.client_addr).await.unwrap().term);
        assert!(node.stop().unwrap().success());
        copy_folder(&node.data_dir, &copy(node));
        node.start().unwrap();
        let addr = node.client_addr.clone();
        eventually("it follows", || async { view(&addr).await.filter(|view| view.leader_id != 0) })
            .await;
    }
    for node in &mut cluster.nodes {
        assert!(node.stop().unwrap().success());
        std::fs::remove_dir_all(&node.data_dir).unwrap();
        std::fs::rename(copy(node), &node.data_dir).unwrap();
    }
    for node in &mut cluster.nodes {
        node.start_with(&["--all-rolled-back"]).unwrap();
    }
    // Each in a later term than that of its copy.
    for (node, before) in cluster.nodes.iter().zip(terms) {
        eventually("all hear from a new leader", || async {
            view(&node.client_addr).await.filter(|view| view.leader_id != 0 && view.term > before)
        })
        .await;
    }
    for node in &mut cluster.nodes {
        assert!(node.is_running(), "{}", node.log_text());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_trail_is_refused() {
    let mut cluster = three_nodes();
    client(&cluster).await;
    let target = cluster.node(2).unwrap().raft_addr.clone();
    cluster.node(1).unwrap().kill().unwrap();
    let (mut session, welcome) =
        Thief::new(&cluster.node(1).unwrap().data_dir).try_call(2, &target).await;
    assert!(welcome.is_ok(), "the certificate and the key are node 1's");
    let raft = &mut session.raft;
    let hello = indelible_proto::raft::Hello {
        trail_id: vec![7; 16].into(),
        from: 1,
        to: 2,
        public_key: vec![0; 32].into(),
        segment_bytes: 128 * 1024,
        ..Default::default()
    };
    let refused = raft.handshake(hello).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    assert!(refused.message().contains("belongs to trail"), "{}", refused.message());
    // init never takes a folder twice.
    let config = cluster.node(1).unwrap().config.to_str().unwrap().to_owned();
    let again = indelible_at(&[], &["init", &config]).await;
    assert!(!again.status.success());
    let message = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(message.contains("already holds a node"), "{message}");
}
