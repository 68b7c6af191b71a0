//! The scrub: reads the tree files and all sealed segments again and again, slowly, and says what
//! is damaged.
//!
//! One thread of lowest priority. It reads at most so many bytes a second, in small pieces, and a
//! quarter of that while entries are being appended: they wait for the same disk. Its reads of
//! segments go past the page cache. Tree files it mends itself, for all that is in them follows
//! from the segments. Segments that it has found whole it remembers by digest, for the comparison
//! with peers; those that are not, peers mend ([`super::mend`]).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use super::findings::Findings;
use super::mend::{Numbers, Suspect, Suspects};
use crate::raft::mending::Digests;
use crate::storage::ledger::Ledger;
use crate::storage::log::{Log, ScrubError};

/// The least priority that the system knows.
const NICE: i32 = 19;

/// While entries are being appended the rate is divided by this.
const BUSY: u32 = 4;
/// How long the log counts as busy after an entry.
const BUSY_FOR: Duration = Duration::from_secs(1);

/// What the scrub needs.
pub struct Options {
    /// Whose disk it reads.
    pub node_id: u64,
    /// The log that it reads.
    pub log: Log,
    /// Whose tree files it reads and mends.
    pub ledger: Ledger,
    /// Where it says what it has mended.
    pub findings: Findings,
    /// Bytes a second, of which it takes a quarter while entries are being appended; 0 = never.
    pub bytes_per_s: u64,
    /// A pass begins at least this long after the one before.
    pub every: Duration,
    /// What it has read whole.
    pub digests: Arc<Digests>,
    /// What it counts.
    pub numbers: Arc<Numbers>,
    /// Where damage goes.
    pub suspects: Suspects,
}

/// The running scrub; stopped when dropped.
pub struct Scrub {
    signal: Arc<Signal>,
    passes: watch::Receiver<u64>,
}

impl Scrub {
    /// Starts the thread.
    pub fn start(options: Options) -> std::io::Result<Scrub> {
        let signal = Arc::new(Signal::default());
        let (passed, passes) = watch::channel(0);
        let (now, appending) = (Instant::now(), Appending::default());
        let thread = Run { options, signal: signal.clone(), due: now, appending, passed };
        std::thread::Builder::new().name("scrub".into()).spawn(move || thread.run())?;
        Ok(Scrub { signal, passes })
    }

    /// Passes finished so far.
    pub fn passes(&self) -> watch::Receiver<u64> {
        self.passes.clone()
    }

    /// A way to ask for a pass.
    pub fn hurry_handle(&self) -> Hurry {
        Hurry(self.signal.clone())
    }
}

/// Asks for a pass.
#[derive(Clone)]
pub struct Hurry(Arc<Signal>);

impl Hurry {
    /// Begins the next pass as soon as the current one has ended: something looks damaged.
    pub fn hurry(&self) {
        self.0.hurry.store(true, Ordering::Relaxed);
        self.0.changed.notify_all();
    }
}

impl Drop for Scrub {
    fn drop(&mut self) {
        *self.signal.stop.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.signal.changed.notify_all();
    }
}

#[derive(Default)]
struct Signal {
    stop: Mutex<bool>,
    hurry: AtomicBool,
    changed: Condvar,
}

