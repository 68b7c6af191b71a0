//! The command line: one file per subcommand.
//!
//! Data goes to stdout, as a table for people or as JSON with `--json`; everything else goes to
//! stderr. A command exits with 0 if it did what it was asked to, with 1 if not, with 2 if it was
//! asked something that makes no sense, with 3 if somebody is not to be believed or what was signed
//! is gone, and with 4 if the event is recorded and the proof that was asked for is pending.

mod accept_clock;
mod accept_rollback;
mod add_node;
mod append;
mod audit;
mod bench;
mod cert;
mod check;
mod checkpoint;
mod connect;
mod demo;
mod export;
pub mod generate;
mod get;
pub mod import;
mod import_chunks;
mod import_file;
mod init;
mod node_key;
pub mod output;
mod policy;
mod prove;
mod read;
mod remove_node;
mod serve;
mod status;
mod transfer_leader;
mod verify;
mod voters;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

pub use connect::Global;

/// A replicated, tamper-evident audit log.
#[derive(Debug, Parser)]
#[command(
    name = "indelible",
    version,
    about = "A replicated, tamper-evident audit log.",
    after_help = "Start here: `indelible demo` shows all of it in one minute.\n\n\
        Exit codes: 0 done; 1 not done; 2 the command line makes no sense; 3 somebody is not to be believed, or what was \
        signed is gone; 4 recorded, and the proof that was asked for is pending.",
    propagate_version = true
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Record one event and print its receipt
    Append(append::Args),
    /// Record the lines of a file, each one once, however often the file is imported
    Import(import_file::Args),
    /// Print one record
    Get(get::Args),
    /// Print a range of records, one JSON object a line
    Read(read::Args),
    /// Print the newest checkpoint: size and root of the trail, and who signed them
    Checkpoint(checkpoint::Args),
    /// Write a file that proves one record to somebody who has only the policy
    Prove(prove::Args),
    /// Print the policy, with the nodes that the group has now
    Policy(policy::Args),
    /// Write records, proofs and keys into one file for an auditor
    Export(export::Args),
    /// Watch the cluster from outside: recompute the trail, and compare what the nodes sign
    Audit(audit::Args),
    /// Show the nodes: who leads, how far each is, and whether they agree
    Status(status::Args),
    /// Hand leadership to another node
    TransferLeader(transfer_leader::Args),
    /// Add a node to the group
    AddNode(add_node::Args),
    /// Remove a node from the group, for ever
    RemoveNode(remove_node::Args),
    /// After all disks were rolled back: go on without what came later, for good
    AcceptRollback(accept_rollback::Args),
    /// After the nodes' clocks have jumped ahead: say that they are right
    AcceptClock(accept_clock::Args),
    /// Run a node
    Serve(serve::Args),
    /// Make the files of a new cluster
    Init(init::Args),
    /// Make the identity of a node that is to be added
    NodeKey(node_key::Args),
    /// Issue, renew, revoke and show certificates
    Cert(cert::Args),
    /// Re-read and re-hash a stopped node's data
    Check(check::Args),
    /// Verify checkpoints, proofs and exports, with no node and no network
    Verify(verify::Args),
    /// Measure a cluster under load
    Bench(bench::Args),
    /// Run a three-node cluster, kill its leader, and show that nothing is lost
    Demo(demo::Args),
}

/// Parses the command line of this process and runs it. Errors are printed.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let Some(command) = cli.command else {
        eprint!("{}", Cli::command().render_help());
        return ExitCode::from(2);
    };
    output::end_on_closed_pipe();
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return report(&anyhow::Error::from(error).context("start the runtime")),
    };
    let ended = runtime.block_on(dispatch(&cli.global, command));
    // NB: dropping the runtime would wait for a read of standard input that never ends.
    runtime.shutdown_background();
    match ended {
        Ok(code) => code,
        Err(error) if output::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

/// Boxed, as the commands' futures are large and there is one of them.
async fn dispatch(global: &Global, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Append(args) => Box::pin(append::run(global, args)).await,
        Command::Import(args) => Box::pin(import_file::run(global, args)).await,
        Command::Get(args) => Box::pin(get::run(global, args)).await,
        Command::Read(args) => Box::pin(read::run(global, args)).await,
        Command::Checkpoint(args) => Box::pin(checkpoint::run(global, args)).await,
        Command::Prove(args) => Box::pin(prove::run(global, args)).await,
        Command::Policy(args) => Box::pin(policy::run(global, args)).await,
        Command::Export(args) => Box::pin(export::run(global, args)).await,
        Command::Audit(args) => Box::pin(audit::run(global, args)).await,
        Command::AcceptRollback(args) => Box::pin(accept_rollback::run(global, args)).await,
        Command::AcceptClock(args) => Box::pin(accept_clock::run(global, args)).await,
        Command::Status(args) => Box::pin(status::run(global, args)).await,
        Command::TransferLeader(args) => Box::pin(transfer_leader::run(global, args)).await,
        Command::AddNode(args) => Box::pin(add_node::run(global, args)).await,
        Command::RemoveNode(args) => Box::pin(remove_node::run(global, args)).await,
        Command::Serve(args) => Box::pin(serve::run(args)).await,
        Command::Init(args) => init::run(global, args),
        Command::NodeKey(args) => Box::pin(node_key::run(global, args)).await,
        Command::Cert(args) => cert::run(global, &args),
        Command::Check(args) => check::run(global, args),
        Command::Verify(args) => verify::run(global, args),
        Command::Bench(args) => Box::pin(bench::run(global, args)).await,
        Command::Demo(args) => Box::pin(demo::run(args)).await,
    }
}

/// A runtime with a worker for every second core, or as many as `TOKIO_WORKER_THREADS` says: a node
/// has threads of its own for hashing, chaining and the disk, and waking one worker costs less than
/// waking two (docs/performance.md).
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if std::env::var_os("TOKIO_WORKER_THREADS").is_none() {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        builder.worker_threads((cores / 2).max(1));
    }
    builder.enable_all().build()
}

fn report(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {}", output::describe(error));
    let Some(evidence) = output::alarm(error) else { return ExitCode::FAILURE };
    if !evidence.is_empty() {
        eprintln!("evidence:\n{evidence}");
    }
    ExitCode::from(output::EXIT_ALARM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_fits_a_terminal_and_every_option_says_what_it_is() {
        let mut cli = Cli::command();
        cli.build();
        for command in cli.get_subcommands().filter(|command| !command.is_hide_set()) {
            assert!(command.get_about().is_some(), "{} has no help", command.get_name());
            for argument in command.get_arguments() {
                let name = (command.get_name(), argument.get_id());
                assert!(argument.get_help().is_some(), "{name:?} has no help");
            }
        }
    }
}
