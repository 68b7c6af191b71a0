//! Of whom a warning was logged lately, so that a peer that tries again and again fills no log.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Between two warnings about one address.
const EVERY: Duration = Duration::from_secs(60);
/// Addresses that are remembered: so many warnings a minute at most.
const ADDRESSES_MAX: usize = 256;

/// When something was logged last about which address.
#[derive(Debug, Default)]
pub(super) struct RecentWarnings {
    logged: Mutex<HashMap<IpAddr, Instant>>,
}

impl RecentWarnings {
    /// Whether a warning about an address may be logged now; if so, it counts as logged.
    pub(super) fn is_due(&self, address: IpAddr, now: Instant) -> bool {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let is_recent = |at: &Instant| now.duration_since(*at) < EVERY;
        if logged.get(&address).is_some_and(is_recent) {
            return false;
        }
        if logged.len() >= ADDRESSES_MAX {
            logged.retain(|_, at| is_recent(at));
        }
        let room = logged.len() < ADDRESSES_MAX;
        if room {
            logged.insert(address, now);
        }
        room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from(number).into()
    }

    #[test]
    fn one_address_is_warned_about_once_a_minute() {
        let (warnings, now) = (RecentWarnings::default(), Instant::now());
        assert!(warnings.is_due(address(1), now));
        assert!(warnings.is_due(address(2), now), "another one");
        assert!(!warnings.is_due(address(1), now + EVERY - Duration::from_millis(1)));
        assert!(warnings.is_due(address(1), now + EVERY));
        assert!(!warnings.is_due(address(1), now + EVERY), "counted from the last one");
    }

    #[test]
    fn many_addresses_take_neither_the_memory_nor_the_log() {
        let (warnings, now) = (RecentWarnings::default(), Instant::now());
        let logged = (0..9_000).filter(|number| warnings.is_due(address(*number), now)).count();
        assert_eq!(logged, ADDRESSES_MAX);
        assert!(warnings.is_due(address(9_001), now + EVERY), "there is room again");
        assert_eq!(warnings.logged.lock().unwrap().len(), 1);
    }
}
