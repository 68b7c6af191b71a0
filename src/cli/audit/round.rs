//! One round of an audit: every node's checkpoint, held against the auditor's own tree and against
//! the others'.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use indelible_client::{
    Alarms, CallError, Client, Evidence, Level, NodeCheckpoint, Policy, Prove, ReadOptions,
    SignedCheckpoint,
};
use indelible_core::merkle::Frontier;
use serde_json::json;

use super::alert::{Alert, Alerts, of_alarm, of_error};
use super::metrics::Metrics;
use super::tree::{Tree, add};

/// The owner of the auditor's memory.
pub(super) struct Auditor {
    client: Client,
    tree: Tree,
    pub(super) alerts: Alerts,
    alarms: Alarms,
    metrics: Arc<Metrics>,
}

/// A node, and what it signs.
type Signed = (u64, Arc<SignedCheckpoint>);

impl Auditor {
    pub(super) fn new(
        client: Client,
        tree: Tree,
        alerts: Alerts,
        metrics: Arc<Metrics>,
    ) -> Auditor {
        let alarms = client.alarms();
        Auditor { client, tree, alerts, alarms, metrics }
    }

    /// Asks, reads, compares, and keeps what was found to be sound. What is wrong with the trail is
    /// an alert; an error is that something could not be looked at.
    pub(super) async fn round(&mut self, state: &Path) -> anyhow::Result<()> {
        let began = Instant::now();
        let before = self.tree.size();
        let answers = self.client.checkpoints().await;
        let nodes = answers.len();
        let signed = self.accepted(answers)?;
        self.compare(&signed)?;
        let outcome = self.hold_against_the_tree(&signed).await;
        self.follow_keys(&signed).await?;
        // Also if that failed: nodes that lost the end of the trail cannot prove anything about it.
        self.look_for_the_end(&signed).await?;
        while let Some(alarm) = self.alarms.try_next() {
            self.alerts.raise(of_alarm(&alarm))?;
        }
        if self.tree.size() > 0 {
            self.tree.save(state).await?;
        }
        let newest = signed.iter().map(|(_, signed)| (signed.checkpoint.size, signed.unix_s)).max();
        self.metrics.round(self.tree.size(), newest, signed.len());
        let failed = match outcome {
            Err(error) => match of_error(&error) {
                Some(alert) => self.alerts.raise(alert).map(|()| None)?,
                None => Some(error),
            },
            Ok(()) => None,
        };
        self.alerts.event(
            "checked",
            json!({
                "tree_size": self.tree.size(),
                "root": self.tree.root().to_string(),
                "records_read": self.tree.size() - before,
                "nodes": signed.len(),
                "nodes_asked": nodes,
                "alerts": self.alerts.count(),
                "seconds": (began.elapsed().as_millis() as f64) / 1000.0,
            }),
        )?;
        match failed {
            Some(error) => Err(error).context("read the trail"),
            None if signed.is_empty() => anyhow::bail!("no node gave a checkpoint that counts"),
            None => Ok(()),
        }
    }

    /// The checkpoints that the policy accepts, by ascending size. Nodes that give another, or an
    /// old one, are alerts; nodes that do not answer are not.
    fn accepted(&mut self, answers: Vec<NodeCheckpoint>) -> anyhow::Result<Vec<Signed>> {
        let mut accepted = Vec::new();
        for NodeCheckpoint { node_id, checkpoint, .. } in answers {
            let node = Some(node_id);
            match checkpoint {
                Err(error) => match of_error(&error) {
                    Some(alert) => self.alerts.raise(alert)?,
                    None => eprintln!("warning: node {node_id} gave no checkpoint: {error}"),
                },
                Ok(None) => eprintln!("warning: node {node_id} has no checkpoint yet"),
                Ok(Some(signed)) if !signed.is_verified() => {
                    let lacks = signed.lacks.clone().unwrap_or_default();
                    let what = format!("the policy does not accept its checkpoint: {lacks}");
                    let evidence =
                        Some(Evidence { notes: vec![signed.note.clone()], answer: String::new() });
                    self.alerts.raise(Alert { kind: "not_accepted", node, what, evidence })?;
                }
                Ok(Some(signed)) => {
                    self.check_age(node_id, &signed)?;
                    accepted.push((node_id, signed));
                }
            }
        }
        accepted.sort_by_key(|(_, signed)| signed.checkpoint.size);
        Ok(accepted)
    }

