//! The certificates of a new trail: those that `indelible init` makes.

use std::path::{Path, PathBuf};

use anyhow::Context;
use indelible_core::TrailId;
use indelible_tls::issue::{Authority, Issued, Leaf};
use indelible_tls::{Name, Role};
use serde::Serialize;

use super::authority::Folder;
use super::files::{NodeFiles, hosts_of, refuse_existing, write_authority, write_issued};
use crate::disk::write_public_new;
use crate::node::NodeConfig;

/// Name of the first administrator.
const ADMIN: &str = "admin";
/// The profile of the first administrator.
const PROFILE_FILE: &str = "admin.toml";

/// Files beside the policy and in the data folders, before they are written.
pub(in crate::cli) struct InitialFiles {
    /// Folder of the policy.
    folder: PathBuf,
    /// Name of the policy in it.
    policy: PathBuf,
    nodes: Vec<InitialNode>,
}

/// A node as its configuration describes it.
pub(in crate::cli) struct InitialNode {
    id: u64,
    hosts: Vec<String>,
    client_addr: String,
    files: NodeFiles,
}

impl InitialNode {
    pub(in crate::cli) fn new(id: u64, config: &NodeConfig) -> InitialNode {
        InitialNode {
            id,
            hosts: hosts_of(config),
            client_addr: config.client_addr.clone(),
            files: NodeFiles::of(config),
        }
    }
}

/// How a client reaches the trail; paths are relative to the folder of the file.
#[derive(Serialize)]
struct Profile {
    endpoints: Vec<String>,
    trail: String,
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
    policy: PathBuf,
}

/// Certificates that are issued and not written yet, so that nothing is written if one of them is
/// refused.
pub(in crate::cli) struct InitialIssued {
    authority: Authority,
    nodes: Vec<Issued>,
    admin: Issued,
}

impl InitialFiles {
    pub(in crate::cli) fn new(policy: &Path, nodes: Vec<InitialNode>) -> InitialFiles {
        InitialFiles {
            folder: policy.parent().unwrap_or(Path::new("")).to_owned(),
            policy: policy.file_name().unwrap_or_default().into(),
            nodes,
        }
    }

    fn authority(&self) -> Folder {
        Folder::at(&self.folder.join("ca"))
    }

    /// The authority's certificate.
    pub(in crate::cli) fn authority_cert(&self) -> PathBuf {
        self.authority().cert()
    }

    /// The authority's key, which the nodes do not need.
    pub(in crate::cli) fn authority_key(&self) -> PathBuf {
        self.authority().key()
    }

    /// The profile of the first administrator.
    pub(in crate::cli) fn profile(&self) -> PathBuf {
        self.folder.join(PROFILE_FILE)
    }

    fn admin(&self) -> (PathBuf, PathBuf) {
        let folder = self.folder.join(ADMIN);
        (folder.join("client.crt"), folder.join("client.key"))
    }

    /// An error if one of the files is there already.
    pub(in crate::cli) fn check_absent(&self) -> anyhow::Result<()> {
        let (cert, key) = self.admin();
        let mut paths =
            vec![self.authority_cert(), self.authority_key(), self.profile(), cert, key];
        for node in &self.nodes {
            let NodeFiles { cert, key, ca, request: _ } = &node.files;
            paths.extend([cert.clone(), key.clone(), ca.clone()]);
        }
        refuse_existing(
            &paths,
            "it may belong to another trail: move it away, or choose another folder with \
             --policy-out; with certificates of your own, --no-certificates",
        )
    }

    /// Makes the authority and issues everything.
    pub(in crate::cli) fn issue(&self, trail: TrailId) -> anyhow::Result<InitialIssued> {
        let authority = Authority::new(&trail)?;
        let node = |node: &InitialNode| {
            let name = Name::new(trail, Role::Node(node.id))?;
            let leaf = Leaf { hosts: node.hosts.clone(), ..Leaf::new(name) };
            let issued = authority.issue(&leaf);
            issued.with_context(|| format!("issue the certificate of node {}", node.id))
        };
        let nodes = self.nodes.iter().map(node).collect::<anyhow::Result<_>>()?;
        let admin = Name::new(trail, Role::Admin(ADMIN.to_owned()))?;
        let admin = authority.issue(&Leaf::new(admin))?;
        Ok(InitialIssued { authority, nodes, admin })
    }

