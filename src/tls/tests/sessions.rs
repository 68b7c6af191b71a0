//! Versions, resumption, and what binds a proof to a connection.

use rustls::client::Resumption;
use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, SupportedProtocolVersion};

use super::*;
use crate::{client_server, exporter_of_client, exporter_of_server, raft_client, raft_server};

/// A client of one version that would resume its session if it could.
fn resuming(ca: &str, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    let roots = crate::material::roots("ca", ca.as_bytes()).unwrap();
    let mut store = rustls::RootCertStore::empty();
    store.add_parsable_certificates(roots);
    let mut config = ClientConfig::builder_with_provider(crate::trust::provider())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::in_memory_sessions(16);
    config.enable_early_data = true;
    Arc::new(config)
}

#[test]
fn the_raft_port_speaks_the_newest_version_only() {
    let authority = Authority::new(&TRAIL).unwrap();
    let one = node(&authority, 1);
    let old = resuming(authority.cert_pem(), &TLS12);
    let refused = server_refuses(old.clone(), raft_server(&one).unwrap());
    assert!(refused.contains("Tls12NotOffered") || refused.contains("NotOffered"), "{refused}");
    let (client, _) = handshake(old, client_server(&one).unwrap()).unwrap();
    assert_eq!(client.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_2));
}

#[test]
fn no_server_lets_a_session_be_resumed() {
    let authority = Authority::new(&TRAIL).unwrap();
    let one = node(&authority, 1);
    for version in [&TLS12, &TLS13] {
        let server = client_server(&one).unwrap();
        let client = resuming(authority.cert_pem(), version);
        for _ in 0..3 {
            let (client, server) = handshake(client.clone(), server.clone()).unwrap();
            assert_eq!(server.handshake_kind(), Some(HandshakeKind::Full));
            assert_eq!(client.tls13_tickets_received(), 0);
            assert!(!client.is_early_data_accepted());
        }
    }
}

#[test]
fn no_client_resumes_a_session() {
    // A server that would: rustls as it comes.
    let authority = Authority::new(&TRAIL).unwrap();
    let issued = authority.issue(&node_leaf(1)).unwrap();
    let key = pem::private_key(issued.key_pem.as_bytes()).unwrap();
    let server = ServerConfig::builder_with_provider(crate::trust::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain(&issued), key);
    let mut server = server.unwrap();
    server.alpn_protocols = vec![b"h2".to_vec()];
    let server = Arc::new(server);
    let kinds = |client: Arc<ClientConfig>| {
        [(); 2].map(|()| {
            let (_, connection) = handshake(client.clone(), server.clone()).unwrap();
            connection.handshake_kind().unwrap()
        })
    };
    let seen = kinds(resuming(authority.cert_pem(), &TLS13));
    assert_eq!(seen, [HandshakeKind::Full, HandshakeKind::Resumed], "the server is able to");
    assert_eq!(kinds(stranger(authority.cert_pem())), [HandshakeKind::Full; 2]);
    assert_eq!(kinds(raft_client(&node(&authority, 2)).unwrap()), [HandshakeKind::Full; 2]);
}

#[test]
fn both_ends_export_the_same_bytes_and_no_other_connection_does() {
    let authority = Authority::new(&TRAIL).unwrap();
    let (one, two) = (node(&authority, 1), node(&authority, 2));
    let (dial, accept) = (raft_client(&one).unwrap(), raft_server(&two).unwrap());
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..4 {
        let (client, server) = handshake(dial.clone(), accept.clone()).unwrap();
        let exported = exporter_of_client(&client).unwrap();
        assert_eq!(exported, exporter_of_server(&server).unwrap());
        assert!(seen.insert(exported), "two connections export the same");
    }
    let name = ServerName::try_from("localhost").unwrap();
    let early = ClientConnection::new(dial, name).unwrap();
    assert!(exporter_of_client(&early).is_err(), "before the handshake there is nothing");
}
