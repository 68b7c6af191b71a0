//! A group under attack, and what it must still do afterwards.

use std::collections::BTreeSet;

use ed25519_dalek::SigningKey;
use indelible::cli::generate::event;
use indelible::storage::identity::Identity;
use indelible_client::connect::Transport;
use indelible_client::{Client, Identity as ClientIdentity, Level, Options, Tls, TlsPem};
use indelible_core::{Kind, ProducerId, node_key_name};
use indelible_lineage::Lineage;
use indelible_local::LocalCluster;
use indelible_proto::v1::audit_log_client::AuditLogClient;
use indelible_proto::v1::cluster_client::ClusterClient;
use indelible_proto::{Reason, Rejected, v1};
use indelible_testkit::Certificates;
use indelible_tls::issue::Issued;
use prost::Message;
use tonic::Status;
use tonic::transport::Channel;

use super::stranger::{Line, Stranger};
use crate::harness::{Trail, channel, client, eventually, leader, nodes_with, options, policy};
use crate::thief::{Thief, next_boot};

/// Elections are rare even on a busy machine: for tests that need the same leader for a while.
pub const CALM: &str =
    "[raft]\nheartbeat_ms = 100\nelection_timeout_min_ms = 1000\nelection_timeout_max_ms = 2000\n";

pub struct Group {
    pub cluster: LocalCluster,
    /// With the policy of `init`: what it reads is verified.
    pub sdk: Client,
    pub certificates: Certificates,
}

impl Group {
    /// Three nodes.
    pub async fn start() -> Group {
        Group::of(3, "").await
    }

    /// Three nodes that seldom elect.
    pub async fn start_calm() -> Group {
        Group::of(3, CALM).await
    }

    pub async fn of(nodes: u64, config: &str) -> Group {
        let cluster = nodes_with(nodes, Some(128 * 1024), config);
        client(&cluster).await;
        let options = Options { policy: Some(policy(&cluster)), ..options(&cluster) };
        let sdk = Client::connect_with(options).await.unwrap();
        let certificates = Certificates::of(&cluster);
        Group { cluster, sdk, certificates }
    }

    pub fn raft_addr(&self, id: u64) -> String {
        self.cluster.nodes.iter().find(|node| node.id == id).unwrap().raft_addr.clone()
    }

    pub fn client_addr(&self, id: u64) -> String {
        self.cluster.nodes.iter().find(|node| node.id == id).unwrap().client_addr.clone()
    }

    /// Who a node is, as its disk says.
    pub fn identity(&self, id: u64) -> Identity {
        let node = self.cluster.nodes.iter().find(|node| node.id == id).unwrap();
        Identity::read(&node.data_dir).unwrap()
    }

    /// What a node with this id would be that nobody has added.
    pub fn invented(&self, id: u64) -> Identity {
        let key = SigningKey::from_bytes(&[0x99; 32]);
        let (secret_key, public_key) = (key.to_bytes().into(), key.verifying_key().to_bytes());
        Identity { node_id: id, secret_key, public_key, ..self.identity(1) }
    }

    /// The boots of a node with this id, and one that it has not had yet.
    pub fn next_boot(&self, id: u64) -> Lineage {
        let node = self.cluster.nodes.iter().find(|node| node.id == id).unwrap();
        next_boot(&node.data_dir, &self.identity(id))
    }

    /// Makes another node lead.
    pub async fn lead(&self, id: u64) {
        eventually("another node leads", || async {
            let leads = leader(&self.cluster).await;
            if leads == id {
                return Some(());
            }
            let reason = "a test".to_owned();
            let request = v1::TransferLeadershipRequest { to: id, reason };
            // Somebody else may lead meanwhile.
            let _ = self.admin(leads).await.transfer_leadership(request).await;
            None
        })
        .await;
    }

    /// Kills a node that does not lead; whoever calls has its disk.
    pub async fn steal(&mut self, id: u64) -> Thief {
        let node = self.cluster.node(id).unwrap();
        node.kill().unwrap();
        Thief::new(&node.data_dir)
    }