impl Signal {
    fn stopped(&self) -> bool {
        *self.stop.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until then; true if the scrub was stopped meanwhile. `early` ends the wait.
    fn wait_until(&self, until: Instant, early: impl Fn() -> bool) -> bool {
        let mut stop = self.stop.lock().unwrap_or_else(PoisonError::into_inner);
        while !*stop && !early() {
            let now = Instant::now();
            if now >= until {
                break;
            }
            let waited = self.changed.wait_timeout(stop, until - now);
            stop = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *stop
    }
}

struct Run {
    options: Options,
    signal: Arc<Signal>,
    /// When what was read so far may have been read, at the permitted rate.
    due: Instant,
    appending: Appending,
    passed: watch::Sender<u64>,
}

impl Run {
    fn run(mut self) {
        if self.options.bytes_per_s == 0 {
            tracing::warn!("scrub_bytes_per_s = 0: damage is found only when it is read");
            return;
        }
        lower_priority();
        loop {
            let began = Instant::now();
            self.pass();
            if self.signal.stopped() {
                return;
            }
            let numbers = &self.options.numbers;
            numbers.scrub_passes.add(1);
            let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            numbers.last_pass_unix_s.set(unix.as_secs());
            self.passed.send_modify(|passes| *passes += 1);
            let signal = &self.signal;
            let hurried = || signal.hurry.load(Ordering::Relaxed);
            if signal.wait_until(began + self.options.every, hurried) {
                return;
            }
            signal.hurry.store(false, Ordering::Relaxed);
        }
    }

    /// The tree files first, for they are small and reads need them, then all segments that are
    /// sealed now.
    fn pass(&mut self) {
        self.due = Instant::now();
        self.tree();
        let log = self.options.log.clone();
        for segment in log.sealed_segments() {
            if self.signal.stopped() {
                return;
            }
            match log.scrub_segment(segment.first, &mut |bytes| self.throttle(bytes)) {
                Ok(digest) => self.options.digests.set(segment.first, digest),
                Err(ScrubError::Gone { .. }) => {}
                Err(error @ ScrubError::Damaged(_)) => {
                    self.options.digests.forget(segment.first);
                    tracing::error!(%error, "the scrub has found damage");
                    self.options.suspects.report(Suspect::Segment(segment.first));
                }
            }
        }
    }

    fn tree(&mut self) {
        let ledger = self.options.ledger.clone();
        let scrubbed = ledger.scrub_tree(&mut |bytes| self.throttle(bytes));
        let Options { node_id, findings, numbers, .. } = &self.options;
        match scrubbed {
            Ok(None) => {}
            Ok(Some(mended)) => numbers.tree_mended(findings, *node_id, &mended),
            // A segment is damaged as well, and is mended first; or the disk cannot be read.
            Err(error) => tracing::error!(%error, "the tree files cannot be mended now"),
        }
    }

    /// Waits until the bytes that were just read are due.
    fn throttle(&mut self, bytes: usize) {
        self.options.numbers.scrubbed_bytes.add(bytes as u64);
        let nanoseconds = bytes as u128 * 1_000_000_000 / u128::from(self.options.bytes_per_s);
        let pause = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        let pause = match self.appending.looks_busy(self.options.log.next(), Instant::now()) {
            true => pause.saturating_mul(BUSY),
            false => pause,
        };
        self.due += pause;
        // Once stopped it hurries through the rest of the segment.
        self.signal.wait_until(self.due, || false);
        // Time that was lost is not made up for: the disk was busy with something that matters
        // more.
        self.due = self.due.max(Instant::now());
    }
}

/// Whether entries are being appended.
#[derive(Debug, Default)]
struct Appending {
    /// Where the log ended when it was last seen to have grown, and when that was.
    seen: Option<(u64, Instant)>,
}

impl Appending {
    /// The log ends before entry `next` now.
    fn looks_busy(&mut self, next: u64, now: Instant) -> bool {
        match self.seen {
            Some((seen, at)) if seen == next => now - at < BUSY_FOR,
            _ => {
                self.seen = Some((next, now));
                true
            }
        }
    }
}

/// Yields to every other thread of the process.
fn lower_priority() {
    let thread = rustix::thread::gettid();
    if let Err(error) = rustix::process::setpriority_process(Some(thread), NICE) {
        tracing::debug!(%error, "the scrub runs at normal priority");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_busy_while_it_grows_and_for_a_moment_after() {
        let (mut appending, start) = (Appending::default(), Instant::now());
        let at = |part: u32| start + BUSY_FOR * part / 4;
        assert!(appending.looks_busy(7, at(0)));
        assert!(appending.looks_busy(7, at(3)));
        assert!(!appending.looks_busy(7, at(4)));
        assert!(appending.looks_busy(8, at(5)));
        assert!(appending.looks_busy(8, at(8)));
        assert!(!appending.looks_busy(8, at(9)));
    }

    #[test]
    fn a_wait_ends_early_or_when_it_is_stopped() {
        let signal = Arc::new(Signal::default());
        let far = Instant::now() + Duration::from_secs(3600);
        assert!(!signal.wait_until(far, || true));
        assert!(!signal.wait_until(Instant::now(), || false));
        let waiting = signal.clone();
        let thread = std::thread::spawn(move || waiting.wait_until(far, || false));
        *signal.stop.lock().unwrap() = true;
        signal.changed.notify_all();
        assert!(thread.join().unwrap());
    }
}
