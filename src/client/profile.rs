//! Profiles: a file that says how to reach a cluster, and as whom.
//!
//! Together with the checkpoint file (`trust/file.rs`), the only place of the client that touches
//! files.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use indelible_core::limits::POLICY_BYTES_MAX;
use indelible_core::{Policy, TrailId};
use indelible_tls::NodeUri;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::connect::{Tls, TlsFiles};
use crate::{ConnectError, Options};

/// Bytes of a profile at most.
const PROFILE_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a PEM file at most: a hundred authorities.
const PEM_BYTES_MAX: usize = 1024 * 1024;

/// What a profile says. Paths in the file are relative to its folder; here they are not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Where it was read.
    pub path: PathBuf,
    /// Nodes to ask first, see [`Options::new`].
    pub endpoints: Vec<String>,
    /// The trail whose nodes are believed.
    pub trail: Option<TrailId>,
    /// Certificates that issue those of the nodes.
    pub ca: PathBuf,
    /// This client's certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// How nodes are named in their certificates, if not as `indelible cert node` does it.
    pub node_uri: Option<NodeUri>,
    /// Who has to have signed.
    pub policy: Option<PathBuf>,
}

/// A profile, or a file that it names, is of no use.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ProfileError {
    /// It cannot be read.
    #[error(
        "cannot read {}: {cause}\nhint: paths in a profile are relative to its folder; `indelible init` writes the first \
         one, admin.toml",
        .path.display()
    )]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the operating system says.
        cause: Arc<io::Error>,
    },
    /// It does not hold what it should.
    #[error("{}: {what}", .path.display())]
    Unfit {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        what: String,
    },
    /// Others than its owner may read or change a secret key.
    #[error(
        "{0} is a secret key, and others can read it (mode {mode:04o})\nhint: chmod 600 {0}",
        .path.display()
    )]
    OpenToOthers {
        /// Which file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    endpoints: Vec<String>,
    trail: Option<String>,
    ca: PathBuf,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    node_uri: Option<String>,
    policy: Option<PathBuf>,
}

impl Profile {
    /// Reads the file; those that it names are read by [`Profile::options`].
    ///
    /// # Errors
    /// [`ProfileError`] says which file, and what is wrong with it.
    pub fn read(path: impl AsRef<Path>) -> Result<Profile, ProfileError> {
        let path = path.as_ref();
        let unfit = |what: String| ProfileError::Unfit { path: path.to_owned(), what };
        let text: Text = toml::from_str(&read_text(path, PROFILE_BYTES_MAX)?).map_err(|error| {
            unfit(format!(
                "{error}hint: a profile has endpoints and ca, and trail, cert, key, node_uri and policy where needed"
            ))
        })?;
        let trail = text.trail.map(|trail| parse_trail(&trail)).transpose().map_err(unfit)?;
        let node_uri = text.node_uri.map(|uri| uri.parse::<NodeUri>()).transpose();
        let node_uri = node_uri.map_err(|error| unfit(format!("node_uri: {error}")))?;
        let beside = |file: PathBuf| path.parent().unwrap_or(Path::new("")).join(file);
        let identity = match (text.cert, text.key) {
            (Some(cert), Some(key)) => Some((beside(cert), beside(key))),
            (None, None) => None,
            _ => {
                let what = "cert and key go together, and one of them is missing\nhint: name both";
                return Err(unfit(what.into()));
            }
        };
        Ok(Profile {
            path: path.to_owned(),
            endpoints: text.endpoints,
            trail,
            ca: beside(text.ca),
            identity,
            node_uri,
            policy: text.policy.map(beside),
        })
    }

    /// Options with its endpoints, its certificates and its policy, and defaults for the rest.
    ///
    /// # Errors
    /// [`ConnectError::Profile`] and [`ConnectError::Tls`] if one of the files is of no use,
    /// [`ConnectError::Endpoint`] if an endpoint is.
    pub fn options(&self) -> Result<Options, ConnectError> {
        Ok(Options {
            tls: Some(self.tls()?),
            policy: self.policy()?,
            ..Options::new(&self.endpoints)?
        })
    }

    /// Its policy, if it names one.
    ///
    /// # Errors
    /// [`ProfileError`] if the file is of no use.
    pub fn policy(&self) -> Result<Option<Policy>, ProfileError> {
        self.policy.as_deref().map(read_policy).transpose()
    }

    /// Its certificates.
    ///
    /// # Errors
    /// [`ConnectError::Tls`] if one of the files is of no use.
    pub fn tls(&self) -> Result<Tls, ConnectError> {
        let files = TlsFiles { ca: self.ca.clone(), identity: self.identity.clone() };
        Ok(Tls::from_files_with(files, self.trail, self.node_uri.clone())?)
    }
}

fn parse_trail(text: &str) -> Result<TrailId, String> {
    let bytes = hex::decode(text).unwrap_or_default();
    TrailId::from_slice(&bytes)
        .ok_or_else(|| format!("trail {text:?} is no trail id\nhint: it has 32 hexadecimal digits"))
}

/// A policy file.
fn read_policy(path: &Path) -> Result<Policy, ProfileError> {
    let text = read_text(path, POLICY_BYTES_MAX)?;
    let parsed = text.parse::<Policy>();
    parsed.map_err(|error| ProfileError::Unfit { path: path.to_owned(), what: error.to_string() })
}

/// A file of certificates.
pub(crate) fn read_pem(path: &Path) -> Result<Vec<u8>, ProfileError> {
    read(path, &mut open(path)?, PEM_BYTES_MAX)
}

/// A file with a secret key, which nobody but its owner may read.
pub(crate) fn read_key(path: &Path) -> Result<Zeroizing<Vec<u8>>, ProfileError> {
    let mut file = open(path)?;
    check_mode(path, &file)?;
    read(path, &mut file, PEM_BYTES_MAX).map(Zeroizing::new)
}

#[cfg(unix)]
fn check_mode(path: &Path, file: &File) -> Result<(), ProfileError> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = file.metadata().map_err(|error| failed(path, error))?;
    let mode = metadata.permissions().mode() & 0o7777;
    match mode & 0o077 {
        0 => Ok(()),
        _ => Err(ProfileError::OpenToOthers { path: path.to_owned(), mode }),
    }
}

#[cfg(not(unix))]
fn check_mode(_path: &Path, _file: &File) -> Result<(), ProfileError> {
    Ok(())
}

fn open(path: &Path) -> Result<File, ProfileError> {
    File::open(path).map_err(|error| failed(path, error))
}

fn read(path: &Path, file: &mut File, bytes_max: usize) -> Result<Vec<u8>, ProfileError> {
    // Room for all of it from the start: a key that outgrows its place leaves copies behind.
    let mut bytes = Vec::with_capacity(64 * 1024);
    let limit = bytes_max as u64 + 1;
    file.take(limit).read_to_end(&mut bytes).map_err(|error| failed(path, error))?;
    if bytes.len() > bytes_max {
        let what =
            format!("more than {bytes_max} bytes, which is the limit\nhint: is it this file?");
        return Err(ProfileError::Unfit { path: path.to_owned(), what });
    }
    Ok(bytes)
}

fn read_text(path: &Path, bytes_max: usize) -> Result<String, ProfileError> {
    let bytes = read(path, &mut open(path)?, bytes_max)?;
    String::from_utf8(bytes).map_err(|error| ProfileError::Unfit {
        path: path.to_owned(),
        what: format!("it is no text: {error}"),
    })
}

fn failed(path: &Path, cause: io::Error) -> ProfileError {
    ProfileError::Io { path: path.to_owned(), cause: Arc::new(cause) }
}
