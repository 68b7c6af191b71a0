//! `indelible get`: prints one record.

use std::process::ExitCode;

use super::read::parse_level;
use super::{Global, output};
use indelible_client::Level;

/// Which record.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Leaf index, from 0
    index: u64,
    /// How fresh: linearizable, at-least:TREE_SIZE or any
    #[arg(long, default_value = "linearizable", value_parser = parse_level)]
    level: Level,
}

pub(super) async fn run(global: &Global, args: Args) -> anyhow::Result<ExitCode> {
    let client = global.connect().await?;
    let record = client.get(args.index, args.level).await?;
    output::print_json(&output::RecordView::new(&record))?;
    Ok(ExitCode::SUCCESS)
}
