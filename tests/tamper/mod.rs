//! The tamper matrix: somebody changes the files of one node of three, and the table of what comes
//! of it (docs/tamper-matrix.md) is written from what was seen.
//!
//! Each case starts from the same stopped cluster, so that its outcome is its own. A case passes if
//! the node never hands out a record that differs from what was recorded, and in the end either has
//! every byte back or does not run, with an exit code that says why.

mod cases;
mod files;
mod rewrite;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use bytes::Bytes;
use indelible_client::{Client, Event, Level, ProducerId};
use indelible_core::Kind;
use indelible_local::{LocalCluster, LocalNode};
use indelible_proto::v1;
use indelible_testkit::fail::timeout;
use prost::Message as _;

use crate::harness::{
    BINARY, PATIENCE, SSHD, audit_log, client, copy_folder, data, eventually, indelible,
    nodes_with, stdout, view,
};
use cases::{Case, Outcome};

/// Small enough that two thousand lines seal several.
const SEGMENT_BYTES: u64 = 64 * 1024;
/// Fast, so that nobody waits for it: the whole of it takes a moment.
const CONFIG: &str = "[storage]\nscrub_bytes_per_s = 100000000\n";
/// The node whose files are changed.
const VICTIM: u64 = 3;

/// A cluster that was filled and stopped, and what it held.
struct Template {
    cluster: LocalCluster,
    /// Copies of the data directories, by node.
    copies: Vec<PathBuf>,
    /// Leaf and event of every record.
    records: Vec<(Bytes, Bytes)>,
    /// How much of the victim's log is of earlier cases, in bytes.
    log_before: usize,
}

impl Template {
    async fn make() -> Template {
        let mut cluster = nodes_with(3, Some(SEGMENT_BYTES), CONFIG);
        let sdk = client(&cluster).await;
        let file = data(SSHD);
        let args = ["import", "--format", "syslog", file.to_str().unwrap()];
        stdout(&indelible(&cluster, &args).await);
        // Several segments, however few entries the import took.
        let producer = sdk.producer(ProducerId([4; 16]), "segments").open().await.unwrap();
        for _ in 0..60 {
            let mut event = Event::new("alice", "read", "much");
            event.reason = "because ".repeat(500);
            producer.append(event).await.unwrap();
        }
        // Entries of one event each, all of one size: frames that can be exchanged.
        let producer = sdk.producer(ProducerId([5; 16]), "equal sizes").open().await.unwrap();
        for number in 1000..1040 {
            let event = Event::new("alice", "read", format!("row/{number}"));
            producer.append(event).await.unwrap();
        }
        let size = sdk.tree_head(Level::Linearizable).await.unwrap().tree_size;
        for node in &cluster.nodes {
            caught_up(node, size).await;
        }
        let records = read(&cluster.nodes[0], size).await.unwrap();
        // Its checkpoint covers the trail, so that damage is judged against a signed root.
        for node in &cluster.nodes {
            published(node, size).await;
        }
        let mut copies = Vec::new();
        for node in &mut cluster.nodes {
            assert!(node.stop().unwrap().success(), "{}", node.log_tail());
            let copy = node.data_dir.with_extension("template");
            copy_folder(&node.data_dir, &copy);
            copies.push(copy);
        }
        Template { cluster, copies, records, log_before: 0 }
    }

    /// Every node as it was when it was stopped.
    fn restore(&mut self) {
        for (node, copy) in self.cluster.nodes.iter_mut().zip(&self.copies) {
            if node.is_running() {
                node.kill().unwrap();
            }
            std::fs::remove_dir_all(&node.data_dir).unwrap();
            copy_folder(copy, &node.data_dir);
        }
    }

    async fn run(&mut self, case: &Case) -> Outcome {
        self.restore();
        let victim = self.cluster.node(VICTIM).unwrap().data_dir.clone();
        (case.tamper)(&victim, &self.copies[VICTIM as usize - 1]);
        self.log_before = self.cluster.node(VICTIM).unwrap().log_text().len();
        for node in &mut self.cluster.nodes {
            node.start().unwrap();
        }
        let refused = self.judge(case).await;
        if let Some(code) = refused {
            let log = self.log();
            assert!(log.contains("hint:"), "{}: refused without a hint: {log}", case.name());
            return Outcome::Refused(code);
        }
        let mended = self.finding().await;
        let outcome = match mended {
            true => Outcome::Mended,
            false if self.rebuilt() => Outcome::Rebuilt,
            false => Outcome::Unaffected,
        };
        self.compare(case);
        outcome
    }

    /// Until the victim has everything back (none) or has ended (its exit code). Whatever it hands
    /// out meanwhile must be right.
    async fn judge(&mut self, case: &Case) -> Option<i32> {
        let began = Instant::now();
        let size = self.records.len() as u64;
        loop {
            let node = self.cluster.node(VICTIM).unwrap();
            if !node.is_running() {
                return node.wait().unwrap().code();
            }
            match read(node, size).await {
                Some(records) => {
                    for (index, (ours, theirs)) in self.records.iter().zip(&records).enumerate() {
                        assert!(ours == theirs, "{}: record {index} was altered", case.name());
                    }
                    if records.len() == self.records.len() && has_scrubbed(node).await {
                        return None;
                    }
                }
                None => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            }
            let node = self.cluster.node(VICTIM).unwrap();
            if began.elapsed() >= PATIENCE {
                timeout(format_args!("{}: {}", case.name(), node.log_tail()));
            }
        }
    }

