//! Stolen keys: what somebody can say who has a node's disk, with that node's key and the log key
//! on it.

use std::path::Path;

use bytes::Bytes;
use ed25519_dalek::Signer;
use indelible::net::dial::{OneConnection, dial};
use indelible::net::{Credentials, TlsConfig};
use indelible::storage::identity::Identity;
use indelible::storage::lineage;
use indelible::storage::start::root_of;
use indelible_core::{Checkpoint, KeyType, Note, SignerKey, TrailId, node_key_name};
use indelible_lineage::{Draw, Lineage, Statement};
use indelible_proto::raft as pb;
use indelible_proto::raft::mending_client::MendingClient;
use indelible_proto::raft::publication_client::PublicationClient;
use indelible_proto::raft::raft_client::RaftClient;
use tonic::Status;

/// Somebody with the disk of one node, which does not run any more.
pub struct Thief {
    pub identity: Identity,
    node_key: SignerKey,
    log_key: SignerKey,
    credentials: Credentials,
    /// One more than the node has had: it looks like a restart.
    boots: Lineage,
}

impl Thief {
    pub fn new(data_dir: &Path) -> Thief {
        let identity = Identity::read(data_dir).unwrap();
        let name = node_key_name(&identity.origin, identity.node_id);
        let node_key = SignerKey::new(&name, KeyType::Cosigner, *identity.secret_key).unwrap();
        let text = std::fs::read_to_string(data_dir.join("log_key")).unwrap();
        let log_key = text.trim().parse().unwrap();
        let (trail, id) = (identity.trail_id, identity.node_id);
        let credentials = Credentials::load(&TlsConfig::default(), data_dir, trail, id).unwrap();
        let boots = next_boot(data_dir, &identity);
        Thief { identity, node_key, log_key, credentials, boots }
    }

    /// A note over any checkpoint, with both stolen keys.
    pub fn sign(&self, checkpoint: &Checkpoint, unix_s: u64) -> Note {
        let signatures =
            vec![self.log_key.sign(checkpoint), self.node_key.cosign(checkpoint, unix_s)];
        Note { text: checkpoint.to_string(), signatures }
    }

    /// Past the handshake of node `to`, as the stolen node.
    pub async fn call(&self, to: u64, raft_addr: &str) -> Session {
        let (session, welcome) = self.try_call(to, raft_addr).await;
        welcome.unwrap();
        session
    }

    /// As [`Self::call`], with the answer to the handshake.
    pub async fn try_call(
        &self,
        to: u64,
        raft_addr: &str,
    ) -> (Session, Result<pb::Welcome, Status>) {
        let dialed = dial(raft_addr, &self.credentials, 1 << 20).await.unwrap();
        let hello = self.hello(to, dialed.security.binding());
        let mut session =
            Session::new(dialed.channel, self.identity.trail_id, self.identity.node_id);
        let welcome = session.raft.handshake(hello).await.map(tonic::Response::into_inner);
        (session, welcome)
    }

    /// What the stolen node says of itself, with the proof that its key makes.
    pub fn hello(&self, to: u64, binding: [u8; 32]) -> pb::Hello {
        hello(&self.identity, &self.boots, to, binding)
    }
}

/// Further than any log goes: nobody misses anything in it.
pub const LAST_LOG_INDEX: u64 = u64::MAX / 2;

/// What a node says of itself, with the proof that its key makes.
pub fn hello(identity: &Identity, boots: &Lineage, to: u64, binding: [u8; 32]) -> pb::Hello {
    pb::Hello {
        trail_id: Bytes::copy_from_slice(&identity.trail_id.0),
        from: identity.node_id,
        to,
        public_key: Bytes::copy_from_slice(&identity.public_key),
        boot: Some(signed(identity, boots)),
        segment_bytes: identity.segment_bytes,
        version: "stolen".into(),
        last_log_index: LAST_LOG_INDEX,
        empty: false,
        proof: prove(identity, boots, to, binding),
        promise: Some(promise()),
        draws: last_draw(boots),
        ..Default::default()
    }
}

/// The boots on a disk, and one more.
pub fn next_boot(data_dir: &Path, identity: &Identity) -> Lineage {
    let mut boots = lineage::read(data_dir, identity).unwrap();
    boots.push(Draw([0x77; 16]));
    boots
}

/// The boots of a node that has no disk.
pub fn first_boot(identity: &Identity) -> Lineage {
    Lineage::of(root_of(identity), vec![Draw([0x77; 16])])
}

/// One boot more.
pub fn later(boots: &Lineage) -> Lineage {
    let mut boots = boots.clone();
    boots.push(Draw([0x78; 16]));
    boots
}

