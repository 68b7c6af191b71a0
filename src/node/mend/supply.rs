//! What peers have of the entries that are missing here: each from whichever peer has it. Storage
//! checks every one of them and asks for the next; where the log's end is damaged,
//! [`super::decide`] says whose word counts.

use std::collections::{BTreeMap, BTreeSet};

use indelible_core::{Chain, EntryKind};

use super::decide::{self, End, Question};
use super::reader::{PeerFailure, Peers, Reader};
use crate::raft::membership;
use crate::raft::mending::{Asker, Standing};
use crate::raft::types::Membership;
use crate::storage::mend::{FetchError, Fetched, MendError, Supply, Want};

/// Why nothing was supplied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoSupply {
    /// Somebody who may know has not answered: ask again.
    #[error("{0}")]
    NotYet(String),
    /// All have answered, and nobody has it, or can say that it never was.
    #[error("{0}")]
    Lost(String),
}

/// What this node knows of itself, for the rules about a damaged end.
#[derive(Debug, Clone, Default)]
pub(super) struct Own {
    /// The highest term that it has promised.
    pub(super) term: u64,
    /// Entries before this one are known to be committed.
    pub(super) committed: u64,
    /// The voters in the newest membership that can be read.
    pub(super) voters: Vec<BTreeSet<u64>>,
    /// One past the entry of that; 0 if it is the genesis.
    pub(super) voters_since: u64,
    /// Boot counters of peers, as they were last seen.
    pub(super) boots: BTreeMap<u64, u64>,
}

/// Where a damaged log ends, by the word of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Anchor {
    /// The peer.
    node: u64,
    /// One past the last entry.
    next: u64,
    /// The term of the last entry, the highest in that log.
    term: u64,
    /// The link of the last entry.
    chain: Option<Chain>,
}

/// What was given last for an open hole.
#[derive(Debug)]
struct Given {
    /// The entry that comes next, and the link before it.
    next: (u64, Chain),
    /// Who gave entries that nothing of the anchor's has followed yet.
    unproven: Vec<u64>,
}

/// Asks peers for what is missing. Its calls block: for a thread that may.
pub(super) struct Supplier {
    reader: Reader,
    own: Own,
    /// Where the log ends, once that is settled.
    anchor: Option<Anchor>,
    /// What was given last, if that was for an open hole.
    given: Option<Given>,
    /// Whose log counted in a round that failed for it: its word is left out once, others may tell.
    failed: Option<u64>,
    /// A newer membership that has filled a closed hole, in the attempt that is under way: the
    /// voters, and one past its entry.
    passed: Option<(Vec<BTreeSet<u64>>, u64)>,
    /// What every peer has for a closed hole does not join what follows it here.
    doubting: bool,
    /// Peers that have failed to answer in this round.
    silent: Vec<u64>,
}

impl Supplier {
    /// Asks these peers. Call within a runtime.
    pub(super) fn new(asker: Asker, peers: Peers, own: Own) -> Supplier {
        Supplier {
            reader: Reader::new(asker, peers),
            own,
            anchor: None,
            given: None,
            failed: None,
            passed: None,
            doubting: false,
            silent: Vec::new(),
        }
    }

    /// Asks nobody.
    pub(super) fn nobody(asker: Asker) -> Supplier {
        Supplier::new(asker, Peers::new(), Own::default())
    }

    /// Asks another peer first: what this order gave did not fit.
    pub(super) fn rotate(&mut self) {
        self.failed = self.anchor.map(|anchor| anchor.node);
        self.reader.rotate();
        self.forget();
    }

    fn forget(&mut self) {
        self.reader.close();
        (self.anchor, self.given, self.passed) = (None, None, None);
    }

    /// All that was supplied in this round is in the log now.
    pub(super) fn mended(&mut self) {
        if let Some((voters, since)) = self.passed.take() {
            (self.own.voters, self.own.voters_since) = (voters, since);
        }
    }

    /// The voters in the newest membership of the log, as far as it is whole or has been filled.
    fn voters(&self) -> &[BTreeSet<u64>] {
        self.passed.as_ref().map_or(&self.own.voters, |(voters, _)| voters)
    }

    /// Peers have that long for a part of an answer.
    #[cfg(test)]
    pub(super) fn answers_within(&mut self, part_time: std::time::Duration) {
        self.reader.part_time = part_time;
    }

    /// A new round begins: everybody is asked anew.
    pub(super) fn restart(&mut self) {
        self.forget();
        self.doubting = false;
        self.silent.clear();
    }

    /// What every peer has for a closed hole does not join what follows it here.
    pub(super) fn doubt(&mut self) {
        self.forget();
        (self.doubting, self.failed) = (true, None);
    }

    /// How many peers there are.
    pub(super) fn peer_count(&self) -> usize {
        self.reader.peers.len()
    }

