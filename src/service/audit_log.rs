//! Appending to the trail and reading it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::Stream;
use indelible_core::ProducerId;
use indelible_core::limits::{CLIENT_MESSAGE_BYTES_MAX, READ_STREAMS_MAX};
use indelible_proto::reason::{Reason, Rejected};
use indelible_proto::v1;
use indelible_proto::v1::audit_log_server::{AuditLog, AuditLogServer};
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use super::caller::Caller;
use super::edge;
use super::key_history::key_history;
use super::metrics::Metrics;
use super::oversize::Oversize;
use super::proofs::{self, PROOF_WAIT, bytes, range_proof};
use super::proven::{self, Proof, Wanted};
use super::read_stream::{ReadStream, record};
use super::readers::Readers;
use crate::node::Node;
use crate::node::batcher::Appended;
use crate::node::duplicates::failed;
use crate::node::publish::Published;
use crate::storage::ledger::{Head, Ledger, LedgerError};

/// Serves one node.
#[derive(Clone)]
pub struct AuditLogService {
    node: Arc<Node>,
    metrics: Arc<Metrics>,
    readers: Readers<Ledger>,
    read_streams: Arc<Semaphore>,
}

impl AuditLogService {
    /// On a running node.
    pub fn new(node: Arc<Node>, metrics: Arc<Metrics>) -> Self {
        let read_streams = Arc::new(Semaphore::new(READ_STREAMS_MAX));
        let readers = Readers::new(node.ledger.clone());
        AuditLogService { node, metrics, readers, read_streams }
    }

    /// As a tonic service, with the client port's limits.
    pub fn into_server(self) -> Oversize<AuditLogServer<Self>> {
        let server = AuditLogServer::new(self)
            .max_decoding_message_size(CLIENT_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(CLIENT_MESSAGE_BYTES_MAX);
        Oversize::new(server)
    }

    /// Runs a ledger call off the runtime's threads.
    async fn ledger<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Ledger) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, Rejected> {
        let done = self.readers.run(call).await;
        done.ok_or_else(|| Rejected::new(Reason::Stopping, "the node is stopping"))?
            .map_err(|error| failed(&error))
    }

    async fn try_append(&self, request: v1::AppendRequest) -> Result<(Appended, Proof), Rejected> {
        let began = Instant::now();
        self.node.publication.check_appendable()?;
        let wanted = Wanted::of(&request)?;
        let append = edge::append(request)?;
        self.check_producer(&append.producer)?;
        let appended = self.node.batcher.append(append).await?;
        let events = appended.runs.iter().map(|run| u64::from(run.count)).sum();
        self.metrics.appended(events, began.elapsed());
        let proof = match wanted {
            None => Proof::none(),
            Some(wanted) => {
                let proof = proven::prove(&self.node, &appended, wanted).await;
                self.metrics.proven(proof.ack, began.elapsed());
                proof
            }
        };
        Ok((appended, proof))
    }

    /// Nodes write what operators did and what was found: nobody else may do it in their names.
    fn check_producer(&self, producer: &ProducerId) -> Result<(), Rejected> {
        match self.node.is_nodes_producer(producer) {
            false => Ok(()),
            true => Err(Rejected::new(
                Reason::Forbidden,
                "this producer id is a node's own; hint: 16 random bytes, kept for the producer's life",
            )),
        }
    }

    async fn try_get(&self, request: v1::GetRequest) -> Result<v1::GetResponse, Rejected> {
        let head = self.node.reads.barrier(edge::level(request.level)?).await?;
        let index = request.index;
        if index >= head.tree_size {
            return Err(not_found(index, &head));
        }
        let checkpoint = match request.prove {
            true => self.node.publication.wait(index + 1, false, PROOF_WAIT).await,
            false => None,
        };
        let against = checkpoint.clone();
        let found = self.ledger(move |ledger| {
            let Some(found) = ledger.record(index)? else { return Ok(None) };
            let prove = |newest: Arc<Published>| {
                let records = std::slice::from_ref(&found);
                ledger.prove_records(records, newest.checkpoint.size, &newest.checkpoint.root)
            };
            let proof = against.map(prove).transpose()?;
            Ok(Some((found, proof)))
        });
        let (found, proof) = found.await?.ok_or_else(|| not_found(index, &head))?;
        Ok(v1::GetResponse {
            record: Some(record(found)),
            meta: Some(self.meta(&head)),
            checkpoint: checkpoint.map(|newest| newest.note.clone()).unwrap_or_default(),
            proof: proof.map(|proof| {
                self.metrics.proved();
                range_proof(proof)
            }),
        })
    }

