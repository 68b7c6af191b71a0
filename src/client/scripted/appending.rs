//! What a producer does when the cluster does not simply say yes.

use std::time::Duration;

use bytes::Bytes;
use indelible_proto::reason::key;
use indelible_testkit::TestKeys;
use prost::Message;
use tokio::time::Instant;

use super::fake::{Act, Fake};
use super::trail::{now_s, policy, sign};
use crate::{
    AckLevel, Alarm, AppendError, CallError, Client, Event, Level, Options, Producer, ProducerId,
    Reason, Rejected, RolledBack, Verification,
};

const ID: ProducerId = ProducerId([5; 16]);

async fn open(client: &Client) -> Producer {
    client.producer(ID, "test").open().await.expect("opens")
}

fn encoded(count: u64, size: usize) -> Vec<Bytes> {
    let padding = "x".repeat(size);
    let event = |number: u64| Event::new(number.to_string(), "do", &padding).encode_to_vec();
    (0..count).map(|number| event(number).into()).collect()
}

/// Every seq from 1 once, in order.
fn assert_recorded_once(fake: &Fake, count: u64) {
    let seqs: Vec<u64> = fake.recorded().into_iter().map(|(seq, _)| seq).collect();
    assert_eq!(seqs, (1..=count).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_event_gets_a_verified_receipt() {
    let fake = Fake::start(1).await;
    let client = fake.client().await;
    let producer = open(&client).await;
    let receipt = producer.append(Event::new("alice", "read", "file")).await.expect("recorded");
    assert_eq!((receipt.seq, receipt.index, receipt.duplicate), (1, 2, false));
    assert_eq!(client.session(), 3);
    let again = open(&client).await;
    assert_eq!((again.last_seq(), again.epoch(), again.known()), (1, 2, true));
    let error = producer.append(Event::new("alice", "read", "file")).await.expect_err("fenced");
    assert!(matches!(error, AppendError::Fenced(_)), "{error}");
    let error = producer.append(Event::new("alice", "read", "file")).await.expect_err("stopped");
    assert!(matches!(error, AppendError::Stopped(_)), "{error}");
}

#[tokio::test]
async fn many_callers_share_a_producer_and_few_requests() {
    let fake = Fake::start(1).await;
    let client = fake.client().await;
    let producer = open(&client).await;
    let appends = (0..200).map(|number| producer.append(Event::new("a", "b", number.to_string())));
    let receipts = futures_util::future::join_all(appends).await;
    let mut seqs: Vec<u64> = receipts.into_iter().map(|r| r.expect("recorded").seq).collect();
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=200).collect::<Vec<_>>());
    assert_recorded_once(&fake, 200);
    let requests = fake.node(1).calls().len();
    assert!(requests < 100, "{requests} requests for 200 events");
}

#[tokio::test]
async fn a_leader_hint_is_followed_once() {
    let fake = Fake::start(2).await;
    let client = fake.client().await;
    let producer = open(&client).await;
    let (one, two) = (fake.node(1), fake.node(2));
    one.script([Act::Refuse(one.not_leader(two, 2))]);
    producer.append(Event::new("a", "b", "c")).await.expect("recorded");
    assert_eq!((one.calls().len(), two.calls().len()), (1, 1));
}

#[tokio::test]
async fn what_a_dead_leader_left_open_is_sent_again_under_the_same_seq() {
    for act in [Act::Lose, Act::Hang] {
        let fake = Fake::start(2).await;
        let client = fake.client().await;
        let producer = open(&client).await;
        // From here on node 1 answers nothing any more.
        fake.node(1).script(std::iter::once(act).chain((0..100).map(|_| Act::Hang)));
        let append = tokio::spawn({
            let producer = producer.clone();
            async move { producer.append(Event::new("a", "b", "c")).await }
        });
        fake.node(1).called(1).await;
        let lost = fake.recorded().len() == 1;
        // Node 2 alone tells of the new term: the old request is not waited for (rule R1).
        fake.tell(fake.node(2), 2, 2);
        let receipt = append.await.expect("joins").expect("recorded");
        assert_eq!((receipt.seq, receipt.duplicate), (1, lost));
        assert_eq!(fake.node(2).calls(), [(1, 1)]);
        assert_recorded_once(&fake, 1);
    }
}

