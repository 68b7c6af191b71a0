//! `indelible policy`: the policy, with the nodes that the group has now.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use indelible_client::{CallError, CheckpointOptions, Client, Level, Policy, SignedCheckpoint};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{Global, output};

/// Between two attempts.
const AGAIN: Duration = Duration::from_millis(200);

/// Prints the policy with the nodes that the group has now, for those who verify.
///
/// Who belongs to the group is in the trail. As long as the policy accepts a checkpoint that covers
/// a change, what the policy becomes is proven by those whom it trusts: hand the new file on by the
/// way on which the first one went. Only nodes are followed: the log's key, witnesses, and how many
/// have to sign stay as they are.
///
/// Clients that run follow by themselves, and with --checkpoint-file remember it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Write it to a file instead
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) async fn run(global: &Global, args: Args) -> anyhow::Result<ExitCode> {
    let client = global.connect_to_pin().await?;
    let Some(first) = client.options().policy.clone().or_else(|| Some((*client.policy()?).clone()))
    else {
        bail!(
            "there is no policy to begin with\n\
             hint: give the file that `indelible init` wrote with --profile FILE or --policy FILE, or say --trust-on-first-use"
        );
    };
    let size = follow(global, &client).await?;
    let Some(policy) = client.policy() else { bail!("the policy is gone") };
    if let Some(path) = &args.output {
        output::write_public(path, policy.to_string().as_bytes()).await?;
    }
    let (came, left) = (missing(&policy, &first), missing(&first, &policy));
    if global.json {
        output::print(json!({
            "policy": policy.to_string(),
            "checkpoint_size": size,
            "came": came,
            "left": left,
        }))?;
    } else if args.output.is_none() {
        output::print(policy.to_string().trim_end())?;
    }
    match (came.join(", "), left.join(", ")) {
        (came, left) if came.is_empty() && left.is_empty() => {
            eprintln!("the group has the policy's nodes, says the checkpoint of {size} records");
        }
        (came, left) => {
            let or_nobody = |names: String| if names.is_empty() { "nobody".into() } else { names };
            eprintln!("proven by the checkpoint of {size} records");
            eprintln!("came: {}", or_nobody(came));
            eprintln!("left: {}", or_nobody(left));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Follows up to a checkpoint of what is in the trail now, and returns its size. Tries again for a
/// while: a checkpoint is shown as soon as a majority has signed, and gathers the signatures of the
/// others later.
async fn follow(global: &Global, client: &Client) -> anyhow::Result<u64> {
    // Witnesses sign every ten seconds.
    let deadline = Instant::now() + global.timeout_or(15);
    let size_min = match client.tree_head(Level::Linearizable).await {
        Ok(head) => head.tree_size,
        Err(error) if error.is_alarming() => return Err(error.into()),
        Err(error) => {
            eprintln!("warning: what was signed last may not cover the newest records: {error}");
            0
        }
    };
    loop {
        let wait = deadline.duration_since(Instant::now());
        let found = newest(client, CheckpointOptions { size_min, wait, witnessed: false }).await?;
        let Some(checkpoint) = found else { bail!("there is no checkpoint yet") };
        let size = checkpoint.checkpoint.size;
        let is_time_left = Instant::now() + AGAIN < deadline;
        match client.follow_keys(&checkpoint).await {
            Ok(_) if size >= size_min || !is_time_left => return Ok(size),
            Err(error) if !(is_time_left && is_passing(&error)) => return Err(error.into()),
            Ok(_) | Err(_) => sleep(AGAIN).await,
        }
    }
}

/// Whether a later checkpoint may do.
fn is_passing(error: &CallError) -> bool {
    matches!(error, CallError::NotFollowed { .. })
}

/// The newest checkpoint; if the policy wants more than a majority, the newest that a witness has
/// signed.
async fn newest(
    client: &Client,
    options: CheckpointOptions,
) -> Result<Option<Arc<SignedCheckpoint>>, CallError> {
    let found = client.checkpoint(options).await?;
    if found.as_ref().is_some_and(|found| found.is_verified()) {
        return Ok(found);
    }
    let witnessed = CheckpointOptions { witnessed: true, wait: Duration::ZERO, ..options };
    Ok(client.checkpoint(witnessed).await?.or(found))
}

/// Names of the nodes of one policy that the other does not have.
fn missing(policy: &Policy, other: &Policy) -> Vec<String> {
    let has = |key| other.nodes().any(|node| node == key);
    policy.nodes().filter(|key| !has(*key)).map(|key| key.name.clone()).collect()
}
