//! A group grows from three to four and shrinks to three again, while leaders die at each step.

use indelible_client::{Client, Level, Options, Policy, ProducerId};
use indelible_core::node_key_name;
use indelible_local::LocalCluster;
use indelible_proto::v1;
use serde_json::Value;

use crate::harness::{
    Trail, certify, client, configure, ended, eventually, indelible, indelible_at, leader,
    nodes_with, options, policy, policy_file, stdout, stop_and_compare, three_nodes, view,
};

/// The voters that every running node agrees on, once no change is under way.
async fn voters(cluster: &LocalCluster) -> Vec<u64> {
    let id = leader(cluster).await;
    let addr = cluster.nodes.iter().find(|node| node.id == id).unwrap().client_addr.clone();
    let view = eventually("a view", || async { view(&addr).await }).await;
    view.nodes.iter().filter(|node| node.voter).map(|node| node.id).collect()
}

/// Runs a command until it succeeds: the leader may be dying under it.
pub async fn until_done(cluster: &LocalCluster, args: &[String]) {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    eventually(&format!("{args:?} succeeds"), || async {
        let output = indelible(cluster, &args).await;
        let error = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            eprintln!("{error}");
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

    let add = joining(&mut cluster, 4, &[]).await;
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
    let remove = operation(&["remove-node", &gone.to_string()]);
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

/// A command that changes the group, with its reason.
pub fn operation(args: &[&str]) -> Vec<String> {
    args.iter().chain(&["--reason", "a test"]).map(|arg| (*arg).to_owned()).collect()
}

/// Starts a node that is to be added, and returns the command that adds it.
pub async fn joining(cluster: &mut LocalCluster, id: u64, node_key: &[&str]) -> Vec<String> {
    let endpoints = cluster.endpoints();
    let node = configure(cluster, id);
    let args = ["--json", "node-key", "--config", node.config.to_str().unwrap()];
    let args: Vec<&str> = args.into_iter().chain(node_key.iter().copied()).collect();
    let key = indelible_at(&endpoints, &args).await;
    let key: Value = serde_json::from_str(&stdout(&key)).unwrap();
    assert_eq!(key["id"], id);
    certify(cluster, id).await;
    cluster.node(id).unwrap().start().unwrap();
    let mut add = vec!["add-node".to_owned(), "--id".into(), id.to_string()];
    add.extend(["--reason".into(), "a test".into()]);
    for name in ["client_addr", "raft_addr", "http_addr", "public_key"] {
        add.push(format!("--{}", name.replace('_', "-")));
        add.push(key[name].as_str().unwrap().to_owned());
    }
    add
}

/// One founder after the other leaves and another node comes. Whoever began with the founders'
/// policy and looks in between still believes the trail in the end, and whoever did not look does
/// not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_founder_is_replaced_and_those_who_watch_follow() {
    let mut cluster = three_nodes();
    let founders = policy(&cluster);
    let file = |name: &str| cluster.dir().join(name).to_str().unwrap().to_owned();
    let (policy_path, seen, state, log_key) = (
        policy_file(&cluster).to_str().unwrap().to_owned(),
        file("seen"),
        file("audit.json"),
        file("node1/log_key"),
    );
    client(&cluster).await;
    let options = Options { policy: Some(founders.clone()), ..options(&cluster) };
    let sdk = Client::connect_with(options).await.unwrap();
    let producer = sdk.producer(ProducerId(*b"replacing nodes!"), "m").open().await.unwrap();
    let append = async || producer.append(indelible::cli::generate::event(1)).await.unwrap();
    append().await;

    for (new, old) in [(4, 1), (5, 2), (6, 3)] {
        let add = joining(&mut cluster, new, &["--log-key", &log_key]).await;
        until_done(&cluster, &add).await;
        let name = |id: u64| node_key_name(founders.origin(), id);
        let watched = async |cluster: &LocalCluster, is_there: bool, id: u64| {
            append().await;
            let args = ["--policy", &policy_path, "--checkpoint-file", &seen, "--json", "policy"];
            eventually(&format!("node {id} in the policy: {is_there}"), || async {
                let output = indelible(cluster, &args).await;
                let policy: Value = serde_json::from_slice(&output.stdout).ok()?;
                let policy: Policy = policy["policy"].as_str().unwrap().parse().unwrap();
                (policy.nodes().any(|key| key.name == name(id)) == is_there).then_some(())
            })
            .await;
            let args = ["--policy", &policy_path, "audit", "--state", &state];
            eventually("the auditor has followed", || async {
                let output = indelible(cluster, &args).await;
                let text = std::fs::read_to_string(format!("{state}.checkpoint.policy"));
                let followed = text.is_ok_and(|text| text.contains(&name(id)) == is_there);
                (output.status.success() && followed).then_some(())
            })
            .await;
            eventually("a client that runs has followed", || async {
                sdk.get(0, Level::Any).await.ok()?;
                let policy = sdk.policy().unwrap();
                (policy.nodes().any(|key| key.name == name(id)) == is_there).then_some(())
            })
            .await;
        };
        watched(&cluster, true, new).await;
        until_done(&cluster, &operation(&["remove-node", &old.to_string()])).await;
        assert_eq!(ended(cluster.node(old).unwrap()).await.code(), Some(8), "it was removed");
        cluster.nodes.retain(|node| node.id != old);
        watched(&cluster, false, old).await;
    }

    assert_eq!(voters(&cluster).await, [4, 5, 6]);
    assert!(sdk.get(1, Level::Any).await.unwrap().verification.is_verified());
    assert_eq!(sdk.alarms().try_next(), None);
    let get = ["--policy", &policy_path, "--checkpoint-file", &seen, "get", "1"];
    let record: Value = serde_json::from_str(&stdout(&indelible(&cluster, &get).await)).unwrap();
    assert_eq!(record["verified"], true);
    let stranger =
        indelible(&cluster, &["--policy", &policy_path, "--timeout", "5", "policy"]).await;
    assert_eq!(stranger.status.code(), Some(1));
    let message = String::from_utf8_lossy(&stranger.stderr).into_owned();
    assert!(message.contains("does not accept the checkpoint"), "{message}");
    drop(sdk);
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

/// Clients that come late believe it, too: they believe no leader that has lost its majority.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_voter_is_a_majority_at_any_time() {
    let cluster = nodes_with(1, None, "");
    client(&cluster).await;
    let view = view(&cluster.nodes[0].client_addr).await.unwrap();
    assert_eq!((view.role(), view.quorum_ack_age_ms), (v1::Role::Leader, Some(0)));
}
