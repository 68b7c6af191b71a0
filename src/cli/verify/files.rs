//! One file: what it is, and whether it is right.

use std::io::{BufRead, Read};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, anyhow, bail};
use indelible_core::bundle::{BUNDLE_MAGIC, BundleReader};
use indelible_core::limits::PROOF_FILE_BYTES_MAX;
use indelible_core::merkle::empty_root;
use indelible_core::proof_file::PROOF_FILE_HEADER;
use indelible_core::{Checkpoint, Note, Policy, ProofFile};

use super::super::output;
use super::report::{Old, Outcome, RecordLine, Records, Report};
use super::{Terms, keys};
use crate::disk::open_for_reading;

/// Verifies a file. What is wrong with it, even that it cannot be read, is in the report.
pub(super) fn verify(path: &Path, terms: &Terms, no_policy: bool) -> Report {
    let mut report = Report::new(path.display().to_string());
    report.outcome = match fill(&mut report, path, terms) {
        Err(error) => Outcome::Wrong(output::describe(&error)),
        Ok(()) if terms.policy.is_some() => Outcome::Verified,
        Ok(()) if no_policy => Outcome::Sound,
        Ok(()) => Outcome::Unverified,
    };
    report
}

fn fill(report: &mut Report, path: &Path, terms: &Terms) -> anyhow::Result<()> {
    let mut input = open_for_reading(path)?;
    let first = input.fill_buf().context("read the file")?;
    if first.starts_with(&BUNDLE_MAGIC) {
        report.kind = "bundle";
        return bundle(report, input, terms);
    }
    let text = read_text(input)?;
    if text.starts_with(PROOF_FILE_HEADER) {
        report.kind = "proof";
        return proof(report, &text, terms);
    }
    checkpoint(report, &text, terms)
}

/// A text file of a size that a proof or a note may have.
fn read_text(input: impl Read) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    input.take(PROOF_FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).context("read the file")?;
    if bytes.is_empty() {
        bail!("the file is empty");
    }
    if bytes.len() > PROOF_FILE_BYTES_MAX {
        bail!(
            "neither a checkpoint nor a proof nor an export: more than {PROOF_FILE_BYTES_MAX} bytes of something else"
        );
    }
    String::from_utf8(bytes)
        .map_err(|_| anyhow!("neither a checkpoint nor a proof nor an export: it is not text"))
}

fn checkpoint(report: &mut Report, text: &str, terms: &Terms) -> anyhow::Result<()> {
    if text.parse::<Policy>().is_ok() {
        bail!("this is a policy; hint: give it with --policy");
    }
    let note = Note::parse(text)
        .map_err(|error| anyhow!("neither a checkpoint nor a proof nor an export: {error}"))?;
    report.kind = "checkpoint";
    let checkpoint = Checkpoint::parse(&note.text)?;
    report.checkpoint = Some(checkpoint.clone());
    report.trusted = terms.policy.as_ref().map(|policy| policy.check(&note)).transpose()?;
    compare(report, &checkpoint, terms)
}

fn proof(report: &mut Report, text: &str, terms: &Terms) -> anyhow::Result<()> {
    let file = ProofFile::parse(text)?;
    let included = file.check_inclusion()?;
    report.checkpoint = Some(included.checkpoint.clone());
    report.record =
        Some(RecordLine::new(included.index, &included.leaf, included.content.as_ref()));
    report.trusted = terms
        .policy
        .as_ref()
        .map(|policy| file.verify(policy))
        .transpose()?
        .map(|proven| proven.trusted);
    compare(report, &included.checkpoint, terms)
}

fn bundle(report: &mut Report, input: impl Read, terms: &Terms) -> anyhow::Result<()> {
    let start = Instant::now();
    let reader = BundleReader::open(input)?;
    report.checkpoint = Some(reader.checkpoint().clone());
    let (own, note) = (reader.header().policy.clone(), reader.header().note.clone());
    let against: Vec<Checkpoint> = terms.against.iter().map(|(_, old)| old.clone()).collect();
    let verified = reader.verify(terms.policy.as_ref(), &against, |_| {})?;
    report.records = Some(Records {
        from: verified.records.start,
        to: verified.records.end,
        withheld: verified.withheld,
        event_bytes: verified.event_bytes,
        seconds: start.elapsed().as_secs_f64(),
    });
    let old = terms.against.iter().zip(&verified.against);
    report.against = old
        .map(|((file, _), old)| Old {
            file: file.clone(),
            size: old.size,
            how: old.consistency.name(),
        })
        .collect();
    report.older = verified.older;
    report.notes.extend(verified.older_doubted.iter().map(|(size, lacks)| {
        format!("the policy does not believe the checkpoint of size {size} inside: {lacks}")
    }));
    report.keys = Some(verified.keys.len());
    match (&terms.policy, own) {
        (Some(policy), Some(own)) if *policy != own => {
            report.notes.push("it was exported under another policy than yours".into());
        }
        (None, Some(own)) => report.notes.push(match own.check(&note) {
            Ok(_) => "the policy that came inside believes the checkpoint; that proves nothing unless you trust whoever made the file".into(),
            Err(error) => format!("not even the policy that came inside believes the checkpoint: {error}"),
        }),
        _ => {}
    }
    if let Some(policy) = &terms.policy {
        report.notes.extend(keys::differences(policy, &verified.checkpoint, &verified.keys));
    }
    for index in verified.keys_left_out {
        report
            .notes
            .push(format!("leaf {index} says whose keys count, and the key history leaves it out"));
    }
    report.trusted = verified.trusted;
    Ok(())
}

/// Compares with the checkpoints that were kept. A single checkpoint can tell only of its own size.
fn compare(report: &mut Report, checkpoint: &Checkpoint, terms: &Terms) -> anyhow::Result<()> {
    for (file, old) in &terms.against {
        let (size, tree_size) = (old.size, checkpoint.size);
        if old.origin != checkpoint.origin {
            bail!("{file} is a checkpoint of {}, this is one of {}", old.origin, checkpoint.origin);
        }
        if size == tree_size && old.root != checkpoint.root {
            bail!(
                "{file} has the same size {size} and another root: {}, here {}; two histories were shown",
                old.root,
                checkpoint.root
            );
        }
        if size == 0 && old.root != empty_root() {
            bail!("{file} has size 0 and not the root of an empty tree");
        }
        if size > tree_size {
            bail!("{file} is newer: size {size}, here {tree_size}; hint: exchange the two files");
        }
        if size != tree_size && size != 0 {
            bail!(
                "nothing here tells whether the trail of size {tree_size} grew from that of size {size} in {file}; \
                 hint: export from leaf 0, or with a proof from that size, and verify the export against it"
            );
        }
        let how = if size == tree_size { "same" } else { "recomputed" };
        report.against.push(Old { file: file.clone(), size, how });
    }
    Ok(())
}
