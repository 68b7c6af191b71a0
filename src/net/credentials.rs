//! A node's certificates, and the TLS settings that follow from them: read at start, and again when
//! the files change.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use indelible_core::TrailId;
use indelible_tls::rustls::{self, ClientConfig, ServerConfig};
use indelible_tls::{
    Certificate, Expected, Expiry, Material, MaterialError, NodeUri, Pem, RevocationList, Warning,
};
use tokio::sync::{Notify, watch};

use super::config::{Mode, TlsConfig};
use super::counters::Counters;
use crate::disk::{self, DiskError};

/// Between two reminders of what must not stay.
const REMIND: Duration = Duration::from_secs(3600);
/// Before its end, a certificate is an alarm.
const EXPIRES_SOON_S: i64 = 30 * 86_400;

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file cannot be read, or others can read a key.
    #[error("{0}; hint: docs/certificates.md says which files a node needs")]
    Disk(#[from] DiskError),
    /// What is in the files does not fit this node.
    #[error("certificates beside {}: {source}", path.display())]
    Material {
        /// The certificate.
        path: PathBuf,
        /// What is wrong with it.
        source: MaterialError,
    },
    /// rustls does not take it.
    #[error("certificate {}: {source}", path.display())]
    Tls {
        /// The certificate.
        path: PathBuf,
        /// What rustls says.
        source: rustls::Error,
    },
    /// A revocation list would be taken back.
    #[error(
        "the revocation list of {issuer:?} has number {known}, and now {}; hint: put the newer list back, nothing that \
         was revoked counts again",
        found.map_or("there is none".to_owned(), |found| format!("number {found} is there"))
    )]
    OlderList {
        /// Who made the list.
        issuer: String,
        /// Number of the list in use.
        known: u64,
        /// Number of the one in the files.
        found: Option<u64>,
    },
    /// `tls.node_uri` names no node.
    #[error("tls.node_uri = {0:?} has no {{id}}; hint: spiffe://prod/indelible/{{id}}")]
    NodeUri(String),
}

/// What is in use now.
pub struct Current {
    /// The certificates.
    pub material: Material,
    pub(super) raft_server: Arc<ServerConfig>,
    pub(super) raft_client: Arc<ClientConfig>,
    pub(super) client_server: Arc<ServerConfig>,
    pub(super) http_server: Arc<ServerConfig>,
    pub(super) metrics_server: Arc<ServerConfig>,
    /// Numbers of the revocation lists, by issuer.
    lists: BTreeMap<String, u64>,
    /// Names of the roots.
    roots: BTreeSet<String>,
}

impl Current {
    /// A list must not be replaced by an older one, nor vanish while its issuer is trusted.
    fn check_lists(&self, before: &Current) -> Result<(), CredentialsError> {
        for (issuer, known) in &before.lists {
            let found = self.lists.get(issuer).copied();
            if self.roots.contains(issuer) && found.is_none_or(|found| found < *known) {
                let (issuer, known) = (issuer.clone(), *known);
                return Err(CredentialsError::OlderList { issuer, known, found });
            }
        }
        Ok(())
    }
}

/// A node's certificates. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Credentials {
    inner: Arc<Inner>,
}

struct Inner {
    mode: Mode,
    reload_every: Duration,
    files: Files,
    /// None in clear text.
    current: watch::Sender<Option<Arc<Current>>>,
    counters: Arc<Counters>,
    /// Peers with which there is no TLS, and why, by address.
    failures: Mutex<BTreeMap<String, String>>,
    /// Somebody asks that the files are read again.
    reload: Notify,
}

/// Where the certificates are, and whose they must be.
struct Files {
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
    /// Need not exist if nobody named it.
    crl: PathBuf,
    crl_named: bool,
    expected: Expected,
}

impl Credentials {
    /// None: clear text.
    pub fn clear() -> Credentials {
        let nobody =
            Expected { trail: TrailId([0; 16]), node_id: 0, node_uri: None, expiry: Expiry::Warn };
        let files = Files {
            ca: PathBuf::new(),
            cert: PathBuf::new(),
            key: PathBuf::new(),
            client_ca: None,
            crl: PathBuf::new(),
            crl_named: false,
            expected: nobody,
        };
        Credentials { inner: Arc::new(Inner::new(Mode::Off, Duration::MAX, files, None)) }
    }

