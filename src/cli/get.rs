//! `indelible get`: prints one record.

use std::process::ExitCode;

use super::read::parse_level;
use super::{Global, output};
use indelible_client::{Level, Prove};

/// Which record.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Leaf index, from 0
    index: u64,
    /// How fresh: linearizable, at-least:TREE_SIZE or any
    #[arg(long, default_value = "linearizable", value_parser = parse_level)]
    level: Level,
    /// Prove it against a signed checkpoint; always so with a policy
    #[arg(long)]
    prove: bool,
}

pub(super) async fn run(global: &Global, args: Args) -> anyhow::Result<ExitCode> {
    let client = global.connect().await?;
    let prove = if args.prove { Prove::Always } else { Prove::ByPolicy };
    let record = client.get_with(args.index, args.level, prove).await?;
    output::print_json(&output::RecordView::new(&record))?;
    Ok(match args.prove {
        true => output::unverified(&client, record.verification),
        false => ExitCode::SUCCESS,
    })
}
