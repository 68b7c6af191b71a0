//! Whom a client believes, and what it has seen.
//!
//! A [`Policy`] says whose signatures make a checkpoint believable. With one, nothing is called
//! verified before it was proven to be in the tree of such a checkpoint, the checkpoint is fresh,
//! and it was proven to be of one history with every checkpoint seen before:
//!
//! * [`keys`] moves the policy on to other nodes of the group;
//! * [`signed`] takes notes apart and holds them against the policy;
//! * [`seen`] is what is known of one history, [`link`] asks the nodes to prove that more is;
//! * [`proof`] is what one record or receipt brings with it;
//! * [`rollback`] looks whether what was signed is gone, and tells the cluster;
//! * [`settle`] holds receipts against later checkpoints, in the background;
//! * [`alarm`] is where all of them say what they found, [`evidence`] what shows it.

pub(crate) mod alarm;
pub(crate) mod evidence;
mod file;
mod first_use;
mod keys;
mod link;
pub(crate) mod proof;
mod rollback;
pub(crate) mod seen;
pub(crate) mod settle;
pub(crate) mod signed;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use indelible_core::{Hash, Policy};

use crate::{CallError, Options};
use alarm::{Alarm, Board};
use evidence::Fork;
use file::{CheckpointFile, Kept};
use seen::{Seen, Standing};
use signed::{Checker, SignedCheckpoint};

pub use file::FileError;
pub use first_use::FirstUseError;

/// Whose word counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TrustMode {
    /// What [`Options::policy`] says. Without a policy nothing is believed, and every answer says
    /// that it is unverified.
    #[default]
    Policy,
    /// Whoever answers first, if there is no policy: the keys that the first node names are taken
    /// for the trail's from then on, and kept beside [`Options::checkpoint_file`] if there is one.
    /// Finds out what changes later, and nothing that was wrong from the start.
    OnFirstUse,
    /// Nobody's, even if there is a policy.
    Unverified,
}

/// How far an answer was verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verification {
    /// There is no policy: it is one node's word.
    #[default]
    Unverified,
    /// No checkpoint that the policy accepts covers it yet: it is one node's word so far.
    Pending,
    /// It is in the tree of a checkpoint that the policy accepts, which is fresh, and of one
    /// history with every other checkpoint that this client has seen.
    Verified {
        /// Leaves of that tree.
        checkpoint_size: u64,
        /// By when enough had signed, in Unix seconds; 0 if the policy asks for no time.
        checkpoint_unix_s: u64,
    },
}

impl Verification {
    /// Whether it is more than one node's word.
    pub fn is_verified(self) -> bool {
        matches!(self, Verification::Verified { .. })
    }

    /// That of two answers together.
    pub(crate) fn weaker(self, other: Verification) -> Verification {
        let rank = |verification: Verification| match verification {
            Verification::Unverified => (0, 0),
            Verification::Pending => (1, 0),
            Verification::Verified { checkpoint_size, .. } => (2, checkpoint_size),
        };
        if rank(other) < rank(self) { other } else { self }
    }

    /// Size of the checkpoint that it was verified against.
    pub fn checkpoint_size(self) -> Option<u64> {
        match self {
            Verification::Verified { checkpoint_size, .. } => Some(checkpoint_size),
            Verification::Unverified | Verification::Pending => None,
        }
    }
}

/// What one client believes. Shared by all its calls and tasks.
pub(crate) struct Trust {
    /// What the client was told; none if it pins what it sees.
    given: Option<Policy>,
    /// That, what was pinned on first use, or what became of either.
    policy: RwLock<Option<Arc<Policy>>>,
    pub(crate) following: tokio::sync::Mutex<keys::Following>,
    checkpoint_age_max: Duration,
    checker: Checker,
    seen: Mutex<Seen>,
    /// Held while a checkpoint is being linked to those seen: one at a time.
    linking: tokio::sync::Mutex<()>,
    file: Option<CheckpointFile>,
    pub(crate) alarms: Arc<Board>,
    /// Takes receipts, while there is a policy.
    pub(crate) settling: OnceLock<settle::Handle>,
}

