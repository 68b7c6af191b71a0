//! A group of real processes on this machine in a temporary folder, for `demo` and `bench`.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail};
use tempfile::TempDir;

use crate::disk::{output_file, read_text, write_text};

/// Killed, each process by its own pid, when dropped; the folder goes too.
pub struct LocalCluster {
    /// In order of id, from 1.
    pub nodes: Vec<LocalNode>,
    dir: TempDir,
}

/// One node of it.
pub struct LocalNode {
    /// Its id.
    pub id: u64,
    /// gRPC for clients.
    pub client_addr: String,
    /// Where it keeps everything.
    pub data_dir: PathBuf,
    config: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl LocalCluster {
    /// Makes a trail and starts `count` nodes of it on free ports.
    pub fn start(count: u64) -> anyhow::Result<LocalCluster> {
        let dir = tempfile::Builder::new().prefix("indelible-").tempdir().context("make a folder")?;
        let ports = free_ports(3 * count as usize)?;
        let nodes = (1..=count)
            .zip(ports.chunks_exact(3))
            .map(|(id, ports)| LocalNode::configure(dir.path(), id, ports))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let init = Command::new(std::env::current_exe()?)
            .arg("init")
            .args(nodes.iter().map(|node| &node.config))
            .output()
            .context("run init")?;
        if !init.status.success() {
            bail!("init failed: {}", String::from_utf8_lossy(&init.stderr));
        }
        let mut cluster = LocalCluster { nodes, dir };
        for node in &mut cluster.nodes {
            node.start()?;
        }
        Ok(cluster)
    }

    /// Where everything is.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Client addresses of all nodes.
    pub fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.client_addr.clone()).collect()
    }

    /// The node with this id.
    pub fn node(&mut self, id: u64) -> anyhow::Result<&mut LocalNode> {
        self.nodes.iter_mut().find(|node| node.id == id).with_context(|| format!("find node {id}"))
    }
}

impl LocalNode {
    fn configure(dir: &Path, id: u64, ports: &[u16]) -> anyhow::Result<LocalNode> {
        let addr = |port: u16| format!("127.0.0.1:{port}");
        let node = LocalNode {
            id,
            client_addr: addr(ports[0]),
            data_dir: dir.join(format!("node{id}")),
            config: dir.join(format!("node{id}.toml")),
            log: dir.join(format!("node{id}.log")),
            child: None,
        };
        let text = format!(
            "data_dir = \"node{id}\"\nclient_addr = \"{}\"\nraft_addr = \"{}\"\nhttp_addr = \"{}\"\n",
            node.client_addr,
            addr(ports[1]),
            addr(ports[2])
        );
        write_text(&node.config, &text)?;
        Ok(node)
    }

    /// Starts its process.
    pub fn start(&mut self) -> anyhow::Result<()> {
        let child = Command::new(std::env::current_exe()?)
            .args(["serve", "--until-stdin-closes", "--config"])
            .arg(&self.config)
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
        let Some(mut child) = self.child.take() else { bail!("node {} does not run", self.id) };
        let pid = child.id();
        child.kill().with_context(|| format!("kill node {}", self.id))?;
        child.wait().with_context(|| format!("wait for node {}", self.id))?;
        Ok(pid)
    }

    /// The pid of its process.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// The last lines of its log, for an error message.
    pub fn log_tail(&self) -> String {
        let text = read_text(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
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

/// Ports that nobody listens on now.
fn free_ports(count: usize) -> anyhow::Result<Vec<u16>> {
    let held = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<Result<Vec<_>, _>>()
        .context("find free ports")?;
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}
