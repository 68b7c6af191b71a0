//! The wire contract: gRPC services and the event schema, generated from the `.proto` files beside this file.
//!
//! `bytes` fields are [`bytes::Bytes`]: decoding shares the receive buffer. Maps are ordered, so encoding is deterministic.

/// The public interface: events, the audit log, the cluster.
pub mod v1 {
    #![allow(missing_docs, clippy::all)]
    tonic::include_proto!("indelible.v1");
}

/// Between nodes.
pub mod raft {
    #![allow(missing_docs, clippy::all)]
    tonic::include_proto!("indelible.raft.v1");
}

pub mod event;
mod event_builder;
mod json;

pub use event::{EventError, validate_event};
pub use json::event_json;

/// All descriptors, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
