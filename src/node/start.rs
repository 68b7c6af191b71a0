//! Puts a node together, and takes it apart.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::batcher::{self, Batcher};
use super::leadership::{self, Leadership};
use super::membership::MembershipChanges;
use super::fatal::{Fatal, Stop};
use super::operations::Operations;
use super::publish::{self, OpenOptions, Opened, Publication};
use super::reads::{ReadIndexer, Reads};
use super::{NodeConfig, bootstrap, space};
use crate::raft::config::openraft_config;
use crate::raft::log_store::LogStore;
use crate::raft::membership as payload;
use crate::raft::network::Network;
use crate::raft::peers::{Introduction, Known, Peers};
use crate::raft::publication::PublicationService;
use crate::raft::service::RaftService;
use crate::raft::state_machine::StateMachine;
use crate::raft::types::{Peer, Raft};
use crate::storage::identity::Identity;
use crate::storage::ledger::Ledger;
use crate::storage::log::Log;
use crate::storage::{Storage, StorageError, StorageOptions};

/// Between two attempts of a leader with a full disk to hand over.
const HAND_OVER_AGAIN: Duration = Duration::from_secs(2);
/// How long an orderly stop waits for another leader.
const HAND_OVER: Duration = Duration::from_secs(1);

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its data directory does not allow it.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Its timeouts make no sense.
    #[error("raft configuration: {0}")]
    Timeouts(#[from] openraft::ConfigError),
    /// openraft refused.
    #[error("start raft: {0}")]
    Raft(String),
    /// The system refused a thread.
    #[error("start a thread: {0}")]
    Thread(#[from] std::io::Error),
    /// Its keys or its notes.
    #[error(transparent)]
    Publication(#[from] publish::OpenError),
    /// Its trail is not the one that the majority has.
    #[error("{0}")]
    Diverged(String),
}

/// One running node, without sockets.
pub struct Node {
    /// Who it is.
    pub identity: Identity,
    /// What it is told.
    pub config: NodeConfig,
    /// Its log.
    pub log: Log,
    /// Its ledger: what reads are served from.
    pub ledger: Ledger,
    /// Its openraft.
    pub raft: Raft,
    /// The way in for events.
    pub batcher: Batcher,
    /// What reads wait for.
    pub reads: Reads,
    /// Changing the group.
    pub membership_changes: Arc<MembershipChanges>,
    /// Who may speak.
    pub peers: Arc<Peers>,
    /// Who leads.
    pub leadership: watch::Receiver<Leadership>,
    /// Whether the disk is nearly full.
    pub read_only: watch::Receiver<bool>,
    /// Checkpoints.
    pub publication: Publication,
    /// Stops the node.
    pub stop: Stop,
    publication_service: PublicationService,
    draining: watch::Sender<bool>,
    /// Ended when the node is dropped.
    _tasks: JoinSet<()>,
}

impl Node {
    /// Opens the data directory and starts everything but the sockets. Recovery happens in here.
    pub async fn start(config: NodeConfig) -> Result<Arc<Node>, StartError> {
        let options = StorageOptions {
            cache_bytes_max: config.storage.log_cache_bytes,
            ..StorageOptions::default()
        };
        let dir = config.data_dir.clone();
        let opened = tokio::task::spawn_blocking(move || Storage::open(&dir, &options));
        let storage = opened.await.map_err(|error| StartError::Raft(error.to_string()))??;
        let Storage { identity, genesis, log, ledger, recovered } = storage;
        tracing::info!(?recovered, "storage opened");
        let (known_tx, known) = watch::channel(known_at_start(&ledger));
        let me = Introduction {
            node_id: identity.node_id,
            trail_id: identity.trail_id,
            public_key: identity.public_key,
            segment_bytes: identity.segment_bytes,
        };
        let initial = genesis_peers(&identity, genesis);
        let stop = Stop::default();
        let opened = open_publication(&config, &identity, &initial, &log, &ledger, &stop).await?;
        let peers = Arc::new(Peers::new(me, log.clone(), initial, known.clone()));
        let lease = Duration::from_millis(config.raft.election_timeout_max_ms);
        let answer_timeout = (lease * 2).max(Duration::from_secs(2));
        let network = Network::new(peers.clone(), log.clone(), answer_timeout);
        let raft = build_raft(&identity, &config, &network, &log, &ledger).await?;

        let mut tasks = JoinSet::new();
        let (leadership_tx, leadership) = watch::channel(Leadership::NoLeader);
        tasks.spawn(leadership::watch(raft.clone(), ledger.clone(), known_tx, leadership_tx));
        let reserve = config.storage.disk_reserve_bytes;
        let short = space::is_short(&config.data_dir, reserve, false);
        let (read_only_tx, read_only) = watch::channel(short);
        tasks.spawn(space::watch(config.data_dir.clone(), reserve, read_only_tx));
        let batcher = Batcher::start(batcher::Options {
            raft: raft.clone(),
            ledger: ledger.clone(),
            peers: peers.clone(),
            leadership: leadership.clone(),
            read_only: read_only.clone(),
            lease,
            commit_timeout: lease * 2 + Duration::from_secs(1),
        })?;
        let reads = Reads::start(
            ledger.clone(),
            ReadIndexer {
                raft: raft.clone(),
                network: network.clone(),
                leadership: leadership.clone(),
                known: known.clone(),
                timeout: lease.max(Duration::from_millis(500)),
            },
        );
        let operations =
            Arc::new(Operations::new(identity.node_id, &identity.public_key, batcher.clone()));
        let membership_changes = Arc::new(MembershipChanges::new(
            raft.clone(),
            ledger.clone(),
            leadership.clone(),
            operations.clone(),
        ));
        let parts = publish::Parts {
            network: network.clone(),
            known: known.clone(),
            leadership: leadership.clone(),
            reads: reads.clone(),
            operations,
            witness_every: Duration::from_millis(config.witness_interval_ms),
        };
        let (publication, handlers) = opened.start(parts, &mut tasks)?;
        let publication_service = PublicationService::new(peers.clone(), handlers);
        tasks.spawn(membership_changes.clone().finish_joint());
        tasks.spawn(hand_over_when_full(
            membership_changes.clone(),
            peers.clone(),
            read_only.clone(),
        ));
        tasks.spawn(bootstrap::greet(identity.node_id, known, peers.clone(), network.clone()));
        tasks.spawn(bootstrap::initialize(
            identity.node_id,
            raft.clone(),
            log.clone(),
            peers.clone(),
            network,
        ));
        Ok(Arc::new(Node {
            identity,
            config,
            log,
            ledger,
            raft,
            batcher,
            reads,
            membership_changes,
            peers,
            leadership,
            read_only,
            publication,
            stop,
            publication_service,
            draining: watch::Sender::new(false),
            _tasks: tasks,
        }))
    }

    /// The service for the raft port.
    pub fn raft_service(&self) -> RaftService {
        let timeout = Duration::from_millis(self.config.raft.election_timeout_max_ms);
        RaftService::new(
            self.raft.clone(),
            self.log.clone(),
            self.config.data_dir.clone(),
            self.peers.clone(),
            self.read_only.clone(),
            self.draining(),
            timeout,
        )
    }

    /// The service for the raft port that checkpoints travel by.
    pub fn publication_service(&self) -> PublicationService {
        self.publication_service.clone()
    }

    /// Whether the node is on its way out.
    pub fn draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    /// Says to everybody who asks that the node is on its way out.
    pub fn drain(&self) {
        self.draining.send_replace(true);
    }

    /// Gives leadership away, if this node has it and another one can take it: shorter than an
    /// election.
    pub async fn hand_over(&self) {
        if let Ok(Ok(leader)) =
            tokio::time::timeout(HAND_OVER, self.membership_changes.hand_over_to(|_| true)).await
        {
            tracing::info!(leader, "handed over");
        }
    }

    /// Stops openraft, then closes the ledger and the log, in this order: nothing applies after the
    /// ledger is closed.
    pub async fn stop(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::error!(%error, "raft did not stop cleanly");
        }
        let (log, ledger) = (self.log.clone(), self.ledger.clone());
        let closed = tokio::task::spawn_blocking(move || {
            ledger.close();
            log.close();
        });
        if let Err(error) = closed.await {
            tracing::error!(%error, "storage did not close cleanly");
        }
    }
}

/// Notes, keys, and what was signed, compared with what the peers hold.
async fn open_publication(
    config: &NodeConfig,
    identity: &Identity,
    genesis: &BTreeMap<u64, Peer>,
    log: &Log,
    ledger: &Ledger,
    stop: &Stop,
) -> Result<Opened, StartError> {
    let options = OpenOptions {
        data_dir: config.data_dir.clone(),
        identity: identity.clone(),
        genesis: genesis.clone(),
        log: log.clone(),
        ledger: ledger.clone(),
        witnesses: config.witnesses().expect("the configuration was checked when it was loaded"),
        stop: stop.clone(),
        finder: Arc::new(|finding| tracing::warn!(?finding, "finding")),
    };
    let opened = tokio::task::spawn_blocking(move || Opened::open(options)).await;
    let mut opened = opened.map_err(|error| StartError::Raft(error.to_string()))??;
    // MEND-N: the peers' Standing goes here.
    let compared = opened.compare(true, |_, _| async { None });
    match tokio::time::timeout(Duration::ZERO, compared).await.unwrap_or(Ok(())) {
        Ok(()) => Ok(opened),
        Err(Fatal::Diverged(why)) => Err(StartError::Diverged(why)),
        Err(Fatal::Failed(why)) => Err(StartError::Raft(why)),
    }
}

/// A leader that cannot take events makes room for one that can. Not for one whose disk is full
/// too: every hand-over is a record, and they would fill what is left. Followers with full disks
/// refuse entries themselves.
async fn hand_over_when_full(
    changes: Arc<MembershipChanges>,
    peers: Arc<Peers>,
    mut read_only: watch::Receiver<bool>,
) {
    while read_only.wait_for(|short| *short).await.is_ok() {
        match changes.hand_over_to(|id| !peers.is_read_only(id)).await {
            Ok(leader) => tracing::info!(leader, "disk nearly full: handed over"),
            Err(error) => tracing::debug!(%error, "disk nearly full, but no hand-over"),
        }
        // It may have failed, or this node may be elected again while its disk is still full.
        tokio::time::sleep(HAND_OVER_AGAIN).await;
    }
}

fn known_at_start(ledger: &Ledger) -> Known {
    let membership = ledger.membership().map(|(_, bytes)| {
        payload::decode(&bytes).expect("a membership is decoded before it is appended")
    });
    Known { membership: membership.unwrap_or_default(), node_id_max: ledger.max_node_id() }
}

fn genesis_peers(
    identity: &Identity,
    genesis: Option<crate::storage::identity::Genesis>,
) -> BTreeMap<u64, Peer> {
    let nodes = genesis.map(|genesis| genesis.nodes).unwrap_or_default();
    nodes
        .into_iter()
        .map(|node| {
            let peer = Peer {
                client_addr: node.client_addr,
                raft_addr: node.raft_addr,
                http_addr: node.http_addr,
                public_key: node.public_key,
                trail_id: identity.trail_id,
            };
            (node.id, peer)
        })
        .collect()
}

async fn build_raft(
    identity: &Identity,
    config: &NodeConfig,
    network: &Network,
    log: &Log,
    ledger: &Ledger,
) -> Result<Raft, StartError> {
    let options = Arc::new(openraft_config(identity.origin.clone(), &config.raft)?);
    let state_machine = StateMachine::new(ledger.clone(), log);
    let store = LogStore::new(log.clone());
    Raft::new(identity.node_id, options, network.clone(), store, state_machine)
        .await
        .map_err(|fatal| StartError::Raft(fatal.to_string()))
}
