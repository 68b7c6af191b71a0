//! Sockets: who may open a connection, how long it may stay, and how much it may hold.
//!
//! All ports of a node are served by one accept loop ([`listen`]). A TLS handshake runs in a task
//! of its own; then the connection is a [`Connection`] that every handler finds in its request: who
//! the other end is by its certificate, what the TLS session can be bound to, and whether the other
//! end has proved to be a node. [`dial`] is the calling side for nodes.
//!
//! Invariants: nothing here knows of Raft or of the trail. No request reaches a handler on a
//! connection whose certificate was not trusted by that port when it was made or when the
//! certificates were last read. A request body that is not complete
//! holds memory of a budget and has a deadline.

pub mod body;
mod budgets;
pub mod config;
pub mod connection;
mod counters;
pub mod credentials;
pub mod dial;
pub mod listen;
mod recent;
mod rooms;
mod supervise;
#[cfg(test)]
mod tests;

pub use config::{Mode, TlsConfig};
pub use connection::{Connection, Security};
pub use counters::Counters;
pub use credentials::{Credentials, CredentialsError};
pub use listen::{Port, PortKind, serve};
pub use rooms::fit_open_files;
