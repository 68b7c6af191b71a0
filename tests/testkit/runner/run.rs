//! Runs cargo, shows what it prints, and keeps it.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use super::{Failure, FlakyList, Report, Verdict, judge};

/// What to run, and where to keep what failed.
pub struct Options {
    /// The program "cargo".
    pub cargo: PathBuf,
    /// Its arguments for all tests: "test", "--workspace", ...
    pub arguments: Vec<String>,
    /// Folder for the output of failed and flaky tests and the logs of their nodes; made if
    /// something is to be kept.
    pub logs: PathBuf,
    /// `tests/FLAKY.md`.
    pub flaky: PathBuf,
}

/// Runs all tests, and once more the tests that may. True if the gate is passed.
pub fn run(options: &Options) -> io::Result<bool> {
    let known = FlakyList::parse(&fs::read_to_string(&options.flaky)?);
    let (status, output) = cargo(options, &[])?;
    let report = Report::parse(&output);
    let passed = report.passed;
    let failures = match judge(status.success(), report) {
        Verdict::Passed => {
            println!("\ntest runner: {passed} tests passed");
            return Ok(true);
        }
        Verdict::Failed(reasons) => {
            let kept = keep(options, "cargo-test", &output)?;
            for reason in reasons {
                println!("FAILED {reason}");
            }
            println!("output kept: {}", kept.display());
            return Ok(false);
        }
        Verdict::RunAgain(failures) => failures,
    };
    keep(options, "cargo-test", &output)?;
    let mut good = true;
    for failure in &failures {
        good &= run_again(options, failure, &known)?;
    }
    Ok(good)
}

/// Runs one test alone. True if it passes and was not flaky before.
fn run_again(options: &Options, failure: &Failure, known: &FlakyList) -> io::Result<bool> {
    let name = &failure.name;
    println!("\n== {name} runs once more, alone");
    let (status, output) = cargo(options, &["--tests", "--", "--exact", name])?;
    let report = Report::parse(&output);
    let kept = keep(options, name, &format!("{}\n\n== once more\n{output}", failure.text))?;
    let passed = report.passed;
    if passed == 0 || judge(status.success(), report) != Verdict::Passed {
        println!("FAILED {name}: it failed twice, or did not run again");
        println!("output kept: {}", kept.display());
        return Ok(false);
    }
    let reason = failure.panics().first().map_or("", |panic| panic.message);
    println!("FLAKY {name}: {reason}");
    println!("output kept: {}", kept.display());
    if known.contains(name) {
        println!(
            "FAILED {name}: it was flaky before; hint: repair it, then remove its line in tests/FLAKY.md"
        );
        return Ok(false);
    }
    println!("hint: add to tests/FLAKY.md: - `{name}`: date, and what was seen");
    Ok(true)
}

/// Runs cargo with the arguments of all tests and some more. Returns how it ended and all that it
/// printed, which is shown at the same time.
fn cargo(options: &Options, more: &[&str]) -> io::Result<(ExitStatus, String)> {
    // One pipe for both, so that the order is kept: cargo names the binary on stderr, the binary
    // its tests on stdout.
    let (reader, writer) = io::pipe()?;
    let mut command = Command::new(&options.cargo);
    command.args(&options.arguments).args(more).stdin(Stdio::null());
    command.env("INDELIBLE_KEEP_LOGS", std::path::absolute(options.logs.join("nodes"))?);
    command.stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn()?;
    // The command holds the ends that cargo writes to: without this the reader would wait for ever.
    drop(command);
    let mut output = String::new();
    let mut lines = BufReader::new(reader);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        print!("{text}");
        output.push_str(&text);
        line.clear();
    }
    Ok((child.wait()?, output))
}

/// Writes a file into the folder for logs.
fn keep(options: &Options, name: &str, text: &str) -> io::Result<PathBuf> {
    fs::create_dir_all(&options.logs)?;
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
    let file = name.chars().map(safe).collect::<String>();
    let path = Path::new(&options.logs).join(file).with_extension("log");
    fs::write(&path, text)?;
    Ok(path)
}
