//! The group: who is in it, who leads it, and changing that.

use indelible_proto::v1::{
    AcceptClockRequest, AcceptRollbackRequest, AddNodeRequest, ClusterView, GetClusterRequest,
    Node, RemoveNodeRequest, TransferLeadershipRequest,
};
use tokio::time::timeout;

use crate::call::{OnUnknown, call_leader};
use crate::error::Failure;
use crate::{CallError, Client};

/// One node as asked just now.
#[derive(Debug, Clone)]
pub struct NodeStatus {
    /// Where it was asked.
    pub addr: String,
    /// Its id, if it is known at all.
    pub node_id: Option<u64>,
    /// What it sees, or why it did not answer.
    pub view: Result<ClusterView, String>,
}

impl Client {
    /// The members, as the nodes last pushed them.
    pub fn members(&self) -> Vec<Node> {
        self.table().members()
    }

    /// The leader's id and term, if one is known and connected.
    pub fn leader(&self) -> Option<(u64, u64)> {
        self.table().leader().map(|route| (route.link.node_id, route.term))
    }

    /// Waits until a leader is known and connected. Returns its id and term.
    pub async fn wait_for_leader(&self) -> (u64, u64) {
        let route = crate::call::leader(self.table()).await;
        (route.link.node_id, route.term)
    }

    /// Asks every node that is known what it sees; nodes that do not answer are in the list, with
    /// the reason.
    pub async fn status(&self) -> Vec<NodeStatus> {
        self.settle_connections().await;
        let members = self.members();
        let asked = self.table().connections().into_iter().map(|(addr, link)| {
            let member = members.iter().find(|member| member.client_addr == addr);
            let member_id = member.map(|member| member.id);
            async move {
                let link = match link {
                    Ok(link) => link,
                    Err(error) => return NodeStatus { addr, node_id: member_id, view: Err(error) },
                };
                let limit = self.options().connect_timeout;
                let answer = timeout(limit, link.cluster().get_cluster(GetClusterRequest {})).await;
                let view = match answer {
                    Err(_) => Err(Failure::TimedOut(limit).text()),
                    Ok(Err(status)) => Err(Failure::from(status).text()),
                    Ok(Ok(view)) => Ok(view.into_inner()),
                };
                NodeStatus { addr, node_id: Some(link.node_id), view }
            }
        });
        let mut nodes = futures_util::future::join_all(asked).await;
        let order = |node: &NodeStatus| {
            (node.node_id.unwrap_or(u64::MAX), node.view.is_err(), node.addr.clone())
        };
        nodes.sort_by_key(order);
        // A node that is known under two addresses is one node.
        nodes
            .dedup_by_key(|node| (node.node_id, node.node_id.is_none().then(|| node.addr.clone())));
        nodes
    }

    /// Waits until every address was tried once, or as long as one attempt takes.
    pub(crate) async fn settle_connections(&self) {
        let mut changes = self.table().subscribe();
        let settled = async {
            while !self.table().is_settled() {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        // What has not answered by then is shown as it is.
        let _ = timeout(self.options().connect_timeout, settled).await;
    }

    /// Adds a node: first as a learner, then, once it has caught up, as a voter. Returns the
    /// voters.
    ///
    /// # Errors
    /// [`CallError::Unknown`] if the connection broke meanwhile: the change may still complete.
    pub async fn add_node(&self, request: AddNodeRequest) -> Result<Vec<u64>, CallError> {
        let limit = self.options().request_timeout;
        call_leader(self.table(), limit, limit, OnUnknown::Report, |link| {
            let request = request.clone();
            async move { Ok(link.cluster().add_node(request).await?.into_inner().voters) }
        })
        .await
    }

    /// Removes a node for ever: its id is never used again. Returns the voters.
    ///
    /// # Errors
    /// [`CallError::Unknown`] if the connection broke meanwhile: the change may still complete.
    pub async fn remove_node(&self, id: u64, reason: &str) -> Result<Vec<u64>, CallError> {
        let limit = self.options().request_timeout;
        call_leader(self.table(), limit, limit, OnUnknown::Report, |link| {
            let request = RemoveNodeRequest { id, reason: reason.to_owned() };
            async move { Ok(link.cluster().remove_node(request).await?.into_inner().voters) }
        })
        .await
    }

    /// Hands leadership to a node (`None`: the most caught-up follower). Returns the new leader's
    /// id.
    ///
    /// # Errors
    /// [`CallError::Unknown`] if the connection broke meanwhile: somebody leads, but who is open.
    pub async fn transfer_leadership(
        &self,
        to: Option<u64>,
        reason: &str,
    ) -> Result<u64, CallError> {
        let limit = self.options().request_timeout;
        call_leader(self.table(), limit, limit, OnUnknown::Report, |link| {
            let to = to.unwrap_or(0);
            let request = TransferLeadershipRequest { to, reason: reason.to_owned() };
            async move {
                Ok(link.cluster().transfer_leadership(request).await?.into_inner().leader_id)
            }
        })
        .await
    }

    /// Accepts, for good, that what was signed after the trail's present end is lost, so that
    /// appends are taken again. Recorded in the trail; returns the leaf index of that record.
    ///
    /// # Errors
    /// [`CallError::Unknown`] if the connection broke meanwhile: it may have been accepted.
    pub async fn accept_rollback(&self, reason: &str) -> Result<u64, CallError> {
        let limit = self.options().request_timeout;
        call_leader(self.table(), limit, limit, OnUnknown::Report, |link| {
            let request = AcceptRollbackRequest { reason: reason.to_owned() };
            async move { Ok(link.cluster().accept_rollback(request).await?.into_inner().index) }
        })
        .await
    }

    /// Accepts the time that the nodes' clocks say, however far ahead it is of what they said
    /// before, so that appends are taken again. Recorded in the trail; returns the leaf index of
    /// that record, and the time in Unix nanoseconds.
    ///
    /// # Errors
    /// [`CallError::Unknown`] if the connection broke meanwhile: it may have been accepted.
    pub async fn accept_clock(&self, reason: &str) -> Result<(u64, u64), CallError> {
        let limit = self.options().request_timeout;
        call_leader(self.table(), limit, limit, OnUnknown::Report, |link| {
            let request = AcceptClockRequest { reason: reason.to_owned() };
            async move {
                let answer = link.cluster().accept_clock(request).await?.into_inner();
                Ok((answer.index, answer.unix_ns))
            }
        })
        .await
    }
}
