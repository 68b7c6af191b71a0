//! The auditor's own tree, recomputed from every leaf, and the file that keeps its right edge
//! (docs/FORMAT.md, "Audit state").

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, bail};
use indelible_client::{Policy, Record};
use indelible_core::merkle::Frontier;
use indelible_core::policy::PolicyError;
use indelible_core::{Checkpoint, Hash, Note};
use serde::{Deserialize, Serialize};

use crate::cli::output;

/// Roots at checkpoint sizes that are remembered; older ones are proven to be of one history again.
const ROOTS_MAX: usize = 256;
/// The only version of the file so far.
const VERSION: u32 = 1;

/// What was read, and what was signed for it.
pub(super) struct Tree {
    origin: String,
    frontier: Frontier,
    /// When the last record was received, in Unix nanoseconds.
    received: u64,
    /// The newest checkpoint that fits, a signed note.
    note: Option<String>,
    /// The policy that accepted it.
    policy: Policy,
    checkpoint: Option<Checkpoint>,
    /// Roots of this tree when it had other sizes.
    roots: BTreeMap<u64, Hash>,
}

/// The file. Hashes in hexadecimal.
#[derive(Serialize, Deserialize)]
struct State {
    version: u32,
    origin: String,
    size: u64,
    peaks: Vec<String>,
    received_unix_ns: u64,
    checkpoint: Option<String>,
    /// The policy that accepted the checkpoint: nodes may have been replaced since.
    policy: Option<String>,
}

impl Tree {
    /// From its file, or empty if there is none yet.
    pub(super) async fn load(path: &Path, policy: &Policy) -> anyhow::Result<Tree> {
        let doing = || format!("read the audit state {}", path.display());
        let text = match tokio::fs::read_to_string(path).await {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Tree::empty(policy));
            }
            Err(error) => return Err(error).with_context(doing),
        };
        Tree::parse(&text, policy).with_context(doing)
    }

    fn empty(policy: &Policy) -> Tree {
        Tree {
            origin: policy.origin().to_owned(),
            policy: policy.clone(),
            frontier: Frontier::new(),
            received: 0,
            note: None,
            checkpoint: None,
            roots: BTreeMap::new(),
        }
    }

    /// What the file says is believed only as far as the policy accepts its checkpoint, or the one
    /// that did does and is for the same log, and its peaks lead to that checkpoint's root.
    fn parse(text: &str, policy: &Policy) -> anyhow::Result<Tree> {
        let state: State = serde_json::from_str(text)?;
        if state.version != VERSION {
            bail!("version {} is not known", state.version);
        }
        if state.origin != policy.origin() {
            bail!(
                "it is of the trail {}, the policy is for {}\nhint: name another file with --state",
                state.origin,
                policy.origin()
            );
        }
        let mut tree = Tree::empty(policy);
        let peaks: Option<Vec<Hash>> = state.peaks.iter().map(|peak| hash(peak)).collect();
        tree.frontier = Frontier::from_peaks(state.size, &peaks.context("read a hash")?)?;
        tree.received = state.received_unix_ns;
        if let Some(note) = state.checkpoint {
            let trusted = match (policy.check(&Note::parse(&note)?), state.policy) {
                (Err(PolicyError::Quorum { .. }), Some(kept)) => {
                    let kept: Policy = kept.parse()?;
                    if kept.logs() != policy.logs() {
                        bail!("its policy is for another log key: it was changed");
                    }
                    tree.policy = kept;
                    tree.policy.check(&Note::parse(&note)?)?
                }
                (trusted, _) => trusted?,
            };
            let Checkpoint { size, root, .. } = trusted.checkpoint;
            if size != state.size || root != tree.frontier.root() {
                bail!("its hashes do not lead to the root of its checkpoint: it was changed");
            }
            tree.note = Some(note);
            tree.checkpoint = Some(trusted.checkpoint);
        } else if state.size > 0 {
            bail!("it has no checkpoint: it was changed");
        }
        tree.remember();
        Ok(tree)
    }

    /// Replaces the file. Only what a checkpoint covers is kept in it.
    pub(super) async fn save(&self, path: &Path) -> anyhow::Result<()> {
        let state = State {
            version: VERSION,
            origin: self.origin.clone(),
            size: self.size(),
            peaks: self.frontier.peaks().iter().map(Hash::to_string).collect(),
            received_unix_ns: self.received,
            checkpoint: self.note.clone(),
            policy: Some(self.policy.to_string()),
        };
        let mut text = serde_json::to_string_pretty(&state).context("write JSON")?;
        text.push('\n');
        output::write_private(path, text.as_bytes()).await
    }

    /// Records that were read.
    pub(super) fn size(&self) -> u64 {
        self.frontier.size()
    }

    /// Root over them.
    pub(super) fn root(&self) -> Hash {
        self.frontier.root()
    }

    /// The newest checkpoint that fits, and its note.
    pub(super) fn checkpoint(&self) -> Option<(&Checkpoint, &str)> {
        self.checkpoint.as_ref().zip(self.note.as_deref())
    }

    /// The root when the tree had this size, if it is remembered.
    pub(super) fn root_at(&self, size: u64) -> Option<Hash> {
        self.roots.get(&size).copied()
    }

    /// A fork of it, to be kept only if what is read leads to the right root.
    pub(super) fn draft(&self) -> (Frontier, u64) {
        (self.frontier.clone(), self.received)
    }

    /// The draft was right: this note is signed for it, and accepted by this policy.
    pub(super) fn advance(
        &mut self,
        draft: (Frontier, u64),
        checkpoint: &Checkpoint,
        note: &str,
        policy: &Policy,
    ) {
        (self.frontier, self.received) = draft;
        assert_eq!(self.size(), checkpoint.size, "the draft is the checkpoint's tree");
        self.note = Some(note.to_owned());
        self.checkpoint = Some(checkpoint.clone());
        self.policy = policy.clone();
        self.remember();
    }

    fn remember(&mut self) {
        self.roots.insert(self.size(), self.root());
        if self.roots.len() > ROOTS_MAX {
            self.roots.pop_first();
        }
    }
}

