//! Nodes with wrong clocks, faked by libfaketime: what the trail says of time afterwards.
//!
//! Each scenario is judged when every clock is right again: the newest stamp is within a second of
//! real time, stamps never went backwards, and nothing is lost.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use indelible_client::{Client, Event, Level, Options, Producer, ProducerId};
use indelible_core::Kind;
use indelible_local::{LocalCluster, LocalNode, LocalOptions, Signal};
use indelible_proto::v1;
use indelible_testkit::fail::{environment, within};
use prost::Message;

use crate::attacks::wire::metric;
use crate::harness::{
    BINARY, PATIENCE, Trail, client, eventually, indelible, leader, options, start, stdout,
    three_nodes, view,
};
use crate::publication::policy;
use crate::witness::{Witness, watched_by};

/// Where Debian has it (package `libfaketime`), below the folder of the architecture.
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";
/// How far a stamp may be from real time, in nanoseconds.
const NEAR_NS: u64 = 1_000_000_000;
/// What a right clock is set to.
const RIGHT: &str = "+0 x1";

/// The clocks of a group: a file for each node says how its clock is wrong.
struct Clocks {
    dir: PathBuf,
}

impl Clocks {
    /// Starts every node of the group again, with a clock that [`Self::set`] moves.
    fn fake(cluster: &mut LocalCluster) -> Clocks {
        let library = library();
        let clocks = Clocks { dir: cluster.dir().to_owned() };
        for node in &mut cluster.nodes {
            assert!(node.stop().unwrap().success(), "{}", node.log_tail());
            clocks.set(node.id, RIGHT);
            node.set_env("LD_PRELOAD", library.to_str().unwrap());
            node.set_env("FAKETIME_TIMESTAMP_FILE", clocks.file(node.id).to_str().unwrap());
            // Without a cache, the file is read at each look at the clock.
            node.set_env("FAKETIME_NO_CACHE", "1");
            node.set_env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
            node.set_env("FAKETIME_DISABLE_SHM", "1");
            node.set_env("NO_FAKE_STAT", "1");
        }
        cluster.nodes.iter_mut().for_each(|node| node.start().unwrap());
        clocks
    }

    fn file(&self, id: u64) -> PathBuf {
        self.dir.join(format!("clock{id}"))
    }

    /// Sets a clock: an offset (`+3600`), perhaps with a rate (`+0 x2`).
    fn set(&self, id: u64, wrong: &str) {
        // Renamed into place: a half-written file would be another time.
        let temporary = self.dir.join(format!("clock{id}.tmp"));
        std::fs::write(&temporary, wrong).unwrap();
        std::fs::rename(temporary, self.file(id)).unwrap();
    }
}

fn library() -> PathBuf {
    let architectures = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let found = architectures.map(|folder| folder.path().join(LIBRARY)).find(|path| path.exists());
    let hint = "hint: apt-get install libfaketime";
    found.unwrap_or_else(|| environment(format!("no {LIBRARY} below /usr/lib; {hint}")))
}

fn unix_ns() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

async fn append(producer: &Producer, count: u32) {
    for _ in 0..count {
        producer.append(Event::new("a", "event", "t")).await.unwrap();
    }
}

