//! Certificates of nodes, clients and administrators: issued, read, verified, and bound to TLS
//! connections.
//!
//! A certificate is believed for three reasons together: it leads to a certificate authority that
//! the configuration names, no revocation list of it holds its serial number, and it carries one
//! [`Name`] of this trail with a role that may use the port ([`Trust::judge`]). Between nodes
//! neither DNS names nor addresses count, and an expired certificate is still accepted there: a
//! wrong clock must not stop a trail. Ports for clients judge expiry strictly.
//!
//! ```text
//! pem -> inspect -> name -> peer        what a certificate says
//! trust -> verify                       whether it is believed, and rustls's view of that
//! material -> config                    files of a node or a client, for rustls
//! exporter                              what binds a proof to one connection
//! issue (feature)                       a small certificate authority
//! ```
//!
//! Invariant: nothing here opens a file or a socket; everything takes and gives bytes. No
//! connection is resumed, so no connection keeps a certificate that was revoked since.

mod config;
mod exporter;
mod inspect;
#[cfg(feature = "issue")]
pub mod issue;
mod material;
mod name;
mod peer;
mod pem;
#[cfg(test)]
mod tests;
mod trust;
mod verify;

pub use rustls;
pub use rustls::pki_types;
pub use zeroize::Zeroizing;

pub use config::{
    SdkPem, client_server, http_server, metrics_server, raft_client, raft_server, sdk_client,
    sdk_http_client, web_client,
};
pub use exporter::{EXPORTER_LABEL, exporter_of_client, exporter_of_server};
pub use inspect::{Certificate, Names, Request, RevocationList, Revoked, Usage};
pub use material::{Expected, Expiry, Material, MaterialError, Pem, Warning};
pub use name::{NAME_LENGTH_MAX, Name, NameError, Naming, NodeUri, Role, parse_trail};
pub use peer::Peer;
pub use pem::PemError;
pub use trust::{Port, Refusal, Trust};