    /// Whether the trail says that the victim was damaged. The finding is written by whoever leads,
    /// and comes a moment after the mending: the victim counts what it has asked to be recorded.
    async fn finding(&self) -> bool {
        let node = &self.cluster.nodes[VICTIM as usize - 1];
        let mended = view(&node.client_addr).await.is_some_and(|view| view.mended > 0);
        if !mended {
            return false;
        }
        let sdk = client(&self.cluster).await;
        eventually("the finding is in the trail", || self.find(&sdk)).await;
        true
    }

    async fn find(&self, sdk: &Client) -> Option<()> {
        let from = self.records.len() as u64;
        let mut records = sdk.read(from.., Default::default()).await.ok()?;
        while let Some(record) = records.next().await {
            let record = record.ok()?;
            if record.leaf.kind == Kind::Finding {
                let finding = v1::Finding::decode(&record.event[..]).unwrap();
                assert_eq!(finding.node_id, VICTIM);
                return Some(());
            }
        }
        None
    }

    /// What the victim has logged in this case.
    fn log(&self) -> String {
        self.cluster.nodes[VICTIM as usize - 1].log_text()[self.log_before..].to_owned()
    }

    /// Whether the victim threw something away and made it again, out of its segments or out of
    /// notes.
    fn rebuilt(&self) -> bool {
        let log = self.log();
        log.contains("computed again") || log.contains("made anew")
    }

    /// In the end the victim's segments are those of the others, byte by byte, and `check` is
    /// content.
    fn compare(&mut self, case: &Case) {
        for node in &mut self.cluster.nodes {
            assert!(node.stop().unwrap().success(), "{}: {}", case.name(), node.log_tail());
        }
        let victim = &self.cluster.nodes[VICTIM as usize - 1].data_dir;
        let check = std::process::Command::new(BINARY).arg("check").arg(victim).output().unwrap();
        let text = String::from_utf8_lossy(&check.stdout);
        assert!(check.status.success(), "{}: check: {text}", case.name());
        let other = &self.cluster.nodes[0].data_dir;
        for name in files::sealed(victim) {
            let bytes = |dir: &Path| std::fs::read(dir.join("segments").join(&name)).unwrap();
            assert!(bytes(victim) == bytes(other), "{}: {name} differs", case.name());
        }
    }
}

/// All records, or none if the node did not hand out every one of them.
async fn read(node: &LocalNode, size: u64) -> Option<Vec<(Bytes, Bytes)>> {
    view(&node.client_addr).await?;
    let request = v1::ReadRequest {
        to: size,
        level: Some(v1::ReadLevel { level: Some(v1::read_level::Level::Any(true)) }),
        ..Default::default()
    };
    let mut stream = audit_log(&node.client_addr).await.read(request).await.ok()?.into_inner();
    let mut records = Vec::new();
    while let Some(response) = stream.message().await.ok()? {
        records.extend(response.records.into_iter().map(|record| (record.leaf, record.event)));
    }
    Some(records)
}

async fn caught_up(node: &LocalNode, size: u64) {
    eventually("the node has applied everything", || async {
        view(&node.client_addr).await.filter(|view| view.tree_size >= size)
    })
    .await;
}

async fn published(node: &LocalNode, size: u64) {
    eventually("a checkpoint covers everything", || async {
        view(&node.client_addr).await.filter(|view| view.checkpoint_size >= size)
    })
    .await;
}

/// Whether the scrub has been through all sealed segments since the node started.
async fn has_scrubbed(node: &LocalNode) -> bool {
    let addr = node.probe_addr.clone();
    let asked = tokio::task::spawn_blocking(move || crate::http::get(&addr, "/metrics").text());
    // The node may have ended meanwhile.
    let Ok(metrics) = asked.await else { return false };
    let passes =
        metrics.lines().find_map(|line| line.strip_prefix("indelible_scrub_passes_total "));
    passes.and_then(|count| count.trim().parse::<f64>().ok()).is_some_and(|count| count >= 1.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_to_one_nodes_files_is_mended_or_refused() {
    let mut template = Template::make().await;
    let mut table = String::from("| what | how | outcome |\n|---|---|---|\n");
    // A part of a row's name: only those rows.
    let only = std::env::var("INDELIBLE_TAMPER").unwrap_or_default();
    for case in &cases::cases() {
        if case.name().contains(&only) {
            let outcome = template.run(case).await;
            eprintln!("{}: {outcome}", case.name());
            assert!(
                case.expected.contains(&outcome),
                "{}: {outcome}: {}",
                case.name(),
                template.log()
            );
        }
        writeln!(table, "| {} | {} | {} |", case.what, case.how, case.outcome_text()).unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/tamper-matrix.md");
    let text = format!("{}\n{table}", cases::INTRODUCTION);
    if std::env::var_os("INDELIBLE_WRITE_DOCS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == text,
        "docs/tamper-matrix.md is not what was seen; hint: run this test with INDELIBLE_WRITE_DOCS=1"
    );
}