/// Appends one event while every clock is right, and compares its stamp with real time.
async fn judge(producer: &Producer, what: &str) {
    let before = unix_ns();
    let receipt = producer.append(Event::new("a", "judged", "t")).await.unwrap();
    let (received, after) = (receipt.leaf.received, unix_ns());
    assert!(
        received + NEAR_NS > before && received < after + NEAR_NS,
        "{what}: appended from {before} to {after}, stamped {received}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f4_one_wrong_clock_of_the_leader_moves_no_stamp() {
    let mut cluster = three_nodes();
    let clocks = Clocks::fake(&mut cluster);
    let sdk = client(&cluster).await;
    let producer = sdk.producer(ProducerId(*b"wrong clock test"), "c").open().await.unwrap();
    append(&producer, 5).await;

    // The worst moment is right after a jump, before anything was measured again.
    for wrong in ["+3600 x1", "-3600 x1", "+0 x2"] {
        for _ in 0..3 {
            let leads = leader(&cluster).await;
            clocks.set(leads, wrong);
            append(&producer, 20).await;
            clocks.set(leads, RIGHT);
            append(&producer, 1).await;
        }
        judge(&producer, wrong).await;
    }
    let leads = leader(&cluster).await;
    for number in 0..200 {
        clocks.set(leads, if number % 2 == 0 { "+3600" } else { "-3600" });
        append(&producer, 1).await;
    }
    clocks.set(leads, RIGHT);
    judge(&producer, "strobe").await;

    // One follower is wrong: the leader and the other one are a majority.
    let follower = 1 + leads % 3;
    clocks.set(follower, "+3600");
    append(&producer, 20).await;
    judge(&producer, "a follower one hour ahead").await;
    clocks.set(follower, RIGHT);

    let trail = Trail::read_everywhere(&cluster, &sdk).await;
    let events = &trail.events_by_producer()[&b"wrong clock test".to_vec()];
    assert_eq!(events.len(), 5 + 3 * (3 * 21 + 1) + 200 + 1 + 20 + 1);
}

/// What the leader says of itself, once `is_so`.
async fn leader_says(sdk: &Client, what: &str, is_so: impl Fn(&v1::ClusterView) -> bool) {
    eventually(what, || async {
        let nodes = sdk.status().await;
        let views = nodes.iter().filter_map(|node| node.view.as_ref().ok());
        views.filter(|view| view.role() == v1::Role::Leader).any(&is_so).then_some(())
    })
    .await;
}

/// Everything of a kind that is in the trail, decoded, with its stamp.
async fn recorded<M: Message + Default>(
    cluster: &LocalCluster,
    sdk: &Client,
    kind: Kind,
) -> Vec<(M, u64)> {
    let size = sdk.tree_head(Level::Linearizable).await.unwrap().tree_size;
    let trail = Trail::read(&cluster.nodes[0].client_addr, size).await;
    let records = trail.records.iter().filter(|(leaf, _)| leaf.kind == kind);
    records.map(|(leaf, event)| (M::decode(&event[..]).unwrap(), leaf.received)).collect()
}

/// What a node's probe says.
async fn readyz(node: &LocalNode) -> serde_json::Value {
    let addr = node.probe_addr.clone();
    let answer = tokio::task::spawn_blocking(move || crate::http::get(&addr, "/readyz")).await;
    serde_json::from_slice(&answer.unwrap().body).unwrap()
}

const TWO_HOURS_NS: u64 = 7_200_000_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_clocks_two_hours_ahead_wait_for_an_operator_and_every_leader_follows() {
    let mut cluster = three_nodes();
    let clocks = Clocks::fake(&mut cluster);
    let sdk = client(&cluster).await;
    let producer = sdk.producer(ProducerId(*b"two hours ahead!"), "c").open().await.unwrap();
    append(&producer, 5).await;
    let early = indelible(&cluster, &["accept-clock", "--reason", "too early"]).await;
    assert!(String::from_utf8_lossy(&early.stderr).contains("nothing to accept"), "{early:?}");

    (1..=3).for_each(|id| clocks.set(id, "+7200"));
    leader_says(&sdk, "appends are refused", |view| view.clock_hold == "step").await;
    eventually("a node's probes say so", || async {
        let node = &cluster.nodes[0];
        let held = metric(node, "indelible_clock_hold").await == 1.0;
        (held && readyz(node).await["clock"] == "step").then_some(())
    })
    .await;
    let status = indelible(&cluster, &["status"]).await;
    let error = String::from_utf8_lossy(&status.stderr).into_owned();
    assert!(!status.status.success() && error.contains("because of the clocks"), "{error}");
    // It waits as long as clients are refused.
    let waiting = {
        let producer = producer.clone();
        tokio::spawn(async move { producer.append(Event::new("a", "waited", "t")).await.unwrap() })
    };
    // Nodes go on with what they record themselves, by the time that was agreed on before.
    let led = leader(&cluster).await;
    let moved = ["transfer-leader", "--reason", "clocks"];
    stdout(&indelible(&cluster, &moved).await);
    eventually("another leader", || async { (leader(&cluster).await != led).then_some(()) }).await;
    leader_says(&sdk, "the next leader refuses too", |view| view.clock_hold == "step").await;
    assert!(!waiting.is_finished());
    stdout(&indelible(&cluster, &["accept-clock", "--reason", "the clocks were late"]).await);
    let ahead = waiting.await.unwrap().leaf.received.checked_sub(unix_ns()).unwrap();
    assert!(ahead.abs_diff(TWO_HOURS_NS) < 60_000_000_000, "{ahead}");

    // The record carries the time, and its stamp does: so a later leader knows.
    for (operation, received) in recorded::<v1::Operation>(&cluster, &sdk, Kind::Operation).await {
        match operation.action.as_str() {
            "accept-clock" => {
                let accepted = operation.accepted_unix_ns;
                assert!(accepted <= received && received < accepted + NEAR_NS, "{received}");
            }
            action => assert!(received < unix_ns() + NEAR_NS, "{action} is stamped {received}"),
        }
    }
    stdout(&indelible(&cluster, &moved).await);
    append(&producer, 5).await;

    // It was wrong after all: records get equal stamps, and everybody is told.
    (1..=3).for_each(|id| clocks.set(id, RIGHT));
    leader_says(&sdk, "stamps are ahead", |view| view.stamps_ahead_ms > 7_000_000).await;
    append(&producer, 5).await;
    eventually("a node's probes say so", || async {
        let node = &cluster.nodes[0];
        let alarmed = metric(node, "indelible_stamps_ahead_seconds").await > 7_000.0;
        (alarmed && readyz(node).await["stamps_ahead_ms"].as_u64()? > 7_000_000).then_some(())
    })
    .await;
    eventually("a finding", || async {
        let findings = recorded::<v1::Finding>(&cluster, &sdk, Kind::Finding).await;
        findings.iter().any(|(finding, _)| finding.place == "stamps ahead").then_some(())
    })
    .await;
    let trail = Trail::read_everywhere(&cluster, &sdk).await;
    let events = &trail.events_by_producer()[&b"two hours ahead!".to_vec()];
    assert_eq!(events.len(), 5 + 1 + 5 + 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_start_takes_the_time_and_says_so() {
    let mut cluster = three_nodes();
    let clocks = Clocks::fake(&mut cluster);
    let sdk = client(&cluster).await;
    let producer = sdk.producer(ProducerId(*b"cold start ahead"), "c").open().await.unwrap();
    append(&producer, 5).await;
    for node in &mut cluster.nodes {
        assert!(node.stop().unwrap().success(), "{}", node.log_tail());
        clocks.set(node.id, "+7200");
    }
    cluster.nodes.iter_mut().for_each(|node| node.start().unwrap());
    let before = unix_ns();
    let receipt = producer.append(Event::new("a", "after", "t")).await.unwrap();
    let stamp = receipt.leaf.received;
    assert!(before + TWO_HOURS_NS < stamp + NEAR_NS, "{before} {stamp}");
    assert!(stamp < unix_ns() + TWO_HOURS_NS + NEAR_NS, "{stamp}");
    let findings = eventually("a finding", || async {
        let findings = recorded::<v1::Finding>(&cluster, &sdk, Kind::Finding).await;
        (!findings.is_empty()).then_some(findings)
    })
    .await;
    let (finding, _) = &findings[0];
    assert_eq!((finding.what.as_str(), finding.place.as_str()), ("clock", "cold start"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_clocks_ten_years_ahead_and_back_leave_no_trace() {
    // In clear text: no certificate is good for ten years.
    let mut cluster = start(LocalOptions {
        binary: BINARY.into(),
        nodes: 3,
        segment_bytes: None,
        config: String::new(),
        clear_text: true,
    });
    let clocks = Clocks::fake(&mut cluster);
    let clear = Options { tls: None, clear_text: true, ..options(&cluster) };
    let connect = || async { Client::connect_with(clear.clone()).await.ok() };
    let sdk = eventually("a node answers", connect).await;
    within(PATIENCE, "a leader", sdk.wait_for_leader()).await;
    let producer = sdk.producer(ProducerId(*b"in ten years' t."), "c").open().await.unwrap();
    append(&producer, 5).await;
    for wrong in ["+315360000", "-315360000"] {
        (1..=3).for_each(|id| clocks.set(id, wrong));
        if wrong.starts_with('+') {
            leader_says(&sdk, "appends are refused", |view| view.clock_hold == "step").await;
        } else {
            append(&producer, 5).await;
        }
        (1..=3).for_each(|id| clocks.set(id, RIGHT));
        leader_says(&sdk, "all is well", |view| {
            view.clock_hold.is_empty() && view.clock_offset_ms.is_some_and(|ms| ms.abs() < 100)
        })
        .await;
        judge(&producer, wrong).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_clock_is_wrong_makes_room_for_a_right_one() {
    let mut cluster = three_nodes();
    let clocks = Clocks::fake(&mut cluster);
    let sdk = client(&cluster).await;
    let producer = sdk.producer(ProducerId(*b"makes room soon!"), "c").open().await.unwrap();
    append(&producer, 5).await;
    let wrong = leader(&cluster).await;
    clocks.set(wrong, "+30");
    eventually("another leader", || async { (leader(&cluster).await != wrong).then_some(()) })
        .await;
    append(&producer, 5).await;
    clocks.set(wrong, RIGHT);
    judge(&producer, "another one leads").await;
    let told = cluster.node(wrong).unwrap().log_text();
    assert!(told.contains("this node's clock is wrong: handed over"), "{told}");
}

/// A leader that is left alone may not stamp by offsets of long ago, however right its clock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_paused_together_leave_no_time_to_stamp_by() {
    let mut cluster = three_nodes();
    let clocks = Clocks::fake(&mut cluster);
    let sdk = client(&cluster).await;
    let producer = sdk.producer(ProducerId(*b"paused together!"), "c").open().await.unwrap();
    append(&producer, 5).await;
    let leads = leader(&cluster).await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != leads).collect();
    let send = |cluster: &mut LocalCluster, signal: Signal| {
        others.iter().for_each(|id| cluster.node(*id).unwrap().signal(signal).unwrap());
    };
    send(&mut cluster, Signal::STOP);
    let addr = cluster.node(leads).unwrap().client_addr.clone();
    eventually("the leader knows no time any more", || async {
        (view(&addr).await?.clock_hold == "no-majority").then_some(())
    })
    .await;
    clocks.set(leads, "+3600 x1");
    send(&mut cluster, Signal::CONT);
    append(&producer, 20).await;
    clocks.set(leads, RIGHT);
    judge(&producer, "two paused").await;
    let trail = Trail::read_everywhere(&cluster, &sdk).await;
    assert_eq!(trail.events_by_producer()[&b"paused together!".to_vec()].len(), 5 + 20 + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_witness_that_agrees_lets_the_time_pass() {
    let witness = Witness::start("witness.example/clock", 1).await;
    let mut cluster = watched_by(&[&witness]).await;
    witness.log.set(policy(&cluster).logs()[0].key.clone()).unwrap();
    let clocks = Clocks::fake(&mut cluster);
    let sdk = client(&cluster).await;
    let producer = sdk.producer(ProducerId(*b"a witness agrees"), "c").open().await.unwrap();
    append(&producer, 5).await;
    (1..=3).for_each(|id| clocks.set(id, "+7200 x1"));
    leader_says(&sdk, "appends are refused", |view| view.clock_hold == "step").await;
    // It is asked five times a second, and says that it is two hours earlier.
    let asked = witness.asked();
    eventually("the witness is asked", || async { (witness.asked() > asked + 5).then_some(()) })
        .await;
    leader_says(&sdk, "they still are", |view| view.clock_hold == "step").await;
    witness.ahead_s.store(7200, Ordering::SeqCst);
    let receipt = producer.append(Event::new("a", "after", "t")).await.unwrap();
    let ahead = receipt.leaf.received.checked_sub(unix_ns()).unwrap();
    assert!(ahead.abs_diff(TWO_HOURS_NS) < 60_000_000_000, "{ahead}");
}

/// One peer that remembers the time is enough: a restart beside a dead node is no start of all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_beside_a_dead_node_lets_no_step_pass() {
    let mut cluster = three_nodes();
    let clocks = Clocks::fake(&mut cluster);
    let sdk = client(&cluster).await;
    let producer = sdk.producer(ProducerId(*b"beside the dead."), "c").open().await.unwrap();
    append(&producer, 5).await;
    (1..=3).for_each(|id| clocks.set(id, "+7200"));
    leader_says(&sdk, "appends are refused", |view| view.clock_hold == "step").await;
    let leads = leader(&cluster).await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != leads).collect();
    cluster.node(others[0]).unwrap().kill().unwrap();
    let again = cluster.node(others[1]).unwrap();
    again.kill().unwrap();
    again.start().unwrap();
    let addr = again.client_addr.clone();
    eventually("the one that was started holds it back, too", || async {
        (view(&addr).await?.clock_hold == "step").then_some(())
    })
    .await;
    (1..=3).for_each(|id| clocks.set(id, RIGHT));
    cluster.node(others[0]).unwrap().start().unwrap();
    judge(&producer, "nothing was taken").await;
}

/// What the record of an accepted time would be stamped with, nothing else is: not if it cannot be
/// recorded, either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_accepted_time_is_stamped_by_its_record_or_not_at_all() {
    let mut cluster = three_nodes();
    let clocks = Clocks::fake(&mut cluster);
    let sdk = client(&cluster).await;
    let producer = sdk.producer(ProducerId(*b"not without it!!"), "c").open().await.unwrap();
    append(&producer, 5).await;
    (1..=3).for_each(|id| clocks.set(id, "+7200"));
    leader_says(&sdk, "appends are refused", |view| view.clock_hold == "step").await;
    let leads = leader(&cluster).await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != leads).collect();
    let send = |cluster: &mut LocalCluster, signal: Signal| {
        others.iter().for_each(|id| cluster.node(*id).unwrap().signal(signal).unwrap());
    };
    send(&mut cluster, Signal::STOP);
    let accept = ["--timeout", "3", "accept-clock", "--reason", "nobody answers"];
    assert!(!indelible(&cluster, &accept).await.status.success());
    (1..=3).for_each(|id| clocks.set(id, RIGHT));
    send(&mut cluster, Signal::CONT);
    append(&producer, 5).await;
    let size = sdk.tree_head(Level::Linearizable).await.unwrap().tree_size;
    let trail = Trail::read(&cluster.nodes[0].client_addr, size).await;
    let first_ahead =
        trail.records.iter().find(|(leaf, _)| leaf.received > unix_ns() + TWO_HOURS_NS / 2);
    if let Some((leaf, event)) = first_ahead {
        assert_eq!(leaf.kind, Kind::Operation);
        let operation = v1::Operation::decode(&event[..]).unwrap();
        assert_eq!(operation.action, "accept-clock");
        assert_eq!(operation.accepted_unix_ns, leaf.received);
    }
}
