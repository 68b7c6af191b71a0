//! The tools of the gate, as programs.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

const RUNNER: &str = env!("CARGO_BIN_EXE_indelible-test-runner");
const DEPENDENCIES: &str = env!("CARGO_BIN_EXE_indelible-dependencies");

/// Runs the test runner in a folder where "cargo" is a script with this text.
fn runner(dir: &Path, script: &str) -> Output {
    std::fs::create_dir_all(dir.join("tests")).unwrap();
    std::fs::write(dir.join("tests/FLAKY.md"), "None so far.\n").unwrap();
    let cargo = dir.join("cargo");
    std::fs::write(&cargo, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&cargo, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(RUNNER);
    command.args(["--logs", "logs"]).current_dir(dir).env("CARGO", cargo).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn the_runner_shows_what_cargo_prints_and_fails_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let passed = "echo \"$*\"; echo 'running 0 tests'; echo 'test result: ok. 3 passed; 0 failed;'";
    let output = runner(dir.path(), passed);
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).starts_with("test --workspace --locked --no-fail-fast\n"));
    assert!(text(&output).ends_with("test runner: 3 tests passed\n"), "{}", text(&output));
    assert!(!dir.path().join("logs").exists());

    let output = runner(dir.path(), "echo 'error: could not compile' >&2; exit 101");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("error: could not compile\nFAILED "), "{}", text(&output));
    let kept = std::fs::read_to_string(dir.path().join("logs/cargo-test.log")).unwrap();
    assert_eq!(kept, "error: could not compile\n");
}

#[test]
fn tools_say_where_they_have_to_run() {
    let dir = tempfile::tempdir().unwrap();
    for tool in [RUNNER, DEPENDENCIES] {
        let output = Command::new(tool).current_dir(dir.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{tool}");
        assert!(text(&output).contains("hint: run this in the folder"), "{}", text(&output));
    }
}
