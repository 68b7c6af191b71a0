//! Checkpoints: a majority signs them, all nodes show the same ones, and a disk that is older than a
//! signature does not come back.

use std::time::Instant;

use bytes::Bytes;
use indelible::cli::generate::event;
use indelible_core::leaf::leaf_hash;
use indelible_core::{Checkpoint, Hash, Note, Policy, RangeProof};
use indelible_local::{LocalCluster, Signal};
use indelible_proto::reason::{Reason, Rejected, key};
use indelible_proto::v1;
use prost::Message;

use crate::harness::{
    audit_log, certify, client, configure, copy_folder, eventually, indelible_at, leader, stdout,
    three_nodes, view,
};

/// What `init` gave to the auditors of this trail.
pub fn policy(cluster: &LocalCluster) -> Policy {
    std::fs::read_to_string(cluster.policy()).unwrap().parse().unwrap()
}

/// A producer that speaks to the leader directly.
pub struct Caller {
    id: Bytes,
    epoch: u64,
    seq: u64,
}

impl Caller {
    pub async fn open(cluster: &LocalCluster, id: &[u8; 16]) -> Caller {
        let id = Bytes::copy_from_slice(id);
        let request = v1::OpenProducerRequest { producer_id: id.clone(), ..Default::default() };
        let opened = eventually("a producer is opened", || async {
            let addr = leader_addr(cluster).await;
            Some(audit_log(&addr).await.open_producer(request.clone()).await.ok()?.into_inner())
        })
        .await;
        Caller { id, epoch: opened.epoch, seq: opened.last_seq }
    }

    /// Events numbered on from the last one.
    fn request(&self, count: u64, ack: v1::AckLevel, wait_ms: u32) -> v1::AppendRequest {
        let events = (1..=count).map(|n| event(self.seq + n).encode_to_vec().into()).collect();
        v1::AppendRequest {
            producer_id: self.id.clone(),
            epoch: self.epoch,
            first_seq: self.seq + 1,
            events,
            ack: ack.into(),
            proof_wait_ms: wait_ms,
            ..Default::default()
        }
    }

    /// Appends, whoever leads.
    pub async fn append(
        &mut self,
        cluster: &LocalCluster,
        count: u64,
        ack: v1::AckLevel,
        wait_ms: u32,
    ) -> v1::AppendResponse {
        let request = self.request(count, ack, wait_ms);
        let response = eventually("an append is answered", || async {
            let addr = leader_addr(cluster).await;
            match audit_log(&addr).await.append(request.clone()).await {
                Ok(response) => Some(response.into_inner()),
                Err(status) => {
                    eprintln!("append: {status}");
                    None
                }
            }
        })
        .await;
        self.seq += count;
        response
    }

    /// Appends at a node that is known to lead: while another one sleeps, nobody may ask that one.
    async fn append_at(&mut self, addr: &str, count: u64, wait_ms: u32) -> v1::AppendResponse {
        let request = self.request(count, v1::AckLevel::Proven, wait_ms);
        let response = audit_log(addr).await.append(request).await.unwrap().into_inner();
        self.seq += count;
        response
    }

    /// How the leader refuses an append.
    async fn refused(&self, cluster: &LocalCluster) -> Rejected {
        eventually("an append is refused for good", || async {
            let addr = leader_addr(cluster).await;
            let request = self.request(1, v1::AckLevel::Durable, 0);
            let status = audit_log(&addr).await.append(request).await.err()?;
            let rejected = Rejected::from_status(&status)?;
            (rejected.reason == Reason::RolledBack).then_some(rejected)
        })
        .await
    }
}

pub async fn leader_addr(cluster: &LocalCluster) -> String {
    let id = leader(cluster).await;
    cluster.nodes.iter().find(|node| node.id == id).unwrap().client_addr.clone()
}

/// A node's newest note of at least this size, once it has one.
pub async fn note_of(addr: &str, size_min: u64) -> Note {
    let request = v1::GetCheckpointRequest { size_min, wait_ms: 2000, witnessed: false };
    eventually("a checkpoint", || async {
        let answer = audit_log(addr).await.get_checkpoint(request).await.ok()?.into_inner();
        let note = Note::parse(&answer.checkpoint).ok()?;
        (Checkpoint::parse(&note.text).ok()?.size >= size_min).then_some(note)
    })
    .await
}

