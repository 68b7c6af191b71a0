//! The `[tls]` section of a node's configuration.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Whether connections are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// All of them.
    #[default]
    Require,
    /// Both are accepted, and peers are dialed over TLS where they speak it. For the time of a
    /// migration only.
    Accept,
    /// None of them. On loopback addresses only.
    Off,
}

/// Certificates of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// Whether connections are encrypted.
    pub mode: Mode,
    /// `mode = "accept"` on other addresses than loopback.
    pub migration: bool,
    /// The node's certificate, PEM, with what leads to the CA. Default `data_dir/tls/node.crt`.
    pub cert: Option<PathBuf>,
    /// Its key, PEM, readable by its owner only. Default `data_dir/tls/node.key`.
    pub key: Option<PathBuf>,
    /// Who certifies nodes, PEM; two during a change of CA. Default `data_dir/tls/ca.crt`.
    pub ca: Option<PathBuf>,
    /// Who certifies clients, PEM. Default: who certifies nodes.
    pub client_ca: Option<PathBuf>,
    /// Revoked certificates, PEM. Default `data_dir/tls/ca.crl`, which need not exist.
    pub crl: Option<PathBuf>,
    /// How the certificates of a CA of your own name a node, if not
    /// `spiffe://<trail>.indelible/node/{id}`.
    pub node_uri: Option<String>,
    /// The files are read again this often, in seconds, and on SIGHUP.
    pub reload_s: u64,
}

impl Default for TlsConfig {
    fn default() -> Self {
        TlsConfig {
            mode: Mode::Require,
            migration: false,
            cert: None,
            key: None,
            ca: None,
            client_ca: None,
            crl: None,
            node_uri: None,
            reload_s: 10,
        }
    }
}

impl TlsConfig {
    /// Relative paths are relative to `folder`, that of the configuration file.
    pub fn resolve(&mut self, folder: &Path) {
        let paths =
            [&mut self.cert, &mut self.key, &mut self.ca, &mut self.client_ca, &mut self.crl];
        for path in paths.into_iter().flatten().filter(|path| path.is_relative()) {
            *path = folder.join(&*path);
        }
    }

    /// Whether the section makes sense; `listens` are the addresses that the node listens on.
    pub fn check(&self, listens: &[&str]) -> Result<(), String> {
        if self.reload_s == 0 {
            return Err("tls.reload_s = 0, at least 1 is needed".into());
        }
        let outside = listens.iter().find(|address| !is_loopback(address));
        match (self.mode, outside) {
            (Mode::Off, Some(address)) => Err(format!(
                "tls.mode = \"off\" with {address}, which is not a loopback address; hint: make certificates with \
                 `indelible cert` and leave tls.mode out"
            )),
            (Mode::Accept, Some(address)) if !self.migration => Err(format!(
                "tls.mode = \"accept\" with {address}, which is not a loopback address; hint: while a cluster moves from \
                 clear text to TLS, set tls.migration = true"
            )),
            _ => Ok(()),
        }
    }
}

/// Whether host:port is this machine's own loopback address. A name other than `localhost` is not
/// resolved: it may change.
pub fn is_loopback(address: &str) -> bool {
    let host = match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _)) => host,
        None => address.rsplit_once(':').map_or(address, |(host, _)| host),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clear_text_stays_on_loopback() {
        let with = |mode, migration| TlsConfig { mode, migration, ..TlsConfig::default() };
        let local = ["127.0.0.1:1", "[::1]:2", "localhost:3"];
        let outside = ["127.0.0.1:1", "10.0.0.1:2"];
        assert!(with(Mode::Off, false).check(&local).is_ok());
        assert!(with(Mode::Off, true).check(&outside).is_err());
        assert!(with(Mode::Accept, false).check(&outside).is_err());
        assert!(with(Mode::Accept, true).check(&outside).is_ok());
        assert!(with(Mode::Require, false).check(&outside).is_ok());
        assert!(!is_loopback("127.0.0.1.example.com:1") && !is_loopback("0.0.0.0:1"));
    }
}
