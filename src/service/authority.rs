//! What a caller must be for each call of the client port.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use futures_util::future::BoxFuture;
use indelible_proto::reason::{Reason, Rejected};
use tonic::Status;
use tonic::codegen::Service;

use super::caller::{Caller, Rank};
use crate::net::{Connection, Credentials, Mode};

/// The reflection call, whose request is a stream.
pub const RPC_REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

/// Every call of the client port, and what its caller must be. A call that is not here is refused.
pub const CALLS: &[(&str, Rank)] = &[
    ("/grpc.health.v1.Health/Check", Rank::Stranger),
    ("/grpc.health.v1.Health/Watch", Rank::Stranger),
    (RPC_REFLECTION, Rank::Client),
    ("/indelible.v1.AuditLog/OpenProducer", Rank::Client),
    ("/indelible.v1.AuditLog/Append", Rank::Client),
    ("/indelible.v1.AuditLog/Get", Rank::Client),
    ("/indelible.v1.AuditLog/Read", Rank::Client),
    ("/indelible.v1.AuditLog/TreeHead", Rank::Client),
    ("/indelible.v1.AuditLog/Prove", Rank::Client),
    ("/indelible.v1.AuditLog/ProveConsistency", Rank::Client),
    ("/indelible.v1.AuditLog/GetCheckpoint", Rank::Client),
    ("/indelible.v1.AuditLog/ReportCheckpoint", Rank::Client),
    ("/indelible.v1.AuditLog/KeyHistory", Rank::Client),
    ("/indelible.v1.Cluster/GetCluster", Rank::Client),
    ("/indelible.v1.Cluster/WatchCluster", Rank::Client),
    ("/indelible.v1.Cluster/AddNode", Rank::Admin),
    ("/indelible.v1.Cluster/RemoveNode", Rank::Admin),
    ("/indelible.v1.Cluster/TransferLeadership", Rank::Admin),
    ("/indelible.v1.Cluster/AcceptRollback", Rank::Admin),
    ("/indelible.v1.Cluster/AcceptClock", Rank::Admin),
];

/// Who may call what.
#[derive(Debug, Clone, Copy)]
pub struct Authority {
    /// What a caller in clear text is.
    clear: Rank,
}

impl Authority {
    /// In clear text, where all addresses are loopback ones, every caller is an administrator of
    /// this machine; beside TLS, for the time of a migration, it may append and read.
    pub fn new(credentials: &Credentials) -> Authority {
        let clear = match credentials.mode() {
            Mode::Off => Rank::Admin,
            Mode::Accept => Rank::Client,
            Mode::Require => Rank::Stranger,
        };
        Authority { clear }
    }

    /// `router`, reached only by calls whose caller may make them.
    pub fn guard(self, router: Router) -> Router {
        Router::new().fallback_service(GuardedRouter { router, authority: self })
    }

    /// Whether a caller may make a call.
    fn judge(self, caller: &Caller, path: &str) -> Result<(), Rejected> {
        // An unknown path gets the router's own answer, from those that are known.
        let needed =
            CALLS.iter().find(|(call, _)| *call == path).map_or(Rank::Client, |call| call.1);
        match (caller.rank, needed) {
            (rank, needed) if rank >= needed => Ok(()),
            (Rank::Stranger, _) => Err(Rejected::new(
                Reason::Unauthenticated,
                "this call needs a client certificate; hint: INDELIBLE_PROFILE names a profile with one, `indelible cert \
                 client` makes one",
            )),
            (Rank::Client | Rank::Admin, _) => {
                let who = match caller.principal.is_empty() {
                    true => "a caller without a certificate",
                    false => caller.principal.as_str(),
                };
                Err(Rejected::new(
                    Reason::Forbidden,
                    format!(
                        "{who} may append and read; this call needs an administrator's certificate; hint: `indelible cert client --admin`"
                    ),
                ))
            }
        }
    }
}

#[derive(Clone)]
struct GuardedRouter {
    router: Router,
    authority: Authority,
}

impl Service<Request<Body>> for GuardedRouter {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // An axum router is always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let Some(connection) = request.extensions().get::<Arc<Connection>>() else {
            let refused = Status::internal("a request without a connection").into_http();
            return Box::pin(std::future::ready(Ok(refused)));
        };
        let caller = Caller::at(connection, self.authority.clear);
        if let Err(rejected) = self.authority.judge(&caller, request.uri().path()) {
            let refused = Status::from(rejected).into_http();
            return Box::pin(std::future::ready(Ok(refused)));
        }
        request.extensions_mut().insert(Arc::new(caller));
        let mut router = self.router.clone();
        Box::pin(async move { router.call(request).await })
    }
}

#[cfg(test)]
mod tests {
    use indelible_proto::DESCRIPTORS;
    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn every_call_has_its_rank_and_nothing_else_has_one() {
        let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
        let health = FileDescriptorSet::decode(tonic_health::pb::FILE_DESCRIPTOR_SET).unwrap();
        let mut calls = vec![RPC_REFLECTION.to_owned()];
        for file in files.file.iter().chain(&health.file) {
            if file.package().starts_with("indelible.raft") {
                continue;
            }
            for service in &file.service {
                for method in &service.method {
                    calls.push(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
                }
            }
        }
        let mut known: Vec<String> = CALLS.iter().map(|(call, _)| (*call).to_owned()).collect();
        calls.sort();
        known.sort();
        assert_eq!(calls, known);
    }

    #[test]
    fn a_stranger_asks_for_health_only_and_a_client_changes_no_group() {
        let authority = Authority { clear: Rank::Stranger };
        let caller = |rank, principal: &str| Caller {
            principal: principal.into(),
            authentication: "certificate".into(),
            rank,
        };
        for (call, needed) in CALLS {
            let stranger = authority.judge(&caller(Rank::Stranger, ""), call);
            assert_eq!(stranger.is_ok(), call.starts_with("/grpc.health"), "{call}");
            let client = authority.judge(&caller(Rank::Client, "client/a"), call);
            assert_eq!(client.is_ok(), *needed != Rank::Admin, "{call}");
            assert!(authority.judge(&caller(Rank::Admin, "admin/a"), call).is_ok());
        }
        assert!(authority.judge(&caller(Rank::Stranger, ""), "/indelible.v1.New/Call").is_err());
    }
}
