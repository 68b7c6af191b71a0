//! Handshakes in memory.

mod files;
mod issuing;
mod names;
mod ports;
mod sessions;
mod validity;

use std::sync::Arc;

use indelible_core::TrailId;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, ConnectionCommon, ServerConfig, ServerConnection};

use crate::issue::{Authority, Issued, Leaf};
use crate::{Expected, Expiry, Material, MaterialError, Name, Pem, Role, SdkPem, pem};

const TRAIL: TrailId = TrailId([7; 16]);
const OTHER_TRAIL: TrailId = TrailId([8; 16]);
const DAY: i64 = 86_400;

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

fn node_name(id: u64) -> Name {
    Name::new(TRAIL, Role::Node(id)).unwrap()
}

fn client_name() -> Name {
    Name::new(TRAIL, Role::Client("billing".into())).unwrap()
}

fn node_leaf(id: u64) -> Leaf {
    let hosts = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    Leaf { hosts, ..Leaf::new(node_name(id)) }
}

fn files_of(ca: &str, issued: &Issued) -> Pem {
    Pem {
        ca: ca.as_bytes().to_vec(),
        cert: issued.cert_pem.as_bytes().to_vec(),
        key: issued.key_pem.as_bytes().to_vec().into(),
        client_ca: None,
        crl: None,
    }
}

fn parse(pem: &Pem, node_id: u64, expiry: Expiry) -> Result<Material, MaterialError> {
    Material::parse(pem, &Expected { trail: TRAIL, node_id, node_uri: None, expiry }, now())
}

/// Files of a node that an authority issues.
fn node(authority: &Authority, id: u64) -> Material {
    let issued = authority.issue(&node_leaf(id)).unwrap();
    parse(&files_of(authority.cert_pem(), &issued), id, Expiry::Refuse).unwrap()
}

fn client(ca: &str, issued: &Issued) -> Arc<ClientConfig> {
    let identity = (issued.cert_pem.as_bytes(), issued.key_pem.as_bytes());
    let trail = Some(TRAIL);
    let pem = SdkPem { ca: ca.as_bytes(), identity: Some(identity), trail, node_uri: None };
    crate::sdk_client(&pem).unwrap()
}

fn stranger(ca: &str) -> Arc<ClientConfig> {
    crate::sdk_client(&SdkPem { ca: ca.as_bytes(), ..SdkPem::default() }).unwrap()
}

fn chain(issued: &Issued) -> Vec<CertificateDer<'static>> {
    pem::certificates(issued.cert_pem.as_bytes()).unwrap()
}

/// What each end thinks at the end of a handshake that failed.
#[derive(Debug)]
struct Failure {
    client: Option<rustls::Error>,
    server: Option<rustls::Error>,
}

type Pair = (ClientConnection, ServerConnection);

/// Carries bytes between both ends until neither has more to say.
fn handshake(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Result<Pair, Box<Failure>> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = ClientConnection::new(client, name).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    let mut failure = Box::new(Failure { client: None, server: None });
    while client.wants_write() || server.wants_write() {
        failure.server = failure.server.or(carry(&mut client, &mut server));
        failure.client = failure.client.or(carry(&mut server, &mut client));
    }
    if failure.client.is_some() || failure.server.is_some() {
        return Err(failure);
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((client, server))
}

fn carry<A, B>(
    from: &mut ConnectionCommon<A>,
    to: &mut ConnectionCommon<B>,
) -> Option<rustls::Error> {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).unwrap();
    }
    let mut bytes = bytes.as_slice();
    while !bytes.is_empty() {
        to.read_tls(&mut bytes).unwrap();
        if let Err(error) = to.process_new_packets() {
            return Some(error);
        }
    }
    None
}

/// Why the accepting end turned the other away.
fn server_refuses(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> String {
    let failure = handshake(client, server).map(drop).expect_err("the server must refuse");
    let error = failure.server.expect("the server has a reason");
    crate::Refusal::of(&error).map_or_else(|| error.to_string(), |refusal| refusal.code().into())
}

/// Why the dialing end went away.
fn client_refuses(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> String {
    let failure = handshake(client, server).map(drop).expect_err("the client must refuse");
    let error = failure.client.expect("the client has a reason");
    crate::Refusal::of(&error).map_or_else(|| error.to_string(), |refusal| refusal.code().into())
}
