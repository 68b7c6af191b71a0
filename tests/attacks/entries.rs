//! What a node takes from whom: entries, terms, findings, questions about its log, evidence.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use indelible::cli::generate::event;
use indelible::storage::identity::Identity;
use indelible_core::limits::{
    EVIDENCE_OF_A_SORT_MAX, FINDINGS_OF_A_NODE_A_MINUTE_MAX, TERM_JUMP_MAX,
};
use indelible_core::{EntryKind, Kind, ProducerId, Salt};
use indelible_proto::raft as pb;
use indelible_proto::raft::append_response::Result as Answer;
use indelible_proto::v1;
use indelible_testkit::trail::batch;
use indelible_testkit::{Certificates, TestRecord};
use prost::Message;
use tonic::Code;

use super::group::Group;
use super::impostor::Impostor;
use super::peers::nothing_is_answered;
use super::stranger::Stranger;
use crate::harness::{eventually, view};
use crate::thief::{Session, first_boot, hello};

/// Entries of a node's log as it gives them to other nodes.
async fn entries(session: &Session, identity: &Identity) -> Vec<pb::LogId> {
    let request = pb::EntriesRequest {
        trail_id: Bytes::copy_from_slice(&identity.trail_id.0),
        node_id: identity.node_id,
        from: 0,
        to: u64::MAX,
    };
    let mut stream = session.mending.clone().entries(request).await.unwrap().into_inner();
    let mut ids = Vec::new();
    while let Some(message) = stream.message().await.unwrap() {
        let id = |entry: pb::Entry| pb::LogId {
            term: entry.term,
            leader: entry.leader,
            index: entry.index,
        };
        ids.extend(message.entries.into_iter().map(id));
    }
    ids
}

/// S1: one message that forges an entry, under a vote that makes its sender the leader.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a2_a_stranger_forges_no_entry() {
    const FORGED: &[u8] = b"FORGED-THROUGH-THE-RAFT-PORT";
    let group = Group::start().await;
    let producer = group.sdk.producer(ProducerId(*b"whose name it is"), "cli").open().await;
    let producer = producer.unwrap();
    let newest = producer.append(event(1)).await.unwrap();
    let certificates = &group.certificates;
    let another = Certificates::of_another(certificates.trail);
    for id in 1..=3 {
        let addr = group.raft_addr(id);
        for (who, certificate) in [
            ("nobody", None),
            ("a client", Some(certificates.client("billing"))),
            ("node 2 of another authority", Some(another.node(2))),
        ] {
            Stranger::new(certificate.as_ref()).is_turned_away(&addr, who).await;
        }
    }
    // Even with a node's certificate, which is what it takes to learn where the log ends.
    for id in [1, 3] {
        let node2 = group.identity(2);
        let line = group.line(&certificates.node(2), id).await;
        let mut session = line.session(&node2);
        let standing = session.standing().await.unwrap();
        let last = standing.last.unwrap();
        let term = standing.term + 1000;
        let record = TestRecord::event(
            newest.leaf.opened,
            newest.leaf.seq + 1,
            newest.leaf.received + 1,
            Bytes::from_static(FORGED),
        );
        let (head, body) = batch([(record, Salt(rand::random()))]);
        let next = pb::LogId { term, leader: 2, index: last.index + 1 };
        let kind = EntryKind::Batch.as_u8().into();
        let entry = pb::Entry { term, leader: 2, index: next.index, kind, head, body };
        let forged = pb::AppendRequest {
            vote: Some(pb::Vote { term, node_id: 2, committed: true }),
            prev: Some(last),
            prev_chain: session.chain_at(last.index).await.unwrap(),
            entries: vec![entry],
            committed: Some(next),
        };
        // With whatever it can say of itself: it has not got the key.
        let others = Identity { node_id: 2, ..group.invented(99) };
        for hello in [
            hello(&others, &first_boot(&others), id, line.binding),
            pb::Hello {
                proof: vec![1; 64].into(),
                ..hello(&node2, &first_boot(&node2), id, [0; 32])
            },
            hello(&group.invented(99), &first_boot(&group.invented(99)), id, line.binding),
        ] {
            line.say(hello).await.unwrap_err();
            let refused = session.append(forged.clone()).await.unwrap_err();
            assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
        }
        nothing_is_answered(&session, 2).await;
    }
    producer.append(event(3)).await.unwrap();
    group.still_works().await;
    let trail = group.trail().await;
    let holds = |event: &[u8]| event.windows(FORGED.len()).any(|window| window == FORGED);
    assert!(!trail.records.iter().any(|(_, event)| holds(event)));
    assert_eq!(trail.events_by_producer()[&b"whose name it is".to_vec()].len(), 2);
}

