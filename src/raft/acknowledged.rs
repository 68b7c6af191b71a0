//! What peers have acknowledged, and when: a peer whose log ends before that has lost some of it.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

/// How exactly times are kept.
const GRAIN: Duration = Duration::from_secs(1);
/// How many of those are kept: longer than any handshake takes.
const GRAINS: usize = 32;

/// The highest of what each peer has acknowledged: the index of an entry that is committed, or the
/// promise that it has made with a vote.
#[derive(Debug, Default)]
pub(super) struct Acknowledged<T = u64>(HashMap<u64, Peer<T>>);

#[derive(Debug, Default)]
struct Peer<T> {
    /// Acknowledged before all of `recent`.
    before: T,
    recent: VecDeque<Grain<T>>,
}

#[derive(Debug)]
struct Grain<T> {
    first: Instant,
    last: Instant,
    index: T,
}

impl<T: Ord + Copy + Default> Acknowledged<T> {
    /// Keeps these peers only.
    pub(super) fn retain(&mut self, stays: impl Fn(&u64) -> bool) {
        self.0.retain(|node, _| stays(node));
    }

    /// A peer has acknowledged everything up to `index`.
    pub(super) fn note(&mut self, node: u64, index: T, now: Instant) {
        let peer = self.0.entry(node).or_default();
        match peer.recent.back_mut() {
            Some(grain) if grain.index >= index => return,
            Some(grain) if now < grain.first + GRAIN => {
                (grain.last, grain.index) = (now, index);
                return;
            }
            _ => {}
        }
        peer.recent.push_back(Grain { first: now, last: now, index });
        if peer.recent.len() > GRAINS
            && let Some(oldest) = peer.recent.pop_front()
        {
            peer.before = oldest.index;
        }
    }

    /// What a peer had acknowledged at some moment, or less. Not for moments long ago.
    pub(super) fn at(&self, node: u64, moment: Instant) -> T {
        let Some(peer) = self.0.get(&node) else { return T::default() };
        let until = peer.recent.iter().rev().find(|grain| grain.last <= moment);
        until.map_or(peer.before, |grain| grain.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f3_what_is_acknowledged_later_is_not_asked_of_what_was_said_before() {
        let mut acknowledged = Acknowledged::default();
        let began = Instant::now();
        let at = |seconds: u64| began + Duration::from_secs(seconds);
        assert_eq!(acknowledged.at(4, at(0)), 0);
        acknowledged.note(4, 7, at(1));
        acknowledged.note(4, 11, at(3));
        assert_eq!([0, 1, 2, 3, 9].map(|second| acknowledged.at(4, at(second))), [0, 7, 7, 11, 11]);
        assert_eq!(acknowledged.at(5, at(9)), 0, "each peer has its own");
        // An answer that was overtaken.
        acknowledged.note(4, 9, at(4));
        assert_eq!(acknowledged.at(4, at(9)), 11);
    }

    #[test]
    fn times_are_kept_for_a_while_and_indexes_for_ever() {
        let mut acknowledged = Acknowledged::default();
        let began = Instant::now();
        let at = |ms: u64| began + Duration::from_millis(ms);
        for ms in 0..100_000 {
            acknowledged.note(4, ms, at(ms));
        }
        assert_eq!(acknowledged.0[&4].recent.len(), GRAINS);
        assert_eq!(acknowledged.at(4, at(100_000)), 99_999);
        for ms in [70_000, 80_500, 99_000] {
            let known = acknowledged.at(4, at(ms));
            assert!((ms - 1001..=ms).contains(&known), "{known} at {ms}");
        }
        // Longer ago than any handshake began.
        assert!((60_000..70_000).contains(&acknowledged.at(4, at(0))));
    }
}
