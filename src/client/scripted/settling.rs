//! What becomes of receipts after their appends have returned.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use indelible_testkit::fail::within;

use super::fake::Fake;
use super::trail::policy;
use crate::{AckLevel, Alarm, Client, Event, Level, Options, Producer, ProducerId};

/// Longest time that anything may take. Generous: the machine is shared.
const PATIENCE: Duration = Duration::from_secs(60);

async fn open(client: &Client) -> Producer {
    client.producer(ProducerId([7; 16]), "test").open().await.expect("opens")
}

fn events(count: usize) -> impl Iterator<Item = Event> {
    (0..count).map(|number| Event::new("a", "b", number.to_string()))
}

async fn alarm(client: &Client) -> Alarm {
    within(PATIENCE, "an alarm", client.alarms().next()).await
}

#[tokio::test]
async fn durable_receipts_are_settled_by_a_later_checkpoint() {
    let fake = Fake::start(3).await;
    let client = fake.verifier().await;
    let producer = open(&client).await;
    producer.append_bulk(events(100)).await.expect("recorded");
    for event in events(20) {
        producer.append(event).await.expect("recorded");
    }
    assert_eq!(client.unsettled(), 120);
    assert!(!client.settled(Duration::from_millis(50)).await, "nobody has signed yet");
    fake.trail().publish();
    assert!(client.settled(PATIENCE).await);
    assert_eq!((client.unsettled(), client.alarms().try_next()), (0, None));
}

#[tokio::test]
async fn a_leader_that_acknowledged_what_it_never_replicated_is_found_out() {
    let fake = Fake::start(3).await;
    let client = fake.verifier().await;
    let producer = open(&client).await;
    let before = Arc::new(Mutex::new(fake.trail().clone()));
    let receipt = producer.append(Event::new("alice", "took", "the money")).await.expect("told so");
    // What the others have, and sign, is another event at that place.
    {
        let mut others = before.lock().expect("lock");
        others.push(indelible_core::Kind::Event, 1, 1, indelible_core::Salt([9; 16]), b"nothing");
        others.publish();
    }
    for id in [1, 2, 3] {
        fake.node(id).show(&before);
    }
    let Alarm::ReceiptBroken(broken) = alarm(&client).await else { panic!("another alarm") };
    assert_eq!((&broken.receipt, broken.node_id), (&receipt, 1));
    assert_eq!(broken.evidence.notes.len(), 1);
    assert!(broken.evidence.answer.contains("leaf 2"), "{}", broken.evidence);
    assert!(client.settled(PATIENCE).await, "an alarm settles it too");
}

#[tokio::test]
async fn receipts_that_nobody_signs_for_raise_an_alarm() {
    let fake = Fake::start(3).await;
    let options = Options {
        policy: Some(policy()),
        unsettled_max: Duration::from_millis(30),
        ..fake.options()
    };
    let client = fake.connect(options).await;
    let producer = open(&client).await;
    let receipt = producer.append(Event::new("a", "b", "c")).await.expect("recorded");
    let Alarm::Unsettled(unsettled) = alarm(&client).await else { panic!("another alarm") };
    assert_eq!((unsettled.count, unsettled.first_index), (1, receipt.index));
    assert!(unsettled.last.contains("no checkpoint"), "{unsettled}");
    fake.trail().publish();
    assert!(client.settled(PATIENCE).await, "it is still looked after");
}

#[tokio::test]
async fn a_range_proof_that_proves_nothing_settles_nothing() {
    let fake = Fake::start(3).await;
    let client = fake.verifier().await;
    for id in [2, 3] {
        fake.node(id).twist(super::fake::Twist {
            prove: Some(|response| {
                let mut hashes = response.leaf_hashes.to_vec();
                hashes[0] ^= 1;
                response.leaf_hashes = hashes.into();
            }),
            ..Default::default()
        });
    }
    let producer = open(&client).await;
    producer.append_bulk(events(10)).await.expect("recorded");
    fake.trail().publish();
    assert!(client.settled(PATIENCE).await, "the third node is honest");
    let mut alarms = client.alarms();
    let alarms: Vec<Alarm> = std::iter::from_fn(|| alarms.try_next()).collect();
    assert!(alarms.iter().all(|alarm| matches!(alarm, Alarm::NodeLied(_))), "{alarms:?}");
    assert_eq!(alarms.len(), 2);
}

#[tokio::test]
async fn the_checkpoint_of_a_proven_append_is_linked_in_the_background() {
    let fake = Fake::start(3).await;
    let client = fake.verifier().await;
    let producer = client
        .producer(ProducerId([7; 16]), "test")
        .ack(AckLevel::Proven)
        .open()
        .await
        .expect("opens");
    producer.append(Event::new("a", "b", "c")).await.expect("recorded");
    let record = client.get(2, Level::Any).await.expect("reads");
    assert!(record.verification.is_verified());
    // The leader goes on with a history of its own, and has the keys to sign it.
    let forked = Arc::new(Mutex::new(fake.trail().clone()));
    forked.lock().expect("lock").alter(0);
    fake.node(1).show(&forked);
    let receipt = producer.append(Event::new("a", "b", "d")).await.expect("recorded");
    assert_eq!(receipt.ack, AckLevel::Proven);
    let Alarm::Fork(fork) = alarm(&client).await else { panic!("another alarm") };
    assert_eq!((fork.ours.checkpoint.size, fork.theirs.checkpoint.size), (3, 4));
    assert!(client.get(2, Level::Any).await.is_err(), "nothing is believed any more");
}

#[tokio::test]
async fn a_client_that_is_gone_leaves_nothing_running() {
    let fake = Fake::start(1).await;
    let client = fake.verifier().await;
    let producer = open(&client).await;
    producer.append(Event::new("a", "b", "c")).await.expect("recorded");
    let weak = Arc::downgrade(&client.inner);
    drop((client, producer));
    let gone = async {
        while weak.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    };
    within(PATIENCE, "the task lets go", gone).await;
}