#[tokio::test]
async fn without_a_leader_nothing_is_sent_and_nothing_fails() {
    let fake = Fake::start(2).await;
    let client = fake.client().await;
    let producer = open(&client).await;
    let no_leader = Rejected::new(Reason::NoLeader, "an election is under way");
    fake.node(1).script([Act::Refuse(no_leader)]);
    let append = tokio::spawn(async move { producer.append(Event::new("a", "b", "c")).await });
    fake.elect(0, 2);
    fake.elect(2, 3);
    append.await.expect("joins").expect("recorded");
    assert_recorded_once(&fake, 1);
}

#[tokio::test]
async fn a_gap_waits_for_what_is_before_it() {
    let fake = Fake::start(1).await;
    let client = fake.client().await;
    let producer = open(&client).await;
    // The first request never arrives, so those behind it leave a gap. No two fit one request.
    fake.node(1).script([Act::Hang]);
    let mut tickets = Vec::new();
    for _ in 0..4 {
        tickets.push(producer.submit(None, encoded(100, 3000)).await.expect("space"));
    }
    fake.node(1).called(4).await;
    for _ in 0..50 {
        client.tree_head(Level::Any).await.expect("answers");
    }
    assert_eq!(fake.node(1).calls().len(), 4, "the node was asked again and again");
    // The next term rewinds: all four are sent again, in order.
    fake.elect(1, 2);
    for ticket in tickets {
        let receipts = ticket.await_receipts().await.expect("recorded");
        assert_eq!((receipts.count(), receipts.duplicates()), (100, 0));
    }
    assert_recorded_once(&fake, 400);
}

#[tokio::test]
async fn a_gap_that_cannot_be_stops_the_producer_in_the_end() {
    let fake = Fake::start(1).await;
    let client = fake.client().await;
    let producer = open(&client).await;
    let gap = || Rejected::new(Reason::SeqGap, "expected seq 1").with(key::EXPECTED, 1);
    producer.append(Event::new("a", "b", "c")).await.expect("recorded");
    // For a while it may be a leader that still catches up.
    fake.node(1).script((0..5).map(|_| Act::Refuse(gap())));
    producer.append(Event::new("a", "b", "c")).await.expect("recorded");
    fake.node(1).script((0..100).map(|_| Act::Refuse(gap())));
    let error = producer.append(Event::new("a", "b", "c")).await.expect_err("lost events");
    let AppendError::RolledBack(lost) = error else { panic!("{error}") };
    assert_eq!(*lost, RolledBack::Producer { producer: ID, known: 2, last_seq: 0 });
    assert_eq!(client.alarms().try_next(), Some(Alarm::RolledBack(*lost)));
}

#[tokio::test]
async fn busy_is_waited_out() {
    let fake = Fake::start(1).await;
    let client = fake.client().await;
    let producer = open(&client).await;
    let delay = Duration::from_millis(30);
    let busy = || Act::Refuse(Rejected::new(Reason::Busy, "queue full").retry_after(delay));
    fake.node(1).script([busy(), busy()]);
    let started = Instant::now();
    producer.append(Event::new("a", "b", "c")).await.expect("recorded");
    assert!(started.elapsed() >= delay * 2);
    assert_eq!(fake.node(1).calls().len(), 3);
}

#[tokio::test]
async fn a_deadline_with_the_outcome_open_is_not_a_failure() {
    let fake = Fake::start(1).await;
    let client = fake.client().await;
    let producer = open(&client).await;
    fake.node(1).script([Act::Hang]);
    let deadline = Instant::now() + Duration::from_secs(1);
    let (first, second) =
        tokio::join!(producer.append_with_deadline(Event::new("a", "b", "c"), deadline), async {
            // Behind the first in line, and never sent.
            fake.node(1).called(1).await;
            producer.append_with_deadline(Event::new("a", "b", "d"), deadline).await
        });
    assert!(matches!(first, Err(AppendError::Unknown { seq: 1, .. })), "{first:?}");
    assert!(matches!(second, Err(AppendError::NotSent { .. })), "{second:?}");
    assert!(fake.recorded().is_empty());
    // The producer did not give it up: a new term brings it into the trail, once.
    fake.elect(1, 2);
    let receipt = producer.append(Event::new("a", "b", "e")).await.expect("recorded");
    assert_eq!(receipt.seq, 2);
    assert_recorded_once(&fake, 2);
}

