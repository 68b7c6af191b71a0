//! Names of other trails, of other authorities, and too many of them.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use super::*;
use crate::{NodeUri, Port, client_server, raft_client, raft_server};

/// An authority as others run them: it puts any name into any certificate.
pub(super) struct RawAuthority {
    pub(super) cert_pem: String,
    key_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl RawAuthority {
    pub(super) fn new(name: &str) -> RawAuthority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let cert_pem = params.self_signed(&key).unwrap().pem();
        let key_pem = key.serialize_pem();
        RawAuthority { cert_pem, key_pem, issuer: Issuer::new(params, key) }
    }

    /// The same as one of ours, which makes revocation lists.
    pub(super) fn authority(&self) -> Authority {
        Authority::from_pem(&self.cert_pem, &self.key_pem).unwrap()
    }

    /// Both usages, whatever the names.
    pub(super) fn issue(&self, uris: &[&str]) -> Issued {
        let mut params = CertificateParams::default();
        let uri = |uri: &&str| SanType::URI((*uri).to_owned().try_into().unwrap());
        params.subject_alt_names = uris.iter().map(uri).collect();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let cert_pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        Issued { cert_pem, key_pem: key.serialize_pem().into() }
    }
}

#[test]
fn a_node_of_another_trail_is_refused() {
    let authority = Authority::new(&TRAIL).unwrap();
    let one = node(&authority, 1);
    let name = Name::new(OTHER_TRAIL, Role::Node(2)).unwrap();
    let issued = authority.issue(&Leaf { name, ..node_leaf(2) }).unwrap();
    let expected =
        Expected { trail: OTHER_TRAIL, node_id: 2, node_uri: None, expiry: Expiry::Refuse };
    let two = Material::parse(&files_of(authority.cert_pem(), &issued), &expected, now()).unwrap();
    for port in [Port::RaftIn, Port::RaftOut, Port::Client] {
        assert_eq!(one.still_trusts(port, &chain(&issued), now()).unwrap_err().code(), "trail");
    }
    let refused = client_refuses(raft_client(&two).unwrap(), raft_server(&one).unwrap());
    assert_eq!(refused, "trail");
    // A client that knows its trail refuses it as well, and one that does not takes any.
    let ca = authority.cert_pem();
    let known = SdkPem { ca: ca.as_bytes(), trail: Some(TRAIL), ..SdkPem::default() };
    let known = crate::sdk_client(&known).unwrap();
    assert_eq!(client_refuses(known, client_server(&two).unwrap()), "trail");
    handshake(stranger(ca), client_server(&two).unwrap()).unwrap();
}

#[test]
fn a_certificate_with_two_names_is_refused() {
    let authority = RawAuthority::new("root");
    let one = authority.issue(&[&node_name(1).uri()]);
    let one = parse(&files_of(&authority.cert_pem, &one), 1, Expiry::Refuse).unwrap();
    let both = authority.issue(&[&node_name(2).uri(), &node_name(3).uri()]);
    let refusal = one.still_trusts(Port::RaftIn, &chain(&both), now()).unwrap_err();
    assert_eq!(refusal.code(), "several_names");
    let other = authority.issue(&["spiffe://prod/web", &node_name(2).uri()]);
    one.still_trusts(Port::RaftIn, &chain(&other), now()).unwrap();
    let nobody = authority.issue(&["spiffe://prod/web"]);
    let refusal = one.still_trusts(Port::RaftIn, &chain(&nobody), now()).unwrap_err();
    assert_eq!(refusal.code(), "no_name");
}

#[test]
fn another_authority_names_nodes_by_a_template() {
    let authority = RawAuthority::new("root");
    let template: NodeUri = "spiffe://prod/indelible/{id}".parse().unwrap();
    let material = |id: u64, expected_id: u64| {
        let issued = authority.issue(&[&template.uri(id)]);
        let expiry = Expiry::Refuse;
        let node_uri = Some(template.clone());
        let expected = Expected { trail: TRAIL, node_id: expected_id, node_uri, expiry };
        Material::parse(&files_of(&authority.cert_pem, &issued), &expected, now())
    };
    let (one, two) = (material(1, 1).unwrap(), material(2, 2).unwrap());
    handshake(raft_client(&one).unwrap(), raft_server(&two).unwrap()).unwrap();
    assert_eq!(one.peer().name, node_name(1));
    assert!(matches!(material(1, 2), Err(MaterialError::Holder { .. })));
    // Without the template the name means nothing.
    let ca = &authority.cert_pem;
    assert_eq!(client_refuses(stranger(ca), client_server(&one).unwrap()), "no_name");
    let pem = SdkPem { ca: ca.as_bytes(), node_uri: Some(template), ..SdkPem::default() };
    handshake(crate::sdk_client(&pem).unwrap(), client_server(&one).unwrap()).unwrap();
}

#[test]
fn authorities_of_nodes_and_of_clients_stay_apart() {
    let (nodes, clients) = (Authority::new(&TRAIL).unwrap(), Authority::new(&TRAIL).unwrap());
    let own = nodes.issue(&node_leaf(1)).unwrap();
    let client_ca = Some(clients.cert_pem().as_bytes().to_vec());
    let files = Pem { client_ca, ..files_of(nodes.cert_pem(), &own) };
    let one = parse(&files, 1, Expiry::Refuse).unwrap();
    let judge = |authority: &Authority, leaf: &Leaf, port| {
        let issued = authority.issue(leaf).unwrap();
        one.still_trusts(port, &chain(&issued), now()).map(drop).map_err(|error| error.code())
    };
    let (node, client) = (node_leaf(2), Leaf::new(client_name()));
    assert_eq!(judge(&nodes, &node, Port::RaftIn), Ok(()));
    assert_eq!(judge(&nodes, &node, Port::Client), Ok(()));
    assert_eq!(judge(&clients, &client, Port::Client), Ok(()));
    assert_eq!(judge(&clients, &node, Port::RaftIn), Err("foreign_ca"));
    assert_eq!(judge(&clients, &node, Port::Client), Err("foreign_ca"));
    assert_eq!(judge(&nodes, &client, Port::Client), Err("foreign_ca"));
}

#[test]
fn two_roots_are_believed_while_one_replaces_the_other() {
    let (old, new) = (Authority::new(&TRAIL).unwrap(), Authority::new(&TRAIL).unwrap());
    let both = format!("{}{}", old.cert_pem(), new.cert_pem());
    let with = |authority: &Authority, id: u64, ca: &str| {
        let issued = authority.issue(&node_leaf(id)).unwrap();
        parse(&files_of(ca, &issued), id, Expiry::Refuse).unwrap()
    };
    let (one, two) = (with(&old, 1, &both), with(&new, 2, &both));
    handshake(raft_client(&one).unwrap(), raft_server(&two).unwrap()).unwrap();
    handshake(raft_client(&two).unwrap(), raft_server(&one).unwrap()).unwrap();
    // Connections of old certificates end once their root is gone.
    let three = with(&new, 3, new.cert_pem());
    let (_, server) = handshake(raft_client(&one).unwrap(), raft_server(&two).unwrap()).unwrap();
    let chain = server.peer_certificates().unwrap();
    assert!(two.still_trusts(Port::RaftIn, chain, now()).is_ok());
    let refusal = three.still_trusts(Port::RaftIn, chain, now()).unwrap_err();
    assert_eq!(refusal.code(), "foreign_ca");
}
