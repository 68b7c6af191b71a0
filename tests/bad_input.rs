//! Bad input: each gets the documented code and reason, nothing is stored, the node lives.

use bytes::Bytes;
use indelible_client::{Client, Kind, Level, ReadOptions};
use indelible_core::limits::{APPEND_EVENTS_MAX, EVENT_BYTES_MAX};
use indelible_proto::reason::{Reason, Rejected, key};
use indelible_proto::v1;
use prost::Message;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Status;
use tonic::transport::Channel;

use crate::harness::{audit_log, client, eventually, leader, three_nodes, view};

type AuditLog = v1::audit_log_client::AuditLogClient<Channel>;

/// An event of exactly so many bytes.
fn event_of(bytes: usize) -> Bytes {
    let event = indelible::cli::generate::event_of_size(1, bytes);
    let encoded = Bytes::from(event.encode_to_vec());
    // One length byte more from 16 KiB on.
    let missing = bytes as i64 - encoded.len() as i64;
    if missing == 0 {
        return encoded;
    }
    let mut event = event;
    let length = event.reason.len() as i64 + missing;
    event.reason = "x".repeat(length as usize);
    let encoded = Bytes::from(event.encode_to_vec());
    assert_eq!(encoded.len(), bytes);
    encoded
}

fn refusal(status: &Status) -> Rejected {
    Rejected::from_status(status).unwrap_or_else(|| panic!("not of the error table: {status:?}"))
}

struct Bench {
    direct: AuditLog,
    producer: Bytes,
    epoch: u64,
}

impl Bench {
    fn request(&self, first_seq: u64, events: Vec<Bytes>) -> v1::AppendRequest {
        v1::AppendRequest {
            producer_id: self.producer.clone(),
            epoch: self.epoch,
            first_seq,
            events,
            ..Default::default()
        }
    }

