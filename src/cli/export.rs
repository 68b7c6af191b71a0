//! `indelible export`: records, proofs and keys in one file for an auditor.

use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use indelible_client::{Client, Level, Prove, ReadOptions, Record, SignedCheckpoint};
use indelible_core::bundle::{BundleHeader, BundleWriter, KeyRecord, Older};
use indelible_core::{Checkpoint, Note};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::prove::covering;
use super::{Global, output};

/// Writes a bundle: a range of records with their content, the proof that they are in the tree of a
/// signed checkpoint, the records that say whose keys count, and the policy.
///
/// `indelible verify BUNDLE --policy POLICY` checks it on a machine that has never seen the
/// cluster. Give the checkpoints that the auditor already has with --older: the bundle then proves
/// that nothing before them has changed. Exits with 4 if no checkpoint that the policy accepts
/// covers the range.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// First leaf index
    #[arg(long, default_value_t = 0, value_name = "INDEX")]
    from: u64,
    /// One past the last leaf index; without it, all that the newest checkpoint covers
    #[arg(long, value_name = "INDEX")]
    to: Option<u64>,
    /// The bundle to write
    #[arg(short, long, value_name = "BUNDLE")]
    output: PathBuf,
    /// A checkpoint that the auditor has from before; may be given several times
    #[arg(long, value_name = "CHECKPOINT")]
    older: Vec<PathBuf>,
}

pub(super) async fn run(global: &Global, args: Args) -> anyhow::Result<ExitCode> {
    let older = read_notes(&args.older).await?;
    let client = global.connect().await?;
    let checkpoint = covering(global, &client, args.to.unwrap_or(1), false).await?;
    let Some(checkpoint) = checkpoint else { bail!("there is no checkpoint yet") };
    let size = checkpoint.checkpoint.size;
    let (from, to) = (args.from, args.to.unwrap_or(size));
    if from >= to || to > size {
        bail!(
            "--from {from} --to {to} is no range of the {size} records that the checkpoint covers"
        );
    }
    let header = header(&client, &checkpoint, from, to, older).await?;
    let draft = output::draft_of(&args.output);
    let doing = || format!("write {}", args.output.display());
    let file = output::create_private(&draft).await.with_context(doing)?.into_std().await;
    let writer = BundleWriter::new(BufWriter::with_capacity(1 << 20, file), header);
    let file = write_records(&client, writer.with_context(doing)?, from, to).await?;
    let file = file.into_inner().map_err(|error| error.into_error()).with_context(doing)?;
    file.sync_all().with_context(doing)?;
    // Crash here: a draft that nobody takes for a bundle.
    tokio::fs::rename(&draft, &args.output).await.with_context(doing)?;
    let path = args.output.display().to_string();
    if global.json {
        let verified = checkpoint.is_verified();
        output::print(json!({
            "bundle": path, "from": from, "to": to, "checkpoint_size": size, "verified": verified,
        }))?;
    } else {
        output::print(format_args!("{path} holds records {from} to {} of {size}", to - 1))?;
    }
    Ok(output::unverified(&client, checkpoint.verification))
}

async fn read_notes(paths: &[PathBuf]) -> anyhow::Result<Vec<(Note, Checkpoint)>> {
    let mut notes = Vec::new();
    for path in paths {
        let doing = || format!("read the checkpoint {}", path.display());
        let text = tokio::fs::read_to_string(path).await.with_context(doing)?;
        let note = Note::parse(&text).with_context(doing)?;
        let checkpoint = Checkpoint::parse(&note.text).with_context(doing)?;
        notes.push((note, checkpoint));
    }
    notes.sort_by_key(|(_, checkpoint)| checkpoint.size);
    notes.dedup_by_key(|(_, checkpoint)| checkpoint.size);
    Ok(notes)
}

async fn header(
    client: &Client,
    checkpoint: &Arc<SignedCheckpoint>,
    from: u64,
    to: u64,
    older: Vec<(Note, Checkpoint)>,
) -> anyhow::Result<BundleHeader> {
    let mut proven = Vec::new();
    for (note, old) in older {
        proven.push(extends(client, checkpoint, note, &old).await?);
    }
    let keys = client.key_history(checkpoint).await.context("ask for the key history")?;
    Ok(BundleHeader {
        policy: client.policy().map(|policy| (*policy).clone()),
        note: Note::parse(&checkpoint.note).context("read the checkpoint")?,
        proof: client.range_proof(from, to, checkpoint).await?,
        older: proven,
        keys: keys.into_iter().map(key_record).collect::<anyhow::Result<Vec<_>>>()?,
    })
}

/// That the checkpoint's tree has grown from an older one.
async fn extends(
    client: &Client,
    checkpoint: &SignedCheckpoint,
    note: Note,
    old: &Checkpoint,
) -> anyhow::Result<Older> {
    let new = &checkpoint.checkpoint;
    if old.origin != new.origin {
        bail!(
            "the checkpoint of size {} is one of {}, not of {}",
            old.size,
            old.origin,
            new.origin
        );
    }
    if old.size == 0 || old.size > new.size {
        bail!("there is no proof from size {} to size {}", old.size, new.size);
    }
    let consistency = client.prove_consistency(old.size, Some(new.size)).await?;
    if consistency.old_root != old.root || consistency.new_root != new.root {
        bail!(
            "the trail of size {} does not extend the older checkpoint of size {}\n\
             hint: `indelible audit` says who signed what",
            new.size,
            old.size
        );
    }
    Ok(Older { size: old.size, note: Some(note), proof: consistency.proof })
}

fn key_record(record: Record) -> anyhow::Result<KeyRecord> {
    let proof =
        record.proof().context("take the proof of a key record")?.inclusion(record.index)?;
    let Record { index, leaf, salt, ref event, .. } = record;
    Ok(KeyRecord { index, leaf, salt, event: event.to_vec(), proof })
}

/// Streams the records into the bundle, which computes their tree and refuses any other than the
/// checkpoint's.
async fn write_records<W: Write>(
    client: &Client,
    mut bundle: BundleWriter<W>,
    from: u64,
    to: u64,
) -> anyhow::Result<W> {
    let options = ReadOptions { level: Level::AtLeast(to), prove: Prove::Never, follow: false };
    let mut records = client.read(from..to, options).await?;
    let progress = progress_bar(to - from);
    while let Some(record) = records.next().await.transpose()? {
        bundle.push(&record.leaf, Some((&record.salt, &record.event))).context("write a record")?;
        progress.inc(1);
    }
    progress.finish_and_clear();
    bundle.finish().context("finish the bundle")
}

/// On stderr, and only if that is a terminal.
fn progress_bar(records: u64) -> ProgressBar {
    let template = "{bar:30} {pos}/{len} records ({per_sec}, {eta} left)";
    let style = ProgressStyle::with_template(template).expect("the template is a constant");
    ProgressBar::new(records).with_style(style)
}
