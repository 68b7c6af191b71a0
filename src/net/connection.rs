//! One accepted connection, as the handlers see it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use indelible_tls::Peer;
use indelible_tls::pki_types::CertificateDer;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

/// What protects a connection.
#[derive(Debug)]
pub enum Security {
    /// Nothing.
    Clear,
    /// TLS.
    Tls {
        /// Who the other end is by its certificate; none if it showed none.
        peer: Option<Peer>,
        /// Its certificates, to be judged again when what is trusted changes.
        chain: Vec<CertificateDer<'static>>,
        /// What both ends of this TLS session know, and nobody else (RFC 8446, 7.5).
        binding: [u8; 32],
    },
}

impl Security {
    /// What a proof is bound to; all zero in clear text, where nothing can be bound to.
    pub fn binding(&self) -> [u8; 32] {
        match self {
            Security::Clear => [0; 32],
            Security::Tls { binding, .. } => *binding,
        }
    }

    /// Who the other end is by its certificate.
    pub fn peer(&self) -> Option<&Peer> {
        match self {
            Security::Clear => None,
            Security::Tls { peer, .. } => peer.as_ref(),
        }
    }
}

/// A node and its boot, as proved on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proven {
    /// The node's id.
    pub node: u64,
    /// The key of which it has shown possession.
    pub key: [u8; 32],
    /// Which start of it: the hash of its boot.
    pub boot: [u8; 32],
}

/// One accepted connection. In the extensions of every request that arrives on it, as
/// `Arc<Connection>`.
#[derive(Debug)]
pub struct Connection {
    /// Where the other end is.
    pub remote: SocketAddr,
    /// When it was accepted, before its handshake.
    pub accepted: Instant,
    /// What protects it.
    pub security: Security,
    pub(super) control: Arc<Control>,
    pub(super) activity: Activity,
    /// Places for requests that are streams of messages.
    pub(super) streams: Arc<Semaphore>,
}

impl Connection {
    pub(super) fn new(
        remote: SocketAddr,
        security: Security,
        control: Arc<Control>,
        streams: Arc<Semaphore>,
    ) -> Self {
        let accepted = control.accepted;
        Connection { remote, accepted, security, control, activity: Activity::new(), streams }
    }

    /// One in clear text, on which somebody has proved this.
    #[cfg(test)]
    pub(crate) fn of(proven: Proven) -> Connection {
        let (remote, places) = (([127, 0, 0, 1], 9).into(), Arc::new(Semaphore::new(1)));
        let control = Arc::new(Control::new());
        let connection = Connection::new(remote, Security::Clear, control, places);
        assert!(connection.set_proven(proven));
        connection
    }

    /// The node that has proved to be at the other end, if one has.
    pub fn proven(&self) -> Option<Proven> {
        self.control.proven.get().copied()
    }

    /// Notes that a node has proved to be at the other end. False if another one, or another boot
    /// of it, has before: a connection is one node's.
    pub fn set_proven(&self, proven: Proven) -> bool {
        *self.control.proven.get_or_init(|| proven) == proven
    }

    /// Whether the other end could have shown a certificate and has not.
    pub fn is_stranger(&self) -> bool {
        matches!(&self.security, Security::Tls { peer: None, .. })
    }

    /// Cuts the connection.
    pub fn close(&self) {
        self.control.close();
    }
}

/// What is known of a connection from the moment it is accepted, before its handshake.
#[derive(Debug)]
pub(super) struct Control {
    accepted: Instant,
    proven: OnceLock<Proven>,
    /// Whether a certificate that counts was shown.
    known: AtomicBool,
    closing: Notify,
}

impl Control {
    pub(super) fn new() -> Control {
        Control {
            accepted: Instant::now(),
            proven: OnceLock::new(),
            known: AtomicBool::new(false),
            closing: Notify::new(),
        }
    }

    pub(super) fn close(&self) {
        self.closing.notify_one();
    }

    pub(super) fn proven(&self) -> Option<Proven> {
        self.proven.get().copied()
    }

    /// A certificate that counts was shown.
    pub(super) fn set_known(&self) {
        self.known.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_known(&self) -> bool {
        self.known.load(Ordering::Relaxed)
    }

    /// Completes when the connection is to be cut. For one waiter.
    pub(super) async fn closed(&self) {
        self.closing.notified().await;
    }
}

/// What a connection is doing.
#[derive(Debug)]
pub(super) struct Activity {
    began: Instant,
    /// Requests that have begun.
    requests: AtomicU64,
    /// Requests that have not ended.
    active: AtomicU32,
    /// When the last one ended, in milliseconds after `began`.
    idle_since_ms: AtomicU64,
    /// When the first of those that are under way began, in milliseconds after `began`.
    busy_since_ms: AtomicU64,
}

impl Activity {
    fn new() -> Activity {
        Activity {
            began: Instant::now(),
            requests: AtomicU64::new(0),
            active: AtomicU32::new(0),
            idle_since_ms: AtomicU64::new(0),
            busy_since_ms: AtomicU64::new(0),
        }
    }

    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// Whether no request has come yet.
    pub(super) fn is_new(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == 0
    }

    /// Since when no request is under way; none while one is.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        (self.active.load(Ordering::Relaxed) == 0).then(|| self.at(&self.idle_since_ms))
    }

    /// Since when requests are under way without a pause; none while none is.
    pub(super) fn busy_since(&self) -> Option<Instant> {
        (self.active.load(Ordering::Relaxed) > 0).then(|| self.at(&self.busy_since_ms))
    }

    fn at(&self, ms: &AtomicU64) -> Instant {
        self.began + Duration::from_millis(ms.load(Ordering::Relaxed))
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// A request that is under way, until it is dropped.
pub(super) struct Active(Arc<Connection>);

impl Active {
    pub(super) fn begin(connection: &Arc<Connection>) -> Active {
        let activity = &connection.activity;
        activity.requests.fetch_add(1, Ordering::Relaxed);
        if activity.active.fetch_add(1, Ordering::Relaxed) == 0 {
            activity.busy_since_ms.store(activity.now_ms(), Ordering::Relaxed);
        }
        Active(connection.clone())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        let activity = &self.0.activity;
        activity.idle_since_ms.store(activity.now_ms(), Ordering::Relaxed);
        activity.active.fetch_sub(1, Ordering::Relaxed);
    }
}