    /// A connection to a node's raft port with this certificate, on which nothing is proved.
    pub async fn line(&self, certificate: &Issued, to: u64) -> Line {
        Stranger::new(Some(certificate)).dial(&self.raft_addr(to)).await.unwrap()
    }

    /// The service that changes the group, for the first administrator.
    pub async fn admin(&self, id: u64) -> ClusterClient<Channel> {
        ClusterClient::new(channel(&self.client_addr(id)).await)
    }

    /// A connection to a node's client port with this certificate.
    pub async fn client(&self, id: u64, certificate: Option<&Issued>) -> Channel {
        let identity = certificate.map(|issued| ClientIdentity {
            cert: issued.cert_pem.clone().into(),
            key: issued.key_pem.as_bytes().to_vec().into(),
        });
        let ca = self.certificates.authority.cert_pem().into();
        let tls = Tls::from_pem(TlsPem { ca, identity }, Some(self.certificates.trail)).unwrap();
        let (addr, transport) = (self.client_addr(id), Transport::Tls(tls));
        let connect = || async { indelible_client::connect::channel(&addr, &transport).await.ok() };
        eventually("the client port answers", connect).await
    }

    /// Has an event acknowledged. Returns its place.
    pub async fn append(&self) -> u64 {
        let producer = self.sdk.producer(ProducerId(rand::random()), "after").open().await.unwrap();
        producer.append(event(7)).await.unwrap().index
    }

    /// What every attack must leave as it was: an event is acknowledged, and reads back with proof.
    pub async fn still_works(&self) {
        let index = self.append().await;
        eventually("a proof of what was appended", || async {
            let record = self.sdk.get(index, Level::Linearizable).await.unwrap();
            assert_eq!(record.event[..], event(7).encode_to_vec()[..]);
            record.verification.is_verified().then_some(())
        })
        .await;
    }

    /// Until the reader believes the keys of these nodes, and no others.
    pub async fn believes(&self, ids: &[u64]) {
        let origin = policy(&self.cluster).origin().to_owned();
        let expected: BTreeSet<_> = ids.iter().map(|id| node_key_name(&origin, *id)).collect();
        eventually(&format!("the reader believes {ids:?}"), || async {
            self.sdk.get(0, Level::Any).await.ok()?;
            let policy = self.sdk.policy()?;
            let names: BTreeSet<_> = policy.nodes().map(|key| key.name.clone()).collect();
            (names == expected).then_some(())
        })
        .await;
    }

    /// Everything in the trail, as the leader has it, with every hash recomputed.
    pub async fn trail(&self) -> Trail {
        let size = self.sdk.tree_head(Level::Linearizable).await.unwrap().tree_size;
        let leads = leader(&self.cluster).await;
        Trail::read(&self.client_addr(leads), size).await
    }

    /// What nodes recorded as their own: of this kind, in trail order.
    pub async fn recorded<M: Message + Default>(&self, kind: Kind) -> Vec<M> {
        let trail = self.trail().await;
        let of_kind = trail.records.iter().filter(|(leaf, _)| leaf.kind == kind);
        of_kind.map(|(_, event)| M::decode(&event[..]).unwrap()).collect()
    }

    /// Names of the evidence that a node keeps.
    pub fn evidence(&self, id: u64) -> Vec<String> {
        let node = self.cluster.nodes.iter().find(|node| node.id == id).unwrap();
        let Ok(files) = std::fs::read_dir(node.data_dir.join("evidence")) else {
            return Vec::new();
        };
        files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
    }
}

/// The service that events are appended by.
pub fn audit(channel: &Channel) -> AuditLogClient<Channel> {
    AuditLogClient::new(channel.clone())
}

/// Why a node refused, as its clients read it.
pub fn reason(status: &Status) -> Option<Reason> {
    Rejected::from_status(status).map(|rejected| rejected.reason)
}
