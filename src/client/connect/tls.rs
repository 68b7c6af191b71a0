//! The certificates of a client, and how they are replaced while it runs.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use indelible_core::TrailId;
use indelible_tls::rustls::ClientConfig;
use indelible_tls::{Certificate, MaterialError, NodeUri, SdkPem, sdk_client};
use zeroize::Zeroizing;

use crate::profile::{ProfileError, read_key, read_pem};

/// What a client shows to nodes, and by what it believes them. Cloning shares it.
#[derive(Clone)]
pub struct Tls {
    shared: Arc<Shared>,
}

/// Certificates and a key in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsPem {
    /// PEM of the certificates that issue those of the nodes.
    pub ca: Vec<u8>,
    /// Who this client is. Without one, nodes answer nothing but health checks.
    pub identity: Option<Identity>,
}

/// A certificate and its key.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// PEM: the certificate, and those that lead to its root.
    pub cert: Vec<u8>,
    /// PEM of the secret key.
    pub key: Zeroizing<Vec<u8>>,
}

/// Certificates and a key in files, which are read again for every new connection.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// See [`TlsPem::ca`].
    pub ca: PathBuf,
    /// Certificate and key, see [`TlsPem::identity`].
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// The certificates cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or may not be as it is.
    #[error(transparent)]
    File(#[from] ProfileError),
    /// What is in them does not do.
    #[error("{files}: {what}")]
    Unfit {
        /// Which they are.
        files: String,
        /// What is wrong with them, and what to do.
        what: String,
    },
}

/// What a message to a person says of the certificates of one connection.
#[derive(Debug)]
pub(super) struct About {
    /// Where the authority's certificates are from.
    pub(super) ca: String,
    /// Which certificate this client shows.
    pub(super) certificate: String,
    /// From when to when that is valid.
    pub(super) validity: String,
}

struct Shared {
    /// None: what is in memory stays as it is.
    files: Option<TlsFiles>,
    trail: Option<TrailId>,
    node_uri: Option<NodeUri>,
    current: Mutex<Current>,
}

struct Current {
    pem: TlsPem,
    config: Arc<ClientConfig>,
    about: Arc<About>,
    /// The last thing that was wrong with the files, so that it is said once.
    warned: Option<String>,
}

impl Tls {
    /// From memory. Nodes are believed if they belong to `trail`, or to any trail without one.
    ///
    /// # Errors
    /// [`TlsError::Unfit`] if the PEM texts do not hold what they should, or the key is another
    /// one's.
    pub fn from_pem(pem: TlsPem, trail: Option<TrailId>) -> Result<Tls, TlsError> {
        Tls::new(None, pem, trail, None)
    }

    /// From files. New content is taken up by new connections; while there is something wrong with
    /// it, what was read last stays in use, and a warning is logged.
    ///
    /// # Errors
    /// [`TlsError`] says which file, and what is wrong with it. A key file that others can read is
    /// refused.
    pub fn from_files(files: TlsFiles, trail: Option<TrailId>) -> Result<Tls, TlsError> {
        Tls::from_files_with(files, trail, None)
    }

    /// As [`Tls::from_files`], for nodes whose certificates come from elsewhere and are named in
    /// another way.
    pub fn from_files_with(
        files: TlsFiles,
        trail: Option<TrailId>,
        node_uri: Option<NodeUri>,
    ) -> Result<Tls, TlsError> {
        let pem = files.read()?;
        Tls::new(Some(files), pem, trail, node_uri)
    }

    fn new(
        files: Option<TlsFiles>,
        pem: TlsPem,
        trail: Option<TrailId>,
        node_uri: Option<NodeUri>,
    ) -> Result<Tls, TlsError> {
        let about = Arc::new(About::of(files.as_ref(), &pem));
        let config = configure(&pem, trail, node_uri.as_ref())
            .map_err(|error| TlsError::unfit(files.as_ref(), &error))?;
        let current = Mutex::new(Current { pem, config, about, warned: None });
        Ok(Tls { shared: Arc::new(Shared { files, trail, node_uri, current }) })
    }

