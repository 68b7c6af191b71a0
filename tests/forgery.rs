//! Stolen keys: somebody has a node's disk, with that node's key and the log key on it, and tries to
//! make the others sign another history, or a reader believe one.

use bytes::Bytes;
use indelible::storage::identity::Identity;
use indelible_client::{Level, ProducerId};
use indelible_core::Hash;
use indelible_core::checkpoint::Checkpoint;
use indelible_core::key::{KeyType, SignerKey, node_key_name};
use indelible_core::note::Note;
use indelible_core::policy::Policy;
use indelible_proto::raft as pb;
use indelible_proto::raft::publication_client::PublicationClient;
use indelible_proto::raft::raft_client::RaftClient;
use indelible_proto::v1;
use tonic::metadata::BinaryMetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request};

use crate::harness::{audit_log, channel, client, eventually, three_nodes, view};

/// Somebody with the disk of one node, which does not run any more.
struct Thief {
    identity: Identity,
    node_key: SignerKey,
    log_key: SignerKey,
    /// Higher than any that the node has had: it looks like a restart.
    boot: u64,
}

impl Thief {
    fn new(data_dir: &std::path::Path, boot_count: u64) -> Thief {
        let identity = Identity::read(data_dir).unwrap();
        let name = node_key_name(&identity.origin, identity.node_id);
        let node_key = SignerKey::new(&name, KeyType::Cosigner, identity.secret_key).unwrap();
        let text = std::fs::read_to_string(data_dir.join("log_key")).unwrap();
        let log_key = text.trim().parse().unwrap();
        Thief { identity, node_key, log_key, boot: (boot_count + 1) << 32 | 7 }
    }

    /// A note over any checkpoint, with both stolen keys.
    fn sign(&self, checkpoint: &Checkpoint, unix_s: u64) -> Note {
        let signatures =
            vec![self.log_key.sign(checkpoint), self.node_key.cosign(checkpoint, unix_s)];
        Note { text: checkpoint.to_string(), signatures }
    }

    /// Past the handshake of node `to`, as the stolen node.
    async fn call(&self, to: u64, raft_addr: &str) -> Session {
        let channel = channel(raft_addr).await;
        let hello = pb::Hello {
            trail_id: Bytes::copy_from_slice(&self.identity.trail_id.0),
            from: self.identity.node_id,
            to,
            public_key: Bytes::copy_from_slice(&self.identity.public_key),
            boot: self.boot,
            segment_bytes: self.identity.segment_bytes,
            version: "stolen".into(),
            last_log_index: u64::MAX / 2,
            empty: false,
        };
        let welcome = RaftClient::new(channel.clone()).handshake(hello).await.unwrap();
        Session { client: PublicationClient::new(channel), id: welcome.into_inner().session }
    }
}

struct Session {
    client: PublicationClient<Channel>,
    id: Bytes,
}

impl Session {
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let id = BinaryMetadataValue::from_bytes(&self.id);
        request.metadata_mut().insert_bin("indelible-session-bin", id);
        request
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stolen_node_gets_no_signature_over_another_history() {
    let mut cluster = three_nodes();
    let sdk = client(&cluster).await;
    let producer = sdk.producer(ProducerId(*b"before the theft"), "w").open().await.unwrap();
    for number in 0..20 {
        producer.append(indelible::cli::generate::event(number)).await.unwrap();
    }
    let size = sdk.tree_head(Level::Linearizable).await.unwrap().tree_size;
    let published = eventually("a checkpoint covers it", || async {
        let view = view(&cluster.nodes[1].client_addr).await?;
        (view.checkpoint_size >= size).then_some(view)
    })
    .await;
    let boot_count = view(&cluster.nodes[0].client_addr).await.unwrap().boot_count;
    let stolen = cluster.node(1).unwrap();
    stolen.kill().unwrap();
    let thief = Thief::new(&stolen.data_dir, boot_count);
    let policy = std::fs::read_to_string(cluster.dir().join("policy.txt")).unwrap();
    let policy: Policy = policy.parse().unwrap();

    let origin = thief.identity.origin.clone();
    let forged = Checkpoint::new(origin, published.tree_size, Hash([0x66; 32]));
    for id in [2, 3] {
        let node = cluster.node(id).unwrap();
        let mut session = thief.call(id, &node.raft_addr).await;
        let cosign = pb::CosignRequest { checkpoint: forged.to_string(), wait_ms: 1000 };
        let answer = session.client.cosign(session.request(cosign)).await.unwrap().into_inner();
        assert_eq!(answer.signature, "", "node {id} signed another history");
        assert_eq!(answer.other_root.len(), 32, "node {id} says which root it has");
        let evidence = std::fs::read_dir(node.data_dir.join("evidence")).unwrap().count();
        assert!(evidence > 0, "node {id} kept evidence");
        // Nor does it believe a note that only the two stolen keys have signed.
        let note = thief.sign(&forged, 2_000_000_000);
        let publish = pb::PublishRequest { notes: vec![note.to_string()], ..Default::default() };
        let refused = session.client.publish(session.request(publish)).await.unwrap_err();
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
