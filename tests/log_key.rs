//! Nodes without the log key: they cosign and vote, and do not keep leadership.

use indelible_local::LocalCluster;
use indelible_proto::v1;
use serde_json::Value;

use crate::attacks::group::CALM;
use crate::attacks::wire::metric;
use crate::harness::{
    client, eventually, indelible, leader, nodes_with, note, stdout, stop_and_compare, view,
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

/// Whoever forgot the key is told so before it matters, and wherever one looks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_the_log_key_is_named_everywhere() {
    let mut cluster = nodes_with(3, Some(128 * 1024), CALM);
    client(&cluster).await;
    add_keyless(&mut cluster).await;
    let fourth = cluster.nodes.iter().find(|node| node.id == 4).unwrap();
    let config = fourth.config.to_str().unwrap().to_owned();
    let text = stdout(&indelible(&cluster, &["node-key", "--config", &config]).await);
    let give = format!("indelible node-key --config {config} --log-key FILE");
    assert!(text.contains("it has no log key") && text.contains(&give), "{text}");

    let status = || async {
        let output = indelible(&cluster, &["status"]).await;
        let warning = String::from_utf8_lossy(&output.stderr).into_owned();
        warning.contains("warning: no log key on node 4:").then_some(())
    };
    eventually("the status names the node", status).await;
    let json = stdout(&indelible(&cluster, &["--json", "status"]).await);
    let json: Value = serde_json::from_str(&json).unwrap();
    for node in json["nodes"].as_array().unwrap() {
        assert_eq!(node["log_key"], node["id"] != 4, "{node}");
    }
    let leads = leader(&cluster).await;
    for node in &cluster.nodes {
        assert_eq!(metric(node, "indelible_log_key").await, f64::from(u8::from(node.id != 4)));
        let readiness = || async {
            let addr = node.probe_addr.clone();
            let get = tokio::task::spawn_blocking(move || crate::http::get(&addr, "/readyz"));
            let body: Value = serde_json::from_str(&get.await.unwrap().text()).unwrap();
            assert_eq!(body["log_key"], node.id != 4, "{body}");
            // The leader is told by the others.
            let known = body["log_key_nodes"].as_array().unwrap().len();
            (known == if node.id == leads { 3 } else { usize::from(node.id != 4) }).then_some(())
        };
        eventually("what /readyz says", readiness).await;
    }

    // With the key, and started again, it is like the others.
    let log_key = cluster.dir().join("node1/log_key");
    let args = ["node-key", "--config", &config, "--log-key", log_key.to_str().unwrap()];
    let text = stdout(&indelible(&cluster, &args).await);
    assert!(!text.contains("no log key"), "{text}");
    let fourth = cluster.node(4).unwrap();
    assert!(fourth.stop().unwrap().success());
    fourth.start().unwrap();
    eventually("nobody is without the key", || async {
        let output = indelible(&cluster, &["status"]).await;
        let warning = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success() && !warning.contains("no log key")).then_some(())
    })
    .await;
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

/// The checkpoint by which auditors follow the voters, between the two steps of a change.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_voters_waits_for_a_checkpoint_of_both_majorities() {
    let mut cluster = nodes_with(3, Some(128 * 1024), CALM);
    client(&cluster).await;
    let leads_view = async |cluster: &LocalCluster| {
        let id = leader(cluster).await;
        let addr = cluster.nodes.iter().find(|node| node.id == id).unwrap().client_addr.clone();
        eventually("a view", || view(&addr)).await
    };
    add_keyless(&mut cluster).await;
    let signed = leads_view(&cluster).await;
    assert!(!signed.joint && signed.unsigned_change == 0, "{signed:?}");
    // Nobody can sign: the change ends all the same, and everybody who looks is told.
    for node in &mut cluster.nodes {
        assert!(node.stop().unwrap().success());
        let _ = std::fs::remove_file(node.data_dir.join("log_key"));
    }
    for node in &mut cluster.nodes {
        node.start().unwrap();
    }
    client(&cluster).await;
    let leads = leader(&cluster).await;
    let gone = if leads == 2 { 3 } else { 2 };
    let remove = operation(&["remove-node", &gone.to_string()]);
    let removing = until_done(&cluster, &remove);
    let seen = async {
        let status = || async {
            let output = indelible(&cluster, &["status"]).await;
            let note = String::from_utf8_lossy(&output.stderr).into_owned();
            note.contains("note: a change of voters is under way").then_some(())
        };
        eventually("the change waits", status).await;
    };
    tokio::join!(removing, seen);
    let unsigned = leads_view(&cluster).await;
    assert!(!unsigned.joint && unsigned.unsigned_change > 0, "{unsigned:?}");
    let output = indelible(&cluster, &["status"]).await;
    let warning = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(warning.contains("without a checkpoint of both majorities"), "{warning}");
}
