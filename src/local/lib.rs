//! Groups of real nodes on this machine, in a temporary folder.
//!
//! `indelible demo`, `indelible bench --spawn` and the tests use it. It runs the `indelible` binary
//! and links nothing of the server. [`LocalCluster`] owns the group, [`LocalNode`] one process.

mod cluster;
mod error;
mod node;
mod ports;

pub use cluster::{LocalCluster, LocalOptions};
pub use error::LocalError;
pub use node::{CRASHED, LocalNode};
pub use ports::free_ports;
pub use rustix::process::Signal;
