//! Where a log ends whose end is damaged: what may be concluded from what peers say.
//!
//! A node that comes back without an entry that it had acknowledged can lose it for the whole
//! group: it may elect a leader that lacks it. So the end of a damaged log is settled by others,
//! by one of two rules; docs/adr/0007 has the argument for each. Pure: what was asked, and whom,
//! is the caller's business.

use std::collections::{BTreeMap, BTreeSet};

use indelible_core::EntryId;

use crate::raft::mending::Standing;

/// What a node knows of itself, and what its peers have said.
#[derive(Debug)]
pub(super) struct Question<'a> {
    /// The node whose log's end is damaged.
    pub(super) node_id: u64,
    /// The highest term that it has promised: it has acknowledged nothing of a higher one.
    pub(super) term: u64,
    /// Entries before this one are known to be committed.
    pub(super) committed: u64,
    /// The voters; two sets while a change is under way.
    pub(super) voters: &'a [BTreeSet<u64>],
    /// Newest answer of each peer. Those of peers with an older disk than before are left out.
    pub(super) told: &'a BTreeMap<u64, Standing>,
}

/// Where the log ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// With the last entry of this peer's log, none if that is empty. Whatever this node had beyond
    /// is not committed and never will be.
    Of {
        /// The peer.
        node: u64,
        /// Its last entry.
        last: Option<EntryId>,
    },
    /// Too few have answered, or it depends on an election. For people.
    Unknown(String),
    /// All have answered, and nobody can tell any more. For people.
    Lost(String),
}

/// Settles it.
pub(super) fn end(question: &Question<'_>) -> End {
    let Some(best) = by_leader(question).or_else(|| by_voters(question)) else {
        return nobody(question);
    };
    if best.next() < question.committed {
        let silent = silent(question);
        if !silent.is_empty() {
            return End::Unknown(format!("no answer yet from {}", nodes(&silent)));
        }
        return End::Lost(format!(
            "entries before {} are committed, as this node knows, but the log of node {} ends with {}",
            question.committed,
            best.node_id,
            last_of(best),
        ));
    }
    End::Of { node: best.node_id, last: best.last }
}

/// Rule 1: one process that leads, or has led, a term that is not below this node's. Whatever this
/// node has acknowledged came from that leader, or from one of an earlier term: then it is in its
/// log too if it can ever be committed.
fn by_leader<'a>(question: &Question<'a>) -> Option<&'a Standing> {
    let leads = |standing: &&Standing| {
        // One that lacks what is committed has not led a term that counts, whatever it says.
        let has_all = standing.next() >= question.committed;
        standing.open && has_all && standing.led_term > 0 && standing.led_term >= question.term
    };
    question.told.values().filter(leads).max_by_key(|standing| standing.led_term)
}

/// Rule 2: the most up-to-date log of voters one of whom must have whatever was committed with this
/// node's acknowledgement. Either all the others; or a majority that has promised a higher term
/// than this node's, so that no leader can still count that acknowledgement together with one of
/// theirs.
fn by_voters<'a>(question: &Question<'a>) -> Option<&'a Standing> {
    let whole = |id: &u64| -> Option<&'a Standing> {
        question.told.get(id).filter(|standing| *id != question.node_id && !standing.tail_damaged)
    };
    let all_others = question.voters.iter().all(|set| {
        set.len() > 1 && set.iter().all(|id| *id == question.node_id || whole(id).is_some())
    });
    let promised = |id: &u64| whole(id).is_some_and(|standing| standing.term > question.term);
    let fenced = question
        .voters
        .iter()
        .all(|set| set.iter().filter(|id| promised(id)).count() > set.len() / 2);
    if question.voters.is_empty() || !(all_others || fenced) {
        return None;
    }
    let counts = |id: &&u64| all_others || promised(id);
    let answers = question.voters.iter().flatten().filter(counts).filter_map(whole);
    answers.max_by_key(|standing| standing.last.map(|last| (last.term, last.index)))
}

