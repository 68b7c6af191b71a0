//! `indelible-test-runner [--logs DIR] [CARGO ARGUMENTS]`: runs `cargo test`, and once more what may
//! run again (`indelible_testkit::runner`). Without arguments for cargo: `test --workspace --locked
//! --no-fail-fast`. Run it in the folder of the workspace.

use std::path::PathBuf;
use std::process::ExitCode;

use indelible_testkit::runner::{Options, run};

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut logs = PathBuf::from("target/test-logs");
    if arguments.first().is_some_and(|first| first == "--logs") {
        if arguments.len() < 2 {
            eprintln!("--logs needs a folder; hint: --logs target/test-logs");
            return ExitCode::from(2);
        }
        logs = PathBuf::from(&arguments[1]);
        arguments.drain(..2);
    }
    if arguments.is_empty() {
        let all = ["test", "--workspace", "--locked", "--no-fail-fast"];
        arguments = all.map(str::to_owned).to_vec();
    }
    let cargo = std::env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from);
    let options = Options { cargo, arguments, logs, flaky: "tests/FLAKY.md".into() };
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!(
                "cannot run the tests: {error}; hint: run this in the folder of the workspace"
            );
            ExitCode::FAILURE
        }
    }
}
