//! Nodes that come and go: whose voice counts meanwhile.

use std::time::{Duration, Instant};

use bytes::Bytes;
use indelible::cli::generate::event_of_size;
use indelible_client::Reason;
use indelible_core::limits::REPLICATION_BYTES_MAX;
use indelible_core::{Kind, ProducerId};
use indelible_local::free_ports;
use indelible_proto::raft as pb;
use indelible_proto::v1;
use indelible_testkit::Certificates;
use indelible_testkit::fail::within;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::group::{CALM, Group, reason};
use super::impostor::Impostor;
use super::peers::nothing_is_answered;
use super::relay::Relay;
use crate::harness::{
    PATIENCE, certify, configure, eventually, indelible_at, leader, stdout, view,
};
use crate::thief::first_boot;

/// A section of a node's configuration.
fn election_timeouts(min_ms: u64, max_ms: u64) -> String {
    format!(
        "[raft]\nheartbeat_ms = 100\nelection_timeout_min_ms = {min_ms}\nelection_timeout_max_ms = {max_ms}\n"
    )
}

/// Starts a node that is to be added, and returns what adds it. Other nodes reach it through a relay
/// that lets `through` connections pass. `raft` is a section of its configuration.
async fn newcomer(
    group: &mut Group,
    id: u64,
    through: usize,
    raft: &str,
) -> (Relay, v1::AddNodeRequest) {
    let cluster = &mut group.cluster;
    let target = configure(cluster, id).raft_addr.clone();
    let relay = Relay::start(target, through).await;
    let request = start_behind(group, id, &relay, raft).await;
    (relay, request)
}

/// Starts a node that is to be added, behind a relay, and returns what adds it.
pub async fn start_behind(
    group: &mut Group,
    id: u64,
    relay: &Relay,
    raft: &str,
) -> v1::AddNodeRequest {
    let (endpoints, cluster) = (group.cluster.endpoints(), &mut group.cluster);
    let node = cluster.node(id).unwrap();
    let text = std::fs::read_to_string(&node.config).unwrap();
    let at = format!("raft_addr = \"{}\"\n", node.raft_addr);
    let elsewhere =
        format!("raft_addr = \"{}\"\nraft_listen = \"{}\"\n", relay.addr, node.raft_addr);
    assert!(text.contains(&at), "{text}");
    let (text, _) = text.split_once("[raft]").unwrap();
    std::fs::write(&node.config, text.replace(&at, &elsewhere) + raft).unwrap();
    // It may lead, and then it signs for the log.
    let log_key = node.data_dir.with_file_name("node1").join("log_key");
    let (config, log_key) = (node.config.to_str().unwrap(), log_key.to_str().unwrap());
    let args = ["--json", "node-key", "--config", config, "--log-key", log_key];
    let key: Value = serde_json::from_str(&stdout(&indelible_at(&endpoints, &args).await)).unwrap();
    assert_eq!(key["id"], id);
    certify(cluster, id).await;
    let node = cluster.node(id).unwrap();
    node.start().unwrap();
    let addr = node.client_addr.clone();
    eventually("the newcomer answers", || view(&addr)).await;
    let text = |name: &str| key[name].as_str().unwrap().to_owned();
    v1::AddNodeRequest {
        id,
        client_addr: text("client_addr"),
        raft_addr: text("raft_addr"),
        http_addr: text("http_addr"),
        public_key: hex::decode(text("public_key")).unwrap().into(),
        reason: "a test".into(),
    }
}

async fn remove(group: &Group, leads: u64, id: u64) {
    let request = v1::RemoveNodeRequest { id, reason: "a test".into() };
    let removed = within(PATIENCE, "a removal", async {
        group.admin(leads).await.remove_node(request).await
    });
    let voters = removed.await.unwrap().into_inner().voters;
    assert!(!voters.contains(&id), "{voters:?}");
}

