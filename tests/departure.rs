//! Nodes that were removed stop by themselves, whatever they were and wherever they were meanwhile.

use indelible::cli::generate::event_of_size;
use indelible_core::ProducerId;
use indelible_core::limits::REPLICATION_BYTES_MAX;
use indelible_local::LocalCluster;
use indelible_proto::v1;
use indelible_testkit::fail::within;
use serde_json::Value;

use crate::attacks::group::{CALM, Group};
use crate::attacks::membership::start_behind;
use crate::attacks::relay::Relay;
use crate::harness::{
    PATIENCE, client, configure, ended, eventually, indelible, leader, nodes_with, stdout, view,
};

/// Removes a node with one command. Returns the voters that are left.
async fn remove(cluster: &LocalCluster, id: u64) -> Value {
    let args = ["--json", "remove-node", &id.to_string(), "--reason", "a test"];
    let removed = stdout(&indelible(cluster, &args).await);
    serde_json::from_str::<Value>(&removed).unwrap()["voters"].clone()
}

/// A command that removes the leader was refused: "transfer-leader first".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_removed_hands_over_first_and_stops_for_good() {
    let mut cluster = nodes_with(3, None, CALM);
    client(&cluster).await;
    let leads = leader(&cluster).await;
    let left: Vec<u64> = (1..=3).filter(|id| *id != leads).collect();
    assert_eq!(remove(&cluster, leads).await, serde_json::json!(left));
    let gone = cluster.node(leads).unwrap();
    assert_eq!(ended(gone).await.code(), Some(8), "{}", gone.log_tail());
    assert!(gone.log_text().contains("was removed from the group"), "{}", gone.log_tail());
    // Whoever starts it again is told the same.
    gone.start().unwrap();
    assert_eq!(ended(gone).await.code(), Some(8), "{}", gone.log_tail());
    cluster.nodes.retain(|node| node.id != leads);
    let append = ["append", "--actor", "a", "--action", "b.c", "--target", "d"];
    stdout(&indelible(&cluster, &append).await);
}

/// A node that was away knows nothing of it, and is told when it comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_removed_while_it_was_away_stops_at_its_start() {
    let mut cluster = nodes_with(3, None, CALM);
    client(&cluster).await;
    let leads = leader(&cluster).await;
    let away = if leads == 1 { 2 } else { 1 };
    cluster.node(away).unwrap().kill().unwrap();
    remove(&cluster, away).await;
    let node = cluster.node(away).unwrap();
    node.start().unwrap();
    assert_eq!(ended(node).await.code(), Some(8), "{}", node.log_tail());
    let said = node.log_text();
    assert!(said.contains("so say nodes"), "{said}");
}

/// A learner stands for no election, so it asks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_that_was_removed_stops_too() {
    let mut group = Group::start_calm().await;
    group.lead(1).await;
    let producer = group.sdk.producer(ProducerId(rand::random()), "bulky").open().await.unwrap();
    for number in 0..400 {
        producer.append(event_of_size(number, 16 * 1024)).await.unwrap();
    }
    let target = configure(&mut group.cluster, 4).raft_addr.clone();
    // A part of the log gets there.
    let relay = Relay::narrow(target, 5 * REPLICATION_BYTES_MAX / 2).await;
    let request = start_behind(&mut group, 4, &relay, CALM).await;
    let addr = group.client_addr(1);
    let mut admin = group.admin(1).await;
    let adding = tokio::spawn(async move { admin.add_node(request).await });
    let is_learner = |view: &v1::ClusterView| {
        view.nodes.iter().any(|node| node.id == 4 && !node.voter && node.matched_index.is_some())
    };
    let added = || async { view(&addr).await.filter(|view| is_learner(view)) };
    let early = tokio::select! {
        added = adding => Some(added),
        _ = eventually("node 4 is a learner", added) => None,
    };
    assert!(early.is_none(), "too fast to be seen as a learner: {early:?}");
    let request = v1::RemoveNodeRequest { id: 4, reason: "a test".into() };
    let removing = async {
        loop {
            match group.admin(1).await.remove_node(request.clone()).await {
                Ok(removed) => return removed,
                Err(error) => assert!(error.message().contains("under way"), "{error:?}"),
            }
        }
    };
    within(PATIENCE, "a learner is removed", removing).await;
    relay.open();
    let node = group.cluster.node(4).unwrap();
    assert_eq!(ended(node).await.code(), Some(8), "{}", node.log_tail());
    group.still_works().await;
}

/// Nobody else could lead, and the message says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_voter_is_not_removed() {
    let alone = nodes_with(1, None, "");
    client(&alone).await;
    let args = ["remove-node", "1", "--reason", "a test"];
    let refused = String::from_utf8_lossy(&indelible(&alone, &args).await.stderr).into_owned();
    assert!(refused.contains("the last voter; hint: add another node first"), "{refused}");
}

/// Two of three are away: whoever is told to remove the leader hears that nobody follows it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_nobody_can_follow_stays() {
    let mut cluster = nodes_with(3, None, CALM);
    client(&cluster).await;
    let leads = leader(&cluster).await;
    for id in (1..=3).filter(|id| *id != leads) {
        cluster.node(id).unwrap().kill().unwrap();
    }
    let leads_text = leads.to_string();
    let args = ["--timeout", "5", "remove-node", &leads_text, "--reason", "a test"];
    let output = indelible(&cluster, &args).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(cluster.node(leads).unwrap().is_running());
}