    async fn try_read(&self, request: v1::ReadRequest) -> Result<ReadStream, Rejected> {
        let permit = self.read_streams.clone().try_acquire_owned().map_err(|_| {
            let message = format!("{READ_STREAMS_MAX} reads are open, which is the limit");
            Rejected::new(Reason::Busy, message).retry_after(std::time::Duration::from_millis(100))
        })?;
        let head = self.node.reads.barrier(edge::level(request.level)?).await?;
        let end = match (request.to, request.follow) {
            (0, true) => None,
            (0, false) => Some(head.tree_size),
            (to, true) => Some(to),
            (to, false) => Some(to.min(head.tree_size)),
        };
        Ok(ReadStream {
            node_id: self.node.identity.node_id,
            ledger: self.node.ledger.clone(),
            head: self.node.ledger.head(),
            draining: self.node.draining(),
            next: request.from,
            end,
            publication: request.prove.then(|| self.node.publication.clone()),
            sent: None,
            metrics: self.metrics.clone(),
            _permit: permit,
        })
    }

    async fn try_get_checkpoint(
        &self,
        request: v1::GetCheckpointRequest,
    ) -> Result<v1::GetCheckpointResponse, Rejected> {
        let publication = &self.node.publication;
        let wait = edge::checkpoint_wait(request.wait_ms)?;
        let mut draining = self.node.draining();
        let found = tokio::select! {
            found = publication.wait(request.size_min, request.witnessed, wait) => found,
            _ = draining.wait_for(|draining| *draining) => None,
        };
        // Too small is more than nothing: it shows how far the group is, and when it last signed.
        let found = found.or_else(|| match request.witnessed {
            true => publication.newest_witnessed(),
            false => publication.newest(),
        });
        Ok(v1::GetCheckpointResponse {
            checkpoint: found.map(|found| found.note.clone()).unwrap_or_default(),
            node_id: self.node.identity.node_id,
        })
    }

    async fn try_key_history(
        &self,
        request: v1::KeyHistoryRequest,
    ) -> Result<v1::KeyHistoryResponse, Rejected> {
        let head = *self.node.ledger.head().borrow();
        let newest = self.node.publication.newest().map(|newest| newest.checkpoint.clone());
        let known = match request.tree_size {
            0 if newest.is_none() => {
                let message = "this node has no checkpoint yet; hint: name a tree_size";
                return Err(Rejected::new(Reason::NotFound, message));
            }
            0 => newest,
            size => newest.filter(|newest| newest.size == size),
        };
        let size = match &known {
            Some(known) => known.size,
            None => size_or_current(request.tree_size, &head)?,
        };
        let ledger = self.node.ledger.clone();
        let history = tokio::task::spawn_blocking(move || {
            let root = known.map_or_else(|| ledger.root_at(size), |known| Ok(known.root));
            key_history(&ledger, size, &root.map_err(|error| failed(&error))?)
        });
        history.await.map_err(|_| Rejected::new(Reason::Stopping, "the node is stopping"))?
    }

    async fn try_prove(&self, request: v1::ProveRequest) -> Result<v1::ProveResponse, Rejected> {
        let head = *self.node.ledger.head().borrow();
        let tree_size = size_or_current(request.tree_size, &head)?;
        let leaves = edge::prove_range(&request)?;
        if leaves.end > tree_size {
            return Err(not_found(leaves.end - 1, &head));
        }
        let index = request.index;
        if request.to != 0 {
            let proved = self.ledger(move |ledger| ledger.prove_range(leaves, tree_size)).await?;
            return Ok(proofs::proved_range(proved));
        }
        let (root, proof, stored) = self
            .ledger(move |ledger| {
                let proof = ledger.prove(index, tree_size)?;
                Ok((ledger.root_at(tree_size)?, proof, ledger.record(index)?))
            })
            .await?;
        let stored = stored.ok_or_else(|| not_found(index, &head))?;
        Ok(v1::ProveResponse {
            index,
            tree_size,
            root: bytes(&root),
            leaf: Bytes::copy_from_slice(&stored.leaf),
            proof: proof.iter().map(bytes).collect(),
            ..Default::default()
        })
    }

    async fn try_prove_consistency(
        &self,
        request: v1::ProveConsistencyRequest,
    ) -> Result<v1::ProveConsistencyResponse, Rejected> {
        let head = *self.node.ledger.head().borrow();
        let new_size = size_or_current(request.new_size, &head)?;
        let old_size = request.old_size;
        if old_size > new_size {
            let message = format!("old_size {old_size} is above new_size {new_size}");
            return Err(edge::invalid(message));
        }
        let (old_root, new_root, proof) = self
            .ledger(move |ledger| {
                let proof = ledger.prove_consistency(old_size, new_size)?;
                Ok((ledger.root_at(old_size)?, ledger.root_at(new_size)?, proof))
            })
            .await?;
        Ok(v1::ProveConsistencyResponse {
            old_size,
            new_size,
            old_root: bytes(&old_root),
            new_root: bytes(&new_root),
            proof: proof.iter().map(bytes).collect(),
        })
    }

    fn meta(&self, head: &Head) -> v1::ReadMeta {
        v1::ReadMeta { node_id: self.node.identity.node_id, tree_size: head.tree_size }
    }

    /// Counts a refusal and makes it a status.
    fn refuse(&self, rejected: Rejected) -> Status {
        self.metrics.rejected(rejected.reason);
        rejected.into()
    }
}

