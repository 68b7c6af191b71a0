//! Starting: a node greets its peers, so that it learns at once if they refuse it; and at the very
//! first start one node makes the genesis entry, after every initial voter has said that it is
//! empty too.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openraft::errors::{InitializeError, RaftError};
use tokio::sync::watch;

use crate::raft::link::LinkError;
use crate::raft::network::Network;
use crate::raft::peers::{Known, Peers};
use crate::raft::types::Raft;
use crate::storage::log::Log;

/// Between two rounds of asking.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// The same once a while has passed.
const ASK_AGAIN_MAX: Duration = Duration::from_secs(5);
/// How long one peer may take to answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// Introduces this node to every peer it knows of, until each has answered. A node that was wiped,
/// or runs on an older copy of its disk, is told so here, before it has waited for a leader that
/// will never come.
pub async fn greet(
    node_id: u64,
    known: watch::Receiver<Known>,
    peers: Arc<Peers>,
    network: Network,
) {
    let mut waiting = match known.borrow().membership.nodes().next() {
        Some(_) => {
            known.borrow().membership.nodes().map(|(id, peer)| (*id, peer.clone())).collect()
        }
        None => peers.genesis().clone(),
    };
    waiting.remove(&node_id);
    let mut pause = ASK_AGAIN;
    while !waiting.is_empty() {
        let mut silent = BTreeMap::new();
        for (id, peer) in waiting {
            // A refusal is logged, and shown by /readyz, where it is found.
            if let Err(LinkError::Unreachable { .. } | LinkError::Tls { .. }) =
                network.control(id, &peer).open(ASK_TIMEOUT).await
            {
                silent.insert(id, peer);
            }
        }
        waiting = silent;
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(ASK_AGAIN_MAX);
    }
}

/// Initializes the group if this is its lowest initial voter and nothing has happened yet. Asks
/// until all have answered.
///
/// If this node is the one that lost its disk, the others say that they are not empty, or refuse
/// it: it never gets past asking, and a second trail never begins.
///
/// The genesis entry says with which boot each founder began. This node has admitted them, durably,
/// before it writes that (docs/adr/0011, rule 7).
pub async fn initialize(node_id: u64, raft: Raft, log: Log, peers: Arc<Peers>, network: Network) {
    if peers.genesis().keys().next() != Some(&node_id) {
        return;
    }
    while log.last().is_none() {
        if all_empty(node_id, &peers, &network).await
            && let Some(founders) = peers.founders()
        {
            let voters = founders.len();
            match raft.initialize(founders).await {
                Ok(()) => tracing::info!(voters, "genesis"),
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
            Ok(open) if open.welcome().empty => {}
            Ok(open) => {
                tracing::debug!(node = id, "an initial voter is not empty: no genesis from here");
                link.close(open.serial());
                return false;
            }
            Err(LinkError::Unreachable { .. } | LinkError::Tls { .. }) => return false,
            Err(error @ LinkError::Refused { .. }) => {
                tracing::debug!(%error, "an initial voter refuses this node");
                return false;
            }
        }
    }
    true
}
