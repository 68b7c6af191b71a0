//! Who calls, by the certificate of the connection.

use std::sync::Arc;

use indelible_tls::Role;
use tonic::Request;

use crate::net::{Connection, Security};

/// What a caller may do, for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// It has shown nothing: ask whether the node serves.
    Stranger,
    /// Append and read.
    Client,
    /// Change the group too.
    Admin,
}

/// A caller, as far as this node could establish who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Its authenticated name, as `client/billing`; empty if it was not authenticated.
    pub principal: String,
    /// How it was authenticated: "certificate" or "none".
    pub authentication: String,
    /// What it may do.
    pub rank: Rank,
}

impl Caller {
    /// The caller at the other end of a connection. In clear text there is no telling: `clear` says
    /// what that is worth.
    pub fn at(connection: &Connection, clear: Rank) -> Caller {
        let rank = match &connection.security {
            Security::Clear => clear,
            Security::Tls { peer: None, .. } => Rank::Stranger,
            Security::Tls { peer: Some(peer), .. } => match &peer.name.role {
                Role::Admin(_) => Rank::Admin,
                Role::Client(_) => Rank::Client,
                // Nodes speak at each other's raft ports.
                Role::Node(_) => Rank::Stranger,
            },
        };
        let principal = connection.security.peer().map(|peer| peer.name.principal());
        let authentication = if principal.is_some() { "certificate" } else { "none" };
        let (principal, authentication) = (principal.unwrap_or_default(), authentication.into());
        Caller { principal, authentication, rank }
    }

    /// The caller of a request that the guard has let through.
    pub fn of<T>(request: &Request<T>) -> Caller {
        let caller = request.extensions().get::<Arc<Caller>>();
        caller.map(|caller| Caller::clone(caller)).unwrap_or(Caller {
            principal: String::new(),
            authentication: "none".into(),
            rank: Rank::Stranger,
        })
    }
}