    /// Writes all of it. Crash between: `init` refuses what is there, and names it.
    pub(in crate::cli) fn write(
        &self,
        trail: TrailId,
        issued: &InitialIssued,
    ) -> anyhow::Result<()> {
        self.authority().write_new(&issued.authority)?;
        for (node, issued_to) in self.nodes.iter().zip(&issued.nodes) {
            write_issued(&node.files.cert, &node.files.key, issued_to)?;
            write_authority(&node.files.ca, issued.authority.cert_pem())?;
        }
        let (cert, key) = self.admin();
        write_issued(&cert, &key, &issued.admin)?;
        write_public_new(&self.profile(), self.profile_text(trail)?.as_bytes())
            .context("write the profile")
    }

    fn profile_text(&self, trail: TrailId) -> anyhow::Result<String> {
        let relative = |path: PathBuf| match path.strip_prefix(&self.folder) {
            Ok(relative) => relative.to_owned(),
            Err(_) => path,
        };
        let (cert, key) = self.admin();
        let profile = Profile {
            endpoints: self.nodes.iter().map(|node| node.client_addr.clone()).collect(),
            trail: trail.to_string(),
            ca: relative(self.authority_cert()),
            cert: relative(cert),
            key: relative(key),
            policy: self.policy.clone(),
        };
        let text = toml::to_string(&profile).context("write the profile as TOML")?;
        Ok(format!("# How an administrator reaches the trail: INDELIBLE_PROFILE names it.\n{text}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn initial(folder: &Path) -> InitialFiles {
        let node = |id: u64| InitialNode {
            id,
            hosts: vec!["127.0.0.1".into(), "localhost".into()],
            client_addr: format!("127.0.0.1:710{id}"),
            files: NodeFiles::in_data_dir(&folder.join(format!("data{id}"))),
        };
        InitialFiles::new(&folder.join("policy.txt"), (1..=3).map(node).collect())
    }

    #[test]
    fn a_profile_names_files_relative_to_itself() {
        let text = initial(Path::new("/etc/x")).profile_text(TrailId([7; 16])).unwrap();
        let read: toml::Table = toml::from_str(&text).unwrap();
        let value = |key: &str| read[key].as_str().unwrap().to_owned();
        assert_eq!(value("trail"), "07".repeat(16));
        assert_eq!(value("ca"), "ca/ca.crt");
        assert_eq!(value("cert"), "admin/client.crt");
        assert_eq!(value("key"), "admin/client.key");
        assert_eq!(value("policy"), "policy.txt");
        assert_eq!(read["endpoints"].as_array().unwrap().len(), 3);
        assert_eq!(read.len(), 6);
    }

    #[test]
    fn everything_is_written_once_and_fits_together() {
        use indelible_tls::{Expected, Expiry, Material, Pem};
        let temp = tempfile::tempdir().unwrap();
        let (files, trail) = (initial(temp.path()), TrailId([7; 16]));
        files.check_absent().unwrap();
        files.write(trail, &files.issue(trail).unwrap()).unwrap();
        let read = |path: &Path| crate::disk::read_text(path).unwrap().into_bytes();
        for node in &files.nodes {
            let pem = Pem {
                ca: read(&node.files.ca),
                cert: read(&node.files.cert),
                key: crate::disk::read_secret(&node.files.key).unwrap().into(),
                client_ca: None,
                crl: None,
            };
            let expected =
                Expected { trail, node_id: node.id, node_uri: None, expiry: Expiry::Refuse };
            Material::parse(&pem, &expected, super::super::now()).unwrap();
        }
        let said = files.check_absent().unwrap_err().to_string();
        assert!(said.contains("ca.crt exists; hint:"), "{said}");
        let other = InitialFiles::new(&temp.path().join("other/policy.txt"), files.nodes);
        let said = other.check_absent().unwrap_err().to_string();
        assert!(said.contains("node.crt exists"), "{said}");
    }
}
