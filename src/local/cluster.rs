//! A group of nodes: its folder, its configuration files, `init`.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::{LocalError, LocalNode};

/// How to make a group.
pub struct LocalOptions {
    /// The `indelible` binary.
    pub binary: PathBuf,
    /// Number of nodes.
    pub nodes: u64,
    /// Segment size in bytes, if not the default.
    pub segment_bytes: Option<u64>,
    /// TOML lines that are appended to every configuration file.
    pub config: String,
    /// Without TLS.
    pub clear_text: bool,
}

impl LocalOptions {
    /// Three nodes with default settings, run by the program that calls this.
    pub fn three() -> Result<LocalOptions, LocalError> {
        let binary = std::env::current_exe().map_err(LocalError::Binary)?;
        let config = String::new();
        Ok(LocalOptions { binary, nodes: 3, segment_bytes: None, config, clear_text: false })
    }
}

/// A group of nodes. Drop kills each process by its own pid and removes the folder.
pub struct LocalCluster {
    /// In order of id, from 1. First, so that the processes end before their folder goes.
    pub nodes: Vec<LocalNode>,
    options: LocalOptions,
    /// Configuration files, data folders, logs, and what `init` writes.
    dir: TempDir,
}

impl LocalCluster {
    /// Makes a trail and starts its nodes on free ports.
    pub fn start(options: LocalOptions) -> Result<LocalCluster, LocalError> {
        let dir = tempfile::Builder::new()
            .prefix("indelible-")
            .tempdir()
            .map_err(LocalError::file("create a folder in", std::env::temp_dir()))?;
        let mut cluster = LocalCluster { nodes: Vec::new(), options, dir };
        for id in 1..=cluster.options.nodes {
            cluster.configure(id)?;
        }
        cluster.init()?;
        for node in &mut cluster.nodes {
            node.start()?;
        }
        Ok(cluster)
    }

    /// The folder of the group.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The policy file that `init` writes.
    pub fn policy(&self) -> PathBuf {
        self.dir().join("policy.txt")
    }

    /// The profile of an administrator that `init` writes: endpoints, certificates, policy.
    pub fn profile(&self) -> PathBuf {
        self.dir().join("admin.toml")
    }

    /// Client addresses of all nodes.
    pub fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.client_addr.clone()).collect()
    }

    /// The node with this id.
    pub fn node(&mut self, id: u64) -> Result<&mut LocalNode, LocalError> {
        self.nodes.iter_mut().find(|node| node.id == id).ok_or(LocalError::NoSuchNode(id))
    }

    /// Adds a node to the group and writes its configuration file. A node that was added after
    /// [`LocalCluster::start`] has no identity until `indelible node-key` makes one.
    pub fn configure(&mut self, id: u64) -> Result<&mut LocalNode, LocalError> {
        let node = LocalNode::new(id, self.dir.path(), &self.options.binary)?;
        let text = node_config(&node, &self.options);
        std::fs::write(&node.config, text).map_err(LocalError::file("write", &node.config))?;
        self.nodes.push(node);
        self.node(id)
    }

    /// `indelible init` with the configuration files of all nodes.
    fn init(&self) -> Result<(), LocalError> {
        let binary = &self.options.binary;
        let mut init = Command::new(binary);
        init.arg("init").arg("--policy-out").arg(self.policy());
        if let Some(bytes) = self.options.segment_bytes {
            init.arg("--segment-bytes").arg(bytes.to_string());
        }
        init.args(self.nodes.iter().map(|node| &node.config));
        let failed = |source| LocalError::Run { binary: binary.clone(), command: "init", source };
        let done = init.output().map_err(failed)?;
        if !done.status.success() {
            return Err(LocalError::Init(String::from_utf8_lossy(&done.stderr).into_owned()));
        }
        Ok(())
    }
}

/// The text of a node's configuration file; the caller's own lines come last.
fn node_config(node: &LocalNode, options: &LocalOptions) -> String {
    let mut text = format!("data_dir = \"node{}\"\n", node.id);
    for (name, addr) in [
        ("client_addr", &node.client_addr),
        ("raft_addr", &node.raft_addr),
        ("http_addr", &node.http_addr),
        ("probe_addr", &node.probe_addr),
    ] {
        text.push_str(&format!("{name} = \"{addr}\"\n"));
    }
    if options.clear_text {
        text.push_str("tls.mode = \"off\"\n");
    }
    text + &options.config
}
