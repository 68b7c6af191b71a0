//! Advisories of the RustSec database: a snapshot of ids and version ranges, without their text.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use jiff::civil::Date;
use semver::{Version, VersionReq};
use serde::Deserialize;

use super::{Accepted, Lock};

/// The snapshot.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Advisories {
    /// Day of the newest commit in it.
    pub date: Date,
    /// That commit.
    pub commit: String,
    /// By package, then id.
    pub advisories: Vec<Advisory>,
}

/// What it says about one package.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Advisory {
    /// RUSTSEC-2025-0057.
    pub id: String,
    /// The package.
    pub package: String,
    /// "vulnerability", or what else it is about: "unmaintained", "unsound", "notice".
    pub kind: String,
    /// Versions in which it is repaired.
    #[serde(default)]
    pub patched: Vec<VersionReq>,
    /// Versions that never had it.
    #[serde(default)]
    pub unaffected: Vec<VersionReq>,
}

impl Advisory {
    /// NB: a pre-release matches no range that does not name it, so it counts as affected.
    fn concerns(&self, name: &str, version: &Version) -> bool {
        let mut good = self.patched.iter().chain(&self.unaffected);
        self.package == name && !good.any(|range| range.matches(version))
    }
}

impl Advisories {
    /// Reads the text of the snapshot.
    pub fn parse(text: &str) -> Result<Advisories, toml::de::Error> {
        toml::from_str(text)
    }

    pub(super) fn check(
        &self,
        locks: &[Lock],
        accepted: &[Accepted],
        today: Date,
        problems: &mut Vec<String>,
    ) {
        let mut used = vec![false; accepted.len()];
        for lock in locks {
            for package in &lock.packages {
                let concerns = |a: &&Advisory| a.concerns(&package.name, &package.version);
                for advisory in self.advisories.iter().filter(concerns) {
                    let found = accepted.iter().position(|accepted| {
                        accepted.id == advisory.id
                            && !lock.is_needed_besides(package, &accepted.through)
                    });
                    match found {
                        Some(place) => used[place] = true,
                        None => problems.push(format!(
                            "{} {} has {} ({}); hint: update it, or accept it in tests/dependencies.toml",
                            package.name, package.version, advisory.id, advisory.kind
                        )),
                    }
                }
            }
        }
        for (accepted, used) in accepted.iter().zip(used) {
            let Accepted { id, review, reason, .. } = accepted;
            if !used {
                problems.push(format!("{id} is accepted and concerns no package; hint: remove it"));
            } else if today > *review {
                problems.push(format!(
                    "{id} was accepted until {review} ({reason}); hint: look again whether that still holds"
                ));
            }
        }
    }

    /// The text of the snapshot, one advisory a line.
    pub fn to_toml(&self) -> String {
        let ranges = |ranges: &[VersionReq]| {
            let quoted: Vec<String> = ranges.iter().map(|range| format!("\"{range}\"")).collect();
            format!("[{}]", quoted.join(", "))
        };
        let mut text = format!(
            "# The RustSec advisory database (https://github.com/rustsec/advisory-db), ids and versions only.\n\
             # Written by scripts/advisories.sh.\n\
             date = \"{}\"\ncommit = \"{}\"\nadvisories = [\n",
            self.date, self.commit
        );
        for Advisory { id, package, kind, patched, unaffected } in &self.advisories {
            let (patched, unaffected) = (ranges(patched), ranges(unaffected));
            writeln!(
                text,
                "  {{ id = \"{id}\", package = \"{package}\", kind = \"{kind}\", patched = {patched}, unaffected = {unaffected} }},"
            )
            .expect("a String takes everything");
        }
        text + "]\n"
    }
}

/// A database that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// A file or folder.
    #[error("cannot read {}: {source}; hint: give a checkout of rustsec/advisory-db", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file without the TOML block at its start.
    #[error("{} does not begin with a TOML block", .0.display())]
    NoBlock(PathBuf),
    /// A TOML block that is no advisory.
    #[error("{}: {source}", path.display())]
    Block {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        source: Box<toml::de::Error>,
    },
}

/// Reads all advisories of a checkout of the database that are not withdrawn.
pub fn read_database(dir: &Path, date: Date, commit: String) -> Result<Advisories, DatabaseError> {
    let mut advisories = Vec::new();
    for package in entries(&dir.join("crates"))? {
        for path in entries(&package)? {
            advisories.extend(read_advisory(&path)?);
        }
    }
    advisories.sort_by(|a, b| (&a.package, &a.id).cmp(&(&b.package, &b.id)));
    Ok(Advisories { date, commit, advisories })
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, DatabaseError> {
    let failed = |source| DatabaseError::Read { path: dir.to_owned(), source };
    let entries = std::fs::read_dir(dir).map_err(failed)?;
    entries.map(|entry| Ok(entry.map_err(failed)?.path())).collect()
}

/// A file of the database: a TOML block, then text. None if it is withdrawn.
fn read_advisory(path: &Path) -> Result<Option<Advisory>, DatabaseError> {
    #[derive(Deserialize)]
    struct File {
        advisory: Head,
        versions: Versions,
    }
    #[derive(Deserialize)]
    struct Head {
        id: String,
        package: String,
        informational: Option<String>,
        withdrawn: Option<String>,
    }
    #[derive(Deserialize)]
    struct Versions {
        #[serde(default)]
        patched: Vec<VersionReq>,
        #[serde(default)]
        unaffected: Vec<VersionReq>,
    }
    let text = std::fs::read_to_string(path)
        .map_err(|source| DatabaseError::Read { path: path.to_owned(), source })?;
    let block = text.strip_prefix("```toml\n").and_then(|rest| rest.split_once("\n```"));
    let (block, _) = block.ok_or_else(|| DatabaseError::NoBlock(path.to_owned()))?;
    let file: File = toml::from_str(block).map_err(|source| DatabaseError::Block {
        path: path.to_owned(),
        source: Box::new(source),
    })?;
    let Head { id, package, informational, withdrawn } = file.advisory;
    let kind = informational.unwrap_or_else(|| "vulnerability".into());
    let Versions { patched, unaffected } = file.versions;
    let advisory = Advisory { id, package, kind, patched, unaffected };
    Ok(withdrawn.is_none().then_some(advisory))
}
