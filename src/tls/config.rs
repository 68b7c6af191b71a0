//! What rustls needs for each port of a node, and for clients.
//!
//! Sessions are never resumed and nothing is sent before the handshake is complete, at either end:
//! a resumed session would show a certificate that has been revoked since.

use std::sync::Arc;

use indelible_core::TrailId;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoClientAuth, NoServerSessionStorage};
use rustls::sign::SingleCertAndKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, Error, RootCertStore, ServerConfig, SupportedProtocolVersion};

use crate::material::{Material, MaterialError, anchors, identity, roots};
use crate::name::{Naming, NodeUri};
use crate::trust::{Port, Trust, provider};
use crate::verify::Verifier;

/// Protocol name of gRPC (ALPN).
const H2: &[u8] = b"h2";
/// Protocol name of plain HTTP (ALPN).
const HTTP: &[u8] = b"http/1.1";
const ALL_VERSIONS: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
const NEWEST_ONLY: &[&SupportedProtocolVersion] = &[&TLS13];

/// The raft port: nodes of this trail only, TLS 1.3 only, expiry forgiven.
pub fn raft_server(material: &Material) -> Result<Arc<ServerConfig>, Error> {
    let verifier = Verifier::new(Arc::clone(&material.trust), Port::RaftIn);
    server(material, Arc::new(verifier), NEWEST_ONLY, H2)
}

/// For connections to raft ports of other nodes.
pub fn raft_client(material: &Material) -> Result<Arc<ClientConfig>, Error> {
    let verifier = Verifier::new(Arc::clone(&material.trust), Port::RaftOut);
    let identity = SingleCertAndKey::from(Arc::clone(&material.identity));
    client(Arc::new(verifier), Some(Arc::new(identity)), NEWEST_ONLY, H2)
}

/// The client port: asks for a certificate, and lets clients without one in; one that is shown must
/// be right.
pub fn client_server(material: &Material) -> Result<Arc<ServerConfig>, Error> {
    let verifier = Verifier::new(Arc::clone(&material.trust), Port::Client).optional();
    server(material, Arc::new(verifier), ALL_VERSIONS, H2)
}

/// The HTTP port: asks for no certificate.
pub fn http_server(material: &Material) -> Result<Arc<ServerConfig>, Error> {
    server(material, Arc::new(NoClientAuth), ALL_VERSIONS, HTTP)
}

/// The metrics port: turns away whoever shows no certificate.
pub fn metrics_server(material: &Material) -> Result<Arc<ServerConfig>, Error> {
    let verifier = Verifier::new(Arc::clone(&material.trust), Port::Client);
    server(material, Arc::new(verifier), ALL_VERSIONS, HTTP)
}

/// What a client has.
#[derive(Clone, Default)]
pub struct SdkPem<'a> {
    /// Roots of nodes, as PEM.
    pub ca: &'a [u8],
    /// The client's certificate chain and its key, as PEM.
    pub identity: Option<(&'a [u8], &'a [u8])>,
    /// The trail whose nodes are believed; those of any trail if it is not known yet.
    pub trail: Option<TrailId>,
    /// How a certificate authority of others names nodes.
    pub node_uri: Option<NodeUri>,
}

impl std::fmt::Debug for SdkPem<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SdkPem").field("trail", &self.trail).finish_non_exhaustive()
    }
}

/// For connections to client ports: the node must show a node's certificate of the trail, whatever
/// its address.
pub fn sdk_client(pem: &SdkPem<'_>) -> Result<Arc<ClientConfig>, MaterialError> {
    sdk(pem, H2)
}

/// The same for HTTP ports.
pub fn sdk_http_client(pem: &SdkPem<'_>) -> Result<Arc<ClientConfig>, MaterialError> {
    sdk(pem, HTTP)
}

/// For HTTP ports as a browser sees them: the certificate must be for the dialed DNS name or
/// address, and lead to one of the roots.
pub fn web_client(ca: &[u8]) -> Result<Arc<ClientConfig>, MaterialError> {
    let mut store = RootCertStore::empty();
    store.roots = anchors("ca", &roots("ca", ca)?)?;
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider());
    let verifier = verifier.build().map_err(|error| refused(&error))?;
    client(verifier, None, ALL_VERSIONS, HTTP).map_err(|error| refused(&error))
}

fn sdk(pem: &SdkPem<'_>, protocol: &[u8]) -> Result<Arc<ClientConfig>, MaterialError> {
    let nodes = anchors("ca", &roots("ca", pem.ca)?)?;
    let naming = Naming { trail: pem.trail, node_uri: pem.node_uri.clone() };
    let trust = Trust { clients: nodes.clone(), nodes, lists: Vec::new(), naming };
    let verifier = Verifier::new(Arc::new(trust), Port::Sdk);
    let identity = pem.identity.map(|(cert, key)| identity(cert, key)).transpose()?;
    let identity = identity.map(|identity| -> Arc<dyn ResolvesClientCert> {
        Arc::new(SingleCertAndKey::from(identity))
    });
    client(Arc::new(verifier), identity, ALL_VERSIONS, protocol).map_err(|error| refused(&error))
}

fn refused(error: &impl ToString) -> MaterialError {
    MaterialError::Rustls { reason: error.to_string() }
}

fn server(
    material: &Material,
    verifier: Arc<dyn ClientCertVerifier>,
    versions: &[&'static SupportedProtocolVersion],
    protocol: &[u8],
) -> Result<Arc<ServerConfig>, Error> {
    let identity = SingleCertAndKey::from(Arc::clone(&material.identity));
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(identity));
    config.alpn_protocols = vec![protocol.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

fn client(
    verifier: Arc<dyn ServerCertVerifier>,
    identity: Option<Arc<dyn ResolvesClientCert>>,
    versions: &[&'static SupportedProtocolVersion],
    protocol: &[u8],
) -> Result<Arc<ClientConfig>, Error> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        Some(identity) => config.with_client_cert_resolver(identity),
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(Arc::new(config))
}
