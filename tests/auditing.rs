//! Whom one has to believe: nobody. Real nodes that sign, and clients that check.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use indelible_client::{AckLevel, CheckpointOptions, Client, Level, ProducerId, ReadOptions};
use indelible_local::LocalCluster;
use indelible_testkit::fail::within;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::harness::{
    BINARY, PATIENCE, client, copy_folder, eventually, indelible, leader, options, policy,
    policy_file, stdout, three_nodes,
};
use crate::http::get;

/// A client with the policy, once a majority has signed something.
async fn verifier(cluster: &LocalCluster) -> Client {
    client(cluster).await;
    let mut options = options(cluster);
    options.policy = Some(policy(cluster));
    let client = Client::connect_with(options).await.unwrap();
    eventually("a checkpoint that the policy accepts", || async {
        let found = client.checkpoint(CheckpointOptions::default()).await.ok()??;
        found.is_verified().then_some(())
    })
    .await;
    client
}

/// Runs the command line tool with the cluster's policy.
async fn with_policy(cluster: &LocalCluster, args: &[&str]) -> Output {
    let policy = policy_file(cluster);
    let mut all = vec!["--policy", policy.to_str().unwrap()];
    all.extend(args);
    indelible(cluster, &all).await
}

fn json(output: &Output) -> Value {
    serde_json::from_str(&stdout(output)).unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn path_in(cluster: &LocalCluster, name: &str) -> PathBuf {
    cluster.dir().join(name)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proven_append_and_a_verified_read() {
    let cluster = three_nodes();
    let client = verifier(&cluster).await;
    let id = ProducerId(*b"proven, verified");
    let producer = client.producer(id, "p").ack(AckLevel::Proven).open().await.unwrap();
    let policy = policy(&cluster);
    for number in 0..20 {
        let event = indelible::cli::generate::event(number);
        let receipt = producer.append(event.clone()).await.unwrap();
        assert_eq!(receipt.ack, AckLevel::Proven);
        assert!(receipt.verification.is_verified());
        let file = receipt.proof_file(&event).unwrap().unwrap();
        assert_eq!(file.verify(&policy).unwrap().index, receipt.index);
        let record = client.get(receipt.index, Level::Linearizable).await.unwrap();
        assert!(record.verification.is_verified(), "{:?}", record.verification);
        assert_eq!(record.leaf, receipt.leaf);
    }
    let durable = client.producer(ProducerId(*b"durable, settled"), "d").open().await.unwrap();
    let events = (0..2000).map(indelible::cli::generate::event);
    durable.append_bulk(events).await.unwrap();
    assert!(client.settled(PATIENCE).await, "receipts are settled");
    let mut records = client.read(0.., ReadOptions::default()).await.unwrap();
    let mut verified = 0;
    while let Some(record) = records.next().await.transpose().unwrap() {
        verified += u64::from(record.verification.is_verified());
    }
    assert!(verified > 2000, "{verified} records are verified");
    assert_eq!(client.alarms().try_next(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_of_an_auditor() {
    let cluster = three_nodes();
    verifier(&cluster).await;
    let proof = path_in(&cluster, "event.tlog-proof");
    let append = [
        "--json",
        "append",
        "--actor",
        "alice",
        "--action",
        "DELETE",
        "--target",
        "invoice/7",
        "--proof",
        text(&proof),
    ];
    let receipt = json(&with_policy(&cluster, &append).await);
    assert_eq!((&receipt["ack"], &receipt["verified"]), (&"proven".into(), &true.into()));
    let file = std::fs::read_to_string(&proof).unwrap();
    let file = indelible_client::ProofFile::parse(&file).unwrap();
    let index = file.verify(&policy(&cluster)).unwrap().index;
    assert_eq!(receipt["index"], index);

    let index = index.to_string();
    let got = json(&with_policy(&cluster, &["get", &index, "--prove"]).await);
    assert_eq!(got["verified"], true);
    assert!(got["checkpoint_size"].as_u64().unwrap() > got["index"].as_u64().unwrap());
    let unverified = json(&indelible(&cluster, &["get", &index, "--prove"]).await);
    assert_eq!(unverified["verified"], false, "nobody said whom to believe");
    let first_use = ["get", &index, "--prove", "--trust-on-first-use"];
    let pinned_nowhere = json(&indelible(&cluster, &first_use).await);
    assert_eq!(pinned_nowhere["verified"], false, "the next run would trust somebody else");
    let pin = path_in(&cluster, "first-use");
    let first_use = [&["--checkpoint-file", text(&pin)], &first_use[..]].concat();
    assert_eq!(json(&indelible(&cluster, &first_use).await)["verified"], true);

    let seen = path_in(&cluster, "seen");
    let note = path_in(&cluster, "monday.checkpoint");
    let checkpoint = ["--checkpoint-file", text(&seen), "checkpoint", "-o", text(&note)];
    stdout(&with_policy(&cluster, &checkpoint).await);
    assert_eq!(std::fs::read_to_string(&note).unwrap(), std::fs::read_to_string(&seen).unwrap());

    let again = path_in(&cluster, "again.tlog-proof");
    stdout(&with_policy(&cluster, &["prove", &index, "-o", text(&again)]).await);
    let file = std::fs::read_to_string(&again).unwrap();
    let file = indelible_client::ProofFile::parse(&file).unwrap();
    assert_eq!(file.verify(&policy(&cluster)).unwrap().index.to_string(), index);

    let bundle = path_in(&cluster, "trail.bundle");
    let export = ["--json", "export", "-o", text(&bundle), "--older", text(&note)];
    let exported = json(&with_policy(&cluster, &export).await);
    let bytes = std::fs::read(&bundle).unwrap();
    let reader = indelible_core::bundle::BundleReader::open(&bytes[..]).unwrap();
    let mut records = 0;
    let verified = reader.verify(Some(&policy(&cluster)), &[], |_| records += 1).unwrap();
    assert_eq!(exported["to"].as_u64(), Some(records));
    assert_eq!(verified.records, 0..records);
    assert!(!verified.keys.is_empty(), "the genesis says whose keys count");
}

/// An auditor that runs until its first alert, and where its metrics are.
async fn follow(cluster: &LocalCluster) -> (Child, String) {
    let (policy, state) = (policy_file(cluster), path_in(cluster, "follow.json"));
    let mut child = Command::new(BINARY)
        .args(["--profile", text(&cluster.profile()), "--policy", text(&policy)])
        .args(["audit", "--follow", "--exit-on-alert", "--interval", "1"])
        .args(["--metrics", "127.0.0.1:0", "--state", text(&state)])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = said.next_line().await.unwrap().unwrap();
    // Whoever writes to a closed pipe ends.
    tokio::spawn(async move { while said.next_line().await.is_ok_and(|line| line.is_some()) {} });
    let addr = line.strip_prefix("metrics at http://").unwrap().strip_suffix("/metrics").unwrap();
    (child, addr.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_auditor_goes_on_where_it_was_and_sees_what_was_rolled_back() {
    let mut cluster = three_nodes();
    let client = verifier(&cluster).await;
    let state = path_in(&cluster, "audit.json");
    let audit = ["audit", "--state", text(&state)];
    // Until every node has a checkpoint to show.
    let checked = eventually("an audit of three nodes", || async {
        let first = with_policy(&cluster, &audit).await;
        assert!(first.status.success(), "{first:?}");
        let checked = lines(&first).pop().unwrap();
        assert_eq!(checked["event"], "checked");
        (checked["nodes"] == 3).then_some(checked)
    })
    .await;
    let size = checked["tree_size"].as_u64().unwrap();

    // Copies of all disks, taken while all nodes are stopped: a node stops if a peer has seen a later
    // boot of it, so that copies of different times do not go together.
    for node in &mut cluster.nodes {
        assert!(node.stop().unwrap().success());
    }
    for node in &mut cluster.nodes {
        copy_folder(&node.data_dir, &node.data_dir.with_extension("old"));
        node.start().unwrap();
    }
    let producer = client.producer(ProducerId(*b"goes after copy."), "p");
    let producer = producer.ack(AckLevel::Proven).open().await.unwrap();
    for number in 0..10 {
        let receipt = producer.append(indelible::cli::generate::event(number)).await.unwrap();
        assert!(receipt.ack >= AckLevel::Durable);
    }
    let second = with_policy(&cluster, &audit).await;
    assert!(second.status.success(), "{second:?}");
    let checked = lines(&second).pop().unwrap();
    assert!(checked["tree_size"].as_u64().unwrap() > size + 10);
    assert!(checked["records_read"].as_u64().unwrap() < checked["tree_size"].as_u64().unwrap());

    let (mut following, metrics) = follow(&cluster).await;
    eventually("the auditor that stays has read everything", || async {
        let addr = metrics.clone();
        let page =
            tokio::task::spawn_blocking(move || get(&addr, "/metrics").text()).await.unwrap();
        let read = page.lines().find_map(|line| line.strip_prefix("indelible_audit_tree_size "))?;
        (read.parse::<f64>().unwrap() >= checked["tree_size"].as_f64().unwrap()).then_some(())
    })
    .await;

    for node in &mut cluster.nodes {
        assert!(node.stop().unwrap().success());
    }
    for node in &mut cluster.nodes {
        std::fs::remove_dir_all(&node.data_dir).unwrap();
        std::fs::rename(node.data_dir.with_extension("old"), &node.data_dir).unwrap();
        node.start().unwrap();
    }
    leader(&cluster).await;
    let alert = eventually("the auditor sees it", || async {
        let output = with_policy(&cluster, &audit).await;
        let alerts = lines(&output).into_iter().filter(|line| line["alert"].is_string());
        let alert = alerts.into_iter().next()?;
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        Some(alert)
    })
    .await;
    assert_eq!(alert["alert"], "rolled_back", "{alert}");
    // So does the one that stayed, and it ends with the exit code of an alarm.
    let ended = within(PATIENCE, "the audit ends", following.wait()).await.unwrap();
    assert_eq!(ended.code(), Some(3));
    // A client that had events acknowledged sees it too, though its nodes are in lower terms than it
    // has seen; and the cluster takes no appends until somebody accepts.
    let options = client.producer(ProducerId(*b"goes after copy."), "p").known_last_seq(10);
    let opened = options.open().await;
    let Err(error) = opened else { panic!("the producer was opened") };
    assert!(error.to_string().contains("rolled back"), "{error}");
    let append = ["append", "--actor", "a", "--action", "b", "--target", "c"];
    let refused = indelible(&cluster, &append).await;
    assert!(!refused.status.success(), "{refused:?}");
    let status = indelible(&cluster, &["status"]).await;
    assert!(!status.status.success(), "{status:?}");
    assert!(String::from_utf8_lossy(&status.stderr).contains("rolled back"), "{status:?}");
    stdout(&indelible(&cluster, &["accept-rollback", "--reason", "a test"]).await);
    eventually("every node knows that it was accepted", || async {
        indelible(&cluster, &["status"]).await.status.success().then_some(())
    })
    .await;
    stdout(&indelible(&cluster, &append).await);
}
