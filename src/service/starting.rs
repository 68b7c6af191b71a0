//! Ports that are there before the node is: what they say until then.
//!
//! Sockets are bound before a node opens its disk, and a node whose disk is damaged needs its peers
//! before it can. So every port answers from the first moment. Until the node is built, the client
//! port refuses each call with STOPPING (clients go to another node, and nothing was appended), the
//! raft port with UNAVAILABLE, except for mending; over HTTP `/livez` says yes and `/readyz` what
//! the node is doing.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use indelible_proto::reason::{Reason, Rejected};
use serde_json::json;
use tokio::sync::watch;
use tonic::Status;
use tonic::codegen::Service;

/// What a node that is starting is doing, for people.
pub type Doing = watch::Receiver<String>;

type Answer = Arc<dyn Fn() -> Response + Send + Sync>;

/// A router that answers by itself until the one behind it is there.
#[derive(Clone)]
pub struct Late {
    router: Arc<OnceLock<Router>>,
    before: Answer,
}

impl Late {
    fn new(before: impl Fn() -> Response + Send + Sync + 'static) -> Late {
        Late { router: Arc::default(), before: Arc::new(before) }
    }

    /// For the client port.
    pub fn clients(doing: Doing) -> Late {
        Late::new(move || {
            let message =
                format!("this node is starting: {}; hint: ask another node", *doing.borrow());
            Status::from(Rejected::new(Reason::Stopping, message)).into_http()
        })
    }

    /// For the raft port.
    pub fn peers(doing: Doing) -> Late {
        Late::new(move || Status::unavailable(format!("starting: {}", *doing.borrow())).into_http())
    }

    /// For the HTTP port; `/livez` and `/readyz` are answered beside it.
    pub fn http(doing: Doing) -> Late {
        Late::new(move || {
            let body = json!({ "ready": false, "state": *doing.borrow() });
            let kind = [(CONTENT_TYPE, "application/json")];
            (StatusCode::SERVICE_UNAVAILABLE, kind, format!("{body}\n")).into_response()
        })
    }

    /// From now on everything goes to `router`.
    pub fn open(&self, router: Router) {
        assert!(self.router.set(router).is_ok(), "a port is opened once");
    }
}

impl Service<Request<Body>> for Late {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // An axum router is always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self.router.get() {
            Some(router) => Box::pin(router.clone().call(request)),
            None => Box::pin(std::future::ready(Ok((self.before)()))),
        }
    }
}

/// The HTTP port: alive from the first moment.
pub fn http(late: Late) -> Router {
    let live = late.clone();
    Router::new()
        .route(
            "/livez",
            get(move |request: Request<Body>| {
                let mut live = live.clone();
                async move {
                    if live.router.get().is_some() {
                        let Ok(answer) = live.call(request).await;
                        return answer;
                    }
                    let kind = [(CONTENT_TYPE, "application/json")];
                    (kind, format!("{}\n", json!({ "live": true }))).into_response()
                }
            }),
        )
        .fallback_service(late)
}
