//! `indelible cert renew`.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use indelible_tls::issue::{LEAF_DAYS, Leaf, csr};
use indelible_tls::{Certificate, Name, Names};

use super::super::{Global, output};
use super::authority::{Folder, check_trail};
use super::files::{refuse_existing, replace_issued};
use super::issue::report;
use crate::disk::{read_text, write_public_new, write_secret_new};

/// Issues a certificate anew and replaces its file and that of its key. A running node takes both
/// within seconds.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The certificate
    #[arg(value_name = "CRT")]
    cert: PathBuf,
    /// Its key; the file beside it with the ending .key unless said otherwise
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Days of validity
    #[arg(long, value_name = "NUMBER", default_value_t = LEAF_DAYS)]
    days: u32,
    /// Replace nothing: make a new key and a request for `cert sign`, where no authority is
    #[arg(long)]
    request: bool,
    #[command(flatten)]
    folder: Folder,
}

/// Refuses a certificate whose key is not there, as the new key would not be where it is looked
/// for.
pub(super) fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    let text = read_text(&args.cert)?;
    let chain = Certificate::from_pem(text.as_bytes())?;
    let content = chain.first().context("the certificate is empty")?;
    let (name, hosts) = name_and_hosts(&content.names)?;
    let leaf = Leaf { hosts, days: args.days, ..Leaf::new(name) };
    let key = args.key.clone().unwrap_or_else(|| args.cert.with_extension("key"));
    if !key.exists() {
        bail!("{} does not exist; hint: --key names the key's file", key.display());
    }
    if args.request {
        return request(global, &args.cert, &key, &leaf);
    }
    let authority = args.folder.load()?;
    check_trail(&authority, &leaf.name)?;
    let issued = authority.issue(&leaf)?;
    replace_issued(&args.cert, &key, &issued)?;
    report(global, &issued.cert_pem, &args.cert, Some(&key))
}

/// A key and a request beside those in use.
fn request(global: &Global, cert: &Path, key: &Path, leaf: &Leaf) -> anyhow::Result<()> {
    let (request, next_key) = (cert.with_extension("csr"), key.with_extension("key.next"));
    let hint = "it may be of a request that is not answered yet; if not, remove it";
    refuse_existing([&request, &next_key], hint)?;
    let (csr_pem, key_pem) = csr(leaf)?;
    write_secret_new(&next_key, key_pem.as_bytes())?;
    write_public_new(&request, csr_pem.as_bytes())?;
    if global.json {
        return output::print_json(&serde_json::json!({
            "request": request.display().to_string(),
            "key": next_key.display().to_string(),
        }));
    }
    output::print(format!("request {}", request.display()))?;
    output::print(format!("key     {}", next_key.display()))?;
    output::print("answer the request where the authority is: indelible cert sign REQUEST")?;
    output::print(format!(
        "then put the certificate here, and the key in its place: mv {} {}",
        next_key.display(),
        key.display()
    ))?;
    Ok(())
}

/// The one name of a certificate or a request, and its hosts.
pub(super) fn name_and_hosts(names: &Names) -> anyhow::Result<(Name, Vec<String>)> {
    let [uri] = names.uris.as_slice() else {
        bail!(
            "{} URIs among the alternative names, exactly one is needed; hint: ask the authority \
             that made it",
            names.uris.len()
        );
    };
    let addresses = names.addresses.iter().map(ToString::to_string);
    Ok((Name::parse(uri)?, names.dns.iter().cloned().chain(addresses).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_is_taken_over_with_all_hosts() {
        let uri = "spiffe://07070707070707070707070707070707.indelible/node/3".to_owned();
        let mut names = Names {
            uris: vec![uri.clone()],
            dns: vec!["a.example".into()],
            addresses: vec!["::1".parse().unwrap()],
        };
        let (name, hosts) = name_and_hosts(&names).unwrap();
        assert_eq!((name.uri(), hosts), (uri.clone(), vec!["a.example".into(), "::1".into()]));
        names.uris.push(uri);
        assert!(name_and_hosts(&names).is_err());
        names.uris = vec!["spiffe://prod/web".into()];
        assert!(name_and_hosts(&names).is_err());
    }
}