/// Adds a record to a draft. Returns whether it was received before the record in front of it,
/// which no leader stamps.
pub(super) fn add(draft: &mut (Frontier, u64), record: &Record) -> bool {
    let is_backwards = record.leaf.received < draft.1;
    draft.0.append(record.leaf_hash());
    draft.1 = record.leaf.received;
    is_backwards
}

fn hash(text: &str) -> Option<Hash> {
    let mut bytes = [0; Hash::SIZE];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    Some(Hash(bytes))
}

#[cfg(test)]
mod tests {
    use indelible_core::{KeyType, SignerKey};
    use indelible_testkit::TestKeys;

    use super::*;

    const ORIGIN: &str = "example.com/trail";

    const KEYS: TestKeys = TestKeys::of(ORIGIN);

    #[tokio::test]
    async fn what_was_checked_survives_and_what_was_changed_is_refused() {
        let (log, node, policy) = (KEYS.log(), KEYS.node(1), KEYS.policy(&[1]));
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("state.json");
        let mut tree = Tree::load(&path, &policy).await.expect("empty");
        let mut draft = tree.draft();
        for byte in 0..5 {
            draft.0.append(Hash([byte; 32]));
        }
        let checkpoint = Checkpoint::new(ORIGIN, 5, draft.0.root());
        let note = KEYS.note(&checkpoint, &[1], 1_700_000_000).to_string();
        tree.advance(draft, &checkpoint, &note, &policy);
        tree.save(&path).await.expect("saved");
        let again = Tree::load(&path, &policy).await.expect("loaded");
        assert_eq!((again.size(), again.root()), (5, checkpoint.root));
        assert_eq!(again.checkpoint(), Some((&checkpoint, &*note)));
        assert_eq!(again.root_at(5), Some(checkpoint.root));
        let text = tokio::fs::read_to_string(&path).await.expect("reads");
        // The node was replaced: what another policy for this log accepted is remembered, and
        // nothing else.
        let other = KEYS.node(2).verifier().clone();
        let later = policy.with_nodes(vec![other]).expect("a policy");
        assert_eq!(Tree::parse(&text, &later).expect("loaded").size(), 5);
        let unknown = text.replacen(
            &node.verifier().to_string(),
            &later.nodes().next().expect("one").to_string(),
            1,
        );
        assert!(Tree::parse(&unknown, &later).is_err());
        let other_log = SignerKey::new(ORIGIN, KeyType::Log, [9; 32]).expect("a valid name");
        let other_log = other_log.verifier().to_string();
        let other_log = text.replacen(&log.verifier().to_string(), &other_log, 1);
        assert!(Tree::parse(&other_log, &later).is_err());
        for (from, to) in [
            ("\"size\": 5", "\"size\": 6"),
            ("\"version\": 1", "\"version\": 2"),
            ("0404040404", "0404040405"),
            ("example.com/trail\\n5\\n", "example.com/trail\\n6\\n"),
        ] {
            assert!(text.contains(from), "{from}");
            assert!(Tree::parse(&text.replacen(from, to, 1), &policy).is_err(), "{to}");
        }
    }
}
