//! Alarms: what a person has to know, whichever call or background task found it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use indelible_core::limits::CLIENT_ALARMS_MAX;
use tokio::sync::watch;

use super::evidence::{BrokenReceipt, Fork, Lie, RolledBack, Unsettled};

/// Something is wrong with the trail or with a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Alarm {
    /// A node's answer contradicts itself, or what was signed. This client does not ask it again.
    #[error("{0}")]
    NodeLied(Lie),
    /// Two validly signed checkpoints contradict each other.
    #[error("{0}")]
    Fork(Box<Fork>),
    /// What was signed or acknowledged is no longer in the trail.
    #[error("{0}")]
    RolledBack(RolledBack),
    /// The cosigned trail holds another leaf than the one that was acknowledged.
    #[error("{0}")]
    ReceiptBroken(Box<BrokenReceipt>),
    /// Receipts that no checkpoint has covered in time.
    #[error("{0}")]
    Unsettled(Unsettled),
}

/// The alarms of one client, for everybody who wants to hear them.
#[derive(Default)]
pub(crate) struct Board {
    kept: Mutex<Kept>,
    raised: watch::Sender<u64>,
}

/// The last alarms, oldest first. `first` is the number of the oldest.
#[derive(Default)]
struct Kept {
    alarms: VecDeque<Alarm>,
    first: u64,
}

impl Board {
    /// Logs it, keeps it, and tells whoever listens.
    pub(crate) fn raise(&self, alarm: Alarm) {
        tracing::error!(%alarm, "alarm");
        let mut kept = self.kept();
        if kept.alarms.len() == CLIENT_ALARMS_MAX {
            kept.alarms.pop_front();
            kept.first += 1;
        }
        kept.alarms.push_back(alarm);
        let next = kept.first + kept.alarms.len() as u64;
        drop(kept);
        self.raised.send_replace(next);
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("nothing panics while it holds this lock")
    }
}

/// The alarms of a client, in order. Those raised before it was made are in it too.
pub struct Alarms {
    board: Arc<Board>,
    raised: watch::Receiver<u64>,
    /// Number of the next one.
    next: u64,
}

impl Alarms {
    pub(crate) fn new(board: &Arc<Board>) -> Alarms {
        Alarms { board: board.clone(), raised: board.raised.subscribe(), next: 0 }
    }

    /// The next alarm; waits for it. Dropping the future loses none.
    ///
    /// A listener that is far behind misses the oldest ones: the client keeps a few hundred. All
    /// are in the log.
    pub async fn next(&mut self) -> Alarm {
        loop {
            self.raised.mark_unchanged();
            if let Some(alarm) = self.try_next() {
                return alarm;
            }
            if self.raised.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The next alarm, if there is one already.
    pub fn try_next(&mut self) -> Option<Alarm> {
        let kept = self.board.kept();
        self.next = self.next.max(kept.first);
        let alarm = kept.alarms.get((self.next - kept.first) as usize)?.clone();
        self.next += 1;
        Some(alarm)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn alarm(number: u64) -> Alarm {
        Alarm::Unsettled(Unsettled {
            count: 1,
            first_index: number,
            waited: Duration::from_secs(60),
            last: "no answer".into(),
        })
    }

    #[tokio::test]
    async fn every_listener_hears_all_and_late_ones_what_is_kept() {
        let board = Arc::new(Board::default());
        let mut early = Alarms::new(&board);
        assert_eq!(early.try_next(), None);
        let all = CLIENT_ALARMS_MAX as u64 + 5;
        for number in 0..all {
            board.raise(alarm(number));
            assert_eq!(early.next().await, alarm(number));
        }
        let mut late = Alarms::new(&board);
        for number in 5..all {
            assert_eq!(late.try_next(), Some(alarm(number)));
        }
        assert_eq!(late.try_next(), None);
        board.raise(alarm(7));
        assert_eq!((late.next().await, early.next().await), (alarm(7), alarm(7)));
    }
}
