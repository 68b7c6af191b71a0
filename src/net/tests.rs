//! How long connections stay, with real HTTP on them, in time that passes when all tasks wait.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use futures_util::StreamExt as _;
use h2::client::SendRequest;
use http_body::Body as _;
use indelible_core::limits::{
    BODY_OVERHEAD_BYTES, CLIENT_AGE_MAX, CLIENT_IDLE_MAX, CLIENT_UNKNOWN_AGE_MAX,
    FIRST_REQUEST_DEADLINE, GOODBYE_GRACE, HANDSHAKE_DEADLINE, HTTP_REQUEST_DEADLINE,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tonic::codegen::http::Request;

use super::body::{Allowance, Budget, LimitedBody};
use super::connection::Security;
use super::credentials::Credentials;
use super::listen::{Port, PortKind, drive};
use super::rooms::{Room, Rule};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Ages differ by so much, so that connections do not end all at once.
const AGES: (f64, f64) = (0.9, 1.1);
/// For what happens at once, but for the exchange of messages.
const SOON: Duration = Duration::from_secs(1);

/// What a future gives that has to end, however late.
async fn at_last<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(3 * CLIENT_AGE_MAX, future).await.expect("no limit has ended it")
}

/// A port with one connection, whose other end is in the test.
struct Served {
    credentials: Credentials,
    began: Instant,
    /// Lets calls of `/waits` end.
    release: Arc<Notify>,
    /// Ends with the connection.
    serving: JoinHandle<()>,
    _stop: watch::Sender<bool>,
}

impl Served {
    fn start(kind: PortKind, security: Security) -> (Served, DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let (credentials, release) = (Credentials::clear(), Arc::new(Notify::new()));
        let released = release.clone();
        let waits = move || async move {
            released.notified().await;
            "at last"
        };
        let router = Router::new().route("/now", get("now")).route("/waits", get(waits));
        let port = Port::new(kind, credentials.clone(), 64 * 1024, &[]);
        let place = Room::new(Rule::Http).enter(HERE).unwrap();
        let (stop, stopped) = watch::channel(false);
        let remote = SocketAddr::new(HERE, 9);
        let serving = tokio::spawn(drive(theirs, remote, security, place, port, router, stopped));
        let served = Served { credentials, began: Instant::now(), release, serving, _stop: stop };
        (served, ours)
    }

    /// The same, with HTTP/2 on it.
    async fn h2(kind: PortKind, security: Security) -> (Served, SendRequest<bytes::Bytes>) {
        let (served, stream) = Served::start(kind, security);
        let (send, session) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(session);
        (served, send)
    }

    /// Waits for the end of the connection. How old it was, and why it ended.
    async fn ended(self) -> (Duration, Vec<&'static str>) {
        at_last(self.serving).await.unwrap();
        let refused = self.credentials.counters().all_refused();
        (self.began.elapsed(), refused.into_iter().map(|(_, why, _)| why).collect())
    }
}

/// The text of an answer.
async fn call(send: &SendRequest<bytes::Bytes>, path: &str) -> Result<Vec<u8>, h2::Error> {
    at_last(answer(send, path)).await
}

async fn answer(send: &SendRequest<bytes::Bytes>, path: &str) -> Result<Vec<u8>, h2::Error> {
    let mut send = send.clone().ready().await?;
    let uri = format!("https://node.indelible{path}");
    let (answer, _) = send.send_request(Request::get(uri).body(()).unwrap(), true)?;
    let mut body = answer.await?.into_body();
    let mut text = Vec::new();
    while let Some(bytes) = body.data().await {
        text.extend_from_slice(&bytes?);
    }
    Ok(text)
}

fn stranger() -> Security {
    Security::Tls { peer: None, chain: Vec::new(), binding: [0; 32] }
}

/// Whether something took as long as a limit, or hardly longer.
fn is_about(took: Duration, limit: Duration) -> bool {
    (limit..limit + SOON).contains(&took)
}

#[tokio::test(start_paused = true)]
async fn a_client_of_age_is_told_to_go_and_its_call_ends_well() {
    let (served, send) = Served::h2(PortKind::Client, Security::Clear).await;
    let running = tokio::spawn({
        let send = send.clone();
        async move { call(&send, "/waits").await }
    });
    let until_refused = async {
        loop {
            match call(&send, "/now").await {
                Ok(answer) => assert_eq!(answer, b"now"),
                Err(refused) => return refused,
            }
            sleep(SOON).await;
        }
    };
    let refused = at_last(until_refused).await;
    let age = served.began.elapsed();
    assert!(age >= CLIENT_AGE_MAX.mul_f64(AGES.0), "{age:?}");
    assert!(age <= CLIENT_AGE_MAX.mul_f64(AGES.1) + SOON, "{age:?}");
    assert!(refused.is_go_away() && refused.is_remote(), "{refused:?}");
    assert_eq!(refused.reason(), Some(h2::Reason::NO_ERROR));
    assert!(!running.is_finished() && !served.serving.is_finished());
    served.release.notify_one();
    assert_eq!(running.await.unwrap().unwrap(), b"at last");
    assert_eq!(served.ended().await.1, ["age"]);
}

#[tokio::test(start_paused = true)]
async fn a_call_outlasts_its_connection_by_the_grace_only() {
    let (served, send) = Served::h2(PortKind::Client, Security::Clear).await;
    assert!(call(&send, "/waits").await.is_err());
    let (age, why) = served.ended().await;
    assert_eq!(why, ["age", "goodbye"]);
    let told = age - GOODBYE_GRACE;
    assert!(told >= CLIENT_AGE_MAX.mul_f64(AGES.0), "{age:?}");
    assert!(told <= CLIENT_AGE_MAX.mul_f64(AGES.1) + SOON, "{age:?}");
}

