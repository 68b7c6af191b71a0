//! The connection of a link, and when the next attempt at one may be made.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::link::LinkError;

/// First pause after a failed attempt; doubles with each further one.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest pause while the peer does not answer: one heartbeat by default, and a third of the
/// shortest election timeout. A voter that has started again must not miss an election.
const UNREACHABLE_PAUSE_MAX: Duration = Duration::from_millis(100);
/// Longest pause while one of the two refuses the other: every attempt costs both a TLS handshake,
/// and it takes an operator to end this.
const REFUSED_PAUSE_MAX: Duration = Duration::from_secs(1);

/// At most one connection, which callers share, and at most one attempt to make it.
pub(super) struct SharedSlot<T>(Arc<Inner<T>>);

struct Inner<T> {
    slot: Mutex<Slot<T>>,
    /// Changes when an attempt ends.
    ended: watch::Sender<()>,
}

impl<T> Default for SharedSlot<T> {
    fn default() -> Self {
        SharedSlot(Arc::new(Inner { slot: Mutex::default(), ended: watch::Sender::default() }))
    }
}

impl<T> SharedSlot<T> {
    fn slot(&self) -> MutexGuard<'_, Slot<T>> {
        self.0.slot.lock().expect("no code panics while it holds this lock")
    }

    /// Forgets the connection with this number.
    pub(super) fn forget(&self, serial: u64) {
        self.slot().forget(serial);
    }

    /// Forgets a connection that does not hold any more.
    pub(super) fn forget_unless(&self, holds: impl FnOnce(&T) -> bool) {
        self.slot().open.take_if(|(_, open)| !holds(open));
    }

    /// The connection that there is.
    pub(super) fn current(&self) -> Option<(u64, T)>
    where
        T: Clone,
    {
        self.slot().open.clone()
    }

    /// Forgets any connection.
    pub(super) fn clear(&self) {
        self.slot().open = None;
    }
}

impl<T: Clone + Send + 'static> SharedSlot<T> {
    /// The connection and its serial number, as soon as there is one, or why the next attempt has
    /// failed; within `timeout`. None: it has not ended by then, and there was none before.
    ///
    /// The attempt has a task of its own, after the pause that the one before has left: it does not
    /// end with the caller, which may have less time than it takes, and however often callers come,
    /// there are no more attempts.
    pub(super) async fn open<F>(
        &self,
        timeout: Duration,
        dial: impl FnOnce() -> F,
    ) -> Option<Result<(u64, T), LinkError>>
    where
        F: Future<Output = Result<T, LinkError>> + Send + 'static,
    {
        let mut ended = self.0.ended.subscribe();
        {
            let mut slot = self.slot();
            if let Some(open) = &slot.open {
                return Some(Ok(open.clone()));
            }
            if let Some(from) = slot.begin(Instant::now()) {
                let (inner, dial) = (self.0.clone(), dial());
                tokio::spawn(async move {
                    tokio::time::sleep_until(from).await;
                    let attempt = dial.await;
                    SharedSlot(inner.clone()).slot().end(attempt, Instant::now());
                    inner.ended.send_replace(());
                });
            }
        }
        // Ended or late, what counts is what is there now.
        let _ = tokio::time::timeout(timeout, ended.changed()).await;
        let slot = self.slot();
        match (&slot.open, &slot.failure) {
            (Some(open), _) => Some(Ok(open.clone())),
            (None, Some(failure)) => Some(Err(failure.error.clone())),
            (None, None) => None,
        }
    }
}

/// The state: what there is, and what may be done next.
struct Slot<T> {
    /// Serial number of the next connection.
    next: u64,
    open: Option<(u64, T)>,
    /// Whether an attempt is under way.
    dialing: bool,
    /// The last attempt, if it failed.
    failure: Option<Failure>,
}

struct Failure {
    error: LinkError,
    pause: Duration,
    until: Instant,
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Slot { next: 1, open: None, dialing: false, failure: None }
    }
}

impl<T> Slot<T> {
    /// From when on the next attempt may be made; none if one is under way. The caller makes it.
    fn begin(&mut self, now: Instant) -> Option<Instant> {
        match std::mem::replace(&mut self.dialing, true) {
            true => None,
            false => Some(self.failure.as_ref().map_or(now, |failure| failure.until.max(now))),
        }
    }

    /// Takes what came of an attempt.
    fn end(&mut self, attempt: Result<T, LinkError>, now: Instant) {
        self.dialing = false;
        match attempt {
            Ok(connection) => {
                (self.open, self.failure) = (Some((self.next, connection)), None);
                self.next += 1;
            }
            Err(error) => {
                let max = match &error {
                    LinkError::Unreachable { .. } => UNREACHABLE_PAUSE_MAX,
                    LinkError::Tls { .. } | LinkError::Refused { .. } => REFUSED_PAUSE_MAX,
                };
                let before = self.failure.as_ref().map(|failure| failure.pause * 2);
                let pause = before.unwrap_or(PAUSE_MIN).min(max);
                (self.open, self.failure) =
                    (None, Some(Failure { error, pause, until: now + pause }));
            }
        }
    }

