//! `indelible read`: prints a range of records, one JSON object a line.

use std::io::{BufWriter, Write};
use std::process::ExitCode;

use indelible_client::{Level, Prove, ReadOptions, Verification};

use super::{Global, output};

/// Which records.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// First leaf index
    #[arg(long, default_value_t = 0, value_name = "INDEX")]
    from: u64,
    /// One past the last leaf index; without it, to the end of the trail
    #[arg(long, value_name = "INDEX")]
    to: Option<u64>,
    /// Go on with records as they come
    #[arg(long)]
    follow: bool,
    /// How fresh: linearizable, at-least:TREE_SIZE or any
    #[arg(long, default_value = "linearizable", value_parser = parse_level)]
    level: Level,
    /// Prove the records against signed checkpoints; always so with a policy
    #[arg(long)]
    prove: bool,
}

pub(super) async fn run(global: &Global, args: Args) -> anyhow::Result<ExitCode> {
    let client = global.connect().await?;
    let prove = if args.prove { Prove::Always } else { Prove::ByPolicy };
    let options = ReadOptions { level: args.level, follow: args.follow, prove };
    let mut records = match args.to {
        Some(to) => client.read(args.from..to, options).await?,
        None => client.read(args.from.., options).await?,
    };
    let mut out = BufWriter::with_capacity(64 * 1024, std::io::stdout());
    let mut first_unverified: Option<Verification> = None;
    while let Some(record) = records.next().await.transpose()? {
        if !record.verification.is_verified() {
            first_unverified.get_or_insert(record.verification);
        }
        serde_json::to_writer(&mut out, &output::RecordView::new(&record))?;
        out.write_all(b"\n")?;
        // What may be the newest record for hours must not wait in our buffer.
        if args.follow && records.buffered() == 0 {
            out.flush()?;
        }
    }
    out.flush()?;
    Ok(match first_unverified.filter(|_| args.prove) {
        Some(verification) => output::unverified(&client, verification),
        None => ExitCode::SUCCESS,
    })
}

/// `linearizable`, `at-least:N` or `any`.
pub(super) fn parse_level(text: &str) -> Result<Level, String> {
    match text {
        "linearizable" => Ok(Level::Linearizable),
        "any" => Ok(Level::Any),
        _ => text
            .strip_prefix("at-least:")
            .and_then(|tree_size| tree_size.parse().ok())
            .map(Level::AtLeast)
            .ok_or_else(|| "write linearizable, at-least:TREE_SIZE or any".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_words() {
        assert_eq!(parse_level("any"), Ok(Level::Any));
        assert_eq!(parse_level("linearizable"), Ok(Level::Linearizable));
        assert_eq!(parse_level("at-least:7"), Ok(Level::AtLeast(7)));
        for bad in ["", "at-least", "at-least:", "at-least:-1", "fresh"] {
            assert!(parse_level(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
