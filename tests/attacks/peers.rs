//! Who gets past the handshake: certificates, names, keys, proofs, connections.

use indelible::storage::identity::Identity;
use indelible_proto::raft as pb;
use indelible_testkit::Certificates;
use indelible_testkit::fail::within;
use indelible_tls::rustls::ProtocolVersion;
use indelible_tls::rustls::version::TLS12;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::{Code, Status};

use super::group::Group;
use super::impostor::Impostor;
use super::stranger::Stranger;
use super::wire::identity_of;
use crate::harness::{PATIENCE, client, eventually, leader, nodes_with, view};
use crate::thief::{Session, first_boot, hello, later, signed};

/// The message of a refused handshake.
fn refused<T>(handshake: Result<T, Status>) -> String {
    let Err(status) = handshake else { panic!("the handshake was accepted") };
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    status.message().to_owned()
}

/// Every call that takes a proof, and what comes of it, in the name of `node`.
pub async fn every_call(session: &Session, node: u64) -> Vec<(&'static str, Result<(), Status>)> {
    let mut session = session.clone();
    let vote = pb::Vote { term: 1, node_id: node, committed: false };
    let ask = pb::VoteRequest { vote: Some(vote), ..Default::default() };
    // Of a leader that was there before all others: it changes nothing.
    let led = pb::Vote { term: 0, node_id: node, committed: true };
    let entries = pb::AppendRequest { vote: Some(led), ..Default::default() };
    let transfer = pb::TransferLeaderRequest { from: Some(vote), to: node, ..Default::default() };
    let mut raft = session.raft.clone();
    let mut publication = session.publication.clone();
    vec![
        ("vote", session.vote(ask).await.map(drop)),
        ("pre-vote", raft.pre_vote(ask).await.map(drop)),
        ("append", session.append(entries).await.map(drop)),
        ("transfer", raft.transfer_leader(transfer).await.map(drop)),
        ("read index", raft.read_index(pb::ReadIndexRequest {}).await.map(drop)),
        ("finding", raft.record_finding(pb::RecordFindingRequest::default()).await.map(drop)),
        ("clock", raft.clock(pb::ClockRequest {}).await.map(drop)),
        ("cosign", publication.cosign(pb::CosignRequest::default()).await.map(drop)),
        ("publish", publication.publish(pb::PublishRequest::default()).await.map(drop)),
    ]
}

