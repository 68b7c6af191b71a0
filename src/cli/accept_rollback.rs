//! `indelible accept-rollback`: goes on after all disks were rolled back together.

use std::process::ExitCode;

use serde_json::json;

use super::connect::parse_reason;
use super::{Global, output};

/// Gives up what came after the trail's present end, for good.
///
/// The cluster refuses appends while a valid checkpoint reaches past the trail: what was
/// acknowledged is missing from every disk. Look for newer disks or backups first, and start the
/// nodes on those. This command is for when there are none. It is recorded in the trail, with its
/// reason; clients that hold a later checkpoint go on refusing until their checkpoint files are
/// removed.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Why; kept in the trail
    #[arg(long, value_parser = parse_reason)]
    reason: String,
}

pub(super) async fn run(global: &Global, args: Args) -> anyhow::Result<ExitCode> {
    let client = global.connect().await?;
    let index = client.accept_rollback(&args.reason).await?;
    if global.json {
        output::print(json!({ "index": index }))?;
    } else {
        output::print(format_args!(
            "accepted, and recorded at index {index}: appends are taken again"
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
