//! Puts a node together, and takes it apart.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use indelible_core::ProducerId;
use indelible_proto::raft::StandingResponse;
use indelible_proto::reason::Rejected;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::batcher::{self, Batcher};
use super::clock::{self, Clock};
use super::fatal::{Fatal, Stop};
use super::findings::{self, Findings};
use super::hand_over::{self, HandOver};
use super::leadership::{self, Leadership};
use super::membership::{self, MembershipChanges};
use super::mend::{self, Numbers, Starting, Suspect, Suspects, Whole};
use super::operations::{NodeProducers, Operations, Why};
use super::publish::{self, OpenOptions, Opened, Publication};
use super::reads::{ReadIndexer, Reads};
use super::scrub::Scrub;
use super::{NodeConfig, bootstrap, departure, space};
use crate::net::{Credentials, CredentialsError};
use crate::raft::config::openraft_config;
use crate::raft::log_store::LogStore;
use crate::raft::mending::{AskError, Digests, Source, Standing};
use crate::raft::network::Network;
use crate::raft::peers::{Introduction, Known, Peers};
use crate::raft::publication::PublicationService;
use crate::raft::removals::Removals;
use crate::raft::service::{OwnReport, RaftService};
use crate::raft::state_machine::StateMachine;
use crate::raft::types::{Peer, Raft};
use crate::storage::identity::Identity;
use crate::storage::ledger::Ledger;
use crate::storage::log::Log;
use crate::storage::{Storage, StorageError};

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
    /// Entries are damaged here, and every peer has said that it lacks them too.
    #[error("{0}")]
    Damaged(String),
    /// Its certificates.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// Its keys or its notes.
    #[error(transparent)]
    Publication(#[from] publish::OpenError),
    /// Its trail is not the one that the majority has.
    #[error("{0}")]
    Diverged(String),
    /// It was removed from the group.
    #[error("{0}")]
    Removed(String),
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
    /// Giving leadership away.
    hand_over: HandOver,
    /// Changing the group.
    pub membership_changes: Arc<MembershipChanges>,
    /// Its certificates, and what its ports have refused.
    pub credentials: Credentials,
    /// Who may speak.
    pub peers: Arc<Peers>,
    /// Who leads.
    pub leadership: watch::Receiver<Leadership>,
    /// What time it is, as a majority says.
    pub clock: Arc<Clock>,
    /// Whether the disk is nearly full.
    pub read_only: watch::Receiver<bool>,
    /// What was found, on its way into the trail.
    pub findings: Findings,
    /// What was scrubbed and mended.
    pub mend_numbers: Arc<Numbers>,
    /// Stops the node when it must not go on.
    pub fatal: Stop,
    operations: Arc<Operations>,
    node_producers: NodeProducers,
    /// Checkpoints.
    pub publication: Publication,
    publication_service: PublicationService,
    draining: watch::Sender<bool>,
    /// Ended when the node is dropped.
    _tasks: JoinSet<()>,
    _scrub: Scrub,
}

