//! The runner with outputs of cargo and libtest as they were seen.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{FlakyList, Options, Report, Verdict, judge, run};

/// An output of cargo with one test binary that passes and one with these failed tests.
fn output(failed: &[(&str, &str)]) -> String {
    let mut out = String::from(
        "    Finished `test` profile [unoptimized] target(s) in 0.30s
     Running unittests src/lib.rs (target/debug/deps/indelible-5fc6)

running 2 tests
test disk::slots::tests::swap ... ok
test disk::dir::tests::list ... ok

test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s

     Running tests/main.rs (target/debug/deps/it-88ab)

",
    );
    out += &format!("running {} tests\ntest reads::levels ... ok\n", failed.len() + 1);
    for (name, _) in failed {
        out += &format!("test {name} ... FAILED\n");
    }
    out += "\nfailures:\n\n";
    for (name, text) in failed {
        out += &format!("---- {name} stdout ----\n{text}\n\n");
    }
    out += "\nfailures:\n";
    for (name, _) in failed {
        out += &format!("    {name}\n");
    }
    out += &format!(
        "\ntest result: FAILED. 1 passed; {} failed; 0 ignored; 0 measured; 0 filtered out; finished in 61.20s

error: test failed, to rerun pass `-p indelible --test it`
   Doc-tests indelible

running 1 test
test src/lib.rs - (line 5) ... ok

test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s

error: 1 target failed:
    `-p indelible --test it`
",
        failed.len()
    );
    out
}

fn panic(thread: &str, place: &str, message: &str) -> String {
    format!(
        "INDELIBLE_SEED=17\n\nthread '{thread}' (4711) panicked at {place}:\n{message}\nstack backtrace:
   0: __rustc::rust_begin_unwind
             at /rustc/59807/library/std/src/panicking.rs:689:5
   1: indelible::node::start::start\nnote: run with `RUST_BACKTRACE=full` for more."
    )
}

const KIT: &str = "tests/testkit/fail.rs:45:5";

fn timed_out(name: &str) -> String {
    panic(name, KIT, "timeout: a leader: not within 60s (at tests/harness.rs:70:13)")
}

/// The verdict on a run that failed.
fn verdict(output: &str) -> Verdict {
    judge(false, Report::parse(output))
}

fn reasons(output: &str) -> String {
    match verdict(output) {
        Verdict::Failed(reasons) => reasons.join("\n"),
        other => panic!("not final: {other:?}"),
    }
}

fn names_to_run_again(output: &str) -> Vec<String> {
    match verdict(output) {
        Verdict::RunAgain(failures) => failures.into_iter().map(|failure| failure.name).collect(),
        other => panic!("not to be run again: {other:?}"),
    }
}

#[test]
fn passed_tests_are_counted() {
    let passed = output(&[]).replace("FAILED. 1", "ok. 1");
    let report = Report::parse(&passed);
    assert_eq!((report.passed, &report.failures, &report.broken), (4, &vec![], &vec![]));
    assert_eq!(judge(true, report), Verdict::Passed);
}

#[test]
fn timeouts_and_environment_run_again() {
    let no_port = panic("b::two", KIT, "environment: found 2 of 3 free ports");
    let out = output(&[("a::one", &timed_out("a::one")), ("b::two", &no_port)]);
    assert_eq!(names_to_run_again(&out), ["a::one", "b::two"]);
}

#[test]
fn everything_else_is_final() {
    let assertion = "assertion `left == right` failed: leaf 7 is lost\n  left: 1\n right: 2";
    for (what, text) in [
        ("leaf 7 is lost", panic("t", "tests/chaos.rs:151:9", assertion)),
        ("not within 60s", panic("t", "tests/chaos.rs:9:9", "a leader: not within 60s")),
        // The right words at a place that is not a test's.
        ("src/node/start.rs", panic("t", "src/node/start.rs:12:5", "timeout: a peer")),
        ("openraft", panic("t", "/r/.cargo/registry/src/x/openraft-0.10.0/a.rs:1:1", "timeout: x")),
        // A thread lost an event before the test gave up, or after it.
        ("lost", panic("<unnamed>", "tests/a.rs:1:1", "lost") + "\n" + &timed_out("t")),
        ("lost", timed_out("t") + "\n" + &panic("<unnamed>", "tests/a.rs:1:1", "lost")),
        // The log of a node, in the message.
        ("src/raft/x.rs", timed_out("t") + "\nthread 'io' panicked at src/raft/x.rs:3:4:\nboom"),
        ("without a panic", "Error: \"timeout: a leader\"".into()),
        ("without a panic", "note: test did not panic as expected at tests/a.rs:6:28".into()),
        ("without a panic", String::new()),
    ] {
        let found = reasons(&output(&[("t", &text)]));
        assert!(found.starts_with("t: final: ") && found.contains(what), "{what}: {found}");
    }
}

#[test]
fn one_final_failure_is_enough() {
    let lost = panic("b", "tests/a.rs:1:1", "lost");
    let found = reasons(&output(&[("a", &timed_out("a")), ("b", &lost)]));
    assert_eq!(found, "b: final: lost");
}

