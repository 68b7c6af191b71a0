//! The gRPC services of a scripted node.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use indelible_core::{Kind, Salt};
use indelible_proto::v1::audit_log_server::AuditLog;
use indelible_proto::v1::cluster_server::Cluster;
use indelible_proto::v1::*;
use indelible_proto::{Reason, Rejected};
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

use super::fake::{Act, Node};
use super::trail::{ORIGIN, Trail, size_of};

/// The services of one node.
pub(super) struct Handle(pub(super) Arc<Node>);

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AuditLog for Handle {
    async fn open_producer(
        &self,
        request: Request<OpenProducerRequest>,
    ) -> Result<Response<OpenProducerResponse>, Status> {
        let id = request.into_inner().producer_id;
        Ok(Response::new(self.0.with(|trail| {
            let known = trail.producers.contains_key(&id);
            let (epoch, _, last_seq) = trail.producers.get(&id).copied().unwrap_or_default();
            let epoch = epoch + 1;
            let opened = trail.push(Kind::ProducerOpened, 0, epoch, Salt([1; 16]), b"opened");
            trail.producers.insert(id, (epoch, opened, last_seq));
            OpenProducerResponse { epoch, opened, last_seq, known }
        })))
    }

    async fn append(
        &self,
        request: Request<AppendRequest>,
    ) -> Result<Response<AppendResponse>, Status> {
        let request = request.into_inner();
        match self.0.next_act((request.first_seq, request.events.len())) {
            Some(Act::Refuse(rejected)) => Err(rejected.into()),
            Some(Act::Hang) => std::future::pending().await,
            Some(Act::Lose) => {
                self.0.with(|trail| trail.append(&request))?;
                Err(Status::unavailable("connection reset"))
            }
            Some(Act::Lie(lie)) => {
                let mut response = self.0.with(|trail| trail.append(&request))?;
                lie(&mut response);
                Ok(Response::new(response))
            }
            _ => Ok(Response::new(self.0.with(|trail| trail.append(&request))?)),
        }
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let request = request.into_inner();
        let index = request.index;
        let act = self.0.next_act((index, 0));
        if let Some(Act::Refuse(rejected)) = act {
            return Err(rejected.into());
        }
        let (mut record, meta) = self.0.with(|trail| {
            let tree_size = trail.size();
            let meta = ReadMeta { node_id: self.0.id, tree_size };
            (trail.records.get(index as usize).cloned(), meta)
        });
        if let (Some(Act::Break { damaged: true, .. }), Some(record)) = (act, &mut record) {
            record.event = Bytes::from_static(b"somebody else did it");
        }
        let none = || Rejected::new(Reason::NotFound, "no such record");
        let record = Some(record.ok_or_else(none)?);
        let mut response = GetResponse { record, meta: Some(meta), ..Default::default() };
        if request.prove {
            (response.checkpoint, response.proof) = self.proof(index, index + 1);
        }
        if let Some(twist) = self.0.twisted().get {
            twist(&mut response);
        }
        Ok(Response::new(response))
    }

    type ReadStream = Messages<ReadResponse>;

    async fn read(
        &self,
        request: Request<ReadRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let request = request.into_inner();
        let act = self.0.next_act((request.from, 0));
        let records = self.0.with(|trail| trail.records.clone());
        let end = if request.to == 0 { records.len() } else { request.to as usize };
        let mut messages = Vec::new();
        let mut sent = String::new();
        for (position, record) in records[request.from as usize..end].iter().enumerate() {
            let mut record = record.clone();
            if let Some(Act::Break { after, damaged }) = &act {
                if position == *after && !*damaged {
                    messages.push(Err(Status::unavailable("connection reset")));
                    break;
                }
                if position == *after {
                    record.event = Bytes::from_static(b"somebody else did it");
                }
            }
            let index = record.index;
            let mut message = ReadResponse { records: vec![record], ..Default::default() };
            if request.prove {
                (message.checkpoint, message.proof) = self.proof(index, index + 1);
                // Left out if it is that of the message before.
                match message.checkpoint == sent {
                    true => message.checkpoint.clear(),
                    false => sent.clone_from(&message.checkpoint),
                }
            }
            if let Some(twist) = self.0.twisted().read {
                twist(&mut message);
            }
            messages.push(Ok(message));
        }
        let stream = futures_util::stream::iter(messages);
        let rest = futures_util::stream::pending();
        Ok(Response::new(match request.follow {
            true => Box::pin(stream.chain(rest)),
            false => Box::pin(stream),
        }))
    }

    async fn tree_head(
        &self,
        _: Request<TreeHeadRequest>,
    ) -> Result<Response<TreeHeadResponse>, Status> {
        Ok(Response::new(self.0.with(|trail| TreeHeadResponse {
            tree_size: trail.size(),
            root: Bytes::copy_from_slice(&trail.root().0),
            node_id: self.0.id,
            origin: ORIGIN.into(),
        })))
    }

    async fn prove(
        &self,
        request: Request<ProveRequest>,
    ) -> Result<Response<ProveResponse>, Status> {
        let ProveRequest { index, tree_size, to } = request.into_inner();
        let answer = |trail: &mut Trail| -> Result<ProveResponse, Rejected> {
            let size = if tree_size == 0 { trail.size() } else { tree_size };
            if size > trail.size() || index >= size || to > size {
                return Err(Rejected::new(Reason::NotFound, "no such tree or leaf"));
            }
            let root = Bytes::copy_from_slice(&trail.root_at(size).0);
            let mut response = ProveResponse { index, tree_size: size, root, ..Default::default() };
            if to == 0 {
                response.leaf = trail.records[index as usize].leaf.clone();
                response.proof = trail.inclusion(index, size);
            } else {
                response.range = Some(trail.range_proof(index, to, size));
                response.leaf_hashes = trail.leaf_hashes(index, to).into();
            }
            Ok(response)
        };
        let mut response = self.0.with(answer)?;
        if let Some(twist) = self.0.twisted().prove {
            twist(&mut response);
        }
        Ok(Response::new(response))
    }

    async fn prove_consistency(
        &self,
        request: Request<ProveConsistencyRequest>,
    ) -> Result<Response<ProveConsistencyResponse>, Status> {
        let ProveConsistencyRequest { old_size, new_size } = request.into_inner();
        let answer = |trail: &mut Trail| -> Result<ProveConsistencyResponse, Rejected> {
            let new_size = if new_size == 0 { trail.size() } else { new_size };
            if new_size > trail.size() || old_size > new_size {
                return Err(Rejected::new(Reason::NotFound, "no such tree"));
            }
            Ok(ProveConsistencyResponse {
                old_size,
                new_size,
                old_root: Bytes::copy_from_slice(&trail.root_at(old_size).0),
                new_root: Bytes::copy_from_slice(&trail.root_at(new_size).0),
                proof: trail.consistency(old_size, new_size),
            })
        };
        let mut response = self.0.with(answer)?;
        if let Some(twist) = self.0.twisted().consistency {
            twist(&mut response);
        }
        Ok(Response::new(response))
    }

    async fn get_checkpoint(
        &self,
        request: Request<GetCheckpointRequest>,
    ) -> Result<Response<GetCheckpointResponse>, Status> {
        let witnessed = request.into_inner().witnessed;
        let note = self.0.with(|trail| match witnessed {
            true => trail.witnessed.clone(),
            false => trail.published.clone(),
        });
        let mut response =
            GetCheckpointResponse { checkpoint: note.unwrap_or_default(), node_id: self.0.id };
        if let Some(twist) = self.0.twisted().checkpoint {
            twist(&mut response);
        }
        Ok(Response::new(response))
    }

    async fn report_checkpoint(
        &self,
        request: Request<ReportCheckpointRequest>,
    ) -> Result<Response<ReportCheckpointResponse>, Status> {
        let note = request.into_inner().checkpoint;
        let rolled_back = self.0.with(|trail| {
            let rolled_back = size_of(&note) > trail.size();
            trail.reported.push(note);
            rolled_back
        });
        Ok(Response::new(ReportCheckpointResponse { rolled_back }))
    }

    async fn key_history(
        &self,
        request: Request<KeyHistoryRequest>,
    ) -> Result<Response<KeyHistoryResponse>, Status> {
        let tree_size = request.into_inner().tree_size;
        let mut response = self.0.with(|trail| {
            let records = trail.memberships(tree_size);
            let prove =
                |record: &Record| trail.range_proof(record.index, record.index + 1, tree_size);
            let proofs = records.iter().map(prove).collect();
            KeyHistoryResponse { tree_size, records, proofs }
        });
        if let Some(twist) = self.0.twisted().keys {
            twist(&mut response);
        }
        Ok(Response::new(response))
    }
}

