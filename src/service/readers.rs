//! Calls of the ledger, off the runtime's threads: they may wait for a disk.
//!
//! A read of one record takes a few microseconds, and to wake a thread for it takes longer. So a
//! thread that has finished a call takes the next one from the queue. Another thread is woken when
//! the queue is long, or when a call has waited so long that a disk must be slow.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

/// Calls that may wait for each thread that is awake.
const WAITING_PER_THREAD: usize = 16;
/// Threads that are awake at once; the system's disks have queues of this order.
const THREADS_MAX: usize = 64;
/// A call that nobody has answered for so long gets another thread to wait for.
const STALL: Duration = Duration::from_millis(1);

/// Runs calls on what it reads from, `L`. Cheap to clone.
pub(super) struct Readers<L>(Arc<Shared<L>>);

struct Shared<L> {
    source: L,
    queue: Mutex<Queue<L>>,
}

struct Queue<L> {
    waiting: VecDeque<Call<L>>,
    threads: usize,
}

type Call<L> = Box<dyn FnOnce(&L) + Send>;

impl<L> Clone for Readers<L> {
    fn clone(&self) -> Self {
        Readers(self.0.clone())
    }
}

impl<L: Send + Sync + 'static> Readers<L> {
    /// Of `source`. No thread is started before the first call.
    pub(super) fn new(source: L) -> Self {
        let queue = Mutex::new(Queue { waiting: VecDeque::new(), threads: 0 });
        Readers(Arc::new(Shared { source, queue }))
    }

    /// The answer of `call`, which may block; none if the node is stopping. A call whose caller
    /// has gone before its turn is not made.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        call: impl FnOnce(&L) -> T + Send + 'static,
    ) -> Option<T> {
        let (reply, mut answer) = oneshot::channel();
        let call = Box::new(move |source: &L| {
            if !reply.is_closed() {
                // The caller may have gone meanwhile.
                let _ = reply.send(call(source));
            }
        });
        let crowded = {
            let mut queue = self.0.queue();
            queue.waiting.push_back(call);
            queue.waiting.len() > queue.threads * WAITING_PER_THREAD
        };
        if crowded {
            self.wake();
        }
        match tokio::time::timeout(STALL, &mut answer).await {
            Ok(answer) => answer.ok(),
            Err(_) => {
                self.wake();
                answer.await.ok()
            }
        }
    }

    /// One thread more, if there is something to do for it.
    fn wake(&self) {
        let mut queue = self.0.queue();
        if queue.waiting.is_empty() || queue.threads == THREADS_MAX {
            return;
        }
        queue.threads += 1;
        drop(queue);
        let shared = self.0.clone();
        tokio::task::spawn_blocking(move || {
            while let Some(call) = shared.next() {
                call(&shared.source);
            }
        });
    }
}

impl<L> Shared<L> {
    fn queue(&self) -> MutexGuard<'_, Queue<L>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next call for a thread; none sends it to sleep.
    fn next(&self) -> Option<Call<L>> {
        let mut queue = self.queue();
        let call = queue.waiting.pop_front();
        if call.is_none() {
            queue.threads -= 1;
        }
        call
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Whether threads are awake, and calls wait.
    fn state<L: Send + Sync + 'static>(readers: &Readers<L>) -> (usize, usize) {
        let queue = readers.0.queue();
        (queue.threads, queue.waiting.len())
    }

    #[tokio::test]
    async fn every_call_is_answered_and_threads_go_to_sleep() {
        let readers = Readers::new(7_u64);
        let calls = (0..500).map(|number| {
            let readers = readers.clone();
            tokio::spawn(async move { readers.run(move |seven| seven + number).await })
        });
        for (number, call) in calls.collect::<Vec<_>>().into_iter().enumerate() {
            assert_eq!(call.await.unwrap(), Some(7 + number as u64));
        }
        while state(&readers).0 > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(readers.run(|seven| *seven).await, Some(7), "they wake up again");
    }

    #[tokio::test]
    async fn a_call_that_blocks_stops_no_other_one() {
        let readers = Readers::new(());
        let (go_on, blocked) = mpsc::channel::<()>();
        let (started, has_started) = oneshot::channel();
        let slow = tokio::spawn({
            let readers = readers.clone();
            async move {
                let wait = move |(): &()| (started.send(()), blocked.recv());
                readers.run(wait).await.map(|(_, received)| received)
            }
        });
        has_started.await.unwrap();
        assert_eq!(readers.run(|()| 1).await, Some(1), "another thread does it");
        go_on.send(()).unwrap();
        assert_eq!(slow.await.unwrap(), Some(Ok(())));
    }

    #[tokio::test]
    async fn a_caller_that_has_gone_costs_nothing() {
        let readers = Readers::new(());
        let (go_on, blocked) = mpsc::channel::<()>();
        let (made, was_made) = mpsc::channel::<()>();
        let mut slow = Box::pin(readers.run(move |()| blocked.recv()));
        let mut gone = Box::pin(readers.run(move |()| made.send(())));
        // Both are in the queue before a thread can be woken for the second.
        assert!(futures_util::poll!(&mut slow).is_pending());
        assert!(futures_util::poll!(&mut gone).is_pending());
        drop(gone);
        go_on.send(()).unwrap();
        assert_eq!(slow.await, Some(Ok(())));
        assert_eq!(readers.run(|()| ()).await, Some(()), "after it in the queue");
        assert!(was_made.recv().is_err(), "dropped and not made");
    }
}
