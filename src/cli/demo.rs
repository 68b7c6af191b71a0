//! `indelible demo`: run a three-node cluster and kill its leader.

use std::process::ExitCode;

use super::Global;

#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) async fn run(_global: &Global, _args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`indelible demo` is not built yet")
}
