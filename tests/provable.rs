//! Reads with proof: what any node serves can be shown to somebody who trusts only the policy.

use std::collections::BTreeSet;

use indelible_client::ProducerId;
use indelible_core::leaf::leaf_hash;
use indelible_core::{Checkpoint, Hash, Kind, Leaf, Note, Policy, RangeProof};
use indelible_proto::reason::{Reason, Rejected};
use indelible_proto::v1;
use indelible_proto::v1::read_level::Level;
use indelible_testkit::fail::within;
use prost::Message;

use crate::harness::{
    PATIENCE, audit_log, client, indelible, leader, note, policy, stdout, three_nodes, view,
};
use crate::http::get;

fn at(level: Level) -> Option<v1::ReadLevel> {
    Some(v1::ReadLevel { level: Some(level) })
}

/// A proof as the wire has it.
fn proof(wire: &v1::RangeProof) -> RangeProof {
    let hashes = |hashes: &[bytes::Bytes]| {
        hashes.iter().map(|hash| Hash::from_slice(hash).unwrap()).collect()
    };
    RangeProof {
        from: wire.from,
        to: wire.to,
        size: wire.tree_size,
        left: hashes(&wire.left),
        right: hashes(&wire.right),
    }
}

/// The checkpoint of a note that satisfies the policy.
fn trusted(policy: &Policy, note: &str) -> Checkpoint {
    policy.check(&Note::parse(note).unwrap()).unwrap().checkpoint
}

fn verify(records: &[v1::Record], wire: &v1::RangeProof, checkpoint: &Checkpoint) {
    assert_eq!((wire.from, wire.to), (records[0].index, records.last().unwrap().index + 1));
    let hash = |record: &v1::Record| leaf_hash(record.leaf[..].try_into().unwrap());
    proof(wire).verify(records.iter().map(hash), checkpoint).unwrap();
    let mut other = proof(wire);
    if let Some(hash) = other.left.first_mut().or(other.right.first_mut()) {
        hash.0[7] ^= 1;
        other.verify(records.iter().map(self::hash), checkpoint).unwrap_err();
    }
}