#[tokio::test(start_paused = true)]
async fn a_client_without_a_certificate_is_cut_after_a_minute() {
    let (served, send) = Served::h2(PortKind::Client, stranger()).await;
    assert!(call(&send, "/waits").await.is_err());
    let (age, why) = served.ended().await;
    assert_eq!(why, ["age"]);
    assert!(is_about(age, CLIENT_UNKNOWN_AGE_MAX), "{age:?}");
}

#[tokio::test(start_paused = true)]
async fn an_idle_client_is_told_to_go() {
    let (served, send) = Served::h2(PortKind::Client, Security::Clear).await;
    let busy = 3 * CLIENT_IDLE_MAX / 4;
    for _ in 0..2 {
        assert_eq!(call(&send, "/now").await.unwrap(), b"now");
        sleep(busy).await;
    }
    assert_eq!(call(&send, "/now").await.unwrap(), b"now");
    let (age, why) = served.ended().await;
    assert_eq!(why, ["idle"]);
    assert!(is_about(age, 2 * busy + CLIENT_IDLE_MAX), "{age:?}");
    assert!(call(&send, "/now").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_a_request_is_cut() {
    for kind in [PortKind::Client, PortKind::Raft] {
        let (served, _send) = Served::h2(kind, Security::Clear).await;
        let (age, why) = served.ended().await;
        assert_eq!(why, ["silent"], "{kind:?}");
        assert!(is_about(age, FIRST_REQUEST_DEADLINE), "{kind:?}: {age:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn nodes_stay() {
    let (served, send) = Served::h2(PortKind::Raft, Security::Clear).await;
    for _ in 0..3 {
        assert_eq!(call(&send, "/now").await.unwrap(), b"now");
        sleep(CLIENT_AGE_MAX).await;
    }
    drop(send);
    assert!(served.ended().await.1.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_http_port_has_less_patience() {
    for kind in [PortKind::Http, PortKind::Metrics, PortKind::Probe] {
        let (served, mut stream) = Served::start(kind, Security::Clear);
        stream.write_all(b"GET /waits HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert_eq!(at_last(stream.read(&mut [0])).await.unwrap(), 0, "{kind:?}: no answer");
        let (age, why) = served.ended().await;
        assert_eq!(why, ["slow"], "{kind:?}");
        assert!(is_about(age, HTTP_REQUEST_DEADLINE), "{kind:?}: {age:?}");

        let (served, mut stream) = Served::start(kind, Security::Clear);
        stream.write_all(b"GET /now HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        at_last(stream.read_to_end(&mut answer)).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{kind:?}");
        let (age, why) = served.ended().await;
        assert!(why.is_empty(), "{kind:?}: {why:?}");
        assert!(is_about(age, HANDSHAKE_DEADLINE), "{kind:?}: {age:?}");
    }
}

/// A body that begins like this, and never ends.
fn begun(
    budget: &Budget,
    bytes_max: u64,
    parts: &[&'static [u8]],
) -> LimitedBody<axum::body::Body> {
    let parts: Vec<_> = parts.iter().map(|part| Ok::<_, Infallible>(*part)).collect();
    let parts = futures_util::stream::iter(parts).chain(futures_util::stream::pending());
    let allowance = Allowance::Whole { bytes_max, budget: budget.clone() };
    LimitedBody::new(axum::body::Body::from_stream(parts), allowance)
}

/// The next part of a body; none if it is refused.
async fn next_part(body: &mut LimitedBody<axum::body::Body>) -> Option<Bytes> {
    let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await?;
    frame.ok()?.into_data().ok()
}

#[tokio::test]
async fn a_message_counts_as_long_as_it_says_to_be() {
    const MESSAGE: u64 = 0x10_0000;
    let needs = usize::try_from(5 + MESSAGE).unwrap() + BODY_OVERHEAD_BYTES as usize;
    let budget = Budget::new(2 * needs);
    // The length of a message arrives in two parts.
    let parts: [&[u8]; 2] = [&[0, 0, 0x10], &[0, 0]];
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut body = begun(&budget, 2 * MESSAGE, &parts);
        for part in parts {
            assert_eq!(next_part(&mut body).await.as_deref(), Some(part));
        }
        held.push(body);
    }
    let mut third = begun(&budget, 2 * MESSAGE, &parts);
    assert_eq!(next_part(&mut third).await, None, "the two hold all of the budget");
    drop((held.pop(), third));
    // The second message of a body counts as the first one does.
    let mut two = begun(&budget, 2 * MESSAGE, &[&[0, 0, 0, 0, 1], &[7, 0], &[0, 0x0f, 0, 0]]);
    assert!(next_part(&mut two).await.is_some());
    assert!(next_part(&mut two).await.is_some());
    assert!(next_part(&mut two).await.is_some());
    let mut none = begun(&budget, 2 * MESSAGE, &parts);
    assert_eq!(next_part(&mut none).await, None, "the second message holds the rest");
    drop((two, none));
    // What says to be longer than it may be is counted as that, and left to its decoder.
    let mut huge = begun(&budget, MESSAGE, &[&[0, 0xff, 0xff, 0xff, 0xff]]);
    assert!(next_part(&mut huge).await.is_some());
}
