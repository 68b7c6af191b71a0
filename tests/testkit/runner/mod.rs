//! Runs `cargo test` and judges what failed.
//!
//! A test that failed through [`crate::fail`] runs once more, alone. If it passes then, it is
//! *flaky*: it is printed, its output is kept, and its name must be added to `tests/FLAKY.md`. If
//! its name stands there already, the run fails: a test may be flaky once, then it is repaired.
//! Every other failure is final: an assertion, a panic outside of `tests/`, a signal, an abort.

mod judge;
mod list;
mod report;
mod run;

pub use judge::{Verdict, judge};
pub use list::FlakyList;
pub use report::{Failure, Report};
pub use run::{Options, run};

/// More tests than this do not run again: then it is not one test, it is the machine or the program.
pub const RERUNS_MAX: usize = 3;

#[cfg(test)]
mod tests;
