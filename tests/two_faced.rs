//! A leader with two histories: somebody with the disk of node 1 has the other two elect it, and
//! gives each of them another last record. Both sign what they hold, so both histories have a
//! majority of three: the plain policy cannot tell them apart. The notes meeting can.

use std::cell::RefCell;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use indelible::cli::generate::event;
use indelible_client::ProducerId;
use indelible_core::{Checkpoint, EntryKind, Hash, Leaf, Note, NoteSignature, Salt};
use indelible_local::{LocalCluster, LocalNode};
use indelible_proto::raft as pb;
use indelible_proto::raft::append_response::Result as Answer;
use indelible_testkit::TestRecord;
use indelible_testkit::trail::batch;
use prost::Message;
use tokio::task::JoinSet;
use tonic::Code;

use crate::harness::{
    client, ended, eventually, indelible_at, policy, policy_file, three_nodes, view,
};
use crate::thief::{Session, Thief};
use crate::witness::{Witness, unix_s, with_witnesses};

/// Between two heartbeats: often enough that nobody looks for another leader.
const HEARTBEAT: Duration = Duration::from_millis(50);
/// An honest leader publishes at least this often (`REFRESH` in src/node/publish/publisher.rs).
const ROUND: Duration = Duration::from_secs(10);

/// What the leader shows to one of the other two.
struct Face {
    node: u64,
    addr: String,
    session: Session,
    /// The entry that the other one does not get.
    lie: pb::AppendRequest,
    /// Signed by that node, by the leader and by the log.
    note: Note,
}

/// The two faces; the leader leads as long as this lives.
struct TwoFaced {
    cluster: LocalCluster,
    faces: [Face; 2],
    heartbeats: JoinSet<()>,
}

/// Where the two histories part: what the leader says before it lies.
struct Parting {
    vote: pb::Vote,
    last: pb::LogId,
    chain: Bytes,
}

impl Parting {
    /// A message of the leader; without an entry it is a heartbeat.
    fn append(&self, entry: Option<pb::Entry>) -> pb::AppendRequest {
        let next = pb::LogId { index: self.last.index + 1, leader: 1, term: self.vote.term };
        pb::AppendRequest {
            vote: Some(self.vote),
            prev: Some(self.last),
            prev_chain: self.chain.clone(),
            committed: entry.is_some().then_some(next),
            entries: entry.into_iter().collect(),
        }
    }

    /// The entry that comes next, with one record of the producer whose newest leaf this is.
    fn entry(&self, newest: &Leaf, event: &[u8]) -> pb::Entry {
        let salt = Salt(rand::random());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let received = u64::try_from(now.as_nanos()).unwrap();
        let event = Bytes::copy_from_slice(event);
        let record = TestRecord::event(newest.opened, newest.seq + 1, received, event);
        let (head, body) = batch([(record, salt)]);
        let (term, index) = (self.vote.term, self.last.index + 1);
        let kind = EntryKind::Batch.as_u8().into();
        pb::Entry { term, leader: 1, index, kind, head, body }
    }
}

/// Has both vote for the stolen node and follow it, at a time when their logs are the same.
async fn elect(sessions: &[Session; 2]) -> Parting {
    let same_end = || async {
        let [mut second, mut third] = sessions.clone();
        let standings = (second.standing().await.ok()?, third.standing().await.ok()?);
        let last = standings.0.last.filter(|last| Some(*last) == standings.1.last)?;
        Some((last, standings.0.term.max(standings.1.term)))
    };
    eventually("both follow it", || async {
        let (last, term) = same_end().await?;
        let term = term + 1;
        // A log that is longer than any, and a handing over: there may be a leader.
        let vote = pb::VoteRequest {
            vote: Some(pb::Vote { term, node_id: 1, committed: false }),
            last_log_id: Some(pb::LogId { term, leader: 1, index: u64::MAX / 2 }),
            leadership_transfer: true,
        };
        for mut session in sessions.clone() {
            session.vote(vote).await.ok().filter(|answer| answer.granted)?;
        }
        let vote = pb::Vote { term, node_id: 1, committed: true };
        let chain = sessions[0].clone().chain_at(last.index).await.ok()?;
        let parting = Parting { vote, last, chain };
        for mut session in sessions.clone() {
            let answer = session.append(parting.append(None)).await.ok()?.result;
            answer.filter(|answer| matches!(answer, Answer::Matched(_)))?;
        }
        // Nothing was added before they followed, and nobody else can add anything now.
        (same_end().await?.0 == last).then_some(parting)
    })
    .await
}

