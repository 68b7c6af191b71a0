//! What a start compares before this node votes or signs: its own disk with its signatures, which
//! its peers hold.
//!
//! A node's signature is durable before it leaves the node. So a note that carries it, and of which
//! this node's log knows nothing, means that the disk is older than the signature: it was rolled
//! back, or wiped. Such a node could vote twice in a term and acknowledge entries twice, so it must
//! not come back under its id. A note that this node has not signed and that is ahead is normal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use indelible_core::batch::BATCH_HEADER_SIZE;
use indelible_core::leaf::LEAF_SIZE;
use indelible_core::limits::REPLICATION_BYTES_MAX;
use indelible_core::{Chain, Checkpoint, EntryId, EntryKind, Hash, Note, VerifierKey};
use indelible_proto::raft as pb;
use tokio::time::Instant;

use super::acceptance;
use super::electorate::{Electorate, Electorates};
use super::notebook::{self, NotJudged};
use super::shared::{Published, Shared, two_roots};
use crate::node::fatal::Fatal;
use crate::raft::types::Peer;
use crate::storage::ledger::{Ledger, LedgerError};
use crate::storage::log::{Log, LogError};
use crate::storage::notes::Acceptance;

/// Between two rounds of asking.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// Between two complaints about peers that do not answer.
const COMPLAIN_AGAIN: Duration = Duration::from_secs(5);

/// A note, and the entry of the log that reached its size.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NotedEntry {
    /// The signed note; empty if there is none.
    pub note: String,
    /// The entry and its link of the chain; none if this node cannot tell.
    pub entry: Option<(EntryId, Chain)>,
}

/// What a node tells a peer about its notes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NoteStanding {
    /// The newest note.
    pub newest: NotedEntry,
    /// The newest note with the asker's cosignature, if `newest` is without it.
    pub signed: NotedEntry,
    /// What this node knows to have been accepted.
    pub accepted: Acceptance,
}

impl NoteStanding {
    /// Puts it into an answer.
    pub fn fill(self, answer: &mut pb::StandingResponse) {
        let id = |entry: &NotedEntry| {
            entry.entry.map(|(id, _)| pb::LogId {
                term: id.term,
                leader: id.leader,
                index: id.index,
            })
        };
        let chain = |entry: &NotedEntry| {
            entry.entry.map(|(_, chain)| Bytes::copy_from_slice(&chain.0)).unwrap_or_default()
        };
        (answer.note_entry, answer.note_chain) = (id(&self.newest), chain(&self.newest));
        (answer.signed_entry, answer.signed_chain) = (id(&self.signed), chain(&self.signed));
        (answer.note, answer.signed_note) = (self.newest.note, self.signed.note);
        let Acceptance { unix_s, leaf } = self.accepted;
        (answer.accepted_unix_s, answer.accepted_leaf) = (unix_s, leaf);
    }

    /// Takes it from an answer.
    pub fn of(answer: &pb::StandingResponse) -> NoteStanding {
        let noted = |note: &str, id: Option<pb::LogId>, chain: &[u8]| {
            let id = id.map(|id| EntryId { index: id.index, term: id.term, leader: id.leader });
            NotedEntry { note: note.to_owned(), entry: id.zip(Chain::from_slice(chain)) }
        };
        NoteStanding {
            newest: noted(&answer.note, answer.note_entry, &answer.note_chain),
            signed: noted(&answer.signed_note, answer.signed_entry, &answer.signed_chain),
            accepted: Acceptance { unix_s: answer.accepted_unix_s, leaf: answer.accepted_leaf },
        }
    }
}

/// Tells peers what this node's notes say; from any thread, for as long as the node lives.
#[derive(Clone)]
pub struct StandingProvider {
    pub(super) ledger: Ledger,
    pub(super) shared: Arc<Shared>,
}

impl StandingProvider {
    /// For the node that asks. Reads the disk.
    pub fn standing(&self, asker: u64) -> NoteStanding {
        let (agreeing, beyond) =
            (self.shared.newest.borrow().clone(), self.shared.beyond.borrow().clone());
        let newest = beyond.or(agreeing);
        let signed = self.shared.newest_signed_by(asker).filter(|signed| {
            newest.as_ref().is_none_or(|newest| {
                !newest.signed.contains_key(&asker)
                    || signed.checkpoint.size > newest.checkpoint.size
            })
        });
        let accepted = *self.shared.accepted.borrow();
        NoteStanding { newest: self.noted(newest), signed: self.noted(signed), accepted }
    }

