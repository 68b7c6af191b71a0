//! Reads what `cargo test` prints.

/// The failures in an output of `cargo test`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Tests that failed, and whose test process lived on and said so.
    pub failures: Vec<Failure>,
    /// What else went wrong: a process that ended early, a signal, output that makes no sense.
    pub broken: Vec<String>,
    /// Tests that passed.
    pub passed: u64,
}

/// One failed test.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its path inside its test binary, or the place of a documentation test.
    pub name: String,
    /// What it printed, panics included.
    pub text: String,
}

/// A panic in the output of a test.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Panic<'a> {
    /// File, line and column.
    pub(super) place: &'a str,
    /// The first line of the message.
    pub(super) message: &'a str,
}

impl Failure {
    /// Every panic in its output, the panics of its threads included.
    pub(super) fn panics(&self) -> Vec<Panic<'_>> {
        let lines: Vec<&str> = self.text.lines().collect();
        let mut panics = Vec::new();
        for (number, line) in lines.iter().enumerate() {
            if let Some((_, place)) = line.split_once(" panicked at ") {
                let message = lines.get(number + 1).copied().unwrap_or_default();
                panics.push(Panic { place, message });
            }
        }
        panics
    }
}

impl Report {
    /// Reads the output, stdout and stderr in the order in which they were written.
    pub fn parse(output: &str) -> Report {
        let mut report = Report::default();
        // The test binary that runs, as cargo calls it.
        let mut target = "a test binary".to_owned();
        // Lines of the binary's run, from "running 3 tests" on.
        let mut run: Option<Vec<&str>> = None;
        for line in output.lines() {
            if let Some(next) = target_of(line) {
                report.end_early(&target, run.take());
                target = next.to_owned();
            } else if is_start(line) {
                report.end_early(&target, run.replace(Vec::new()));
            } else if let Some(result) = line.strip_prefix("test result: ") {
                match run.take() {
                    Some(lines) => report.end(&target, &lines, result),
                    None => report.broken.push(format!("{target}: a result without a start")),
                }
            } else if line.contains("process didn't exit successfully: ") {
                report.broken.push(line.trim().to_owned());
            } else if let Some(lines) = &mut run {
                lines.push(line);
            }
        }
        report.end_early(&target, run);
        report
    }

    /// A run that ended with its own result.
    fn end(&mut self, target: &str, lines: &[&str], result: &str) {
        let (Some(passed), Some(failed)) = (count(result, "passed"), count(result, "failed"))
        else {
            self.broken.push(format!("{target}: no counts in: test result: {result}"));
            return;
        };
        self.passed += passed;
        let failures = failures(lines);
        if failures.len() as u64 != failed {
            let named = failures.len();
            self.broken.push(format!("{target}: {failed} tests failed, {named} are named"));
        }
        self.failures.extend(failures);
    }

    /// A run whose process ended before its result.
    fn end_early(&mut self, target: &str, lines: Option<Vec<&str>>) {
        if let Some(lines) = lines {
            let last = lines.last().copied().unwrap_or_default();
            self.broken.push(format!("{target} ended without a result, after: {last}"));
        }
    }
}

/// "     Running tests/main.rs (target/debug/deps/it-0123)", "   Doc-tests indelible".
fn target_of(line: &str) -> Option<&str> {
    let words = line.strip_prefix("     Running ").or_else(|| line.strip_prefix("   Doc-tests "));
    words.map(str::trim)
}

/// "running 61 tests"
fn is_start(line: &str) -> bool {
    let count = line.strip_prefix("running ").and_then(|rest| rest.split_once(" test"));
    count.is_some_and(|(count, rest)| count.parse::<u64>().is_ok() && matches!(rest, "" | "s"))
}

/// The number before `word` in "FAILED. 1 passed; 5 failed; 0 ignored; ...".
fn count(result: &str, word: &str) -> Option<u64> {
    let (before, _) = result.split_once(&format!(" {word};"))?;
    before.rsplit(' ').next()?.parse().ok()
}

/// The named failures of a run: the list after the last "failures:", each with its output.
fn failures(lines: &[&str]) -> Vec<Failure> {
    let Some(list) = lines.iter().rposition(|line| *line == "failures:") else {
        return Vec::new();
    };
    let names = lines[list + 1..].iter().filter_map(|line| line.strip_prefix("    "));
    let names: Vec<&str> = names.collect();
    let heading = |name: &str| format!("---- {name} stdout ----");
    let headings: Vec<String> = names.iter().map(|name| heading(name)).collect();
    let text = |own: &String| {
        let after = lines[..list].iter().skip_while(|line| *line != own).skip(1);
        let own = after.take_while(|line| !headings.iter().any(|other| other == *line));
        own.copied().collect::<Vec<_>>().join("\n")
    };
    let failure = |(name, heading): (&&str, &String)| Failure {
        name: (*name).to_owned(),
        text: text(heading),
    };
    names.iter().zip(&headings).map(failure).collect()
}