fn size_or_current(size: u64, head: &Head) -> Result<u64, Rejected> {
    match size {
        0 => Ok(head.tree_size),
        size if size <= head.tree_size => Ok(size),
        size => {
            let message = format!(
                "tree size {size}, this node has {}; hint: ask another node",
                head.tree_size
            );
            Err(Rejected::new(Reason::StaleReplica, message))
        }
    }
}

fn not_found(index: u64, head: &Head) -> Rejected {
    Rejected::new(Reason::NotFound, format!("no leaf {index}: the tree size is {}", head.tree_size))
}

#[tonic::async_trait]
impl AuditLog for AuditLogService {
    async fn open_producer(
        &self,
        request: Request<v1::OpenProducerRequest>,
    ) -> Result<Response<v1::OpenProducerResponse>, Status> {
        let caller = Caller::of(&request);
        let open = edge::open(request.into_inner(), caller).map_err(|why| self.refuse(why))?;
        self.check_producer(&open.producer).map_err(|why| self.refuse(why))?;
        self.node.publication.check_appendable().map_err(|why| self.refuse(why))?;
        let opened = self.node.batcher.open(open).await.map_err(|why| self.refuse(why))?;
        Ok(Response::new(v1::OpenProducerResponse {
            epoch: opened.epoch,
            opened: opened.opened,
            last_seq: opened.last_seq,
            known: opened.known,
        }))
    }

    async fn append(
        &self,
        request: Request<v1::AppendRequest>,
    ) -> Result<Response<v1::AppendResponse>, Status> {
        let (appended, proof) =
            self.try_append(request.into_inner()).await.map_err(|why| self.refuse(why))?;
        let runs = appended
            .runs
            .iter()
            .map(|run| v1::Run {
                first_seq: run.first_seq,
                first_leaf: run.first_leaf,
                count: run.count,
                duplicate: run.duplicate,
            })
            .collect();
        Ok(Response::new(v1::AppendResponse {
            runs,
            leaves: appended.leaves,
            salts: appended.salts,
            tree_size: appended.tree_size,
            ack: proof.ack.into(),
            checkpoint: proof.checkpoint,
            proofs: proof.proofs,
        }))
    }

    async fn get(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<v1::GetResponse>, Status> {
        let response = self.try_get(request.into_inner()).await.map_err(|why| self.refuse(why))?;
        self.metrics.read();
        Ok(Response::new(response))
    }

    type ReadStream = Pin<Box<dyn Stream<Item = Result<v1::ReadResponse, Status>> + Send>>;

    async fn read(
        &self,
        request: Request<v1::ReadRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let read = self.try_read(request.into_inner()).await.map_err(|why| self.refuse(why))?;
        self.metrics.read();
        Ok(Response::new(Box::pin(read.into_stream())))
    }

    async fn tree_head(
        &self,
        request: Request<v1::TreeHeadRequest>,
    ) -> Result<Response<v1::TreeHeadResponse>, Status> {
        let level = edge::level(request.into_inner().level).map_err(|why| self.refuse(why))?;
        let head = self.node.reads.barrier(level).await.map_err(|why| self.refuse(why))?;
        Ok(Response::new(v1::TreeHeadResponse {
            tree_size: head.tree_size,
            root: bytes(&head.root),
            node_id: self.node.identity.node_id,
            origin: self.node.identity.origin.clone(),
        }))
    }

    async fn prove(
        &self,
        request: Request<v1::ProveRequest>,
    ) -> Result<Response<v1::ProveResponse>, Status> {
        let response = self.try_prove(request.into_inner()).await;
        response.map(Response::new).map_err(|why| self.refuse(why))
    }

    async fn prove_consistency(
        &self,
        request: Request<v1::ProveConsistencyRequest>,
    ) -> Result<Response<v1::ProveConsistencyResponse>, Status> {
        let response = self.try_prove_consistency(request.into_inner()).await;
        response.map(Response::new).map_err(|why| self.refuse(why))
    }

    async fn get_checkpoint(
        &self,
        request: Request<v1::GetCheckpointRequest>,
    ) -> Result<Response<v1::GetCheckpointResponse>, Status> {
        let response = self.try_get_checkpoint(request.into_inner()).await;
        response.map(Response::new).map_err(|why| self.refuse(why))
    }

    async fn report_checkpoint(
        &self,
        request: Request<v1::ReportCheckpointRequest>,
    ) -> Result<Response<v1::ReportCheckpointResponse>, Status> {
        let reported = self.node.publication.report(&request.get_ref().checkpoint).await;
        let rolled_back = reported.map_err(|why| self.refuse(why))?;
        Ok(Response::new(v1::ReportCheckpointResponse { rolled_back }))
    }

    async fn key_history(
        &self,
        request: Request<v1::KeyHistoryRequest>,
    ) -> Result<Response<v1::KeyHistoryResponse>, Status> {
        let response = self.try_key_history(request.into_inner()).await;
        response.map(Response::new).map_err(|why| self.refuse(why))
    }
}
