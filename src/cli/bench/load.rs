//! The callers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use indelible_client::connect::channel;
use indelible_client::{Client, Level, Producer, ProducerId, Ticket};
use indelible_core::limits::{APPEND_BYTES_MAX, APPEND_EVENTS_MAX};
use indelible_proto::v1;
use indelible_proto::v1::audit_log_client::AuditLogClient;
use prost::Message;
use tokio::task::JoinSet;

use super::{Args, Mode, Tally};
use crate::cli::generate::event_of_size;

/// Requests that a bulk caller has on the way.
const BULK_ON_THE_WAY: usize = 4;
/// Different events; the salt makes every record unique all the same.
const EVENTS: u64 = 1024;

/// Producers and events, ready to go.
pub(super) struct Load {
    client: Client,
    /// Of nodes that answer.
    addresses: Arc<Vec<String>>,
    mode: Mode,
    callers: usize,
    /// One for each caller, or one for all.
    producers: Vec<Producer>,
    events: Arc<Vec<Bytes>>,
    tree_size: u64,
    /// Events left to send, if there is a limit.
    left: Arc<AtomicU64>,
}

impl Load {
    pub(super) async fn prepare(client: &Client, bench: &Args) -> anyhow::Result<Load> {
        let producers = match bench.mode {
            Mode::Sdk => 1,
            Mode::Unary | Mode::Bulk => bench.clients,
            Mode::Read | Mode::Connect => 0,
        };
        let mut opened = Vec::with_capacity(producers);
        for number in 0..producers {
            let id = ProducerId(rand::random());
            opened.push(
                client.producer(id, format!("bench-{number}")).ack(bench.ack.into()).open().await?,
            );
        }
        let encode = |number| Bytes::from(event_of_size(number, bench.event_bytes).encode_to_vec());
        let events = Arc::new((0..EVENTS).map(encode).collect::<Vec<_>>());
        let tree_size = client.tree_head(Level::Linearizable).await?.tree_size;
        if bench.mode == Mode::Read && tree_size == 0 {
            bail!("there is nothing to read; hint: run another mode first");
        }
        let statuses = client.status().await.into_iter();
        let addresses = statuses.filter(|node| node.view.is_ok()).map(|node| node.addr).collect();
        Ok(Load {
            client: client.clone(),
            addresses: Arc::new(addresses),
            mode: bench.mode,
            callers: bench.clients,
            producers: opened,
            events,
            tree_size,
            left: Arc::new(AtomicU64::new(u64::MAX)),
        })
    }

    /// All callers until the time is up, or `events` are sent.
    pub(super) async fn run(&self, time: Duration, events: Option<u64>) -> anyhow::Result<Tally> {
        let until = match events {
            Some(_) => Instant::now() + Duration::from_secs(24 * 3600),
            None => Instant::now() + time,
        };
        self.left.store(events.unwrap_or(u64::MAX), Ordering::Relaxed);
        let mut callers = JoinSet::new();
        for number in 0..self.callers {
            let caller = Caller {
                client: self.client.clone(),
                addresses: self.addresses.clone(),
                producer: self.producers.get(number).or(self.producers.first()).cloned(),
                events: self.events.clone(),
                tree_size: self.tree_size,
                left: self.left.clone(),
                until,
                tally: Tally::new(),
            };
            match self.mode {
                Mode::Unary | Mode::Sdk => callers.spawn(caller.append()),
                Mode::Bulk => callers.spawn(caller.bulk()),
                Mode::Read => callers.spawn(caller.read()),
                Mode::Connect => callers.spawn(caller.connect()),
            };
        }
        let mut tally = Tally::new();
        while let Some(done) = callers.join_next().await {
            tally.add(&done.context("join a caller")??);
        }
        Ok(tally)
    }
}

struct Caller {
    client: Client,
    addresses: Arc<Vec<String>>,
    producer: Option<Producer>,
    events: Arc<Vec<Bytes>>,
    tree_size: u64,
    left: Arc<AtomicU64>,
    until: Instant,
    tally: Tally,
}

impl Caller {
    fn producer(&self) -> anyhow::Result<Producer> {
        self.producer.clone().context("take a producer")
    }

    /// One event a call.
    async fn append(mut self) -> anyhow::Result<Tally> {
        let producer = self.producer()?;
        let mut number: usize = rand::random_range(0..self.events.len());
        while Instant::now() < self.until {
            number = (number + 1) % self.events.len();
            let began = Instant::now();
            producer.append_encoded(vec![self.events[number].clone()]).await?;
            self.tally.note(1, began.elapsed());
        }
        Ok(self.tally)
    }

    /// Full requests, a few on the way.
    async fn bulk(mut self) -> anyhow::Result<Tally> {
        let producer = self.producer()?;
        let size = self.events.iter().map(Bytes::len).max().unwrap_or(1);
        let count = (APPEND_BYTES_MAX / size).clamp(1, APPEND_EVENTS_MAX) as u64;
        let mut on_the_way: VecDeque<(Instant, u64, Ticket)> = VecDeque::new();
        loop {
            let mut take = 0;
            if Instant::now() < self.until {
                let update = |left: u64| Some(left - left.min(count));
                let left = self
                    .left
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, update)
                    .unwrap_or(0);
                take = left.min(count);
            }
            if take > 0 {
                let events = self.events.iter().cycle().take(take as usize).cloned().collect();
                let ticket = producer.submit(None, events).await?;
                on_the_way.push_back((Instant::now(), take, ticket));
            }
            if on_the_way.len() < BULK_ON_THE_WAY && take > 0 {
                continue;
            }
            let Some((began, count, ticket)) = on_the_way.pop_front() else {
                return Ok(self.tally);
            };
            ticket.await_receipts().await?;
            self.tally.note(count, began.elapsed());
        }
    }

    /// One record a call.
    async fn read(mut self) -> anyhow::Result<Tally> {
        while Instant::now() < self.until {
            let index = rand::random_range(0..self.tree_size);
            let began = Instant::now();
            self.client.get(index, Level::Any).await?;
            self.tally.note(1, began.elapsed());
        }
        Ok(self.tally)
    }

    /// One connection a call, to one node after the other, for one question.
    async fn connect(mut self) -> anyhow::Result<Tally> {
        let transport = self.client.options().transport()?;
        let first = rand::random_range(0..self.addresses.len());
        for addr in self.addresses.iter().cycle().skip(first) {
            let began = Instant::now();
            if began >= self.until {
                break;
            }
            let mut log = AuditLogClient::new(channel(addr, &transport).await?);
            let level = Some(v1::ReadLevel { level: Some(v1::read_level::Level::Any(true)) });
            log.tree_head(v1::TreeHeadRequest { level }).await?;
            self.tally.note(1, began.elapsed());
        }
        Ok(self.tally)
    }
}
