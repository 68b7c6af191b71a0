//! How long a connection stays.

use std::pin::pin;
use std::time::Duration;

use hyper_util::server::graceful::GracefulConnection;
use indelible_core::limits::{
    CLIENT_AGE_MAX, CLIENT_IDLE_MAX, CLIENT_UNKNOWN_AGE_MAX, FIRST_REQUEST_DEADLINE, GOODBYE_GRACE,
    HTTP_REQUEST_DEADLINE,
};
use indelible_tls::Port as TlsPort;
use tokio::sync::watch;
use tokio::time::Instant;

use super::connection::{Connection, Security};
use super::credentials::unix_s;
use super::listen::{Port, PortKind};

/// What a port puts up with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Without a request.
    idle: Option<Duration>,
    /// With one, from its beginning on.
    request: Option<Duration>,
    /// At all: balancers move, certificates are renewed.
    age: Option<Duration>,
    /// Whether a certificate that has expired ends its connection.
    expiry: bool,
}

impl Patience {
    pub(super) fn client() -> Patience {
        // Not all at once.
        let age = CLIENT_AGE_MAX.mul_f64(rand::random_range(0.9..1.1));
        Patience { idle: Some(CLIENT_IDLE_MAX), request: None, age: Some(age), expiry: true }
    }

    /// Nodes stay.
    pub(super) fn raft() -> Patience {
        Patience { idle: None, request: None, age: None, expiry: false }
    }

    pub(super) fn http() -> Patience {
        // Without a request, hyper's limit for headers ends it: it counts from the request before.
        let request = Some(HTTP_REQUEST_DEADLINE);
        Patience { idle: None, request, age: None, expiry: true }
    }
}

/// What happens to a connection at some moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Requests that are under way are answered first.
    Goodbye(&'static str),
    /// At once.
    Cut(&'static str),
}

/// Serves a connection until it ends, or must.
pub(super) async fn supervise<C>(
    session: C,
    connection: &Connection,
    port: &Port,
    mut stopped: watch::Receiver<bool>,
) where
    C: GracefulConnection,
{
    let mut session = pin!(session);
    let mut closed = pin!(connection.control.closed());
    let mut distrusted = pin!(distrusted(connection, port));
    let end = tokio::select! {
        biased;
        () = distrusted.as_mut() => End::Cut("distrusted"),
        () = closed.as_mut() => End::Cut("closed"),
        _ = session.as_mut() => return,
        _ = stopped.wait_for(|stopped| *stopped) => End::Goodbye("stopping"),
        end = end_at(connection, port.kind.patience()) => end,
    };
    match end {
        End::Cut(why) => return port.refused(why),
        End::Goodbye("stopping") => {}
        End::Goodbye(why) => port.refused(why),
    }
    session.as_mut().graceful_shutdown();
    tokio::select! {
        _ = session.as_mut() => {}
        () = distrusted => port.refused("distrusted"),
        () = closed => port.refused("closed"),
        () = tokio::time::sleep(GOODBYE_GRACE) => port.refused("goodbye"),
    }
}

/// Completes when the connection has to end, and says how. Looks again before long: what is under
/// way may end, and then idleness counts from there.
async fn end_at(connection: &Connection, patience: Patience) -> End {
    loop {
        let again = Instant::now() + FIRST_REQUEST_DEADLINE;
        match next_end(connection, &patience) {
            Some((at, end)) if at <= Instant::now() => return end,
            Some((at, _)) => tokio::time::sleep_until(at.min(again)).await,
            None => tokio::time::sleep_until(again).await,
        }
    }
}

/// When the connection has to end if nothing happens until then, and how.
fn next_end(connection: &Connection, patience: &Patience) -> Option<(Instant, End)> {
    let activity = &connection.activity;
    let mut ends: Vec<(Instant, End)> = Vec::with_capacity(4);
    match activity.idle_since() {
        _ if activity.is_new() => {
            ends.push((activity.began() + FIRST_REQUEST_DEADLINE, End::Cut("silent")));
        }
        Some(since) => {
            ends.extend(patience.idle.map(|idle| (since + idle, End::Goodbye("idle"))));
        }
        None => {}
    }
    if let Some(age) = patience.age {
        ends.push(match connection.is_stranger() {
            false => (activity.began() + age, End::Goodbye("age")),
            true => (activity.began() + CLIENT_UNKNOWN_AGE_MAX, End::Cut("age")),
        });
    }
    if patience.expiry
        && let Some(peer) = connection.security.peer()
    {
        let left = u64::try_from(peer.not_after - unix_s()).unwrap_or(0);
        ends.push((Instant::now() + Duration::from_secs(left), End::Cut("expired")));
    }
    if let (Some(limit), Some(since)) = (patience.request, activity.busy_since()) {
        ends.push((since + limit, End::Cut("slow")));
    }
    ends.into_iter().min_by_key(|(at, _)| *at)
}

/// Completes when the connection's certificate does not count with what is trusted then.
async fn distrusted(connection: &Connection, port: &Port) {
    let mut trust = port.credentials.subscribe();
    while is_trusted(connection, port) {
        if trust.changed().await.is_err() {
            // The port is gone, and so is what it trusts.
            return std::future::pending().await;
        }
    }
}

/// Whether a connection's certificate counts with what is trusted now.
fn is_trusted(connection: &Connection, port: &Port) -> bool {
    let Some(current) = port.credentials.current() else { return true };
    let tls_port = match port.kind {
        PortKind::Raft => TlsPort::RaftIn,
        _ => TlsPort::Client,
    };
    match &connection.security {
        Security::Tls { chain, .. } if !chain.is_empty() => {
            current.material.still_trusts(tls_port, chain, unix_s()).is_ok()
        }
        _ => true,
    }
}
