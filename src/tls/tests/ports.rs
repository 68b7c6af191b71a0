//! Who gets in where.

use super::*;
use crate::{
    Port, client_server, http_server, metrics_server, raft_client, raft_server, sdk_http_client,
    web_client,
};

#[test]
fn two_nodes_prove_who_they_are() {
    let authority = Authority::new(&TRAIL).unwrap();
    let (one, two) = (node(&authority, 1), node(&authority, 2));
    let (client, server) =
        handshake(raft_client(&one).unwrap(), raft_server(&two).unwrap()).unwrap();
    let dialer = two.peer_of(server.peer_certificates().unwrap()).unwrap();
    let answerer = one.peer_of(client.peer_certificates().unwrap()).unwrap();
    assert_eq!((&dialer, &answerer), (one.peer(), two.peer()));
    assert_eq!(dialer.name, node_name(1));
    assert_eq!(client.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(client.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
}

#[test]
fn another_authority_is_refused_at_both_ends() {
    let (ours, theirs) = (Authority::new(&TRAIL).unwrap(), Authority::new(&TRAIL).unwrap());
    let (one, stranger) = (node(&ours, 1), node(&theirs, 2));
    let mixed = format!("{}{}", ours.cert_pem(), theirs.cert_pem());
    let gullible =
        parse(&files_of(&mixed, &theirs.issue(&node_leaf(3)).unwrap()), 3, Expiry::Refuse);
    let gullible = gullible.unwrap();
    let unknown = "invalid peer certificate: UnknownIssuer";
    let refused = server_refuses(raft_client(&gullible).unwrap(), raft_server(&one).unwrap());
    assert_eq!(refused, unknown);
    let refused = client_refuses(raft_client(&one).unwrap(), raft_server(&stranger).unwrap());
    assert_eq!(refused, unknown);
}

#[test]
fn a_client_or_an_admin_is_no_node() {
    let authority = Authority::new(&TRAIL).unwrap();
    let one = node(&authority, 1);
    for role in [Role::Client("billing".into()), Role::Admin("alice".into())] {
        let leaf = Leaf::new(Name::new(TRAIL, role).unwrap());
        let dialer = client(authority.cert_pem(), &authority.issue(&leaf).unwrap());
        assert_eq!(server_refuses(dialer.clone(), raft_server(&one).unwrap()), "role");
        let (_, server) = handshake(dialer, client_server(&one).unwrap()).unwrap();
        let seen = one.peer_of(server.peer_certificates().unwrap()).unwrap();
        assert_eq!(seen.name, leaf.name);
    }
}

#[test]
fn a_stranger_does_not_reach_the_raft_port() {
    let authority = Authority::new(&TRAIL).unwrap();
    let one = node(&authority, 1);
    let refused = server_refuses(stranger(authority.cert_pem()), raft_server(&one).unwrap());
    assert_eq!(refused, "peer sent no certificates");
}

#[test]
fn a_client_certificate_does_not_answer_as_a_node() {
    let authority = Authority::new(&TRAIL).unwrap();
    let issued = authority.issue(&Leaf::new(client_name())).unwrap();
    let server = plain_server(&issued);
    let refused = client_refuses(stranger(authority.cert_pem()), server.clone());
    assert_eq!(refused, "usage");
    let one = node(&authority, 1);
    assert_eq!(client_refuses(raft_client(&one).unwrap(), server), "usage");
}

#[test]
fn the_role_counts_whatever_the_usage_says() {
    // As an authority of others may issue it: a client with the usages of a node.
    let authority = names::RawAuthority::new("root");
    let issued = authority.issue(&[&client_name().uri()]);
    let one = authority.issue(&[&node_name(1).uri()]);
    let one = parse(&files_of(&authority.cert_pem, &one), 1, Expiry::Refuse).unwrap();
    let refused = client_refuses(stranger(&authority.cert_pem), plain_server(&issued));
    assert_eq!(refused, "role");
    let refusal = one.still_trusts(Port::RaftOut, &chain(&issued), now()).unwrap_err();
    assert_eq!(refusal.code(), "role");
    let dialer = client(&authority.cert_pem, &issued);
    assert_eq!(server_refuses(dialer, raft_server(&one).unwrap()), "role");
}

#[test]
fn the_client_port_lets_in_without_a_certificate_and_not_with_a_wrong_one() {
    let (ours, theirs) = (Authority::new(&TRAIL).unwrap(), Authority::new(&TRAIL).unwrap());
    let one = node(&ours, 1);
    let server = client_server(&one).unwrap();
    let (_, connection) = handshake(stranger(ours.cert_pem()), server.clone()).unwrap();
    assert!(connection.peer_certificates().is_none());
    let wrong = client(ours.cert_pem(), &theirs.issue(&Leaf::new(client_name())).unwrap());
    assert_eq!(server_refuses(wrong, server), "invalid peer certificate: UnknownIssuer");
}

#[test]
fn metrics_demand_a_certificate_and_http_asks_for_none() {
    let authority = Authority::new(&TRAIL).unwrap();
    let one = node(&authority, 1);
    let issued = authority.issue(&Leaf::new(client_name())).unwrap();
    let http = |identity| {
        let ca = authority.cert_pem().as_bytes();
        let pem = SdkPem { ca, identity, trail: Some(TRAIL), node_uri: None };
        sdk_http_client(&pem).unwrap()
    };
    let known = Some((issued.cert_pem.as_bytes(), issued.key_pem.as_bytes()));
    let refused = server_refuses(http(None), metrics_server(&one).unwrap());
    assert_eq!(refused, "peer sent no certificates");
    let (client, server) = handshake(http(known), metrics_server(&one).unwrap()).unwrap();
    assert!(server.peer_certificates().is_some());
    assert_eq!(client.alpn_protocol(), Some(&b"http/1.1"[..]));
    let (_, server) = handshake(http(known), http_server(&one).unwrap()).unwrap();
    assert!(server.peer_certificates().is_none());
}

#[test]
fn a_browser_checks_the_address_that_it_dialed() {
    let authority = Authority::new(&TRAIL).unwrap();
    let browser = web_client(authority.cert_pem().as_bytes()).unwrap();
    handshake(browser.clone(), http_server(&node(&authority, 1)).unwrap()).unwrap();
    let elsewhere = Leaf { hosts: vec!["node1.example.com".into()], ..node_leaf(1) };
    let elsewhere = authority.issue(&elsewhere).unwrap();
    let elsewhere = parse(&files_of(authority.cert_pem(), &elsewhere), 1, Expiry::Refuse).unwrap();
    let refused = client_refuses(browser, http_server(&elsewhere).unwrap());
    assert!(refused.contains("not valid for name"), "{refused}");
    // Programs of ours know a node by its id.
    handshake(stranger(authority.cert_pem()), client_server(&elsewhere).unwrap()).unwrap();
}

/// A server that rustls configures, with whatever certificate.
fn plain_server(issued: &Issued) -> Arc<ServerConfig> {
    let key = pem::private_key(issued.key_pem.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(crate::trust::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain(issued), key);
    let mut config = config.unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}