#[tokio::test]
async fn a_receipt_for_other_content_is_no_receipt() {
    let lies: [fn(&mut indelible_proto::v1::AppendResponse); 3] = [
        |response| response.salts = Bytes::from_static(&[3; 16]),
        |response| response.runs[0].first_seq += 1,
        |response| response.leaves = response.leaves.slice(1..),
    ];
    for lie in lies {
        let fake = Fake::start(1).await;
        let client = fake.client().await;
        let producer = open(&client).await;
        fake.node(1).script([Act::Lie(lie)]);
        let error = producer.append(Event::new("a", "b", "c")).await.expect_err("a lie");
        let AppendError::ReceiptBroken { node_id: 1, seq: 1, .. } = error else {
            panic!("{error}");
        };
    }
}

#[tokio::test]
async fn own_numbers_continue_where_they_were_and_conflicts_are_told() {
    let fake = Fake::start(1).await;
    let client = fake.client().await;
    let events = encoded(10, 50);
    let producer = open(&client).await;
    producer.append_at(1, events[..6].to_vec()).await.expect("recorded");
    let producer = open(&client).await;
    let receipts = producer.append_at(1, events.clone()).await.expect("recorded");
    assert_eq!((receipts.count(), receipts.duplicates()), (10, 6));
    assert_recorded_once(&fake, 10);
    let error = producer.append_at(13, encoded(1, 1)).await.expect_err("a gap");
    assert!(matches!(error, AppendError::Invalid(_)), "{error}");
    let error = producer.append_at(4, encoded(1, 50)).await.expect_err("a conflict");
    assert!(matches!(error, AppendError::Conflict(_)), "{error}");
}

#[tokio::test]
async fn a_refusal_stops_only_what_cannot_go_on() {
    let fake = Fake::start(1).await;
    let client = fake.client().await;
    let producer = open(&client).await;
    let too_large = Rejected::new(Reason::TooLarge, "too large").with(key::LIMIT, 7);
    fake.node(1).script([Act::Refuse(too_large)]);
    let error = producer.append(Event::new("a", "b", "c")).await.expect_err("refused");
    let AppendError::Rejected(rejected) = error else { panic!("{error}") };
    assert_eq!(rejected.metadata.get(key::LIMIT), Some(&7));
    let error = producer.append(Event::new("a", "b", "c")).await.expect_err("stopped");
    assert!(matches!(error, AppendError::Stopped(_)), "{error}");
}

/// The AckLevel and Verification of one append by a client with the policy.
async fn proven(fake: &Fake, ack: AckLevel) -> (Client, Producer) {
    let client = fake.verifier().await;
    let producer = client.producer(ID, "test").ack(ack).open().await.expect("opens");
    (client, producer)
}

#[tokio::test]
async fn a_proven_append_brings_a_file_that_stands_alone() {
    let fake = Fake::start(3).await;
    for ack in [AckLevel::Proven, AckLevel::Witnessed] {
        let (_client, producer) = proven(&fake, ack).await;
        let event = Event::new("alice", "delete", "invoice/7");
        let receipt = producer.append(event.clone()).await.expect("recorded");
        assert_eq!(receipt.ack, ack);
        assert_eq!(receipt.verification.checkpoint_size(), Some(receipt.index + 1));
        let file = receipt.proof_file(&event).expect("a proof").expect("fits");
        let parsed = crate::ProofFile::parse(&file.to_string()).expect("parses");
        let record = parsed.verify(&policy()).expect("verifies");
        assert_eq!((record.index, record.leaf), (receipt.index, receipt.leaf));
        let other = receipt.proof_file(&Event::new("bob", "did", "it")).expect("a proof");
        other.expect("is made").verify(&policy()).expect_err("another event");
    }
}

