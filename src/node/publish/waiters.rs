//! Who waits for a checkpoint: the sizes hurry the next round, for as long as somebody waits.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

/// Everybody who waits. Cloning gives another handle.
#[derive(Clone)]
pub(super) struct Waiters(Arc<watch::Sender<Sizes>>);

/// The sizes that are waited for, and by how many. As large as there are requests under way.
#[derive(Debug, Default)]
pub(super) struct Sizes(BTreeMap<u64, usize>);

/// Somebody waits until this is dropped.
pub(super) struct Waiting {
    waiters: Waiters,
    size: u64,
}

impl Waiters {
    pub(super) fn new() -> Waiters {
        Waiters(Arc::new(watch::Sender::new(Sizes::default())))
    }

    /// Waits for a checkpoint of at least `size` leaves.
    pub(super) fn enter(&self, size: u64) -> Waiting {
        self.0.send_modify(|sizes| *sizes.0.entry(size).or_default() += 1);
        Waiting { waiters: self.clone(), size }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Sizes> {
        self.0.subscribe()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // Nobody has to hear that somebody has gone.
        self.waiters.0.send_if_modified(|sizes| {
            let count = sizes.0.get_mut(&self.size).expect("it was entered");
            *count -= 1;
            if *count == 0 {
                sizes.0.remove(&self.size);
            }
            false
        });
    }
}

impl Sizes {
    /// Whether a checkpoint of `size` leaves is what somebody waits for and the one of `covered`
    /// leaves was not. Whoever waits for more than there is gains nothing by it.
    pub(super) fn await_one_of(&self, size: u64, covered: u64) -> bool {
        size > covered && self.0.range(covered + 1..=size).next().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_hurries_what_helps_and_only_while_it_waits() {
        let waiters = Waiters::new();
        let sizes = waiters.subscribe();
        let awaited = |size, covered| sizes.borrow().await_one_of(size, covered);
        let for_ever = waiters.enter(u64::MAX);
        let (first, again) = (waiters.enter(7), waiters.enter(7));
        assert!(awaited(7, 6) && awaited(9, 3));
        assert!(!awaited(6, 3) && !awaited(9, 7), "not there yet, or there already");
        drop(first);
        assert!(awaited(7, 6));
        drop(again);
        assert!(!awaited(u64::MAX - 1, 0));
        drop(for_ever);
        assert!(sizes.borrow().0.is_empty());
    }
}