/// Nobody can settle it now: can anybody later?
fn nobody(question: &Question<'_>) -> End {
    let silent = silent(question);
    if !silent.is_empty() {
        return End::Unknown(format!("no answer yet from {}", nodes(&silent)));
    }
    let damaged: Vec<u64> = question
        .told
        .values()
        .filter(|standing| standing.tail_damaged)
        .map(|standing| standing.node_id)
        .collect();
    let electable = |set: &BTreeSet<u64>| {
        let whole = |id: &&u64| **id != question.node_id && !damaged.contains(id);
        set.iter().filter(whole).count() > set.len() / 2
    };
    if !question.voters.is_empty() && question.voters.iter().all(electable) {
        return End::Unknown("the other voters will elect a leader, who knows".into());
    }
    if damaged.is_empty() {
        return End::Lost("there is no other voter to ask".into());
    }
    End::Lost(format!("the end of the log is damaged on {} too", nodes(&damaged)))
}

/// Voters that have not answered.
fn silent(question: &Question<'_>) -> Vec<u64> {
    let told = |id: &u64| *id == question.node_id || question.told.contains_key(id);
    question.voters.iter().flatten().copied().filter(|id| !told(id)).collect()
}

fn last_of(standing: &Standing) -> String {
    standing.last.map_or("nothing".into(), |last| format!("entry {}", last.index))
}