/// S2: one message that uses up all terms, here of somebody with a node's certificate and key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a3_a_huge_term_is_refused() {
    let mut group = Group::start().await;
    group.lead(2).await;
    let thief = group.steal(1).await;
    for id in [2, 3] {
        let mut session = thief.call(id, &group.raft_addr(id)).await;
        let known = session.standing().await.unwrap().term;
        // Elections may go on meanwhile, and one more than allowed is too much.
        for term in [known + 1000 + TERM_JUMP_MAX, u64::MAX] {
            let mut raft = session.raft.clone();
            let vote = Some(pb::Vote { term, node_id: 1, committed: false });
            let leads = Some(pb::Vote { term, node_id: 1, committed: true });
            let ask = pb::VoteRequest { vote, leadership_transfer: true, ..Default::default() };
            let lead = pb::AppendRequest { vote: leads, ..Default::default() };
            let transfer = pb::TransferLeaderRequest { from: leads, to: id, ..Default::default() };
            for (call, refused) in [
                ("vote", session.vote(ask).await.unwrap_err()),
                ("pre-vote", raft.pre_vote(ask).await.unwrap_err()),
                ("append", session.append(lead).await.unwrap_err()),
                ("transfer", raft.transfer_leader(transfer).await.unwrap_err()),
            ] {
                assert_eq!(refused.code(), Code::InvalidArgument, "{call}: {refused:?}");
                assert!(refused.message().contains("the limit is 1048576 more"), "{refused:?}");
            }
        }
        assert_eq!(group.evidence(id), ["of_node_1-term.txt"]);
        let now = session.standing().await.unwrap().term;
        assert!(now < known + 1000, "term {known} became {now}");
        // What an election needs is answered.
        let vote = Some(pb::Vote { term: now + 1, node_id: 1, committed: false });
        let ask = pb::VoteRequest { vote, ..Default::default() };
        session.raft.pre_vote(ask).await.unwrap();
    }
    // Nothing of it is on disk.
    for id in [2, 3] {
        let node = group.cluster.node(id).unwrap();
        node.kill().unwrap();
        node.start().unwrap();
    }
    group.still_works().await;
}

/// What node 1 answers to the leader, which is node 2, in the place of the real one: a vote. Returns
/// the term before, once the leader has kept it as evidence.
async fn answer_with(group: &mut Group, kept: &str, vote: impl Fn(u64) -> pb::Vote) -> u64 {
    group.lead(2).await;
    let boot = group.next_boot(1);
    let led = group.client_addr(2);
    let before = eventually("a view", || view(&led)).await.term;
    group.cluster.node(1).unwrap().kill().unwrap();
    let (addr, certificate) = (group.raft_addr(1), group.certificates.node(1));
    let vote = vote(before);
    let impostor = Impostor::start(&addr, &certificate, group.identity(1), boot, vote).await;
    let kept = kept.to_owned();
    let took_notice = || async {
        let now = view(&led).await?.term;
        assert!(now < before + 1000, "term {before} became {now}");
        (impostor.answers.load(Ordering::Relaxed) >= 3).then_some(())?;
        group.evidence(2).contains(&kept).then_some(())
    };
    eventually("the leader keeps what node 1 answered", took_notice).await;
    group.still_works().await;
    before
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a3_a_huge_term_in_an_answer_is_refused() {
    let mut group = Group::start_calm().await;
    let huge = |_| pb::Vote { term: u64::MAX, node_id: 1, committed: true };
    let before = answer_with(&mut group, "of_node_1-term.txt", huge).await;
    for id in [2, 3] {
        let addr = group.client_addr(id);
        let term = eventually("a view", || view(&addr)).await.term;
        assert!(term < before + 1000, "node {id}: term {before} became {term}");
    }
}

/// openraft takes its own name in an answer for an election that it has won.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_makes_nobody_lead() {
    let mut group = Group::start_calm().await;
    let you_lead = |term| pb::Vote { term: term + 1000, node_id: 2, committed: true };
    answer_with(&mut group, "of_node_1-vote.txt", you_lead).await;
}