/// Until a node has applied everything that another one has now.
async fn follows(group: &Group, id: u64, leads: u64) -> v1::ClusterView {
    let (addr, led) = (group.client_addr(id), group.client_addr(leads));
    let until = eventually("a view", || view(&led)).await.last_log_index;
    eventually(&format!("node {id} has what node {leads} has"), || async {
        view(&addr).await.filter(|view| view.applied_index >= until)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a9_a_removed_node_with_a_valid_certificate_is_refused() {
    let mut group = Group::start_calm().await;
    group.lead(2).await;
    let producer = group.sdk.producer(ProducerId(*b"of large events."), "l").open().await.unwrap();
    for number in 0..24 {
        producer.append(event_of_size(number, 200_000)).await.unwrap();
    }
    let boot = group.next_boot(1);
    group.cluster.node(1).unwrap().kill().unwrap();
    let (certificate, node1) = (group.certificates.node(1), group.identity(1));
    let line = group.line(&certificate, 3).await;
    let mut session = line.handshake(&node1, &boot, 3).await.unwrap();
    let vote = Some(pb::Vote { term: 0, node_id: 1, committed: true });
    let message = pb::AppendRequest { vote, ..Default::default() };
    // As long as it is a node, it is answered.
    session.append(message.clone()).await.unwrap();
    let (send, messages) = mpsc::channel(1);
    let stream = session.raft.append(ReceiverStream::new(messages)).await.unwrap();
    let mut answers = stream.into_inner();
    let reading = group.line(&certificate, 3).await;
    let mut mending = reading.session(&node1).mending;
    let trail_id = Bytes::copy_from_slice(&node1.trail_id.0);
    let all = pb::EntriesRequest { trail_id, node_id: 1, from: 0, to: u64::MAX };
    let mut entries = mending.entries(all.clone()).await.unwrap().into_inner();
    assert!(entries.message().await.unwrap().is_some());

    remove(&group, 2, 1).await;
    let known = follows(&group, 3, 2).await;
    assert!(!known.joint && known.nodes.iter().all(|node| node.id != 1), "{known:?}");

    // On the connection where it has proved who it is, and on a new one.
    nothing_is_answered(&session, 1).await;
    send.send(message).await.unwrap();
    // The connection is cut: the answer that says why may not get through.
    let ended = answers.message().await.unwrap_err();
    assert!([Code::Unauthenticated, Code::Unknown].contains(&ended.code()), "{ended:?}");
    let again = group.line(&certificate, 3).await;
    let refused = again.handshake(&node1, &boot, 3).await.map(drop).unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    assert!(refused.message().contains("was removed from the group"), "{refused:?}");
    nothing_is_answered(&again.session(&node1), 1).await;
    // Neither new questions about the log are answered, nor the one that is half answered.
    let refused = mending.entries(all).await.map(drop).unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    let refused = again.session(&node1).standing().await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    let ended = loop {
        match entries.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a removed node has read the log to its end"),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::PermissionDenied, "{ended:?}");
    group.still_works().await;
}

/// Three voters, and a learner that would stand for election long before them, if it did at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a10_a_learner_does_not_campaign() {
    let mut group = Group::of(3, &election_timeouts(2500, 3000)).await;
    let (relay, request) = newcomer(&mut group, 4, 1, &election_timeouts(300, 600)).await;
    let leads = leader(&group.cluster).await;
    let mut admin = group.admin(leads).await;
    let adding = tokio::spawn(async move { admin.add_node(request).await });
    // The leader waits for it to copy the log, and dies.
    for id in (1..=3).filter(|id| *id != leads) {
        let addr = group.client_addr(id);
        eventually("the other voters know the learner", || async {
            let view = view(&addr).await?;
            let is_known = view.nodes.iter().any(|node| node.id == 4 && !node.voter);
            (is_known && view.applied_index == view.last_log_index).then_some(())
        })
        .await;
    }
    group.cluster.node(leads).unwrap().kill().unwrap();
    adding.await.unwrap().unwrap_err();
    relay.open();
    group.cluster.node(leads).unwrap().start().unwrap();
    let next = leader(&group.cluster).await;
    group.still_works().await;
    let known = follows(&group, 4, next).await;
    assert!(known.nodes.iter().any(|node| node.id == 4 && !node.voter), "{known:?}");
    for voter in (1..=3).filter(|id| *id != next) {
        follows(&group, voter, next).await;
    }

    // Nobody leads until one of the other two voters does, with the vote of the third.
    group.cluster.node(next).unwrap().kill().unwrap();
    let others: Vec<_> = (1..=4).filter(|id| *id != next).collect();
    let voter_leads = || async {
        let mut leads = None;
        for id in &others {
            let view = view(&group.client_addr(*id)).await?;
            assert_ne!(view.leader_id, 4, "{view:?}");
            assert_eq!(view.role() == v1::Role::Learner, *id == 4, "{view:?}");
            leads = leads.or((view.role() == v1::Role::Leader).then_some(()));
        }
        leads
    };
    eventually("one of the voters leads", voter_leads).await;
    group.cluster.node(next).unwrap().start().unwrap();
    group.still_works().await;
}

/// A node that has a part of the log would hold up everybody who needs its acknowledgement.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_a_part_of_the_log_is_no_voter() {
    let mut group = Group::start_calm().await;
    group.lead(1).await;
    let producer = group.sdk.producer(ProducerId(rand::random()), "bulky").open().await.unwrap();
    for number in 0..400 {
        producer.append(event_of_size(number, 16 * 1024)).await.unwrap();
    }
    let target = configure(&mut group.cluster, 4).raft_addr.clone();
    // One message of entries gets through, perhaps two, and much less than all of the log.
    let relay = Relay::narrow(target, 5 * REPLICATION_BYTES_MAX / 2).await;
    let request = start_behind(&mut group, 4, &relay, CALM).await;
    let mut admin = group.admin(1).await;
    let adding = tokio::spawn(async move { admin.add_node(request).await });
    let leads = group.client_addr(1);
    let added = || async { view(&leads).await?.nodes.into_iter().find(|node| node.id == 4) };
    eventually("the leader knows that it has some entries", || async {
        added().await.filter(|node| node.matched_index.is_some_and(|index| index > 0))
    })
    .await;
    // The leader looks twice a second.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        group.append().await;
        let node = eventually("a view", added).await;
        assert!(!node.voter, "with entries up to {:?}", node.matched_index);
    }
    relay.open();
    let added = within(PATIENCE, "it has the log", adding).await.unwrap().unwrap();
    assert!(added.into_inner().voters.contains(&4));
    follows(&group, 4, 1).await;
    group.still_works().await;
}

/// Adds a node that other nodes reach through a relay. Returns the relay, open.
async fn add(group: &mut Group, leads: u64, id: u64) -> Relay {
    let (relay, request) = newcomer(group, id, 0, CALM).await;
    relay.open();
    let mut admin = group.admin(leads).await;
    let adding = async {
        loop {
            match admin.add_node(request.clone()).await {
                Ok(added) => return added.into_inner(),
                // A disk may take longer than a leader waits; the next call continues.
                Err(error) => assert_eq!(reason(&error), Some(Reason::CommitUnknown), "{error:?}"),
            }
        }
    };
    let added = within(PATIENCE, "a node is added", adding).await;
    assert!(added.voters.contains(&id));
    relay
}

/// A node that lags does not know the node that only it can elect: node 1 is replaced by 5 while 4
/// lags, and then 3 dies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a10_votes_count_where_a_membership_lags() {
    let mut group = Group::start_calm().await;
    group.lead(3).await;
    let to_4 = add(&mut group, 3, 4).await;
    // Whoever reads follows the keys step by step.
    group.append().await;
    group.believes(&[1, 2, 3, 4]).await;
    remove(&group, 3, 2).await;
    group.append().await;
    group.believes(&[1, 3, 4]).await;
    let lags = follows(&group, 4, 3).await;
    let voters = |view: &v1::ClusterView| {
        let voters = view.nodes.iter().filter(|node| node.voter);
        voters.map(|node| node.id).collect::<Vec<_>>()
    };
    assert_eq!(voters(&lags), [1, 3, 4]);

    // Node 4 sees nothing of what follows.
    to_4.close();
    let to_5 = add(&mut group, 3, 5).await;
    group.append().await;
    group.believes(&[1, 3, 4, 5]).await;
    remove(&group, 3, 1).await;
    group.append().await;
    for gone in [1, 2, 3] {
        group.cluster.node(gone).unwrap().kill().unwrap();
    }
    let addr = group.client_addr(4);
    let lags = eventually("a view", || view(&addr)).await;
    assert_eq!(voters(&lags), [1, 3, 4]);
    to_4.open();
    let addr = group.client_addr(5);
    eventually("nodes 4 and 5 elect node 5", || async {
        view(&addr).await.filter(|view| view.role() == v1::Role::Leader)
    })
    .await;
    group.append().await;
    assert_eq!(voters(&follows(&group, 4, 5).await), [3, 4, 5]);
    // A reader that has seen the keys of 1, 3, 4 and 5 wants three of them.
    group.cluster.node(3).unwrap().start().unwrap();
    group.still_works().await;
    drop((to_4, to_5));
}

