//! `indelible checkpoint`: the newest checkpoint, and who signed it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use indelible_client::{CheckpointOptions, SignedCheckpoint};
use serde_json::json;

use super::{Global, output};

/// Prints the newest checkpoint as a C2SP signed note.
///
/// With a policy it is verified, and held against the one in --checkpoint-file. Keep it: `indelible
/// verify --against` shows later that nothing before it has changed. Exits with 4 if the policy
/// does not accept it (yet), and with 3 if it contradicts what was seen before.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Write it to a file instead
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The newest one that a witness outside the group has signed too
    #[arg(long)]
    witnessed: bool,
}

pub(super) async fn run(global: &Global, args: Args) -> anyhow::Result<ExitCode> {
    let client = global.connect().await?;
    let options = CheckpointOptions { witnessed: args.witnessed, ..CheckpointOptions::default() };
    let Some(checkpoint) = client.checkpoint(options).await? else {
        match args.witnessed {
            true => bail!(
                "no witness has signed a checkpoint yet\nhint: is one configured on the nodes?"
            ),
            false => bail!(
                "there is no checkpoint yet\nhint: `indelible status` shows whether a majority runs"
            ),
        }
    };
    if let Some(path) = &args.output {
        output::write_public(path, checkpoint.note.as_bytes()).await?;
    }
    if global.json {
        output::print(json(&checkpoint))?;
    } else if args.output.is_none() {
        output::print(checkpoint.note.trim_end())?;
    }
    eprintln!("{}", in_words(&checkpoint));
    if let Some(lacks) = &checkpoint.lacks {
        eprintln!("note: the policy does not accept it: {lacks}");
    }
    Ok(output::unverified(&client, checkpoint.verification))
}

fn in_words(checkpoint: &SignedCheckpoint) -> String {
    let size = checkpoint.checkpoint.size;
    match checkpoint.age() {
        Some(age) => {
            // The log says no time.
            let origin = &checkpoint.checkpoint.origin;
            let clocks = checkpoint.signers.iter().filter(|name| *name != origin).count();
            let (few, signers) = (output::few_clocks(clocks), checkpoint.signers.join(", "));
            format!("{size} records; signed {age:.0?} ago{few} by {signers}")
        }
        None => format!("{size} records"),
    }
}

fn json(checkpoint: &SignedCheckpoint) -> serde_json::Value {
    json!({
        "origin": checkpoint.checkpoint.origin,
        "size": checkpoint.checkpoint.size,
        "root": checkpoint.checkpoint.root.to_string(),
        "verified": checkpoint.is_verified(),
        "unix_s": checkpoint.unix_s,
        "signers": checkpoint.signers,
        "lacks": checkpoint.lacks,
        "note": &*checkpoint.note,
    })
}
