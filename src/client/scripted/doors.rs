//! TLS in front of scripted nodes, and certificates for them and for clients.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use indelible_core::TrailId;
use indelible_tls::issue::{Authority, Issued, Leaf};
use indelible_tls::rustls::ServerConfig;
use indelible_tls::{Expected, Expiry, Material, Name, Pem, Role, client_server};
use tokio::io::{DuplexStream, copy_bidirectional, duplex};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;

/// The trail of the scripted nodes.
pub(super) const TRAIL: TrailId = TrailId([9; 16]);
pub(super) const DAY: i64 = 86_400;

pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_secs()).expect("a time of these days")
}

/// What a node's TLS is set up with.
#[derive(Clone)]
pub(super) struct NodeFiles {
    pub(super) ca: String,
    pub(super) issued: Arc<Issued>,
    pub(super) crl: Option<String>,
}

impl NodeFiles {
    /// For a node of the trail, issued and believed by one authority.
    pub(super) fn by(authority: &Authority) -> NodeFiles {
        NodeFiles::of(authority, &node_leaf(TRAIL))
    }

    pub(super) fn of(authority: &Authority, leaf: &Leaf) -> NodeFiles {
        let issued = Arc::new(authority.issue(leaf).expect("issues"));
        NodeFiles { ca: authority.cert_pem().to_owned(), issued, crl: None }
    }

    fn config(&self, trail: TrailId) -> Arc<ServerConfig> {
        let pem = Pem {
            ca: self.ca.clone().into_bytes(),
            cert: self.issued.cert_pem.clone().into_bytes(),
            key: self.issued.key_pem.as_bytes().to_vec().into(),
            client_ca: None,
            crl: self.crl.clone().map(String::into_bytes),
        };
        let expected = Expected { trail, node_id: 1, node_uri: None, expiry: Expiry::Warn };
        let material = Material::parse(&pem, &expected, now()).expect("a node takes the files");
        client_server(&material).expect("a configuration")
    }
}

/// The TLS of all nodes of a group.
pub(crate) struct Doors {
    config: Mutex<Arc<ServerConfig>>,
    open: Mutex<Vec<AbortHandle>>,
}

impl Doors {
    pub(super) fn new(files: &NodeFiles) -> Arc<Doors> {
        Doors::of_trail(files, TRAIL)
    }

    pub(super) fn of_trail(files: &NodeFiles, trail: TrailId) -> Arc<Doors> {
        let config = Mutex::new(files.config(trail));
        Arc::new(Doors { config, open: Mutex::default() })
    }

    /// New connections are made with these, and those that are open end.
    pub(super) fn change(&self, files: &NodeFiles) {
        *self.config.lock().expect("lock") = files.config(TRAIL);
        self.open.lock().expect("lock").drain(..).for_each(|connection| connection.abort());
    }

    /// Connections that have passed.
    pub(crate) fn incoming(
        self: &Arc<Doors>,
        listener: TcpListener,
    ) -> ReceiverStream<io::Result<DuplexStream>> {
        let (passed, incoming) = mpsc::channel(16);
        tokio::spawn(self.clone().accept(listener, passed));
        ReceiverStream::new(incoming)
    }

    async fn accept(
        self: Arc<Doors>,
        listener: TcpListener,
        passed: mpsc::Sender<io::Result<DuplexStream>>,
    ) {
        let mut connections = JoinSet::new();
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = TlsAcceptor::from(self.config.lock().expect("lock").clone());
            let passed = passed.clone();
            let connection = connections.spawn(async move {
                // A refused client was told why by an alert.
                let Ok(mut tls) = acceptor.accept(tcp).await else { return };
                let (mut ours, theirs) = duplex(64 * 1024);
                if passed.send(Ok(theirs)).await.is_ok() {
                    let _ = copy_bidirectional(&mut tls, &mut ours).await;
                }
            });
            self.open.lock().expect("lock").push(connection);
        }
    }
}

pub(super) fn authority() -> Authority {
    Authority::new(&TRAIL).expect("an authority")
}

pub(super) fn client_leaf() -> Leaf {
    Leaf::new(Name::new(TRAIL, Role::Client("billing".into())).expect("valid"))
}

/// A folder with a profile and what it names.
pub(super) struct ProfileDir {
    dir: tempfile::TempDir,
}

impl ProfileDir {
    /// For a client of this certificate, which believes this authority.
    pub(super) fn new(endpoint: &str, ca: &str, issued: Option<&Issued>) -> ProfileDir {
        let files = ProfileDir { dir: tempfile::tempdir().expect("a folder") };
        files.write("ca.crt", ca);
        let mut text =
            format!("endpoints = [\"{endpoint}\"]\ntrail = \"{TRAIL}\"\nca = \"ca.crt\"\n");
        if let Some(issued) = issued {
            files.renew(issued);
            text.push_str("cert = \"client.crt\"\nkey = \"client.key\"\n");
        }
        files.write("client.toml", &text);
        files
    }

    /// Replaces the client's certificate.
    pub(super) fn renew(&self, issued: &Issued) {
        self.write("client.crt", &issued.cert_pem);
        self.write("client.key", &issued.key_pem);
        self.set_mode("client.key", 0o600);
    }

    pub(super) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.file(name), text).expect("writes");
    }

    pub(super) fn set_mode(&self, name: &str, mode: u32) {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(self.file(name), mode).expect("changes the mode");
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// A node's certificate.
pub(super) fn node_leaf(trail: TrailId) -> Leaf {
    Leaf::new(Name::new(trail, Role::Node(1)).expect("valid"))
}