async fn lead(mut session: Session, heartbeat: pb::AppendRequest) {
    let mut every = tokio::time::interval(HEARTBEAT);
    loop {
        every.tick().await;
        // It may be stopping.
        let _ = session.append(heartbeat.clone()).await;
    }
}

impl TwoFaced {
    /// Up to the moment when both notes are signed, and nobody has seen either.
    async fn start() -> TwoFaced {
        let mut cluster = three_nodes();
        let sdk = client(&cluster).await;
        let producer = sdk.producer(ProducerId(*b"before the fork."), "p").open().await.unwrap();
        producer.append(event(1)).await.unwrap();
        let newest = producer.append(event(2)).await.unwrap();
        eventually("an honest checkpoint on every node", || async {
            for node in &cluster.nodes {
                let view = view(&node.client_addr).await?;
                (view.checkpoint_size > newest.index).then_some(())?;
            }
            Some(())
        })
        .await;
        let stolen = cluster.node(1).unwrap();
        stolen.kill().unwrap();
        let thief = Thief::new(&stolen.data_dir);
        let [_, second, third] = &cluster.nodes[..] else { panic!("three nodes") };
        let sessions =
            [thief.call(2, &second.raft_addr).await, thief.call(3, &third.raft_addr).await];
        let parting = elect(&sessions).await;
        let mut heartbeats = JoinSet::new();
        for session in &sessions {
            heartbeats.spawn(lead(session.clone(), parting.append(None)));
        }
        let mut faces = Vec::new();
        for (node, session) in [second, third].into_iter().zip(sessions) {
            let lie = parting.entry(&newest.leaf, &event(100 + node.id).encode_to_vec());
            faces.push(Face::show(&thief, node, session, parting.append(Some(lie))).await);
        }
        let Ok(faces) = faces.try_into() else { panic!("two faces") };
        TwoFaced { cluster, faces, heartbeats }
    }

    /// Each note to the node that signed it, and to nobody else.
    async fn publish(&mut self) {
        let [second, third] = &mut self.faces;
        let both =
            tokio::join!(second.session.publish(&second.note), third.session.publish(&third.note));
        // Whoever is first may have told the other one already.
        assert!(both.0.is_ok() || both.1.is_ok(), "{both:?}");
    }

    /// Waits until one of the two stops because of the other's note, which it keeps: that note and
    /// its own convict the leader. Returns who it was.
    async fn found_out(&mut self) -> u64 {
        let nodes = RefCell::new(&mut self.cluster.nodes);
        let first = eventually("one of the two stops", || async {
            let mut nodes = nodes.borrow_mut();
            let mut victims = nodes.iter_mut().filter(|node| node.id != 1);
            victims.find_map(|node| (!node.is_running()).then_some(node.id))
        })
        .await;
        let node = self.cluster.node(first).unwrap();
        assert_eq!(ended(node).await.code(), Some(7), "{}", node.log_tail());
        let [own, other] = &self.faces;
        let (own, other) = if own.node == first { (own, other) } else { (other, own) };
        let name = format!("note-{}.txt", own.checkpoint().size);
        let kept = std::fs::read_to_string(node.data_dir.join("evidence").join(name)).unwrap();
        let kept = Note::parse(&kept).unwrap();
        let policy = policy(&self.cluster);
        let (kept, own) = (policy.check(&kept).unwrap(), policy.check(&own.note).unwrap());
        assert_eq!(kept.checkpoint, other.checkpoint());
        let leader = &policy.node_key(1).unwrap().name;
        assert!(kept.signers.contains(leader) && own.signers.contains(leader));
        first
    }
}

impl Face {
    /// Has a node apply an entry that the other one does not get, and sign for it.
    async fn show(
        thief: &Thief,
        node: &LocalNode,
        mut session: Session,
        lie: pb::AppendRequest,
    ) -> Face {
        let next = lie.committed.unwrap();
        let answer = session.append(lie.clone()).await.unwrap().result;
        assert_eq!(answer, Some(Answer::Matched(pb::Matched { log_id: Some(next) })));
        let view = eventually("it is applied", || async {
            view(&node.client_addr).await.filter(|view| view.applied_index == next.index)
        })
        .await;
        let root = Hash::from_slice(&view.root).unwrap();
        let checkpoint = Checkpoint::new(view.origin, view.tree_size, root);
        let line = session.cosign(&checkpoint).await.unwrap().signature;
        let mut note = thief.sign(&checkpoint, unix_s());
        note.signatures.push(NoteSignature::parse_line(&line).unwrap());
        Face { node: node.id, addr: node.client_addr.clone(), session, lie, note }
    }