fn hash(record: &v1::Record) -> Hash {
    leaf_hash(record.leaf[..].try_into().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_proves_every_record() {
    let cluster = three_nodes();
    let policy = policy(&cluster);
    let sdk = client(&cluster).await;
    let producer = sdk.producer(ProducerId(*b"proved everywher"), "p").open().await.unwrap();
    let size = producer
        .append_bulk((0..700).map(indelible::cli::generate::event))
        .await
        .unwrap()
        .tree_size();
    for node in &cluster.nodes {
        note(&node.client_addr, size).await;
        let mut direct = audit_log(&node.client_addr).await;
        for index in [0, 1, 2, 3, 255, 256, size - 2, size - 1] {
            let level = at(Level::AtLeast(size));
            let request = v1::GetRequest { index, level, prove: true };
            let found = direct.get(request).await.unwrap().into_inner();
            let checkpoint = trusted(&policy, &found.checkpoint);
            verify(&[found.record.unwrap()], &found.proof.unwrap(), &checkpoint);
        }
        // Without being asked, nothing is proved.
        let request = v1::GetRequest { index: 3, level: at(Level::Any(true)), prove: false };
        let found = direct.get(request).await.unwrap().into_inner();
        assert!(found.checkpoint.is_empty() && found.proof.is_none());

        let request = v1::ReadRequest {
            to: size,
            level: at(Level::AtLeast(size)),
            prove: true,
            ..Default::default()
        };
        let mut stream = direct.read(request).await.unwrap().into_inner();
        let (mut next, mut newest, mut notes, mut messages) = (0, None, 0, 0);
        while let Some(message) = stream.message().await.unwrap() {
            messages += 1;
            if !message.checkpoint.is_empty() {
                notes += 1;
                newest = Some(trusted(&policy, &message.checkpoint));
            }
            assert_eq!(message.records[0].index, next);
            verify(&message.records, &message.proof.unwrap(), newest.as_ref().unwrap());
            next = message.records.last().unwrap().index + 1;
        }
        assert_eq!(next, size);
        assert!(notes >= 1 && notes <= messages, "{notes} notes in {messages} messages");
    }
}

/// A tail is proved as it grows, on a follower.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_comes_with_proofs() {
    let cluster = three_nodes();
    let policy = policy(&cluster);
    let sdk = client(&cluster).await;
    let producer = sdk.producer(ProducerId(*b"tail with proofs"), "p").open().await.unwrap();
    let id = leader(&cluster).await;
    let follower = cluster.nodes.iter().find(|node| node.id != id).unwrap();
    let mut direct = audit_log(&follower.client_addr).await;
    let request = v1::ReadRequest { follow: true, prove: true, ..Default::default() };
    let mut tail = direct.read(request).await.unwrap().into_inner();
    let tail = tokio::spawn(async move {
        let (mut events, mut proven, mut newest) = (0, 0, None);
        while events < 100 {
            let message = tail.message().await.unwrap().unwrap();
            if !message.checkpoint.is_empty() {
                newest = Some(trusted(&policy, &message.checkpoint));
            }
            // What waited for a checkpoint for too long comes without.
            if let Some(proof) = &message.proof {
                verify(&message.records, proof, newest.as_ref().unwrap());
                proven += 1;
            }
            let is_event =
                |record: &&v1::Record| Leaf::decode(&record.leaf).unwrap().kind == Kind::Event;
            events += message.records.iter().filter(is_event).count();
        }
        assert!(proven > 0, "nothing came with a proof");
    });
    for number in 0..100 {
        producer.append(indelible::cli::generate::event(number)).await.unwrap();
    }
    within(PATIENCE, "the tail arrives", tail).await.unwrap();
}

/// Without a majority nobody can sign: reads go on, unproved for what no checkpoint covers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_signatures_reads_go_on_without_proof() {
    let mut cluster = three_nodes();
    let policy = policy(&cluster);
    let sdk = client(&cluster).await;
    let producer = sdk.producer(ProducerId(*b"nobody can sign "), "p").open().await.unwrap();
    let size = producer.append(indelible::cli::generate::event(0)).await.unwrap().tree_size;
    let alone = leader(&cluster).await;
    let addr = cluster.node(alone).unwrap().client_addr.clone();
    let covered = trusted(&policy, &note(&addr, size).await).size;
    // More leaves that the lone node has applied, and no note: a burst right before the others die.
    let ahead = loop {
        let size = producer.append(indelible::cli::generate::event(1)).await.unwrap().tree_size;
        if view(&addr).await.is_some_and(|view| view.checkpoint_size < view.tree_size) {
            break size;
        }
    };
    for node in &mut cluster.nodes {
        if node.id != alone {
            node.kill().unwrap();
        }
    }
    let mut direct = audit_log(&addr).await;
    let mut ask = async |index| {
        let level = at(Level::Any(true));
        let request = v1::GetRequest { index, level, prove: true };
        direct.get(request).await.unwrap().into_inner()
    };
    let old = ask(covered - 1).await;
    verify(&[old.record.unwrap()], &old.proof.unwrap(), &trusted(&policy, &old.checkpoint));
    let newest = ask(ahead - 1).await;
    assert_eq!(newest.checkpoint.is_empty(), newest.proof.is_none(), "both or neither");
    assert_eq!(newest.record.unwrap().index, ahead - 1);

    let request = v1::ReadRequest {
        to: ahead,
        level: at(Level::Any(true)),
        prove: true,
        ..Default::default()
    };
    let mut stream = direct.read(request).await.unwrap().into_inner();
    let (mut next, mut newest) = (0, None);
    while let Some(message) = stream.message().await.unwrap() {
        if !message.checkpoint.is_empty() {
            newest = Some(trusted(&policy, &message.checkpoint));
        }
        if let Some(proof) = &message.proof {
            verify(&message.records, proof, newest.as_ref().unwrap());
        }
        assert_eq!(message.records[0].index, next);
        next = message.records.last().unwrap().index + 1;
    }
    assert_eq!(next, ahead, "nothing is held back for ever");
}

/// Ranges of hashes by themselves, and what is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hashes_of_a_range_are_proved() {
    let cluster = three_nodes();
    let sdk = client(&cluster).await;
    let producer = sdk.producer(ProducerId(*b"ranges of hashes"), "p").open().await.unwrap();
    let receipts =
        producer.append_bulk((0..300).map(indelible::cli::generate::event)).await.unwrap();
    let size = receipts.tree_size();
    let addr = &cluster.nodes[2].client_addr;
    let checkpoint = trusted(&policy(&cluster), &note(addr, size).await);
    let mut direct = audit_log(addr).await;
    let mut prove = async |index, to| {
        let request = v1::ProveRequest { index, to, tree_size: checkpoint.size };
        direct.prove(request).await.map(tonic::Response::into_inner)
    };
    for (from, to) in [(0, 1), (5, 300), (0, size)] {
        let found = prove(from, to).await.unwrap();
        assert_eq!(found.root, checkpoint.root.0.to_vec());
        let hashes: Vec<Hash> =
            found.leaf_hashes.as_chunks::<32>().0.iter().map(|hash| Hash(*hash)).collect();
        assert_eq!(hashes.len() as u64, to - from);
        let receipt = receipts.get(7).unwrap();
        if (from..to).contains(&receipt.index) {
            let hash = hashes[(receipt.index - from) as usize];
            assert_eq!(hash, leaf_hash(&receipt.leaf.encode()));
        }
        proof(&found.range.unwrap()).verify(hashes, &checkpoint).unwrap();
    }
    for (from, to, reason) in [
        (7, 7, Reason::Invalid),
        (7, 3, Reason::Invalid),
        (0, 5000, Reason::TooLarge),
        (size - 1, size + 1000, Reason::NotFound),
        (u64::MAX, 0, Reason::Invalid),
    ] {
        let refused = Rejected::from_status(&prove(from, to).await.unwrap_err()).unwrap();
        assert_eq!(refused.reason, reason, "{from}..{to}: {refused}");
    }
    // Waiting for what does not come ends with the newest there is.
    let request = v1::GetCheckpointRequest { size_min: 1 << 40, wait_ms: 50, witnessed: false };
    let answer = direct.get_checkpoint(request).await.unwrap().into_inner();
    assert!(trusted(&policy(&cluster), &answer.checkpoint).size >= size);
    let request = v1::GetCheckpointRequest { size_min: 0, wait_ms: 60_001, witnessed: false };
    let refused = direct.get_checkpoint(request).await.unwrap_err();
    assert_eq!(Rejected::from_status(&refused).unwrap().reason, Reason::Invalid);
}

