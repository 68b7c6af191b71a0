//! Files that do not fit together.

use super::*;
use crate::{PemError, Warning};

#[test]
fn files_that_do_not_fit_are_refused_with_a_reason() {
    let authority = Authority::new(&TRAIL).unwrap();
    let (one, two) =
        (authority.issue(&node_leaf(1)).unwrap(), authority.issue(&node_leaf(2)).unwrap());
    let files = files_of(authority.cert_pem(), &one);
    parse(&files, 1, Expiry::Refuse).unwrap();
    let other_key = Pem { key: two.key_pem.as_bytes().to_vec().into(), ..files.clone() };
    let said = parse(&other_key, 1, Expiry::Refuse).unwrap_err().to_string();
    assert!(said.contains("does not belong to cert") && said.contains("hint:"), "{said}");
    assert!(matches!(parse(&files, 2, Expiry::Refuse), Err(MaterialError::Holder { .. })));
    let other_ca = Authority::new(&TRAIL).unwrap();
    let foreign = Pem { ca: other_ca.cert_pem().as_bytes().to_vec(), ..files.clone() };
    let refused = parse(&foreign, 1, Expiry::Refuse).unwrap_err();
    assert!(matches!(refused, MaterialError::Cert(crate::Refusal::ForeignCa)), "{refused}");
    let no_ca = Pem { ca: one.cert_pem.as_bytes().to_vec(), ..files.clone() };
    let refused = parse(&no_ca, 1, Expiry::Refuse).unwrap_err();
    assert!(matches!(refused, MaterialError::NotAnAuthority { file: "ca", .. }), "{refused}");
    let swapped = Pem { cert: files.key.to_vec(), ..files.clone() };
    let refused = parse(&swapped, 1, Expiry::Refuse).unwrap_err();
    let missing =
        matches!(refused, MaterialError::Pem { file: "cert", problem: PemError::Missing { .. } });
    assert!(missing, "{refused}");
}

#[test]
fn a_cut_file_is_refused_at_every_length() {
    let authority = Authority::new(&TRAIL).unwrap();
    let files = files_of(authority.cert_pem(), &authority.issue(&node_leaf(1)).unwrap());
    let whole = |text: &[u8]| text.trim_ascii_end().len();
    for length in (0..whole(&files.cert)).step_by(7) {
        let cut = Pem { cert: files.cert[..length].to_vec(), ..files.clone() };
        assert!(parse(&cut, 1, Expiry::Warn).is_err(), "certificate of {length} bytes");
    }
    for length in (0..whole(&files.key)).step_by(7) {
        let cut = Pem { key: files.key[..length].to_vec().into(), ..files.clone() };
        assert!(parse(&cut, 1, Expiry::Warn).is_err(), "key of {length} bytes");
    }
}

#[test]
fn a_client_certificate_is_not_enough_for_a_node() {
    let authority = Authority::new(&TRAIL).unwrap();
    let files =
        files_of(authority.cert_pem(), &authority.issue(&Leaf::new(client_name())).unwrap());
    let refused = parse(&files, 1, Expiry::Refuse).unwrap_err();
    assert!(matches!(refused, MaterialError::Holder { .. }), "{refused}");
}

#[test]
fn an_expired_root_is_said_and_used() {
    let long_ago = now() - 4000 * DAY;
    let authority = Authority::new_at(&TRAIL, long_ago).unwrap();
    let leaf = Leaf { not_after: Some(now() + DAY), ..node_leaf(1) };
    let files = files_of(authority.cert_pem(), &authority.issue(&leaf).unwrap());
    let one = parse(&files, 1, Expiry::Refuse).unwrap();
    assert!(matches!(one.warnings(), [Warning::Root { .. }]), "{:?}", one.warnings());
    assert_eq!(one.authority_not_after(), authority.content().not_after);
}

#[test]
fn secrets_are_in_no_debug_output() {
    let authority = Authority::new(&TRAIL).unwrap();
    let issued = authority.issue(&node_leaf(1)).unwrap();
    let files = files_of(authority.cert_pem(), &issued);
    let one = parse(&files, 1, Expiry::Refuse).unwrap();
    let secret = pem::private_key(issued.key_pem.as_bytes()).unwrap();
    // The scalar, which stands in the PKCS#8 structure at a fixed place.
    let scalar = &secret.secret_der()[36..68];
    let numbers = format!("{scalar:?}");
    let shown = format!("{files:?}{one:?}");
    assert!(!shown.contains(numbers.trim_matches(['[', ']'])));
    assert!(!shown.contains("PRIVATE KEY") && !shown.contains(&hex::encode(scalar)));
}
