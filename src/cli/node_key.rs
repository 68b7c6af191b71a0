//! `indelible node-key`: make the identity of a node that is to be added.

use std::process::ExitCode;

use super::Global;

#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) async fn run(_global: &Global, _args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`indelible node-key` is not built yet")
}
