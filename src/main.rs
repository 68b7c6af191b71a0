//! Parses the command line and dispatches; nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    indelible::cli::run()
}
