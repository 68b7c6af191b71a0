//! Delays between attempts, with full jitter so that clients do not come back in step.

use std::time::Duration;

/// Exponential backoff with full jitter: each delay is uniform in `0..=base * 2^n`, at most `cap`.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    base: Duration,
    cap: Duration,
    attempts: u32,
}

impl Backoff {
    /// From `base`, doubling up to `cap`.
    pub(crate) fn new(base: Duration, cap: Duration) -> Backoff {
        Backoff { base, cap, attempts: 0 }
    }

    /// Between requests to a leader: 10 ms, at most 250 ms.
    pub(crate) fn request() -> Backoff {
        Backoff::new(Duration::from_millis(10), Duration::from_millis(250))
    }

    /// Between attempts to connect: 20 ms, at most 2 s.
    pub(crate) fn connect() -> Backoff {
        Backoff::new(Duration::from_millis(20), Duration::from_secs(2))
    }

    /// The next delay.
    pub(crate) fn next(&mut self) -> Duration {
        let ceiling = self.ceiling();
        self.attempts += 1;
        ceiling.mul_f64(rand::random::<f64>())
    }

    /// After success.
    pub(crate) fn reset(&mut self) {
        self.attempts = 0;
    }

    fn ceiling(&self) -> Duration {
        self.base.saturating_mul(1 << self.attempts.min(16)).min(self.cap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_cap_and_start_over() {
        let mut backoff = Backoff::request();
        let ceilings: Vec<u128> = (0..7)
            .map(|_| {
                let ceiling = backoff.ceiling();
                assert!(backoff.next() <= ceiling);
                ceiling.as_millis()
            })
            .collect();
        assert_eq!(ceilings, [10, 20, 40, 80, 160, 250, 250]);
        backoff.reset();
        assert_eq!(backoff.ceiling().as_millis(), 10);
    }
}
