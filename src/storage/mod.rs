//! One node's durable state: what is on its disk, without Raft, network, clock or randomness.
//!
//! [`log`] is the truth: entries in segments ([`segment`], [`frame`]), the vote ([`hard_state`]),
//! how far all of it is durable ([`synced`]), what a start makes of it ([`recovery`]), and how
//! damage is turned back into what was written ([`mend`]). [`lineage`] has the boots of this node;
//! [`start`] refuses files of different ages by it.
//! [`ledger`] is what follows from it and can be rebuilt: the [`tree`], the [`index`]. [`identity`]
//! says whose disk it is, and [`check`] reads everything again. [`signed`] and [`notes`] remember
//! what the node has vouched for.
pub mod check;
pub mod evidence;
mod fields;
pub mod frame;
pub mod hard_state;
pub mod identity;
pub mod index;
pub mod ledger;
pub mod lineage;
pub mod log;
pub mod log_key;
pub mod mend;
pub mod notes;
pub mod recovery;
pub mod rows;
pub mod segment;
pub mod signed;
pub mod start;
pub mod synced;
pub mod tree;

use std::path::Path;

use indelible_lineage::Draw;

use crate::disk::{Dir, DirLock, DiskError};
use hard_state::HARD_STATE_FILE;
use identity::{Genesis, Identity, IdentityError};
use ledger::{Ledger, LedgerError};
use log::{Log, LogOptions, Recovered, SyncPolicy};
use notes::Notes;
use recovery::{OpenError, SEGMENTS_DIR};
use signed::SignedMarker;
use start::NewBoot;
use synced::SYNCED_FILE;

/// All that a node has on its disk.
#[derive(Debug)]
pub struct Storage {
    /// Whose disk it is.
    pub identity: Identity,
    /// With whom the trail began; none on a node that was added later.
    pub genesis: Option<Genesis>,
    /// The entries and the vote.
    pub log: Log,
    /// What follows from the committed ones.
    pub ledger: Ledger,
    /// What the start has found.
    pub recovered: Recovered,
}

/// What a node may choose about its storage; all else is in the identity.
#[derive(Debug, Clone)]
pub struct StorageOptions {
    /// Memory for entries that are durable already, in bytes.
    pub cache_bytes_max: usize,
    /// What this start has drawn at random.
    pub draw: Draw,
    /// Whether writes are made durable.
    pub sync: SyncPolicy,
}

/// Why a node cannot start on its disk.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// Identity or genesis.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The log.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The two files are of different trails.
    #[error(
        "identity is of trail {identity}, genesis of trail {genesis}; hint: one of them was copied \
         here"
    )]
    Trail {
        /// The trail in the identity.
        identity: indelible_core::TrailId,
        /// The trail in the genesis.
        genesis: indelible_core::TrailId,
    },
}

impl Storage {
    /// Opens a data directory that `indelible init` or `indelible node-key` has made.
    pub fn open(dir: &Path, options: &StorageOptions) -> Result<Storage, StorageError> {
        // Before a lock file is made where no node has ever been.
        Identity::read(dir)?;
        let lock = DirLock::acquire(dir).map_err(OpenError::from)?;
        Self::open_locked(dir, options, lock)
    }

    /// As [`Self::open`], for the one who has locked the directory already, to mend it.
    pub fn open_locked(
        dir: &Path,
        options: &StorageOptions,
        lock: DirLock,
    ) -> Result<Storage, StorageError> {
        let identity = Identity::read(dir)?;
        let genesis = Genesis::read(dir)?;
        if let Some(genesis) = &genesis
            && genesis.trail_id != identity.trail_id
        {
            let (identity, genesis) = (identity.trail_id, genesis.trail_id);
            return Err(StorageError::Trail { identity, genesis });
        }
        prepare(dir).map_err(OpenError::from)?;
        let log_options = LogOptions {
            segment_bytes: identity.segment_bytes,
            trail_id: identity.trail_id,
            cache_bytes_max: options.cache_bytes_max,
            boot: NewBoot::of(&identity, options.draw),
            first_index_any: false,
            sync: options.sync,
        };
        let (log, recovered) = Log::open_locked(dir, log_options, lock)?;
        let ledger = Ledger::open(log.clone(), dir, identity.trail_id)?;
        Ok(Storage { identity, genesis, log, ledger, recovered })
    }
}

/// Before the very first start: makes the files that say what this node has vouched for. Later they
/// are missed if they are missing.
fn prepare(dir: &Path) -> Result<(), DiskError> {
    let data = Dir::open(dir, true)?;
    let started = data.exists(HARD_STATE_FILE)? || data.exists(SYNCED_FILE)?;
    // A survey makes the folder of segments; only what is in it says that there was a log.
    let has_segments = data.exists(SEGMENTS_DIR)? && !data.subdir(SEGMENTS_DIR)?.list()?.is_empty();
    if started || has_segments {
        return Ok(());
    }
    // Crash before or after: the log has never been opened, so the next start makes both again.
    SignedMarker::create(&data, None)?;
    Notes::create(&data)
}
