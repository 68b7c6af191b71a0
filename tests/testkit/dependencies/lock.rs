//! Cargo.lock.

use std::collections::{HashMap, HashSet};

use semver::Version;
use serde::Deserialize;

/// The only place that packages may come from.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";
/// Start of the names of packages of this repository.
const OWN: &str = "indelible";

/// A lock file.
#[derive(Debug, Deserialize)]
pub struct Lock {
    /// All of its packages.
    #[serde(rename = "package")]
    pub(super) packages: Vec<Locked>,
}

/// A package in it.
#[derive(Debug, Deserialize)]
pub(super) struct Locked {
    pub(super) name: String,
    pub(super) version: Version,
    source: Option<String>,
    checksum: Option<String>,
    /// "name", or "name version" if there are several.
    #[serde(default)]
    dependencies: Vec<String>,
}

impl Lock {
    /// Reads the text of a lock file.
    pub fn parse(text: &str) -> Result<Lock, toml::de::Error> {
        toml::from_str(text)
    }

    /// Number of packages.
    pub fn len(&self) -> usize {
        self.packages.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.packages.is_empty()
    }

    /// Every package is our own or from the registry, with a checksum.
    pub(super) fn check_sources(&self, problems: &mut Vec<String>) {
        for Locked { name, version, source, checksum, .. } in &self.packages {
            match source.as_deref() {
                None if name.starts_with(OWN) => {}
                None => problems.push(format!("{name} {version} is taken from a folder")),
                Some(REGISTRY) if checksum.is_some() => {}
                Some(REGISTRY) => problems.push(format!("{name} {version} has no checksum")),
                Some(other) => problems.push(format!(
                    "{name} {version} comes from {other}; hint: only {REGISTRY} is allowed"
                )),
            }
        }
    }

    /// Whether our own packages need this one in another way than through a package of the name
    /// `through`.
    pub(super) fn is_needed_besides(&self, wanted: &Locked, through: &str) -> bool {
        let id = |package: &Locked| format!("{} {}", package.name, package.version);
        let mut by_name: HashMap<String, &Locked> = HashMap::new();
        for package in &self.packages {
            by_name.insert(package.name.clone(), package);
            by_name.insert(id(package), package);
        }
        let mut next: Vec<&Locked> = self.packages.iter().filter(|p| p.source.is_none()).collect();
        let mut seen: HashSet<String> = HashSet::new();
        while let Some(package) = next.pop() {
            if package.name == through || !seen.insert(id(package)) {
                continue;
            }
            let needed = package.dependencies.iter().filter_map(|name| by_name.get(name).copied());
            next.extend(needed);
        }
        seen.contains(&id(wanted))
    }
}
