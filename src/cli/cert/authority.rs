//! `indelible cert ca`, and the folder that it makes.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use indelible_core::TrailId;
use indelible_tls::issue::Authority;
use indelible_tls::{Name, Zeroizing, parse_trail};

use super::super::{Global, output};
use super::{date, files};
use crate::disk::{
    create_private_folder, read_secret, read_text, write_public_new, write_secret_new,
};
use crate::node::NodeConfig;
use crate::storage::identity::Identity;

/// Which authority issues.
#[derive(Debug, clap::Args)]
pub(super) struct Folder {
    /// Folder of the authority, with ca.crt and ca.key
    #[arg(long = "ca", value_name = "DIR", default_value = "ca")]
    dir: PathBuf,
}

/// Makes a certificate authority: an ECDSA P-256 key, and a certificate for ten years.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    folder: Folder,
    /// Trail that it is for, as `indelible status` and `init` print it
    #[arg(long, value_name = "HEX", required_unless_present = "config")]
    trail: Option<String>,
    /// Configuration of a node of the trail, on its machine: instead of --trail
    #[arg(long, value_name = "FILE", conflicts_with = "trail")]
    config: Option<PathBuf>,
}

impl Folder {
    pub(super) fn at(dir: &Path) -> Folder {
        Folder { dir: dir.to_owned() }
    }

    pub(super) fn cert(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    pub(super) fn key(&self) -> PathBuf {
        self.dir.join("ca.key")
    }

    pub(super) fn crl(&self) -> PathBuf {
        self.dir.join("ca.crl")
    }

    /// Reads the authority that is there.
    pub(super) fn load(&self) -> anyhow::Result<Authority> {
        for path in [self.cert(), self.key()] {
            if !path.exists() {
                bail!(
                    "no certificate authority in {}: {} does not exist; hint: `init` and `cert ca` \
                     make one, --ca says where it is",
                    self.dir.display(),
                    path.display()
                );
            }
        }
        let cert = read_text(&self.cert())?;
        let key = Zeroizing::new(read_secret(&self.key())?);
        let key = std::str::from_utf8(&key).context("read the authority's key as text")?;
        let authority = Authority::from_pem(&cert, key);
        authority.with_context(|| format!("read the authority in {}", self.dir.display()))
    }

    /// Writes a new authority. The key first: a certificate alone would look finished.
    pub(super) fn write_new(&self, authority: &Authority) -> anyhow::Result<()> {
        create_private_folder(&self.dir)?;
        write_secret_new(&self.key(), authority.key_pem().as_bytes())
            .context("write the authority's key")?;
        write_public_new(&self.cert(), authority.cert_pem().as_bytes())
            .context("write the authority's certificate")
    }
}

/// Refuses to replace an authority.
pub(super) fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    let trail = match (&args.trail, &args.config) {
        (Some(text), _) => trail_option(text)?,
        (None, Some(path)) => Identity::read(&NodeConfig::load(path)?.data_dir)?.trail_id,
        (None, None) => bail!("for which trail? hint: --trail or --config"),
    };
    let (cert, key) = (args.folder.cert(), args.folder.key());
    files::refuse_existing([&cert, &key], "choose another --ca, or move it away")?;
    let authority = Authority::new(&trail)?;
    args.folder.write_new(&authority)?;
    if global.json {
        return output::print_json(&serde_json::json!({
            "trail_id": trail.to_string(),
            "cert": cert.display().to_string(),
            "key": key.display().to_string(),
            "not_after": authority.content().not_after,
        }));
    }
    output::print(format!("authority {}", cert.display()))?;
    output::print(format!("valid until {}", date(authority.content().not_after)))?;
    output::print(format!("keep {} offline: the nodes do not need it", key.display()))?;
    Ok(())
}

/// A trail id from the command line.
pub(super) fn trail_option(text: &str) -> anyhow::Result<TrailId> {
    let trail = parse_trail(text);
    trail.with_context(|| format!("--trail {text:?} is not 32 digits 0-9 a-f"))
}

/// An error if the authority was made for another trail than the name's: nobody there would believe
/// the certificate.
pub(super) fn check_trail(authority: &Authority, name: &Name) -> anyhow::Result<()> {
    match authority.trail() {
        Some(trail) if trail != name.trail => bail!(
            "the authority is for trail {trail}, {} is of trail {}; hint: --ca names the folder of \
             the right one",
            name.principal(),
            name.trail
        ),
        _ => Ok(()),
    }
}
