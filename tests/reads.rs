//! Reads on every node, at every level.

use indelible_client::{ProducerId, ReadOptions};
use indelible_proto::reason::{Reason, Rejected};
use indelible_proto::v1;
use indelible_testkit::fail::within;

use crate::harness::{PATIENCE, audit_log, client, leader, patiently, three_nodes};

fn at(level: v1::read_level::Level) -> Option<v1::ReadLevel> {
    Some(v1::ReadLevel { level: Some(level) })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_sees_an_acknowledged_event_at_once() {
    let cluster = three_nodes();
    let sdk = client(&cluster).await;
    let producer = sdk.producer(ProducerId(*b"read your writes"), "r").open().await.unwrap();
    for number in 0..50 {
        let receipt = producer.append(indelible::cli::generate::event(number)).await.unwrap();
        for node in &cluster.nodes {
            let direct = audit_log(&node.client_addr).await;
            let levels = [
                v1::read_level::Level::Linearizable(true),
                v1::read_level::Level::AtLeast(receipt.tree_size),
            ];
            for level in levels {
                let request =
                    v1::GetRequest { index: receipt.index, level: at(level), ..Default::default() };
                let found = patiently(|| {
                    let mut direct = direct.clone();
                    async move { direct.get(request).await }
                });
                let found = found.await.record.unwrap();
                assert_eq!(found.leaf, receipt.leaf.encode().to_vec());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_a_majority_serves_only_what_it_can_stand_for() {
    let mut cluster = three_nodes();
    let sdk = client(&cluster).await;
    let producer = sdk.producer(ProducerId(*b"without majority"), "r").open().await.unwrap();
    let receipt = producer.append(indelible::cli::generate::event(1)).await.unwrap();
    let alone = leader(&cluster).await;
    for node in &mut cluster.nodes {
        if node.id != alone {
            node.kill().unwrap();
        }
    }
    let addr = cluster.node(alone).unwrap().client_addr.clone();
    let mut direct = audit_log(&addr).await;
    let any = v1::GetRequest {
        index: receipt.index,
        level: at(v1::read_level::Level::Any(true)),
        ..Default::default()
    };
    assert!(direct.get(any).await.is_ok());
    let linearizable = v1::GetRequest { index: receipt.index, ..Default::default() };
    let refused = direct.get(linearizable).await.unwrap_err();
    assert_eq!(Rejected::from_status(&refused).unwrap().reason, Reason::NoLeader, "{refused:?}");
    let ahead = v1::GetRequest {
        index: receipt.index,
        level: at(v1::read_level::Level::AtLeast(receipt.tree_size + 1000)),
        ..Default::default()
    };
    let refused = direct.get(ahead).await.unwrap_err();
    assert_eq!(Rejected::from_status(&refused).unwrap().reason, Reason::StaleReplica);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_goes_on_while_the_leader_dies() {
    let mut cluster = three_nodes();
    let sdk = client(&cluster).await;
    let producer = sdk.producer(ProducerId(*b"tail of the lion"), "r").open().await.unwrap();
    let options = ReadOptions { follow: true, ..ReadOptions::default() };
    let mut tail = sdk.read(0.., options).await.unwrap();
    let tail = tokio::spawn(async move {
        let mut next = 0;
        let mut events = 0;
        while events < 200 {
            let record = tail.next().await.unwrap().unwrap();
            assert_eq!(record.index, next, "no gap, no repetition");
            next += 1;
            events += u64::from(record.leaf.kind == indelible_core::Kind::Event);
        }
    });
    for number in 0..200 {
        if number == 100 {
            let id = leader(&cluster).await;
            cluster.node(id).unwrap().kill().unwrap();
        }
        producer.append(indelible::cli::generate::event(number)).await.unwrap();
    }
    within(PATIENCE, "the tail arrives", tail).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proofs_from_any_node_verify() {
    let cluster = three_nodes();
    let sdk = client(&cluster).await;
    let producer = sdk.producer(ProducerId(*b"proofs, verified"), "r").open().await.unwrap();
    let mut heads = Vec::new();
    for number in 0..30 {
        let receipt = producer.append(indelible::cli::generate::event(number)).await.unwrap();
        heads.push(receipt);
    }
    let size = heads.last().unwrap().tree_size;
    for receipt in &heads {
        for node in &cluster.nodes {
            let mut direct = audit_log(&node.client_addr).await;
            // Wait until this node has it.
            let level = at(v1::read_level::Level::AtLeast(size));
            patiently(|| {
                let mut direct = direct.clone();
                async move { direct.tree_head(v1::TreeHeadRequest { level }).await }
            })
            .await;
            let request = v1::ProveRequest { index: receipt.index, tree_size: size, to: 0 };
            let proof = direct.prove(request).await.unwrap().into_inner();
            let hash = |bytes: &[u8]| indelible_core::Hash::from_slice(bytes).unwrap();
            let path: Vec<_> = proof.proof.iter().map(|bytes| hash(bytes)).collect();
            let leaf = indelible_core::leaf::leaf_hash(&receipt.leaf.encode());
            indelible_core::merkle::verify_inclusion(
                receipt.index,
                size,
                &leaf,
                &path,
                &hash(&proof.root),
            )
            .unwrap();
            let request =
                v1::ProveConsistencyRequest { old_size: receipt.index + 1, new_size: size };
            let proof = direct.prove_consistency(request).await.unwrap().into_inner();
            let path: Vec<_> = proof.proof.iter().map(|bytes| hash(bytes)).collect();
            indelible_core::merkle::verify_consistency(
                receipt.index + 1,
                size,
                &path,
                &hash(&proof.old_root),
                &hash(&proof.new_root),
            )
            .unwrap();
        }
    }
}
