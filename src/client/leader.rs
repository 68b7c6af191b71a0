//! Who leads, as far as this client has heard. Pure: no clock, no network.

use indelible_proto::LeaderHint;
use indelible_proto::v1::{ClusterView, Role};

/// A leader that has not heard from a majority for this long, in milliseconds, is not believed when
/// it names itself (rule R6): it may have been deposed without knowing. Ten election timeouts of
/// the default configuration.
const QUORUM_ACK_AGE_MS_MAX: u32 = 3_000;

/// The newest leader known, ordered by term and id, so that a deposed leader's claim cannot undo
/// what is known (the stale-primary rule of MongoDB's drivers). A term can have two leaders, of
/// which the one with the higher id is the later one.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct LeaderView {
    /// Highest term heard of.
    pub(crate) term: u64,
    /// Who leads in it; none while that is open.
    pub(crate) leader: Option<u64>,
    /// Where it is, if a hint said so; the membership usually does.
    pub(crate) addr: Option<String>,
}

impl LeaderView {
    /// A node's own view. Returns whether anything changed.
    pub(crate) fn observe(&mut self, view: &ClusterView) -> bool {
        let doubtful = view.role() == Role::Leader
            && view.quorum_ack_age_ms.is_some_and(|age| age >= QUORUM_ACK_AGE_MS_MAX);
        let leader = (view.leader_id != 0 && !doubtful).then_some(view.leader_id);
        self.merge(view.term, leader, None)
    }

    /// What a refusal says. Returns whether anything changed.
    pub(crate) fn hint(&mut self, hint: &LeaderHint) -> bool {
        let addr = (!hint.addr.is_empty()).then(|| hint.addr.clone());
        self.merge(hint.term, (hint.id != 0).then_some(hint.id), addr)
    }

    /// This node says that it does not lead, or it cannot be reached: forgets it, and nothing else.
    /// Returns whether anything changed.
    pub(crate) fn deny(&mut self, node_id: u64) -> bool {
        let denied = self.leader == Some(node_id);
        if denied {
            self.leader = None;
            self.addr = None;
        }
        denied
    }

    fn merge(&mut self, term: u64, leader: Option<u64>, addr: Option<String>) -> bool {
        // NB: no leader is less than any.
        let newer = (term, leader) > (self.term, self.leader);
        if newer {
            *self = LeaderView { term, leader, addr };
        }
        newer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(node_id: u64, role: Role, term: u64, leader_id: u64) -> ClusterView {
        ClusterView { node_id, role: role.into(), term, leader_id, ..Default::default() }
    }

    #[test]
    fn a_lower_term_changes_nothing() {
        let mut leader = LeaderView::default();
        assert!(leader.observe(&view(2, Role::Follower, 5, 1)));
        assert!(!leader.observe(&view(3, Role::Leader, 4, 3)));
        assert!(!leader.hint(&LeaderHint { id: 3, addr: "c:1".into(), term: 4 }));
        assert_eq!((leader.term, leader.leader), (5, Some(1)));
    }

    #[test]
    fn a_higher_term_without_a_leader_clears_and_is_filled() {
        let mut leader = LeaderView::default();
        leader.observe(&view(2, Role::Follower, 5, 1));
        assert!(leader.observe(&view(2, Role::Candidate, 6, 0)));
        assert_eq!(leader.leader, None);
        assert!(!leader.observe(&view(1, Role::Leader, 5, 1)));
        assert!(leader.hint(&LeaderHint { id: 3, addr: "c:1".into(), term: 6 }));
        assert_eq!((leader.leader, leader.addr.as_deref()), (Some(3), Some("c:1")));
    }

    #[test]
    fn of_two_leaders_of_a_term_the_later_one_counts() {
        let mut leader = LeaderView::default();
        leader.observe(&view(3, Role::Follower, 5, 1));
        assert!(leader.observe(&view(2, Role::Leader, 5, 2)));
        assert_eq!(leader.leader, Some(2));
        // Who has not heard of it yet.
        assert!(!leader.observe(&view(3, Role::Follower, 5, 1)));
        assert!(!leader.observe(&view(3, Role::Candidate, 5, 0)));
        assert_eq!(leader.leader, Some(2));
    }

    #[test]
    fn a_leader_that_lost_its_majority_is_not_believed() {
        let mut leader = LeaderView::default();
        let mut claim = view(1, Role::Leader, 7, 1);
        claim.quorum_ack_age_ms = Some(QUORUM_ACK_AGE_MS_MAX);
        leader.observe(&claim);
        assert_eq!((leader.term, leader.leader), (7, None));
        claim.quorum_ack_age_ms = Some(0);
        assert!(leader.observe(&claim));
        assert_eq!(leader.leader, Some(1));
    }

    #[test]
    fn only_the_leader_itself_can_be_denied() {
        let mut leader = LeaderView::default();
        leader.observe(&view(2, Role::Follower, 5, 1));
        assert!(!leader.deny(2));
        assert!(leader.deny(1));
        assert_eq!((leader.term, leader.leader), (5, None));
    }
}
