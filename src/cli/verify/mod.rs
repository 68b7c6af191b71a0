//! `indelible verify`: checks checkpoints, proofs and bundles, with no node and no network.

mod files;
mod keys;
mod report;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use indelible_core::{Checkpoint, Note, Policy, ProofFile};

use super::Global;
use crate::disk::read_text;
use report::{Outcome, Report};

/// Exit code if anything is wrong.
const WRONG: u8 = 1;
/// Exit code if all that could be checked is right, yet nobody said whose signatures count.
const NO_POLICY: u8 = 2;

/// Verifies files that say something about a trail: checkpoints, .tlog-proof files, and exports.
///
/// Which of them a file is shows in its first bytes. All trust comes from the policy, a file that
/// `indelible init` writes and that should reach you by another way than what you verify. Exits
/// with 0 if everything is right, with 1 if anything is wrong, and with 2 if nothing is wrong but
/// there was no policy.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What to verify
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Whose signatures count: a C2SP policy file
    #[arg(long, value_name = "FILE", conflicts_with = "no_policy")]
    policy: Option<PathBuf>,
    /// Check everything but who signed it
    #[arg(long)]
    no_policy: bool,
    /// A checkpoint that you kept: the trail must have grown from it. May be given several times
    #[arg(long, value_name = "OLD_CHECKPOINT")]
    against: Vec<PathBuf>,
}

/// What to verify by.
struct Terms {
    policy: Option<Policy>,
    /// Kept checkpoints, by the names of their files.
    against: Vec<(String, Checkpoint)>,
    /// What is odd about those, without being an error.
    notes: Vec<String>,
}

pub(super) fn run(global: &Global, args: Args) -> anyhow::Result<ExitCode> {
    let terms = Terms::load(args.policy.as_deref(), &args.against)?;
    for note in &terms.notes {
        eprintln!("note: {note}");
    }
    let mut reports = Vec::new();
    for file in &args.files {
        let report = files::verify(file, &terms, args.no_policy);
        // As they come: a large file after a small one takes its time.
        report.print(global.json)?;
        reports.push(report);
    }
    let views = split_views(&reports);
    for view in &views {
        eprintln!("error: {view}");
    }
    let code = exit_code(&reports, &views);
    if code == NO_POLICY {
        eprintln!(
            "unverified: no policy; hint: --policy FILE says whose signatures count, --no-policy does without"
        );
    }
    Ok(ExitCode::from(code))
}

fn exit_code(reports: &[Report], views: &[String]) -> u8 {
    if !views.is_empty() || reports.iter().any(Report::is_wrong) {
        WRONG
    } else if reports.iter().any(|report| report.outcome == Outcome::Unverified) {
        NO_POLICY
    } else {
        0
    }
}

impl Terms {
    fn load(policy: Option<&Path>, against: &[PathBuf]) -> anyhow::Result<Terms> {
        let policy = policy.map(load_policy).transpose()?;
        let mut terms = Terms { policy, against: Vec::new(), notes: Vec::new() };
        for path in against {
            let name = path.display().to_string();
            let note = load_checkpoint(path).with_context(|| format!("read --against {name}"))?;
            if let Some(policy) = &terms.policy
                && let Err(error) = policy.check(&note)
            {
                terms.notes.push(format!("{name}: the policy does not believe it: {error}"));
            }
            let checkpoint =
                Checkpoint::parse(&note.text).with_context(|| format!("read --against {name}"))?;
            terms.against.push((name, checkpoint));
        }
        Ok(terms)
    }
}

fn load_policy(path: &Path) -> anyhow::Result<Policy> {
    let text = read_text(path)?;
    text.parse().with_context(|| format!("read {}", path.display()))
}

/// A checkpoint on its own, or the one in a proof file.
fn load_checkpoint(path: &Path) -> anyhow::Result<Note> {
    let text = read_text(path)?;
    if text.starts_with(indelible_core::proof_file::PROOF_FILE_HEADER) {
        return Ok(ProofFile::parse(&text)?.checkpoint);
    }
    Ok(Note::parse(&text)?)
}

/// Files that speak of trees of the same size with different roots: whoever signed both showed two
/// histories.
fn split_views(reports: &[Report]) -> Vec<String> {
    let mut views = Vec::new();
    let sound = reports.iter().filter(|report| !report.is_wrong());
    let sound: Vec<_> =
        sound.filter_map(|report| Some((report, report.checkpoint.as_ref()?))).collect();
    for (position, (report, checkpoint)) in sound.iter().enumerate() {
        let differs = |other: &Checkpoint| {
            other.origin == checkpoint.origin
                && other.size == checkpoint.size
                && other.root != checkpoint.root
        };
        if let Some((other, old)) = sound[..position].iter().find(|(_, other)| differs(other)) {
            let Checkpoint { origin, size, root, .. } = checkpoint;
            views.push(format!(
                "{} and {} both speak of {origin} at size {size}, with the roots {} and {root}: two histories were shown",
                other.file, report.file, old.root
            ));
        }
    }
    views
}
