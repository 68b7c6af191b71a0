//! What `indelible cert show` prints of requests and revocation lists.

use std::path::Path;
use std::process::ExitCode;

use indelible_tls::{Certificate, Name, Request, RevocationList, Trust};
use serde_json::json;

use super::super::{Global, output};
use super::date;
use super::show::{hosts, line};
use crate::disk::read_text;

/// A request for a certificate, whose signature is right.
pub(super) fn show_request(global: &Global, request: &Request) -> anyhow::Result<ExitCode> {
    let uris = &request.names.uris;
    if global.json {
        let name = uris.iter().find_map(|uri| Name::parse(uri).ok());
        output::print_json(&json!({"request": {
            "subject": request.subject,
            "uris": uris,
            "principal": name.map(|name| name.principal()),
            "dns": request.names.dns,
            "addresses": request.names.addresses,
        }}))?;
        return Ok(ExitCode::SUCCESS);
    }
    line("request for", &request.subject)?;
    for uri in uris {
        line("name", uri)?;
    }
    if let Some(hosts) = hosts(&request.names) {
        line("hosts", hosts)?;
    }
    line("signature", "right: the requester has the key")?;
    Ok(ExitCode::SUCCESS)
}

/// Revocation lists, and with `roots` whether the authorities among them have signed theirs.
pub(super) fn show_lists(
    global: &Global,
    text: &str,
    lists: &[RevocationList],
    roots: Option<&Path>,
) -> anyhow::Result<ExitCode> {
    let signers = roots.map(|path| signers(text, path)).transpose()?;
    let signed = |list: &RevocationList| signers.as_ref().map(|names| names.contains(&list.issuer));
    let exit = match lists.iter().any(|list| signed(list) == Some(false)) {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    };
    if global.json {
        let lists: Vec<_> = lists.iter().map(|list| as_json(list, signed(list))).collect();
        output::print_json(&json!({"lists": lists}))?;
        return Ok(exit);
    }
    for (position, list) in lists.iter().enumerate() {
        if position > 0 {
            output::print("")?;
        }
        line("list of", &list.issuer)?;
        line("number", list.number)?;
        line("made", date(list.made))?;
        line("next", list.next.map_or("when something is revoked".to_owned(), date))?;
        line("revoked", list.revoked.len())?;
        for entry in &list.revoked {
            line("  serial", format!("{}  {}", entry.serial, date(entry.at)))?;
        }
        line(
            "signature",
            match signed(list) {
                None => "not checked; hint: --roots",
                Some(true) => "right: by a root",
                Some(false) => "not checked: no root has the name of this authority",
            },
        )?;
    }
    Ok(exit)
}

/// Names of the roots, which have signed the lists that bear their names: else an error.
fn signers(text: &str, roots: &Path) -> anyhow::Result<Vec<String>> {
    let roots = read_text(roots)?.into_bytes();
    Trust::of_roots(&roots, Some(text.as_bytes()))?;
    Ok(Certificate::from_pem(&roots)?.into_iter().map(|root| root.subject).collect())
}

fn as_json(list: &RevocationList, signed: Option<bool>) -> serde_json::Value {
    let revoked = list.revoked.iter().map(|one| json!({"serial": one.serial, "at": one.at}));
    json!({
        "issuer": list.issuer,
        "number": list.number,
        "made": list.made,
        "next": list.next,
        "signed_by_a_root": signed,
        "revoked": revoked.collect::<Vec<_>>(),
    })
}
