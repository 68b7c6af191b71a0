//! Indelible: a replicated, tamper-evident audit log whose Raft log is the audit trail.
//!
//! Layers, each knowing only those before it: [`disk`], [`net`] and [`storage`], [`raft`],
//! [`node`], [`service`], [`server`]; beside them [`cli`]. ARCHITECTURE.md says what each may not
//! know.

pub mod disk;
pub mod net;
pub mod storage;

pub mod raft;

pub mod node;

pub mod service;

pub mod server;

pub mod cli;
