//! What the requests of one port may hold together.
//!
//! Each standing has a budget of its own: callers that have shown nothing cannot use up what
//! clients need, nor one node what the others need.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use indelible_core::limits::{
    CLIENT_BODIES_BYTES_MAX, CLIENT_STREAMED_REQUESTS_MAX, CLIENT_UNKNOWN_BODIES_BYTES_MAX,
    HANDSHAKE_BYTES_MAX, HTTP_BODIES_BYTES_MAX, RAFT_BODIES_BYTES_MAX,
    RAFT_BODIES_OF_A_NODE_BYTES_MAX, RAFT_MESSAGE_BYTES_MAX, RAFT_STREAMED_REQUESTS_MAX,
    REQUEST_BYTES_MAX,
};
use tokio::sync::Semaphore;

use super::body::{Allowance, Budget};
use super::connection::Connection;
use super::listen::PortKind;

/// The budgets of one port.
pub(super) struct Budgets {
    kind: PortKind,
    /// Paths whose request is a stream of messages.
    streamed: &'static [&'static str],
    /// Of callers that have shown who they are: clients with a certificate.
    known: Budget,
    /// Of those that have not.
    unknown: Budget,
    /// Of proven nodes, by id.
    nodes: Mutex<HashMap<u64, Budget>>,
    /// Requests of all clients that are streams.
    streams: Arc<Semaphore>,
}

impl Budgets {
    pub(super) fn new(kind: PortKind, streamed: &'static [&'static str]) -> Budgets {
        let (known, unknown) = match kind {
            PortKind::Client => (CLIENT_BODIES_BYTES_MAX, CLIENT_UNKNOWN_BODIES_BYTES_MAX),
            // On a raft port a node is known by its proof, not by its certificate.
            PortKind::Raft => (0, RAFT_BODIES_BYTES_MAX),
            PortKind::Http | PortKind::Metrics | PortKind::Probe => (0, HTTP_BODIES_BYTES_MAX),
        };
        Budgets {
            kind,
            streamed,
            known: Budget::new(known),
            unknown: Budget::new(unknown),
            nodes: Mutex::default(),
            streams: Arc::new(Semaphore::new(CLIENT_STREAMED_REQUESTS_MAX)),
        }
    }

    /// Places for the streams of a new connection.
    pub(super) fn streams(&self) -> Arc<Semaphore> {
        match self.kind {
            PortKind::Raft => Arc::new(Semaphore::new(RAFT_STREAMED_REQUESTS_MAX)),
            _ => self.streams.clone(),
        }
    }

    /// What the body of a request may be; none if it is one stream too many.
    pub(super) fn allowance(&self, connection: &Connection, path: &str) -> Option<Allowance> {
        let known = !connection.is_stranger();
        // A stream of somebody who has shown nothing is refused without a look at it.
        if self.streamed.contains(&path) && known {
            let place = connection.streams.clone().try_acquire_owned().ok()?;
            return Some(Allowance::Stream(place));
        }
        let (bytes_max, budget) = match (self.kind, connection.proven()) {
            (PortKind::Client, _) if known => (REQUEST_BYTES_MAX, self.known.clone()),
            (PortKind::Raft, Some(proven)) => {
                (RAFT_MESSAGE_BYTES_MAX + 64, self.of_node(proven.node))
            }
            _ => (HANDSHAKE_BYTES_MAX, self.unknown.clone()),
        };
        Some(Allowance::Whole { bytes_max: bytes_max as u64, budget })
    }

    /// NB: the map has at most one budget for each node that has ever proved itself to this
    /// process: only those with a certificate and a key of the trail.
    fn of_node(&self, node: u64) -> Budget {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.entry(node).or_insert_with(|| Budget::new(RAFT_BODIES_OF_A_NODE_BYTES_MAX)).clone()
    }
}