/// Asserts that nothing is answered on a connection on which nobody has proved who they are.
pub async fn nothing_is_answered(session: &Session, node: u64) {
    for (call, outcome) in every_call(session, node).await {
        let code = outcome.err().map(|status| status.code());
        assert_eq!(code, Some(Code::Unauthenticated), "{call}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a1_a_stranger_gets_no_session() {
    let group = Group::start().await;
    let another = Certificates::of_another(group.certificates.trail);
    let (copied, invented) = (another.node(2), another.node(99));
    let other_trail = indelible_core::TrailId([7; 16]);
    let of_other_trail =
        Certificates { authority: Certificates::of(&group.cluster).authority, trail: other_trail };
    let of_other_trail = of_other_trail.node(2);
    for id in 1..=3 {
        let addr = group.raft_addr(id);
        for (who, certificate) in [
            ("nobody", None),
            ("node 2 of another authority", Some(&copied)),
            ("node 99 of another authority", Some(&invented)),
            ("node 2 of another trail", Some(&of_other_trail)),
        ] {
            Stranger::new(certificate).is_turned_away(&addr, who).await;
        }
        let log = group.cluster.nodes[id as usize - 1].log_text();
        assert!(log.contains("no TLS with a peer that calls"), "{log}");
        // Whoever has a node's certificate, and not the node's key, gets no further either.
        let line = group.line(&group.certificates.node(9), id).await;
        let own_key = Identity { node_id: 9, ..group.invented(99) };
        let of_trail = pb::Hello {
            trail_id: other_trail.0.to_vec().into(),
            ..hello(&own_key, &first_boot(&own_key), id, line.binding)
        };
        assert!(refused(line.say(of_trail).await).contains("belongs to trail"));
        let unproven = pb::Hello {
            proof: Default::default(),
            ..hello(&own_key, &first_boot(&own_key), id, line.binding)
        };
        assert!(refused(line.say(unproven).await).contains("does not prove"));
        nothing_is_answered(&line.session(&own_key), 9).await;
    }
    group.still_works().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a4_a_shown_key_locks_nobody_out() {
    let mut group = Group::start().await;
    group.lead(1).await;
    let certificate = group.certificates.node(2);
    let node2 = group.identity(2);
    for id in [1, 3] {
        let line = group.line(&certificate, id).await;
        // Its key is in the membership for everybody to see.
        let boot = first_boot(&node2);
        let genuine = hello(&node2, &boot, id, [0; 32]);
        let others = Identity { secret_key: group.invented(99).secret_key, ..node2.clone() };
        let by_another = hello(&others, &boot, id, line.binding);
        for hello in [
            pb::Hello { proof: Default::default(), ..genuine.clone() },
            pb::Hello { proof: vec![0; 64].into(), ..genuine.clone() },
            by_another,
        ] {
            assert!(refused(line.say(hello).await).contains("does not prove"));
        }
        let own_key = Identity { node_id: 2, ..group.invented(99) };
        let text = refused(line.handshake(&own_key, &boot, id).await);
        assert!(text.contains("another key than the membership"), "{text}");
    }
    // A new start is a new handshake with both.
    let node = group.cluster.node(2).unwrap();
    node.kill().unwrap();
    node.start().unwrap();
    group.still_works().await;
    let size = group.sdk.tree_head(indelible_client::Level::Linearizable).await.unwrap().tree_size;
    let addr = group.client_addr(2);
    eventually("node 2 has what came after its start", || async {
        view(&addr).await.filter(|view| view.tree_size >= size)
    })
    .await;
    let text = group.cluster.node(2).unwrap().log_text();
    assert!(!text.contains("older copy") && !text.contains("refuses this node"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a5_a_client_certificate_is_no_node() {
    let group = Group::start().await;
    let certificates = &group.certificates;
    for (who, certificate) in [
        ("a client", certificates.client("billing")),
        ("an administrator", certificates.admin("admin")),
        ("a client by the name of a node", certificates.client("2")),
    ] {
        for id in 1..=3 {
            let addr = group.raft_addr(id);
            Stranger::new(Some(&certificate)).is_turned_away(&addr, who).await;
        }
    }
    group.still_works().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a6_node_2_cannot_be_node_3() {
    let mut group = Group::start().await;
    group.lead(1).await;
    let (boot, boot3) = (group.next_boot(2), group.next_boot(3));
    group.cluster.node(2).unwrap().kill().unwrap();
    let (node2, node3) = (group.identity(2), group.identity(3));
    let certificate = group.certificates.node(2);
    let line = group.line(&certificate, 1).await;
    // Not even with node 3's key: the certificate is on another disk than the key, or should be.
    let text = refused(line.handshake(&node3, &boot3, 1).await);
    assert!(text.contains("the certificate is of node/2"), "{text}");
    let mixed = Identity { node_id: 3, ..node2.clone() };
    let with_3 = group.line(&group.certificates.node(3), 1).await;
    let text = refused(with_3.handshake(&mixed, &boot3, 1).await);
    assert!(text.contains("another key than the membership"), "{text}");

    // As itself it is let in, and then says that it is node 3.
    let session = line.handshake(&node2, &boot, 1).await.unwrap();
    let text = refused(line.handshake(&node3, &boot3, 1).await);
    assert!(text.contains("the certificate is of node/2"), "{text}");
    for (call, outcome) in every_call(&session, 3).await {
        if ["vote", "pre-vote", "append", "transfer"].contains(&call) {
            let text = refused(outcome);
            assert!(text.contains("node 2 sent a vote of node 3"), "{call}: {text}");
        }
    }
    let text = refused(line.session(&node3).standing().await);
    assert!(text.contains("the certificate of node 3 is asked for"), "{text}");
    line.session(&node2).standing().await.unwrap();
    group.still_works().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a7_a_proof_is_not_replayed_on_another_connection() {
    let mut group = Group::start().await;
    group.lead(1).await;
    let boot = group.next_boot(2);
    group.cluster.node(2).unwrap().kill().unwrap();
    let (certificate, node2) = (group.certificates.node(2), group.identity(2));
    let line = group.line(&certificate, 1).await;
    let overheard = hello(&node2, &boot, 1, line.binding);
    line.say(overheard.clone()).await.unwrap();

    // Node 2's certificate is on a copy of its disk; its key is not.
    let another = group.line(&certificate, 1).await;
    assert!(refused(another.say(overheard.clone()).await).contains("does not prove"));
    nothing_is_answered(&another.session(&node2), 2).await;
    // Nor does it count with another node, or for anything else than what was said.
    let third = group.line(&certificate, 3).await;
    assert!(refused(third.say(overheard.clone()).await).contains("this is node 3"));
    let to_3 = pb::Hello { to: 3, ..overheard.clone() };
    assert!(refused(third.say(to_3).await).contains("does not prove"));
    for changed in [
        pb::Hello { boot: Some(signed(&node2, &later(&boot))), ..overheard.clone() },
        pb::Hello { promise: Some(pb::Vote::default()), ..overheard.clone() },
        pb::Hello { last_log_index: overheard.last_log_index + 1, ..overheard.clone() },
    ] {
        assert!(refused(line.say(changed).await).contains("does not prove"));
    }
    // On its own connection it still holds.
    line.say(overheard).await.unwrap();
    group.still_works().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a8_a_session_is_bound_to_its_connection() {
    let mut group = Group::start().await;
    group.lead(1).await;
    let boot = group.next_boot(2);
    group.cluster.node(2).unwrap().kill().unwrap();
    let (certificate, node2) = (group.certificates.node(2), group.identity(2));
    let line = group.line(&certificate, 1).await;
    let session = line.handshake(&node2, &boot, 1).await.unwrap();
    let answered = async || {
        for (call, outcome) in every_call(&session, 2).await {
            let code = outcome.err().map(|status| status.code());
            assert_ne!(code, Some(Code::Unauthenticated), "{call}");
        }
    };
    answered().await;
    // The same certificate at the same time on another connection, and after that one is gone.
    let another = group.line(&certificate, 1).await;
    nothing_is_answered(&another.session(&node2), 2).await;
    answered().await;
    drop((session, line));
    nothing_is_answered(&another.session(&node2), 2).await;
    let next = group.line(&certificate, 1).await;
    nothing_is_answered(&next.session(&node2), 2).await;

    // A connection is one boot's, too.
    next.handshake(&node2, &boot, 1).await.unwrap();
    let text = refused(next.handshake(&node2, &later(&boot), 1).await);
    assert!(text.contains("another boot's"), "{text}");
    nothing_is_answered(&next.session(&node2), 2).await;
    group.still_works().await;
}

/// A hello of TLS before 1.3, with these suites and nothing else.
fn old_hello(version: [u8; 2], suites: &[u16]) -> Vec<u8> {
    let suites: Vec<u8> = suites.iter().flat_map(|suite| suite.to_be_bytes()).collect();
    let mut body = [&version[..], &[0x42; 32], &[0]].concat();
    body.extend((suites.len() as u16).to_be_bytes());
    body.extend([&suites[..], &[1, 0]].concat());
    let length = (body.len() as u32).to_be_bytes();
    let message = [&[1], &length[1..], &body[..]].concat();
    let record = [0x16, 3, 1];
    [&record[..], &(message.len() as u16).to_be_bytes(), &message[..]].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a28_tls_1_2_and_weak_suites_refused_on_raft() {
    let group = Group::start().await;
    let certificate = group.certificates.node(2);
    for id in 1..=3 {
        let addr = group.raft_addr(id);
        let old = Stranger::speaking(Some(&certificate), &[&TLS12]);
        old.is_turned_away(&addr, "node 2 in TLS 1.2").await;
        // RC4, 3DES, CBC with RSA, without encryption, and the good ones of TLS 1.2; in TLS 1.2,
        // 1.0 and SSL 3.0.
        for version in [[3, 3], [3, 1], [3, 0]] {
            for suites in [&[0x0005, 0x000a, 0x002f, 0x0002][..], &[0xc02b, 0xc02f, 0xcca9]] {
                let mut tcp = TcpStream::connect(&addr).await.unwrap();
                tcp.write_all(&old_hello(version, suites)).await.unwrap();
                let mut answer = Vec::new();
                within(PATIENCE, "the end", tcp.read_to_end(&mut answer)).await.unwrap();
                // One alert record: fatal.
                assert_eq!(answer.first(), Some(&0x15), "{version:?} {suites:04x?}: {answer:?}");
                assert_eq!((answer.len(), answer[5]), (7, 2), "{answer:?}");
            }
        }
        let line = Stranger::new(Some(&certificate)).dial(&addr).await.unwrap();
        assert_eq!(line.version, ProtocolVersion::TLSv1_3);
    }
    group.still_works().await;
}

/// With the TLS key of one node, at its address: who refuses proves nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_refuses_everybody_makes_nobody_unready() {
    let mut cluster = nodes_with(3, None, "");
    client(&cluster).await;
    let gone = if leader(&cluster).await == 1 { 2 } else { 1 };
    let node = cluster.node(gone).unwrap();
    node.kill().unwrap();
    let (addr, certificate) = (node.raft_addr.clone(), identity_of(node));
    let identity = Identity::read(&node.data_dir).unwrap();
    let _impostor = Impostor::refusing(&addr, &certificate, identity, "says mallory").await;
    for node in cluster.nodes.iter().filter(|node| node.id != gone) {
        eventually("it is refused", || async {
            node.log_text().contains("says mallory").then_some(())
        })
        .await;
        let answer = crate::http::get(&node.probe_addr, "/readyz");
        assert_eq!(answer.status, 200, "node {}", node.id);
    }
}
