//! A group grows from three to four and shrinks to three again, while leaders die at each step.

use indelible::cli::local_cluster::LocalCluster;
use indelible_client::ProducerId;
use indelible_proto::v1;
use serde_json::Value;

use crate::harness::{
    Trail, client, eventually, indelible, indelible_at, leader, stdout, stop_and_compare,
    three_nodes, view,
};

/// The voters that every running node agrees on, once no change is under way.
async fn voters(cluster: &LocalCluster) -> Vec<u64> {
    let id = leader(cluster).await;
    let addr = cluster.nodes.iter().find(|node| node.id == id).unwrap().client_addr.clone();
    let view = eventually("a view", || async { view(&addr).await }).await;
    view.nodes.iter().filter(|node| node.voter).map(|node| node.id).collect()
}

/// Runs a command until it succeeds: the leader may be dying under it.
async fn until_done(cluster: &LocalCluster, args: &[String]) {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    eventually(&format!("{args:?} succeeds"), || async {
        let output = indelible(cluster, &args).await;
        if !output.status.success() {
            eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        }
        output.status.success().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_to_four_to_three_with_the_leader_killed_at_each_step() {
    let mut cluster = three_nodes();
    let sdk = client(&cluster).await;
    let producer = sdk.producer(ProducerId(*b"membership test!"), "m").open().await.unwrap();
    for number in 0..200 {
        producer.append(indelible::cli::generate::event(number)).await.unwrap();
    }

    let endpoints = cluster.endpoints();
    let fourth = cluster.configure(4).unwrap();
    let config = fourth.config.to_str().unwrap().to_owned();
    let key = indelible_at(&endpoints, &["--json", "node-key", "--config", &config]).await;
    let key: Value = serde_json::from_str(&stdout(&key)).unwrap();
    assert_eq!(key["id"], 4);
    cluster.node(4).unwrap().start().unwrap();
    let text = |name: &str| key[name].as_str().unwrap().to_owned();
    let add = vec![
        "add-node".to_owned(),
        "--id".into(),
        "4".into(),
        "--client-addr".into(),
        text("client_addr"),
        "--raft-addr".into(),
        text("raft_addr"),
        "--http-addr".into(),
        text("http_addr"),
        "--public-key".into(),
        text("public_key"),
    ];
    let learner = |view: &v1::ClusterView| view.nodes.iter().any(|node| node.id == 4);
    change_while_the_leader_dies(&mut cluster, &add, learner).await;
    let voting = |view: &v1::ClusterView| {
        view.joint || view.nodes.iter().any(|node| node.id == 4 && node.voter)
    };
    change_while_the_leader_dies(&mut cluster, &add, voting).await;
    until_done(&cluster, &add).await;
    assert_eq!(voters(&cluster).await, [1, 2, 3, 4]);

    let leads = leader(&cluster).await;
    let gone = if leads == 1 { 2 } else { 1 };
    let remove = vec!["remove-node".to_owned(), gone.to_string()];
    let leaving = move |view: &v1::ClusterView| {
        view.joint || !view.nodes.iter().any(|node| node.id == gone && node.voter)
    };
    change_while_the_leader_dies(&mut cluster, &remove, leaving).await;
    // Nobody asks again: the next leader finishes what it finds.
    eventually("the change is finished", || async {
        let id = leader(&cluster).await;
        let addr = cluster.nodes.iter().find(|node| node.id == id).unwrap().client_addr.clone();
        view(&addr).await.filter(|view| !view.joint)
    })
    .await;
    until_done(&cluster, &remove).await;
    let left: Vec<u64> = (1..=4).filter(|id| *id != gone).collect();
    assert_eq!(voters(&cluster).await, left);
    for number in 200..400 {
        producer.append(indelible::cli::generate::event(number)).await.unwrap();
    }

    // The id is burnt: the same node cannot come back under it.
    let again: Vec<String> =
        add.iter().map(|word| if word == "4" { gone.to_string() } else { word.clone() }).collect();
    let again: Vec<&str> = again.iter().map(String::as_str).collect();
    let refused = indelible(&cluster, &again).await;
    assert!(!refused.status.success());
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(message.contains("never reused"), "{message}");

    cluster.nodes.retain(|node| node.id != gone);
    let sdk = client(&cluster).await;
    let trail = Trail::read_everywhere(&cluster, &sdk).await;
    assert_eq!(trail.events_by_producer()[&b"membership test!".to_vec()].len(), 400);
    let operations = trail
        .records
        .iter()
        .filter(|(leaf, _)| leaf.kind == indelible_core::Kind::Operation)
        .count();
    assert!(operations >= 2, "who asked for a change is in the trail");
    stop_and_compare(&mut cluster);
}

/// Starts a change, kills the leader as soon as a node has come to this step of it, and starts it
/// again.
async fn change_while_the_leader_dies(
    cluster: &mut LocalCluster,
    args: &[String],
    step: impl Fn(&v1::ClusterView) -> bool,
) {
    let leads = leader(cluster).await;
    let (endpoints, args) = (cluster.endpoints(), args.to_vec());
    let change = tokio::spawn(async move {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        indelible_at(&endpoints, &args).await
    });
    eventually("the step", || async {
        for node in &cluster.nodes {
            if let Some(view) = view(&node.client_addr).await
                && view.leader_id != 0
                && step(&view)
            {
                return Some(());
            }
        }
        None
    })
    .await;
    cluster.node(leads).unwrap().kill().unwrap();
    leader(cluster).await;
    cluster.node(leads).unwrap().start().unwrap();
    // It may have succeeded, or found that its leader was gone.
    change.await.unwrap();
}