    fn check_age(&mut self, node_id: u64, signed: &SignedCheckpoint) -> anyhow::Result<()> {
        let limit = self.client.options().checkpoint_age_max;
        if signed.age().is_none_or(|age| age <= limit) {
            self.alerts.over("stale", node_id);
            return Ok(());
        }
        let what = format!("its newest checkpoint is older than {limit:.0?}");
        let evidence = Some(Evidence { notes: vec![signed.note.clone()], answer: String::new() });
        self.alerts.raise(Alert { kind: "stale", node: Some(node_id), what, evidence })
    }

    /// Two nodes with signed checkpoints of one size and two roots: a fork that anybody can see.
    fn compare(&mut self, signed: &[Signed]) -> anyhow::Result<()> {
        let mut by_size: BTreeMap<u64, &Signed> = BTreeMap::new();
        for one in signed {
            let (node_id, checkpoint) = (one.0, &one.1.checkpoint);
            let (other_id, other) = *by_size.entry(checkpoint.size).or_insert(one);
            if other.checkpoint.root == checkpoint.root {
                continue;
            }
            let what = format!(
                "nodes {other_id} and {node_id} have signed checkpoints of size {} with two roots",
                checkpoint.size
            );
            let notes = vec![other.note.clone(), one.1.note.clone()];
            let answer = format!("roots {} and {}", other.checkpoint.root, checkpoint.root);
            let evidence = Some(Evidence { notes, answer });
            self.alerts.raise(Alert { kind: "fork", node: None, what, evidence })?;
        }
        Ok(())
    }

    /// Moves on to the nodes that the trail names at the newest checkpoint which fits the tree.
    async fn follow_keys(&mut self, signed: &[Signed]) -> anyhow::Result<()> {
        let fits = |signed: &&Signed| {
            let checkpoint = &signed.1.checkpoint;
            self.tree.root_at(checkpoint.size) == Some(checkpoint.root)
        };
        let given = self.client.options().policy.as_ref();
        let by_hand = given.is_some_and(Policy::asks_for_all_nodes);
        let Some((_, newest)) = signed.iter().rfind(fits).filter(|_| !by_hand) else {
            return Ok(());
        };
        let policy = match self.client.follow_keys(newest).await {
            Ok(None) => return Ok(()),
            Ok(Some(policy)) => policy,
            Err(error) => {
                match of_error(&error) {
                    Some(alert) => self.alerts.raise(alert)?,
                    None => eprintln!("warning: {error}"),
                }
                return Ok(());
            }
        };
        let nodes: Vec<&str> = policy.nodes().map(|key| key.name.as_str()).collect();
        let size = newest.checkpoint.size;
        self.alerts.event("followed", json!({ "checkpoint_size": size, "nodes": nodes }))
    }

    /// Reads up to each larger checkpoint and compares roots; has smaller ones proven.
    async fn hold_against_the_tree(&mut self, signed: &[Signed]) -> Result<(), CallError> {
        for (node_id, signed) in signed {
            let size = signed.checkpoint.size;
            if size > self.tree.size() {
                self.read_up_to(*node_id, signed).await?;
            } else if let Some(root) = self.tree.root_at(size) {
                if root != signed.checkpoint.root {
                    self.other_root(*node_id, signed, &root.to_string());
                } else if size == self.tree.size() {
                    // The same tree, signed later.
                    let draft = self.tree.draft();
                    self.advance(draft, signed);
                }
            } else {
                self.prove_older(*node_id, signed).await?;
            }
        }
        Ok(())
    }

    fn advance(&mut self, draft: (Frontier, u64), signed: &SignedCheckpoint) {
        let policy = self.client.policy().expect("there is one from the start");
        self.tree.advance(draft, &signed.checkpoint, &signed.note, &policy);
    }