    /// Must be refused, for this reason and under its code.
    async fn refused(&self, request: v1::AppendRequest, reason: Reason) -> Rejected {
        let status = eventually("a leader that answers", || {
            let (mut direct, request) = (self.direct.clone(), request.clone());
            async move {
                let status = direct.append(request).await.expect_err(reason.name());
                let passing = [Reason::NoLeader, Reason::LeaseExpired, Reason::Busy];
                (!passing.contains(&refusal(&status).reason)).then_some(status)
            }
        })
        .await;
        let rejected = refusal(&status);
        assert_eq!(rejected.reason, reason, "{status:?}");
        assert_eq!(status.code(), reason.code());
        rejected
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_bad_request_gets_its_reason_and_stores_nothing() {
    let cluster = three_nodes();
    let sdk = client(&cluster).await;
    let leads = leader(&cluster).await;
    let addr = |id: u64| cluster.nodes.iter().find(|n| n.id == id).unwrap().client_addr.clone();
    let mut direct = audit_log(&addr(leads)).await;
    let producer = Bytes::from_static(b"bad input tests!");
    let open = v1::OpenProducerRequest { producer_id: producer.clone(), ..Default::default() };
    let epoch = direct.open_producer(open.clone()).await.unwrap().into_inner().epoch;
    let mut bench = Bench { direct, producer, epoch };
    let small = event_of(256);
    bench.direct.append(bench.request(1, vec![small.clone()])).await.unwrap();
    let before = sdk.tree_head(Level::Linearizable).await.unwrap();

    // One byte over, a hundred times over, too many.
    let over = bench.request(2, vec![event_of(EVENT_BYTES_MAX + 1)]);
    let rejected = bench.refused(over, Reason::TooLarge).await;
    assert_eq!(rejected.metadata[key::LIMIT], EVENT_BYTES_MAX as u64);
    let over = bench.request(2, vec![event_of(100 * EVENT_BYTES_MAX)]);
    bench.refused(over, Reason::TooLarge).await;
    let over = bench.request(2, vec![small.clone(); APPEND_EVENTS_MAX + 1]);
    bench.refused(over, Reason::TooLarge).await;
    let over = bench.request(2, vec![event_of(EVENT_BYTES_MAX); 3]);
    bench.refused(over, Reason::TooLarge).await;

    // Events that do not say who, what or to what, or say it twice.
    let mut event = indelible::cli::generate::event(1);
    event.actor.as_mut().unwrap().id.clear();
    let rejected =
        bench.refused(bench.request(2, vec![event.encode_to_vec().into()]), Reason::Invalid).await;
    assert!(rejected.message.contains("actor.id"), "{rejected}");
    let twice = [&small[..], &[0x22, 1, b'X']].concat();
    bench.refused(bench.request(2, vec![twice.into()]), Reason::Invalid).await;
    let unknown = [&small[..], &[0xfa, 0x3f, 1, b'X']].concat();
    let rejected = bench.refused(bench.request(2, vec![unknown.into()]), Reason::Invalid).await;
    assert!(rejected.message.contains("unknown"), "{rejected}");
    bench.refused(bench.request(2, vec![Bytes::from_static(b"\xff\xff")]), Reason::Invalid).await;
    bench.refused(bench.request(2, vec![]), Reason::Invalid).await;

    // Numbers.
    bench.refused(bench.request(0, vec![small.clone()]), Reason::Invalid).await;
    bench.refused(bench.request(u64::MAX, vec![small.clone()]), Reason::Invalid).await;
    bench.refused(bench.request(u64::MAX - 1, vec![small.clone(); 2]), Reason::Invalid).await;
    bench.refused(bench.request(u64::MAX - 1, vec![small.clone()]), Reason::SeqGap).await;
    let rejected = bench.refused(bench.request(9, vec![small.clone()]), Reason::SeqGap).await;
    assert_eq!(rejected.expected(), Some(2));
    bench.refused(bench.request(1, vec![event_of(257)]), Reason::SeqConflict).await;
    let repeated = bench.direct.append(bench.request(1, vec![small.clone()])).await.unwrap();
    assert!(repeated.into_inner().runs[0].duplicate);

    // Producers.
    let mut request = bench.request(1, vec![small.clone()]);
    request.producer_id = Bytes::from_static(b"nobody opened me");
    bench.refused(request.clone(), Reason::ProducerUnknown).await;
    request.producer_id = Bytes::from_static(b"short");
    bench.refused(request.clone(), Reason::Invalid).await;
    request.producer_id = Bytes::from_static(&[0; 16]);
    bench.refused(request, Reason::Invalid).await;
    let mut request = bench.request(2, vec![small.clone()]);
    request.kind = v1::Kind::Membership.into();
    bench.refused(request, Reason::Invalid).await;

    assert_nothing_stored(&sdk, before.tree_size).await;

    // At the limit is fine; a second opening fences the first.
    bench.direct.append(bench.request(2, vec![event_of(EVENT_BYTES_MAX)])).await.unwrap();
    bench.direct.open_producer(open).await.unwrap();
    let rejected = bench.refused(bench.request(3, vec![small]), Reason::ProducerFenced).await;
    assert_eq!(rejected.metadata[key::EPOCH], epoch + 1);

    // A follower says who leads; reads beyond the end say where it is.
    let follower = if leads == 1 { 2 } else { 1 };
    let mut other = audit_log(&addr(follower)).await;
    let status = other.append(bench.request(3, vec![event_of(256)])).await.unwrap_err();
    let rejected = refusal(&status);
    assert_eq!((rejected.reason, rejected.leader.unwrap().id), (Reason::NotLeader, leads));
    let get = v1::GetRequest { index: 1 << 40, ..Default::default() };
    let status = other.get(get).await.unwrap_err();
    assert_eq!(refusal(&status).reason, Reason::NotFound);
    for node in &cluster.nodes {
        assert!(view(&node.client_addr).await.is_some(), "node {} lives", node.id);
    }
}

/// Nothing came into the trail from here on, unless another leader was elected meanwhile.
async fn assert_nothing_stored(sdk: &Client, from: u64) {
    let mut records = sdk.read(from.., ReadOptions::default()).await.unwrap();
    while let Some(record) = records.next().await {
        let record = record.unwrap();
        assert_eq!(record.leaf.kind, Kind::Leadership, "record {} was stored", record.index);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_bytes_on_every_port_hurt_nobody() {
    let mut cluster = three_nodes();
    let sdk = client(&cluster).await;
    let seed = std::env::var("INDELIBLE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(rand::random);
    eprintln!("INDELIBLE_SEED={seed}");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let before = sdk.tree_head(Level::Linearizable).await.unwrap();
    for round in 0..30 {
        for node in &cluster.nodes {
            for addr in [&node.client_addr, &node.raft_addr, &node.http_addr] {
                let mut socket = tokio::net::TcpStream::connect(addr).await.unwrap();
                let mut noise = vec![0; random.random_range(1..2000)];
                random.fill(&mut noise[..]);
                if round % 2 == 0 {
                    // A valid beginning takes the noise deeper in.
                    noise.splice(0..0, *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
                }
                // The node may close the connection at any byte.
                let _ = socket.write_all(&noise).await;
                let _ = socket.shutdown().await;
                let mut answer = Vec::new();
                let read = socket.read_to_end(&mut answer);
                let _ = tokio::time::timeout(std::time::Duration::from_millis(200), read).await;
            }
        }
    }
    assert_nothing_stored(&sdk, before.tree_size).await;
    for node in &mut cluster.nodes {
        assert!(node.is_running(), "node {} died: {}", node.id, node.log_tail());
        eventually("it still answers", || async { view(&node.client_addr).await }).await;
    }
}
