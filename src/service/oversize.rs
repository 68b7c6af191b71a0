//! A message over the port's limit never reaches a handler: tonic refuses it. This layer gives that
//! refusal the code and reason of the error table.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use indelible_core::limits::CLIENT_MESSAGE_BYTES_MAX;
use indelible_proto::reason::{Reason, Rejected, key};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;

/// Wraps a service; see the module.
#[derive(Debug, Clone)]
pub struct Oversize<S> {
    inner: S,
}

impl<S> Oversize<S> {
    /// Around `inner`.
    pub fn new(inner: S) -> Self {
        Oversize { inner }
    }
}

impl<S: NamedService> NamedService for Oversize<S> {
    const NAME: &'static str = S::NAME;
}

/// gRPC code OUT_OF_RANGE, which tonic uses for this; no handler of ours does.
const OUT_OF_RANGE: &str = "11";

impl<S, B> Service<http::Request<B>> for Oversize<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let response = self.inner.call(request);
        Box::pin(async move {
            let response = response.await?;
            let status = response.headers().get(Status::GRPC_STATUS);
            if status.is_none_or(|status| status != OUT_OF_RANGE) {
                return Ok(response);
            }
            let message = format!(
                "a message of more than {CLIENT_MESSAGE_BYTES_MAX} bytes, which is the limit; hint: smaller events, or \
                 fewer in a request"
            );
            let rejected = Rejected::new(Reason::TooLarge, message)
                .with(key::LIMIT, CLIENT_MESSAGE_BYTES_MAX as u64);
            Ok(Status::from(rejected).into_http())
        })
    }
}
