//! `tests/dependencies.toml`.

use jiff::civil::Date;
use serde::Deserialize;

use super::Lock;

/// What is allowed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// SPDX names of allowed licences.
    pub licences: Vec<String>,
    /// Packages that may not be used.
    pub banned: Vec<String>,
    /// Packages of which there may be one version only.
    pub once: Vec<String>,
    /// Advisories that are known and accepted for now.
    #[serde(default)]
    pub accepted: Vec<Accepted>,
}

/// An accepted advisory.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    /// Its id.
    pub id: String,
    /// The only package through which the advisory's package may be needed.
    pub through: String,
    /// Why it is accepted.
    pub reason: String,
    /// Last day on which it is accepted. Then somebody looks again.
    pub review: Date,
}

impl Rules {
    /// Reads the text of the file.
    pub fn parse(text: &str) -> Result<Rules, toml::de::Error> {
        toml::from_str(text)
    }

    pub(super) fn check_names(&self, lock: &Lock, problems: &mut Vec<String>) {
        let versions = |name: &str| -> Vec<String> {
            let of_name = lock.packages.iter().filter(|package| package.name == name);
            of_name.map(|package| package.version.to_string()).collect()
        };
        for name in &self.banned {
            for version in versions(name) {
                problems.push(format!("{name} {version} is banned; hint: cargo tree -i {name}"));
            }
        }
        for name in &self.once {
            let found = versions(name);
            if found.len() > 1 {
                let found = found.join(", ");
                problems.push(format!("{name} is there in the versions {found}; the limit is one"));
            }
        }
    }
}
