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

    /// Those of the voters that say so, if they are a majority.
    pub fn majority_of(&self, voters: &BTreeSet<u64>) -> Option<Vec<u64>> {
        let by: Vec<u64> = voters.intersection(&self.by()).copied().collect();
        (by.len() * 2 > voters.len()).then_some(by)
    }

    /// Completes when a peer has said so since the last call. For one task.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    fn by(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.by.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_majority_of_the_voters_has_to_say_it() {
        let (removals, voters) = (Removals::default(), BTreeSet::from([1, 2, 3]));
        assert_eq!(removals.majority_of(&BTreeSet::new()), None, "nobody knows any voters");
        // Nodes that are no voters have no say, and nobody has two.
        for node in [1, 7, 8, 1] {
            removals.heard(node);
        }
        removals.news().await;
        assert_eq!(removals.majority_of(&voters), None);
        removals.heard(3);
        assert_eq!(removals.majority_of(&voters), Some(vec![1, 3]));
        removals.taken_back(1);
        assert_eq!(removals.majority_of(&voters), None);
    }
}
