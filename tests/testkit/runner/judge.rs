//! Which failures are final.

use indelible_local::CRASHED;

use super::{Failure, RERUNS_MAX, Report};
use crate::fail::{ENVIRONMENT, TIMEOUT};

/// What a run of `cargo test` means.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All tests passed.
    Passed,
    /// These failed and may run once more.
    RunAgain(Vec<Failure>),
    /// The run failed, for these reasons, one a line.
    Failed(Vec<String>),
}

/// Judges a run that ended with success or not, and printed this.
pub fn judge(success: bool, report: Report) -> Verdict {
    let mut reasons = report.broken;
    for failure in &report.failures {
        if let Err(reason) = may_run_again(failure) {
            reasons.push(format!("{}: {reason}", failure.name));
        }
    }
    let failed = report.failures.len();
    if failed > RERUNS_MAX {
        reasons.push(format!("{failed} tests failed; not more than {RERUNS_MAX} may run again"));
    }
    if reasons.is_empty() && success != (failed == 0) {
        let said = if success { "succeeded" } else { "failed" };
        reasons.push(format!("cargo test {said} although {failed} tests are named as failed"));
    }
    match (reasons.is_empty(), failed) {
        (false, _) => Verdict::Failed(reasons),
        (true, 0) => Verdict::Passed,
        (true, _) => Verdict::RunAgain(report.failures),
    }
}

/// Refuses with the reason why the failure is final.
fn may_run_again(failure: &Failure) -> Result<(), String> {
    if failure.text.contains(CRASHED) {
        return Err("final: a node crashed".into());
    }
    let panics = failure.panics();
    if panics.is_empty() {
        return Err("final: it failed without a panic".into());
    }
    for panic in panics {
        if !panic.place.starts_with("tests/") {
            return Err(format!("final: panic at {} {}", panic.place, panic.message));
        }
        if !(panic.message.starts_with(TIMEOUT) || panic.message.starts_with(ENVIRONMENT)) {
            return Err(format!("final: {}", panic.message));
        }
    }
    Ok(())
}