impl Trust {
    /// Reads the checkpoint file, if there is to be one.
    pub(crate) fn new(options: &Options) -> Result<Trust, FileError> {
        let trust = Trust {
            given: options.policy.clone(),
            policy: RwLock::default(),
            following: tokio::sync::Mutex::default(),
            checkpoint_age_max: options.checkpoint_age_max,
            checker: Checker::new(),
            seen: Mutex::default(),
            linking: tokio::sync::Mutex::default(),
            file: None,
            alarms: Arc::default(),
            settling: OnceLock::new(),
        };
        if options.trust == TrustMode::Unverified {
            return Ok(trust);
        }
        let kept = options.checkpoint_file.as_deref().map(Kept::read).transpose()?.flatten();
        let policy = match (&options.policy, &kept) {
            (Some(given), Some(kept)) if kept.follows(given) => Some(kept.policy.clone()),
            (Some(given), _) => Some(given.clone()),
            (None, Some(kept)) if options.trust == TrustMode::OnFirstUse => {
                Some(kept.policy.clone())
            }
            (None, _) => None,
        };
        match policy {
            Some(policy) => trust.pin(policy),
            None if options.trust == TrustMode::Policy => return Ok(trust),
            None => {}
        }
        let Some(path) = &options.checkpoint_file else { return Ok(trust) };
        let file = CheckpointFile::new(path, options.policy.clone());
        if let Some(note) = file.read()? {
            let mut checked = trust.check(&note).map_err(|what| file.unfit(what))?;
            if let Some(lacks) = checked.lacks.clone() {
                // What another policy accepted was seen all the same: what comes has to extend it.
                let given = options.policy.as_ref();
                let kept =
                    kept.filter(|kept| given.is_some_and(|given| kept.accepts(&note, given)));
                let kept = kept.ok_or_else(|| file.unfit(lacks))?;
                checked = signed::by(&note, &kept.policy).map_err(|what| file.unfit(what))?;
            }
            trust.seen().keep(&checked);
        }
        Ok(Trust { file: Some(file), ..trust })
    }

    /// The policy from now on.
    fn pin(&self, policy: Policy) {
        self.set(Arc::new(policy));
    }

    fn set(&self, policy: Arc<Policy>) {
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = Some(policy);
    }

    /// The policy from now on, which accepts this checkpoint as the one before it does. The
    /// checkpoint is of the history that was seen. Both are
    /// remembered, in an order that leaves a file that fits the other one at any time.
    fn follow(&self, policy: Policy, checkpoint: &Arc<SignedCheckpoint>) -> Arc<Policy> {
        let policy = Arc::new(policy);
        self.seen().keep(checkpoint);
        if let Some(file) = &self.file {
            file.follow(&checkpoint.note, &policy);
        }
        self.set(policy.clone());
        policy
    }

    /// Who has to have signed.
    pub(crate) fn policy(&self) -> Option<Arc<Policy>> {
        self.policy.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes a note apart and holds it against the policy; what is wrong with it, if nobody can
    /// have signed it in good faith.
    pub(crate) fn check(&self, note: &str) -> Result<Arc<SignedCheckpoint>, String> {
        self.checker.check(note, self.policy().as_ref())
    }

    /// The newest checkpoint that was accepted.
    pub(crate) fn newest(&self) -> Option<Arc<SignedCheckpoint>> {
        self.seen().newest().cloned()
    }

    /// Whether a checkpoint that was accepted covers the first `size` leaves.
    pub(crate) fn covers(&self, size: u64) -> bool {
        self.seen().newest().is_some_and(|newest| newest.checkpoint.size >= size)
    }

    /// How a tree stands to those that were seen.
    pub(crate) fn standing(&self, size: u64, root: Hash) -> Standing {
        self.seen().standing(size, root)
    }

    /// An error if two histories were found: nothing is believed any more.
    pub(crate) fn one_history(&self) -> Result<(), CallError> {
        match self.seen().fork() {
            Some(fork) => Err(CallError::Fork(Box::new(fork.clone()))),
            None => Ok(()),
        }
    }

    /// Two histories.
    pub(crate) fn found_fork(&self, fork: Fork) -> CallError {
        if self.seen().found(&fork) {
            self.alarms.raise(Alarm::Fork(Box::new(fork.clone())));
        }
        CallError::Fork(Box::new(fork))
    }

    /// A checkpoint is of the history that was seen.
    pub(crate) fn keep(&self, checkpoint: &Arc<SignedCheckpoint>) {
        if self.seen().keep(checkpoint)
            && let Some((file, policy)) = self.file.as_ref().zip(self.policy())
        {
            file.offer(&checkpoint.note, &policy);
        }
    }

    /// A tree that nobody has signed as the policy wants is of that history too.
    pub(crate) fn link(&self, size: u64, root: Hash) {
        self.seen().link(size, root);
    }

    /// Whether a checkpoint is too old to say what the trail is now; then how old.
    pub(crate) fn too_old(&self, checkpoint: &SignedCheckpoint) -> Option<Duration> {
        checkpoint.age().filter(|age| *age > self.checkpoint_age_max)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("nothing panics while it holds this lock")
    }
}
