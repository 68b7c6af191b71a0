//! `indelible cert show`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use indelible_tls::pki_types::CertificateDer;
use indelible_tls::pki_types::pem::PemObject;
use indelible_tls::{
    Certificate, Name, Names, PemError, Port, Request, RevocationList, Role, Trust, Usage,
};
use serde_json::json;

use super::super::{Global, output};
use super::show_other::{show_lists, show_request};
use super::{date, now};
use crate::disk::read_text;

const DAY: i64 = 86_400;

/// Prints what the certificates of a file say: names, validity, what they are for, and whether the
/// first one leads to a root; also what is in a request or a revocation list. Exit code 1: the
/// chain is refused.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Certificates, a request or revocation lists, as PEM
    #[arg(value_name = "CRT")]
    cert: PathBuf,
    /// Roots to hold it against; ca.crt beside it unless said otherwise
    #[arg(long, value_name = "FILE")]
    roots: Option<PathBuf>,
    /// Revocation lists to hold it against
    #[arg(long, value_name = "FILE")]
    crl: Option<PathBuf>,
}

pub(super) fn run(global: &Global, args: &Args) -> anyhow::Result<ExitCode> {
    let text = read_text(&args.cert)?;
    let read = || format!("read {}", args.cert.display());
    if let Some(chain) = found(Certificate::from_pem(text.as_bytes())).with_context(read)? {
        return show_chain(global, args, &text, &chain);
    }
    if let Some(request) = found(Request::from_pem(text.as_bytes())).with_context(read)? {
        return show_request(global, &request);
    }
    if let Some(lists) = found(RevocationList::from_pem(text.as_bytes())).with_context(read)? {
        return show_lists(global, &text, &lists, args.roots.as_deref());
    }
    bail!(
        "no certificate, request or revocation list in {} ({} bytes); hint: give a file that has \
         a line -----BEGIN CERTIFICATE-----, -----BEGIN CERTIFICATE REQUEST----- or -----BEGIN \
         X509 CRL-----",
        args.cert.display(),
        text.len()
    )
}

