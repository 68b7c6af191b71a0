//! gRPC and HTTP handlers: decode, call the node, encode.
//!
//! Invariant: a handler decides nothing about the trail. It checks limits ([`edge`]), knows its
//! caller ([`caller`], [`authority`]), and turns refusals into statuses of the error table
//! (`indelible_proto::reason`).

pub mod audit_log;
pub mod authority;
pub mod caller;
mod checkpoint_metrics;
mod clock_metrics;
pub mod cluster;
pub mod edge;
pub mod http;
mod key_history;
pub mod metrics;
pub mod oversize;
mod port_metrics;
mod proofs;
mod proven;
mod read_stream;
mod readers;
pub mod starting;
mod tlog;

pub use audit_log::AuditLogService;
pub use cluster::ClusterService;