    /// Forgets the connection with this number. A newer one stays: another caller has made it.
    fn forget(&mut self, serial: u64) {
        self.open.take_if(|(open, _)| *open == serial);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn unreachable() -> LinkError {
        LinkError::Unreachable { node: 2, addr: "db2:7402".into(), reason: "refused".into() }
    }

    fn refused() -> LinkError {
        LinkError::Refused { node: 2, addr: "db2:7402".into(), reason: "other key".into() }
    }

    /// How long each of these failed attempts keeps the next one waiting, in milliseconds.
    fn pauses(slot: &mut Slot<&str>, attempts: &[LinkError]) -> Vec<u128> {
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for error in attempts {
            now = slot.begin(now).expect("no attempt is under way");
            assert!(slot.begin(now).is_none(), "one at a time");
            slot.end(Err(error.clone()), now);
            pauses.push((slot.failure.as_ref().unwrap().until - now).as_millis());
        }
        pauses
    }

    #[test]
    fn a_peer_that_is_away_is_asked_every_heartbeat() {
        let attempts = vec![unreachable(); 4];
        assert_eq!(pauses(&mut Slot::default(), &attempts), [50, 100, 100, 100]);
    }

    #[test]
    fn a_refusal_is_repeated_once_a_second_and_a_success_forgets_it() {
        let mut slot = Slot::default();
        let attempts = vec![refused(); 7];
        assert_eq!(pauses(&mut slot, &attempts), [50, 100, 200, 400, 800, 1000, 1000]);
        let now = Instant::now() + Duration::from_secs(60);
        assert_eq!(slot.begin(now), Some(now));
        slot.end(Ok("a connection"), now);
        slot.forget(1);
        assert_eq!(slot.begin(now), Some(now), "a lost connection is made again at once");
        slot.end(Err(refused()), now);
        assert_eq!(slot.failure.unwrap().pause, PAUSE_MIN);
    }

    #[test]
    fn a_refusal_leaves_no_long_pause_to_a_peer_that_goes_away() {
        let mut slot = Slot::default();
        let mut attempts = vec![refused(); 5];
        attempts.push(unreachable());
        assert_eq!(pauses(&mut slot, &attempts).last(), Some(&100));
    }

    #[tokio::test]
    async fn who_failed_on_an_older_connection_leaves_the_newer_one_alone() {
        let slot = SharedSlot::default();
        let open = |name: &'static str| slot.open(Duration::from_secs(1), async move || Ok(name));
        assert_eq!(open("old").await.unwrap().unwrap(), (1, "old"));
        slot.forget(1);
        assert_eq!(open("new").await.unwrap().unwrap(), (2, "new"));
        slot.forget(1);
        assert_eq!(open("another").await.unwrap().unwrap(), (2, "new"));
    }

    /// Replication asks again at once when it was told that there is no connection: openraft waits
    /// only on a stream that it has.
    #[tokio::test(start_paused = true)]
    async fn who_asks_all_the_time_dials_no_more_and_waits() {
        let slot = SharedSlot::<()>::default();
        let (dials, began) = (Arc::new(AtomicU32::new(0)), Instant::now());
        let mut asked = 0;
        while began.elapsed() < Duration::from_secs(10) {
            let dials = dials.clone();
            let dial = async move || {
                dials.fetch_add(1, Ordering::Relaxed);
                Err(unreachable())
            };
            slot.open(Duration::from_millis(75), dial).await.unwrap().unwrap_err();
            asked += 1;
        }
        let dials = dials.load(Ordering::Relaxed);
        assert!((99..=101).contains(&dials), "{dials} dials in 100 heartbeats");
        assert!(asked <= 2 * dials + 1, "asked {asked} times for {dials} dials");
    }

    /// A round trip may take longer than a caller has.
    #[tokio::test(start_paused = true)]
    async fn an_attempt_outlives_its_callers() {
        let slot = SharedSlot::default();
        let slow = async || {
            tokio::time::sleep(Duration::from_millis(310)).await;
            Ok("slow")
        };
        let mut asked = 0;
        let open = loop {
            asked += 1;
            if let Some(opened) = slot.open(Duration::from_millis(75), slow).await {
                break opened;
            }
        };
        assert_eq!((open.unwrap(), asked), ((1, "slow"), 5), "one attempt, five callers");
    }
}
