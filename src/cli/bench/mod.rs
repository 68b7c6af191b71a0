//! `indelible bench`: closed-loop load on a group, and what it costs.

mod load;
mod processes;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::ValueEnum;
use hdrhistogram::Histogram;
use indelible_client::Client;
use indelible_local::{LocalCluster, LocalOptions};
use serde::Serialize;

use super::Global;
use super::append::AckArg;
use processes::Processes;

/// Longest latency that is told apart, in microseconds.
const LATENCY_US_MAX: u64 = 60_000_000;

/// Puts load on a group and prints events/s, latencies and CPU time per event.
///
/// Closed loop: each client waits for its answer before it sends again. CPU time and memory are
/// those of this process and of every `indelible serve` process on this machine.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Callers at once.
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Size of an encoded event in bytes.
    #[arg(long, default_value_t = 256)]
    event_bytes: usize,
    /// What the callers do.
    #[arg(long, value_enum, default_value_t = Mode::Sdk)]
    mode: Mode,
    /// What the callers of `unary` and `sdk` wait for.
    #[arg(long, value_enum, default_value_t = AckArg::Durable)]
    ack: AckArg,
    /// How long to measure, after a warm-up of two seconds.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Stop after this many events instead, for `bulk`.
    #[arg(long)]
    events: Option<u64>,
    /// Start a three-node group of its own in a temporary folder, and remove it afterwards.
    #[arg(long)]
    spawn: bool,
}

/// What the callers of a benchmark do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mode {
    /// Every caller has a producer of its own and appends one event a call.
    Unary,
    /// All callers share one producer and append one event a call; the SDK batches.
    Sdk,
    /// Every caller has a producer of its own and appends full requests, several on the way.
    Bulk,
    /// Every caller reads single records at random, from followers.
    Read,
    /// Every caller opens one connection after the other, each for one question: an event is a
    /// connection.
    Connect,
}

/// What a run found.
#[derive(Debug, Serialize)]
struct Report {
    mode: Mode,
    clients: usize,
    event_bytes: usize,
    seconds: f64,
    events: u64,
    events_per_s: f64,
    /// Latency of a call (a request of many events in `bulk`), in microseconds.
    p50_us: u64,
    p99_us: u64,
    p999_us: u64,
    max_us: u64,
    /// CPU time of all processes for one event, in microseconds.
    cpu_us_per_event: f64,
    /// The largest node's resident memory at the end, in MiB.
    node_rss_mib: f64,
    /// Terms that passed while measuring: 0 = no election.
    elections: u64,
}

/// What the callers found.
pub(super) struct Tally {
    events: u64,
    latency: Histogram<u64>,
}

impl Tally {
    fn new() -> Tally {
        let latency = Histogram::new_with_max(LATENCY_US_MAX, 3).expect("the bounds are valid");
        Tally { events: 0, latency }
    }

    fn note(&mut self, events: u64, took: Duration) {
        self.events += events;
        self.latency.saturating_record(took.as_micros() as u64);
    }

    fn add(&mut self, other: &Tally) {
        self.events += other.events;
        self.latency.add(&other.latency).expect("the bounds are the same");
    }
}

/// Against the cluster of the profile, or a group of its own.
pub(super) async fn run(global: &Global, args: Args) -> anyhow::Result<ExitCode> {
    if args.clients == 0 || args.seconds == 0 {
        bail!("--clients and --seconds begin at 1");
    }
    if args.events.is_some() && args.mode != Mode::Bulk {
        bail!("--events goes with --mode bulk");
    }
    if args.ack != AckArg::Durable && !matches!(args.mode, Mode::Unary | Mode::Sdk) {
        bail!("--ack goes with --mode unary and --mode sdk");
    }
    let cluster = match args.spawn {
        true => Some(LocalCluster::start(LocalOptions::three()?)?),
        false => None,
    };
    let global = match &cluster {
        Some(cluster) => global.of_local(cluster.profile()),
        None => global.clone(),
    };
    let client = connect(&global).await?;
    client.wait_for_leader().await;
    let load = load::Load::prepare(&client, &args).await?;
    load.run(Duration::from_secs(2), None).await?;
    let (term_before, cpu_before, began) =
        (term(&client).await, Processes::find().cpu(), Instant::now());
    let tally = load.run(Duration::from_secs(args.seconds), args.events).await?;
    let (took, processes) = (began.elapsed().as_secs_f64(), Processes::find());
    let cpu = processes.cpu().saturating_sub(cpu_before);
    let report = Report {
        mode: args.mode,
        clients: args.clients,
        event_bytes: args.event_bytes,
        seconds: took,
        events: tally.events,
        events_per_s: tally.events as f64 / took,
        p50_us: tally.latency.value_at_quantile(0.5),
        p99_us: tally.latency.value_at_quantile(0.99),
        p999_us: tally.latency.value_at_quantile(0.999),
        max_us: tally.latency.max(),
        cpu_us_per_event: cpu.as_micros() as f64 / tally.events.max(1) as f64,
        node_rss_mib: processes.node_rss_bytes_max() as f64 / 1_048_576.0,
        elections: term(&client).await.saturating_sub(term_before),
    };
    report.print(global.json)?;
    Ok(ExitCode::SUCCESS)
}

/// Proofs are measured if `--policy` asks for them: that a profile names a policy is not enough.
async fn connect(global: &Global) -> anyhow::Result<Client> {
    let mut options = global.options().await?;
    if global.policy.is_none() {
        options.policy = None;
    }
    Client::connect_with(options).await.context("connect")
}

/// The newest term that a node knows.
async fn term(client: &Client) -> u64 {
    let statuses = client.status().await;
    statuses
        .iter()
        .filter_map(|status| status.view.as_ref().ok())
        .map(|view| view.term)
        .max()
        .unwrap_or(0)
}

impl Report {
    fn print(&self, json: bool) -> anyhow::Result<()> {
        if json {
            println!("{}", serde_json::to_string(self)?);
            return Ok(());
        }
        let ms = |us: u64| us as f64 / 1000.0;
        println!(
            "{:?}, {} callers, events of {} bytes, {:.1} s",
            self.mode, self.clients, self.event_bytes, self.seconds
        );
        println!("  {:>12.0} events/s ({} events)", self.events_per_s, self.events);
        println!(
            "  {:>12.2} ms p50   {:.2} ms p99   {:.2} ms p99.9   {:.2} ms max",
            ms(self.p50_us),
            ms(self.p99_us),
            ms(self.p999_us),
            ms(self.max_us)
        );
        println!("  {:>12.1} us CPU per event, all processes", self.cpu_us_per_event);
        println!("  {:>12.1} MiB resident, largest node", self.node_rss_mib);
        println!("  {:>12} elections while measuring", self.elections);
        Ok(())
    }
}
