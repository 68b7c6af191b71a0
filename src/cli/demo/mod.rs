//! `indelible demo`: three real nodes, a murdered leader, and proof that nothing was lost.

mod readback;
mod record;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use indelible_client::{Client, Level, Options, ProducerId};
use indelible_local::{LocalCluster, LocalOptions};
use tokio::time::timeout;

use readback::{Readback, read_back};
use record::{Recorded, Recorder};

/// How long any one step may take before the demonstration gives up.
const STEP: Duration = Duration::from_secs(60);

/// Starts three nodes in a temporary folder, records events, kills the leader with SIGKILL in the
/// middle, and reads everything back from every node.
///
/// Exits with 0 only if every acknowledged event is there, once and in order, and all nodes have
/// the same root.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Events to record.
    #[arg(long, default_value_t = 20_000)]
    events: u64,
}

/// All of it; takes some seconds.
pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    if args.events < 100 {
        bail!(
            "--events {}: with fewer than 100 there is no middle to kill the leader in",
            args.events
        );
    }
    println!("indelible demo: three nodes, {} events, one murder\n", thousands(args.events));
    let mut steps = Steps::new();
    let mut cluster = LocalCluster::start(LocalOptions::three()?)?;
    match play(args.events, &mut cluster, &mut steps).await {
        Ok(code) => Ok(code),
        Err(error) => {
            for node in &cluster.nodes {
                eprintln!("last words of node {}:\n{}", node.id, node.log_tail());
            }
            Err(error)
        }
    }
}

async fn play(
    events: u64,
    cluster: &mut LocalCluster,
    steps: &mut Steps,
) -> anyhow::Result<ExitCode> {
    // Every hash is recomputed below: no signature is needed to see that nothing was lost.
    let options = Options { policy: None, ..Options::from_profile(cluster.profile())? };
    let transport = options.transport()?;
    let client = Client::connect_with(options).await?;
    let (leader, term) =
        timeout(STEP, client.wait_for_leader()).await.context("wait for a leader")?;
    steps.say(format!(
        "three nodes in {}; node {leader} leads in term {term}",
        cluster.dir().display()
    ));

    let producer = client.producer(ProducerId(rand::random()), "demo").open().await?;
    let recorder = Recorder::start(producer, events);
    recorder.wait_for(events / 3).await?;
    steps.say(format!("{} events recorded, more coming", thousands(recorder.acknowledged())));

    let (leader, _) = timeout(STEP, client.wait_for_leader()).await?;
    let killed_at = Instant::now();
    let pid = cluster.node(leader)?.kill()?;
    steps.say(format!("SIGKILL to the leader, node {leader} (pid {pid})"));

    let recorded = timeout(STEP, recorder.finish()).await.context("record all events")??;
    let (next, term) = timeout(STEP, client.wait_for_leader()).await?;
    let gap = recorded.longest_silence(killed_at);
    steps.say(format!(
        "node {next} took over in term {term}; writes stood still for {} ms",
        gap.as_millis()
    ));
    steps.say(format!("all {} events acknowledged", thousands(recorded.count())));

    cluster.node(leader)?.start()?;
    let size = client.tree_head(Level::Linearizable).await?.tree_size;
    let mut readbacks = Vec::new();
    for node in &cluster.nodes {
        let read = timeout(STEP, read_back(&node.client_addr, &transport, size, &recorded)).await;
        let read = read.with_context(|| format!("read back from node {}", node.id))?;
        readbacks
            .push((node.id, read.with_context(|| format!("read back from node {}", node.id))?));
    }
    steps.say(format!(
        "node {leader} restarted, recovered and caught up; read back from every node\n"
    ));
    Ok(verdict(&readbacks, &recorded, steps))
}

/// The table and the last word.
fn verdict(readbacks: &[(u64, Readback)], recorded: &Recorded, steps: &Steps) -> ExitCode {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "node",
        "events",
        "missing",
        "twice",
        "out of order",
        "tree size",
        "root, recomputed here",
    ]);
    for (id, read) in readbacks {
        table.add_row([
            id.to_string(),
            thousands(read.events),
            read.missing.to_string(),
            read.twice.to_string(),
            read.out_of_order.to_string(),
            thousands(read.tree_size),
            format!("{}...", &read.root.to_string()[..24]),
        ]);
    }
    println!("{table}\n");
    let same_roots = readbacks.iter().all(|(_, read)| read.root == readbacks[0].1.root);
    let sound = same_roots && readbacks.iter().all(|(_, read)| read.is_sound(recorded));
    let took = steps.began.elapsed().as_secs_f64();
    if sound {
        println!("nothing lost, nothing twice, one history. ({took:.1} s)");
        return ExitCode::SUCCESS;
    }
    println!(
        "FAILED: {}",
        if same_roots { "events are missing or twice" } else { "the roots differ" }
    );
    ExitCode::FAILURE
}

/// Numbered lines with the time since the beginning.
struct Steps {
    began: Instant,
    number: u32,
}

impl Steps {
    fn new() -> Steps {
        Steps { began: Instant::now(), number: 0 }
    }

    fn say(&mut self, what: String) {
        self.number += 1;
        println!("{:>6.1} s  {}. {what}", self.began.elapsed().as_secs_f64(), self.number);
    }
}

/// 12345 as "12 345".
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}