    /// The entry that reached the largest tree that a node has cosigned, as far as this node has
    /// applied it, and nobody has accepted that it was lost. Reads the disk.
    pub fn cosigned_entry(&self, node_id: u64) -> Option<u64> {
        let signed = self.shared.newest_signed_by(node_id)?;
        let size = signed.checkpoint.size;
        let is_applied = (1..=self.ledger.head().borrow().tree_size).contains(&size);
        let is_void = signed.signed.get(&node_id)? <= &self.shared.accepted_unix_s();
        if !is_applied || is_void {
            return None;
        }
        self.ledger.entry_of(size - 1).ok().map(|(id, _)| id.index)
    }

    fn noted(&self, note: Option<Arc<Published>>) -> NotedEntry {
        let Some(note) = note else { return NotedEntry::default() };
        let size = note.checkpoint.size;
        let applied = self.ledger.head().borrow().tree_size;
        // If it cannot be read, this node cannot tell.
        let entry = if size <= applied { self.ledger.entry_of(size - 1).ok() } else { None };
        NotedEntry { note: note.note.clone(), entry }
    }
}

/// What the comparison works with.
pub(super) struct Comparison {
    pub(super) node_id: u64,
    /// This node's own key: only this node can have made its signatures.
    pub(super) key: VerifierKey,
    pub(super) log: Log,
    pub(super) ledger: Ledger,
    pub(super) electorates: Arc<Electorates>,
    pub(super) notebook: notebook::Handle,
    pub(super) shared: Arc<Shared>,
    /// What this node remembers to have signed last; the outer none if it cannot.
    pub(super) remembered: Option<Option<(u64, Hash)>>,
    /// An operator says that all disks were put back together: then this node goes on, and appends
    /// are refused until that is accepted.
    pub(super) all_rolled_back: bool,
    /// This node's clock, in Unix seconds.
    pub(super) clock: fn() -> u64,
}

/// What the comparison ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Compared {
    /// Size and root of the last checkpoint that this node is known to have signed.
    pub(super) last_signed: Option<(u64, Hash)>,
    /// The largest size that this node has signed and that its disk does not have, if it goes on
    /// all the same.
    pub(super) older: Option<u64>,
}