/// What a file has of one kind, or None if it has nothing of it.
fn found<T>(read: Result<T, PemError>) -> Result<Option<T>, PemError> {
    match read {
        Ok(content) => Ok(Some(content)),
        Err(PemError::Missing { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn show_chain(
    global: &Global,
    args: &Args,
    text: &str,
    chain: &[Certificate],
) -> anyhow::Result<ExitCode> {
    let authority = chain.first().is_some_and(|content| content.is_ca);
    let judged = if authority { None } else { judge(text, args)? };
    let exit = match &judged {
        Some((_, Err(_))) => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    };
    let now = now();
    if global.json {
        let certificates: Vec<_> = chain.iter().map(|content| as_json(content, now)).collect();
        let judged = judged.map(
            |(path, result)| json!({"roots": path.display().to_string(), "refused": result.err()}),
        );
        output::print_json(&json!({"certificates": certificates, "chain": judged}))?;
        return Ok(exit);
    }
    for (position, content) in (1..).zip(chain) {
        if position > 1 {
            output::print("")?;
        }
        show(content, now)?;
    }
    let outcome = match judged {
        None if authority => "not checked: it is an authority itself".to_owned(),
        None => "not checked: there is no ca.crt beside it; hint: --roots".to_owned(),
        Some((path, Ok(()))) => format!("leads to a root in {}", path.display()),
        Some((path, Err(why))) => format!("refused with the roots in {}: {why}", path.display()),
    };
    line("chain", outcome)?;
    Ok(exit)
}

type Judged = Option<(PathBuf, Result<(), String>)>;

/// What a port for clients says to the chain now, which is stricter than other nodes are.
fn judge(text: &str, args: &Args) -> anyhow::Result<Judged> {
    let beside = args.cert.with_file_name("ca.crt");
    let roots = match &args.roots {
        Some(path) => path,
        None if beside.exists() => &beside,
        None => return Ok(None),
    };
    let read = |path: &Path| read_text(path).map(String::into_bytes);
    let crl = args.crl.as_deref().map(read).transpose()?;
    let trust = Trust::of_roots(&read(roots)?, crl.as_deref())?;
    let chain = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>();
    let chain = chain.with_context(|| format!("read {}", args.cert.display()))?;
    let result = trust.judge(Port::Client, &chain, now()).map(drop);
    Ok(Some((roots.clone(), result.map_err(|refusal| refusal.to_string()))))
}

fn show(content: &Certificate, now: i64) -> anyhow::Result<()> {
    line("subject", &content.subject)?;
    for uri in &content.names.uris {
        line("name", uri)?;
    }
    if let Some(hosts) = hosts(&content.names) {
        line("hosts", hosts)?;
    }
    let (from, to) = (date(content.not_before), date(content.not_after));
    line("valid", format!("{from} to {to}, {}", remaining(content, now)))?;
    line("may", may(content))?;
    line("issuer", &content.issuer)?;
    line("serial", &content.serial)?;
    line("sha-256", &content.fingerprint)?;
    Ok(())
}

pub(super) fn line(name: &str, value: impl std::fmt::Display) -> anyhow::Result<()> {
    Ok(output::print(format!("{name:<12}{value}"))?)
}

/// Host names and addresses, if there are any.
pub(super) fn hosts(names: &Names) -> Option<String> {
    let addresses = names.addresses.iter().map(ToString::to_string);
    let hosts: Vec<String> = names.dns.iter().cloned().chain(addresses).collect();
    (!hosts.is_empty()).then(|| hosts.join(", "))
}

fn as_json(content: &Certificate, now: i64) -> serde_json::Value {
    let names = content.names.uris.iter().filter_map(|uri| Name::parse(uri).ok());
    let principals: Vec<String> = names.map(|name| name.principal()).collect();
    let usages: Vec<String> = content.usages.iter().map(ToString::to_string).collect();
    json!({
        "subject": content.subject,
        "issuer": content.issuer,
        "uris": content.names.uris,
        "principal": principals.first(),
        "dns": content.names.dns,
        "addresses": content.names.addresses,
        "not_before": content.not_before,
        "not_after": content.not_after,
        "days_left": (content.not_after - now).div_euclid(DAY),
        "serial": content.serial,
        "fingerprint": content.fingerprint,
        "usages": usages,
        "is_ca": content.is_ca,
        "may": may(content),
    })
}

fn remaining(content: &Certificate, now: i64) -> String {
    if now < content.not_before {
        return "not valid yet".to_owned();
    }
    match (content.not_after - now).div_euclid(DAY) {
        days if days < 0 => format!("expired {} days ago", -days),
        days => format!("{days} days left"),
    }
}

/// What its holder may do, for people.
fn may(content: &Certificate) -> String {
    if content.is_ca {
        return "issue certificates".to_owned();
    }
    let has = |usage: Usage| content.usages.is_empty() || content.usages.contains(&usage);
    let mut names = content.names.uris.iter().filter_map(|uri| Name::parse(uri).ok());
    let (name, further) = (names.next(), names.next());
    match name.map(|name| name.role) {
        Some(_) if further.is_some() => "nothing: it has more than one name".to_owned(),
        Some(Role::Node(id)) if has(Usage::Server) && has(Usage::Client) => {
            format!("be node {id}")
        }
        Some(Role::Node(_)) => "nothing: a node's must be for TLS servers and clients".to_owned(),
        Some(_) if !has(Usage::Client) => "nothing: it must be for TLS clients".to_owned(),
        Some(Role::Client(name)) => format!("append and read as client/{name}"),
        Some(Role::Admin(name)) => format!("append, read and change the group as admin/{name}"),
        None => "nothing, unless `[tls] node_uri` fits one of its URIs".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use indelible_core::TrailId;
    use indelible_tls::issue::{Authority, Leaf};

    use super::*;

    fn issued(role: Role) -> Certificate {
        let trail = TrailId([7; 16]);
        let leaf = Leaf::new(Name::new(trail, role).unwrap());
        let issued = Authority::new(&trail).unwrap().issue(&leaf).unwrap();
        Certificate::from_pem(issued.cert_pem.as_bytes()).unwrap().remove(0)
    }

    #[test]
    fn what_a_certificate_may_do_is_said() {
        let node = issued(Role::Node(2));
        assert_eq!(may(&node), "be node 2");
        assert!(may(&Certificate { usages: vec![Usage::Server], ..node.clone() }).contains("must"));
        let client = issued(Role::Client("billing".into()));
        assert_eq!(may(&client), "append and read as client/billing");
        assert!(may(&issued(Role::Admin("alice".into()))).contains("change the group"));
        let mut two = node.clone();
        two.names.uris.extend(client.names.uris);
        assert!(may(&two).starts_with("nothing"));
        assert_eq!(may(&Certificate { is_ca: true, ..node }), "issue certificates");
    }

    #[test]
    fn days_are_counted_to_the_end_and_from_it() {
        let node = Certificate { not_before: 0, not_after: 10 * DAY, ..issued(Role::Node(2)) };
        assert_eq!(remaining(&node, -1), "not valid yet");
        assert_eq!(remaining(&node, 8 * DAY), "2 days left");
        assert_eq!(remaining(&node, 10 * DAY - 1), "0 days left");
        assert_eq!(remaining(&node, 10 * DAY + 1), "expired 1 days ago");
    }
}
