//! One node: its addresses, its files, its process.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, kill_process};

use crate::{LocalError, Signal, free_ports};

/// Lines of a node's log that belong into an error message.
const TAIL_LINES: usize = 10;

/// Name of an environment variable: a folder that keeps the logs of nodes of tests that panic.
const KEEP_LOGS: &str = "INDELIBLE_KEEP_LOGS";

/// What a node that crashed is told by, in the output of its test: final, whatever else failed.
pub const CRASHED: &str = "a process ended, that of node";

/// SIGILL, SIGTRAP, SIGABRT (what a panic ends with), SIGBUS and SIGSEGV: nobody sends these to a
/// node.
const CRASHES: [i32; 5] = [4, 5, 6, 7, 11];

/// A node of a [`crate::LocalCluster`].
pub struct LocalNode {
    /// Its id.
    pub id: u64,
    /// gRPC for clients.
    pub client_addr: String,
    /// gRPC for peers.
    pub raft_addr: String,
    /// HTTP for everybody, over TLS unless the group is in clear text.
    pub http_addr: String,
    /// HTTP in clear text, with metrics.
    pub probe_addr: String,
    /// Where it keeps everything.
    pub data_dir: PathBuf,
    /// Its configuration file.
    pub config: PathBuf,
    /// What its processes wrote to stderr, one after the other.
    log: PathBuf,
    binary: PathBuf,
    /// Environment variables that its processes get beyond the caller's own.
    environment: Vec<(String, String)>,
    /// Its process, from `start` to `kill`, `stop` or `wait`.
    child: Option<Child>,
}

impl LocalNode {
    /// A node of the group in `dir`, with free ports and no process.
    pub(crate) fn new(id: u64, dir: &Path, binary: &Path) -> Result<LocalNode, LocalError> {
        let ports = free_ports(4)?;
        let addr = |port: u16| format!("127.0.0.1:{port}");
        Ok(LocalNode {
            id,
            client_addr: addr(ports[0]),
            raft_addr: addr(ports[1]),
            http_addr: addr(ports[2]),
            probe_addr: addr(ports[3]),
            data_dir: dir.join(format!("node{id}")),
            config: dir.join(format!("node{id}.toml")),
            log: dir.join(format!("node{id}.log")),
            binary: binary.to_owned(),
            environment: Vec::new(),
            child: None,
        })
    }

    /// Sets an environment variable for its next processes: a preloaded library that fakes its
    /// clock is told so.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Starts its process.
    pub fn start(&mut self) -> Result<(), LocalError> {
        self.start_with(&[])
    }

    /// As [`Self::start`], with more arguments of `indelible serve`.
    pub fn start_with(&mut self, args: &[&str]) -> Result<(), LocalError> {
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.map_err(LocalError::file("open", &self.log))?;
        let child = Command::new(&self.binary)
            .args(["serve", "--until-stdin-closes", "--config"])
            .arg(&self.config)
            .args(args)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|source| LocalError::Run {
                binary: self.binary.clone(),
                command: "serve",
                source,
            })?;
        self.child = Some(child);
        Ok(())
    }

    /// SIGKILL. Returns the pid that it had.
    pub fn kill(&mut self) -> Result<u32, LocalError> {
        let mut child = self.take()?;
        child.kill().map_err(LocalError::process("kill", self.id))?;
        child.wait().map_err(LocalError::process("wait for", self.id))?;
        Ok(child.id())
    }

    /// An orderly stop, by closing its standard input. Returns how it ended.
    pub fn stop(&mut self) -> Result<ExitStatus, LocalError> {
        let mut child = self.take()?;
        drop(child.stdin.take());
        child.wait().map_err(LocalError::process("wait for", self.id))
    }

    /// Waits until its process ends by itself.
    pub fn wait(&mut self) -> Result<ExitStatus, LocalError> {
        self.take()?.wait().map_err(LocalError::process("wait for", self.id))
    }

    /// Sends a signal to its process: SIGSTOP, SIGCONT.
    pub fn signal(&self, signal: Signal) -> Result<(), LocalError> {
        let child = self.child.as_ref().ok_or(LocalError::NotRunning(self.id))?;
        kill_process(Pid::from_child(child), signal).map_err(|error| LocalError::Signal {
            signal,
            id: self.id,
            source: error.into(),
        })
    }

    /// Whether its process runs.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// The id of its process.
    pub fn pid(&self) -> Result<u32, LocalError> {
        self.child.as_ref().map(Child::id).ok_or(LocalError::NotRunning(self.id))
    }

    /// Everything it has logged.
    pub fn log_text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The last lines of its log, for an error message.
    pub fn log_tail(&self) -> String {
        let text = self.log_text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    /// Copies its log into the folder that [`KEEP_LOGS`] names.
    fn keep_log(&self) -> Option<()> {
        let group = self.log.parent()?;
        let folder = PathBuf::from(std::env::var_os(KEEP_LOGS)?).join(group.file_name()?);
        fs::create_dir_all(&folder).ok()?;
        fs::copy(&self.log, folder.join(self.log.file_name()?)).ok()?;
        Some(())
    }

    fn take(&mut self) -> Result<Child, LocalError> {
        self.child.take().ok_or(LocalError::NotRunning(self.id))
    }
}

impl Drop for LocalNode {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Without it, there is the end of the log in the panic's message.
            let _ = self.keep_log();
        }
        let Some(mut child) = self.child.take() else { return };
        let crash = child.try_wait().ok().flatten().and_then(|status| status.signal());
        // It may have ended by itself.
        let _ = child.kill();
        let _ = child.wait();
        if let Some(signal) = crash.filter(|signal| CRASHES.contains(signal)) {
            let what = format!("{CRASHED} {} by signal {signal}:\n{}", self.id, self.log_tail());
            eprintln!("{what}");
            assert!(std::thread::panicking(), "{what}");
        }
    }
}
