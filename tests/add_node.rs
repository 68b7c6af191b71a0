//! What a person sees who adds a node to a trail that takes a while to copy.

use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use indelible::cli::generate::event_of_size;
use indelible_core::ProducerId;
use indelible_core::limits::REPLICATION_BYTES_MAX;
use indelible_proto::v1;
use indelible_testkit::fail::within;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

use crate::attacks::group::{CALM, Group};
use crate::attacks::membership::start_behind;
use crate::attacks::relay::Relay;
use crate::harness::{BINARY, PATIENCE, bare_profile, configure, eventually, view};

/// A command of an administrator that runs.
struct Running {
    process: Child,
    stderr: Lines<BufReader<ChildStderr>>,
    /// What it has said so far.
    said: Vec<String>,
}

impl Running {
    fn start(group: &Group, args: &[String]) -> Running {
        let mut command = Command::new(BINARY);
        command.args(args).env("INDELIBLE_PROFILE", bare_profile(&group.cluster));
        command.env("INDELIBLE_ENDPOINTS", group.cluster.endpoints()[..3].join(","));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.kill_on_drop(true).spawn().unwrap();
        let stderr = BufReader::new(process.stderr.take().unwrap()).lines();
        Running { process, stderr, said: Vec::new() }
    }

    /// Until it says a line with this in it.
    async fn says(&mut self, what: &str) -> String {
        let waiting = async {
            while let Some(line) = self.stderr.next_line().await.unwrap() {
                self.said.push(line.clone());
                if line.contains(what) {
                    return line;
                }
            }
            panic!("it ended without {what:?}: {:#?}", self.said);
        };
        within(PATIENCE, what, waiting).await
    }

    async fn interrupted(mut self) -> (ExitStatus, Vec<String>) {
        let pid = Pid::from_raw(self.process.id().unwrap().try_into().unwrap()).unwrap();
        kill_process(pid, Signal::INT).unwrap();
        self.ended().await
    }

    async fn ended(&mut self) -> (ExitStatus, Vec<String>) {
        let ending = async {
            while let Some(line) = self.stderr.next_line().await.unwrap() {
                self.said.push(line);
            }
            self.process.wait().await.unwrap()
        };
        let status = within(PATIENCE, "the command ends", ending).await;
        (status, std::mem::take(&mut self.said))
    }
}

