//! `indelible node-key`: gives a new node its identity.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use indelible_client::Client;
use indelible_core::TrailId;
use indelible_tls::issue::{Leaf, csr};
use indelible_tls::{Name, Role};

use super::Global;
use super::cert::{NodeFiles, hosts_of, make_folders};
use super::init::{check_unused, new_identity};
use crate::disk::{StagedFile, create_private_folder, read_text, write_secret_new};
use crate::node::NodeConfig;
use crate::storage::identity::Identity;
use crate::storage::log_key;

/// Makes the identity of a node that will join a running group, a request for its certificate, and
/// prints the commands that issue the one and add the other.
///
/// Asks the group for its trail, its segment size and the next node id. If the folder has an
/// identity already, prints that one.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The new node's configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The log key of a node that has it (the file `log_key` in its data folder), to be copied.
    /// Without it the new node cosigns checkpoints, but publishes none while it leads. A person at
    /// a terminal is asked for it.
    #[arg(long, value_name = "FILE")]
    log_key: Option<PathBuf>,
}

/// Refuses to replace an identity.
pub(super) async fn run(global: &Global, args: Args) -> anyhow::Result<ExitCode> {
    let config = NodeConfig::load(&args.config)?;
    let log_key = match args.log_key {
        None => ask_for_log_key(global, &config)?,
        named => named,
    };
    let log_key = log_key.as_deref().map(read_log_key).transpose()?;
    let identity = if config.data_dir.join("identity").exists() {
        Identity::read(&config.data_dir)?
    } else {
        let identity = make(&global.connect().await?, &config).await?;
        create_private_folder(&config.data_dir)?;
        Identity::write_new(&config.data_dir, &identity)
            .with_context(|| format!("write identity in {}", config.data_dir.display()))?;
        identity
    };
    if let Some((path, text)) = log_key {
        give_log_key(&config, &identity, &path, &text)?;
    }
    let files = NodeFiles::of(&config);
    request_certificate(&identity, &config, &files)?;
    let has_log_key = log_key::read(&config.data_dir, &identity.origin)?.is_some();
    report(global.json, &identity, &args.config, &config, &files, has_log_key);
    Ok(ExitCode::SUCCESS)
}

/// Asks a person for the file of the log key, unless the node has the key; others are told what
/// they get by the report. The key itself is never typed or shown.
fn ask_for_log_key(global: &Global, config: &NodeConfig) -> anyhow::Result<Option<PathBuf>> {
    let is_there = config.data_dir.join(log_key::LOG_KEY_FILE).exists();
    let is_person = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    if is_there || global.json || !is_person {
        return Ok(None);
    }
    eprint!("file with the trail's log key (`log_key` of a node that has it; empty: none): ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("read the name of the file")?;
    let answer = answer.trim();
    Ok((!answer.is_empty()).then(|| answer.into()))
}

/// Makes the TLS key and the request for its certificate, unless the node has a key.
fn request_certificate(
    identity: &Identity,
    config: &NodeConfig,
    files: &NodeFiles,
) -> anyhow::Result<()> {
    if files.key.exists() {
        return Ok(());
    }
    let name = Name::new(identity.trail_id, Role::Node(identity.node_id))?;
    let leaf = Leaf { hosts: hosts_of(config), ..Leaf::new(name) };
    let (request, key) = csr(&leaf).context("make the request for a certificate")?;
    make_folders([&files.request, &files.key])?;
    // The key last: where it is there is a request for it. Crash between: the request is in the way
    // of the next run's, which replaces it.
    write_request(&files.request, &request)?;
    write_secret_new(&files.key, key.as_bytes()).context("write the TLS key")
}

fn write_request(path: &Path, request: &str) -> anyhow::Result<()> {
    let staged = StagedFile::public(path, request.as_bytes())?;
    let written = if path.exists() { staged.commit_over() } else { staged.commit_new() };
    written.context("write the request for a certificate")
}

fn read_log_key(path: &Path) -> anyhow::Result<(PathBuf, String)> {
    Ok((path.to_owned(), read_text(path)?))
}

/// Copies the log key into the new node's folder, unless it is there.
fn give_log_key(
    config: &NodeConfig,
    identity: &Identity,
    path: &Path,
    text: &str,
) -> anyhow::Result<()> {
    let key = log_key::parse(text, &identity.origin, path)?;
    match log_key::read(&config.data_dir, &identity.origin)? {
        Some(present) if present.verifier() == key.verifier() => Ok(()),
        Some(_) => bail!("{} has another log key already", config.data_dir.display()),
        None => Ok(log_key::write_new(&config.data_dir, &key)?),
    }
}

async fn make(client: &Client, config: &NodeConfig) -> anyhow::Result<Identity> {
    check_unused(&config.data_dir)?;
    let statuses = client.status().await;
    let view =
        statuses.into_iter().filter_map(|status| status.view.ok()).max_by_key(|view| view.term);
    let Some(view) = view else {
        bail!("no node of the group answers\nhint: --profile, --endpoints")
    };
    let Some(trail_id) = TrailId::from_slice(&view.trail_id) else {
        bail!("the group answers with a trail id of {} bytes", view.trail_id.len());
    };
    Ok(new_identity(view.next_node_id, trail_id, &view.origin, view.segment_bytes))
}

fn report(
    json: bool,
    identity: &Identity,
    config_file: &Path,
    config: &NodeConfig,
    files: &NodeFiles,
    has_log_key: bool,
) {
    let key = hex::encode(identity.public_key);
    if json {
        println!(
            "{}",
            serde_json::json!({
                "id": identity.node_id,
                "trail_id": identity.trail_id.to_string(),
                "public_key": key,
                "client_addr": config.client_addr,
                "raft_addr": config.raft_addr,
                "http_addr": config.http_addr,
                "certificate_request": files.request.display().to_string(),
                "log_key": has_log_key,
            })
        );
        return;
    }
    println!("node {} of trail {}", identity.node_id, identity.trail_id);
    println!("key  {key}");
    println!();
    if !files.cert.exists() {
        println!("have its certificate issued where the certificate authority is:");
        println!("  indelible cert sign {}", files.request.display());
        println!("put that in {}", files.cert.display());
        println!("and the authority's ca.crt in {}", files.ca.display());
        println!();
    }
    if !has_log_key {
        println!(
            "it has no log key: while it leads it publishes no checkpoints, and it hands leadership"
        );
        println!(
            "over. Before it starts, give it a copy of the file `log_key` of a node that has it:"
        );
        println!("  indelible node-key --config {} --log-key FILE", config_file.display());
        println!();
    }
    println!("start it, then add it:");
    println!("  indelible serve --config {}", config_file.display());
    println!(
        "  indelible add-node --id {} --client-addr {} --raft-addr {} --http-addr {} --public-key {key} --reason WHY",
        identity.node_id, config.client_addr, config.raft_addr, config.http_addr
    );
}
