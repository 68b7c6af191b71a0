//! `indelible append`: records one event.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use indelible_client::{AckLevel, AppendError, Client, Event, Outcome, Receipt, v1::Target};
use serde::Serialize;
use tokio::time::Instant;

use super::{Global, output};

/// Who did what to what.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Who did it
    #[arg(long)]
    actor: String,
    /// What was done
    #[arg(long)]
    action: String,
    /// What it was done to; may be given several times
    #[arg(long, required = true)]
    target: Vec<String>,
    /// How it ended
    #[arg(long, value_enum)]
    outcome: Option<OutcomeArg>,
    /// Kind of event, dotted and lower-case, for example user.login.failure
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Why it was done
    #[arg(long)]
    reason: Option<String>,
    /// An attribute; may be given several times
    #[arg(long = "attr", value_name = "KEY=VALUE", value_parser = parse_attribute)]
    attributes: Vec<(String, String)>,
    /// Name of the producer that records it
    #[arg(long, default_value = "cli")]
    producer: String,
    /// What has to be true before the command returns [default: durable; with --proof: proven]
    #[arg(long, value_enum)]
    ack: Option<AckArg>,
    /// Write a file that proves the event to somebody who has only the policy
    #[arg(long, value_name = "FILE")]
    proof: Option<PathBuf>,
}

/// How much has to be true of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum AckArg {
    /// It is on the disks of a majority
    Durable,
    /// ... and a majority has signed for it
    Proven,
    /// ... and a witness outside the group has signed for it too
    Witnessed,
}

impl From<AckArg> for AckLevel {
    fn from(ack: AckArg) -> AckLevel {
        match ack {
            AckArg::Durable => AckLevel::Durable,
            AckArg::Proven => AckLevel::Proven,
            AckArg::Witnessed => AckLevel::Witnessed,
        }
    }
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum OutcomeArg {
    Success,
    Failure,
    Unknown,
}

/// A receipt as programs read it. Bytes are hexadecimal.
#[derive(Debug, Serialize)]
struct ReceiptView {
    index: u64,
    seq: u64,
    /// RFC 3339.
    received: String,
    leaf: String,
    salt: String,
    /// Reads at this level see the event.
    tree_size: u64,
    producer: String,
    /// The level that was reached.
    ack: &'static str,
    /// Whether the policy accepts the checkpoint that it was proven against.
    verified: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoint_size: Option<u64>,
    /// The proof file, if one was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    proof: Option<String>,
}

pub(super) async fn run(global: &Global, args: Args) -> anyhow::Result<ExitCode> {
    let default = if args.proof.is_some() { AckArg::Proven } else { AckArg::Durable };
    let ack = AckLevel::from(args.ack.unwrap_or(default));
    if ack == AckLevel::Durable && args.proof.is_some() {
        eprintln!("error: --proof needs a proof, and --ack durable waits for none");
        eprintln!("hint: leave --ack out, or say --ack proven");
        return Ok(ExitCode::from(2));
    }
    let (name, proof) = (args.producer.clone(), args.proof.clone());
    let event = event(args);
    let client = global.connect().await?;
    let receipt = append(global, &client, &name, event.clone(), ack).await?;
    let file = match &proof {
        Some(_) => receipt.proof_file(&event).transpose().context("make the proof file")?,
        None => None,
    };
    let written = file.as_ref().and(proof.as_ref());
    if let Some((path, file)) = written.zip(file.as_ref()) {
        output::write_private(path, file.to_string().as_bytes()).await?;
    }
    print(global, &name, &receipt, written.map(|path| path.display().to_string()))?;
    if receipt.ack >= ack {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("note: the event is recorded at index {}, and its proof is pending", receipt.index);
    eprintln!(
        "hint: `indelible prove {} -o FILE` writes it as soon as there is one",
        receipt.index
    );
    Ok(ExitCode::from(output::EXIT_PENDING))
}

fn print(
    global: &Global,
    name: &str,
    receipt: &Receipt,
    proof: Option<String>,
) -> anyhow::Result<()> {
    let checkpoint_size = receipt.proof().map(|proof| proof.checkpoint.checkpoint.size);
    let verified = receipt.verification.is_verified();
    let ack = match receipt.ack {
        AckLevel::Durable => "durable",
        AckLevel::Proven => "proven",
        AckLevel::Witnessed => "witnessed",
    };
    if global.json {
        output::print_json(&ReceiptView {
            index: receipt.index,
            seq: receipt.seq,
            received: output::time(receipt.leaf.received),
            leaf: hex::encode(receipt.leaf.encode()),
            salt: receipt.salt.to_string(),
            tree_size: receipt.tree_size,
            producer: output::producer_id(name).to_string(),
            ack,
            verified,
            checkpoint_size,
            proof,
        })?;
    } else {
        let mut table = output::table();
        table.add_row(["index", &receipt.index.to_string()]);
        table.add_row(["received", &output::time(receipt.leaf.received)]);
        table.add_row(["producer", &format!("{name} (seq {})", receipt.seq)]);
        table.add_row(["commitment", &receipt.leaf.commitment.to_string()]);
        table.add_row(["salt", &receipt.salt.to_string()]);
        table.add_row(["acknowledged", ack]);
        if let Some(size) = checkpoint_size {
            let believed = if verified { "verified" } else { "not verified: no policy" };
            table.add_row(["checkpoint", &format!("size {size} ({believed})")]);
        }
        if let Some(proof) = &proof {
            table.add_row(["proof", proof]);
        }
        output::print(table)?;
    }
    Ok(())
}

/// Another `append` may open the same producer between our opening and our append. What is fenced
/// is not recorded, so opening again and appending again records it once.
async fn append(
    global: &Global,
    client: &Client,
    name: &str,
    event: Event,
    ack: AckLevel,
) -> anyhow::Result<Receipt> {
    let deadline = Instant::now() + global.timeout_or(30);
    loop {
        let producer = client.producer(output::producer_id(name), name).ack(ack).open().await?;
        match producer.append_with_deadline(event.clone(), deadline).await {
            Err(AppendError::Fenced(_)) if Instant::now() < deadline => {}
            outcome => return Ok(outcome?),
        }
    }
}

fn event(args: Args) -> Event {
    let mut targets = args.target.into_iter();
    let mut event = Event::new(args.actor, args.action, targets.next().unwrap_or_default());
    event.targets.extend(targets.map(|id| Target { id, ..Default::default() }));
    event.r#type = args.event_type.unwrap_or_default();
    event.reason = args.reason.unwrap_or_default();
    event.attributes.extend(args.attributes);
    let outcome = match args.outcome {
        Some(OutcomeArg::Success) => Outcome::Success,
        Some(OutcomeArg::Failure) => Outcome::Failure,
        Some(OutcomeArg::Unknown) | None => Outcome::Unknown,
    };
    event.set_outcome(outcome);
    event.time_unix_ns = i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(0);
    event
}

fn parse_attribute(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as KEY=VALUE".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_a_key_and_a_value() {
        assert_eq!(parse_attribute("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(parse_attribute("a="), Ok(("a".into(), String::new())));
        assert!(parse_attribute("=b").is_err());
        assert!(parse_attribute("ab").is_err());
    }
}
