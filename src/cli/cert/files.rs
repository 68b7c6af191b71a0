//! Where certificates and keys are, and how they are written.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use indelible_tls::issue::Issued;

use crate::disk::{StagedFile, create_private_folder, write_public_new, write_secret_new};
use crate::node::NodeConfig;

/// A node's files.
pub(in crate::cli) struct NodeFiles {
    pub(in crate::cli) cert: PathBuf,
    pub(in crate::cli) key: PathBuf,
    pub(in crate::cli) ca: PathBuf,
    /// The request that `node-key` writes.
    pub(in crate::cli) request: PathBuf,
}

impl NodeFiles {
    /// Where a node with this configuration looks for them.
    pub(in crate::cli) fn of(config: &NodeConfig) -> NodeFiles {
        let files = NodeFiles::in_data_dir(&config.data_dir);
        let tls = &config.tls;
        let cert = tls.cert.clone().unwrap_or(files.cert);
        NodeFiles {
            request: cert.with_extension("csr"),
            cert,
            key: tls.key.clone().unwrap_or(files.key),
            ca: tls.ca.clone().unwrap_or(files.ca),
        }
    }

    /// Where they are if the configuration says nothing.
    pub(super) fn in_data_dir(data_dir: &Path) -> NodeFiles {
        let folder = data_dir.join("tls");
        NodeFiles {
            cert: folder.join("node.crt"),
            key: folder.join("node.key"),
            ca: folder.join("ca.crt"),
            request: folder.join("node.csr"),
        }
    }
}

/// DNS names and addresses at which a node is reached, without ports.
pub(in crate::cli) fn hosts_of(config: &NodeConfig) -> Vec<String> {
    hosts([&config.client_addr, &config.raft_addr, &config.http_addr])
}

fn hosts<'a>(addresses: impl IntoIterator<Item = &'a String>) -> Vec<String> {
    let mut hosts: Vec<String> = Vec::new();
    for address in addresses {
        let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let ip = host.parse::<IpAddr>().ok();
        // Nobody reaches a node at "every address".
        if ip.is_some_and(|ip| ip.is_unspecified()) {
            continue;
        }
        let loopback = ip.is_some_and(|ip| ip.is_loopback());
        let names = [Some(host), loopback.then_some("localhost")];
        for name in names.into_iter().flatten() {
            if !hosts.iter().any(|known| known == name) {
                hosts.push(name.to_owned());
            }
        }
    }
    hosts
}

/// An error if one of the files exists: nothing is ever replaced by accident.
pub(super) fn refuse_existing<'a>(
    paths: impl IntoIterator<Item = &'a PathBuf>,
    hint: &str,
) -> anyhow::Result<()> {
    for path in paths {
        if path.exists() {
            bail!("{} exists; hint: {hint}", path.display());
        }
    }
    Ok(())
}

/// Writes a new certificate and its key, and makes their folder. The key first: a certificate
/// without a key would look finished.
pub(super) fn write_issued(cert: &Path, key: &Path, issued: &Issued) -> anyhow::Result<()> {
    make_folders([key, cert])?;
    // Crash between: a key of no certificate, which the next run refuses to replace and names.
    write_secret_new(key, issued.key_pem.as_bytes()).context("write the key")?;
    write_public_new(cert, issued.cert_pem.as_bytes()).context("write the certificate")
}

/// Makes the folders of files.
pub(in crate::cli) fn make_folders<const N: usize>(files: [&Path; N]) -> anyhow::Result<()> {
    for file in files {
        if let Some(folder) = file.parent() {
            create_private_folder(folder)?;
        }
    }
    Ok(())
}

/// Puts the authority's certificate beside a node's, unless the same one is there.
pub(super) fn write_authority(path: &Path, cert_pem: &str) -> anyhow::Result<()> {
    if !path.exists() {
        make_folders([path])?;
        return write_public_new(path, cert_pem.as_bytes()).context("write the authority");
    }
    let present = crate::disk::read_text(path)?;
    if !present.contains(cert_pem.trim()) {
        bail!(
            "{} holds another authority's certificate; hint: to believe both, append the new one \
             to it on every node first (docs/certificates.md)",
            path.display()
        );
    }
    Ok(())
}

/// Replaces a certificate and its key by new ones.
pub(super) fn replace_issued(cert: &Path, key: &Path, issued: &Issued) -> anyhow::Result<()> {
    let new_key = StagedFile::secret(key, issued.key_pem.as_bytes()).context("write the key")?;
    let new_cert = StagedFile::public(cert, issued.cert_pem.as_bytes());
    let new_cert = new_cert.context("write the certificate")?;
    // A node that looks now, or crash between: key and certificate do not fit, and the node keeps
    // the pair that it has loaded. Renewing once more mends it.
    new_key.commit_over().context("replace the key")?;
    new_cert.commit_over().context("replace the certificate")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_named_once_and_without_ports() {
        let of = |addresses: &[&str]| {
            let addresses: Vec<String> = addresses.iter().map(|a| (*a).to_owned()).collect();
            hosts(&addresses)
        };
        assert_eq!(of(&["127.0.0.1:1", "127.0.0.1:2"]), ["127.0.0.1", "localhost"]);
        assert_eq!(of(&["[::1]:1", "localhost:2"]), ["::1", "localhost"]);
        assert_eq!(of(&["a.example:1", "10.0.0.1:2", "0.0.0.0:3"]), ["a.example", "10.0.0.1"]);
    }

    #[test]
    fn a_pair_is_replaced_and_another_authority_is_not() {
        let temp = tempfile::tempdir().unwrap();
        let (cert, key) = (temp.path().join("tls/node.crt"), temp.path().join("tls/node.key"));
        let issued = |text: &str| Issued {
            cert_pem: format!("cert {text}"),
            key_pem: format!("key {text}").into(),
        };
        write_issued(&cert, &key, &issued("one")).unwrap();
        assert!(write_issued(&cert, &key, &issued("two")).is_err());
        replace_issued(&cert, &key, &issued("three")).unwrap();
        assert_eq!(crate::disk::read_text(&cert).unwrap(), "cert three");
        assert_eq!(crate::disk::read_secret(&key).unwrap(), b"key three");
        let ca = temp.path().join("tls/ca.crt");
        write_authority(&ca, "one\n").unwrap();
        write_authority(&ca, "one\n").unwrap();
        let said = write_authority(&ca, "two\n").unwrap_err().to_string();
        assert!(said.contains("another authority"), "{said}");
    }
}
