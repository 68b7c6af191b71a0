//! Stolen keys: somebody has a node's disk, with that node's key and the log key on it, and tries to
//! make the others sign another history, or a reader believe one.

use indelible_client::{Level, ProducerId};
use indelible_core::Hash;
use indelible_core::checkpoint::Checkpoint;
use indelible_core::note::Note;
use indelible_core::policy::Policy;
use indelible_proto::v1;
use tonic::Code;

use crate::harness::{audit_log, client, eventually, indelible, leader, three_nodes, view};
use crate::thief::Thief;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stolen_node_gets_no_signature_over_another_history() {
    let mut cluster = three_nodes();
    let sdk = client(&cluster).await;
    let producer = sdk.producer(ProducerId(*b"before the theft"), "w").open().await.unwrap();
    for number in 0..20 {
        producer.append(indelible::cli::generate::event(number)).await.unwrap();
    }
    // The node that is stolen does not lead: there will be no election, so nothing is published
    // that is larger than what is asked about here.
    eventually("node 2 leads", || async {
        if leader(&cluster).await != 2 {
            indelible(&cluster, &["transfer-leader", "--to", "2", "--reason", "a test"]).await;
            return None;
        }
        Some(())
    })
    .await;
    let size = sdk.tree_head(Level::Linearizable).await.unwrap().tree_size;
    let published = eventually("a checkpoint covers it", || async {
        let view = view(&cluster.nodes[1].client_addr).await?;
        (view.checkpoint_size >= size).then_some(view)
    })
    .await;
    let stolen = cluster.node(1).unwrap();
    stolen.kill().unwrap();
    let thief = Thief::new(&stolen.data_dir);
    let policy = std::fs::read_to_string(cluster.dir().join("policy.txt")).unwrap();
    let policy: Policy = policy.parse().unwrap();

    let origin = thief.identity.origin.clone();
    let forged = Checkpoint::new(origin, published.tree_size, Hash([0x66; 32]));
    for id in [2, 3] {
        let node = cluster.node(id).unwrap();
        let mut session = thief.call(id, &node.raft_addr).await;
        let answer = session.cosign(&forged).await.unwrap();
        assert_eq!(answer.signature, "", "node {id} signed another history");
        assert_eq!(answer.other_root.len(), 32, "node {id} says which root it has");
        let evidence = std::fs::read_dir(node.data_dir.join("evidence")).unwrap().count();
        assert!(evidence > 0, "node {id} kept evidence");
        // Nor does it believe a note that only the two stolen keys have signed.
        let note = thief.sign(&forged, 2_000_000_000);
        let refused = session.publish(&note).await.unwrap_err();
        assert_ne!(refused.code(), Code::Unknown, "{refused:?}");
        let served = audit_log(&node.client_addr)
            .await
            .get_checkpoint(v1::GetCheckpointRequest::default())
            .await
            .unwrap()
            .into_inner();
        let served = policy.check(&Note::parse(&served.checkpoint).unwrap()).unwrap();
        assert_ne!(served.checkpoint.root, forged.root);
    }

    // What a reader with the policy file makes of it: one stolen key, the other, both.
    let both = thief.sign(&forged, 2_000_000_000);
    for signatures in [&both.signatures[..1], &both.signatures[1..], &both.signatures[..]] {
        let note = Note { text: both.text.clone(), signatures: signatures.to_vec() };
        assert!(policy.check(&note).is_err(), "{note}");
    }
    // The others go on without the stolen node.
    producer.append(indelible::cli::generate::event(99)).await.unwrap();
    for node in &mut cluster.nodes[1..] {
        assert!(node.is_running(), "{}", node.log_tail());
    }
}
