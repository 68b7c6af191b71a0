//! `indelible cert`: a small certificate authority for those who have none, and a look at
//! certificates of any (docs/certificates.md).

mod authority;
mod files;
mod initial;
mod issue;
mod renew;
mod revoke;
mod show;
mod show_other;
mod sign;

use std::process::ExitCode;

use clap::Subcommand;

use super::Global;

pub(super) use files::{NodeFiles, hosts_of, make_folders};
pub(super) use initial::{InitialFiles, InitialNode};

/// Certificates of nodes, clients and administrators.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a certificate authority for a trail; `init` has made one for a new trail
    Ca(authority::Args),
    /// Issue a certificate to a node, into its data folder
    Node(issue::NodeArgs),
    /// Issue a certificate to a client or an administrator
    Client(issue::ClientArgs),
    /// Issue a certificate anew, with a new key and the same names
    Renew(renew::Args),
    /// Issue the certificate that a request asks for
    Sign(sign::Args),
    /// Take certificates back: write a revocation list
    Revoke(revoke::Args),
    /// Print what a certificate, a request or a revocation list says
    Show(show::Args),
}

pub(super) fn run(global: &Global, args: &Args) -> anyhow::Result<ExitCode> {
    match &args.command {
        Command::Ca(args) => authority::run(global, args)?,
        Command::Node(args) => issue::run_node(global, args)?,
        Command::Client(args) => issue::run_client(global, args)?,
        Command::Renew(args) => renew::run(global, args)?,
        Command::Sign(args) => sign::run(global, args)?,
        Command::Revoke(args) => revoke::run(global, args)?,
        Command::Show(args) => return show::run(global, args),
    }
    Ok(ExitCode::SUCCESS)
}

/// Seconds since 1970.
fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// A day in UTC.
fn date(unix_seconds: i64) -> String {
    match jiff::Timestamp::from_second(unix_seconds) {
        Ok(time) => time.strftime("%Y-%m-%d").to_string(),
        Err(_) => format!("second {unix_seconds}"),
    }
}
