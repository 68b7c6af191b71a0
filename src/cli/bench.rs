//! `indelible bench`: measure a cluster under load.

use std::process::ExitCode;

use super::Global;

#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) async fn run(_global: &Global, _args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`indelible bench` is not built yet")
}
