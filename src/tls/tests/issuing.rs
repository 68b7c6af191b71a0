//! What the authority puts into certificates.

use super::*;
use crate::issue::{self, AUTHORITY_DAYS, BACKDATED_DAYS, IssueError, LEAF_DAYS, LeafError};
use crate::{Certificate, Port, Request, RevocationList, Revoked, Usage};

fn content(issued: &Issued) -> Certificate {
    Certificate::from_pem(issued.cert_pem.as_bytes()).unwrap().remove(0)
}

#[test]
fn a_leaf_says_what_was_asked_for() {
    let authority = Authority::new(&TRAIL).unwrap();
    let hosts = ["node1.example.com", "10.0.0.1", "::1"].map(str::to_owned).to_vec();
    let leaf = content(&authority.issue(&Leaf { hosts, ..node_leaf(1) }).unwrap());
    assert_eq!(leaf.subject, "CN=node/1");
    assert_eq!(leaf.names.uris, [node_name(1).uri()]);
    assert_eq!(leaf.names.dns, ["node1.example.com"]);
    let addresses: Vec<String> = leaf.names.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.0.0.1", "::1"]);
    assert_eq!(leaf.usages, [Usage::Server, Usage::Client]);
    assert!(!leaf.is_ca && leaf.serial.len() == 32);
    let client = content(&authority.issue(&Leaf::new(client_name())).unwrap());
    assert_eq!(client.usages, [Usage::Client]);
    assert_ne!(client.serial, leaf.serial);
}

#[test]
fn everything_is_dated_back_and_nothing_outlives_its_authority() {
    let authority = Authority::new(&TRAIL).unwrap();
    let root = authority.content().clone();
    let leaf = content(&authority.issue(&node_leaf(1)).unwrap());
    let back = now() - i64::from(BACKDATED_DAYS) * DAY;
    assert!((back - 60..=back).contains(&root.not_before), "{}", root.not_before);
    assert!(leaf.not_before >= root.not_before);
    assert!((back - 60..=back + 60).contains(&leaf.not_before));
    let days = |from: i64, to: i64| u32::try_from((to - from + DAY / 2) / DAY).unwrap();
    assert_eq!(days(now(), root.not_after), AUTHORITY_DAYS);
    assert_eq!(days(now(), leaf.not_after), LEAF_DAYS);
    let late = Authority::new_at(&TRAIL, now() - 3600 * DAY).unwrap();
    let leaf = content(&late.issue(&node_leaf(1)).unwrap());
    assert_eq!(leaf.not_after, late.content().not_after);
    let early = Authority::new_at(&TRAIL, now() + 5 * DAY).unwrap();
    let leaf = content(&early.issue(&node_leaf(1)).unwrap());
    assert_eq!(leaf.not_before, early.content().not_before);
}

#[test]
fn an_authority_reads_back_and_issues_nothing_below_its_leaves() {
    let authority = Authority::new(&TRAIL).unwrap();
    let again = Authority::from_pem(authority.cert_pem(), &authority.key_pem()).unwrap();
    let one = node(&authority, 1);
    let issued = again.issue(&node_leaf(2)).unwrap();
    assert!(one.still_trusts(Port::RaftIn, &chain(&issued), now()).is_ok());
    let other = Authority::new(&TRAIL).unwrap();
    let mixed = Authority::from_pem(authority.cert_pem(), &other.key_pem());
    assert!(matches!(mixed, Err(IssueError::OtherKey)));
    let leaf = Authority::from_pem(&issued.cert_pem, &issued.key_pem);
    assert!(matches!(leaf, Err(IssueError::NotAnAuthority { .. })));
    // Two of one trail are told apart by their names.
    assert_ne!(authority.content().subject, other.content().subject);
    assert_eq!(again.trail(), Some(TRAIL));
    assert_eq!(names::RawAuthority::new("root").authority().trail(), None);
}

