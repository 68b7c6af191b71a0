//! `indelible init`: makes a trail, and the folders of its first nodes.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use indelible_core::limits::{SEGMENT_BYTES_DEFAULT, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
use indelible_core::policy::Witness;
use indelible_core::{KeyType, Policy, SignerKey, TrailId, VerifierKey, node_key_name};

use zeroize::Zeroizing;

use super::Global;
use super::cert::{InitialFiles, InitialNode};
use crate::disk::{create_private_folder, write_text};
use crate::node::NodeConfig;
use crate::storage::identity::{Genesis, GenesisNode, Identity};
use crate::storage::log_key;

/// Makes a trail: its id, its origin, its log key, an identity in the data folder of each of its
/// first nodes, the policy by which others believe its checkpoints, and certificates: an authority,
/// one for each node, and one for an administrator.
///
/// The nodes get the ids 1, 2, 3, ... in the order of their configuration files. Run it once, on
/// one machine, and move each data folder to its node by a safe way: it holds the node's secret
/// key. Hand the policy file to your auditors by a way that does not lead through the nodes:
/// whoever believes a node about whose keys count believes that node.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Configuration files of the first nodes, an odd number of them.
    #[arg(value_name = "CONFIG", required = true)]
    configs: Vec<PathBuf>,
    /// Name of the trail in checkpoints: a schema-less URL that nobody else uses, such as
    /// log.example.com/audit.
    #[arg(long)]
    origin: Option<String>,
    /// Size at which segments close, in bytes. The same for ever, on every node.
    #[arg(long, default_value_t = SEGMENT_BYTES_DEFAULT)]
    segment_bytes: u64,
    /// Where to write the policy file; beside the first configuration unless said otherwise.
    #[arg(long, value_name = "FILE")]
    policy_out: Option<PathBuf>,
    /// Public key of a witness outside the group (a C2SP vkey) whose signature the policy asks for
    /// besides a majority of the nodes. Can be given several times.
    #[arg(long, value_name = "VKEY")]
    witness: Vec<VerifierKey>,
    /// How many of these witnesses must have signed.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    witnesses_needed: usize,
    /// Make no certificates: you have a certificate authority of your own (docs/certificates.md).
    #[arg(long)]
    no_certificates: bool,
}

/// Refuses, before it writes anything, if one of the folders is taken.
pub(super) fn run(global: &Global, args: Args) -> anyhow::Result<ExitCode> {
    if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&args.segment_bytes) {
        bail!(
            "--segment-bytes {} is not between {SEGMENT_BYTES_MIN} and {SEGMENT_BYTES_MAX}",
            args.segment_bytes
        );
    }
    if args.configs.len().is_multiple_of(2) {
        bail!(
            "{} nodes tolerate no more failures than {}; hint: give an odd number of configurations",
            args.configs.len(),
            args.configs.len() - 1
        );
    }
    let configs =
        args.configs.iter().map(|path| NodeConfig::load(path)).collect::<Result<Vec<_>, _>>()?;
    check_distinct(&configs)?;
    let trail_id = TrailId(rand::random());
    let origin = args.origin.unwrap_or_else(|| format!("indelible.local/{trail_id}"));
    check_origin(&origin)?;
    let identities: Vec<Identity> = (1..)
        .zip(&configs)
        .map(|(node_id, _)| new_identity(node_id, trail_id, &origin, args.segment_bytes))
        .collect();
    let nodes =
        identities.iter().zip(&configs).map(|(identity, config)| genesis_node(identity, config));
    let genesis = Genesis { trail_id, nodes: nodes.collect() };
    for config in &configs {
        check_unused(&config.data_dir)?;
    }
    let log_key = SignerKey::new(&origin, KeyType::Log, rand::random())
        .with_context(|| format!("name the log key after the origin {origin}"))?;
    let policy = policy(&log_key, &identities, &args.witness, args.witnesses_needed)?;
    let policy_path =
        args.policy_out.unwrap_or_else(|| args.configs[0].with_file_name(POLICY_FILE));
    if policy_path.exists() {
        bail!(
            "{} exists: it may be the policy of another trail; hint: move it away, or choose another --policy-out",
            policy_path.display()
        );
    }
    let certificates = (!args.no_certificates).then(|| {
        let nodes = (1..).zip(&configs).map(|(id, config)| InitialNode::new(id, config));
        InitialFiles::new(&policy_path, nodes.collect())
    });
    let issued = match &certificates {
        Some(files) => {
            files.check_absent()?;
            Some((files, files.issue(trail_id)?))
        }
        None => None,
    };
    for (identity, config) in identities.iter().zip(&configs) {
        create_private_folder(&config.data_dir)?;
        log_key::write_new(&config.data_dir, &log_key)
            .with_context(|| format!("write the log key in {}", config.data_dir.display()))?;
        Genesis::write_new(&config.data_dir, &genesis)
            .with_context(|| format!("write genesis in {}", config.data_dir.display()))?;
        Identity::write_new(&config.data_dir, identity)
            .with_context(|| format!("write identity in {}", config.data_dir.display()))?;
    }
    // Not durable: it can be written again from the nodes' public keys.
    write_text(&policy_path, &policy.to_string())?;
    if let Some((files, issued)) = &issued {
        files.write(trail_id, issued).context("write the certificates")?;
    }
    let log_key = log_key.verifier().clone();
    let made = Made { origin, identities, log_key, policy_path, certificates };
    made.report(global.json, &configs);
    Ok(ExitCode::SUCCESS)
}