impl Node {
    /// Opens the data directory, mends it if it is damaged, and starts everything but the sockets.
    /// Recovery happens in here. Dropping the future leaves a disk that the next start understands.
    pub async fn start(config: NodeConfig, starting: Starting) -> Result<Arc<Node>, StartError> {
        let Whole { storage, findings, numbers, members } =
            mend::open_whole(&config, &starting).await?;
        let Storage { identity, genesis, log, ledger, recovered } = storage;
        tracing::info!(?recovered, "storage opened");
        if let Some(why) = departure::is_removed(identity.node_id, &known_at_start(&ledger)) {
            return Err(StartError::Removed(why));
        }
        // Before openraft is built: it may vote from its first moment on.
        mend::compare_at_start(&log, &config, &starting, &members).await?;
        let fatal = Stop::default();
        let initial = genesis_peers(&identity, genesis);
        let storage = (&identity, &initial, &log, &ledger);
        let open = || open_publication(&config, storage, &fatal, &findings, &starting);
        let opened = match open().await {
            // It could not read its own trail, then or in the comparison.
            Err(
                error @ (StartError::Publication(publish::OpenError::Ledger(_))
                | StartError::Raft(_)),
            ) => match mend_tree(&identity, &ledger, &findings, &numbers).await {
                true => open().await?,
                false => return Err(error),
            },
            opened => opened?,
        };
        mend::raise_vote(&log).await?;
        if config.all_rolled_back {
            mend::forget_peers(&log).await?;
        }
        let (suspects, reported) = Suspects::new();
        let met = suspects.clone();
        log.on_damage(Box::new(move |segment| met.report(Suspect::of(segment))));
        let digests = Arc::new(Digests::default());
        let (known_tx, known) = watch::channel(known_at_start(&ledger));
        let me = Introduction {
            node_id: identity.node_id,
            trail_id: identity.trail_id,
            key: SigningKey::from_bytes(&identity.secret_key),
            segment_bytes: identity.segment_bytes,
            data_dir: config.data_dir.clone(),
        };
        let peers = Arc::new(Peers::new(me, log.clone(), initial, known.clone()));
        // Nodes that were all rolled back lack what they have signed, and say so themselves.
        if config.all_rolled_back {
            peers.set_rolled_back();
        } else {
            let standing = opened.standing();
            peers.set_cosigned(Arc::new(move |node| standing.cosigned_entry(node)));
        }
        let lease = Duration::from_millis(config.raft.election_timeout_max_ms);
        let answer_timeout = (lease * 2).max(Duration::from_secs(2));
        starting.mending.set_peers(peers.clone());
        let credentials = starting.credentials.clone();
        let refused = stop_when_refused(peers.clone(), fatal.clone());
        let network = Network::new(peers.clone(), credentials.clone(), log.clone(), answer_timeout);
        let (leadership_tx, leadership) = watch::channel(Leadership::NoLeader);
        // Before openraft takes the first entry: what peers are told of this log must not be older
        // than what it has acknowledged.
        serve_mending(&starting, &log, &leadership, &digests);
        let raft = build_raft(&identity, &config, &network, &log, &ledger).await?;

        let mut tasks = JoinSet::new();
        tasks.spawn(refused);
        tasks.spawn(leadership::watch(raft.clone(), ledger.clone(), known_tx, leadership_tx));
        let reserve = config.storage.disk_reserve_bytes;
        let short = space::is_short(&config.data_dir, reserve, false);
        let (read_only_tx, read_only) = watch::channel(short);
        tasks.spawn(space::watch(config.data_dir.clone(), reserve, read_only_tx));
        let clock =
            Clock::new(identity.node_id, config.clock.settings(), known.clone(), ledger.clone());
        let batcher = Batcher::start(batcher::Options {
            raft: raft.clone(),
            ledger: ledger.clone(),
            clock: clock.clone(),
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
        let parts = publish::Parts {
            network: network.clone(),
            known: known.clone(),
            leadership: leadership.clone(),
            reads: reads.clone(),
            operations: operations.clone(),
            clock: clock.clone(),
            witness_every: Duration::from_millis(config.witness_interval_ms),
        };
        let (publication, handlers) = opened.start(parts, &mut tasks)?;
        let publication_service = PublicationService::new(peers.clone(), handlers);
        let hand_over = HandOver::new(hand_over::Options {
            raft: raft.clone(),
            network: network.clone(),
            peers: peers.clone(),
            leadership: leadership.clone(),
            read_only: read_only.clone(),
            clock: clock.clone(),
            credentials: credentials.clone(),
            has_log_key: publication.log_key().is_some(),
        });
        let membership_changes = Arc::new(MembershipChanges::new(membership::Options {
            hand_over: hand_over.clone(),
            raft: raft.clone(),
            network: network.clone(),
            log: log.clone(),
            ledger: ledger.clone(),
            leadership: leadership.clone(),
            operations: operations.clone(),
            publication: publication.clone(),
        }));
        tasks.spawn(findings::run(
            findings.clone(),
            findings::Options {
                node_id: identity.node_id,
                operations: operations.clone(),
                network: network.clone(),
                leadership: leadership.clone(),
                known: known.clone(),
            },
        ));
        tasks.spawn(clock::run(
            clock.clone(),
            clock::Options {
                network: network.clone(),
                leadership: leadership.clone(),
                findings: findings.clone(),
            },
        ));
        let scrub = mend::online::start(
            mend::online::Options {
                config: config.clone(),
                log: log.clone(),
                ledger: ledger.clone(),
                asker: starting.asker(),
                known: known.clone(),
                leadership: leadership.clone(),
                findings: findings.clone(),
                numbers: numbers.clone(),
                stop: fatal.clone(),
                digests: digests.clone(),
                suspects: suspects.clone(),
            },
            reported,
            &mut tasks,
        )?;
        tasks.spawn(membership_changes.clone().finish_joint());
        tasks.spawn(hand_over.clone().run());
        tasks.spawn(departure::watch(departure::Options {
            raft: raft.clone(),
            network: network.clone(),
            peers: peers.clone(),
            known: known.clone(),
            stop: fatal.clone(),
        }));
        let node_producers = NodeProducers::new(known.clone(), peers.genesis());
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
            hand_over,
            membership_changes,
            credentials,
            peers,
            leadership,
            clock,
            read_only,
            findings,
            mend_numbers: numbers,
            fatal,
            operations,
            node_producers,
            publication,
            publication_service,
            draining: watch::Sender::new(false),
            _tasks: tasks,
            _scrub: scrub,
        }))
    }

    /// Whether a producer is a node's own: nobody else may write in its name.
    pub fn is_nodes_producer(&self, producer: &ProducerId) -> bool {
        self.node_producers.contains(producer)
    }

    /// The service for the raft port.
    pub fn raft_service(&self) -> RaftService {
        let timeout = Duration::from_millis(self.config.raft.election_timeout_max_ms);
        let clock = self.clock.clone();
        RaftService::new(
            self.raft.clone(),
            self.log.clone(),
            self.peers.clone(),
            OwnReport {
                read_only: self.read_only.clone(),
                log_key: self.publication.log_key().is_some(),
            },
            self.draining(),
            timeout,
            findings::of_peers(self.operations.clone(), self.leadership.clone()),
            Arc::new(move || clock.answer()),
        )
    }

    /// Takes a time that was held back, because an operator says that it is right. Returns the leaf
    /// of the record, and the time.
    pub async fn accept_clock(&self, why: Why) -> Result<(u64, u64), Rejected> {
        self.clock.accept(&self.operations, &self.leadership, &why).await
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
        if let Ok(Ok(leader)) = tokio::time::timeout(HAND_OVER, self.hand_over.to_next()).await {
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

/// From now on peers are answered from the open log.
fn serve_mending(
    starting: &Starting,
    log: &Log,
    leadership: &watch::Receiver<Leadership>,
    digests: &Arc<Digests>,
) {
    let (own, leadership) = (log.clone(), leadership.clone());
    let standing = move || {
        // NB: what was promised is read before the end of the log: an entry that comes in between
        // is then in it.
        let term = own.vote().map_or(0, |vote| vote.term);
        let led_term = match &*leadership.borrow() {
            Leadership::Ready(leader) | Leadership::Preparing(leader) => leader.term,
            Leadership::Follower(_) | Leadership::NoLeader => 0,
        };
        Standing {
            open: true,
            term,
            led_term,
            committed: own.committed(),
            last: own.last(),
            boot_count: own.boot().number,
            ..Standing::default()
        }
    };
    let (log, digests) = (log.clone(), digests.clone());
    let source = Source::Open { log, digests, standing: Arc::new(standing) };
    starting.mending.set_source(source);
}

/// Notes, keys, and what was signed, compared with what the peers hold.
async fn open_publication(
    config: &NodeConfig,
    (identity, genesis, log, ledger): (&Identity, &BTreeMap<u64, Peer>, &Log, &Ledger),
    stop: &Stop,
    findings: &Findings,
    starting: &Starting,
) -> Result<Opened, StartError> {
    let findings = findings.clone();
    let options = OpenOptions {
        data_dir: config.data_dir.clone(),
        identity: identity.clone(),
        genesis: genesis.clone(),
        log: log.clone(),
        ledger: ledger.clone(),
        witnesses: config.witnesses().expect("the configuration was checked when it was loaded"),
        stop: stop.clone(),
        finder: Arc::new(move |finding| findings.record(finding)),
    };
    let opened = tokio::task::spawn_blocking(move || Opened::open(options)).await;
    let mut opened = opened.map_err(|error| StartError::Raft(error.to_string()))??;
    // Before the comparison: the peers may be starting too, and wait for this node's notes.
    let standing = opened.standing();
    starting.mending.set_note(Arc::new(move |asker, answer: &mut StandingResponse| {
        standing.standing(asker).fill(answer);
    }));
    let asker = starting.asker();
    let known = leadership::applied(ledger);
    let voters: BTreeSet<u64> = match known.voter_ids().next() {
        Some(_) => known.voter_ids().collect(),
        None => genesis.keys().copied().collect(),
    };
    let removals = Removals::default();
    let ask = |id: u64, peer: Peer| {
        let (asker, removals) = (asker.clone(), &removals);
        async move {
            let answer = asker.standing_and_notes(id, &peer.raft_addr).await;
            if let Err(AskError::Removed(_)) = &answer {
                removals.heard(id);
            }
            answer.ok()
        }
    };
    let compared = tokio::select! {
        compared = opened.compare(config.all_rolled_back, ask) => compared,
        why = departure::removed_by(identity.node_id, &removals, &voters) => {
            Err(Fatal::Removed(why))
        }
    };
    match compared {
        Ok(()) => Ok(opened),
        Err(Fatal::Diverged(why)) => Err(StartError::Diverged(why)),
        Err(Fatal::Removed(why)) => Err(StartError::Removed(why)),
        Err(Fatal::Failed(why)) => Err(StartError::Raft(why)),
    }
}

/// Tree files that keep a node from reading its own keys and roots are mended before it starts;
/// true if they were damaged and are whole again. The scrub would mend them otherwise.
async fn mend_tree(
    identity: &Identity,
    ledger: &Ledger,
    findings: &Findings,
    numbers: &Numbers,
) -> bool {
    let ledger = ledger.clone();
    match tokio::task::spawn_blocking(move || ledger.scrub_tree(&mut |_| {})).await {
        Ok(Ok(Some(mended))) => {
            numbers.tree_mended(findings, identity.node_id, &mended);
            return true;
        }
        Ok(Ok(None)) => {}
        Ok(Err(error)) => tracing::error!(%error, "the tree files cannot be mended"),
        Err(error) => tracing::error!(%error, "the scrub of the tree files did not end"),
    }
    false
}

/// A peer has shown that this disk is not the newest of this node.
async fn stop_when_refused(peers: Arc<Peers>, stop: Stop) {
    stop.stop(Fatal::Diverged(peers.refused_for_good().await));
}

fn known_at_start(ledger: &Ledger) -> Known {
    let applied = leadership::applied(ledger);
    let id_max = ledger.max_node_id();
    Known { membership: applied.clone(), applied, applied_id_max: id_max, node_id_max: id_max }
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
                boot: None,
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