    /// What a new connection uses: reads the files again, if there are any.
    pub(super) async fn for_a_connection(&self) -> (Arc<ClientConfig>, Arc<About>) {
        if self.shared.files.is_some() {
            let shared = self.shared.clone();
            // It ends early only together with the runtime.
            let _ = tokio::task::spawn_blocking(move || shared.refresh()).await;
        }
        let current = self.shared.current();
        (current.config.clone(), current.about.clone())
    }
}

impl Shared {
    /// Takes up what is new in the files, or says once why not.
    fn refresh(&self) {
        let Some(files) = &self.files else { return };
        let read = files.read();
        let mut current = self.current();
        let fresh = match read {
            Ok(pem) if pem == current.pem => {
                current.warned = None;
                return;
            }
            Ok(pem) => {
                let configured = configure(&pem, self.trail, self.node_uri.as_ref());
                configured.map(|config| (pem, config)).map_err(|e| TlsError::unfit(Some(files), &e))
            }
            Err(error) => Err(error),
        };
        match fresh {
            Ok((pem, config)) => {
                let about = Arc::new(About::of(Some(files), &pem));
                tracing::info!(certificate = about.certificate, "certificates were replaced");
                *current = Current { pem, config, about, warned: None };
            }
            Err(error) => {
                let error = error.to_string();
                if current.warned.as_ref() != Some(&error) {
                    tracing::warn!(error, "new certificates are of no use, the old ones stay");
                    current.warned = Some(error);
                }
            }
        }
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().expect("nothing panics while it holds this lock")
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let current = self.shared.current();
        f.debug_struct("Tls")
            .field("trail", &self.shared.trail)
            .field("about", &current.about)
            .finish_non_exhaustive()
    }
}

/// Says nothing of the key.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

impl TlsFiles {
    fn read(&self) -> Result<TlsPem, TlsError> {
        let ca = read_pem(&self.ca)?;
        let identity = match &self.identity {
            Some((cert, key)) => Some(Identity { cert: read_pem(cert)?, key: read_key(key)? }),
            None => None,
        };
        Ok(TlsPem { ca, identity })
    }
}

impl TlsError {
    fn unfit(files: Option<&TlsFiles>, error: &MaterialError) -> TlsError {
        let files = match files {
            None => "the certificates".into(),
            Some(TlsFiles { ca, identity: None }) => ca.display().to_string(),
            Some(TlsFiles { ca, identity: Some((cert, key)) }) => {
                format!("{}, {}, {}", ca.display(), cert.display(), key.display())
            }
        };
        TlsError::Unfit { files, what: error.to_string() }
    }
}

impl About {
    fn of(files: Option<&TlsFiles>, pem: &TlsPem) -> About {
        let ca = files.map_or_else(
            || "an authority of the given certificates".into(),
            |files| files.ca.display().to_string(),
        );
        let path = files.and_then(|files| files.identity.as_ref()).map(|(cert, _)| cert);
        let certificate = match (&pem.identity, path) {
            (None, _) => "a client without a certificate".into(),
            (Some(_), None) => "the client certificate".into(),
            (Some(_), Some(path)) => format!("the client certificate {}", path.display()),
        };
        let leaf = pem.identity.as_ref().and_then(|identity| {
            Certificate::from_pem(&identity.cert).ok().and_then(|chain| chain.into_iter().next())
        });
        let validity = leaf.map_or_else(String::new, |leaf| {
            let (from, to) = (day(leaf.not_before), day(leaf.not_after));
            format!("it is valid from {from} to {to}")
        });
        About { ca, certificate, validity }
    }
}

/// A time in Unix seconds as a day of UTC.
fn day(seconds: i64) -> String {
    let time = prost_types::Timestamp { seconds, nanos: 0 }.to_string();
    time.split('T').next().unwrap_or_default().to_owned()
}

fn configure(
    pem: &TlsPem,
    trail: Option<TrailId>,
    node_uri: Option<&NodeUri>,
) -> Result<Arc<ClientConfig>, MaterialError> {
    let identity = pem.identity.as_ref();
    sdk_client(&SdkPem {
        ca: &pem.ca,
        identity: identity.map(|identity| (&identity.cert[..], &identity.key[..])),
        trail,
        node_uri: node_uri.cloned(),
    })
}
