//! Nodes without the log key: they cosign and vote, and do not keep leadership.

use indelible_local::LocalCluster;
use indelible_proto::v1;

use crate::attacks::group::CALM;
use crate::harness::{
    client, eventually, indelible, leader, nodes_with, note, stop_and_compare, view,
};
use crate::membership::{joining, operation, until_done};

/// Makes a node without the log key the fourth voter, as the documentation says.
async fn add_keyless(cluster: &mut LocalCluster) {
    let add = joining(cluster, 4, &[]).await;
    assert!(!cluster.node(4).unwrap().data_dir.join("log_key").exists());
    until_done(cluster, &add).await;
}

/// As `indelible status` sees it.
async fn tree_size(cluster: &LocalCluster) -> u64 {
    let id = leader(cluster).await;
    let addr = cluster.nodes.iter().find(|node| node.id == id).unwrap().client_addr.clone();
    eventually("a view", || view(&addr)).await.tree_size
}

/// It took office and kept it: no checkpoint came any more, whatever was appended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f8_a_leader_without_the_log_key_makes_room_for_one_that_has_it() {
    let mut cluster = nodes_with(3, Some(128 * 1024), CALM);
    client(&cluster).await;
    add_keyless(&mut cluster).await;
    let first = leader(&cluster).await;
    assert_ne!(first, 4);
    let transfer = operation(&["transfer-leader", "--to", "4"]);
    let transfer: Vec<&str> = transfer.iter().map(String::as_str).collect();
    let has_led = |cluster: &LocalCluster| {
        let node = cluster.nodes.iter().find(|node| node.id == 4).unwrap();
        node.log_text().contains("leadership now=Ready")
    };
    // NB: not once more after it has led: the next hand-over of node 4 would be a minute away.
    eventually("node 4 is told to lead", || async {
        let told = indelible(&cluster, &transfer).await.status.success();
        (told || has_led(&cluster)).then_some(())
    })
    .await;
    eventually("node 4 makes room", || async {
        let node = cluster.nodes.iter().find(|node| node.id == 4).unwrap();
        node.log_text().contains("this node has no log key: handed over").then_some(())
    })
    .await;
    // Checkpoints cover what is recorded from now on, on every node.
    let append = ["append", "--actor", "a", "--action", "b.c", "--target", "d"];
    assert!(indelible(&cluster, &append).await.status.success());
    let next = leader(&cluster).await;
    assert_ne!(next, 4, "a node with the key leads");
    let size = tree_size(&cluster).await;
    for node in &cluster.nodes {
        note(&node.client_addr, size).await;
    }
    stop_and_compare(&mut cluster);
}

/// A command that names nobody finds a voter that has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_to_anybody_goes_to_a_voter_with_the_log_key() {
    let mut cluster = nodes_with(3, Some(128 * 1024), CALM);
    client(&cluster).await;
    add_keyless(&mut cluster).await;
    let was_leader = |text: &str| text.contains("leadership now=Ready");
    for _ in 0..3 {
        let leads = leader(&cluster).await;
        until_done(&cluster, &operation(&["transfer-leader"])).await;
        eventually("another node leads", || async {
            let now = leader(&cluster).await;
            (now != leads).then_some(())
        })
        .await;
    }
    let fourth = cluster.nodes.iter().find(|node| node.id == 4).unwrap();
    assert!(!was_leader(&fourth.log_text()), "{}", fourth.log_tail());
    let addr = fourth.client_addr.clone();
    let role = eventually("a view", || view(&addr)).await.role();
    assert_eq!(role, v1::Role::Follower);
}
