//! Expiry and revocation.

use super::*;
use crate::inspect::{Certificate, Revoked};
use crate::{Port, Warning, client_server, raft_client, raft_server};

fn aged(leaf: Leaf, from_days: i64, to_days: i64) -> Leaf {
    let not_before = Some(now() + from_days * DAY);
    let not_after = Some(now() + to_days * DAY);
    Leaf { not_before, not_after, ..leaf }
}

fn revoked(issued: &Issued) -> Revoked {
    let content = &Certificate::from_pem(issued.cert_pem.as_bytes()).unwrap()[0];
    Revoked { serial: content.serial.clone(), at: now() }
}

/// Files of node 1 with a revocation list.
fn with_list(authority: &Authority, crl: String) -> Pem {
    let issued = authority.issue(&node_leaf(1)).unwrap();
    Pem { crl: Some(crl.into_bytes()), ..files_of(authority.cert_pem(), &issued) }
}

#[test]
fn between_nodes_a_wrong_time_is_forgiven() {
    let authority = Authority::new(&TRAIL).unwrap();
    let one = node(&authority, 1);
    for (from, to) in [(-30, -2), (2, 30)] {
        let issued = authority.issue(&aged(node_leaf(2), from, to)).unwrap();
        let files = files_of(authority.cert_pem(), &issued);
        let two = parse(&files, 2, Expiry::Warn).unwrap();
        assert!(matches!(two.warnings(), [Warning::Validity(_)]), "{:?}", two.warnings());
        assert!(matches!(parse(&files, 2, Expiry::Refuse), Err(MaterialError::Cert(_))));
        handshake(raft_client(&two).unwrap(), raft_server(&one).unwrap()).unwrap();
        handshake(raft_client(&one).unwrap(), raft_server(&two).unwrap()).unwrap();
    }
}

#[test]
fn clients_and_their_port_judge_time_strictly() {
    let authority = Authority::new(&TRAIL).unwrap();
    let one = node(&authority, 1);
    for (from, to, reason) in [(-30, -2, "Expired"), (2, 30, "NotValidYet")] {
        let reason = format!("invalid peer certificate: {reason}");
        let issued = authority.issue(&aged(Leaf::new(client_name()), from, to)).unwrap();
        let dialer = client(authority.cert_pem(), &issued);
        assert_eq!(server_refuses(dialer, client_server(&one).unwrap()), reason);
        // A node that acts as a client there is no exception.
        let issued = authority.issue(&aged(node_leaf(2), from, to)).unwrap();
        let dialer = client(authority.cert_pem(), &issued);
        assert_eq!(server_refuses(dialer, client_server(&one).unwrap()), reason);
        let two = parse(&files_of(authority.cert_pem(), &issued), 2, Expiry::Warn).unwrap();
        let dialer = stranger(authority.cert_pem());
        assert_eq!(client_refuses(dialer, client_server(&two).unwrap()), reason);
    }
}

#[test]
fn a_connection_of_a_client_ends_with_its_certificate() {
    let authority = Authority::new(&TRAIL).unwrap();
    let one = node(&authority, 1);
    let issued = authority.issue(&Leaf { days: 3, ..Leaf::new(client_name()) }).unwrap();
    let judge = |port, days: i64| {
        one.still_trusts(port, &chain(&issued), now() + days * DAY).map_err(|error| error.code())
    };
    assert!(judge(Port::Client, 2).is_ok());
    assert_eq!(judge(Port::Client, 4), Err("expired"));
    assert!(one.still_trusts(Port::RaftIn, &one.identity.cert, now() + 4000 * DAY).is_ok());
}

#[test]
fn what_is_revoked_is_refused_everywhere() {
    let authority = Authority::new(&TRAIL).unwrap();
    let node_2 = authority.issue(&node_leaf(2)).unwrap();
    let billing = authority.issue(&Leaf::new(client_name())).unwrap();
    let late = authority.issue(&aged(node_leaf(3), -30, -2)).unwrap();
    let list = [&node_2, &billing, &late].map(revoked);
    let files = with_list(&authority, authority.revoke(&list, 1).unwrap());
    let one = parse(&files, 1, Expiry::Refuse).unwrap();
    let two = parse(&files_of(authority.cert_pem(), &node_2), 2, Expiry::Refuse).unwrap();
    let three = parse(&files_of(authority.cert_pem(), &late), 3, Expiry::Warn).unwrap();
    let reason = "invalid peer certificate: Revoked";
    for revoked in [&two, &three] {
        let (dial, accept) = (raft_client(revoked).unwrap(), raft_server(revoked).unwrap());
        assert_eq!(server_refuses(dial, raft_server(&one).unwrap()), reason);
        assert_eq!(client_refuses(raft_client(&one).unwrap(), accept), reason);
    }
    let dialer = client(authority.cert_pem(), &billing);
    assert_eq!(server_refuses(dialer, client_server(&one).unwrap()), reason);
    // The list names three; a fourth is believed, and so is node 4.
    let four = node(&authority, 4);
    handshake(raft_client(&four).unwrap(), raft_server(&one).unwrap()).unwrap();
    // A connection from before the list ends once it is loaded.
    let without = node(&authority, 1);
    let chain = chain(&node_2);
    assert!(without.still_trusts(Port::RaftIn, &chain, now()).is_ok());
    let refusal = one.still_trusts(Port::RaftIn, &chain, now()).unwrap_err();
    assert_eq!(refusal.code(), "revoked");
}