    fn checkpoint(&self) -> Checkpoint {
        Checkpoint::parse(&self.note.text).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_with_two_histories_is_found_out_within_a_round_and_passes_no_witness() {
    let mut fork = TwoFaced::start().await;
    let [second, third] = &fork.faces;
    let (one, other) = (second.checkpoint(), third.checkpoint());
    assert_eq!(one.size, other.size);
    assert_ne!(one.root, other.root);
    // Two of three and the log have signed each: a majority alone does not keep a leader honest.
    let plain = policy(&fork.cluster);
    for face in &fork.faces {
        assert_eq!(plain.check(&face.note).unwrap().signers.len(), 3);
    }

    // A witness signs one of them, and then no other of that size, whatever it is told.
    let witness = Witness::start("witness.example/fork", 4).await;
    witness.log.set(plain.logs()[0].key.clone()).unwrap();
    let watched = with_witnesses(plain, &[&witness], 1);
    let add = |old: u64, note: &Note| witness.answer(&format!("old {old}\n\n{note}"));
    assert!(watched.check(&second.note).is_err(), "not yet");
    let (status, _, line) = add(0, &second.note);
    assert_eq!(status, 200, "{line}");
    let line = NoteSignature::parse_line(&line).unwrap();
    let with_line = |note: &Note| {
        let mut note = note.clone();
        note.signatures.push(line.clone());
        note
    };
    watched.check(&with_line(&second.note)).unwrap();
    // Of the size that it has, and of another root: a conflict, whatever it is asked to grow from.
    assert_eq!([0, one.size].map(|old| add(old, &third.note).0), [409, 409]);
    for note in [third.note.clone(), with_line(&third.note)] {
        assert!(watched.check(&note).is_err(), "{note}");
    }

    // One round, and nothing after it but heartbeats.
    fork.publish().await;
    let published = Instant::now();
    let first = fork.found_out().await;
    let took = published.elapsed();
    eprintln!("node {first} has found it out after {took:?}");
    assert!(took < ROUND, "{took:?}");
}

/// What an operator accepts makes notes void: a leader that says so on its own is not believed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_with_two_histories_cannot_have_them_declared_void() {
    let mut fork = TwoFaced::start().await;
    for face in &mut fork.faces {
        let accepted_leaf = face.checkpoint().size - 1;
        let times = [unix_s(), unix_s() + 10 * 365 * 86_400, i64::MAX as u64, u64::MAX];
        for accepted_unix_s in times {
            let tell = pb::PublishRequest { accepted_unix_s, accepted_leaf, ..Default::default() };
            face.session.tell(tell).await.unwrap();
        }
        // It still signs.
        face.session.cosign(&face.checkpoint()).await.unwrap();
    }
    fork.publish().await;
    fork.found_out().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_with_two_histories_is_found_out_when_it_has_gone() {
    let mut fork = TwoFaced::start().await;
    // Both entries have the same index, term and leader, which is all that Raft looks at.
    let [second, third] = &mut fork.faces;
    let refused = second.session.append(third.lie.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::DataLoss, "{refused}");
    // One of them leads then, in vain: the other acknowledges nothing on top of what it does not
    // have.
    fork.heartbeats.shutdown().await;
    eventually("nobody follows it", || async {
        for face in &fork.faces {
            view(&face.addr).await.filter(|view| view.leader_id != 1)?;
        }
        Some(())
    })
    .await;
    fork.publish().await;
    fork.found_out().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_has_seen_one_history_raises_the_alarm_at_the_other() {
    let mut fork = TwoFaced::start().await;
    let policy = policy_file(&fork.cluster);
    let seen = fork.cluster.dir().join("seen");
    let [second, third] = &mut fork.faces;
    // The reader was shown node 2's by the leader.
    std::fs::write(&seen, second.note.to_string()).unwrap();
    third.session.publish(&third.note).await.unwrap();
    let args = ["--policy", policy.to_str().unwrap()];
    let args = [&args[..], &["--checkpoint-file", seen.to_str().unwrap(), "checkpoint"]].concat();
    let endpoints = [third.addr.clone()];
    // Node 2, of which it learns, still shows an honest note, until node 3 tells it of this one.
    let alarm = eventually("the alarm", || async {
        let output = indelible_at(&endpoints, &args).await;
        (output.status.code() == Some(3)).then_some(output)
    })
    .await;
    let text = String::from_utf8_lossy(&alarm.stderr).into_owned();
    assert!(text.contains("two histories"), "{text}");
    for face in &fork.faces {
        assert!(text.contains(&face.note.to_string()), "the evidence has both notes: {text}");
    }
    assert_eq!(fork.found_out().await, 2);
}