    /// Reads the files of node `node_id` of `trail`. Blocks.
    pub fn load(
        config: &TlsConfig,
        data_dir: &Path,
        trail: TrailId,
        node_id: u64,
    ) -> Result<Credentials, CredentialsError> {
        if config.mode == Mode::Off {
            return Ok(Credentials::clear());
        }
        let node_uri = match &config.node_uri {
            None => None,
            Some(text) => {
                Some(text.parse::<NodeUri>().map_err(|_| CredentialsError::NodeUri(text.clone()))?)
            }
        };
        let folder = data_dir.join("tls");
        let file = |path: &Option<PathBuf>, name| path.clone().unwrap_or(folder.join(name));
        let files = Files {
            ca: file(&config.ca, "ca.crt"),
            cert: file(&config.cert, "node.crt"),
            key: file(&config.key, "node.key"),
            client_ca: config.client_ca.clone(),
            crl: file(&config.crl, "ca.crl"),
            crl_named: config.crl.is_some(),
            expected: Expected { trail, node_id, node_uri, expiry: Expiry::Refuse },
        };
        // A node whose certificate has expired serves its peers, and says so.
        let current = files.load(&files.read()?, Expiry::Warn)?;
        let every = Duration::from_secs(config.reload_s);
        let inner = Inner::new(config.mode, every, files, Some(Arc::new(current)));
        Ok(Credentials { inner: Arc::new(inner) })
    }

    /// Whether connections are encrypted.
    pub fn mode(&self) -> Mode {
        self.inner.mode
    }

    /// What is in use now; none in clear text.
    pub fn current(&self) -> Option<Arc<Current>> {
        self.inner.current.borrow().clone()
    }

    /// Whether the certificate in use has expired; never in clear text.
    pub fn is_expired(&self) -> bool {
        self.current().is_some_and(|now| now.material.peer().not_after <= unix_s())
    }

    /// Changes of it.
    pub(super) fn subscribe(&self) -> watch::Receiver<Option<Arc<Current>>> {
        self.inner.current.subscribe()
    }

    /// What the ports count.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.inner.counters
    }

    /// Notes how a TLS handshake with a peer ended; a failure is logged when it is news.
    pub fn shaken(&self, addr: &str, failure: Option<String>) {
        let mut failures = self.inner.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(failure) = failure else {
            if failures.remove(addr).is_some() {
                tracing::info!(addr, "TLS with a peer works again");
            }
            return;
        };
        if failures.get(addr) != Some(&failure) {
            tracing::error!(
                addr,
                reason = failure,
                "no TLS with a peer; hint: compare `indelible cert show` of both nodes' certificates"
            );
            failures.insert(addr.to_owned(), failure);
        }
    }

    /// Has the files read again, changed or not.
    pub fn reload(&self) {
        self.inner.reload.notify_one();
    }

    /// Reads the files again whenever they change, and takes them if they fit; otherwise what is in
    /// use stays. Never ends by itself.
    pub async fn keep_current(self) {
        if self.inner.mode == Mode::Off {
            tracing::warn!(
                "no TLS: every user of this machine may append, read and change the group"
            );
            return std::future::pending().await;
        }
        let mut taken: Option<Pem> = None;
        let mut failed: Option<String> = None;
        let mut reminded = tokio::time::Instant::now();
        let mut valid = true;
        self.remind();
        loop {
            let asked = tokio::select! {
                () = self.inner.reload.notified() => true,
                () = tokio::time::sleep(self.inner.reload_every) => false,
            };
            if reminded.elapsed() >= REMIND || self.has_expired(&mut valid) {
                self.remind();
                reminded = tokio::time::Instant::now();
            }
            let credentials = self.clone();
            let before = if asked { None } else { taken.clone() };
            let read = tokio::task::spawn_blocking(move || credentials.read_again(before)).await;
            match read {
                Ok(Ok(None)) => failed = None,
                Ok(Ok(Some((pem, current)))) => {
                    failed = None;
                    let first = taken.replace(pem).is_none() && !asked;
                    if !first {
                        tracing::info!(certificate = %self.inner.files.cert.display(), "certificates read again");
                    }
                    self.inner.take(current);
                    if !first {
                        self.remind();
                    }
                }
                Ok(Err(error)) => {
                    let error = error.to_string();
                    if failed.as_ref() != Some(&error) || asked {
                        self.inner.counters.reload_failed();
                        tracing::error!(
                            error,
                            "certificates cannot be taken: those before stay in use"
                        );
                    }
                    failed = Some(error);
                }
                Err(error) => tracing::error!(%error, "certificates were not read"),
            }
        }
    }

    /// Whether the certificate has expired since the last look.
    fn has_expired(&self, valid: &mut bool) -> bool {
        let now = !self.is_expired();
        let expired = *valid && !now;
        *valid = now;
        expired
    }

    /// The files, if they are others than before.
    fn read_again(&self, before: Option<Pem>) -> Result<Option<(Pem, Current)>, CredentialsError> {
        let files = &self.inner.files;
        let pem = files.read()?;
        if before.as_ref() == Some(&pem) {
            return Ok(None);
        }
        // Not refused for their time if they last as long as those in use: this node's clock may be
        // wrong, and a revocation or another authority must be taken all the same.
        let until = self.current().map_or(0, |current| current.material.peer().not_after);
        let current = match files.load(&pem, Expiry::Warn)? {
            longer if longer.material.peer().not_after >= until => longer,
            _ => files.load(&pem, Expiry::Refuse)?,
        };
        if let Some(before) = self.current() {
            current.check_lists(&before)?;
        }
        Ok(Some((pem, current)))
    }

    /// What a person must not forget.
    fn remind(&self) {
        if self.inner.mode == Mode::Accept {
            tracing::warn!(
                "clear text is accepted beside TLS; hint: set tls.mode = \"require\" once every node and client has \
                 certificates"
            );
        }
        let Some(current) = self.current() else { return };
        for warning in current.material.warnings() {
            // That it has expired is looked at anew: it may have since it was read.
            if !matches!(warning, Warning::Validity(_)) {
                tracing::error!("{warning}");
            }
        }
        let left = current.material.peer().not_after - unix_s();
        if left < 0 {
            tracing::error!(
                "this node's certificate has expired: peers still take it, clients do not; hint: `indelible cert renew`"
            );
        } else if left < EXPIRES_SOON_S {
            let days = left / 86_400;
            tracing::warn!(
                "this node's certificate expires in {days} days; hint: `indelible cert renew`"
            );
        }
    }
}