impl Handle {
    /// What a node adds to leaves that are asked for with proof: note and proof, if one covers
    /// them.
    fn proof(&self, from: u64, to: u64) -> (String, Option<RangeProof>) {
        self.0.with(|trail| match trail.covering(to) {
            Some((note, size)) => (note, Some(trail.range_proof(from, to, size))),
            None => (String::new(), None),
        })
    }
}

#[tonic::async_trait]
impl Cluster for Handle {
    async fn get_cluster(
        &self,
        _: Request<GetClusterRequest>,
    ) -> Result<Response<ClusterView>, Status> {
        Ok(Response::new(self.0.view.borrow().clone()))
    }

    type WatchClusterStream = Messages<ClusterView>;

    async fn watch_cluster(
        &self,
        _: Request<WatchClusterRequest>,
    ) -> Result<Response<Self::WatchClusterStream>, Status> {
        // Repeated, so that a slow test machine does not look like a silent node.
        let period = Duration::from_millis(500);
        let ticks = tokio_stream::wrappers::IntervalStream::new(tokio::time::interval(period));
        let view = self.0.view.subscribe();
        let repeated = ticks.map(move |_| view.borrow().clone());
        let changes = WatchStream::new(self.0.view.subscribe());
        Ok(Response::new(Box::pin(futures_util::stream::select(changes, repeated).map(Ok))))
    }

    async fn add_node(
        &self,
        _: Request<AddNodeRequest>,
    ) -> Result<Response<AddNodeResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn remove_node(
        &self,
        _: Request<RemoveNodeRequest>,
    ) -> Result<Response<RemoveNodeResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn transfer_leadership(
        &self,
        _: Request<TransferLeadershipRequest>,
    ) -> Result<Response<TransferLeadershipResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn accept_rollback(
        &self,
        _request: Request<indelible_proto::v1::AcceptRollbackRequest>,
    ) -> Result<Response<indelible_proto::v1::AcceptRollbackResponse>, Status> {
        Err(Status::unimplemented("accept_rollback"))
    }
    async fn accept_clock(
        &self,
        _request: Request<indelible_proto::v1::AcceptClockRequest>,
    ) -> Result<Response<indelible_proto::v1::AcceptClockResponse>, Status> {
        Err(Status::unimplemented("accept_clock"))
    }
}