/// What the group has not seen with its own eyes is not in the trail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s9_add_node_dials_before_it_records() {
    let mut group = Group::start_calm().await;
    group.lead(1).await;
    let before = group.recorded::<v1::Operation>(Kind::Operation).await.len();
    let added = |raft_addr: String| v1::AddNodeRequest {
        id: 4,
        client_addr: "127.0.0.1:1".into(),
        raft_addr,
        http_addr: "127.0.0.1:2".into(),
        public_key: group.invented(4).public_key.to_vec().into(),
        reason: "a test".into(),
    };
    let certificates = &group.certificates;
    let another = Certificates::of_another(certificates.trail);
    let mut others_key = group.identity(3);
    others_key.node_id = 4;
    let mut impostors = Vec::new();
    let vote = pb::Vote::default();
    for (certificate, identity) in [
        (another.node(4), group.invented(4)),
        (certificates.client("billing"), group.invented(4)),
        (certificates.node(5), group.invented(4)),
        (certificates.node(4), others_key),
    ] {
        let boots = first_boot(&identity);
        impostors.push(Impostor::start("127.0.0.1:0", &certificate, identity, boots, vote).await);
    }
    let nobody = format!("127.0.0.1:{}", free_ports(1).unwrap()[0]);
    for addr in impostors.iter().map(|impostor| impostor.addr.clone()).chain([nobody]) {
        let refused = group.admin(1).await.add_node(added(addr)).await.unwrap_err();
        assert_eq!(reason(&refused), Some(Reason::Membership), "{refused:?}");
        assert!(refused.message().contains("hint: start node 4 first"), "{refused:?}");
    }

    // Whoever says nothing keeps nobody else waiting.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (mut admin, request) =
        (group.admin(1).await, added(silent.local_addr().unwrap().to_string()));
    let adding = tokio::spawn(async move { admin.add_node(request).await });
    let dialed = within(PATIENCE, "the leader dials", silent.accept()).await.unwrap();
    remove(&group, 1, 3).await;
    let refused = adding.await.unwrap().unwrap_err();
    assert_eq!(reason(&refused), Some(Reason::Membership), "{refused:?}");
    drop(dialed);
    let view = eventually("a view", || view(&group.cluster.nodes[0].client_addr)).await;
    assert_eq!(view.next_node_id, 4, "{view:?}");
    assert!(view.nodes.iter().all(|node| node.id != 4), "{view:?}");
    let operations = group.recorded::<v1::Operation>(Kind::Operation).await;
    let actions = |operations: &[v1::Operation]| {
        operations.iter().map(|one| one.action.clone()).collect::<Vec<_>>()
    };
    assert_eq!(actions(&operations[before..]), ["remove-node"]);

    // The id is as good as before; and who copies the log keeps nobody waiting either.
    let (relay, request) = newcomer(&mut group, 4, 1, CALM).await;
    let mut admin = group.admin(1).await;
    let adding = tokio::spawn(async move { admin.add_node(request).await });
    let addr = group.client_addr(1);
    eventually("node 4 is a learner", || async {
        let view = crate::harness::view(&addr).await?;
        view.nodes.iter().any(|node| node.id == 4 && !node.voter).then_some(())
    })
    .await;
    // The record of its addition may not be done with yet.
    let request = v1::RemoveNodeRequest { id: 4, reason: "a test".into() };
    while let Err(refused) = group.admin(1).await.remove_node(request.clone()).await {
        assert_eq!(reason(&refused), Some(Reason::Busy), "{refused:?}");
        assert!(!adding.is_finished(), "no change was possible until it had copied the log");
    }
    relay.open();
    let refused = within(PATIENCE, "the end of the addition", adding).await.unwrap().unwrap_err();
    assert!(refused.message().contains("was removed while it copied"), "{refused:?}");
    let operations = group.recorded::<v1::Operation>(Kind::Operation).await;
    let later = &operations[before + 1..];
    assert_eq!(actions(later), ["add-node", "remove-node"]);
    assert_eq!((&*later[0].principal, &*later[0].reason), ("admin/admin", "a test"));
    group.still_works().await;
}

