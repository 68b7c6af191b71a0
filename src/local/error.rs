//! What can fail when nodes are started and stopped.

use std::io;
use std::path::PathBuf;

use crate::Signal;

/// A failure outside the nodes: a process, a file or a port of this machine.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The path of this very program is not known.
    #[error("cannot find this program's own file: {0}")]
    Binary(#[source] io::Error),
    /// A file or folder of the group.
    #[error("cannot {operation} {}: {source}; hint: TMPDIR names the folder of groups", path.display())]
    File {
        /// "create", "write", "open".
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The binary did not start.
    #[error("cannot run {} {command}: {source}", binary.display())]
    Run {
        /// The `indelible` binary.
        binary: PathBuf,
        /// Its subcommand.
        command: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// `init` ran and refused.
    #[error("init failed: {0}")]
    Init(String),
    /// No node of the group has this id.
    #[error("the group has no node {0}; hint: ids begin at 1")]
    NoSuchNode(u64),
    /// The node's process was not started, or was taken by `kill`, `stop` or `wait`.
    #[error("node {0} does not run; hint: start it first")]
    NotRunning(u64),
    /// The process cannot be killed or waited for.
    #[error("cannot {operation} node {id}: {source}")]
    Process {
        /// "kill", "wait for".
        operation: &'static str,
        /// The node.
        id: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The signal was not sent.
    #[error("cannot send {signal:?} to node {id}: {source}")]
    Signal {
        /// The signal.
        signal: Signal,
        /// The node.
        id: u64,
        /// What the system said.
        source: io::Error,
    },
    /// All ports of the range are in use.
    #[error("found {found} of {wanted} free ports from {first} to {last}; hint: stop other groups")]
    Ports {
        /// How many were asked for.
        wanted: usize,
        /// How many are free.
        found: usize,
        /// First port of the range.
        first: u16,
        /// Last port of the range.
        last: u16,
    },
}

impl LocalError {
    pub(crate) fn file(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> LocalError {
        let path = path.into();
        move |source| LocalError::File { operation, path, source }
    }

    pub(crate) fn process(
        operation: &'static str,
        id: u64,
    ) -> impl FnOnce(io::Error) -> LocalError {
        move |source| LocalError::Process { operation, id, source }
    }
}