impl Inner {
    fn new(
        mode: Mode,
        reload_every: Duration,
        files: Files,
        current: Option<Arc<Current>>,
    ) -> Inner {
        let counters = Arc::new(Counters::default());
        if let Some(current) = &current {
            counters.expires(current.material.peer().not_after);
        }
        let current = watch::Sender::new(current);
        let (failures, reload) = (Mutex::default(), Notify::new());
        Inner { mode, reload_every, files, current, counters, failures, reload }
    }

    fn take(&self, current: Current) {
        self.counters.expires(current.material.peer().not_after);
        self.current.send_replace(Some(Arc::new(current)));
    }
}

impl Files {
    fn read(&self) -> Result<Pem, DiskError> {
        let read = |path: &Option<PathBuf>| path.as_deref().map(disk::read_bytes).transpose();
        Ok(Pem {
            ca: disk::read_bytes(&self.ca)?,
            cert: disk::read_bytes(&self.cert)?,
            key: disk::read_secret(&self.key)?.into(),
            client_ca: read(&self.client_ca)?,
            crl: match self.crl_named || self.crl.exists() {
                true => Some(disk::read_bytes(&self.crl)?),
                false => None,
            },
        })
    }

    fn load(&self, pem: &Pem, expiry: Expiry) -> Result<Current, CredentialsError> {
        let path = || self.cert.clone();
        let expected = Expected { expiry, ..self.expected.clone() };
        let material = Material::parse(pem, &expected, unix_s())
            .map_err(|source| CredentialsError::Material { path: path(), source })?;
        let tls = |source| CredentialsError::Tls { path: path(), source };
        Ok(Current {
            raft_server: indelible_tls::raft_server(&material).map_err(tls)?,
            raft_client: indelible_tls::raft_client(&material).map_err(tls)?,
            client_server: indelible_tls::client_server(&material).map_err(tls)?,
            http_server: indelible_tls::http_server(&material).map_err(tls)?,
            metrics_server: indelible_tls::metrics_server(&material).map_err(tls)?,
            lists: lists(pem),
            roots: roots(pem),
            material,
        })
    }
}

/// Numbers of the revocation lists, by issuer. They were read once already.
fn lists(pem: &Pem) -> BTreeMap<String, u64> {
    let lists = pem.crl.as_deref().map(RevocationList::from_pem);
    let lists = lists.and_then(Result::ok).unwrap_or_default();
    lists.into_iter().map(|list| (list.issuer, list.number)).collect()
}

fn roots(pem: &Pem) -> BTreeSet<String> {
    let files = [Some(&pem.ca), pem.client_ca.as_ref()];
    let roots = files.into_iter().flatten().filter_map(|ca| Certificate::from_pem(ca).ok());
    roots.flatten().map(|root| root.subject).collect()
}

/// Now, in Unix seconds.
pub fn unix_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
