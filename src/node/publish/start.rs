//! Putting publication together, in two halves: what is opened and compared before the node may
//! vote, and what runs once it does.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use indelible_core::key::KeyError;
use indelible_core::{KeyType, SignerKey, VerifierKey, node_key_name};
use indelible_proto::raft as pb;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Publication;
use super::answers::Answers;
use super::cosigner::{self, Cosigner};
use super::electorate::Electorates;
use super::notebook::{self, Notebook};
use super::publisher::Publisher;
use super::rollback::Rollback;
use super::shared::{Finder, Shared};
use super::spread::Spread;
use super::standing::{Comparison, StandingProvider};
use super::waiters::Waiters;
use super::witness::{WitnessFigures, Witnesses};
use crate::node::clock::Clock;
use crate::node::fatal::{Fatal, Stop};
use crate::node::leadership::Leadership;
use crate::node::operations::Operations;
use crate::node::reads::Reads;
use crate::raft::network::Network;
use crate::raft::peers::Known;
use crate::raft::publication::Handlers;
use crate::raft::types::Peer;
use crate::storage::identity::Identity;
use crate::storage::ledger::{Ledger, LedgerError};
use crate::storage::log::Log;
use crate::storage::log_key::{self, LogKeyError};
use crate::storage::notes::NotesError;
use crate::storage::signed::{SignedError, SignedMarker};