/// What leads from the boot before, which peers have seen, to the newest one.
pub fn last_draw(boots: &Lineage) -> Bytes {
    Bytes::copy_from_slice(&boots.draws().last().unwrap().0)
}

/// Further than any term: it has forgotten no vote.
pub fn promise() -> pb::Vote {
    pb::Vote { term: u64::MAX, node_id: u64::MAX, committed: false }
}

/// The newest boot, with the node's signature.
pub fn signed(identity: &Identity, boots: &Lineage) -> pb::Boot {
    let boot = boots.newest();
    let statement = Statement { trail: &identity.trail_id.0, node: identity.node_id, boot };
    let key = ed25519_dalek::SigningKey::from_bytes(&identity.secret_key);
    pb::Boot {
        number: boot.number,
        hash: Bytes::copy_from_slice(&boot.hash),
        signature: key.sign(&statement.text()).to_bytes().to_vec().into(),
    }
}

/// What shows node `to` that a node has its key, on one connection.
pub fn prove(identity: &Identity, boots: &Lineage, to: u64, binding: [u8; 32]) -> Bytes {
    let mut text = b"indelible/peer/v2\n".to_vec();
    text.extend_from_slice(&identity.trail_id.0);
    let (boot, promise) = (boots.newest(), promise());
    let numbers =
        [identity.node_id, to, LAST_LOG_INDEX, promise.term, promise.node_id, boot.number];
    for number in numbers {
        text.extend_from_slice(&number.to_le_bytes());
    }
    text.extend_from_slice(&boot.hash);
    text.extend_from_slice(&binding);
    let key = ed25519_dalek::SigningKey::from_bytes(&identity.secret_key);
    key.sign(&text).to_bytes().to_vec().into()
}

/// What somebody may ask of a node on one connection to its raft port.
#[derive(Clone)]
pub struct Session {
    pub raft: RaftClient<OneConnection>,
    pub publication: PublicationClient<OneConnection>,
    pub mending: MendingClient<OneConnection>,
    trail_id: Bytes,
    node_id: u64,
}

impl Session {
    /// Before any handshake.
    pub fn new(channel: OneConnection, trail_id: TrailId, node_id: u64) -> Session {
        let origin = OneConnection::origin();
        Session {
            raft: RaftClient::with_origin(channel.clone(), origin.clone()),
            publication: PublicationClient::with_origin(channel.clone(), origin.clone()),
            mending: MendingClient::with_origin(channel, origin),
            trail_id: Bytes::copy_from_slice(&trail_id.0),
            node_id,
        }
    }

    /// How far its log goes, and what it has promised.
    pub async fn standing(&mut self) -> Result<pb::StandingResponse, Status> {
        let request =
            pb::StandingRequest { trail_id: self.trail_id.clone(), node_id: self.node_id };
        Ok(self.mending.standing(request).await?.into_inner())
    }

    /// Its chain at an entry.
    pub async fn chain_at(&mut self, index: u64) -> Result<Bytes, Status> {
        let (trail_id, node_id) = (self.trail_id.clone(), self.node_id);
        let request = pb::EntriesRequest { trail_id, node_id, from: index, to: index + 1 };
        let mut entries = self.mending.entries(request).await?.into_inner();
        let found = entries.message().await?.ok_or_else(|| Status::not_found("no entry"))?;
        Ok(found.chains)
    }

    pub async fn vote(&mut self, vote: pb::VoteRequest) -> Result<pb::VoteResponse, Status> {
        Ok(self.raft.vote(vote).await?.into_inner())
    }

    /// One message of replication, and the answer to it.
    pub async fn append(
        &mut self,
        append: pb::AppendRequest,
    ) -> Result<pb::AppendResponse, Status> {
        let messages = tokio_stream::iter([append]);
        let mut answers = self.raft.append(messages).await?.into_inner();
        answers.message().await?.ok_or_else(|| Status::aborted("no answer"))
    }

    pub async fn cosign(&mut self, checkpoint: &Checkpoint) -> Result<pb::CosignResponse, Status> {
        let cosign = pb::CosignRequest { checkpoint: checkpoint.to_string(), wait_ms: 5000 };
        Ok(self.publication.cosign(cosign).await?.into_inner())
    }

    pub async fn publish(&mut self, note: &Note) -> Result<(), Status> {
        let publish = pb::PublishRequest { notes: vec![note.to_string()], ..Default::default() };
        self.tell(publish).await
    }

    pub async fn tell(&mut self, publish: pb::PublishRequest) -> Result<(), Status> {
        self.publication.publish(publish).await.map(drop)
    }
}
