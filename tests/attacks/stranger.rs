//! A caller of raft ports that is no node: TLS by hand, which believes every node and shows any
//! certificate that it was given.

use std::io::{self, Cursor};
use std::sync::Arc;

use indelible::net::dial::OneConnection;
use indelible::storage::identity::Identity;
use indelible_lineage::Lineage;
use indelible_proto::raft as pb;
use indelible_testkit::fail::within;
use indelible_tls::exporter_of_client;
use indelible_tls::issue::Issued;
use indelible_tls::rustls::client::Resumption;
use indelible_tls::rustls::pki_types::pem::PemObject;
use indelible_tls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use indelible_tls::rustls::version::{TLS12, TLS13};
use indelible_tls::rustls::{ClientConfig, ProtocolVersion, SupportedProtocolVersion};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::{Response, Status};

use super::any_server::{AnyServer, provider};
use crate::harness::PATIENCE;
use crate::thief::{Session, hello};

/// What the first frame of HTTP/2 begins with; a server sends it unasked.
const FRAME_HEADER_BYTES: usize = 9;

pub struct Stranger {
    config: Arc<ClientConfig>,
}

/// A connection that the node's TLS has let in.
pub struct Line {
    pub channel: OneConnection,
    /// What a proof on this connection is bound to.
    pub binding: [u8; 32],
    pub version: ProtocolVersion,
}

impl Stranger {
    /// With a certificate or without one, in any version of TLS.
    pub fn new(certificate: Option<&Issued>) -> Stranger {
        Stranger::speaking(certificate, &[&TLS13, &TLS12])
    }

    /// In these versions only.
    pub fn speaking(
        certificate: Option<&Issued>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Stranger {
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer));
        let mut config = match certificate {
            None => config.with_no_client_auth(),
            Some(issued) => {
                let (chain, key) = parse(issued);
                config.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = Resumption::disabled();
        Stranger { config: Arc::new(config) }
    }

    /// Up to the node's first frame: in TLS 1.3 a server judges the certificate after the client has
    /// taken the handshake for done.
    pub async fn dial(&self, addr: &str) -> io::Result<Line> {
        within(PATIENCE, "the node lets somebody in or does not", self.try_dial(addr)).await
    }

    async fn try_dial(&self, addr: &str) -> io::Result<Line> {
        let tcp = TcpStream::connect(addr).await.expect("the node listens");
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let stream = TlsConnector::from(self.config.clone()).connect(name, tcp).await?;
        let session = stream.get_ref().1;
        let binding = exporter_of_client(session).map_err(io::Error::other)?;
        let version = session.protocol_version().unwrap();
        let (mut read, write) = tokio::io::split(stream);
        let mut first = [0; FRAME_HEADER_BYTES];
        read.read_exact(&mut first).await?;
        let stream = tokio::io::join(Cursor::new(first).chain(read), write);
        // As small as they may be: a node cannot push much ahead of what is read.
        let channel = OneConnection::new(stream, 65_535).await.map_err(io::Error::other)?;
        Ok(Line { channel, binding, version })
    }

    /// Asserts that a node's TLS turns it away, and that the node says so.
    pub async fn is_turned_away(&self, addr: &str, who: &str) {
        match self.dial(addr).await {
            Ok(_) => panic!("{who} was let in"),
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("received fatal alert"), "{who}: {text}");
            }
        }
    }
}

impl Line {
    /// Calls on it, before any handshake, in the name of somebody.
    pub fn session(&self, identity: &Identity) -> Session {
        Session::new(self.channel.clone(), identity.trail_id, identity.node_id)
    }

    /// A handshake with everything that this node would say and prove of itself.
    pub async fn handshake(
        &self,
        identity: &Identity,
        boots: &Lineage,
        to: u64,
    ) -> Result<Session, Status> {
        let mut session = self.session(identity);
        let hello = hello(identity, boots, to, self.binding);
        session.raft.handshake(hello).await?;
        Ok(session)
    }

    /// A handshake with these words.
    pub async fn say(&self, hello: pb::Hello) -> Result<pb::Welcome, Status> {
        let mut raft =
            pb::raft_client::RaftClient::with_origin(self.channel.clone(), OneConnection::origin());
        raft.handshake(hello).await.map(Response::into_inner)
    }
}

/// Certificate and key as rustls wants them.
pub fn parse(issued: &Issued) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_slice_iter(issued.cert_pem.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
    (chain.map(Result::unwrap).collect(), key)
}
