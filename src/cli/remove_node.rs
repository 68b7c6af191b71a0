//! `indelible remove-node`: removes a node from the group.

use std::process::ExitCode;

use anyhow::Context;

use super::Global;
use super::connect::parse_reason;
use super::voters::{confirm, print_voters, voters};

/// Which node.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Its id, which is never used again
    id: u64,
    /// Why; kept in the trail
    #[arg(long, value_parser = parse_reason)]
    reason: String,
    /// Do not ask whether an even number of voters is meant
    #[arg(long)]
    yes: bool,
}

pub(super) async fn run(global: &Global, args: Args) -> anyhow::Result<ExitCode> {
    let client = global.connect().await?;
    let mut left = voters(&client.status().await);
    if left.remove(&args.id) {
        confirm(global, left.len(), args.yes)?;
    }
    let voters = client
        .remove_node(args.id, &args.reason)
        .await
        .with_context(|| format!("remove node {}", args.id))?;
    print_voters(global, &voters)?;
    if !global.json {
        eprintln!(
            "node {} stops by itself, with exit code 8, as soon as it finds out; hint: take its addresses out of profiles and \
             --endpoints, and keep it from being started again",
            args.id
        );
    }
    Ok(ExitCode::SUCCESS)
}