/// An address that clients and auditors would be sent to in vain is not taken either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn add_node_tries_all_three_addresses() {
    let mut group = Group::start_calm().await;
    group.lead(1).await;
    let before = group.recorded::<v1::Operation>(Kind::Operation).await.len();
    let (_relay, right) = newcomer(&mut group, 4, usize::MAX, CALM).await;
    let nobody = format!("127.0.0.1:{}", free_ports(1).unwrap()[0]);
    let node_2 = group.client_addr(2);
    let (to_node_2, to_http) = (
        Relay::start(node_2.clone(), usize::MAX).await,
        Relay::start(right.http_addr.clone(), usize::MAX).await,
    );
    let taken = Reason::Invalid;
    for (client_addr, http_addr, kind, why) in [
        (
            &to_node_2.addr,
            &right.http_addr,
            Reason::Membership,
            "client_addr: the certificate there is of node/2",
        ),
        (&nobody, &right.http_addr, Reason::Membership, "client_addr: Connection refused"),
        (&to_http.addr, &right.http_addr, Reason::Membership, "client_addr: TLS"),
        (&right.client_addr, &nobody, Reason::Membership, "http_addr: Connection refused"),
        (&node_2, &right.http_addr, taken, "node 2 has it"),
        (&right.client_addr, &node_2, taken, "node 2 has it"),
        (&right.client_addr, &right.client_addr, taken, "that is its client_addr too"),
        (&right.raft_addr, &right.http_addr, taken, "that is its client_addr too"),
    ] {
        let (client_addr, http_addr) = (client_addr.clone(), http_addr.clone());
        let wrong = v1::AddNodeRequest { client_addr, http_addr, ..right.clone() };
        let refused = group.admin(1).await.add_node(wrong).await.unwrap_err();
        assert_eq!(reason(&refused), Some(kind), "{refused:?}");
        assert!(refused.message().contains(why), "{why}: {refused:?}");
    }
    assert_eq!(group.recorded::<v1::Operation>(Kind::Operation).await.len(), before);
    let added = within(PATIENCE, "node 4 is added", group.admin(1).await.add_node(right)).await;
    assert_eq!(added.unwrap().into_inner().voters, [1, 2, 3, 4]);
    group.still_works().await;
}