    /// The next entries, as storage wants them.
    pub(super) fn supply(&mut self, want: &Want) -> Result<Supply, FetchError> {
        Ok(match want.to {
            Some(to) => self.closed(want, to)?,
            None => self.open(want)?,
        })
    }

    /// A hole with something whole of ours behind it.
    fn closed(&mut self, want: &Want, to: u64) -> Result<Supply, NoSupply> {
        if self.doubting {
            // If one that has not answered has what joins, there is nothing to doubt.
            return match self.silent.is_empty() {
                true => Ok(Supply::NotClosed),
                false => Err(NoSupply::NotYet(format!(
                    "entry {}: no answer yet from {}",
                    want.from,
                    decide::nodes(&self.silent)
                ))),
            };
        }
        let all: Vec<u64> = self.reader.peers.iter().map(|(node, _)| *node).collect();
        match self.first_of(&all, want, to, None) {
            Ok((_, entries)) => {
                self.pass(&entries);
                Ok(Supply::Entries(entries))
            }
            Err(said) if said.values().any(|said| matches!(said, PeerFailure::Nothing(_))) => {
                Err(NoSupply::NotYet(describe(want.from, &said)))
            }
            // What follows on our disk may be an end that was never committed.
            Err(_) => self.open(want),
        }
    }

    fn anchored(&mut self) -> Result<Anchor, NoSupply> {
        let anchor = match self.anchor {
            Some(anchor) => anchor,
            None => self.settle()?,
        };
        self.anchor = Some(anchor);
        Ok(anchor)
    }

    /// A hole with nothing of ours behind it: the anchor's entries, and other peers' where it is
    /// damaged itself and theirs lead to its next one.
    fn open(&mut self, want: &Want) -> Result<Supply, NoSupply> {
        let anchor = self.anchored()?;
        let at = (want.from, want.before);
        let given = self.given.take().filter(|given| given.next == at);
        // Only at its first entry is what comes before ours.
        let begins = given.is_none();
        if begins && (want.from >= anchor.next || self.diverges(want, &anchor)?) {
            return Ok(Supply::End);
        }
        let unproven = given.map_or(Vec::new(), |given| given.unproven);
        if want.from >= anchor.next {
            return match Some(want.before) == anchor.chain {
                true => Ok(Supply::End),
                false => Err(self.do_not_lead(&anchor, &unproven)),
            };
        }
        let to = match self.reader.ask(anchor.node, want, anchor.next) {
            Ok(entries) => return self.give(entries, &anchor, Vec::new()),
            Err(PeerFailure::Lacks(next)) => next.unwrap_or(anchor.next),
            Err(PeerFailure::Apart(_)) if begins => return Ok(Supply::End),
            Err(PeerFailure::Apart(_)) => return Err(self.do_not_lead(&anchor, &unproven)),
            Err(said) => return Err(NoSupply::NotYet(format!("node {} {said}", anchor.node))),
        };
        let others =
            self.reader.peers.iter().map(|(node, _)| *node).filter(|node| *node != anchor.node);
        let others: Vec<u64> = others.collect();
        match self.first_of(&others, want, to, Some(&anchor)) {
            Ok((node, entries)) => {
                let unproven = unproven.into_iter().chain([node]).collect();
                self.give(entries, &anchor, unproven)
            }
            Err(_) if !unproven.is_empty() => Err(self.do_not_lead(&anchor, &unproven)),
            Err(mut said) => {
                self.absolve();
                said.insert(anchor.node, PeerFailure::Lacks(None));
                Err(match said.values().any(|said| matches!(said, PeerFailure::Nothing(_))) {
                    true => NoSupply::NotYet(describe(want.from, &said)),
                    false => NoSupply::Lost(describe(want.from, &said)),
                })
            }
        }
    }

    /// Hands out entries for an open hole.
    fn give(
        &mut self,
        entries: Vec<Fetched>,
        anchor: &Anchor,
        unproven: Vec<u64>,
    ) -> Result<Supply, NoSupply> {
        check(&entries, anchor).map_err(|why| NoSupply::NotYet(why.to_string()))?;
        self.learn_voters(&entries)?;
        let last = entries.last().map(|last| (last.entry.id.index + 1, last.chain));
        self.given = last.map(|next| Given { next, unproven });
        Ok(Supply::Entries(entries))
    }

    /// What these peers have given does not lead to the anchor's entries.
    fn do_not_lead(&mut self, anchor: &Anchor, wrong: &[u64]) -> NoSupply {
        let node = anchor.node;
        if wrong.is_empty() {
            return NoSupply::NotYet(format!("node {node}: its log has changed meanwhile"));
        }
        self.absolve();
        let wrong = decide::nodes(wrong);
        NoSupply::NotYet(format!("entries of {wrong} do not lead to those of node {node}"))
    }

