//! `indelible serve`: runs a node.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};

use crate::disk::make_private;
use crate::net::{Credentials, fit_open_files};
use crate::node::NodeConfig;
use crate::node::mend::Starting;
use crate::server::{self, Listeners, ServeError};

/// What the process ends with.
const EXIT_CODES: &str = "\
Exit codes:
  0  stopped in order, by SIGTERM or SIGINT
  1  it cannot go on: the message says why
  7  its trail is not the one that the majority has, or its disk, or a file on it, is an older copy:
     do not start it again
  8  it was removed from the group: do not start it again
  9  entries are damaged here, and every peer has said that it lacks them too";

/// Runs a node until it gets SIGTERM or SIGINT.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Args {
    /// The node's configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The disks of all nodes were put back to earlier copies together: start although this node
    /// has signed what its disk does not have. Appends are refused until `accept-rollback`
    #[arg(long)]
    all_rolled_back: bool,
    /// Also stop when standard input closes, so that a node does not outlive whoever started it
    #[arg(long, hide = true)]
    until_stdin_closes: bool,
}

/// Until the node stops.
pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut config = NodeConfig::load(&args.config)?;
    config.all_rolled_back = args.all_rolled_back;
    log_to_stderr();
    abort_on_panic();
    keep_secrets();
    if make_private(&config.data_dir).unwrap_or(false) {
        tracing::warn!(folder = %config.data_dir.display(), "others could enter the data folder: it is 0700 now");
    }
    let starting = match Starting::new(&config) {
        Ok(starting) => starting,
        Err(error) => return Ok(ended(&error.into())),
    };
    reload_on_hangup(starting.credentials.clone())?;
    let listeners = Listeners::bind(&config).await?;
    let shutdown = shutdown(args.until_stdin_closes)?;
    match server::run(config, listeners, starting, shutdown).await {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => Ok(ended(&error)),
    }
}

fn ended(error: &ServeError) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(error.exit_code())
}

/// What `RUST_LOG` asks for; without it, what a person should know. openraft tells far more than
/// that.
fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,openraft=error"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

/// A panic anywhere is a broken invariant: the process dies, and recovery computes what is true.
fn abort_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::abort();
    }));
}

/// What the process holds is for its owner: no core dumps, no files for others. And it may hold as
/// many connections as the system lets it.
fn keep_secrets() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!(%error, "core dumps could not be turned off");
    }
    forbid_inspection();
    let files = getrlimit(Resource::Nofile);
    let most = Rlimit { current: files.maximum, ..files };
    if let Err(error) = setrlimit(Resource::Nofile, most) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
    // What no connection takes is left for the log.
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if !fit_open_files(files) {
        tracing::warn!(
            files,
            "few files may be open: the ports take fewer connections; hint: ulimit -n 16384"
        );
    }
}

/// Other processes of the same user get neither memory nor descriptors, and no core is written by a
/// pipe of core_pattern, for which the limit does not count.
fn forbid_inspection() {
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "other processes of this user can read the memory of this one");
    }
}

/// SIGHUP: certificates are read again.
fn reload_on_hangup(credentials: Credentials) -> std::io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            credentials.reload();
        }
    });
    Ok(())
}

/// Completes when the node is asked to stop.
fn shutdown(until_stdin_closes: bool) -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        let stdin_closed = async {
            if !until_stdin_closes {
                std::future::pending::<()>().await;
            }
            let mut byte = [0];
            while tokio::io::stdin().read(&mut byte).await.is_ok_and(|read| read > 0) {}
        };
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM"),
            _ = interrupt.recv() => tracing::info!("SIGINT"),
            () = stdin_closed => tracing::info!("standard input closed"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_processes_of_the_user_cannot_look_into_a_node() {
        forbid_inspection();
        let behavior = rustix::process::dumpable_behavior().expect("prctl");
        assert_eq!(behavior, DumpableBehavior::NotDumpable);
    }
}
