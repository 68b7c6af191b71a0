//! `indelible cert revoke`.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use indelible_tls::issue::Authority;
use indelible_tls::{Certificate, RevocationList, Revoked};

use super::super::{Global, output};
use super::authority::Folder;
use super::now;
use crate::disk::{StagedFile, read_text};

/// Takes certificates back: writes a revocation list, or a longer one in its place. It counts where
/// a node finds it (DATA_DIR/tls/ca.crl, or `[tls] crl`), so copy it to every node.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Certificates of this authority
    #[arg(value_name = "CRT", required_unless_present = "serial")]
    certs: Vec<PathBuf>,
    /// Serial number of a certificate whose file is lost, as records name it. Can be given several
    /// times
    #[arg(long, value_name = "HEX")]
    serial: Vec<String>,
    /// The list; ca.crl in the authority's folder unless said otherwise
    #[arg(long, value_name = "FILE")]
    crl: Option<PathBuf>,
    #[command(flatten)]
    folder: Folder,
}

pub(super) fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    let authority = args.folder.load()?;
    let mut serials = Vec::new();
    for path in &args.certs {
        serials.push(serial_of(path, &authority)?);
    }
    serials.extend(args.serial.iter().map(|serial| serial.to_ascii_lowercase()));
    let path = args.crl.clone().unwrap_or_else(|| args.folder.crl());
    let old = if path.exists() { Some(read_list(&path, &authority)?) } else { None };
    let (revoked, number) = longer(old.as_ref(), serials, now());
    let text = authority.revoke(&revoked, number)?;
    let staged = StagedFile::public(&path, text.as_bytes()).context("write the list")?;
    match old {
        Some(_) => staged.commit_over(),
        None => staged.commit_new(),
    }
    .context("write the list")?;
    if global.json {
        let serials: Vec<&String> = revoked.iter().map(|entry| &entry.serial).collect();
        let path = path.display().to_string();
        return output::print_json(&serde_json::json!({
            "crl": path, "number": number, "revoked": serials,
        }));
    }
    let count = revoked.len();
    output::print(format!("list {number}  {}", path.display()))?;
    output::print(format!("revoked {count}"))?;
    output::print("copy it to every node: to DATA_DIR/tls/ca.crl, or to what `[tls] crl` names")?;
    Ok(())
}

/// The old list with further entries. An entry that is there keeps its time.
fn longer(old: Option<&RevocationList>, serials: Vec<String>, now: i64) -> (Vec<Revoked>, u64) {
    let (mut revoked, number) =
        old.map_or((Vec::new(), 0), |list| (list.revoked.clone(), list.number));
    for serial in serials {
        if !revoked.iter().any(|entry| entry.serial == serial) {
            revoked.push(Revoked { serial, at: now });
        }
    }
    (revoked, number + 1)
}

fn serial_of(path: &Path, authority: &Authority) -> anyhow::Result<String> {
    let chain = Certificate::from_pem(read_text(path)?.as_bytes());
    let chain = chain.with_context(|| format!("read {}", path.display()))?;
    let content = chain.first().context("the certificate is empty")?;
    if content.issuer != authority.content().subject {
        bail!(
            "{} was issued by {:?}, this authority is {:?}; hint: --ca names the folder of the \
             right one",
            path.display(),
            content.issuer,
            authority.content().subject
        );
    }
    if content.is_ca {
        bail!(
            "{} is the authority's own certificate, and only those of nodes, clients and \
             administrators are looked up; hint: docs/certificates.md, \"Replace the authority\"",
            path.display()
        );
    }
    Ok(content.serial.clone())
}

fn read_list(path: &Path, authority: &Authority) -> anyhow::Result<RevocationList> {
    let lists = RevocationList::from_pem(read_text(path)?.as_bytes());
    let lists = lists.with_context(|| format!("read {}", path.display()))?;
    match <[RevocationList; 1]>::try_from(lists) {
        Ok([list]) if list.issuer == authority.content().subject => Ok(list),
        _ => bail!(
            "{} is not one list of this authority; hint: give each authority its own --crl, and \
             put them into one file for the nodes",
            path.display()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_grows_and_forgets_nothing() {
        let (first, number) = longer(None, vec!["aa".into(), "aa".into()], 5);
        assert_eq!((first.len(), number), (1, 1));
        let issuer = "CN=a".into();
        let old = RevocationList { issuer, number: 7, made: 5, next: None, revoked: first };
        let (second, number) = longer(Some(&old), vec!["aa".into(), "bb".into()], 9);
        let entry = |serial: &str, at| Revoked { serial: serial.into(), at };
        assert_eq!((second, number), (vec![entry("aa", 5), entry("bb", 9)], 8));
    }
}
