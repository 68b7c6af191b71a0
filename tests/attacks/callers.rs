//! What a certificate of the client port is good for.

use bytes::Bytes;
use indelible::cli::generate::event;
use indelible_client::Reason;
use indelible_core::Kind;
use indelible_proto::v1;
use indelible_proto::v1::cluster_client::ClusterClient;
use prost::Message;
use sha3::{Digest, Sha3_256};
use tonic::Status;
use tonic::transport::Channel;

use super::group::{Group, audit, reason};

/// Every call that changes the group, with this reason.
async fn changes(channel: &Channel, why: &str) -> Vec<(&'static str, Result<(), Status>)> {
    let mut cluster = ClusterClient::new(channel.clone());
    let reason = why.to_owned();
    let add = v1::AddNodeRequest {
        id: 4,
        client_addr: "127.0.0.1:1".into(),
        raft_addr: "127.0.0.1:2".into(),
        http_addr: "127.0.0.1:3".into(),
        public_key: vec![7; 32].into(),
        reason: reason.clone(),
    };
    let remove = v1::RemoveNodeRequest { id: 3, reason: reason.clone() };
    let transfer = v1::TransferLeadershipRequest { to: 2, reason: reason.clone() };
    let accept = v1::AcceptRollbackRequest { reason: reason.clone() };
    let accept_clock = v1::AcceptClockRequest { reason };
    vec![
        ("add", cluster.add_node(add).await.map(drop)),
        ("remove", cluster.remove_node(remove).await.map(drop)),
        ("transfer", cluster.transfer_leadership(transfer).await.map(drop)),
        ("accept", cluster.accept_rollback(accept).await.map(drop)),
        ("accept-clock", cluster.accept_clock(accept_clock).await.map(drop)),
    ]
}

/// S4: `remove-node` and the like, by anybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s4_a_client_changes_no_group() {
    let group = Group::start_calm().await;
    group.lead(1).await;
    let before = group.recorded::<v1::Operation>(Kind::Operation).await.len();
    let certificates = &group.certificates;
    let (client, node) = (certificates.client("billing"), certificates.node(2));
    // A name is no rank.
    let named_admin = certificates.client("admin");
    let alice = certificates.admin("alice");
    for id in 1..=3 {
        for (certificate, why, expected) in [
            (None, "a good reason", Reason::Unauthenticated),
            (Some(&client), "a good reason", Reason::Forbidden),
            (Some(&named_admin), "a good reason", Reason::Forbidden),
            // Nodes speak at each other's raft ports.
            (Some(&node), "a good reason", Reason::Unauthenticated),
            (Some(&alice), "", Reason::Invalid),
            (Some(&alice), " \n", Reason::Invalid),
        ] {
            let channel = group.client(id, certificate).await;
            for (call, outcome) in changes(&channel, why).await {
                let refused = outcome.expect_err(call);
                assert_eq!(reason(&refused), Some(expected), "{call}: {refused:?}");
            }
        }
    }
    assert_eq!(group.recorded::<v1::Operation>(Kind::Operation).await.len(), before);

    // Who may, leaves a record of it.
    let mut cluster = ClusterClient::new(group.client(1, Some(&alice)).await);
    let request = v1::RemoveNodeRequest { id: 3, reason: "it is broken".into() };
    assert_eq!(cluster.remove_node(request).await.unwrap().into_inner().voters, [1, 2]);
    let request = v1::TransferLeadershipRequest { to: 2, reason: "maintenance".into() };
    assert_eq!(cluster.transfer_leadership(request).await.unwrap().into_inner().leader_id, 2);
    group.still_works().await;
    let operations = group.recorded::<v1::Operation>(Kind::Operation).await;
    let said: Vec<_> = operations[before..]
        .iter()
        .map(|one| (&*one.action, &*one.principal, &*one.reason))
        .collect();
    assert_eq!(
        said,
        [
            ("remove-node", "admin/alice", "it is broken"),
            ("transfer-leader", "admin/alice", "maintenance"),
        ]
    );
}

/// The producer of the node that has this key.
fn producer_of(public_key: &[u8; 32]) -> Bytes {
    let mut hasher = Sha3_256::new();
    hasher.update(b"indelible/node/");
    hasher.update(public_key);
    Bytes::copy_from_slice(&hasher.finalize()[..16])
}

/// S8: records by the nodes' own producers, written by somebody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s8_a_nodes_producer_is_refused_to_clients() {
    let group = Group::start_calm().await;
    // Each has opened its own once.
    for id in [1, 2, 3, 1] {
        group.lead(id).await;
    }
    let opened = group.recorded::<v1::ProducerOpened>(Kind::ProducerOpened).await;
    let certificates = &group.certificates;
    for (who, certificate, why) in [
        ("a client", certificates.client("billing"), Reason::Forbidden),
        ("an administrator", certificates.admin("admin"), Reason::Forbidden),
        // At the client port it is nobody: nodes speak at each other's raft ports.
        ("node 2", certificates.node(2), Reason::Unauthenticated),
    ] {
        let channel = group.client(1, Some(&certificate)).await;
        for id in 1..=3 {
            let producer_id = producer_of(&group.identity(id).public_key);
            let its = opened.iter().filter(|one| one.producer_id == producer_id).count();
            assert!(its > 0 || id != 1, "node {id} has recorded who made it lead");
            let open = v1::OpenProducerRequest {
                producer_id: producer_id.clone(),
                name: format!("node {id}"),
                ..Default::default()
            };
            let refused = audit(&channel).open_producer(open).await.unwrap_err();
            assert_eq!(reason(&refused), Some(why), "{who}: {refused:?}");
            let append = v1::AppendRequest {
                producer_id,
                epoch: 1,
                first_seq: 1,
                events: vec![event(1).encode_to_vec().into()],
                ..Default::default()
            };
            let refused = audit(&channel).append(append).await.unwrap_err();
            assert_eq!(reason(&refused), Some(why), "{who}: {refused:?}");
        }
    }
    let now = group.recorded::<v1::ProducerOpened>(Kind::ProducerOpened).await;
    assert_eq!(now.len(), opened.len());
    // It writes on, and nobody has fenced it.
    group.lead(2).await;
    group.still_works().await;
}
