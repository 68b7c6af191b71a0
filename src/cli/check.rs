//! `indelible check`: re-read and re-hash a stopped node's data.

use std::process::ExitCode;

use super::Global;

#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) async fn run(_global: &Global, _args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`indelible check` is not built yet")
}
