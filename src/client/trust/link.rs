//! Whether a tree is of one history with those seen before. A node has to prove it, any node may,
//! and the proof is checked here.

use std::sync::Arc;

use indelible_core::Hash;
use indelible_core::merkle;
use indelible_proto::v1::{ProveConsistencyRequest, ProveConsistencyResponse};
use indelible_proto::{Reason, Rejected};
use tokio::time::timeout;

use super::Verification;
use super::evidence::{Evidence, Fork, hex_list};
use super::seen::Standing;
use super::signed::SignedCheckpoint;
use crate::error::{Failure, Fault};
use crate::table::Link;
use crate::{CallError, CheckpointOptions, Client};

/// What one node's answer to the question for a consistency proof means.
enum Answer {
    /// The older tree is a prefix of the newer one.
    Proven,
    /// The newer tree has another prefix of that size: shown by its own root.
    OtherPrefix(Evidence),
    /// Another root for the newer tree, of which the older one is a prefix or not.
    OtherTree(String, Evidence),
    /// The node contradicts itself.
    Lie(String, Evidence),
    /// The node does not have a tree of that size yet.
    Behind,
    /// No answer, or none that says anything.
    Failed(String),
}

impl Client {
    /// How far leaves below `to` are to be believed that a node has proven against this checkpoint.
    pub(crate) async fn believe(
        &self,
        link: &Link,
        checkpoint: &Arc<SignedCheckpoint>,
        to: u64,
    ) -> Result<Verification, Fault> {
        let trust = self.trust();
        trust.one_history().map_err(Fault::Final)?;
        if trust.policy().is_none() {
            return Ok(Verification::Unverified);
        }
        if checkpoint.is_verified() {
            self.link_fresh(link, checkpoint).await?;
            return Ok(checkpoint.verification);
        }
        // The policy wants more than this note carries, such as a witness: by way of one that has
        // it.
        let Some(anchor) = self.anchor(to).await? else { return Ok(Verification::Pending) };
        self.link_to_seen(Some(link), checkpoint).await?;
        let covers = anchor.checkpoint.size >= to;
        Ok(if covers { anchor.verification } else { Verification::Pending })
    }

    /// Links a checkpoint that the policy accepts, unless it is too old to say anything about now.
    pub(crate) async fn link_fresh(
        &self,
        link: &Link,
        checkpoint: &Arc<SignedCheckpoint>,
    ) -> Result<(), Fault> {
        if let Some(age) = self.trust().too_old(checkpoint) {
            let (size, age_max) = (checkpoint.checkpoint.size, self.options().checkpoint_age_max);
            return Err(Fault::Unproven(CallError::StaleCheckpoint { size, age, age_max }));
        }
        self.link_to_seen(Some(link), checkpoint).await?;
        self.follow_named(checkpoint).await;
        Ok(())
    }

    /// The newest checkpoint that the policy accepts, if there is one that is fresh. Asks for a
    /// witnessed one if what is there does not cover the first `size` leaves.
    async fn anchor(&self, size: u64) -> Result<Option<Arc<SignedCheckpoint>>, Fault> {
        let fresh =
            || self.trust().newest().filter(|newest| self.trust().too_old(newest).is_none());
        if let Some(newest) = fresh()
            && newest.checkpoint.size >= size
        {
            return Ok(Some(newest));
        }
        let options = CheckpointOptions { witnessed: true, ..CheckpointOptions::default() };
        match Box::pin(self.checkpoint(options)).await {
            Err(error @ (CallError::Fork(_) | CallError::RolledBack(_))) => {
                Err(Fault::Final(error))
            }
            // Without it, nothing is verified; that is no reason not to answer.
            Ok(_) | Err(_) => Ok(fresh()),
        }
    }