/// A majority of the nodes, and some of the witnesses if there are any.
fn policy(
    log_key: &SignerKey,
    identities: &[Identity],
    witnesses: &[VerifierKey],
    needed: usize,
) -> anyhow::Result<Policy> {
    let node_key = |identity: &Identity| {
        let name = node_key_name(&identity.origin, identity.node_id);
        VerifierKey::new(name, KeyType::Cosigner, identity.public_key)
    };
    let nodes = identities.iter().map(node_key).collect::<Result<Vec<_>, _>>()?;
    let policy = Policy::majority(log_key.verifier().clone(), nodes).context("make the policy")?;
    if witnesses.is_empty() {
        return Ok(policy);
    }
    let witness =
        |key: &VerifierKey| Witness { name: key.name.clone(), key: key.clone(), url: None };
    let witnesses = witnesses.iter().map(witness).collect();
    policy.with_witnesses(witnesses, needed).context("put the witnesses into the policy")
}

/// Name of the policy file unless it is given another one.
pub(crate) const POLICY_FILE: &str = "policy.txt";

/// A fresh identity with a key from the operating system's random source.
pub(super) fn new_identity(
    node_id: u64,
    trail_id: TrailId,
    origin: &str,
    segment_bytes: u64,
) -> Identity {
    let secret_key: Zeroizing<[u8; 32]> = Zeroizing::new(rand::random());
    let public_key = ed25519_dalek::SigningKey::from_bytes(&secret_key).verifying_key().to_bytes();
    Identity { node_id, trail_id, origin: origin.to_owned(), segment_bytes, secret_key, public_key }
}

/// A data folder that has an identity is taken, whatever else is in it.
pub(super) fn check_unused(dir: &Path) -> anyhow::Result<()> {
    if dir.join("identity").exists() || dir.join("segments").exists() {
        bail!(
            "{} already holds a node; hint: an identity is never made anew. To begin another trail, choose another \
             data_dir",
            dir.display()
        );
    }
    Ok(())
}

/// No two nodes may share a folder or an address.
fn check_distinct(configs: &[NodeConfig]) -> anyhow::Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    for config in configs {
        let folder = config.data_dir.to_string_lossy().into_owned();
        for value in [&folder, &config.client_addr, &config.raft_addr, &config.http_addr] {
            if !seen.insert(value.clone()) {
                bail!("{value} is in the configurations twice");
            }
        }
    }
    Ok(())
}

/// As C2SP tlog-checkpoint wants an origin: not empty, no space, no plus sign.
fn check_origin(origin: &str) -> anyhow::Result<()> {
    let bad = |c: char| c.is_whitespace() || c.is_control() || c == '+';
    if origin.is_empty() || origin.len() > 200 || origin.contains(bad) {
        bail!(
            "--origin {origin:?}: 1 to 200 bytes without spaces and plus signs; hint: log.example.com/audit"
        );
    }
    Ok(())
}

fn genesis_node(identity: &Identity, config: &NodeConfig) -> GenesisNode {
    GenesisNode {
        id: identity.node_id,
        client_addr: config.client_addr.clone(),
        raft_addr: config.raft_addr.clone(),
        http_addr: config.http_addr.clone(),
        public_key: identity.public_key,
    }
}

/// A new trail.
struct Made {
    origin: String,
    identities: Vec<Identity>,
    log_key: VerifierKey,
    policy_path: PathBuf,
    certificates: Option<InitialFiles>,
}

impl Made {
    fn report(&self, json: bool, configs: &[NodeConfig]) {
        let trail_id = self.identities[0].trail_id;
        if json {
            let node = |id: &Identity| {
                let public_key = hex::encode(id.public_key);
                serde_json::json!({"id": id.node_id, "public_key": public_key})
            };
            let nodes: Vec<_> = self.identities.iter().map(node).collect();
            let path = |path: PathBuf| path.display().to_string();
            let certificates = self.certificates.as_ref();
            println!(
                "{}",
                serde_json::json!({
                    "trail_id": trail_id.to_string(),
                    "origin": self.origin,
                    "log_key": self.log_key.to_string(),
                    "policy": self.policy_path.display().to_string(),
                    "nodes": nodes,
                    "ca": certificates.map(|files| path(files.authority_cert())),
                    "profile": certificates.map(|files| path(files.profile())),
                })
            );
            return;
        }
        println!("trail   {trail_id}");
        println!("origin  {}", self.origin);
        println!("log key {}", self.log_key);
        for (identity, config) in self.identities.iter().zip(configs) {
            println!(
                "node {}  {}  key {}  in {}",
                identity.node_id,
                config.client_addr,
                hex::encode(identity.public_key),
                config.data_dir.display()
            );
        }
        println!("policy  {}", self.policy_path.display());
        if let Some(files) = &self.certificates {
            println!("ca      {}", files.authority_cert().display());
            println!("profile {}", files.profile().display());
        }
        println!("hand the policy to your auditors, by a way that does not lead through the nodes");
        if let Some(files) = &self.certificates {
            let key = files.authority_key();
            println!("keep {} offline: the nodes do not need it", key.display());
        }
    }
}