#[tokio::test]
async fn many_proven_receipts_share_proofs() {
    let fake = Fake::start(3).await;
    let (_client, producer) = proven(&fake, AckLevel::Proven).await;
    let events = encoded(300, 4000);
    let receipts = producer.append_encoded(events.clone()).await.expect("recorded");
    assert_eq!((receipts.count(), receipts.ack()), (300, AckLevel::Proven));
    assert!(receipts.verification().is_verified());
    for position in [0, 1, 140, 299] {
        let receipt = receipts.get(position).expect("there");
        let file = receipt.proof_file_of(&events[position]).expect("a proof").expect("fits");
        file.verify(&policy()).expect("verifies");
    }
    // Recorded before, and proven all the same.
    let again = producer.append_at(1, events[..3].to_vec()).await.expect("recorded");
    assert_eq!((again.duplicates(), again.ack()), (3, AckLevel::Proven));
    let file = again.get(2).expect("there").proof_file_of(&events[2]).expect("a proof");
    file.expect("fits").verify(&policy()).expect("verifies");
}

#[tokio::test]
async fn without_a_checkpoint_in_time_the_proof_is_pending_and_nothing_has_failed() {
    let fake = Fake::start(3).await;
    fake.trail().signs = false;
    let (client, producer) = proven(&fake, AckLevel::Proven).await;
    let event = Event::new("a", "b", "c");
    let receipt = producer.append(event.clone()).await.expect("recorded");
    assert_eq!((receipt.ack, receipt.verification), (AckLevel::Durable, Verification::Pending));
    assert!(receipt.proof().is_none() && receipt.proof_file(&event).is_none());
    assert_eq!(client.unsettled(), 1, "it is settled later");
    fake.trail().publish();
    assert!(client.settled(Duration::from_secs(10)).await);
}

#[tokio::test]
async fn without_a_policy_a_proof_is_kept_but_not_believed() {
    let fake = Fake::start(1).await;
    let client = fake.client().await;
    let producer = client.producer(ID, "test").ack(AckLevel::Proven).open().await.expect("opens");
    let event = Event::new("a", "b", "c");
    let receipt = producer.append(event.clone()).await.expect("recorded");
    assert_eq!((receipt.ack, receipt.verification), (AckLevel::Proven, Verification::Unverified));
    let file = receipt.proof_file(&event).expect("a proof").expect("fits");
    file.verify(&policy()).expect("another can verify it");
    assert_eq!(client.unsettled(), 0, "nothing to settle it with");
}

#[tokio::test]
async fn a_proof_that_proves_nothing_is_no_receipt() {
    let lies: [fn(&mut indelible_proto::v1::AppendResponse); 4] = [
        |response| response.proofs.clear(),
        |response| response.checkpoint.clear(),
        |response| response.proofs[0].left[0] = Bytes::from_static(&[7; 32]),
        // Signed by one node, and by somebody with the log's key.
        |response| {
            let forged = indelible_core::Hash([7; 32]);
            response.checkpoint = sign(response.tree_size, forged, &[2], now_s(), false);
        },
    ];
    for lie in lies {
        let fake = Fake::start(3).await;
        let (client, producer) = proven(&fake, AckLevel::Proven).await;
        fake.node(1).script([Act::Lie(lie)]);
        let error = producer.append(Event::new("a", "b", "c")).await.expect_err("a lie");
        assert!(matches!(error, AppendError::ReceiptBroken { node_id: 1, .. }), "{error}");
        let Some(Alarm::NodeLied(lie)) = client.alarms().try_next() else { panic!("no alarm") };
        assert_eq!(lie.node_id, 1);
        assert_eq!(client.leader(), None, "a liar does not lead this client");
    }
}

