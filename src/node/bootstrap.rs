//! The very first start: one node makes the genesis entry, after every initial voter has said that it is empty too.

use std::sync::Arc;
use std::time::Duration;

use openraft::errors::{InitializeError, RaftError};

use crate::raft::link::LinkError;
use crate::raft::network::Network;
use crate::raft::peers::Peers;
use crate::raft::types::Raft;
use crate::storage::log::Log;

/// Between two rounds of asking.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// How long one peer may take to answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// Initializes the group if this is its lowest initial voter and nothing has happened yet. Asks until all have answered.
///
/// If this node is the one that lost its disk, the others say that they are not empty, or refuse it: it never gets past
/// asking, and a second trail never begins.
pub async fn initialize(node_id: u64, raft: Raft, log: Log, peers: Arc<Peers>, network: Network) {
    let genesis = peers.genesis().clone();
    if genesis.keys().next() != Some(&node_id) {
        return;
    }
    while log.last().is_none() {
        if all_empty(node_id, &peers, &network).await {
            match raft.initialize(genesis.clone()).await {
                Ok(()) => tracing::info!(voters = genesis.len(), "genesis"),
                Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
                Err(error) => tracing::error!(%error, "genesis failed"),
            }
            return;
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

async fn all_empty(node_id: u64, peers: &Peers, network: &Network) -> bool {
    for (id, peer) in peers.genesis() {
        if *id == node_id {
            continue;
        }
        let link = network.control(*id, peer);
        match link.open(ASK_TIMEOUT).await {
            Ok(open) if open.welcome.empty => {}
            Ok(_) => {
                tracing::warn!(node = id, "an initial voter is not empty: no genesis from here");
                link.close().await;
                return false;
            }
            Err(LinkError::Unreachable { .. }) => return false,
            Err(error @ LinkError::Refused { .. }) => {
                tracing::warn!(%error, "an initial voter refuses this node");
                return false;
            }
        }
    }
    true
}
