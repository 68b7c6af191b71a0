//! The group: who is in it, who leads it, and changing that.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use indelible_proto::reason::Rejected;
use indelible_proto::v1;
use indelible_proto::v1::cluster_server::{Cluster, ClusterServer};
use openraft::async_runtime::WatchReceiver as _;
use tonic::{Request, Response, Status};

use super::caller::Caller;
use super::edge;
use crate::node::Node;
use crate::node::view::PUSH_EVERY;
use crate::raft::Peer;

/// Serves one node.
#[derive(Clone)]
pub struct ClusterService {
    node: Arc<Node>,
}

impl ClusterService {
    /// On a running node.
    pub fn new(node: Arc<Node>) -> Self {
        ClusterService { node }
    }

    /// As a tonic service.
    pub fn into_server(self) -> ClusterServer<Self> {
        ClusterServer::new(self)
    }

    async fn try_add(
        &self,
        request: v1::AddNodeRequest,
        caller: Caller,
    ) -> Result<Vec<u64>, Rejected> {
        let public_key = <[u8; 32]>::try_from(&request.public_key[..]).map_err(|_| {
            edge::invalid(format!("public_key of {} bytes, not 32", request.public_key.len()))
        })?;
        let peer = Peer {
            client_addr: request.client_addr,
            raft_addr: request.raft_addr,
            http_addr: request.http_addr,
            public_key,
            trail_id: self.node.identity.trail_id,
            // Which one, it says when it is asked.
            boot: None,
        };
        let why = edge::why(request.reason, caller)?;
        self.node.membership_changes.add(request.id, peer, why).await
    }

    async fn try_remove(
        &self,
        request: v1::RemoveNodeRequest,
        caller: Caller,
    ) -> Result<Vec<u64>, Rejected> {
        let why = edge::why(request.reason, caller)?;
        self.node.membership_changes.remove(request.id, why).await
    }

    async fn try_transfer(
        &self,
        request: v1::TransferLeadershipRequest,
        caller: Caller,
    ) -> Result<u64, Rejected> {
        let why = edge::why(request.reason, caller)?;
        self.node.membership_changes.transfer(request.to, why).await
    }
}

/// Views of a node, one at once, then on every change of role, leader or membership and every
/// [`PUSH_EVERY`].
fn views(node: Arc<Node>) -> impl Stream<Item = Result<v1::ClusterView, Status>> + Send {
    let changes = node.raft.server_metrics();
    let state = (node.clone(), changes, node.draining(), true);
    futures_util::stream::unfold(state, |(node, mut changes, mut draining, first)| async move {
        if !first {
            let gone = tokio::select! {
                changed = changes.changed() => changed.is_err(),
                changed = draining.changed() => changed.is_err(),
                () = tokio::time::sleep(PUSH_EVERY) => *draining.borrow(),
            };
            if gone {
                return None;
            }
        }
        let view = node.view();
        Some((Ok(view), (node, changes, draining, false)))
    })
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn get_cluster(
        &self,
        _request: Request<v1::GetClusterRequest>,
    ) -> Result<Response<v1::ClusterView>, Status> {
        Ok(Response::new(self.node.view()))
    }

    type WatchClusterStream = Pin<Box<dyn Stream<Item = Result<v1::ClusterView, Status>> + Send>>;

    async fn watch_cluster(
        &self,
        _request: Request<v1::WatchClusterRequest>,
    ) -> Result<Response<Self::WatchClusterStream>, Status> {
        Ok(Response::new(Box::pin(views(self.node.clone()))))
    }

    async fn add_node(
        &self,
        request: Request<v1::AddNodeRequest>,
    ) -> Result<Response<v1::AddNodeResponse>, Status> {
        let caller = Caller::of(&request);
        let voters = self.try_add(request.into_inner(), caller).await?;
        Ok(Response::new(v1::AddNodeResponse { voters }))
    }

    async fn remove_node(
        &self,
        request: Request<v1::RemoveNodeRequest>,
    ) -> Result<Response<v1::RemoveNodeResponse>, Status> {
        let caller = Caller::of(&request);
        let voters = self.try_remove(request.into_inner(), caller).await?;
        Ok(Response::new(v1::RemoveNodeResponse { voters }))
    }

    async fn transfer_leadership(
        &self,
        request: Request<v1::TransferLeadershipRequest>,
    ) -> Result<Response<v1::TransferLeadershipResponse>, Status> {
        let caller = Caller::of(&request);
        let leader_id = self.try_transfer(request.into_inner(), caller).await?;
        Ok(Response::new(v1::TransferLeadershipResponse { leader_id }))
    }

    async fn accept_rollback(
        &self,
        request: Request<v1::AcceptRollbackRequest>,
    ) -> Result<Response<v1::AcceptRollbackResponse>, Status> {
        let caller = Caller::of(&request);
        let why = edge::why(request.into_inner().reason, caller)?;
        let index = self.node.publication.accept_rollback(why).await?;
        Ok(Response::new(v1::AcceptRollbackResponse { index }))
    }

    async fn accept_clock(
        &self,
        request: Request<v1::AcceptClockRequest>,
    ) -> Result<Response<v1::AcceptClockResponse>, Status> {
        let caller = Caller::of(&request);
        let why = edge::why(request.into_inner().reason, caller)?;
        // The node takes the time that it has recorded, whether or not the caller waits.
        let node = self.node.clone();
        let accepted = tokio::spawn(async move { node.accept_clock(why).await });
        let (index, unix_ns) =
            accepted.await.map_err(|error| Status::internal(error.to_string()))??;
        Ok(Response::new(v1::AcceptClockResponse { index, unix_ns }))
    }
}