#[test]
fn an_old_list_and_one_of_another_authority_are_right_about_what_they_name() {
    let (ours, theirs) = (Authority::new(&TRAIL).unwrap(), Authority::new(&TRAIL).unwrap());
    let two = ours.issue(&node_leaf(2)).unwrap();
    // The list of another authority comes first and names the same serial number.
    let crl = format!(
        "{}{}",
        theirs.revoke(&[revoked(&ours.issue(&node_leaf(3)).unwrap())], 1).unwrap(),
        ours.revoke(&[revoked(&two)], 1).unwrap()
    );
    let one = parse(&with_list(&ours, crl), 1, Expiry::Refuse).unwrap();
    let judge = |issued: &Issued, days: i64| {
        let then = now() + days * DAY;
        one.still_trusts(Port::RaftIn, &chain(issued), then).map_err(|error| error.code())
    };
    assert_eq!(judge(&two, 0), Err("revoked"));
    assert_eq!(judge(&two, 5000), Err("revoked"), "the list is past its next update");
    assert!(judge(&ours.issue(&node_leaf(3)).unwrap(), 0).is_ok());
}

#[test]
fn a_list_of_a_root_of_the_same_name_hinders_nobody() {
    let (old, new) = (names::RawAuthority::new("root"), names::RawAuthority::new("root"));
    let two = old.issue(&[&node_name(2).uri()]);
    let both = format!("{}{}", old.cert_pem, new.cert_pem);
    let crl = old.authority().revoke(&[revoked(&two)], 1).unwrap();
    let own = new.issue(&[&node_name(1).uri()]);
    let files = Pem { crl: Some(crl.into_bytes()), ..files_of(&both, &own) };
    let one = parse(&files, 1, Expiry::Refuse).unwrap();
    assert!(one.warnings().is_empty());
    let three = new.issue(&[&node_name(3).uri()]);
    assert!(one.still_trusts(Port::RaftIn, &chain(&three), now()).is_ok());
    let refusal = one.still_trusts(Port::RaftIn, &chain(&two), now()).unwrap_err();
    assert_eq!(refusal.code(), "revoked");
}

#[test]
fn a_forged_or_damaged_list_is_an_error() {
    let root = names::RawAuthority::new("root");
    let forger = names::RawAuthority::new("root").authority();
    let own = root.issue(&[&node_name(1).uri()]);
    let with = |crl: Vec<u8>| {
        let files = Pem { crl: Some(crl), ..files_of(&root.cert_pem, &own) };
        parse(&files, 1, Expiry::Refuse).map(drop)
    };
    let forged = forger.revoke(&[], 1).unwrap();
    assert!(matches!(with(forged.into_bytes()), Err(MaterialError::Crl { .. })));
    let good = root.authority().revoke(&[], 1).unwrap().into_bytes();
    with(good.clone()).unwrap();
    let cut = good[..good.len() - 30].to_vec();
    assert!(matches!(with(cut), Err(MaterialError::Pem { file: "crl", .. })));
    assert!(matches!(with(Vec::new()), Err(MaterialError::Pem { file: "crl", .. })));
}

#[test]
fn a_node_whose_own_certificate_is_revoked_takes_the_list_and_says_so() {
    let authority = Authority::new(&TRAIL).unwrap();
    let own = authority.issue(&node_leaf(1)).unwrap();
    let crl = authority.revoke(&[revoked(&own)], 1).unwrap().into_bytes();
    let files = Pem { crl: Some(crl), ..files_of(authority.cert_pem(), &own) };
    let one = parse(&files, 1, Expiry::Refuse).unwrap();
    assert!(matches!(one.warnings(), [Warning::Revoked { .. }]));
}
