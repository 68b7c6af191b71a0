//! `indelible prove`: a file that proves one record, with no node at hand.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use indelible_client::{CheckpointOptions, Client, Level, Prove, SignedCheckpoint, Verification};
use serde_json::json;

use super::{Global, output};

/// Writes a .tlog-proof file (C2SP tlog-proof): the record with its content, its place in the
/// trail, and the signed checkpoint.
///
/// `indelible verify FILE --policy POLICY` checks it on a machine that has never seen the cluster.
/// Waits for a checkpoint that covers the record, as long as --timeout says; exits with 4 if none
/// that the policy accepts has come by then.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Leaf index, from 0
    index: u64,
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Against a checkpoint that a witness outside the group has signed too
    #[arg(long)]
    witnessed: bool,
}

pub(super) async fn run(global: &Global, args: Args) -> anyhow::Result<ExitCode> {
    let client = global.connect().await?;
    let mut record = client.get_with(args.index, Level::Linearizable, Prove::Never).await?;
    let checkpoint = covering(global, &client, args.index + 1, args.witnessed).await?;
    let checkpoint = match checkpoint {
        Some(checkpoint) if checkpoint.checkpoint.size > args.index => checkpoint,
        _ => {
            eprintln!("note: no file was written");
            return Ok(output::unverified(&client, Verification::Pending));
        }
    };
    client.prove_record(&mut record, &checkpoint).await?;
    let file = record.proof_file().context("make the proof file")??;
    output::write_private(&args.output, file.to_string().as_bytes()).await?;
    let (size, path) = (checkpoint.checkpoint.size, args.output.display().to_string());
    if global.json {
        let verified = record.verification.is_verified();
        output::print(json!({
            "index": args.index, "checkpoint_size": size, "verified": verified, "proof": path,
        }))?;
    } else {
        output::print(format_args!("{path} proves record {} of {size}", args.index))?;
    }
    Ok(output::unverified(&client, record.verification))
}

/// A checkpoint over the first `size` records that the policy accepts, or without a policy any.
pub(super) async fn covering(
    global: &Global,
    client: &Client,
    size: u64,
    witnessed: bool,
) -> anyhow::Result<Option<Arc<SignedCheckpoint>>> {
    let options = CheckpointOptions { size_min: size, wait: global.timeout_or(10), witnessed };
    let found = client.checkpoint(options).await?;
    let Some(found) = found else { bail!("there is no checkpoint yet") };
    if found.is_verified() || client.policy().is_none() || witnessed {
        return Ok(Some(found));
    }
    // The policy wants more than a majority: what a witness has signed, perhaps.
    let witnessed = client.checkpoint(CheckpointOptions { witnessed: true, ..options }).await?;
    Ok(witnessed.filter(|witnessed| witnessed.is_verified()).or(Some(found)))
}
