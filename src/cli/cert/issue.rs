//! `indelible cert node` and `indelible cert client`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use indelible_tls::issue::{LEAF_DAYS, Leaf};
use indelible_tls::{Certificate, Name, Role};

use super::super::{Global, output};
use super::authority::{Folder, check_trail, trail_option};
use super::date;
use super::files::{NodeFiles, hosts_of, refuse_existing, write_authority, write_issued};
use crate::node::NodeConfig;
use crate::storage::identity::Identity;

/// Issues a certificate to a node that has its identity, for the hosts of its three addresses.
#[derive(Debug, clap::Args)]
pub(super) struct NodeArgs {
    /// The node's configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// A further DNS name or address of the node, without port. Can be given several times
    #[arg(long, value_name = "HOST")]
    san: Vec<String>,
    /// Days of validity
    #[arg(long, value_name = "NUMBER", default_value_t = LEAF_DAYS)]
    days: u32,
    #[command(flatten)]
    folder: Folder,
}

/// Issues a certificate to a program or a person.
#[derive(Debug, clap::Args)]
pub(super) struct ClientArgs {
    /// Name in records and rules: 1 to 64 of the characters a-z 0-9 . _ -
    name: String,
    /// For an administrator, who may change the group
    #[arg(long)]
    admin: bool,
    /// Days of validity
    #[arg(long, value_name = "NUMBER", default_value_t = LEAF_DAYS)]
    days: u32,
    /// Folder for NAME.crt and NAME.key
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// Trail that it is for; needed with an authority that was not made by `indelible`
    #[arg(long, value_name = "HEX")]
    trail: Option<String>,
    #[command(flatten)]
    folder: Folder,
}

pub(super) fn run_node(global: &Global, args: &NodeArgs) -> anyhow::Result<()> {
    let config = NodeConfig::load(&args.config)?;
    let identity = Identity::read(&config.data_dir)?;
    let files = NodeFiles::of(&config);
    let hint = "`indelible cert renew` replaces a certificate";
    refuse_existing([&files.cert, &files.key], hint)?;
    let authority = args.folder.load()?;
    let name = Name::new(identity.trail_id, Role::Node(identity.node_id))?;
    check_trail(&authority, &name)?;
    let mut hosts = hosts_of(&config);
    hosts.extend(args.san.iter().cloned());
    let issued = authority.issue(&Leaf { hosts, days: args.days, ..Leaf::new(name) })?;
    write_issued(&files.cert, &files.key, &issued)?;
    write_authority(&files.ca, authority.cert_pem())?;
    report(global, &issued.cert_pem, &files.cert, Some(&files.key))
}

pub(super) fn run_client(global: &Global, args: &ClientArgs) -> anyhow::Result<()> {
    let authority = args.folder.load()?;
    let trail = args.trail.as_deref().map(trail_option).transpose()?;
    let trail = trail.or_else(|| authority.trail());
    let trail = trail.context("the authority names no trail; hint: --trail")?;
    let role = match args.admin {
        true => Role::Admin(args.name.clone()),
        false => Role::Client(args.name.clone()),
    };
    let name = Name::new(trail, role)?;
    check_trail(&authority, &name)?;
    let cert = args.out.join(format!("{}.crt", args.name));
    let key = args.out.join(format!("{}.key", args.name));
    let hint = "`indelible cert renew` replaces a certificate, --out chooses another folder";
    refuse_existing([&cert, &key], hint)?;
    let issued = authority.issue(&Leaf { days: args.days, ..Leaf::new(name) })?;
    write_issued(&cert, &key, &issued)?;
    report(global, &issued.cert_pem, &cert, Some(&key))
}

/// Prints what was issued.
pub(super) fn report(
    global: &Global,
    cert_pem: &str,
    cert: &Path,
    key: Option<&Path>,
) -> anyhow::Result<()> {
    let chain = Certificate::from_pem(cert_pem.as_bytes())?;
    let content = chain.first().context("the certificate is empty")?;
    if global.json {
        return output::print_json(&serde_json::json!({
            "uri": content.names.uris.first(),
            "serial": content.serial,
            "not_after": content.not_after,
            "cert": cert.display().to_string(),
            "key": key.map(|key| key.display().to_string()),
        }));
    }
    for uri in &content.names.uris {
        output::print(format!("issued to {uri}"))?;
    }
    output::print(format!("valid until {}", date(content.not_after)))?;
    output::print(format!("certificate {}", cert.display()))?;
    if let Some(key) = key {
        output::print(format!("key         {}", key.display()))?;
    }
    Ok(())
}