    /// It is not for the anchor that this round fails.
    fn absolve(&mut self) {
        self.anchor = None;
    }

    /// Settles where the log ends, and fetches the last entry.
    fn settle(&mut self) -> Result<Anchor, NoSupply> {
        let mut told = self.standings();
        if let Some(node) = self.failed.take() {
            told.remove(&node);
        }
        let (node, last) = match decide::end(&Question {
            node_id: self.reader.asker.node_id,
            term: self.own.term,
            committed: self.own.committed,
            voters: self.voters(),
            told: &told,
        }) {
            End::Of { node, last } => (node, last),
            End::Unknown(why) => return Err(NoSupply::NotYet(why)),
            End::Lost(why) => return Err(NoSupply::Lost(why)),
        };
        let Some(last) = last else { return Ok(Anchor { node, next: 0, term: 0, chain: None }) };
        let not_yet = |why: String| NoSupply::NotYet(format!("node {node}: {why}"));
        let (entry, chain) = self
            .reader
            .one(node, last.index)
            .map_err(|said| not_yet(said.to_string()))?
            .ok_or_else(|| not_yet("its log has changed meanwhile".into()))?;
        if entry != last {
            return Err(not_yet("its log has changed meanwhile".into()));
        }
        tracing::info!(
            node,
            last = last.index,
            term = last.term,
            "the log ends as that node's does"
        );
        // Standings with an index past which there is no other are refused.
        let next = last.index + 1;
        Ok(Anchor { node, next, term: last.term, chain: Some(chain) })
    }

    /// What all peers say now. One with an older disk than before says nothing that counts.
    fn standings(&self) -> BTreeMap<u64, Standing> {
        let Reader { asker, runtime, peers, .. } = &self.reader;
        let ask = |(node, addr): &(u64, String)| {
            let (node, addr) = (*node, addr.clone());
            async move { (node, asker.standing(node, &addr).await) }
        };
        let answers = futures_util::future::join_all(peers.iter().map(ask));
        let answers = runtime.block_on(answers);
        let mut told = BTreeMap::new();
        for (node, answer) in answers {
            match answer {
                Ok(standing) => {
                    let known = self.own.boots.get(&node).copied().unwrap_or(0);
                    if standing.boot_count < known {
                        tracing::warn!(
                            node,
                            "its disk is older than before: its word does not count"
                        );
                        continue;
                    }
                    told.insert(node, standing);
                }
                Err(error) => tracing::debug!(node, %error, "no standing"),
            }
        }
        told
    }

    /// Whether the log that counts is another one already before the hole: then what was in the
    /// hole is no part of it.
    fn diverges(&self, want: &Want, anchor: &Anchor) -> Result<bool, NoSupply> {
        let Some(before) = want.from.checked_sub(1) else { return Ok(false) };
        match self.reader.one(anchor.node, before) {
            Ok(Some((_, chain))) => Ok(chain != want.before),
            // Damaged there, perhaps: then the entries themselves will tell.
            Ok(None) => Ok(false),
            Err(said) => Err(NoSupply::NotYet(format!("node {}: {said}", anchor.node))),
        }
    }

    /// What the first of these peers has that has anything, or what each said about it; for an
    /// open hole, nothing that cannot be in the anchor's log.
    fn first_of(
        &mut self,
        nodes: &[u64],
        want: &Want,
        to: u64,
        anchor: Option<&Anchor>,
    ) -> Result<(u64, Vec<Fetched>), BTreeMap<u64, PeerFailure>> {
        let mut said = BTreeMap::new();
        for node in self.reader.order(nodes, want, to) {
            let entries = self.reader.ask(node, want, to);
            let sound = entries.and_then(|entries| match anchor {
                Some(anchor) => check(&entries, anchor).map(|()| entries),
                None => Ok(entries),
            });
            match sound {
                Ok(entries) => return Ok((node, entries)),
                Err(why) => {
                    if matches!(why, PeerFailure::Nothing(_)) {
                        self.silent.push(node);
                    }
                    said.insert(node, why);
                }
            }
        }
        Err(said)
    }

    /// A membership among entries for a closed hole, newer than all that can be read here: if the
    /// hole ends as it must, its voters are those who know where the log ends.
    fn pass(&mut self, entries: &[Fetched]) {
        let known = self.passed.as_ref().map_or(self.own.voters_since, |(_, since)| *since);
        for (index, membership) in memberships(entries).filter(|(index, _)| *index >= known) {
            self.passed = Some((membership.get_joint_config().clone(), index + 1));
            self.anchor = None;
            self.learn_peers(&membership);
        }
    }