#[test]
fn many_timeouts_are_final() {
    let names = ["a", "b", "c", "d"];
    let texts = names.map(timed_out);
    let failed: Vec<_> = names.into_iter().zip(texts.iter().map(String::as_str)).collect();
    assert_eq!(names_to_run_again(&output(&failed[..3])), ["a", "b", "c"]);
    assert!(reasons(&output(&failed)).contains("4 tests failed"));
}

#[test]
fn a_process_that_dies_is_final() {
    let whole = output(&[("a", &timed_out("a"))]);
    // The second binary aborts: its result is missing.
    let start = whole.find("failures:").unwrap();
    let end = whole.find("error: test failed").unwrap();
    let died = format!("{}{}", &whole[..start], &whole[end..]);
    assert!(reasons(&died).contains("ended without a result, after: "), "{}", reasons(&died));
    let signal = "\nCaused by:\n  process didn't exit successfully: `/t/it-88ab` (signal: 6, SIGABRT: process abort signal)\n";
    assert!(reasons(&format!("{whole}{signal}")).contains("SIGABRT"));
    // The last binary of all is cut.
    let cut = &whole[..whole.rfind("test result: ok.").unwrap()];
    assert!(reasons(cut).contains("Doc-tests") || reasons(cut).contains("indelible ended"));
    // Nothing compiled.
    assert!(reasons("error[E0308]: mismatched types\n").contains("0 tests are named"));
}

#[test]
fn counts_and_names_have_to_agree() {
    let whole = output(&[("a", &timed_out("a"))]);
    let two = whole.replace("1 passed; 1 failed", "1 passed; 2 failed");
    assert!(reasons(&two).contains("2 tests failed, 1 are named"));
    assert!(reasons(&whole.replace("1 failed", "? failed")).contains("no counts in"));
    // Failed, says the output; success, says cargo.
    assert!(matches!(judge(true, Report::parse(&whole)), Verdict::Failed(_)));
}

#[test]
fn a_list_of_failures_in_a_test_s_own_output_hides_nothing() {
    let text = format!("failures:\n    x\n{}", panic("t", "tests/a.rs:1:1", "lost"));
    assert_eq!(reasons(&output(&[("t", &text)])), "t: final: lost");
}

#[test]
fn the_list_is_read() {
    let list = FlakyList::parse("# Flaky tests\n\n`no::item`\n- `a::one`: 2026-11-27, slow\n");
    assert!(list.contains("a::one"));
    assert!(!list.contains("no::item") && !list.contains("a::on"));
}

/// Runs the runner with a script in cargo's place, which prints `first`, and `again` if it is
/// called for one test.
fn run_script(dir: &Path, first: &str, again: (&str, i32), flaky: &str) -> bool {
    fs::write(dir.join("first"), first).unwrap();
    fs::write(dir.join("again"), again.0).unwrap();
    fs::write(dir.join("FLAKY.md"), flaky).unwrap();
    let script = dir.join("cargo");
    let text = format!(
        "#!/bin/sh\ncd {}\necho \"$*\" >> calls\n[ \"$5\" = a::one ] && {{ cat again; exit {}; }}\ncat first\nexit 101\n",
        dir.display(),
        again.1
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let options = Options {
        cargo: script,
        arguments: vec!["test".into()],
        logs: dir.join("logs"),
        flaky: dir.join("FLAKY.md"),
    };
    run(&options).unwrap()
}

#[test]
fn a_flaky_test_passes_once() {
    let dir = tempfile::tempdir().unwrap();
    let first = output(&[("a::one", &timed_out("a::one"))]);
    let again =
        "running 1 test\ntest a::one ... ok\n\ntest result: ok. 1 passed; 0 failed; 0 ignored;\n";
    assert!(run_script(dir.path(), &first, (again, 0), "None so far.\n"));
    let calls = fs::read_to_string(dir.path().join("calls")).unwrap();
    assert_eq!(calls, "test\ntest --tests -- --exact a::one\n");
    let kept = fs::read_to_string(dir.path().join("logs/a--one.log")).unwrap();
    assert!(kept.contains("timeout: a leader") && kept.contains("test a::one ... ok"), "{kept}");

    let known = "- `a::one`: 2026-11-20, no leader\n";
    assert!(!run_script(dir.path(), &first, (again, 0), known), "flaky for the second time");
    let none = "running 0 tests\n\ntest result: ok. 0 passed; 0 failed; 0 ignored;\n";
    assert!(!run_script(dir.path(), &first, (none, 0), ""), "it did not run again");
    assert!(!run_script(dir.path(), &first, (&first, 101), ""), "it failed twice");
    fs::remove_file(dir.path().join("calls")).unwrap();
    let lost = output(&[("a::one", &panic("a::one", "tests/a.rs:1:1", "lost"))]);
    assert!(!run_script(dir.path(), &lost, (again, 0), ""), "final");
    assert_eq!(fs::read_to_string(dir.path().join("calls")).unwrap(), "test\n", "not run again");
}
