//! `indelible check`: re-reads and re-hashes a stopped node's data.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use super::Global;
use crate::storage::check::{Report, check};

/// Re-reads everything in a data folder, recomputes every hash, and says what is wrong and where.
///
/// The node must be stopped. Nothing is changed. Exits with 0 only if everything is sound.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The node's data folder.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// Exit code 1 if anything is wrong.
pub(super) fn run(global: &Global, args: Args) -> anyhow::Result<ExitCode> {
    let scratch = tempfile::Builder::new().prefix("indelible-check-").tempdir()?;
    let report = check(&args.dir, Some(scratch.path()))?;
    let sound = report.problems.is_empty();
    if global.json {
        print_json(&report)
    } else {
        print_text(&report)
    }
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print_json(report: &Report) {
    let problems: Vec<_> = report.problems.iter().map(ToString::to_string).collect();
    println!(
        "{}",
        json!({
            "sound": problems.is_empty(),
            "problems": problems,
            "notes": report.notes,
            "closed": report.closed,
            "segments": report.segments,
            "entries": report.entries,
            "applied": report.applied,
            "leaves": report.leaves,
            "root": report.root.to_string(),
            "chain": report.chain.to_string(),
        })
    );
}

fn print_text(report: &Report) {
    for problem in &report.problems {
        println!("{problem}");
    }
    for note in &report.notes {
        println!("note: {note}");
    }
    println!(
        "{}: {} segments, {} entries, {} leaves",
        if report.problems.is_empty() { "sound" } else { "NOT SOUND" },
        report.segments,
        report.entries,
        report.leaves
    );
    println!("root   {}", report.root);
    println!("chain  {}", report.chain);
}