/// All running nodes show a note of the same checkpoint, and the policy believes it.
async fn agree(cluster: &mut LocalCluster, size_min: u64) -> Checkpoint {
    let policy = policy(cluster);
    let mut addrs = Vec::new();
    for node in &mut cluster.nodes {
        if node.is_running() {
            addrs.push(node.client_addr.clone());
        }
    }
    eventually("all nodes show the same checkpoint", || async {
        let mut checkpoints = Vec::new();
        for addr in &addrs {
            let note = note_of(addr, size_min).await;
            let trusted = policy.check(&note).unwrap_or_else(|error| panic!("{addr}: {error}"));
            checkpoints.push(trusted.checkpoint);
        }
        let same = checkpoints.iter().all(|checkpoint| *checkpoint == checkpoints[0]);
        same.then(|| checkpoints[0].clone())
    })
    .await
}

fn check_proof(policy: &Policy, response: &v1::AppendResponse) -> u64 {
    let trusted = policy.check(&Note::parse(&response.checkpoint).unwrap()).unwrap();
    assert_eq!(response.proofs.len(), response.runs.len());
    let mut leaves = response.leaves.chunks(64);
    for (run, proof) in response.runs.iter().zip(&response.proofs) {
        assert_eq!((proof.from, proof.to), (run.first_leaf, run.first_leaf + u64::from(run.count)));
        let hashes = |hashes: &[Bytes]| -> Vec<Hash> {
            hashes.iter().map(|hash| Hash::from_slice(hash).unwrap()).collect()
        };
        let proof = RangeProof {
            from: proof.from,
            to: proof.to,
            size: proof.tree_size,
            left: hashes(&proof.left),
            right: hashes(&proof.right),
        };
        let of_run: Vec<Hash> = leaves
            .by_ref()
            .take(run.count as usize)
            .map(|leaf| leaf_hash(leaf.try_into().unwrap()))
            .collect();
        proof.verify(of_run, &trusted.checkpoint).unwrap();
    }
    trusted.checkpoint.size
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_show_what_a_majority_has_cosigned_whoever_dies() {
    let mut cluster = three_nodes();
    client(&cluster).await;
    let mut caller = Caller::open(&cluster, b"publication test").await;
    let size = caller.append(&cluster, 20, v1::AckLevel::Durable, 0).await.tree_size;
    let first = agree(&mut cluster, size).await;
    // Nothing more happens: freshness can be checked all the same, and all three have signed.
    let addr = cluster.node(1).unwrap().client_addr.clone();
    eventually("every node's signature", || async {
        let note = note_of(&addr, size).await;
        (note.signatures.len() == 4).then_some(())
    })
    .await;

    let dies = leader(&cluster).await;
    cluster.node(dies).unwrap().kill().unwrap();
    let size = caller.append(&cluster, 20, v1::AckLevel::Durable, 0).await.tree_size;
    let second = agree(&mut cluster, size).await;
    assert!(second.size > first.size);
    cluster.node(dies).unwrap().start().unwrap();
    agree(&mut cluster, size).await;

    // A node that sleeps is waited for by nobody.
    let leads = leader(&cluster).await;
    let leads_at = cluster.node(leads).unwrap().client_addr.clone();
    let sleeps = (1..=3).find(|id| *id != leads).unwrap();
    cluster.node(sleeps).unwrap().signal(Signal::STOP).unwrap();
    let response = caller.append_at(&leads_at, 5, 20_000).await;
    assert_eq!(response.ack(), v1::AckLevel::Proven);
    cluster.node(sleeps).unwrap().signal(Signal::CONT).unwrap();
    let last = agree(&mut cluster, response.tree_size).await;

    // Every one is a prefix of the next.
    let mut log = audit_log(&addr).await;
    for (old, new) in [(&first, &second), (&second, &last)] {
        let request = v1::ProveConsistencyRequest { old_size: old.size, new_size: new.size };
        let proof = log.prove_consistency(request).await.unwrap().into_inner();
        assert_eq!(proof.old_root, old.root.0.to_vec());
        assert_eq!(proof.new_root, new.root.0.to_vec());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proven_append_brings_its_proof_and_a_late_one_is_no_error() {
    let mut cluster = three_nodes();
    client(&cluster).await;
    let policy = policy(&cluster);
    let mut caller = Caller::open(&cluster, b"a proven caller!").await;
    let plain = caller.append(&cluster, 3, v1::AckLevel::Unspecified, 0).await;
    assert_eq!(plain.ack(), v1::AckLevel::Durable);
    assert!(plain.checkpoint.is_empty() && plain.proofs.is_empty());
    for count in [1, 40, 300] {
        let response = caller.append(&cluster, count, v1::AckLevel::Proven, 20_000).await;
        assert_eq!(response.ack(), v1::AckLevel::Proven);
        assert!(check_proof(&policy, &response) >= response.tree_size);
    }
    // Again, half of it new: two runs, two proofs.
    caller.seq -= 40;
    let response = caller.append(&cluster, 80, v1::AckLevel::Proven, 20_000).await;
    assert_eq!(response.leaves.len(), 80 * 64);
    check_proof(&policy, &response);
    // There is no witness: what there is instead is said.
    let response = caller.append(&cluster, 1, v1::AckLevel::Witnessed, 3_000).await;
    assert_eq!(response.ack(), v1::AckLevel::Proven);
    check_proof(&policy, &response);
    let mut request = caller.request(1, v1::AckLevel::Proven, 60_001);
    let mut log = audit_log(&leader_addr(&cluster).await).await;
    let refused = log.append(request.clone()).await.unwrap_err();
    assert_eq!(Rejected::from_status(&refused).unwrap().reason, Reason::Invalid);
    (request.proof_wait_ms, request.ack) = (0, 77);
    assert!(log.append(request).await.is_err());
    cluster.nodes.clear();
}

/// Checkpoints that a node has composed since its start.
fn rounds(probe_addr: &str) -> u64 {
    let metrics = crate::http::get(probe_addr, "/metrics").text();
    let mut lines = metrics.lines().filter(|line| line.starts_with("indelible_publication_rounds"));
    lines.next().unwrap().rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_for_more_than_there_is_hurries_no_round() {
    let mut cluster = three_nodes();
    client(&cluster).await;
    let mut caller = Caller::open(&cluster, b"an unhurried one").await;
    caller.append(&cluster, 1, v1::AckLevel::Proven, 20_000).await;
    let leads = leader(&cluster).await;
    let node = cluster.node(leads).unwrap();
    let (addr, probe_addr) = (node.client_addr.clone(), node.probe_addr.clone());
    let mut log = audit_log(&addr).await;
    let far = |wait_ms| v1::GetCheckpointRequest { size_min: u64::MAX, wait_ms, witnessed: false };
    log.get_checkpoint(far(1)).await.unwrap();
    let mut other = log.clone();
    let waits = tokio::spawn(async move { other.get_checkpoint(far(60_000)).await });
    let (began, before) = (Instant::now(), rounds(&probe_addr));
    for _ in 0..300 {
        log.append(caller.request(1, v1::AckLevel::Durable, 0)).await.unwrap();
        caller.seq += 1;
    }
    let (made, paces) = (rounds(&probe_addr) - before, began.elapsed().as_millis() / 50);
    assert!(u128::from(made) <= paces * 3 / 2 + 5, "{made} rounds in {paces} times 50 ms");
    waits.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_joins_signs_too() {
    let mut cluster = three_nodes();
    client(&cluster).await;
    let mut caller = Caller::open(&cluster, b"a joining node's").await;
    caller.append(&cluster, 20, v1::AckLevel::Proven, 20_000).await;
    let endpoints = cluster.endpoints();
    let log_key = cluster.node(1).unwrap().data_dir.join("log_key");
    let fourth = configure(&mut cluster, 4);
    let config = fourth.config.to_str().unwrap().to_owned();
    let args = ["--json", "node-key", "--config", &config, "--log-key", log_key.to_str().unwrap()];
    let key: serde_json::Value =
        serde_json::from_str(&stdout(&indelible_at(&endpoints, &args).await)).unwrap();
    assert!(cluster.node(4).unwrap().data_dir.join("log_key").exists());
    certify(&mut cluster, 4).await;
    cluster.node(4).unwrap().start().unwrap();
    let text = |name: &str| key[name].as_str().unwrap().to_owned();
    let (client_addr, raft_addr) = (text("client_addr"), text("raft_addr"));
    let (http_addr, public_key) = (text("http_addr"), text("public_key"));
    let add = [
        "add-node",
        "--id",
        "4",
        "--client-addr",
        &client_addr,
        "--raft-addr",
        &raft_addr,
        "--http-addr",
        &http_addr,
        "--public-key",
        &public_key,
        "--reason",
        "a test",
    ];
    eventually("the node is added", || async {
        let added = indelible_at(&endpoints, &add).await;
        added.status.success().then_some(())
    })
    .await;
    let response = caller.append(&cluster, 1, v1::AckLevel::Proven, 20_000).await;
    let signed_by = |note: &Note, node: u64| {
        note.signatures.iter().any(|line| line.name.ends_with(&format!("/node/{node}")))
    };
    // Three of four are needed now.
    let note = Note::parse(&response.checkpoint).unwrap();
    assert!((1..=4).filter(|node| signed_by(&note, *node)).count() >= 3);
    eventually("the new node's signature, shown by itself", || async {
        signed_by(&note_of(&client_addr, response.tree_size).await, 4).then_some(())
    })
    .await;
    // One of the first leaves; those who have the first policy still believe the others.
    let leads = leader(&cluster).await;
    let gone = (1..=3).find(|id| *id != leads).unwrap().to_string();
    eventually("a node is removed", || async {
        indelible_at(&endpoints, &["remove-node", &gone, "--reason", "a test"])
            .await
            .status
            .success()
            .then_some(())
    })
    .await;
    let response = caller.append(&cluster, 1, v1::AckLevel::Proven, 20_000).await;
    eventually("a note that the first policy believes", || async {
        let note = note_of(&leader_addr(&cluster).await, response.tree_size).await;
        policy(&cluster).check(&note).ok()
    })
    .await;
}

/// Copies of all disks, taken while all nodes are stopped.
fn copied_while_stopped(cluster: &mut LocalCluster) -> Vec<std::path::PathBuf> {
    for node in &mut cluster.nodes {
        assert!(node.stop().unwrap().success(), "{}", node.log_tail());
    }
    let copies: Vec<_> = (1..=3).map(|id| cluster.dir().join(format!("copy{id}"))).collect();
    for (node, copy) in cluster.nodes.iter_mut().zip(&copies) {
        copy_folder(&node.data_dir, copy);
        node.start().unwrap();
    }
    copies
}

fn put_back(copy: &std::path::Path, data_dir: &std::path::Path) {
    std::fs::remove_dir_all(data_dir).unwrap();
    copy_folder(copy, data_dir);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_every_disk_was_rolled_back_appends_wait_for_an_operator() {
    let mut cluster = three_nodes();
    client(&cluster).await;
    let mut caller = Caller::open(&cluster, b"all rolled back!").await;
    caller.append(&cluster, 20, v1::AckLevel::Proven, 20_000).await;
    let copies = copied_while_stopped(&mut cluster);
    let lost = caller.append(&cluster, 30, v1::AckLevel::Proven, 20_000).await;
    for (node, copy) in cluster.nodes.iter_mut().zip(&copies) {
        node.kill().unwrap();
        put_back(copy, &node.data_dir);
    }
    for node in &mut cluster.nodes {
        node.start().unwrap();
    }
    leader(&cluster).await;

    // Whoever holds a later checkpoint notices; any node takes the report.
    let lost_size = check_proof(&policy(&cluster), &lost);
    for node in &cluster.nodes {
        let report = v1::ReportCheckpointRequest { checkpoint: lost.checkpoint.clone() };
        let taken = eventually("a report is judged", || async {
            let answer = audit_log(&node.client_addr).await.report_checkpoint(report.clone()).await;
            answer.map_err(|status| eprintln!("report: {status}")).ok()
        });
        assert!(taken.await.into_inner().rolled_back, "node {}", node.id);
    }
    let refused = caller.refused(&cluster).await;
    assert_eq!(refused.metadata.get(key::CHECKPOINT_SIZE), Some(&lost_size));
    // The next leader refuses as well, and so does every one after a restart.
    let addrs: Vec<String> = cluster.nodes.iter().map(|node| node.client_addr.clone()).collect();
    for addr in &addrs {
        eventually("every node knows", || async {
            view(addr).await.filter(|view| view.rolled_back_from == lost_size)
        })
        .await;
    }
    let dies = leader(&cluster).await;
    cluster.node(dies).unwrap().kill().unwrap();
    caller.refused(&cluster).await;
    cluster.node(dies).unwrap().start().unwrap();

    // Nonsense is no evidence, and a policy is still needed for what is.
    let mut log = audit_log(&leader_addr(&cluster).await).await;
    let junk = v1::ReportCheckpointRequest { checkpoint: "junk".into() };
    assert!(log.report_checkpoint(junk).await.is_err());

    let accepted = eventually("the loss is accepted", || async {
        let addr = leader_addr(&cluster).await;
        let channel = crate::harness::channel(&addr).await;
        let mut cluster = v1::cluster_client::ClusterClient::new(channel);
        let request = v1::AcceptRollbackRequest { reason: "disks from the backup".into() };
        let answer = cluster.accept_rollback(request).await;
        answer.map_err(|status| eprintln!("accept: {status}")).ok()
    })
    .await
    .into_inner();
    caller = Caller::open(&cluster, b"all rolled back!").await;
    assert_eq!(caller.seq, 20, "what came later is lost");
    let response = caller.append(&cluster, 5, v1::AckLevel::Proven, 20_000).await;
    assert_eq!(response.ack(), v1::AckLevel::Proven);
    check_proof(&policy(&cluster), &response);
    // It is in the trail, with what was lost and why.
    let record = log_record(&cluster, accepted.index).await;
    let operation = v1::Operation::decode(record.event).unwrap();
    assert_eq!(operation.action, "accept-rollback");
    assert_eq!(operation.reason, "disks from the backup");
    assert!(operation.detail.contains(&format!("tree size {lost_size}")), "{}", operation.detail);
    // The old note says nothing any more, on any node, however long the trail gets.
    caller.append(&cluster, 60, v1::AckLevel::Proven, 20_000).await;
    for addr in &addrs {
        let report = v1::ReportCheckpointRequest { checkpoint: lost.checkpoint.clone() };
        let void = eventually("the old note is void", || async {
            let answer = audit_log(addr).await.report_checkpoint(report.clone()).await.ok()?;
            (!answer.into_inner().rolled_back).then_some(())
        });
        void.await;
    }
    let size = caller.append(&cluster, 1, v1::AckLevel::Proven, 20_000).await.tree_size;
    agree(&mut cluster, size).await;
}

/// Their memory of what they have signed is on another disk: they know, and have no note to show.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_all_have_signed_and_lost_waits_for_an_operator_without_a_note() {
    signed_and_lost(&[1, 2, 3]).await;
}

/// As above, but the one that leads does not know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_majority_has_signed_and_lost_stops_a_leader_that_does_not_know() {
    signed_and_lost(&[1, 2]).await;
}

async fn signed_and_lost(remember: &[u64]) {
    let mut cluster = three_nodes();
    client(&cluster).await;
    let mut caller = Caller::open(&cluster, b"only the markers").await;
    caller.append(&cluster, 20, v1::AckLevel::Proven, 20_000).await;
    let copies = copied_while_stopped(&mut cluster);
    let lost = caller.append(&cluster, 30, v1::AckLevel::Proven, 20_000).await.tree_size;
    eventually("every node has signed", || async {
        let note = note_of(&leader_addr(&cluster).await, lost).await;
        (note.signatures.len() == 4).then_some(())
    })
    .await;
    for (node, copy) in cluster.nodes.iter_mut().zip(&copies) {
        node.kill().unwrap();
        if remember.contains(&node.id) {
            std::fs::copy(node.data_dir.join("signed"), copy.join("signed")).unwrap();
        }
        put_back(copy, &node.data_dir);
    }
    for node in &mut cluster.nodes {
        node.start_with(&["--all-rolled-back"]).unwrap();
    }
    for node in cluster.nodes.iter().filter(|node| remember.contains(&node.id)) {
        eventually("it knows", || async {
            view(&node.client_addr).await.filter(|view| view.rolled_back_from >= lost)
        })
        .await;
    }
    // Whoever knows takes no append, nor the record of a transfer: until the one that does not leads.
    let mut leads = leader(&cluster).await;
    while remember.len() < 3 && leads != 3 {
        cluster.node(leads).unwrap().kill().unwrap();
        leads = leader(&cluster).await;
        for node in cluster.nodes.iter_mut().filter(|node| node.id != leads) {
            if !node.is_running() {
                node.start().unwrap();
            }
        }
    }
    caller.refused(&cluster).await;
    // It outlives a restart without the flag: the markers are those of the trail now.
    for node in &mut cluster.nodes {
        node.kill().unwrap();
        node.start().unwrap();
    }
    caller.refused(&cluster).await;
    eventually("the loss is accepted", || async {
        let channel = crate::harness::channel(&leader_addr(&cluster).await).await;
        let mut cluster = v1::cluster_client::ClusterClient::new(channel);
        let request = v1::AcceptRollbackRequest { reason: "disks from the backup".into() };
        cluster.accept_rollback(request).await.ok()
    })
    .await;
    caller = Caller::open(&cluster, b"only the markers").await;
    assert_eq!(caller.seq, 20, "what came later is lost");
    let size = caller.append(&cluster, 5, v1::AckLevel::Proven, 20_000).await.tree_size;
    agree(&mut cluster, size).await;
}

async fn log_record(cluster: &LocalCluster, index: u64) -> v1::Record {
    let mut log = audit_log(&leader_addr(cluster).await).await;
    let request = v1::GetRequest { index, ..Default::default() };
    log.get(request).await.unwrap().into_inner().record.unwrap()
}
