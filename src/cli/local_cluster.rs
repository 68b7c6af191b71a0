//! A group of real processes on this machine in a temporary folder, for `demo`, `bench` and
//! the integration tests.

use std::net::TcpListener;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Context, bail};
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};
use tempfile::TempDir;

use crate::disk::{output_file, read_text, write_text};

/// Where the ports of nodes are looked for.
const PORTS: Range<u16> = 12_000..32_000;

/// How to make a group.
pub struct LocalOptions {
    /// The `indelible` binary.
    pub binary: PathBuf,
    /// Nodes.
    pub nodes: u64,
    /// Segment size in bytes, if not the default.
    pub segment_bytes: Option<u64>,
    /// Appended to every configuration file.
    pub config: String,
}

impl LocalOptions {
    /// Three nodes with default settings, run by this very binary.
    pub fn three() -> anyhow::Result<LocalOptions> {
        let binary = std::env::current_exe().context("find this binary")?;
        Ok(LocalOptions { binary, nodes: 3, segment_bytes: None, config: String::new() })
    }
}

/// Killed, each process by its own pid, when dropped; the folder goes too.
pub struct LocalCluster {
    /// In order of id, from 1.
    pub nodes: Vec<LocalNode>,
    options: LocalOptions,
    dir: TempDir,
}

/// One node of it.
pub struct LocalNode {
    /// Its id.
    pub id: u64,
    /// gRPC for clients.
    pub client_addr: String,
    /// gRPC for peers.
    pub raft_addr: String,
    /// HTTP.
    pub http_addr: String,
    /// Where it keeps everything.
    pub data_dir: PathBuf,
    /// Its configuration file.
    pub config: PathBuf,
    log: PathBuf,
    binary: PathBuf,
    child: Option<Child>,
}

impl LocalCluster {
    /// Makes a trail and starts its nodes on free ports.
    pub fn start(options: LocalOptions) -> anyhow::Result<LocalCluster> {
        let dir =
            tempfile::Builder::new().prefix("indelible-").tempdir().context("make a folder")?;
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

    /// Where everything is.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The policy file that `init` has written.
    pub fn policy(&self) -> PathBuf {
        self.dir.path().join(super::init::POLICY_FILE)
    }

    /// Client addresses of all nodes.
    pub fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.client_addr.clone()).collect()
    }

    /// The node with this id.
    pub fn node(&mut self, id: u64) -> anyhow::Result<&mut LocalNode> {
        self.nodes.iter_mut().find(|node| node.id == id).with_context(|| format!("find node {id}"))
    }

    /// Writes the configuration of one more node; it has no identity yet.
    pub fn configure(&mut self, id: u64) -> anyhow::Result<&mut LocalNode> {
        let dir = self.dir.path();
        let ports = free_ports(3)?;
        let addr = |port: u16| format!("127.0.0.1:{port}");
        let node = LocalNode {
            id,
            client_addr: addr(ports[0]),
            raft_addr: addr(ports[1]),
            http_addr: addr(ports[2]),
            data_dir: dir.join(format!("node{id}")),
            config: dir.join(format!("node{id}.toml")),
            log: dir.join(format!("node{id}.log")),
            binary: self.options.binary.clone(),
            child: None,
        };
        let text = format!(
            "data_dir = \"node{id}\"\nclient_addr = \"{}\"\nraft_addr = \"{}\"\nhttp_addr = \"{}\"\n{}",
            node.client_addr, node.raft_addr, node.http_addr, self.options.config
        );
        write_text(&node.config, &text)?;
        self.nodes.push(node);
        self.nodes.last_mut().context("the node was just added")
    }

    fn init(&self) -> anyhow::Result<()> {
        let mut init = Command::new(&self.options.binary);
        init.arg("init").args(self.nodes.iter().map(|node| &node.config));
        if let Some(bytes) = self.options.segment_bytes {
            init.arg("--segment-bytes").arg(bytes.to_string());
        }
        let done = init.output().context("run init")?;
        if !done.status.success() {
            bail!("init failed: {}", String::from_utf8_lossy(&done.stderr));
        }
        Ok(())
    }
}

impl LocalNode {
    /// Starts its process.
    pub fn start(&mut self) -> anyhow::Result<()> {
        self.start_with(&[])
    }

    /// As [`Self::start`], with more arguments.
    pub fn start_with(&mut self, args: &[&str]) -> anyhow::Result<()> {
        let child = Command::new(&self.binary)
            .args(["serve", "--until-stdin-closes", "--config"])
            .arg(&self.config)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(output_file(&self.log)?)
            .spawn()
            .with_context(|| format!("start node {}", self.id))?;
        self.child = Some(child);
        Ok(())
    }

    /// SIGKILL. Returns the pid that it had.
    pub fn kill(&mut self) -> anyhow::Result<u32> {
        let mut child = self.take()?;
        let pid = child.id();
        child.kill().with_context(|| format!("kill node {}", self.id))?;
        child.wait().with_context(|| format!("wait for node {}", self.id))?;
        Ok(pid)
    }

    /// An orderly stop, by closing its standard input. Returns how it ended.
    pub fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        let mut child = self.take()?;
        drop(child.stdin.take());
        child.wait().with_context(|| format!("wait for node {}", self.id))
    }

    /// Waits until its process ends by itself.
    pub fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        self.take()?.wait().with_context(|| format!("wait for node {}", self.id))
    }

    /// Sends a signal to its process: SIGSTOP, SIGCONT.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let child =
            self.child.as_ref().with_context(|| format!("node {} does not run", self.id))?;
        kill_process(Pid::from_child(child), signal)
            .with_context(|| format!("send {signal:?} to node {}", self.id))
    }

    /// Whether its process runs.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Everything it has logged.
    pub fn log_text(&self) -> String {
        read_text(&self.log).unwrap_or_default()
    }

    /// The last lines of its log, for an error message.
    pub fn log_tail(&self) -> String {
        let text = self.log_text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
    fn take(&mut self) -> anyhow::Result<Child> {
        self.child.take().with_context(|| format!("node {} does not run", self.id))
    }
}

impl Drop for LocalNode {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Ports that nobody listens on now, and that stay free while a node is down: the system gives
/// them to no connection, as they are below its range, and this process to no other node.
fn free_ports(count: usize) -> anyhow::Result<Vec<u16>> {
    static NEXT: OnceLock<Mutex<u16>> = OnceLock::new();
    // Another process begins elsewhere.
    let first = || Mutex::new(rand::random_range(PORTS));
    let mut next = NEXT.get_or_init(first).lock().unwrap_or_else(PoisonError::into_inner);
    let mut found = Vec::with_capacity(count);
    for _ in PORTS {
        let port = *next;
        *next = if port + 1 < PORTS.end { port + 1 } else { PORTS.start };
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            found.push(port);
        }
        if found.len() == count {
            return Ok(found);
        }
    }
    bail!("find {count} free ports from {} to {}", PORTS.start, PORTS.end - 1)
}