    /// Proves that a tree is of one history with what was seen, and keeps it. `asked`: who named
    /// it.
    pub(crate) async fn link_to_seen(
        &self,
        asked: Option<&Link>,
        head: &Arc<SignedCheckpoint>,
    ) -> Result<(), Fault> {
        let trust = self.trust();
        let (size, root) = (head.checkpoint.size, head.checkpoint.root);
        if trust.standing(size, root) == Standing::Known {
            self.is_not_signed_backwards(head).await?;
            self.keep(head);
            return Ok(());
        }
        let _one_at_a_time = trust.linking.lock().await;
        trust.one_history().map_err(Fault::Final)?;
        let (older, newer) = match trust.standing(size, root) {
            Standing::Known | Standing::First => {
                self.keep(head);
                return Ok(());
            }
            Standing::Conflict(seen) => return Err(self.conflict(&seen, head)),
            Standing::Newer(seen) => (seen, head.clone()),
            Standing::Older(seen) => (head.clone(), seen),
        };
        self.prove_link(asked, head, &older, &newer).await?;
        self.keep(head);
        Ok(())
    }

    /// No node signs a smaller tree after a larger one. If it looks as if they had, the clocks are
    /// not in step, or the larger tree is gone.
    async fn is_not_signed_backwards(&self, head: &Arc<SignedCheckpoint>) -> Result<(), Fault> {
        let is_backwards = |newest: &Arc<SignedCheckpoint>| {
            head.checkpoint.size < newest.checkpoint.size && head.unix_s > newest.unix_s
        };
        let Some(newest) = self.trust().newest().filter(is_backwards) else { return Ok(()) };
        match self.look_for_rollback(&newest).await {
            Some(rolled_back) => Err(Fault::Final(CallError::RolledBack(Box::new(rolled_back)))),
            None => Ok(()),
        }
    }

    fn keep(&self, head: &Arc<SignedCheckpoint>) {
        if head.is_verified() {
            self.trust().keep(head);
        } else {
            self.trust().link(head.checkpoint.size, head.checkpoint.root);
        }
    }

    /// Another root for a size that is known.
    fn conflict(&self, seen: &Arc<SignedCheckpoint>, head: &Arc<SignedCheckpoint>) -> Fault {
        let (size, root) = (head.checkpoint.size, head.checkpoint.root);
        let answer = match seen.checkpoint.size == size {
            true => format!("two roots for size {size}"),
            false => format!(
                "root {root} for size {size}; it was proven before that the checkpoint of size {} \
                 extends another tree of that size",
                seen.checkpoint.size
            ),
        };
        self.contradiction(seen, head, Evidence::new([&seen.note, &head.note], answer))
    }

    /// Two histories if both are signed as the policy wants; otherwise a lie of whoever named it.
    fn contradiction(
        &self,
        ours: &Arc<SignedCheckpoint>,
        theirs: &Arc<SignedCheckpoint>,
        evidence: Evidence,
    ) -> Fault {
        if ours.is_verified() && theirs.is_verified() {
            let (ours, theirs) = (ours.clone(), theirs.clone());
            return Fault::Final(self.trust().found_fork(Fork { ours, theirs, evidence }));
        }
        let what = format!(
            "its tree of size {} is not of one history with the signed checkpoint of size {}",
            theirs.checkpoint.size, ours.checkpoint.size
        );
        Fault::Lie(what, evidence)
    }

    /// Asks one node after the other to prove it, whoever named the tree first.
    async fn prove_link(
        &self,
        asked: Option<&Link>,
        head: &Arc<SignedCheckpoint>,
        older: &Arc<SignedCheckpoint>,
        newer: &Arc<SignedCheckpoint>,
    ) -> Result<(), Fault> {
        let mut others = self.table().links();
        others.retain(|link| asked.is_none_or(|asked| asked.node_id != link.node_id));
        let both_signed = newer.is_verified() && older.is_verified();
        let mut is_behind = false;
        let mut last = "no other node is connected".to_owned();
        let mut other_trees = Vec::new();
        for link in asked.into_iter().chain(&others) {
            let is_asked = asked.is_some_and(|asked| asked.node_id == link.node_id);
            match self.ask_consistency(link, older, newer).await {
                Answer::Proven => return self.accuse_all(asked, other_trees),
                Answer::OtherPrefix(evidence) => {
                    let ours = if Arc::ptr_eq(head, newer) { older } else { newer };
                    return Err(self.contradiction(ours, head, evidence));
                }
                // It may be honest, and the other history the forged one: whether there are two,
                // a node that has the newer tree knows.
                Answer::OtherTree(what, evidence) if both_signed => {
                    last = what.clone();
                    other_trees.push((link, what, evidence));
                }
                Answer::Lie(what, evidence) | Answer::OtherTree(what, evidence) if is_asked => {
                    return Err(Fault::Lie(what, evidence));
                }
                // What nobody has signed may be the lie of whoever named it.
                Answer::Lie(what, evidence) if both_signed => {
                    last = self.accuse(link, what, evidence).to_string();
                }
                Answer::Lie(what, _) | Answer::OtherTree(what, _) => last = what,
                Answer::Behind => is_behind = true,
                Answer::Failed(what) => last = what,
            }
        }
        if is_behind && newer.is_verified() {
            if let Some(rolled_back) = self.look_for_rollback(newer).await {
                return Err(Fault::Final(CallError::RolledBack(Box::new(rolled_back))));
            }
            last = format!("no node has a tree of size {} now", newer.checkpoint.size);
        }
        let what = format!(
            "no node could prove that the checkpoint of size {} extends that of size {}: {last}",
            newer.checkpoint.size, older.checkpoint.size
        );
        Err(Fault::Unproven(CallError::NotProven { what }))
    }

