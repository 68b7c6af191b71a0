//! `indelible cert sign`.

use std::path::PathBuf;

use anyhow::bail;
use indelible_tls::issue::{LEAF_DAYS, Leaf};
use indelible_tls::{Request, Role};

use super::super::{Global, output};
use super::authority::{Folder, check_trail};
use super::files::refuse_existing;
use super::issue::report;
use super::renew::name_and_hosts;
use crate::disk::{read_text, write_public_new};

/// Issues the certificate that a request asks for, as `node-key` and `cert renew --request` write
/// them, so that the authority's key never leaves its machine. Look at the name that it prints: it
/// is what the holder may be from now on.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The request
    #[arg(value_name = "CSR")]
    request: PathBuf,
    /// Where to write the certificate; beside the request with the ending .crt unless said
    /// otherwise
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Days of validity
    #[arg(long, value_name = "NUMBER", default_value_t = LEAF_DAYS)]
    days: u32,
    /// Allow a request for an administrator, who may change the group
    #[arg(long)]
    admin: bool,
    #[command(flatten)]
    folder: Folder,
}

pub(super) fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    let text = read_text(&args.request)?;
    let asked = Request::from_pem(text.as_bytes())?;
    let (name, hosts) = name_and_hosts(&asked.names)?;
    if matches!(name.role, Role::Admin(_)) && !args.admin {
        bail!("the request is for {}, an administrator; hint: --admin allows it", name.principal());
    }
    let out = args.out.clone().unwrap_or_else(|| args.request.with_extension("crt"));
    refuse_existing([&out], "choose another --out, or move it away")?;
    let authority = args.folder.load()?;
    check_trail(&authority, &name)?;
    let is_node = name.node_id().is_some();
    let leaf = Leaf { hosts, days: args.days, ..Leaf::new(name) };
    let cert_pem = authority.sign_csr(&text, &leaf)?;
    write_public_new(&out, cert_pem.as_bytes())?;
    report(global, &cert_pem, &out, None)?;
    if is_node && !global.json {
        let ca = args.folder.cert();
        output::print(format!("put it and {} into the node's tls folder", ca.display()))?;
    }
    Ok(())
}