impl Comparison {
    /// Asks until a majority of the voters, this node included, has been heard; all of them if this
    /// node does not remember what it has signed. `ask` gives what a
    /// peer says; its log need not be open, as all may be starting: its notes are read before that.
    pub(super) async fn run<F>(&self, ask: impl Fn(u64, Peer) -> F) -> Result<Compared, Fatal>
    where
        F: Future<Output = Option<pb::StandingResponse>>,
    {
        let mut compared = Compared { last_signed: self.remembered.flatten(), older: None };
        self.check_remembered(&mut compared).await?;
        let electorate = self.electorates.newest().map_err(|error| unreadable(&error))?;
        let voters: Vec<(u64, Peer)> =
            electorate.voters().map(|(id, peer)| (id, peer.clone())).collect();
        let votes = voters.iter().any(|(id, _)| *id == self.node_id);
        let mut heard = BTreeSet::from([self.node_id]);
        // Peers that name entries of notes which this node's own memory and log speak against.
        let mut doubted = BTreeSet::new();
        let mut accepted = BTreeMap::from([(self.node_id, *self.shared.accepted.borrow())]);
        let mut complained = Instant::now();
        loop {
            let asked = voters.iter().filter(|(id, _)| !heard.contains(id));
            let answers = asked.map(|(id, peer)| {
                let answer = ask(*id, peer.clone());
                async move { (*id, answer.await) }
            });
            let answers = futures_util::future::join_all(answers).await;
            let answers = answers.into_iter().filter_map(|(id, answer)| Some((id, answer?)));
            let answers: Vec<(u64, pb::StandingResponse)> = answers.collect();
            // What was accepted comes first: it decides which notes count.
            accepted
                .extend(answers.iter().map(|(id, said)| (*id, NoteStanding::of(said).accepted)));
            self.take_accepted(&electorate, &accepted).await?;
            for (id, answer) in answers {
                if self.take(&answer, &mut compared).await? {
                    heard.insert(id);
                } else if doubted.insert(id) {
                    tracing::error!(
                        peer = id,
                        "a peer says that this node's log lacks what it has signed, and is not believed: \
                         it may lie, or this disk may be an older copy"
                    );
                    self.check_doubted(&doubted, &answer, &mut compared)?;
                }
            }
            // A node without a vote does neither vote nor sign. One that has lost what says up to
            // where it had signed has all the others asked: it knows nothing itself that it could
            // count, and what it had signed may be known to one of them only.
            let has_answered = |id: u64| heard.contains(&id) || doubted.contains(&id);
            let is_enough = electorate.is_majority(|id| heard.contains(&id))
                && (self.remembered.is_some() || voters.iter().all(|(id, _)| has_answered(*id)));
            if !votes || is_enough {
                self.check_own(&mut compared).await?;
                return Ok(compared);
            }
            if complained.elapsed() > COMPLAIN_AGAIN {
                complained = Instant::now();
                let missing: Vec<u64> =
                    voters.iter().map(|(id, _)| *id).filter(|id| !heard.contains(id)).collect();
                let who = if self.remembered.is_some() { "a majority" } else { "each" };
                tracing::info!(?missing, "waiting until {who} of the voters has been heard");
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// What was accepted while this node was away: what a majority of the voters says, or later one
    /// of them, once this node's own trail has the record.
    async fn take_accepted(
        &self,
        electorate: &Electorate,
        said: &BTreeMap<u64, Acceptance>,
    ) -> Result<(), Fatal> {
        let now = (self.clock)();
        let is_said = |told: &Acceptance| {
            let says = |said: &Acceptance| said.unix_s > told.unix_s || said == told;
            electorate.is_majority(|id| said.get(&id).is_some_and(says))
        };
        let likely = said.values().filter(|told| acceptance::is_possible(told, now));
        let agreed = likely.copied().filter(is_said).max_by_key(|told| told.unix_s);
        let said = said.clone();
        let taken = self.notebook.run(move |notebook| {
            let kept = agreed.is_none_or(|agreed| notebook.accept(agreed));
            said.into_iter().for_each(|(peer, told)| notebook.told(peer, told, now));
            kept
        });
        match taken.await {
            Some(true) => Ok(()),
            _ => Err(self.shared.why_stopped()),
        }
    }

    /// The newest note with this node's signature that it has itself.
    async fn check_own(&self, compared: &mut Compared) -> Result<(), Fatal> {
        if let Some(own) = self.shared.newest_signed_by(self.node_id) {
            let own = NotedEntry { note: own.note.clone(), entry: None };
            // Without an entry there is nothing to doubt.
            self.check_signature(&own, compared).await?;
        }
        Ok(())
    }

    /// What a peer says. False if it is not to be believed.
    async fn take(
        &self,
        answer: &pb::StandingResponse,
        compared: &mut Compared,
    ) -> Result<bool, Fatal> {
        let NoteStanding { newest, signed, .. } = NoteStanding::of(answer);
        let peer = answer.node_id;
        for noted in [&newest, &signed] {
            if !self.check_signature(noted, compared).await? {
                return Ok(false);
            }
        }
        if newest.note.is_empty() {
            return Ok(true);
        }
        match self.notebook.offer(newest.note).await {
            Ok(_) => {}
            Err(NotJudged::Unreadable(error)) => return Err(unreadable(&error)),
            Err(error) => tracing::warn!(peer, %error, "a peer's note does not count"),
        }
        // It may have contradicted this node's trail.
        self.shared.fatal.borrow().clone().map_or(Ok(true), Err)
    }

    /// A note that carries this node's signature: this node's log must have what it speaks of.
    /// False if only the word of whoever holds the note says that it does not.
    async fn check_signature(
        &self,
        noted: &NotedEntry,
        compared: &mut Compared,
    ) -> Result<bool, Fatal> {
        let Some((checkpoint, unix_s)) = self.own_signature(&noted.note) else { return Ok(true) };
        if unix_s <= self.shared.accepted_unix_s() {
            return Ok(true);
        }
        let Checkpoint { size, root, .. } = checkpoint;
        let has = if size <= self.ledger.head().borrow().tree_size {
            self.holds(size, root)?
        } else if self.reachable_size().await? < size {
            false
        } else {
            match noted.entry {
                Some((id, chain)) if self.has_entry(id, chain)? => true,
                // This node's own memory decides, which is written before a signature leaves. The
                // signature is this node's, but which entry it was is anybody's word.
                _ if self.has_forgotten(size) => false,
                Some(_) => return Ok(false),
                None => true,
            }
        };
        if !has {
            self.older(compared, size, &noted.note)?;
        } else if compared.last_signed.is_none_or(|(last, _)| last < size) {
            compared.last_signed = Some((size, root));
        }
        Ok(true)
    }

    /// Whether this node remembers what it has signed, and not that it has signed so much.
    fn has_forgotten(&self, size: u64) -> bool {
        self.remembered.is_some_and(|last| last.is_none_or(|(last, _)| last < size))
    }

    /// A node that does not remember what it has signed believes two peers that its log lacks it.
    fn check_doubted(
        &self,
        doubted: &BTreeSet<u64>,
        answer: &pb::StandingResponse,
        compared: &mut Compared,
    ) -> Result<(), Fatal> {
        if self.remembered.is_some() || doubted.len() < 2 {
            return Ok(());
        }
        let NoteStanding { newest, signed, .. } = NoteStanding::of(answer);
        let notes = [newest.note, signed.note];
        let own = notes.iter().filter_map(|note| Some((self.own_signature(note)?.0.size, note)));
        let (size, note) = own.max().expect("one of them made the peer doubted");
        self.older(compared, size, note)
    }

    /// What this node remembers to have signed must be in its own trail.
    async fn check_remembered(&self, compared: &mut Compared) -> Result<(), Fatal> {
        let Some(Some((size, root))) = self.remembered else { return Ok(()) };
        let has = match size <= self.ledger.head().borrow().tree_size {
            true => self.holds(size, root)?,
            false => self.reachable_size().await? >= size,
        };
        if has {
            return Ok(());
        }
        let signed = Checkpoint::new(String::from("signed"), size, root);
        self.older(compared, size, &signed.to_string())
    }

    /// Whether this node's tree has that root; another one there is the end.
    fn holds(&self, size: u64, root: Hash) -> Result<bool, Fatal> {
        let ours = self.ledger.root_at(size).map_err(|error| unreadable(&error))?;
        if ours == root {
            return Ok(true);
        }
        let signed = Checkpoint::new(String::new(), size, root);
        let why = format!(
            "this node's trail is not the one that it has signed: {}; hint: its disk was changed, or put back from \
             another time; keep this data directory, and join under a new id",
            two_roots(&signed, &ours)
        );
        self.shared.keep_evidence(&format!("signed-{size}.txt"), &format!("{why}\n"));
        Err(Fatal::Diverged(why))
    }

    fn has_entry(&self, id: EntryId, chain: Chain) -> Result<bool, Fatal> {
        let failed = |error: LogError| Fatal::Failed(error.to_string());
        if self.log.id_at(id.index).map_err(failed)? != Some(id) {
            return Ok(false);
        }
        Ok(self.log.chain_at(id.index).map_err(failed)? == chain)
    }

    async fn reachable_size(&self) -> Result<u64, Fatal> {
        let (log, ledger) = (self.log.clone(), self.ledger.clone());
        let reachable = tokio::task::spawn_blocking(move || reachable_size(&log, &ledger));
        let failed = |error: LogError| Fatal::Failed(error.to_string());
        reachable.await.map_err(|error| Fatal::Failed(error.to_string()))?.map_err(failed)
    }

    /// The checkpoint of a note that this node has signed, and when.
    fn own_signature(&self, note: &str) -> Option<(Checkpoint, u64)> {
        let note = Note::parse(note).ok()?;
        let checkpoint = Checkpoint::parse(&note.text).ok()?;
        let signed = |signature| self.key.verify(&note.text, signature).ok()?.unix_s;
        let unix_s = note.signatures.iter().filter_map(signed).max()?;
        Some((checkpoint, unix_s))
    }

    /// This node has signed something that its disk does not have.
    fn older(&self, compared: &mut Compared, size: u64, note: &str) -> Result<(), Fatal> {
        self.shared.keep_evidence(&format!("rollback-{size}.txt"), note);
        let ours = self.ledger.head().borrow().tree_size;
        if self.all_rolled_back {
            tracing::warn!(
                signed = size,
                tree_size = ours,
                "this disk is older than this node's own signature; going on because of --all-rolled-back"
            );
            compared.older = compared.older.max(Some(size));
            return Ok(());
        }
        Err(Fatal::Diverged(format!(
            "this node has signed tree size {size}, but its disk does not have it (it has {ours}): the disk was wiped, or \
             replaced by an older copy; the note is in `evidence`; hint: node ids are never reused: remove this node \
             and add it under a new id (`indelible node-key`). If the disks of all nodes were put back together, \
             start every node with --all-rolled-back"
        )))
    }
}

/// The largest tree that this node's log can lead to: entries that are not known to be committed
/// count in full. Reads the disk.
pub(super) fn reachable_size(log: &Log, ledger: &Ledger) -> Result<u64, LogError> {
    let head = *ledger.head().borrow();
    let (mut size, mut next) = (head.tree_size, head.applied);
    while next < log.next() {
        let entries = log.read(next..log.next(), REPLICATION_BYTES_MAX)?;
        next += entries.len() as u64;
        size += entries.iter().map(records).sum::<u64>();
    }
    Ok(size)
}

/// Records that an entry can at most add to the trail.
fn records(entry: &indelible_core::Entry) -> u64 {
    match entry.kind {
        EntryKind::Blank | EntryKind::Membership => 1,
        EntryKind::Batch => (entry.head.len().saturating_sub(BATCH_HEADER_SIZE) / LEAF_SIZE) as u64,
    }
}

fn unreadable(error: &LedgerError) -> Fatal {
    Fatal::Failed(format!("this node cannot read its own trail: {error}"))
}
