//! Acknowledgement levels above "durable": an append waits for a checkpoint that covers it, and gets
//! the proof with its receipt.
//!
//! Whoever waits shares the wait: one round of cosigning serves all appends before it. An event
//! that is recorded is never answered with an error because its proof is late.

use std::sync::Arc;
use std::time::Duration;

use indelible_core::leaf::LEAF_SIZE;
use indelible_core::limits::PROOF_WAIT_MS_MAX;
use indelible_proto::reason::Rejected;
use indelible_proto::v1;

use super::edge::invalid;
use super::proofs::range_proof;
use crate::node::Node;
use crate::node::batcher::Appended;
use crate::node::publish::Published;
use crate::storage::ledger::{Ledger, LedgerError};

/// How long an append waits for its proof unless it says otherwise.
const WAIT: Duration = Duration::from_secs(5);
/// Leaves from which on proofs are made off the runtime's threads: hashing them takes longer than
/// the hop.
const INLINE_LEAVES_MAX: usize = 128;

/// What an append asks for beyond being durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    witnessed: bool,
    wait: Duration,
}

impl Wanted {
    /// None if being durable is enough.
    pub(super) fn of(request: &v1::AppendRequest) -> Result<Option<Wanted>, Rejected> {
        let ms = request.proof_wait_ms;
        if ms > PROOF_WAIT_MS_MAX {
            let message = format!(
                "proof_wait_ms {ms}, the limit is {PROOF_WAIT_MS_MAX}; hint: get the proof later"
            );
            return Err(invalid(message));
        }
        let wait = if ms == 0 { WAIT } else { Duration::from_millis(ms.into()) };
        match v1::AckLevel::try_from(request.ack) {
            Ok(v1::AckLevel::Unspecified | v1::AckLevel::Durable) => Ok(None),
            Ok(v1::AckLevel::Proven) => Ok(Some(Wanted { witnessed: false, wait })),
            Ok(v1::AckLevel::Witnessed) => Ok(Some(Wanted { witnessed: true, wait })),
            Err(_) => Err(invalid(format!("ack {} is no acknowledgement level", request.ack))),
        }
    }
}

/// A level that was reached, and what shows it.
pub(super) struct Proof {
    pub(super) ack: v1::AckLevel,
    pub(super) checkpoint: String,
    pub(super) proofs: Vec<v1::RangeProof>,
}

impl Proof {
    /// Recorded, and no more than that can be shown yet.
    pub(super) fn none() -> Proof {
        Proof { ack: v1::AckLevel::Durable, checkpoint: String::new(), proofs: Vec::new() }
    }
}

/// Waits for what was asked, and takes the best there is when the time is up.
pub(super) async fn prove(node: &Node, appended: &Appended, wanted: Wanted) -> Proof {
    let runs = appended.runs.iter();
    let size = runs.map(|run| run.first_leaf + u64::from(run.count)).max().unwrap_or(0);
    let publication = &node.publication;
    let found = publication.wait(size, wanted.witnessed, wanted.wait).await;
    let (ack, published) = match found {
        Some(found) if wanted.witnessed => (v1::AckLevel::Witnessed, found),
        Some(found) => (v1::AckLevel::Proven, found),
        None => match publication.newest().filter(|newest| newest.checkpoint.size >= size) {
            Some(newest) => (v1::AckLevel::Proven, newest),
            None => return Proof::none(),
        },
    };
    let proofs = if appended.leaves.len() <= INLINE_LEAVES_MAX * LEAF_SIZE {
        proofs(&node.ledger, appended, &published)
    } else {
        let (ledger, appended, published) =
            (node.ledger.clone(), appended.clone(), published.clone());
        let made = tokio::task::spawn_blocking(move || proofs(&ledger, &appended, &published));
        // A task that panicked takes the process with it.
        made.await.unwrap_or(Err(LedgerError::Closed))
    };
    match proofs {
        Ok(proofs) => Proof { ack, checkpoint: published.note.clone(), proofs },
        // The events are recorded; that they cannot be proven here is for a person to look at.
        Err(error) => {
            tracing::error!(%error, "cannot prove what was just appended");
            Proof::none()
        }
    }
}

/// One proof for each run.
fn proofs(
    ledger: &Ledger,
    appended: &Appended,
    published: &Arc<Published>,
) -> Result<Vec<v1::RangeProof>, LedgerError> {
    let mut leaves = &appended.leaves[..];
    let mut proofs = Vec::with_capacity(appended.runs.len());
    for run in &appended.runs {
        let of_run;
        (of_run, leaves) = leaves.split_at(run.count as usize * LEAF_SIZE);
        let checkpoint = &published.checkpoint;
        let proof =
            ledger.prove_leaves(run.first_leaf, of_run, checkpoint.size, &checkpoint.root)?;
        proofs.push(range_proof(proof));
    }
    Ok(proofs)
}
