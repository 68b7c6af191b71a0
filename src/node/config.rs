//! What a node is told by its configuration file. What it *is* (id, key, trail) is in its data
//! directory.

use std::path::{Path, PathBuf};

use indelible_core::key::KeyError;
use indelible_core::{KeyType, VerifierKey, limits};
use serde::{Deserialize, Serialize};

use super::clock::rules::Settings;
use crate::net::TlsConfig;
use crate::net::config::is_loopback;
use crate::raft::RaftTimeouts;

/// Less than this is what clocks differ by in everyday life, in seconds.
const CLOCK_STEP_MAX_S_MIN: u64 = 10;

/// A node's configuration file (TOML).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Where the node keeps everything. Relative to the folder of the configuration file.
    pub data_dir: PathBuf,
    /// gRPC for clients, as others reach it, host:port.
    pub client_addr: String,
    /// gRPC for peers, as they reach it, host:port.
    pub raft_addr: String,
    /// HTTP for probes and the public log, as others reach it, host:port.
    pub http_addr: String,
    /// Where to listen for clients, host:port, if not at `client_addr`: behind a container or a
    /// network address translation, for example `0.0.0.0:7101`.
    #[serde(default)]
    pub client_listen: Option<String>,
    /// The same for peers.
    #[serde(default)]
    pub raft_listen: Option<String>,
    /// The same for HTTP.
    #[serde(default)]
    pub http_listen: Option<String>,
    /// All of HTTP and metrics for this machine, in clear text: host:port of a loopback address.
    /// Default: nowhere.
    #[serde(default)]
    pub probe_addr: Option<String>,
    /// All of HTTP and metrics for callers with a certificate, host:port. Default: nowhere.
    #[serde(default)]
    pub metrics_addr: Option<String>,
    /// Certificates.
    #[serde(default)]
    pub tls: TlsConfig,
    /// Election timeouts.
    #[serde(default)]
    pub raft: RaftTimeouts,
    /// Disk and memory.
    #[serde(default)]
    pub storage: StorageConfig,
    /// What time may do.
    #[serde(default)]
    pub clock: ClockConfig,
    /// The public log.
    #[serde(default)]
    pub http: HttpConfig,
    /// Witnesses outside the group that are asked to sign checkpoints; the same on every node.
    #[serde(default)]
    pub witness: Vec<WitnessConfig>,
    /// Between two requests to a witness, in milliseconds.
    #[serde(default = "default_witness_interval_ms")]
    pub witness_interval_ms: u64,
    /// Said on the command line, for one start: the disks of all nodes were put back together, so
    /// this one may be older than its own signatures.
    #[serde(skip)]
    pub all_rolled_back: bool,
}

/// A witness: C2SP tlog-witness.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WitnessConfig {
    /// For people and metrics.
    pub name: String,
    /// Its public key, a C2SP vkey of type 0x04.
    pub key: String,
    /// Where it takes checkpoints: what stands before `/add-checkpoint`.
    pub url: String,
}

fn default_witness_interval_ms() -> u64 {
    10_000
}

/// What may be fetched over HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Whether entry bundles are served. They hold the leaves: no content, but who recorded
    /// something when, under pseudonyms.
    pub public_entries: bool,
}

/// Disk and memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StorageConfig {
    /// Below this much free space, in bytes, the node takes no more events.
    pub disk_reserve_bytes: u64,
    /// Entries kept in memory, in bytes.
    pub log_cache_bytes: usize,
    /// How fast tree files and sealed segments are re-read in search of damage, in bytes a second;
    /// a quarter of it while events are being appended; 0 = not at all.
    pub scrub_bytes_per_s: u64,
    /// A pass over all of them begins at least this many seconds after the one before.
    pub scrub_every_s: u64,
}

impl Default for StorageConfig {
    fn default() -> Self {
        StorageConfig {
            disk_reserve_bytes: 256 * 1024 * 1024,
            log_cache_bytes: limits::LOG_CACHE_BYTES_MAX,
            // A twentieth of what a cheap disk reads, and a tenth of a core: appends do not notice.
            // 1.7 TB a day.
            scrub_bytes_per_s: 20_000_000,
            scrub_every_s: 600,
        }
    }
}

/// What time may do (docs/adr/0012).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClockConfig {
    /// How far ahead of the time that was agreed on before the clocks of a majority may be, in
    /// seconds, before a witness or an operator has to agree.
    pub step_max_s: u64,
    /// Whether appends stop when stamps have been ahead of the clocks for 10 minutes.
    pub stop_when_pinned: bool,
}

impl Default for ClockConfig {
    fn default() -> Self {
        ClockConfig { step_max_s: 3600, stop_when_pinned: false }
    }
}

impl ClockConfig {
    /// As the rules take it.
    pub fn settings(&self) -> Settings {
        let step_max_ns = self.step_max_s.saturating_mul(1_000_000_000);
        Settings { step_max_ns, stop_when_pinned: self.stop_when_pinned }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error(
        "configuration: {source}; hint: name the file of one node, as cluster/node1.toml is one"
    )]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: crate::disk::DiskError,
    },
    /// The file is not such a configuration.
    #[error("configuration {path}: {source}")]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Line, column and what was expected.
        source: toml::de::Error,
    },
    /// A value makes no sense.
    #[error("configuration {path}: {what}")]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// Which value, and what to do.
        what: String,
    },
}

