//! Which peers say that this node was removed from the group.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// As each of them said last.
#[derive(Debug, Default)]
pub struct Removals {
    by: Mutex<BTreeSet<u64>>,
    news: Notify,
}

impl Removals {
    /// A peer says so.
    pub fn heard(&self, node: u64) {
        self.by().insert(node);
        self.news.notify_one();
    }

    /// A peer speaks to this node, or has another reason not to.
    pub fn taken_back(&self, node: u64) {
        self.by().remove(&node);
    }

    /// Those of the voters that say so, if they are a majority of those besides `me`.
    pub fn majority_besides(&self, me: u64, voters: &BTreeSet<u64>) -> Option<Vec<u64>> {
        let by: Vec<u64> = voters.intersection(&self.by()).copied().collect();
        is_majority_besides(me, voters, &by).then_some(by)
    }

    /// Completes when a peer has said so since the last call. For one task.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    fn by(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.by.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether these nodes are a majority of the voters besides `me`: they go on without it. In a group
/// of two that is the other one, without which nothing is decided anyway.
pub(super) fn is_majority_besides(me: u64, voters: &BTreeSet<u64>, by: &[u64]) -> bool {
    let is_other = |id: &&u64| **id != me && voters.contains(id);
    let others = voters.iter().filter(is_other).count();
    2 * by.iter().filter(is_other).count() > others
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_majority_of_the_other_voters_has_to_say_it() {
        let (removals, voters) = (Removals::default(), BTreeSet::from([1, 2, 3]));
        assert_eq!(removals.majority_besides(2, &BTreeSet::new()), None, "nobody knows any voters");
        // Nodes that are no voters have no say, and nobody has two.
        for node in [1, 7, 8, 1] {
            removals.heard(node);
        }
        removals.news().await;
        assert_eq!(removals.majority_besides(2, &voters), None);
        removals.heard(3);
        assert_eq!(removals.majority_besides(2, &voters), Some(vec![1, 3]));
        removals.taken_back(1);
        assert_eq!(removals.majority_besides(2, &voters), None);
    }

    #[test]
    fn the_other_one_of_two_is_a_majority_and_nobody_of_one() {
        assert!(is_majority_besides(2, &BTreeSet::from([1, 2]), &[1]));
        assert!(!is_majority_besides(1, &BTreeSet::from([1]), &[1]));
        assert!(!is_majority_besides(1, &BTreeSet::from([1]), &[]));
        assert!(!is_majority_besides(4, &BTreeSet::from([1, 2, 3, 4]), &[1, 4]));
        assert!(is_majority_besides(4, &BTreeSet::from([1, 2, 3, 4]), &[1, 3]));
    }
}