    /// A membership among the entries: whoever votes under it is asked too, before the log is
    /// opened with it.
    fn learn_voters(&mut self, entries: &[Fetched]) -> Result<(), NoSupply> {
        let mut voters = self.voters().to_vec();
        let known = voters.len();
        for (index, membership) in memberships(entries) {
            for set in membership.get_joint_config() {
                if !voters.contains(set) {
                    voters.push(set.clone());
                    self.own.voters_since = index + 1;
                }
            }
            self.learn_peers(&membership);
        }
        if voters.len() > known {
            self.own.voters = voters;
            self.restart();
            return Err(NoSupply::NotYet(
                "the group has changed: its new voters are asked too".into(),
            ));
        }
        Ok(())
    }

    fn learn_peers(&mut self, membership: &Membership) {
        for (id, peer) in membership.nodes() {
            let known = self.reader.peers.iter().any(|(known, _)| known == id);
            if *id != self.reader.asker.node_id && !known {
                self.reader.peers.push((*id, peer.raft_addr.clone()));
            }
        }
    }
}

/// Those among the entries that can be read, with their indexes.
fn memberships(entries: &[Fetched]) -> impl Iterator<Item = (u64, Membership)> + '_ {
    let of_group = entries.iter().filter(|fetched| fetched.entry.kind == EntryKind::Membership);
    of_group.filter_map(|Fetched { entry, .. }| {
        Some((entry.id.index, membership::decode(&entry.head).ok()?))
    })
}

/// Whether entries can be in the anchor's log at all. Nothing of ours follows that would tell.
fn check(entries: &[Fetched], anchor: &Anchor) -> Result<(), PeerFailure> {
    for Fetched { entry, .. } in entries {
        let index = entry.id.index;
        if entry.id.term > anchor.term {
            let (term, node) = (entry.id.term, anchor.node);
            return Err(PeerFailure::Wrong(format!(
                "has entry {index} of term {term}, which the log of node {node} never saw"
            )));
        }
        if entry.kind == EntryKind::Membership
            && let Err(error) = membership::decode(&entry.head)
        {
            return Err(PeerFailure::Wrong(format!(
                "has a membership {index} that is none: {error}"
            )));
        }
    }
    Ok(())
}

fn describe(index: u64, said: &BTreeMap<u64, PeerFailure>) -> String {
    if said.is_empty() {
        return format!("entry {index}: there is no peer to ask");
    }
    let each: Vec<String> = said.iter().map(|(node, said)| format!("node {node} {said}")).collect();
    format!("entry {index}: {}", each.join("; "))
}

/// What to do about a mending that failed.
pub(super) enum Next {
    /// Ask again later: why.
    Wait(String),
    /// All have answered, and nobody has it.
    Lost(String),
    /// The log that counts is another one than ours, up to where ours is known to be committed.
    Diverged(String),
    /// Asking again does not help.
    Failed(MendError),
}

/// Sorts a failure.
pub(super) fn sort(error: MendError) -> Next {
    match error {
        MendError::NotSupplied { source, .. } => match source.downcast::<NoSupply>() {
            Ok(why) => match *why {
                NoSupply::NotYet(why) => Next::Wait(why),
                NoSupply::Lost(why) => Next::Lost(why),
            },
            Err(other) => Next::Lost(other.to_string()),
        },
        MendError::Committed { .. } => Next::Diverged(error.to_string()),
        MendError::Persists(_) => Next::Lost(error.to_string()),
        MendError::Refused { .. }
        | MendError::DoesNotJoin { .. }
        | MendError::NotClosed { .. }
        | MendError::NotNow { .. }
        | MendError::Gone { .. } => Next::Wait(error.to_string()),
        // What was written is gone again: there may be room for what another peer has.
        MendError::Disk(disk) if disk.is_full() => Next::Wait(disk.to_string()),
        MendError::Open(_) | MendError::Log(_) | MendError::Disk(_) => Next::Failed(error),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use indelible_core::{Entry, EntryId, Hash};

    use super::*;

    /// A start decodes the newest membership, and a vote is raised to the last entry's term.
    #[test]
    fn what_cannot_be_in_the_anchors_log_is_refused() {
        let fetched = |term, kind, head: &'static [u8]| {
            let id = EntryId { index: 7, term, leader: 1 };
            let entry = Entry { id, kind, head: Bytes::from_static(head), body: Bytes::new() };
            [Fetched { entry, chain: Hash([0; 32]) }]
        };
        let anchor = Anchor { node: 3, next: 9, term: 5, chain: None };
        let said = |entries: &[Fetched]| check(entries, &anchor).map_err(|said| said.to_string());
        assert_eq!(said(&fetched(5, EntryKind::Blank, b"")), Ok(()));
        let later = said(&fetched(6, EntryKind::Blank, b"")).unwrap_err();
        assert!(later.contains("entry 7 of term 6"), "{later}");
        let garbage = said(&fetched(5, EntryKind::Membership, b"\xff\xff")).unwrap_err();
        assert!(garbage.contains("membership 7 that is none"), "{garbage}");
    }
}
