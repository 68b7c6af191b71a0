//! `indelible init`: make the files of a new cluster.

use std::process::ExitCode;

use super::Global;

#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) async fn run(_global: &Global, _args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`indelible init` is not built yet")
}
