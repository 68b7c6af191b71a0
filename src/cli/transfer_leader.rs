//! `indelible transfer-leader`: hands leadership over.

use std::process::ExitCode;

use serde_json::json;

use super::connect::parse_reason;
use super::{Global, output};

/// To whom.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Id of the node to lead next; without it, the most caught-up follower
    #[arg(long, value_name = "ID")]
    to: Option<u64>,
    /// Why; kept in the trail
    #[arg(long, value_parser = parse_reason)]
    reason: String,
}

pub(super) async fn run(global: &Global, args: Args) -> anyhow::Result<ExitCode> {
    let client = global.connect().await?;
    let leader_id = client.transfer_leadership(args.to, &args.reason).await?;
    if global.json {
        output::print(json!({ "leader": leader_id }))?;
    } else {
        output::print(format_args!("node {leader_id} leads"))?;
    }
    Ok(ExitCode::SUCCESS)
}