impl NodeConfig {
    /// Reads and checks a file; `data_dir` comes back absolute or relative to the working
    /// directory.
    pub fn load(path: &Path) -> Result<NodeConfig, ConfigError> {
        let text = crate::disk::read_text(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let mut config: NodeConfig = toml::from_str(&text)
            .map_err(|source| ConfigError::Parse { path: path.to_owned(), source })?;
        if config.data_dir.is_relative()
            && let Some(folder) = path.parent()
        {
            config.data_dir = folder.join(&config.data_dir);
        }
        config.tls.resolve(path.parent().unwrap_or(Path::new("")));
        config.check().map_err(|what| ConfigError::Invalid { path: path.to_owned(), what })?;
        Ok(config)
    }

    /// Where to listen for clients.
    pub fn client_listen(&self) -> &str {
        self.client_listen.as_ref().unwrap_or(&self.client_addr)
    }

    /// Where to listen for peers.
    pub fn raft_listen(&self) -> &str {
        self.raft_listen.as_ref().unwrap_or(&self.raft_addr)
    }

    /// Where to listen for HTTP.
    pub fn http_listen(&self) -> &str {
        self.http_listen.as_ref().unwrap_or(&self.http_addr)
    }

    fn check(&self) -> Result<(), String> {
        let addresses = [
            ("client_addr", Some(&self.client_addr)),
            ("raft_addr", Some(&self.raft_addr)),
            ("http_addr", Some(&self.http_addr)),
            ("client_listen", self.client_listen.as_ref()),
            ("raft_listen", self.raft_listen.as_ref()),
            ("http_listen", self.http_listen.as_ref()),
            ("probe_addr", self.probe_addr.as_ref()),
            ("metrics_addr", self.metrics_addr.as_ref()),
        ];
        for (name, value) in addresses {
            let Some(value) = value else { continue };
            check_address(value).map_err(|what| format!("{name} = {value:?}: {what}"))?;
        }
        if let Some(probe) = self.probe_addr.as_ref().filter(|probe| !is_loopback(probe)) {
            return Err(format!(
                "probe_addr = {probe:?} is in clear text and not a loopback address; hint: for probes from elsewhere \
                 there is http_addr, for metrics metrics_addr"
            ));
        }
        let mut listens = vec![self.client_listen(), self.raft_listen(), self.http_listen()];
        listens.extend(self.metrics_addr.as_deref());
        self.tls.check(&listens)?;
        self.witnesses()?;
        if self.witness_interval_ms == 0 {
            return Err("witness_interval_ms = 0, at least 1 is needed".into());
        }
        if self.clock.step_max_s < CLOCK_STEP_MAX_S_MIN {
            let given = self.clock.step_max_s;
            return Err(format!(
                "clock.step_max_s = {given}, at least {CLOCK_STEP_MAX_S_MIN} are needed; hint: clocks differ by seconds"
            ));
        }
        let cache = self.storage.log_cache_bytes;
        if cache < limits::LOG_CACHE_BYTES_MIN {
            return Err(format!(
                "log_cache_bytes = {cache}, at least {} are needed",
                limits::LOG_CACHE_BYTES_MIN
            ));
        }
        let raft = &self.raft;
        if raft.heartbeat_ms == 0
            || raft.heartbeat_ms >= raft.election_timeout_min_ms
            || raft.election_timeout_min_ms >= raft.election_timeout_max_ms
        {
            return Err(format!(
                "raft timeouts {} < {} < {} do not rise; hint: heartbeat_ms < election_timeout_min_ms < \
                 election_timeout_max_ms",
                raft.heartbeat_ms, raft.election_timeout_min_ms, raft.election_timeout_max_ms
            ));
        }
        Ok(())
    }
}

impl NodeConfig {
    /// Name, key and address of each witness; says which one makes no sense.
    pub fn witnesses(&self) -> Result<Vec<(String, VerifierKey, String)>, String> {
        let mut witnesses: Vec<(String, VerifierKey, String)> = Vec::new();
        if self.witness.len() > limits::WITNESSES_MAX {
            let count = self.witness.len();
            return Err(format!("{count} witnesses, the limit is {}", limits::WITNESSES_MAX));
        }
        for WitnessConfig { name, key, url } in &self.witness {
            let wrong = |what: String| format!("witness {name:?}: {what}");
            let key: VerifierKey =
                key.parse().map_err(|error: KeyError| wrong(error.to_string()))?;
            if key.key_type != KeyType::Cosigner {
                return Err(wrong("its key is a log's, not a cosigner's".into()));
            }
            check_witness_url(url).map_err(wrong)?;
            if witnesses.iter().any(|(other, known, _)| other == name || *known == key) {
                return Err(wrong("its name or key is there twice".into()));
            }
            witnesses.push((name.clone(), key, url.clone()));
        }
        Ok(witnesses)
    }
}

/// A witness is asked over TLS, unless it is on this machine.
fn check_witness_url(url: &str) -> Result<(), String> {
    if url.starts_with("https://") {
        return Ok(());
    }
    let Some(rest) = url.strip_prefix("http://") else {
        return Err(format!("url = {url:?} begins neither with https:// nor http://"));
    };
    let host = rest.split('/').next().unwrap_or(rest);
    match !host.contains('@') && is_loopback(host) {
        true => Ok(()),
        false => Err(format!(
            "url = {url:?} is in clear text and not on a loopback address; hint: https://"
        )),
    }
}

/// Whether an address is host:port and short enough to be a member's.
pub fn check_address(address: &str) -> Result<(), String> {
    if address.len() > limits::NAME_BYTES_MAX {
        return Err(format!("{} bytes, the limit is {}", address.len(), limits::NAME_BYTES_MAX));
    }
    match address.rsplit_once(':') {
        Some((host, port))
            if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) =>
        {
            Ok(())
        }
        _ => Err("not host:port; hint: for example 127.0.0.1:7101".into()),
    }
}
