//! Mending: making this node's log whole again with what its peers have.
//!
//! At start (`whole`), before openraft is built: survey, ask, rebuild, until the log opens. While
//! the node runs ([`online`]): what the scrub or a read has found. In both cases storage decides
//! what fits (`crate::storage::mend`), `supply` asks the peers, and `decide` says whose word
//! counts where the end of the log is damaged. `compare` finds a log that is whole and not the
//! majority's. docs/adr/0007 says why all of this is safe.

mod compare;
mod decide;
mod members;
mod numbers;
pub mod online;
mod place;
mod reader;
mod supply;
#[cfg(test)]
mod tests;
mod whole;

use std::sync::Arc;

use indelible_core::limits::DAMAGES_MAX;
use tokio::sync::{mpsc, watch};

use super::{NodeConfig, StartError};
use crate::net::Credentials;
use crate::raft::mending::{Asker, Mending};
use crate::storage::StorageError;
use crate::storage::identity::Identity;

pub use numbers::{Count, Numbers};
pub use online::compare_at_start;
pub use whole::{Whole, forget_peers, open_whole, raise_vote};

/// A node that has begun to start: who it is, and what it says to others until it runs.
pub struct Starting {
    /// Who it is.
    pub identity: Identity,
    /// Its certificates.
    pub credentials: Credentials,
    /// What peers are answered.
    pub mending: Mending,
    doing: watch::Sender<String>,
}

impl Starting {
    /// Reads the identity and the certificates, and nothing else.
    pub fn new(config: &NodeConfig) -> Result<Starting, StartError> {
        let identity = Identity::read(&config.data_dir).map_err(StorageError::from)?;
        let (trail, id) = (identity.trail_id, identity.node_id);
        let credentials = Credentials::load(&config.tls, &config.data_dir, trail, id)?;
        let mending = Mending::new(trail, id);
        let doing = watch::Sender::new("starting".into());
        Ok(Starting { identity, credentials, mending, doing })
    }

    /// What the node is doing, for people.
    pub fn doing(&self) -> watch::Receiver<String> {
        self.doing.subscribe()
    }

    /// For questions to peers in this node's name.
    pub fn asker(&self) -> Asker {
        let (trail_id, node_id) = (self.identity.trail_id, self.identity.node_id);
        Asker { trail_id, node_id, credentials: self.credentials.clone() }
    }

    fn does(&self, what: &str) {
        self.doing.send_if_modified(|doing| {
            let changed = doing != what;
            if changed {
                tracing::info!("{what}");
                what.clone_into(doing);
            }
            changed
        });
    }
}

/// Where damage is reported to, from any thread. Never waits. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Suspects(mpsc::Sender<Suspect>);

/// A place that looks damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Suspect {
    /// The segment that starts with this entry.
    Segment(u64),
    /// Some record does not fit the tree, or cannot be found: which file is damaged is not known.
    Somewhere,
}

impl Suspect {
    /// The segment that starts with this entry; none: it is not known which.
    pub fn of(segment: Option<u64>) -> Suspect {
        segment.map_or(Suspect::Somewhere, Suspect::Segment)
    }
}

impl Suspects {
    /// A way to report, and where the reports arrive.
    pub fn new() -> (Suspects, mpsc::Receiver<Suspect>) {
        let (reports, received) = mpsc::channel(DAMAGES_MAX);
        (Suspects(reports), received)
    }

    /// Reports a place. If too many wait it is dropped: the next scrub finds it again.
    pub fn report(&self, suspect: Suspect) {
        let _ = self.0.try_send(suspect);
    }
}

/// Shared by everything that counts.
type SharedNumbers = Arc<Numbers>;
