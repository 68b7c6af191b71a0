//! Checkpoints that this client has seen and knows to be of one history. Pure: no clock, no
//! network.

use std::collections::VecDeque;
use std::sync::Arc;

use indelible_core::Hash;
use indelible_core::limits::CLIENT_LINKED_MAX;
use indelible_core::merkle::empty_root;

use super::evidence::Fork;
use super::signed::SignedCheckpoint;

/// What is known. Grows towards larger trees only.
#[derive(Default)]
pub(crate) struct Seen {
    newest: Option<Arc<SignedCheckpoint>>,
    /// Size and root of trees that are prefixes of `newest`, last found first.
    linked: VecDeque<(u64, Hash)>,
    /// Larger trees of which `newest` is a prefix, and which nobody has signed for. Another tree of
    /// that size may extend it as well, so this says nothing of what will be signed, and nothing
    /// at all once `newest` has grown.
    ahead: VecDeque<(u64, Hash)>,
    /// Once found, nothing is believed any more.
    fork: Option<Box<Fork>>,
}

/// How a tree stands to those that were seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is one of them.
    Known,
    /// There is none yet.
    First,
    /// Of the same size as this one, with another root.
    Conflict(Arc<SignedCheckpoint>),
    /// Larger than the newest: to be proven that that one is a prefix of it.
    Newer(Arc<SignedCheckpoint>),
    /// Smaller than the newest, and not known: to be proven a prefix of it.
    Older(Arc<SignedCheckpoint>),
}

impl Seen {
    /// The newest checkpoint.
    pub(crate) fn newest(&self) -> Option<&Arc<SignedCheckpoint>> {
        self.newest.as_ref()
    }

    /// The two histories that were found, if any were.
    pub(crate) fn fork(&self) -> Option<&Fork> {
        self.fork.as_deref()
    }

    /// Keeps the first fork. Returns whether this is it.
    pub(crate) fn found(&mut self, fork: &Fork) -> bool {
        let is_first = self.fork.is_none();
        self.fork.get_or_insert_with(|| Box::new(fork.clone()));
        is_first
    }

    /// How a tree of this size and root stands to those that were seen.
    pub(crate) fn standing(&self, size: u64, root: Hash) -> Standing {
        let Some(newest) = &self.newest else { return Standing::First };
        let same_size = self.linked.iter().find(|(linked, _)| *linked == size);
        let known_root = match same_size {
            Some((_, root)) => Some(*root),
            None if newest.checkpoint.size == size => Some(newest.checkpoint.root),
            // The empty tree is a prefix of all.
            None if size == 0 => Some(empty_root()),
            None => None,
        };
        match known_root {
            Some(known) if known == root => Standing::Known,
            Some(_) => Standing::Conflict(newest.clone()),
            None if self.ahead.contains(&(size, root)) => Standing::Known,
            None if size > newest.checkpoint.size => Standing::Newer(newest.clone()),
            None => Standing::Older(newest.clone()),
        }
    }

    /// A checkpoint that the policy accepts is the first, known, or was proven to be of the same
    /// history. Returns whether it is the newest now, or a later signature under the newest.
    pub(crate) fn keep(&mut self, checkpoint: &Arc<SignedCheckpoint>) -> bool {
        let (size, root) = (checkpoint.checkpoint.size, checkpoint.checkpoint.root);
        let order = |seen: &SignedCheckpoint| (seen.checkpoint.size, seen.unix_s);
        let is_newer = self.newest.as_ref().is_none_or(|newest| order(newest) < order(checkpoint));
        if is_newer {
            if self.newest.as_ref().is_none_or(|newest| newest.checkpoint.size < size) {
                self.ahead.clear();
            }
            self.newest = Some(checkpoint.clone());
        }
        self.link(size, root);
        is_newer
    }

    /// A tree was proven to be a prefix of the newest, or the newest one of it.
    pub(crate) fn link(&mut self, size: u64, root: Hash) {
        let is_ahead = self.newest.as_ref().is_none_or(|newest| newest.checkpoint.size < size);
        let list = if is_ahead { &mut self.ahead } else { &mut self.linked };
        if list.contains(&(size, root)) {
            return;
        }
        list.push_front((size, root));
        list.truncate(CLIENT_LINKED_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::signed::tests::signed;

    #[test]
    fn a_tree_is_known_newer_older_or_in_conflict() {
        let mut seen = Seen::default();
        let root = |byte| Hash([byte; 32]);
        assert_eq!(seen.standing(5, root(5)), Standing::First);
        let five = signed(5, root(5), 100);
        assert!(seen.keep(&five));
        assert_eq!(seen.standing(5, root(5)), Standing::Known);
        assert_eq!(seen.standing(5, root(6)), Standing::Conflict(five.clone()));
        assert_eq!(seen.standing(9, root(9)), Standing::Newer(five.clone()));
        assert_eq!(seen.standing(3, root(3)), Standing::Older(five.clone()));
        assert_eq!(seen.standing(0, empty_root()), Standing::Known);
        assert_eq!(seen.standing(0, root(0)), Standing::Conflict(five));
        let nine = signed(9, root(9), 100);
        assert!(seen.keep(&nine));
        assert_eq!(seen.standing(5, root(5)), Standing::Known);
        assert_eq!(seen.standing(5, root(4)), Standing::Conflict(nine.clone()));
        assert!(!seen.keep(&signed(5, root(5), 900)), "smaller is not newer");
        assert!(!seen.keep(&signed(9, root(9), 99)), "an older signature is not newer");
        assert!(seen.keep(&signed(9, root(9), 101)), "a later signature is");
        assert_eq!(seen.newest().map(|newest| newest.unix_s), Some(101));
    }

    #[test]
    fn an_unsigned_tree_ahead_says_nothing_once_another_was_signed() {
        let mut seen = Seen::default();
        let root = |byte| Hash([byte; 32]);
        seen.keep(&signed(12, root(12), 100));
        // One node has shown that this extends the newest; that nobody else will sign another is
        // not known.
        seen.link(14, root(99));
        assert_eq!(seen.standing(14, root(99)), Standing::Known);
        assert!(matches!(seen.standing(14, root(14)), Standing::Newer(_)));
        assert!(seen.keep(&signed(17, root(17), 100)));
        assert!(matches!(seen.standing(14, root(99)), Standing::Older(_)));
        assert!(matches!(seen.standing(14, root(14)), Standing::Older(_)));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut seen = Seen::default();
        for size in 1..=CLIENT_LINKED_MAX as u64 + 10 {
            seen.keep(&signed(size, Hash([1; 32]), size));
        }
        assert_eq!(seen.linked.len(), CLIENT_LINKED_MAX);
        assert!(matches!(seen.standing(3, Hash([1; 32])), Standing::Older(_)));
    }
}
