//! `indelible append`: records one event.

use std::process::ExitCode;

use indelible_client::{AppendError, Client, Event, Outcome, Receipt, v1::Target};
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
}

pub(super) async fn run(global: &Global, args: Args) -> anyhow::Result<ExitCode> {
    let name = args.producer.clone();
    let event = event(args);
    let client = global.connect().await?;
    let receipt = append(global, &client, &name, event).await?;
    if global.json {
        output::print_json(&ReceiptView {
            index: receipt.index,
            seq: receipt.seq,
            received: output::time(receipt.leaf.received),
            leaf: hex::encode(receipt.leaf.encode()),
            salt: receipt.salt.to_string(),
            tree_size: receipt.tree_size,
            producer: output::producer_id(&name).to_string(),
        })?;
    } else {
        let mut table = output::table();
        table.add_row(["index", &receipt.index.to_string()]);
        table.add_row(["received", &output::time(receipt.leaf.received)]);
        table.add_row(["producer", &format!("{name} (seq {})", receipt.seq)]);
        table.add_row(["commitment", &receipt.leaf.commitment.to_string()]);
        table.add_row(["salt", &receipt.salt.to_string()]);
        output::print(table)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Another `append` may open the same producer between our opening and our append. What is fenced
/// is not recorded, so opening again and appending again records it once.
async fn append(
    global: &Global,
    client: &Client,
    name: &str,
    event: Event,
) -> anyhow::Result<Receipt> {
    let deadline = Instant::now() + global.timeout_or(30);
    loop {
        let producer = client.producer(output::producer_id(name), name).open().await?;
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
