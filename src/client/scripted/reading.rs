//! What a reader does when a node breaks off, lags or lies.

use std::time::Duration;

use super::fake::{Act, Fake};
use crate::{
    CallError, Client, Event, Level, Options, ProducerId, ReadOptions, Reason, RecordStream,
    Rejected,
};

/// A trail of 12 records: genesis, opened, ten events.
async fn filled(nodes: u64) -> (Fake, Client) {
    let fake = Fake::start(nodes).await;
    let client = fake.client().await;
    let producer = client.producer(ProducerId([6; 16]), "test").open().await.expect("opens");
    producer.append_bulk((0..10).map(|_| Event::new("a", "b", "c"))).await.expect("recorded");
    // Readers choose among the nodes that are connected.
    assert!(client.status().await.iter().all(|node| node.view.is_ok()));
    (fake, client)
}

async fn indexes(mut records: RecordStream) -> Result<Vec<u64>, CallError> {
    let mut indexes = Vec::new();
    while let Some(record) = records.next().await.transpose()? {
        indexes.push(record.index);
    }
    Ok(indexes)
}

#[tokio::test]
async fn reads_go_to_followers() {
    let (fake, client) = filled(3).await;
    let appends = fake.node(1).calls().len();
    for index in 0..12 {
        let record = client.get(index, Level::Linearizable).await.expect("found");
        assert_eq!(record.index, index);
    }
    assert_eq!(fake.node(1).calls().len(), appends, "the leader was asked");
    let (two, three) = (fake.node(2).calls().len(), fake.node(3).calls().len());
    assert_eq!(two + three, 12);
    let error = client.get(12, Level::Linearizable).await.expect_err("past the end");
    let CallError::Rejected(rejected) = error else { panic!("{error}") };
    assert_eq!(rejected.reason, Reason::NotFound);
}

#[tokio::test]
async fn a_lagging_follower_is_passed_over_and_the_leader_is_the_last_resort() {
    let (fake, client) = filled(3).await;
    let stale = || Act::Refuse(Rejected::new(Reason::StaleReplica, "not there yet"));
    fake.node(2).script([stale()]);
    fake.node(3).script([stale()]);
    let appends = fake.node(1).calls().len();
    client.get(5, Level::AtLeast(12)).await.expect("the leader has it");
    assert_eq!(fake.node(1).calls().len(), appends + 1);
}

#[tokio::test]
async fn a_tampered_record_is_not_handed_out() {
    let (fake, client) = filled(1).await;
    let tamper = || Act::Break { after: 0, damaged: true };
    fake.node(1).script([tamper()]);
    let calls = fake.node(1).calls().len();
    for _ in 0..2 {
        let error = client.get(5, Level::Any).await.expect_err("a lie");
        let CallError::NodeLied { node_id: 1, evidence, .. } = error else { panic!("{error}") };
        assert!(evidence.answer.contains("record 5"), "{evidence}");
    }
    assert_eq!(fake.node(1).calls().len(), calls + 1, "a liar is not asked again");
    // With another node that is honest, the reader gets the truth.
    let (fake, client) = filled(3).await;
    fake.node(2).script([tamper()]);
    fake.node(3).script([tamper()]);
    client.get(5, Level::Any).await.expect("the third node is honest");
}

#[tokio::test]
async fn a_range_ends_where_it_should() {
    let (_fake, client) = filled(1).await;
    let read = |range: (std::ops::Bound<u64>, std::ops::Bound<u64>)| {
        let client = client.clone();
        async move { indexes(client.read(range, ReadOptions::default()).await?).await }
    };
    use std::ops::Bound::{Excluded, Included, Unbounded};
    let all = read((Unbounded, Unbounded)).await.expect("reads");
    assert_eq!(all, (0..12).collect::<Vec<_>>());
    assert_eq!(read((Included(3), Excluded(5))).await.expect("reads"), [3, 4]);
    assert_eq!(read((Included(10), Included(99))).await.expect("reads"), [10, 11]);
    assert!(read((Included(12), Unbounded)).await.expect("reads").is_empty());
    assert!(read((Included(5), Excluded(4))).await.is_err());
}

#[tokio::test]
async fn a_stream_outlives_its_node_and_leaves_no_gap() {
    for (damaged, nodes) in [(false, &[1, 2, 3][..]), (true, &[2, 3])] {
        let (fake, client) = filled(3).await;
        for id in nodes {
            fake.node(*id).script([Act::Break { after: 3, damaged }]);
        }
        let records = client.read(.., ReadOptions::default()).await.expect("opens");
        let read = indexes(records).await.expect("reads on elsewhere");
        assert_eq!(read, (0..12).collect::<Vec<_>>());
        let resumed = fake.node(2).calls().len() + fake.node(3).calls().len();
        assert!(resumed >= 2, "no other node was asked");
    }
}

#[tokio::test]
async fn following_goes_on_past_the_end() {
    let (_fake, client) = filled(1).await;
    let options = ReadOptions { follow: true, level: Level::Any, ..Default::default() };
    let mut records = client.read(10.., options).await.expect("opens");
    for expected in [10, 11] {
        let record = records.next().await.expect("there is one").expect("verifies");
        assert_eq!(record.index, expected);
    }
    let more = tokio::time::timeout(Duration::from_millis(20), records.next()).await;
    assert!(more.is_err(), "a tail does not end");
    let mut records = client.read(10..12, options).await.expect("opens");
    assert!(records.next().await.is_some() && records.next().await.is_some());
    assert!(records.next().await.is_none());
}

#[tokio::test]
async fn nobody_there_is_said_with_addresses() {
    // Nobody listens there, and no other test is given it.
    let addr = "127.0.0.1:1";
    let mut options = Options::new([addr]).expect("valid");
    options.clear_text = true;
    options.reach_timeout = Duration::from_secs(2);
    let Err(error) = Client::connect_with(options).await else { panic!("nobody is there") };
    let text = error.to_string();
    assert!(text.contains(addr) && text.contains("refused"), "{text}");
}

#[tokio::test]
async fn status_lists_every_member() {
    let (fake, client) = filled(3).await;
    let status = client.status().await;
    let ids: Vec<_> = status.iter().map(|node| node.node_id).collect();
    assert_eq!(ids, [Some(1), Some(2), Some(3)]);
    assert_eq!(client.leader(), Some((1, 1)));
    fake.elect(3, 7);
    assert!(client.status().await.iter().all(|node| node.view.is_ok()));
}