#[tokio::test]
async fn acknowledged_seqs_that_are_gone_are_noticed_when_a_producer_is_opened() {
    let fake = Fake::start(1).await;
    let client = fake.client().await;
    let producer = open(&client).await;
    producer.append_bulk((0..5).map(|_| Event::new("a", "b", "c"))).await.expect("recorded");
    // From a spool of its own, a caller knows more than this client.
    let known = client.producer(ID, "test").known_last_seq(5).open().await;
    assert_eq!(known.expect("all are there").last_seq(), 5);
    let missing = client.producer(ID, "test").known_last_seq(6).open().await;
    let Err(CallError::RolledBack(lost)) = missing else { panic!("it opened") };
    assert_eq!(*lost, RolledBack::Producer { producer: ID, known: 6, last_seq: 5 });
    // The client knows what was acknowledged to it.
    fake.trail().records.truncate(4);
    let last = fake.trail().producers.values_mut().next().map(|known| known.2 = 2);
    assert_eq!(last, Some(()));
    let Err(CallError::RolledBack(lost)) = client.producer(ID, "test").open().await else {
        panic!("it opened")
    };
    assert_eq!(*lost, RolledBack::Producer { producer: ID, known: 5, last_seq: 2 });
}

#[tokio::test]
async fn the_policy_is_refused_for_another_trail() {
    let fake = Fake::start(1).await;
    let policy = policy().to_string().replace("example.com/trail+", "example.com/other+");
    assert!(policy.parse::<crate::Policy>().is_err(), "names are part of the key ids");
    let other = TestKeys::of("example.com/other").policy(&[1, 2, 3]);
    let options = Options { policy: Some(other), ..fake.options() };
    let Err(error) = Client::connect_with(options).await else { panic!("it connected") };
    assert!(error.to_string().contains("example.com/other"), "{error}");
}

/// Events of a quarter of a MiB: two fit a request, and three requests the smallest buffer.
fn large(count: usize) -> Vec<Bytes> {
    let mut event = Event::new("a", "b", "c");
    event.reason = "r".repeat(250 * 1024);
    vec![Bytes::from(event.encode_to_vec()); count]
}

#[tokio::test]
async fn nothing_is_sent_of_events_of_which_one_can_never_be_accepted() {
    let fake = Fake::start(1).await;
    let client = fake.client().await;
    let options = client.producer(ID, "test").buffer_bytes_max(0);
    let producer = options.open().await.expect("opens");
    let mut events = large(16);
    events.push(Bytes::from_static(b"no event"));
    let error = producer.append_encoded(events).await.expect_err("the last one is none");
    assert!(matches!(&error, AppendError::Invalid(what) if what.contains("event 16")), "{error}");
    // What comes later is the first that is recorded.
    producer.append(Event::new("a", "b", "c")).await.expect("recorded");
    assert_eq!(fake.recorded().len(), 1);
}

#[tokio::test]
async fn of_events_that_are_recorded_in_part_each_part_says_what_became_of_it() {
    let fake = Fake::start(1).await;
    let client = fake.client().await;
    let options = client.producer(ID, "test").buffer_bytes_max(0);
    let options = options.timeout(Duration::from_secs(2));
    let producer = options.open().await.expect("opens");
    // The first is recorded, and those after it stay in the buffer for ever.
    producer.append(Event::new("a", "b", "c")).await.expect("recorded");
    fake.node(1).script((0..100).map(|_| Act::Hang));
    let error = producer.append_encoded(large(40)).await.expect_err("nothing is answered");
    let AppendError::Partial(parts) = error else { panic!("{error}") };
    assert_eq!(parts.last().map(|part| part.events.end), Some(40));
    let unknown = |error: &AppendError| matches!(error, AppendError::Unknown { .. });
    let not_sent = |error: &AppendError| matches!(error, AppendError::NotSent { .. });
    let errors: Vec<&AppendError> =
        parts.iter().map(|part| part.outcome.as_ref().expect_err("no answer")).collect();
    assert!(unknown(errors[0]) && not_sent(errors[errors.len() - 1]), "{errors:?}");
    assert!(errors.iter().all(|error| unknown(error) || not_sent(error)), "{errors:?}");
    let sent: usize = fake.node(1).calls()[1..].iter().map(|(_, events)| events).sum();
    let told = parts.iter().zip(&errors).filter(|(_, error)| unknown(error));
    let told: usize = told.map(|(part, _)| part.events.len()).sum();
    assert!(sent <= told, "{sent} events came, and {told} are called unknown");
}