    /// Reads every record up to a checkpoint. The tree goes on only if the roots are equal.
    async fn read_up_to(
        &mut self,
        node_id: u64,
        signed: &SignedCheckpoint,
    ) -> Result<(), CallError> {
        let size = signed.checkpoint.size;
        let options =
            ReadOptions { level: Level::AtLeast(size), prove: Prove::Never, follow: false };
        let mut draft = self.tree.draft();
        let mut records = self.client.read(self.tree.size()..size, options).await?;
        while let Some(record) = records.next().await.transpose()? {
            if add(&mut draft, &record) {
                let what = format!(
                    "record {} was received before the one in front of it, says its leaf",
                    record.index
                );
                self.raise(Alert { kind: "time_backwards", node: None, what, evidence: None });
            }
        }
        if draft.0.size() != size {
            let what = format!(
                "the trail ends at {} records, and a checkpoint of size {size} is signed",
                draft.0.size()
            );
            let evidence =
                Some(Evidence { notes: vec![signed.note.clone()], answer: String::new() });
            self.raise(Alert { kind: "shrunk", node: None, what, evidence });
        } else if draft.0.root() != signed.checkpoint.root {
            self.other_root(node_id, signed, &draft.0.root().to_string());
        } else {
            self.advance(draft, signed);
        }
        Ok(())
    }

    fn other_root(&mut self, node_id: u64, signed: &SignedCheckpoint, root: &str) {
        let size = signed.checkpoint.size;
        let what = format!(
            "the records lead to root {root} at size {size}, the signed checkpoint says {}",
            signed.checkpoint.root
        );
        let own = self.tree.checkpoint().map(|(_, note)| note.into());
        let notes = own.into_iter().chain([signed.note.clone()]).collect();
        let answer = format!("recomputed from every leaf: size {size}, root {root}");
        let evidence = Some(Evidence { notes, answer });
        self.raise(Alert { kind: "other_root", node: Some(node_id), what, evidence });
    }

    /// A checkpoint of a size that was passed: it has to be of the same history.
    async fn prove_older(
        &mut self,
        node_id: u64,
        signed: &SignedCheckpoint,
    ) -> Result<(), CallError> {
        let (old, new) = (signed.checkpoint.size, self.tree.size());
        if old == 0 {
            return Ok(());
        }
        let proof = self.client.prove_consistency(old, Some(new)).await?;
        if (proof.old_root, proof.new_root) == (signed.checkpoint.root, self.tree.root()) {
            return Ok(());
        }
        if proof.new_root != self.tree.root() {
            // Whoever proved it has another tree: that says nothing about who signed the older one.
            let what = format!(
                "a node shows root {} for size {new}, the records lead to {}",
                proof.new_root,
                self.tree.root()
            );
            return Err(CallError::NotProven { what });
        }
        let what = format!("its checkpoint of size {old} is not of one history with size {new}");
        let answer =
            format!("size {old}: root {}; size {new}: root {}", proof.old_root, proof.new_root);
        let evidence = Some(Evidence { notes: vec![signed.note.clone()], answer });
        self.raise(Alert { kind: "inconsistent", node: Some(node_id), what, evidence });
        Ok(())
    }

    /// Whether the trail is shorter now than what was signed once.
    async fn look_for_the_end(&mut self, signed: &[Signed]) -> anyhow::Result<()> {
        let largest = signed.last().map_or(0, |(_, signed)| signed.checkpoint.size);
        let Some((checkpoint, note)) = self.tree.checkpoint() else { return Ok(()) };
        let (size, note) = (checkpoint.size, note.to_owned());
        if largest >= size {
            return Ok(());
        }
        let tree_size = match self.client.tree_head(Level::Linearizable).await {
            Ok(head) => head.tree_size,
            Err(error) => {
                eprintln!("warning: whether the trail has shrunk is not known: {error}");
                return Ok(());
            }
        };
        if tree_size >= size {
            return Ok(());
        }
        let reports = self.client.report_checkpoint(&note).await;
        let told = reports.iter().filter(|(_, taken)| matches!(taken, Ok(true))).count();
        let what = format!(
            "the trail has {tree_size} records, and a checkpoint of size {size} was signed"
        );
        let answer = format!("{told} nodes have taken it as evidence");
        let evidence = Some(Evidence { notes: vec![note.into()], answer });
        self.alerts.raise(Alert { kind: "rolled_back", node: None, what, evidence })
    }

    /// A closed pipe is found when the round's last line is printed.
    fn raise(&mut self, alert: Alert) {
        let _ = self.alerts.raise(alert);
    }
}
