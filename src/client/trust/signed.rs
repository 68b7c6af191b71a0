//! Signed notes, taken apart and held against the policy.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use indelible_core::policy::PolicyError;
use indelible_core::{Checkpoint, Note, Policy};

use super::Verification;

/// Notes that were checked lately and are not checked again: every answer under load carries one of
/// the last few.
const CHECKED_MAX: usize = 8;

/// A checkpoint, and who signed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedCheckpoint {
    /// The signed note, as it came. This is what to keep, and to show to others.
    pub note: Arc<str>,
    /// What it says.
    pub checkpoint: Checkpoint,
    /// By when enough had signed for the policy, in Unix seconds. 0 unless verified.
    pub unix_s: u64,
    /// Names of those whose signatures the policy counts and that are valid.
    pub signers: Vec<String>,
    /// Whether the policy accepts it.
    pub verification: Verification,
    /// If the policy does not accept it: which signatures it lacks.
    pub lacks: Option<String>,
}

impl SignedCheckpoint {
    /// How long ago it was signed, by this machine's clock; zero if that is behind the signers'.
    /// `None` if nobody has said when: it is not verified, or the policy asks for no cosignature.
    pub fn age(&self) -> Option<Duration> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        (self.unix_s != 0).then(|| now.saturating_sub(Duration::from_secs(self.unix_s)))
    }

    /// Whether the policy accepts it.
    pub fn is_verified(&self) -> bool {
        self.verification.is_verified()
    }
}

/// Checks notes, and remembers the last ones.
pub(crate) struct Checker {
    checked: Mutex<Checked>,
}

/// By one policy; another one has to check again.
#[derive(Default)]
struct Checked {
    policy: Option<Arc<Policy>>,
    notes: VecDeque<Arc<SignedCheckpoint>>,
}

impl Checker {
    pub(crate) fn new() -> Checker {
        Checker { checked: Mutex::default() }
    }

    /// Takes a note apart and holds it against the policy. A note that lacks signatures that the
    /// policy wants is [`Verification::Pending`]; one that nobody can have signed in good faith is
    /// an error: what is wrong with it.
    pub(crate) fn check(
        &self,
        note: &str,
        policy: Option<&Arc<Policy>>,
    ) -> Result<Arc<SignedCheckpoint>, String> {
        let mut checked = self.checked.lock().expect("nothing panics while it holds this lock");
        if checked.policy.as_ref().map(Arc::as_ptr) != policy.map(Arc::as_ptr) {
            *checked = Checked { policy: policy.cloned(), notes: VecDeque::new() };
        }
        if let Some(known) = checked.notes.iter().find(|known| *known.note == *note) {
            return Ok(known.clone());
        }
        let signed = Arc::new(take_apart(note, policy.map(Arc::as_ref))?);
        checked.notes.push_front(signed.clone());
        checked.notes.truncate(CHECKED_MAX);
        Ok(signed)
    }
}

/// As this policy sees it, whichever counts now.
pub(crate) fn by(note: &str, policy: &Policy) -> Result<Arc<SignedCheckpoint>, String> {
    take_apart(note, Some(policy)).map(Arc::new)
}

fn take_apart(text: &str, policy: Option<&Policy>) -> Result<SignedCheckpoint, String> {
    let note = Note::parse(text).map_err(|error| format!("its checkpoint: {error}"))?;
    let checkpoint =
        Checkpoint::parse(&note.text).map_err(|error| format!("its checkpoint: {error}"))?;
    let mut signed = SignedCheckpoint {
        note: text.into(),
        checkpoint,
        unix_s: 0,
        signers: Vec::new(),
        verification: Verification::Unverified,
        lacks: None,
    };
    let Some(policy) = policy else { return Ok(signed) };
    match policy.check(&note) {
        Ok(trusted) => {
            signed.verification = Verification::Verified {
                checkpoint_size: trusted.checkpoint.size,
                checkpoint_unix_s: trusted.unix_s,
            };
            signed.unix_s = trusted.unix_s;
            signed.signers = trusted.signers;
        }
        Err(error @ (PolicyError::NoLogSignature { .. } | PolicyError::Quorum { .. })) => {
            signed.verification = Verification::Pending;
            signed.lacks = Some(error.to_string());
        }
        Err(error) => {
            return Err(format!("its checkpoint of size {}: {error}", signed.checkpoint.size));
        }
    }
    Ok(signed)
}

#[cfg(test)]
pub(crate) mod tests {
    use indelible_core::Hash;

    use super::*;

    /// A checkpoint as if a policy had accepted it.
    pub(crate) fn signed(size: u64, root: Hash, unix_s: u64) -> Arc<SignedCheckpoint> {
        let checkpoint = Checkpoint::new("example.com/trail", size, root);
        Arc::new(SignedCheckpoint {
            note: checkpoint.to_string().into(),
            checkpoint,
            unix_s,
            signers: vec!["example.com/trail/node/1".into()],
            verification: Verification::Verified {
                checkpoint_size: size,
                checkpoint_unix_s: unix_s,
            },
            lacks: None,
        })
    }
}
