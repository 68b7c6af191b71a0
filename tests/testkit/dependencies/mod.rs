//! Checks the packages that the program is built from: where they come from, under which licences,
//! and what the RustSec advisory database says about them.
//!
//! The rules are in `tests/dependencies.toml`, the advisories in `tests/data/advisories.toml`, which
//! `scripts/advisories.sh` writes. Nothing is asked of a network, so the same tree gives the same
//! answer, until an accepted advisory is due for review.

mod advisories;
mod licences;
mod lock;
mod rules;

use jiff::civil::Date;

pub use advisories::{Advisories, Advisory, DatabaseError, read_database};
pub use licences::{Package, packages_of_metadata};
pub use lock::Lock;
pub use rules::{Accepted, Rules};

/// What is checked.
pub struct Checked {
    /// The lock files: of the workspace, of `fuzz/`.
    pub locks: Vec<Lock>,
    /// Packages of `cargo metadata`, with their licences.
    pub packages: Vec<Package>,
    /// `tests/dependencies.toml`.
    pub rules: Rules,
    /// `tests/data/advisories.toml`.
    pub advisories: Advisories,
}

impl Checked {
    /// Everything that is wrong, one sentence each; empty if nothing is. `today` decides which
    /// accepted advisories are due for review.
    pub fn problems(&self, today: Date) -> Vec<String> {
        let mut problems = Vec::new();
        for lock in &self.locks {
            lock.check_sources(&mut problems);
            self.rules.check_names(lock, &mut problems);
        }
        for package in &self.packages {
            package.check_licence(&self.rules.licences, &mut problems);
        }
        self.advisories.check(&self.locks, &self.rules.accepted, today, &mut problems);
        problems
    }
}

#[cfg(test)]
mod tests;