/// Why publication could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The node's own key, or its name, is none.
    #[error("this node's key: {0}")]
    Key(#[from] KeyError),
    /// The log key's file.
    #[error(transparent)]
    LogKey(#[from] LogKeyError),
    /// The notes' file.
    #[error(transparent)]
    Notes(#[from] NotesError),
    /// The marker's file.
    #[error(transparent)]
    Signed(#[from] SignedError),
    /// The trail.
    #[error("read the keys of the trail: {0}")]
    Ledger(#[from] LedgerError),
    /// The system refused a thread.
    #[error("start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// What is needed to open it.
pub struct OpenOptions {
    /// The data directory.
    pub data_dir: PathBuf,
    /// Who this node is.
    pub identity: Identity,
    /// The initial voters; empty on a node that was added later.
    pub genesis: BTreeMap<u64, Peer>,
    /// This node's log.
    pub log: Log,
    /// This node's ledger.
    pub ledger: Ledger,
    /// Name, key and submission prefix of each witness of the configuration.
    pub witnesses: Vec<(String, VerifierKey, String)>,
    /// Stops the node.
    pub stop: Stop,
    /// Takes findings for the trail.
    pub finder: Finder,
}

/// The first half: notes, keys, and the memory of what was signed.
pub struct Opened {
    data_dir: PathBuf,
    node_id: u64,
    origin: String,
    key: SignerKey,
    log_key: Option<SignerKey>,
    log: Log,
    ledger: Ledger,
    electorates: Arc<Electorates>,
    notebook: notebook::Handle,
    shared: Arc<Shared>,
    witnesses: Vec<(String, VerifierKey, String)>,
    /// None if the file is missing or damaged, until the peers have said what it should hold.
    marker: Option<SignedMarker>,
}

/// What the second half needs of the running node.
pub struct Parts {
    /// For talking to peers.
    pub network: Network,
    /// Where they are.
    pub known: watch::Receiver<Known>,
    /// Who leads.
    pub leadership: watch::Receiver<Leadership>,
    /// For asking a majority whether this node leads.
    pub reads: Reads,
    /// For the record of an accepted rollback.
    pub operations: Arc<Operations>,
    /// Told of the time of each witness's signature.
    pub clock: Arc<Clock>,
    /// Between two turns of the witnesses.
    pub witness_every: Duration,
}

impl Opened {
    /// Opens the files and starts the thread that owns the notes. Blocks. If the notes contradict
    /// the trail, the node is told to stop.
    pub fn open(options: OpenOptions) -> Result<Opened, OpenError> {
        let OpenOptions { data_dir, identity, genesis, log, ledger, witnesses, stop, finder } =
            options;
        let Identity { node_id, origin, secret_key, .. } = identity;
        let name = node_key_name(&origin, node_id);
        let key = SignerKey::new(name, KeyType::Cosigner, *secret_key)?;
        let log_key = log_key::read(&data_dir, &origin)?;
        let verifier = log_key.as_ref().map(|key| key.verifier().clone());
        let electorates = Electorates::new(ledger.clone(), &origin, verifier, &genesis);
        let electorates = Arc::new(electorates);
        // Walks over the index once, so that the first round need not.
        electorates.newest()?;
        let shared = Arc::new(Shared::new(data_dir.clone(), stop, finder));
        // Nobody has signed or kept anything yet; or the disk was wiped, which the peers know.
        let is_new = log.last().is_none() && log.boot().number <= 1;
        let keys = witnesses.iter().map(|(_, key, _)| key.clone()).collect();
        let notes = notebook::open_notes(&data_dir, is_new)?;
        let notebook =
            Notebook::new(notes, ledger.clone(), electorates.clone(), keys, shared.clone())?;
        let notebook = notebook::Handle::start(notebook)?;
        let marker = match SignedMarker::open(&data_dir) {
            Ok(marker) => Some(marker),
            Err(SignedError::Missing { .. }) if is_new => {
                Some(SignedMarker::restore(&data_dir, None)?)
            }
            Err(error @ (SignedError::Missing { .. } | SignedError::Damaged { .. })) => {
                tracing::error!(%error, "nothing is signed before the peers have said what was");
                None
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Opened {
            data_dir,
            node_id,
            origin,
            key,
            log_key,
            log,
            ledger,
            electorates,
            notebook,
            shared,
            witnesses,
            marker,
        })
    }

    /// What peers are told about this node's notes.
    pub fn standing(&self) -> StandingProvider {
        StandingProvider { ledger: self.ledger.clone(), shared: self.shared.clone() }
    }

    /// Compares this node's disk with the notes of its peers; must be done before it votes. Waits
    /// for a majority of the voters. `ask` gives what a peer says of itself, once it can.
    pub async fn compare<F>(
        &mut self,
        all_rolled_back: bool,
        ask: impl Fn(u64, Peer) -> F,
    ) -> Result<(), Fatal>
    where
        F: Future<Output = Option<pb::StandingResponse>>,
    {
        let stopped = self.shared.fatal.borrow().clone();
        if let Some(fatal) = stopped {
            return Err(fatal);
        }
        let comparison = Comparison {
            node_id: self.node_id,
            key: self.key.verifier().clone(),
            log: self.log.clone(),
            ledger: self.ledger.clone(),
            electorates: self.electorates.clone(),
            notebook: self.notebook.clone(),
            shared: self.shared.clone(),
            remembered: self.marker.as_ref().map(SignedMarker::last),
            all_rolled_back,
            clock: cosigner::unix_s,
        };
        let compared = comparison.run(ask).await?;
        let failed = |error: SignedError| Fatal::Failed(error.to_string());
        if let Some(size) = compared.older {
            let kept = self.notebook.run(move |notebook| notebook.lost(size)).await;
            if kept != Some(true) {
                return Err(self.shared.why_stopped());
            }
            // Crash before: appends are refused from the next start on, whatever else it finds.
            let head = *self.ledger.head().borrow();
            let last = (head.tree_size > 0).then_some((head.tree_size, head.root));
            self.marker = Some(SignedMarker::restore(&self.data_dir, last).map_err(failed)?);
            let lost = self.shared.beyond.borrow().clone();
            if let Some(lost) = lost {
                self.notebook.run(move |notebook| notebook.rolled_back(lost)).await;
            }
            return Ok(());
        }
        match (&mut self.marker, compared.last_signed) {
            (Some(marker), Some((size, root))) if marker.last().is_none_or(|(l, _)| l < size) => {
                tracing::warn!(size, "the marker was older than this node's newest signature");
                marker.save(size, root).map_err(failed)
            }
            (Some(_), _) => Ok(()),
            (None, last) => {
                tracing::warn!(?last, "the marker of signatures was made anew");
                let marker = SignedMarker::restore(&self.data_dir, last).map_err(failed)?;
                self.marker = Some(marker);
                Ok(())
            }
        }
    }

    /// Starts everything else. What is returned beside the handle: what the raft port answers, and
    /// tasks that end with the node.
    ///
    /// Panics if [`Self::compare`] has not succeeded.
    pub fn start(
        self,
        parts: Parts,
        tasks: &mut JoinSet<()>,
    ) -> std::io::Result<(Publication, Handlers)> {
        let marker = self.marker.expect("the comparison restores the marker");
        let Parts { network, known, leadership, reads, operations, clock, witness_every } = parts;
        let (notebook, shared, ledger) = (self.notebook, self.shared, self.ledger);
        let log_key = self.log_key.as_ref().map(|key| key.verifier().clone());
        let cosigner = Cosigner {
            node_id: self.node_id,
            origin: self.origin.clone(),
            key: self.key,
            dir: self.data_dir,
            log: self.log,
            ledger: ledger.clone(),
            marker,
            is_undecided: false,
            shared: shared.clone(),
        };
        let cosigner = cosigner::Handle::start(cosigner)?;
        let waiters = Waiters::new();
        let publisher = Publisher {
            node_id: self.node_id,
            origin: self.origin,
            log_key: self.log_key,
            ledger: ledger.clone(),
            network: network.clone(),
            electorates: self.electorates,
            cosigner: cosigner.clone(),
            notebook: notebook.clone(),
            shared: shared.clone(),
            leadership: leadership.clone(),
            waiters: waiters.subscribe(),
        };
        tasks.spawn(publisher.run());
        let spread = Spread {
            node_id: self.node_id,
            network: network.clone(),
            notebook: notebook.clone(),
            shared: shared.clone(),
            leadership: leadership.clone(),
        };
        tasks.spawn(spread.run(known.clone()));
        let rollback = Rollback {
            network,
            known,
            leadership: leadership.clone(),
            reads: reads.clone(),
            operations,
            cosigner: cosigner.clone(),
            notebook: notebook.clone(),
            shared: shared.clone(),
        };
        tasks.spawn(rollback.clone().watch());
        tasks.spawn(rollback.clone().settle(ledger.head()));
        let figures: Arc<[Arc<WitnessFigures>]> =
            self.witnesses.iter().map(|(name, ..)| Arc::new(WitnessFigures::new(name))).collect();
        if !self.witnesses.is_empty() {
            let witnesses = Witnesses::new(
                self.witnesses,
                witness_every,
                ledger.clone(),
                reads,
                notebook.clone(),
                shared.clone(),
                leadership,
                clock,
                &figures,
            );
            tasks.spawn(witnesses.run());
        }
        let answers = Answers {
            ledger,
            cosigner,
            notebook,
            rollback: rollback.clone(),
            shared: shared.clone(),
        };
        let publication = Publication { shared, rollback, waiters, witnesses: figures, log_key };
        Ok((publication, answers.handlers()))
    }
}
