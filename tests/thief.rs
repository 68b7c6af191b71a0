//! Stolen keys: what somebody can say who has a node's disk, with that node's key and the log key
//! on it.

use std::path::Path;

use bytes::Bytes;
use indelible::storage::identity::Identity;
use indelible_core::{Checkpoint, KeyType, Note, SignerKey, node_key_name};
use indelible_proto::raft as pb;
use indelible_proto::raft::mending_client::MendingClient;
use indelible_proto::raft::publication_client::PublicationClient;
use indelible_proto::raft::raft_client::RaftClient;
use tonic::metadata::BinaryMetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::harness::channel;

/// Somebody with the disk of one node, which does not run any more.
pub struct Thief {
    pub identity: Identity,
    node_key: SignerKey,
    log_key: SignerKey,
    /// Higher than any that the node has had: it looks like a restart.
    boot: u64,
}

impl Thief {
    pub fn new(data_dir: &Path, boot_count: u64) -> Thief {
        let identity = Identity::read(data_dir).unwrap();
        let name = node_key_name(&identity.origin, identity.node_id);
        let node_key = SignerKey::new(&name, KeyType::Cosigner, identity.secret_key).unwrap();
        let text = std::fs::read_to_string(data_dir.join("log_key")).unwrap();
        let log_key = text.trim().parse().unwrap();
        Thief { identity, node_key, log_key, boot: (boot_count + 1) << 32 | 7 }
    }

    /// A note over any checkpoint, with both stolen keys.
    pub fn sign(&self, checkpoint: &Checkpoint, unix_s: u64) -> Note {
        let signatures =
            vec![self.log_key.sign(checkpoint), self.node_key.cosign(checkpoint, unix_s)];
        Note { text: checkpoint.to_string(), signatures }
    }

    /// Past the handshake of node `to`, as the stolen node.
    pub async fn call(&self, to: u64, raft_addr: &str) -> Session {
        let channel = channel(raft_addr).await;
        let mut raft = RaftClient::new(channel.clone());
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
        let id = raft.handshake(hello).await.unwrap().into_inner().session;
        Session {
            raft,
            publication: PublicationClient::new(channel.clone()),
            mending: MendingClient::new(channel),
            trail_id: Bytes::copy_from_slice(&self.identity.trail_id.0),
            id,
        }
    }
}

/// What the stolen node may ask of another one.
#[derive(Clone)]
pub struct Session {
    raft: RaftClient<Channel>,
    publication: PublicationClient<Channel>,
    mending: MendingClient<Channel>,
    trail_id: Bytes,
    id: Bytes,
}

impl Session {
    /// How far its log goes, and what it has promised.
    pub async fn standing(&mut self) -> Result<pb::StandingResponse, Status> {
        let request = pb::StandingRequest { trail_id: self.trail_id.clone(), node_id: 1 };
        Ok(self.mending.standing(request).await?.into_inner())
    }

    /// Its chain at an entry.
    pub async fn chain_at(&mut self, index: u64) -> Result<Bytes, Status> {
        let (trail_id, from, to) = (self.trail_id.clone(), index, index + 1);
        let request = pb::EntriesRequest { trail_id, node_id: 1, from, to };
        let mut entries = self.mending.entries(request).await?.into_inner();
        let found = entries.message().await?.ok_or_else(|| Status::not_found("no entry"))?;
        Ok(found.chains)
    }

    pub async fn vote(&mut self, vote: pb::VoteRequest) -> Result<pb::VoteResponse, Status> {
        Ok(self.raft.vote(self.request(vote)).await?.into_inner())
    }

    /// One message of replication, and the answer to it.
    pub async fn append(
        &mut self,
        append: pb::AppendRequest,
    ) -> Result<pb::AppendResponse, Status> {
        let messages = self.request(tokio_stream::iter([append]));
        let mut answers = self.raft.append(messages).await?.into_inner();
        answers.message().await?.ok_or_else(|| Status::aborted("no answer"))
    }

    pub async fn cosign(&mut self, checkpoint: &Checkpoint) -> Result<pb::CosignResponse, Status> {
        let cosign = pb::CosignRequest { checkpoint: checkpoint.to_string(), wait_ms: 5000 };
        Ok(self.publication.cosign(self.request(cosign)).await?.into_inner())
    }

    pub async fn publish(&mut self, note: &Note) -> Result<(), Status> {
        let publish = pb::PublishRequest { notes: vec![note.to_string()], ..Default::default() };
        self.tell(publish).await
    }

    pub async fn tell(&mut self, publish: pb::PublishRequest) -> Result<(), Status> {
        self.publication.publish(self.request(publish)).await.map(drop)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let id = BinaryMetadataValue::from_bytes(&self.id);
        request.metadata_mut().insert_bin("indelible-session-bin", id);
        request
    }
}
