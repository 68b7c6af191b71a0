//! Failures that say nothing about the program: something took too long, or the machine lacked
//! something. A test that fails through these functions may run once more, alone
//! ([`crate::runner`]). Anything else that a test finds is final.

use std::fmt::Display;
use std::future::Future;
use std::panic::Location;
use std::time::Duration;

/// Start of the message of [`timeout`].
pub const TIMEOUT: &str = "timeout:";
/// Start of the message of [`environment`].
pub const ENVIRONMENT: &str = "environment:";

/// Fails the test: `what` did not happen in time.
#[track_caller]
pub fn timeout(what: impl Display) -> ! {
    fail(TIMEOUT, &what, Location::caller())
}

/// Fails the test: this machine lacks something that the test needs, such as a free port.
#[track_caller]
pub fn environment(what: impl Display) -> ! {
    fail(ENVIRONMENT, &what, Location::caller())
}

/// The value of `future`, or a failure of the test after `limit`.
pub async fn within<T>(limit: Duration, what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(limit, future).await {
        Ok(value) => value,
        Err(_) => timeout(format_args!("{what}: not within {limit:?}")),
    }
}

/// NB: not `track_caller`. The runner trusts the prefix of a panic only if the panic is here, so the
/// caller's place is part of the message.
fn fail(prefix: &str, what: &dyn Display, caller: &Location) -> ! {
    panic!("{prefix} {what} (at {caller})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(fails: fn()) -> String {
        let panic = std::panic::catch_unwind(fails).expect_err("it fails the test");
        panic.downcast_ref::<String>().expect("a message").clone()
    }

    #[test]
    fn messages_begin_as_the_runner_expects_and_name_the_caller() {
        let said = message(|| timeout("a leader"));
        assert!(said.starts_with("timeout: a leader (at tests/testkit/fail.rs:"), "{said}");
        let said = message(|| environment("no port"));
        assert!(said.starts_with("environment: no port (at "), "{said}");
    }

    #[tokio::test]
    async fn what_is_in_time_is_returned() {
        assert_eq!(within(Duration::from_secs(60), "a number", async { 7 }).await, 7);
    }

    #[tokio::test]
    #[should_panic(expected = "timeout: nothing: not within 1ms")]
    async fn what_never_comes_is_a_timeout() {
        within(Duration::from_millis(1), "nothing", std::future::pending::<()>()).await;
    }
}
