//! What this node answers its peers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use indelible_core::Checkpoint;
use indelible_core::limits::NOTE_BYTES_MAX;
use indelible_proto::raft as pb;
use tonic::Status;

use super::cosigner::{self, NotSigned};
use super::notebook;
use super::rollback::Rollback;
use super::shared::Shared;
use crate::node::leadership::Leadership;
use crate::raft::publication::Handlers;
use crate::storage::ledger::Ledger;
use crate::storage::notes::Acceptance;

/// How long a request may wait until this node has applied what it is asked to sign, at most.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Notes of one message: the newest cosigned one and the newest witnessed one.
const NOTES_MAX: usize = 2;

/// What answering needs.
#[derive(Clone)]
pub(super) struct Answers {
    pub(super) ledger: Ledger,
    pub(super) cosigner: cosigner::Handle,
    pub(super) notebook: notebook::Handle,
    pub(super) rollback: Rollback,
    pub(super) shared: Arc<Shared>,
}

impl Answers {
    /// As the transport takes them.
    pub(super) fn handlers(&self) -> Handlers {
        let (cosigns, publishes) = (self.clone(), self.clone());
        Handlers {
            cosign: Box::new(move |peer, request| {
                let answers = cosigns.clone();
                Box::pin(async move { answers.cosign(peer, request).await })
            }),
            publish: Box::new(move |peer, request| {
                let answers = publishes.clone();
                Box::pin(async move { answers.publish(peer, request).await })
            }),
        }
    }

    /// Signs a checkpoint once this node has applied it.
    async fn cosign(
        &self,
        peer: u64,
        request: pb::CosignRequest,
    ) -> Result<pb::CosignResponse, Status> {
        if request.checkpoint.len() > NOTE_BYTES_MAX {
            return Err(refused("the checkpoint is larger than any note"));
        }
        let checkpoint = Checkpoint::parse(&request.checkpoint).map_err(refused)?;
        let size = checkpoint.size;
        let wait = Duration::from_millis(request.wait_ms.into()).min(WAIT_MAX);
        let mut head = self.ledger.head();
        let applied = tokio::time::timeout(wait, head.wait_for(|head| head.tree_size >= size));
        // Too late: the cosigner says how far this node is.
        let _ = applied.await;
        match self.cosigner.cosign(checkpoint).await {
            Ok(line) => {
                Ok(pb::CosignResponse { signature: line.to_string(), ..Default::default() })
            }
            Err(NotSigned::OtherRoot { ours }) => {
                tracing::error!(peer, size, "a peer asked to sign a root that is not this node's");
                let other_root = Bytes::copy_from_slice(&ours.0);
                Ok(pb::CosignResponse { other_root, ..Default::default() })
            }
            Err(NotSigned::RolledBack { checkpoint_size }) => Ok(pb::CosignResponse {
                rolled_back_from: checkpoint_size,
                accepted_unix_s: self.shared.accepted_unix_s(),
                ..Default::default()
            }),
            Err(error) => Err(refused(error)),
        }
    }

    /// Takes notes; they are durable when this returns.
    async fn publish(
        &self,
        peer: u64,
        request: pb::PublishRequest,
    ) -> Result<pb::PublishResponse, Status> {
        let pb::PublishRequest { notes, accepted_unix_s, evidence, reported, accepted_leaf } =
            request;
        if notes.len() > NOTES_MAX {
            return Err(refused(format!("{} notes, the limit is {NOTES_MAX}", notes.len())));
        }
        // What was accepted comes first: it decides which notes count. Only the leader says it, and
        // only the leader knows that evidence is some.
        if self.is_led_by(peer) {
            if accepted_unix_s > 0 {
                let told = Acceptance { unix_s: accepted_unix_s, leaf: accepted_leaf };
                self.rollback.take_accepted(peer, told).await;
            }
            if !evidence.is_empty() {
                self.rollback.take_evidence(evidence).await;
            }
        }
        let told = notes.clone();
        for note in notes {
            self.notebook.offer(note).await.map_err(|error| {
                tracing::warn!(peer, %error, "a peer's note does not count");
                refused(error)
            })?;
        }
        let rolled_back = match reported.is_empty() {
            true => false,
            false => self.rollback.reported(reported).await.map_err(refused)?,
        };
        Ok(pb::PublishResponse { newer_note: self.newer_than(&told), rolled_back })
    }

    fn is_led_by(&self, peer: u64) -> bool {
        let leadership = self.rollback.leadership.borrow();
        matches!(&*leadership, Leadership::Follower(leader) if leader.id == peer)
    }

    /// This node's newest note, if it reaches further than those it was told of.
    fn newer_than(&self, told: &[String]) -> String {
        let size = |note: &String| {
            let note = indelible_core::Note::parse(note).ok()?;
            Some(Checkpoint::parse(&note.text).ok()?.size)
        };
        let told = told.iter().filter_map(size).max();
        let beyond = self.shared.beyond.borrow().clone();
        let newest = beyond.or_else(|| self.shared.newest.borrow().clone());
        let newer = newest.filter(|newest| told.is_some_and(|told| newest.checkpoint.size > told));
        newer.map(|newest| newest.note.clone()).unwrap_or_default()
    }
}

fn refused(why: impl std::fmt::Display) -> Status {
    Status::failed_precondition(why.to_string())
}