/// As a shell would take a command apart that was printed.
fn words(command: &str) -> Vec<String> {
    let (words, reason) = command.split_once(" --reason ").unwrap();
    let mut words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
    assert_eq!(words.remove(0), "indelible");
    words.extend(["--reason".to_owned(), reason.trim_matches('\'').to_owned()]);
    words
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn add_node_says_how_far_it_is_and_an_interrupt_leaves_a_learner() {
    let mut group = Group::start_calm().await;
    group.lead(1).await;
    let producer = group.sdk.producer(ProducerId(rand::random()), "bulky").open().await.unwrap();
    for number in 0..400 {
        producer.append(event_of_size(number, 16 * 1024)).await.unwrap();
    }
    let target = configure(&mut group.cluster, 4).raft_addr.clone();
    let relay = Relay::narrow(target, 5 * REPLICATION_BYTES_MAX / 2).await;
    let request = start_behind(&mut group, 4, &relay, CALM).await;
    let member = async |group: &Group| {
        let addr = group.client_addr(1);
        eventually("a view", || view(&addr)).await.nodes.into_iter().find(|node| node.id == 4)
    };
    let key = hex::encode(&request.public_key);
    let v1::AddNodeRequest { client_addr, raft_addr, http_addr, .. } = request;
    let add = format!(
        "indelible add-node --id 4 --client-addr {client_addr} --raft-addr {raft_addr} \
         --http-addr {http_addr} --public-key {key} --reason 'it is new'"
    );
    let mut adding = Running::start(&group, &words(&add));
    let warning = adding.says("warning:").await;
    assert!(warning.contains("will have 4 voters: 3 of them must answer"), "{warning}");
    assert_eq!(adding.said.len(), 1, "before anything else");
    let line = adding.says("node 4 copies the log: ").await;
    // Its size is not fixed, and neither is how far it has come.
    assert!(line.contains(" MiB, ") && line.contains(" entries"), "{line}");
    adding.says("MiB/s").await;

    let (status, said) = adding.interrupted().await;
    assert_eq!(status.code(), Some(130), "{said:#?}");
    let of = |what: &str| said.iter().find_map(|line| Some(line.split_once(what)?.1.to_owned()));
    assert!(of("node 4 is a learner").is_some(), "{said:#?}");
    let again = of("to make it a voter:").unwrap();
    assert_eq!(again.trim(), add);
    let remove = of("to remove it:").unwrap();
    assert_eq!(remove.trim(), "indelible remove-node 4 --reason WHY");
    assert!(!member(&group).await.unwrap().voter);

    // The command that it printed goes on.
    relay.open();
    let (status, said) = Running::start(&group, &words(again.trim())).ended().await;
    assert!(status.success(), "{said:#?}");
    assert!(member(&group).await.unwrap().voter);
    group.still_works().await;
}

/// Bytes of events that the trail has before the node comes.
const TRAIL_BYTES: u64 = 300 * 1000 * 1000;
/// What gets to the new node in a second.
const TO_NEW_NODE: usize = 5 * 1000 * 1000;

/// A trail of full size, a new node that gets 5 MB of it a second, and an old voter that dies
/// meanwhile. Appends of one caller go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "two minutes and 1.2 GB of disk: cargo test --test it -- --ignored add_node::full_size"]
async fn full_size_a_slow_node_is_added_while_an_old_voter_dies() {
    const EVENT_BYTES: usize = 200_000;
    let mut group = Group::start_calm().await;
    group.lead(1).await;
    let producer = group.sdk.producer(ProducerId(rand::random()), "bulky").open().await.unwrap();
    for number in 0..TRAIL_BYTES / EVENT_BYTES as u64 {
        producer.append(event_of_size(number, EVENT_BYTES)).await.unwrap();
    }
    let target = configure(&mut group.cluster, 4).raft_addr.clone();
    let relay = Relay::slow(target, TO_NEW_NODE).await;
    let request = start_behind(&mut group, 4, &relay, CALM).await;

    let caller = group.sdk.producer(ProducerId(rand::random()), "meanwhile").open().await.unwrap();
    let appending = tokio::spawn(async move {
        let (mut gaps, mut last) = (Vec::new(), Instant::now());
        for number in 0.. {
            caller.append(event_of_size(number, 200)).await.unwrap();
            gaps.push(last.elapsed());
            last = Instant::now();
            if DONE.load(Ordering::Relaxed) {
                break;
            }
        }
        gaps.sort_unstable();
        gaps
    });
    let key = hex::encode(&request.public_key);
    let v1::AddNodeRequest { client_addr, raft_addr, http_addr, .. } = request;
    let add = format!(
        "indelible add-node --id 4 --client-addr {client_addr} --raft-addr {raft_addr} \
         --http-addr {http_addr} --public-key {key} --reason 'it is slow'"
    );
    let began = Instant::now();
    let mut adding = Running::start(&group, &words(&add));
    adding.says("MiB/s").await;
    group.cluster.node(3).unwrap().kill().unwrap();
    let mut said = Vec::new();
    while let Some(line) = adding.stderr.next_line().await.unwrap() {
        eprintln!("{line}");
        said.push(line);
    }
    let status = adding.process.wait().await.unwrap();
    assert!(status.success(), "{said:#?}");
    let took = began.elapsed();
    DONE.store(true, Ordering::Relaxed);
    let gaps = within(PATIENCE, "the last append", appending).await.unwrap();
    let at = |share: f64| gaps[((gaps.len() - 1) as f64 * share) as usize];
    eprintln!(
        "{} appends in {took:.1?}; p50 {:.1?}, p99 {:.1?}, longest {:.1?}",
        gaps.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
    let addr = group.client_addr(1);
    let view = eventually("a view", || view(&addr)).await;
    assert!(view.nodes.iter().any(|node| node.id == 4 && node.voter), "{view:?}");
    // Long before the node was a voter nobody waited for it: the group of old voters did the work.
    assert!(took.as_secs() >= TRAIL_BYTES / TO_NEW_NODE as u64 / 2, "the relay was slow: {took:?}");
    group.cluster.node(3).unwrap().start().unwrap();
    group.still_works().await;
}

/// That the node of the full-size test is a voter.
static DONE: AtomicBool = AtomicBool::new(false);