    /// Both trees are of one history, and these nodes have shown another.
    fn accuse_all(
        &self,
        asked: Option<&Link>,
        liars: Vec<(&Link, String, Evidence)>,
    ) -> Result<(), Fault> {
        let mut outcome = Ok(());
        for (link, what, evidence) in liars {
            if asked.is_some_and(|asked| asked.node_id == link.node_id) {
                outcome = Err(Fault::Lie(what, evidence));
            } else {
                self.accuse(link, what, evidence);
            }
        }
        outcome
    }

    async fn ask_consistency(
        &self,
        link: &Link,
        older: &SignedCheckpoint,
        newer: &SignedCheckpoint,
    ) -> Answer {
        let request = ProveConsistencyRequest {
            old_size: older.checkpoint.size,
            new_size: newer.checkpoint.size,
        };
        let limit = self.options().attempt_timeout;
        let in_flight = link.begin();
        let answer = timeout(limit, link.audit().prove_consistency(request)).await;
        drop(in_flight);
        let failure = match answer {
            Err(_) => Failure::TimedOut(limit),
            Ok(Err(status)) => Failure::from(status),
            Ok(Ok(response)) => return judge(older, newer, &response.into_inner()),
        };
        match failure {
            Failure::Rejected(Rejected {
                reason: Reason::NotFound | Reason::StaleReplica | Reason::Invalid,
                ..
            }) => Answer::Behind,
            failure => Answer::Failed(failure.text()),
        }
    }
}

/// What an answer proves, and if not that, what it shows.
fn judge(
    older: &SignedCheckpoint,
    newer: &SignedCheckpoint,
    answer: &ProveConsistencyResponse,
) -> Answer {
    let (old, new) = (&older.checkpoint, &newer.checkpoint);
    if (answer.old_size, answer.new_size) != (old.size, new.size) {
        return Answer::Failed(format!("a proof from {} to {}", answer.old_size, answer.new_size));
    }
    let proof: Option<Vec<Hash>> = answer.proof.iter().map(|hash| Hash::from_slice(hash)).collect();
    let roots = Hash::from_slice(&answer.old_root).zip(Hash::from_slice(&answer.new_root));
    let Some((proof, (old_root, new_root))) = proof.zip(roots) else {
        return Answer::Failed("a proof with hashes that are not of 32 bytes".into());
    };
    let verify = |old_root: &Hash, new_root: &Hash| {
        merkle::verify_consistency(old.size, new.size, &proof, old_root, new_root)
    };
    if verify(&old.root, &new.root).is_ok() {
        return Answer::Proven;
    }
    let text = format!(
        "consistency of size {} with size {}: old root {old_root}, new root {new_root}, proof {}",
        old.size,
        new.size,
        hex_list(&proof)
    );
    let evidence = Evidence::new([&older.note, &newer.note], text);
    match verify(&old_root, &new_root) {
        Ok(()) if new_root == new.root => Answer::OtherPrefix(evidence),
        Ok(()) => {
            let size = new.size;
            let what = format!(
                "its tree of size {size} has root {new_root}, a checkpoint says {}",
                new.root
            );
            Answer::OtherTree(what, evidence)
        }
        Err(error) => {
            let what = format!("its proof from size {} to {}: {error}", old.size, new.size);
            Answer::Lie(what, evidence)
        }
    }
}