/// Ids, for people.
pub(super) fn nodes(ids: &[u64]) -> String {
    let ids: BTreeSet<u64> = ids.iter().copied().collect();
    let names: Vec<String> = ids.iter().map(|id| format!("node {id}")).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A peer that is open, has promised `term`, and whose last entry is (term, index).
    fn peer(node_id: u64, term: u64, last: (u64, u64)) -> Standing {
        let last = Some(EntryId { index: last.1, term: last.0, leader: 1 });
        Standing { node_id, last, open: true, term, boot_count: 1, ..Default::default() }
    }

    fn leader(node_id: u64, term: u64, last: (u64, u64)) -> Standing {
        Standing { led_term: term, ..peer(node_id, term, last) }
    }

    fn damaged(node_id: u64, term: u64, last: (u64, u64)) -> Standing {
        Standing { tail_damaged: true, open: false, ..peer(node_id, term, last) }
    }

    /// Asks as node 1 that has promised term 5 and knows entries before 10 to be committed.
    fn ask(voters: &[&[u64]], told: &[Standing]) -> End {
        let voters: Vec<BTreeSet<u64>> =
            voters.iter().map(|set| set.iter().copied().collect()).collect();
        let told = told.iter().map(|one| (one.node_id, one.clone())).collect();
        end(&Question { node_id: 1, term: 5, committed: 10, voters: &voters, told: &told })
    }

    fn of(node: u64, last: (u64, u64)) -> End {
        End::Of { node, last: Some(EntryId { index: last.1, term: last.0, leader: 1 }) }
    }

    #[test]
    fn of_three_both_others_settle_it_with_the_more_up_to_date_log() {
        let voters: &[&[u64]] = &[&[1, 2, 3]];
        assert_eq!(ask(voters, &[peer(2, 5, (5, 12)), peer(3, 5, (5, 14))]), of(3, (5, 14)));
        // A later term counts more than a longer log.
        assert_eq!(ask(voters, &[peer(2, 6, (6, 12)), peer(3, 5, (5, 14))]), of(2, (6, 12)));
        // One of them is not enough: the other may hold what only it and this node acknowledged.
        assert!(matches!(ask(voters, &[peer(2, 9, (5, 12))]), End::Unknown(_)));
        // Not even a majority counts if the log's end is damaged there as well.
        let two = [damaged(2, 5, (5, 12)), peer(3, 5, (5, 14))];
        assert!(matches!(ask(voters, &two), End::Lost(_)));
    }

    #[test]
    fn one_leader_settles_it_if_its_term_is_not_below_this_nodes() {
        let voters: &[&[u64]] = &[&[1, 2, 3]];
        assert_eq!(ask(voters, &[leader(2, 5, (5, 13))]), of(2, (5, 13)));
        assert_eq!(ask(voters, &[leader(2, 7, (7, 13)), damaged(3, 5, (5, 11))]), of(2, (7, 13)));
        // What this node has acknowledged in term 5 need not have come from a leader of term 4.
        assert!(matches!(ask(voters, &[leader(2, 4, (4, 13))]), End::Unknown(_)));
        // Its process was another one: entries that it had sent and not yet written are gone.
        let restarted = Standing { open: false, ..leader(2, 5, (5, 13)) };
        assert!(matches!(ask(voters, &[restarted]), End::Unknown(_)));
    }

    /// Node 2 leads term 5 and has entry 12 from itself and node 1. Nodes 3, 4 and 5 are a
    /// majority, and lack it. If that settled it, node 3 could take entry 12 a moment later:
    /// committed by 1, 2 and 3, and lost with node 2 if node 1 came back without it and elected
    /// node 4.
    #[test]
    fn a_majority_of_five_settles_it_only_if_no_leader_can_count_the_old_acknowledgement() {
        let voters: &[&[u64]] = &[&[1, 2, 3, 4, 5]];
        let lacking = |term| [3, 4, 5].map(|id| peer(id, term, (5, 11)));
        assert!(matches!(ask(voters, &lacking(5)), End::Unknown(_)));
        // They have promised a higher term, and take nothing from node 2 any more.
        assert_eq!(ask(voters, &lacking(6)), of(5, (5, 11)));
        // Or node 2 is heard too.
        let mut all = lacking(5).to_vec();
        all.push(peer(2, 5, (5, 12)));
        assert_eq!(ask(voters, &all), of(2, (5, 12)));
        // Two that have promised are no majority.
        assert!(matches!(ask(voters, &lacking(6)[..2]), End::Unknown(_)));
    }

    #[test]
    fn with_two_damaged_ends_of_five_the_other_three_elect_a_leader_first() {
        let voters: &[&[u64]] = &[&[1, 2, 3, 4, 5]];
        let mut told = [3, 4, 5].map(|id| peer(id, 5, (5, 11))).to_vec();
        told.push(damaged(2, 5, (5, 11)));
        assert!(matches!(ask(voters, &told), End::Unknown(_)));
        told[0] = leader(3, 6, (6, 12));
        assert_eq!(ask(voters, &told), of(3, (6, 12)));
        // With three damaged ends there is no leader to come.
        let three = [2, 3].map(|id| damaged(id, 5, (5, 11)));
        let rest = [4, 5].map(|id| peer(id, 5, (5, 11)));
        assert!(matches!(ask(voters, &[three, rest].concat()), End::Lost(_)));
    }

    #[test]
    fn while_the_group_changes_both_sets_must_settle_it() {
        let voters: &[&[u64]] = &[&[1, 2, 3], &[1, 4, 5]];
        let (two, three) = (peer(2, 5, (5, 12)), peer(3, 5, (5, 11)));
        let (four, five) = (peer(4, 5, (5, 13)), peer(5, 5, (5, 11)));
        let old = [two.clone(), three.clone()];
        assert!(matches!(ask(voters, &old), End::Unknown(_)));
        assert_eq!(ask(voters, &[two, three, four, five]), of(4, (5, 13)));
    }

    #[test]
    fn alone_or_with_one_other() {
        assert!(matches!(ask(&[&[1]], &[]), End::Lost(_)));
        assert!(matches!(ask(&[], &[]), End::Lost(_)));
        // Of two, whatever was committed is on both.
        assert_eq!(ask(&[&[1, 2]], &[peer(2, 5, (5, 12))]), of(2, (5, 12)));
        assert!(matches!(ask(&[&[1, 2]], &[damaged(2, 5, (5, 12))]), End::Lost(_)));
    }

    #[test]
    fn nobody_takes_back_what_is_known_to_be_committed() {
        let voters: &[&[u64]] = &[&[1, 2, 3]];
        let short = [peer(2, 5, (5, 8)), peer(3, 5, (5, 7))];
        assert!(matches!(ask(voters, &short), End::Lost(_)));
        // One that says it leads, and lacks them, lies: its word is no more than a voter's.
        let liar = Standing { last: None, ..leader(2, u64::MAX, (0, 0)) };
        assert!(matches!(ask(voters, std::slice::from_ref(&liar)), End::Unknown(_)));
        assert_eq!(ask(voters, &[liar.clone(), leader(3, 5, (5, 14))]), of(3, (5, 14)));
        assert_eq!(ask(voters, &[liar, peer(3, 5, (5, 14))]), of(3, (5, 14)));
        // A majority that has promised more does not settle it against that before all are heard.
        let five: &[&[u64]] = &[&[1, 2, 3, 4, 5]];
        let fenced = [2, 3, 4].map(|id| peer(id, 6, (5, 8)));
        assert!(matches!(ask(five, &fenced), End::Unknown(_)));
        let just = [peer(2, 5, (5, 9)), peer(3, 5, (5, 7))];
        assert_eq!(ask(voters, &just), of(2, (5, 9)));
    }
}
