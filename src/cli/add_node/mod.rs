//! `indelible add-node`: adds a node to the group.

mod copying;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use indelible_client::v1::AddNodeRequest;
use indelible_client::{CallError, Client};

use super::Global;
use super::connect::parse_reason;
use super::voters::{confirm, print_voters, voters};
use copying::{Copied, Copying};

/// Between two looks at a node that copies the log.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// What a process ends with that got SIGINT, as shells have it.
const INTERRUPTED: u8 = 130;

/// Which node.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Its id: the one that its identity was made with. Ids are never used twice
    #[arg(long)]
    id: u64,
    /// Its public key, 64 hexadecimal digits, as `indelible node-key` printed it
    #[arg(long, value_name = "HEX", value_parser = parse_key)]
    public_key: Bytes,
    /// Where clients reach it
    #[arg(long, value_name = "HOST:PORT")]
    client_addr: String,
    /// Where the other nodes reach it
    #[arg(long, value_name = "HOST:PORT")]
    raft_addr: String,
    /// Where probes and metrics are
    #[arg(long, value_name = "HOST:PORT")]
    http_addr: String,
    /// Why; kept in the trail
    #[arg(long, value_parser = parse_reason)]
    reason: String,
    /// Do not ask whether an even number of voters is meant
    #[arg(long)]
    yes: bool,
}

pub(super) async fn run(global: &Global, args: Args) -> anyhow::Result<ExitCode> {
    let client = global.connect().await?;
    let mut voters = voters(&client.status().await);
    voters.insert(args.id);
    confirm(global, voters.len(), args.yes)?;
    let again = args.command();
    let request = AddNodeRequest {
        id: args.id,
        client_addr: args.client_addr,
        raft_addr: args.raft_addr,
        http_addr: args.http_addr,
        public_key: args.public_key,
        reason: args.reason,
    };
    let id = request.id;
    let told = Mutex::new(Copying::default());
    let added = tokio::select! {
        added = add(&client, request, &told, global.timeout_or(30)) => Some(added),
        () = tell(&client, id, &told) => unreachable!("it tells until it is dropped"),
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.context("wait for Ctrl-C")?;
            None
        }
    };
    end_line();
    match added {
        Some(Ok(voters)) => {
            print_voters(global, &voters)?;
            Ok(ExitCode::SUCCESS)
        }
        Some(Err(error)) => {
            if Copied::of(id, &client.status().await).is_some_and(|copied| !copied.is_voter) {
                say_learner(id, &again);
            }
            Err(anyhow::Error::new(error).context(format!("add node {id}")))
        }
        None => {
            match Copied::of(id, &client.status().await) {
                Some(copied) if copied.is_voter => eprintln!("node {id} is a voter already"),
                Some(_) => say_learner(id, &again),
                None => eprintln!("node {id} is no member of the group, as far as its leader says"),
            }
            Ok(ExitCode::from(INTERRUPTED))
        }
    }
}

impl Args {
    /// The command that goes on with what this one has begun.
    fn command(&self) -> String {
        format!(
            "indelible add-node --id {} --client-addr {} --raft-addr {} --http-addr {} --public-key {} --reason {}",
            self.id,
            self.client_addr,
            self.raft_addr,
            self.http_addr,
            hex::encode(&self.public_key),
            quoted(&self.reason),
        )
    }
}

/// As a shell takes it for one word.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Says what an addition leaves that did not end.
fn say_learner(id: u64, again: &str) {
    eprintln!("node {id} is a learner: it copies the log, has no vote, and nobody waits for it");
    eprintln!("to make it a voter:  {again}");
    eprintln!("to remove it:        indelible remove-node {id} --reason WHY");
}

/// Adds the node, and calls again as long as it copies the log: one call ends after a while, and
/// the leader may change. Gives up if nothing is copied for `patience`.
async fn add(
    client: &Client,
    request: AddNodeRequest,
    copying: &Mutex<Copying>,
    patience: Duration,
) -> Result<Vec<u64>, CallError> {
    loop {
        let error = match client.add_node(request.clone()).await {
            Ok(voters) => return Ok(voters),
            Err(error) => error,
        };
        // A leader that has refused it has a reason that does not pass.
        let may_pass = matches!(error, CallError::Unknown { .. } | CallError::TimedOut { .. });
        let is_member = {
            let mut copying = lock(copying);
            let now = copying.since_begun();
            copying.is_begun() && copying.stands_still(now) < patience
        };
        if !may_pass || !is_member {
            return Err(error);
        }
        tokio::time::sleep(TELL_EVERY).await;
    }
}

/// Tells how far the node is, once a second, until it is dropped.
async fn tell(client: &Client, id: u64, copying: &Mutex<Copying>) {
    loop {
        tokio::time::sleep(TELL_EVERY).await;
        let Some(copied) = Copied::of(id, &client.status().await) else { continue };
        let mut copying = lock(copying);
        let at = copying.since_begun();
        copying.look(at, copied);
        let text = format!("node {id} copies the log: {copying}");
        match std::io::stderr().is_terminal() {
            // Over the line before, and nothing of that is left.
            true => eprint!("\r{text}\x1b[K"),
            false => eprintln!("{text}"),
        }
    }
}

/// Ends a line that was written over.
fn end_line() {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
}

fn lock(copying: &Mutex<Copying>) -> MutexGuard<'_, Copying> {
    copying.lock().unwrap_or_else(PoisonError::into_inner)
}

fn parse_key(text: &str) -> Result<Bytes, String> {
    match hex::decode(text) {
        Ok(key) if key.len() == 32 => Ok(key.into()),
        _ => Err("a public key is 64 hexadecimal digits".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_key_is_32_bytes() {
        assert_eq!(parse_key(&"ab".repeat(32)).expect("valid").len(), 32);
        assert!(parse_key(&"ab".repeat(31)).is_err());
        assert!(parse_key(&"xy".repeat(32)).is_err());
    }

    #[test]
    fn a_reason_is_one_word_of_a_shell() {
        assert_eq!(quoted("it's $new"), r"'it'\''s $new'");
    }
}