#[test]
fn a_request_is_answered_for_its_key_only() {
    let authority = Authority::new(&TRAIL).unwrap();
    let (request, key_pem) = issue::csr(&node_leaf(1)).unwrap();
    let asked = Request::from_pem(request.as_bytes()).unwrap();
    assert_eq!(asked.names.uris, [node_name(1).uri()]);
    assert_eq!(asked.names.dns, ["localhost"]);
    let cert_pem = authority.sign_csr(&request, &node_leaf(1)).unwrap();
    let issued = Issued { cert_pem, key_pem };
    parse(&files_of(authority.cert_pem(), &issued), 1, Expiry::Refuse).unwrap();
    // A request whose bytes were changed proves no possession of the key.
    let changed = request.replacen("MII", "MIJ", 1);
    assert!(Request::from_pem(changed.as_bytes()).is_err());
    let mut der =
        rustls::pki_types::CertificateSigningRequestDer::from(pem_body(&request)).to_vec();
    let last = der.len() - 1;
    der[last] ^= 1;
    let forged = pem_text("CERTIFICATE REQUEST", &der);
    assert!(Request::from_pem(forged.as_bytes()).is_err());
    assert!(matches!(
        authority.sign_csr(&forged, &node_leaf(1)),
        Err(IssueError::Request(_) | IssueError::Make(_))
    ));
}

#[test]
fn a_list_reads_back_and_grows() {
    let authority = Authority::new(&TRAIL).unwrap();
    let first = Revoked { serial: "40aa".into(), at: now() - DAY };
    let second = Revoked { serial: "fe01".into(), at: now() };
    let text = authority.revoke(&[first.clone(), second.clone()], 17).unwrap();
    let lists = RevocationList::from_pem(text.as_bytes()).unwrap();
    assert_eq!(lists[0].number, 17);
    assert_eq!(lists[0].revoked, [first, second]);
    assert_eq!(lists[0].issuer, authority.content().subject);
    for serial in ["", "xyz", "abc", &"ab".repeat(21)] {
        let revoked = Revoked { serial: serial.to_owned(), at: now() };
        assert!(matches!(authority.revoke(&[revoked], 1), Err(IssueError::Serial(_))), "{serial}");
    }
}

#[test]
fn hosts_with_ports_and_odd_validities_are_refused() {
    let authority = Authority::new(&TRAIL).unwrap();
    for host in ["localhost:7001", "10.0.0.1:80", "[::1]", "", "a b", "1.2.3", "*", "-x", "a/b"] {
        let leaf = Leaf { hosts: vec![host.to_owned()], ..node_leaf(1) };
        let refused = authority.issue(&leaf).map(drop);
        let refused = matches!(refused, Err(IssueError::Leaf(LeafError::Host(_))));
        assert!(refused, "{host:?} is taken");
    }
    for days in [0, 3651] {
        let refused = authority.issue(&Leaf { days, ..node_leaf(1) }).map(drop);
        assert!(matches!(refused, Err(IssueError::Leaf(LeafError::Days(_)))));
    }
}

fn pem_body(text: &str) -> Vec<u8> {
    use rustls::pki_types::pem::PemObject;
    rustls::pki_types::CertificateSigningRequestDer::from_pem_slice(text.as_bytes())
        .unwrap()
        .to_vec()
}

fn pem_text(kind: &str, der: &[u8]) -> String {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut body = String::new();
    for three in der.chunks(3) {
        let mut word = [0_u8; 3];
        word[..three.len()].copy_from_slice(three);
        let bits = u32::from_be_bytes([0, word[0], word[1], word[2]]);
        for position in 0..4 {
            let index = usize::try_from(bits >> (18 - 6 * position) & 63).unwrap();
            let padding = position > three.len();
            body.push(if padding { '=' } else { char::from(alphabet[index]) });
        }
    }
    format!("-----BEGIN {kind}-----\n{body}\n-----END {kind}-----\n")
}