/// Whose keys count, from any node, proved; the same as reading the whole trail gives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_history_is_proved() {
    let mut cluster = three_nodes();
    let sdk = client(&cluster).await;
    let policy = policy(&cluster);
    let producer = sdk.producer(ProducerId(*b"history of keys "), "p").open().await.unwrap();
    producer.append(indelible::cli::generate::event(0)).await.unwrap();
    // Two memberships more: both sets of voters together, then the new one alone.
    let gone = if leader(&cluster).await == 3 { 2 } else { 3 };
    stdout(&indelible(&cluster, &["remove-node", &gone.to_string(), "--reason", "a test"]).await);
    cluster.nodes.retain(|node| node.id != gone);
    let size = producer.append(indelible::cli::generate::event(1)).await.unwrap().tree_size;
    for node in &cluster.nodes {
        let checkpoint = trusted(&policy, &note(&node.client_addr, size).await);
        let mut direct = audit_log(&node.client_addr).await;
        for tree_size in [0, checkpoint.size, 1] {
            let request = v1::KeyHistoryRequest { tree_size };
            let history = direct.key_history(request).await.unwrap().into_inner();
            assert_eq!(history.records.len(), history.proofs.len());
            assert_eq!(history.records[0].index, 0, "the genesis");
            assert_eq!(history.records.len(), if tree_size == 1 { 1 } else { 3 });
            let genesis = v1::MembershipRecord::decode(&history.records[0].event[..]).unwrap();
            assert_eq!(genesis.membership.unwrap().members.len(), 3);
            for (record, wire) in history.records.iter().zip(&history.proofs) {
                assert_eq!(Leaf::decode(&record.leaf).unwrap().kind, Kind::Membership);
                assert_eq!(wire.tree_size, history.tree_size);
                if history.tree_size == checkpoint.size {
                    verify(std::slice::from_ref(record), wire, &checkpoint);
                }
            }
        }
        let request = v1::KeyHistoryRequest { tree_size: checkpoint.size + 100_000 };
        let refused = direct.key_history(request).await.unwrap_err();
        assert_eq!(Rejected::from_status(&refused).unwrap().reason, Reason::StaleReplica);
    }
}

/// Status shows how far the signatures are, and the metrics count.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_and_metrics_show_checkpoints() {
    let cluster = three_nodes();
    let sdk = client(&cluster).await;
    let producer = sdk.producer(ProducerId(*b"shown in status "), "p").open().await.unwrap();
    let size = producer.append(indelible::cli::generate::event(0)).await.unwrap().tree_size;
    for node in &cluster.nodes {
        note(&node.client_addr, size).await;
    }
    let status = indelible(&cluster, &["--json", "status"]).await;
    let status: serde_json::Value = serde_json::from_str(&stdout(&status)).unwrap();
    for node in status["nodes"].as_array().unwrap() {
        assert!(node["checkpoint_size"].as_u64().unwrap() >= size, "{status}");
    }
    let mut direct = audit_log(&cluster.nodes[0].client_addr).await;
    let request = v1::GetRequest { index: 0, level: None, prove: true };
    direct.get(request).await.unwrap();
    let metrics = get(&cluster.nodes[0].probe_addr, "/metrics").text();
    let value = |name: &str| -> f64 {
        let line = metrics.lines().find(|line| line.starts_with(&format!("{name} ")));
        let line = line.unwrap_or_else(|| panic!("{name} is missing: {metrics}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert!(value("indelible_checkpoint_size") >= size as f64);
    assert!(value("indelible_checkpoint_age_seconds") < 60.0);
    assert!(value("indelible_proofs_total") >= 1.0);
    // Prometheus refuses a page that describes a name twice.
    let described: Vec<&str> = metrics.lines().filter(|line| line.starts_with("# TYPE ")).collect();
    let names: BTreeSet<&str> = described.iter().copied().collect();
    assert_eq!(described.len(), names.len(), "{metrics}");
}
