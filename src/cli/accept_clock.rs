//! `indelible accept-clock`: goes on with a time that the nodes held back.

use std::process::ExitCode;

use serde_json::json;

use super::connect::parse_reason;
use super::{Global, output};

/// Says that the nodes' clocks are right, although they have jumped ahead.
///
/// The cluster refuses appends while the clocks of a majority are more than `clock.step_max_s`
/// ahead of the time that the nodes agreed on before: stamps in the trail never go back, so a wrong
/// time that is stamped once stays for as long as it is ahead. Compare the clocks with another
/// source first. This command is recorded in the trail, with its reason and the new time.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Why; kept in the trail
    #[arg(long, value_parser = parse_reason)]
    reason: String,
}

pub(super) async fn run(global: &Global, args: Args) -> anyhow::Result<ExitCode> {
    let client = global.connect().await?;
    let (index, unix_ns) = client.accept_clock(&args.reason).await?;
    if global.json {
        output::print(json!({ "index": index, "unix_ns": unix_ns }))?;
    } else {
        let time = output::time(unix_ns);
        output::print(format_args!(
            "accepted, and recorded at index {index}: it is {time}, and appends are taken again"
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