/// What openraft takes for granted of its peers, and asserts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stolen_key_stops_no_node() {
    let mut group = Group::start_calm().await;
    group.lead(2).await;
    let thief = group.steal(1).await;
    let mut session = thief.call(3, &group.raft_addr(3)).await;
    let standing = session.standing().await.unwrap();
    let (last, term) = (standing.last.unwrap(), standing.term + 1);
    let vote = |committed| Some(pb::Vote { term, node_id: 1, committed });
    let won = pb::VoteRequest { vote: vote(true), last_log_id: Some(last), ..Default::default() };
    let not_won = pb::AppendRequest { vote: vote(false), ..Default::default() };
    let prev_chain = session.chain_at(last.index).await.unwrap();
    let blank = |term: u64, leader: u64| pb::AppendRequest {
        vote: vote(true),
        prev: Some(last),
        prev_chain: prev_chain.clone(),
        entries: vec![pb::Entry {
            term,
            leader,
            index: last.index + 1,
            kind: EntryKind::Blank.as_u8().into(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let mut raft = session.raft.clone();
    for (what, refused) in [
        ("a vote that was won", session.vote(won).await.unwrap_err()),
        ("a pre-vote that was won", raft.pre_vote(won).await.unwrap_err()),
        ("under a vote that was not won", session.append(not_won).await.unwrap_err()),
        ("under an earlier leader", session.append(blank(last.term, 1)).await.unwrap_err()),
        ("under a later leader", session.append(blank(term, 2)).await.unwrap_err()),
    ] {
        assert_eq!(refused.code(), Code::InvalidArgument, "{what}: {refused:?}");
    }
    assert!(group.cluster.node(3).unwrap().is_running());
    group.still_works().await;
}

/// S6: everything in the trail, with salts and events, for whoever knows its id.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a11_mending_serves_nodes_only() {
    let group = Group::start().await;
    group.still_works().await;
    let certificates = &group.certificates;
    for id in [1, 3] {
        let addr = group.raft_addr(id);
        for (who, certificate) in [
            ("nobody", None),
            ("a client", Some(certificates.client("billing"))),
            ("an administrator", Some(certificates.admin("admin"))),
        ] {
            Stranger::new(certificate.as_ref()).is_turned_away(&addr, who).await;
        }
        let line = group.line(&certificates.node(2), id).await;
        let node2 = group.identity(2);
        let trail_id = Bytes::copy_from_slice(&node2.trail_id.0);
        // In node 3's name, or node 1's; and for another trail.
        for (node_id, trail_id) in [
            (4 - id, trail_id.clone()),
            (0, trail_id.clone()),
            (99, trail_id.clone()),
            (2, vec![7; 16].into()),
        ] {
            let mut mending = line.session(&node2).mending;
            let entries =
                pb::EntriesRequest { trail_id: trail_id.clone(), node_id, from: 0, to: u64::MAX };
            let segments = pb::SegmentsRequest { trail_id: trail_id.clone(), node_id, from: 0 };
            let standing = pb::StandingRequest { trail_id: trail_id.clone(), node_id };
            for (call, outcome) in [
                ("entries", mending.entries(entries).await.map(drop)),
                ("segments", mending.segments(segments).await.map(drop)),
                ("standing", mending.standing(standing).await.map(drop)),
            ] {
                let code = outcome.err().map(|status| status.code());
                assert_eq!(code, Some(Code::PermissionDenied), "{call} as node {node_id}");
            }
        }
        // The node itself is served, before it has proved anything: its log may be damaged.
        assert!(entries(&line.session(&node2), &node2).await.len() > 2);
    }
    group.still_works().await;
}

fn finding(detail: &str) -> pb::RecordFindingRequest {
    // As if another node had found it.
    let finding = v1::Finding {
        node_id: 1,
        what: "equivocation".into(),
        place: "tree size 7".into(),
        outcome: "refused".into(),
        detail: detail.into(),
        reporter: 3,
        ..Default::default()
    };
    pb::RecordFindingRequest { finding: finding.encode_to_vec().into() }
}

/// S5: an accusation in the trail, with the cluster's signature.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a12_a_stranger_records_no_finding() {
    let mut group = Group::start_calm().await;
    group.lead(1).await;
    let client = group.certificates.client("billing");
    Stranger::new(Some(&client)).is_turned_away(&group.raft_addr(1), "a client").await;
    // With node 3's certificate and not its key.
    let line = group.line(&group.certificates.node(3), 1).await;
    let mut raft = line.session(&group.identity(3)).raft;
    let refused = raft.record_finding(finding("by nobody")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
    // A node that has proved who it is and that nobody has added.
    let line = group.line(&group.certificates.node(4), 1).await;
    let newcomer = group.invented(4);
    let mut session = line.handshake(&newcomer, &first_boot(&newcomer), 1).await.unwrap();
    let refused = session.raft.record_finding(finding("by a newcomer")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(refused.message().contains("is no member"), "{refused:?}");
    assert!(group.recorded::<v1::Finding>(Kind::Finding).await.is_empty());

    // A member has its name on what it finds, and has found enough after a while.
    let thief = group.steal(2).await;
    let mut session = thief.call(1, &group.raft_addr(1)).await;
    for number in 0..FINDINGS_OF_A_NODE_A_MINUTE_MAX {
        session.raft.record_finding(finding(&format!("number {number}"))).await.unwrap();
    }
    let refused = session.raft.record_finding(finding("one more")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(refused.message().contains("which is the limit"), "{refused:?}");
    group.still_works().await;
    let recorded = group.recorded::<v1::Finding>(Kind::Finding).await;
    let said: Vec<_> = recorded.iter().map(|one| (one.reporter, one.detail.as_str())).collect();
    let numbers: Vec<_> =
        (0..FINDINGS_OF_A_NODE_A_MINUTE_MAX).map(|number| format!("number {number}")).collect();
    assert_eq!(said, numbers.iter().map(|one| (2, one.as_str())).collect::<Vec<_>>());
}

/// One message of a leader whose chain is not ours at an entry that both have. Its term rises until
/// the node follows it.
async fn break_the_chain(session: &mut Session, node: u64, prev: pb::LogId, term: &mut u64) {
    loop {
        let request = pb::AppendRequest {
            vote: Some(pb::Vote { term: *term, node_id: node, committed: true }),
            prev: Some(prev),
            prev_chain: vec![0x66; 32].into(),
            ..Default::default()
        };
        match session.append(request).await {
            Ok(pb::AppendResponse { result: Some(Answer::HigherVote(vote)), .. }) => {
                *term = vote.term + 1;
            }
            Ok(other) => panic!("node {node} broke the chain and was answered {other:?}"),
            Err(refused) => {
                assert_eq!(refused.code(), Code::DataLoss, "{refused:?}");
                return;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a27_evidence_room_is_kept_for_members() {
    let mut group = Group::start_calm().await;
    group.lead(2).await;
    let producer = group.sdk.producer(ProducerId(*b"makes many rows."), "e").open().await.unwrap();
    for number in 0..EVIDENCE_OF_A_SORT_MAX as u64 + 8 {
        producer.append(event(number)).await.unwrap();
    }
    // With a node's certificate, and nothing proved: whatever it says leaves nothing behind.
    let line = group.line(&group.certificates.node(2), 3).await;
    let mut session = line.session(&group.identity(2));
    let ids = entries(&session, &group.identity(2)).await;
    assert!(ids.len() > EVIDENCE_OF_A_SORT_MAX + 4, "{} entries", ids.len());
    for prev in &ids {
        let request = pb::AppendRequest {
            vote: Some(pb::Vote { term: u64::MAX, node_id: 2, committed: true }),
            prev: Some(*prev),
            prev_chain: vec![0x66; 32].into(),
            ..Default::default()
        };
        let refused = session.append(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
    }
    assert!(group.evidence(3).is_empty(), "{:?}", group.evidence(3));

    // A node that has a certificate, and that nobody has added, breaks the chain everywhere.
    let newcomer = group.invented(99);
    let line = group.line(&group.certificates.node(99), 3).await;
    let mut session = line.handshake(&newcomer, &first_boot(&newcomer), 3).await.unwrap();
    let mut term = ids.last().unwrap().term + 1;
    for prev in &ids {
        break_the_chain(&mut session, 99, *prev, &mut term).await;
    }
    let kept = group.evidence(3);
    assert_eq!(kept.len(), EVIDENCE_OF_A_SORT_MAX, "{kept:?}");
    assert!(kept.iter().all(|name| name.starts_with("of_no_member-99-")), "{kept:?}");

    // There is room for what a member does.
    let thief = group.steal(1).await;
    let mut session = thief.call(3, &group.raft_addr(3)).await;
    break_the_chain(&mut session, 1, ids[2], &mut term).await;
    let kept = group.evidence(3);
    let of_member = format!("of_node_1-chain-{}-{}.txt", ids[2].index, ids[2].term);
    assert!(kept.contains(&of_member), "{kept:?}");
    group.still_works().await;
}
