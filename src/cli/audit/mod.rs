//! `indelible audit`: an auditor outside the cluster, with a memory of its own.
//!
//! [`tree`] is that memory: the tree as recomputed from every leaf, and what was signed for it.
//! [`round`] asks all nodes and holds their checkpoints against it and against each other;
//! [`alert`] prints what does not fit, once; [`metrics`] tells Prometheus.

mod alert;
mod metrics;
mod round;
mod tree;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use indelible_client::Client;
use tokio::time::{Instant, sleep_until};

use super::{Global, output};
use alert::Alerts;
use metrics::Metrics;
use round::Auditor;
use tree::Tree;

/// Reads every record, recomputes the tree, and compares it with what each node has signed.
///
/// Prints a JSON line for everything that it finds: lines with "alert" are for a person to look at,
/// lines with "event" say what was checked, and when the group has
/// other nodes and the policy with it. Alerts: lied, fork, other_root, inconsistent, rolled_back,
/// not_accepted, stale, shrunk, time_backwards. What it has checked is kept in --state, so the next
/// run goes on from there and notices what was changed meanwhile. Needs a policy.
///
/// Exit codes: 0 everything that was checked is sound; 1 the audit could not be made; 3 there was
/// an alert. With --follow it runs until it is stopped, or with --exit-on-alert until the first
/// alert.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Go on, round after round
    #[arg(long)]
    follow: bool,
    /// With --follow: stop at the first alert, with exit code 3
    #[arg(long, requires = "follow")]
    exit_on_alert: bool,
    /// Where to keep what was checked: the tree's right edge and the newest checkpoint
    #[arg(long, default_value = "indelible-audit.json", value_name = "FILE")]
    state: PathBuf,
    /// Seconds between rounds
    #[arg(long, default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    interval: u64,
    /// Serve Prometheus metrics at this address, under /metrics
    #[arg(long, value_name = "HOST:PORT")]
    metrics: Option<SocketAddr>,
}

/// What the policy becomes while the group changes is kept beside the state.
async fn connect(global: &Global, state: &Path) -> anyhow::Result<Client> {
    let mut name = state.as_os_str().to_owned();
    name.push(".checkpoint");
    let checkpoint_file = global.checkpoint_file.clone().or(Some(name.into()));
    Global { checkpoint_file, ..global.clone() }.connect().await
}

pub(super) async fn run(global: &Global, args: Args) -> anyhow::Result<ExitCode> {
    let client = connect(global, &args.state).await?;
    let Some(policy) = client.policy() else {
        bail!(
            "an audit needs to know whose signatures count\n\
             hint: give the policy file that `indelible init` wrote with --profile FILE or --policy FILE, or say --trust-on-first-use"
        );
    };
    let tree = Tree::load(&args.state, &policy).await?;
    let metrics = Arc::new(Metrics::new());
    if let Some(addr) = args.metrics {
        metrics::serve(addr, metrics.clone()).await?;
    }
    let alerts = Alerts::new(metrics.clone());
    let mut auditor = Auditor::new(client, tree, alerts, metrics);
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        let next = Instant::now() + Duration::from_secs(args.interval);
        let outcome = tokio::select! {
            outcome = auditor.round(&args.state) => outcome,
            _ = &mut interrupted => break,
        };
        match outcome {
            Err(error) if !args.follow && auditor.alerts.count() == 0 => return Err(error),
            Err(error) => eprintln!("warning: {}", output::describe(&error)),
            Ok(()) => {}
        }
        if !args.follow || (args.exit_on_alert && auditor.alerts.count() > 0) {
            break;
        }
        tokio::select! {
            () = sleep_until(next) => {}
            _ = &mut interrupted => break,
        }
    }
    Ok(match auditor.alerts.count() {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(output::EXIT_ALARM),
    })
}
