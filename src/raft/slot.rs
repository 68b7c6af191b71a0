//! The connection of a link, and when the next attempt at one may be made.

use std::time::Duration;

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

/// At most one connection, with a serial number of its own.
pub(super) struct Slot<T> {
    /// Serial number of the next connection.
    next: u64,
    open: Option<(u64, T)>,
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
        Slot { next: 1, open: None, failure: None }
    }
}

impl<T: Clone> Slot<T> {
    /// The connection, or the last error while no other attempt may be made. None: make one.
    pub(super) fn get(&self, now: Instant) -> Option<Result<(u64, T), LinkError>> {
        if let Some(open) = &self.open {
            return Some(Ok(open.clone()));
        }
        let failure = self.failure.as_ref().filter(|failure| now < failure.until)?;
        Some(Err(failure.error.clone()))
    }

    /// Takes what came of an attempt.
    pub(super) fn set(
        &mut self,
        attempt: Result<T, LinkError>,
        now: Instant,
    ) -> Result<(u64, T), LinkError> {
        match attempt {
            Ok(connection) => {
                let open = (self.next, connection);
                self.next += 1;
                (self.open, self.failure) = (Some(open.clone()), None);
                Ok(open)
            }
            Err(error) => {
                let max = match &error {
                    LinkError::Unreachable { .. } => UNREACHABLE_PAUSE_MAX,
                    LinkError::Tls { .. } | LinkError::Refused { .. } => REFUSED_PAUSE_MAX,
                };
                let before = self.failure.as_ref().map(|failure| failure.pause * 2);
                let pause = before.unwrap_or(PAUSE_MIN).min(max);
                let failure = Failure { error: error.clone(), pause, until: now + pause };
                (self.open, self.failure) = (None, Some(failure));
                Err(error)
            }
        }
    }

    /// Forgets the connection with this number. A newer one stays: another caller has made it.
    pub(super) fn forget(&mut self, serial: u64) {
        self.open.take_if(|(open, _)| *open == serial);
    }

    /// Forgets any connection.
    pub(super) fn clear(&mut self) {
        self.open = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unreachable() -> LinkError {
        LinkError::Unreachable { node: 2, addr: "db2:7402".into(), reason: "refused".into() }
    }

    fn refused() -> LinkError {
        LinkError::Refused { node: 2, addr: "db2:7402".into(), reason: "other key".into() }
    }

    /// How long the slot answers with an error after each of these attempts, in milliseconds.
    fn pauses(slot: &mut Slot<()>, attempts: &[LinkError]) -> Vec<u128> {
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for error in attempts {
            assert!(slot.get(now).is_none(), "the next attempt may be made");
            slot.set(Err(error.clone()), now).unwrap_err();
            let until = slot.failure.as_ref().unwrap().until;
            let last = slot.get(until - Duration::from_millis(1));
            let same = last.expect("too early").expect_err("there is no connection");
            assert_eq!(same.to_string(), error.to_string());
            pauses.push((until - now).as_millis());
            now = until;
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
        let (serial, ()) = slot.set(Ok(()), now).unwrap();
        slot.forget(serial);
        assert!(slot.get(now).is_none(), "a lost connection is made again at once");
        assert_eq!(pauses(&mut slot, &[refused()]), [50]);
    }

    #[test]
    fn a_refusal_leaves_no_long_pause_to_a_peer_that_goes_away() {
        let mut slot = Slot::default();
        let mut attempts = vec![refused(); 5];
        attempts.push(unreachable());
        assert_eq!(pauses(&mut slot, &attempts).last(), Some(&100));
    }

    #[test]
    fn who_failed_on_an_older_connection_leaves_the_newer_one_alone() {
        let mut slot = Slot::default();
        let now = Instant::now();
        let (old, _) = slot.set(Ok("old"), now).unwrap();
        slot.forget(old);
        let (new, _) = slot.set(Ok("new"), now).unwrap();
        slot.forget(old);
        assert_eq!(slot.get(now).unwrap().unwrap(), (new, "new"));
        slot.forget(new);
        assert!(slot.get(now).is_none());
    }
}
