//! Who calls. It reaches every handler from day one, so that authentication later changes only this
//! file.

use tonic::Request;

/// A caller, as far as this node could establish who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Its authenticated name; empty if it was not authenticated.
    pub principal: String,
    /// How it was authenticated: "none" until TLS and tokens are there.
    pub authentication: String,
}

impl Caller {
    /// The caller of a request.
    pub fn of<T>(_request: &Request<T>) -> Caller {
        Caller { principal: String::new(), authentication: "none".into() }
    }
}
