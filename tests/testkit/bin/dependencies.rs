//! `indelible-dependencies`: checks the packages that the program is built from
//! (`indelible_testkit::dependencies`). Run it in the folder of the workspace.
//!
//! `indelible-dependencies snapshot DIR DATE COMMIT`: prints `tests/data/advisories.toml` from a
//! checkout of the advisory database; `scripts/advisories.sh` calls it.

use std::path::Path;
use std::process::{Command, ExitCode};

use indelible_testkit::dependencies::{
    Advisories, Checked, Lock, Rules, packages_of_metadata, read_database,
};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        [] => check(),
        ["snapshot", dir, date, commit] => snapshot(dir, date, commit),
        _ => Err("hint: no arguments, or: snapshot DIR DATE COMMIT".into()),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("dependencies: {error}");
            ExitCode::FAILURE
        }
    }
}

type Outcome = Result<ExitCode, Box<dyn std::error::Error>>;

fn check() -> Outcome {
    let checked = Checked {
        locks: vec![Lock::parse(&read("Cargo.lock")?)?, Lock::parse(&read("fuzz/Cargo.lock")?)?],
        packages: packages_of_metadata(&metadata()?)?,
        rules: Rules::parse(&read("tests/dependencies.toml")?)?,
        advisories: Advisories::parse(&read("tests/data/advisories.toml")?)?,
    };
    let today = jiff::Zoned::now().date();
    let problems = checked.problems(today);
    for problem in &problems {
        println!("WRONG {problem}");
    }
    println!(
        "dependencies: {} packages in two lock files, {} licences read, {} advisories of {}, {} accepted, {} wrong",
        checked.locks.iter().map(Lock::len).sum::<usize>(),
        checked.packages.len(),
        checked.advisories.advisories.len(),
        checked.advisories.date,
        checked.rules.accepted.len(),
        problems.len()
    );
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn snapshot(dir: &str, date: &str, commit: &str) -> Outcome {
    let advisories = read_database(Path::new(dir), date.parse()?, commit.to_owned())?;
    print!("{}", advisories.to_toml());
    Ok(ExitCode::SUCCESS)
}

fn read(path: &str) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| {
        format!("cannot read {path}: {error}; hint: run this in the folder of the workspace")
    })
}

/// Packages that are built on this platform: of others the manifests may not be here, and nothing
/// is fetched.
fn metadata() -> Result<String, Box<dyn std::error::Error>> {
    let version = output(Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.ok_or("rustc -vV names no host")?;
    let mut cargo = Command::new("cargo");
    cargo.args(["metadata", "--locked", "--offline", "--format-version", "1"]);
    output(cargo.args(["--filter-platform", host]))
}

fn output(command: &mut Command) -> Result<String, Box<dyn std::error::Error>> {
    let done = command.output()?;
    if !done.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&done.stderr)).into());
    }
    Ok(String::from_utf8(done.stdout)?)
}
