//! How long a connection stays.

use std::pin::pin;
use std::time::Duration;

use hyper_util::server::graceful::GracefulConnection;
use indelible_core::limits::{
    CLIENT_AGE_MAX, CLIENT_IDLE_MAX, CLIENT_UNKNOWN_AGE_MAX, FIRST_REQUEST_DEADLINE, GOODBYE_GRACE,
    HTTP_REQUEST_DEADLINE,
};
use indelible_tls::Port as Judge;
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
    let mut trust = port.credentials.subscribe();
    if !is_trusted(connection, port) {
        return port.refused("distrusted");
    }
    let patience = port.kind.patience();
    let mut leaving: Option<Instant> = None;
    loop {
        let (at, end) = match leaving {
            Some(until) => (Some(until), End::Cut("goodbye")),
            None => next_end(connection, &patience),
        };
        let due = async {
            match at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let end = tokio::select! {
            _ = session.as_mut() => return,
            () = connection.control.closed() => End::Cut("closed"),
            _ = stopped.wait_for(|stopped| *stopped), if leaving.is_none() => End::Goodbye("stopping"),
            changed = trust.changed() => match changed.is_ok() && !is_trusted(connection, port) {
                true => End::Cut("distrusted"),
                false => continue,
            },
            () = due => match leaving.is_some() || has_come(connection, &patience, end) {
                true => end,
                false => continue,
            },
        };
        match end {
            End::Goodbye(why) => {
                if why != "stopping" {
                    port.refused(why);
                }
                session.as_mut().graceful_shutdown();
                leaving = Some(Instant::now() + GOODBYE_GRACE);
            }
            End::Cut(why) => return port.refused(why),
        }
    }
}

/// When the connection has to end if nothing happens until then, and how.
fn next_end(connection: &Connection, patience: &Patience) -> (Option<Instant>, End) {
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
    // Looked at again before long: what is under way may end, and then idleness counts from there.
    let again = (Instant::now() + FIRST_REQUEST_DEADLINE, End::Goodbye("idle"));
    let (at, end) = ends.into_iter().min_by_key(|(at, _)| *at).unwrap_or(again);
    if at <= again.0 { (Some(at), end) } else { (Some(again.0), again.1) }
}

/// Whether what was waited for is still so.
fn has_come(connection: &Connection, patience: &Patience, end: End) -> bool {
    let (at, now) = next_end(connection, patience);
    now == end && at.is_some_and(|at| at <= Instant::now())
}

/// Whether a connection's certificate counts with what is trusted now.
fn is_trusted(connection: &Connection, port: &Port) -> bool {
    let Some(current) = port.credentials.current() else { return true };
    let judge = match port.kind {
        PortKind::Raft => Judge::RaftIn,
        _ => Judge::Client,
    };
    match &connection.security {
        Security::Tls { chain, .. } if !chain.is_empty() => {
            current.material.still_trusts(judge, chain, unix_s()).is_ok()
        }
        _ => true,
    }
}
