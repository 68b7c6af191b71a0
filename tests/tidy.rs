//! Rules of the code that the compiler does not keep.

use std::path::{Path, PathBuf};

/// Lines of a file without its tests.
const LINES_MAX: usize = 600;
/// Characters of a line.
const LINE_WIDTH_MAX: usize = 100;

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every source file under `src`, by its path from there, without what stands under `#[cfg(test)]`
/// and tests' files.
fn files() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&root, &mut found);
    found
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&path).unwrap();
            let code = without_tests(&text);
            (name, code)
        })
        .filter(|(name, _)| !name.contains("tests/") && !name.ends_with("tests.rs"))
        .collect()
}

/// A file up to its inline test module, which is the last thing in it.
fn without_tests(text: &str) -> String {
    let mut code = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let module = |next: &&str| next.starts_with("mod ") && next.ends_with('{');
        if line == "#[cfg(test)]" && lines.peek().is_some_and(module) {
            break;
        }
        code.push(line);
    }
    code.join("\n")
}

/// Fails if `needle` occurs in code (comments aside) outside the places named.
fn only_in(needle: &str, places: &[&str]) {
    for (name, code) in files() {
        if places.iter().any(|place| name.starts_with(place)) {
            continue;
        }
        for (number, line) in code.lines().enumerate() {
            let code = line.split("//").next().unwrap_or(line);
            assert!(
                !code.contains(needle),
                "{name}:{}: {needle} belongs in {places:?}",
                number + 1
            );
        }
    }
}

#[test]
fn sled_is_named_in_one_file() {
    only_in("sled::", &["storage/index.rs"]);
}

#[test]
fn openraft_is_named_in_raft_and_node_only() {
    // The server and the services wait on its watches and name nothing else of it.
    only_in("openraft::", &["raft/", "node/", "server.rs", "service/cluster.rs"]);
}

#[test]
fn files_are_touched_in_disk_only() {
    // The client and `local` do not depend on the server; the client keeps one file of its own, and
    // `scripted` are tests.
    only_in(
        "std::fs",
        &["disk/", "local/", "client/trust/file.rs", "client/profile.rs", "client/scripted/"],
    );
    only_in("tokio::fs", &["disk/", "cli/"]);
}

#[test]
fn layers_point_down() {
    for (layer, above) in [
        ("disk/", &["net", "storage", "raft", "node", "service", "server", "cli"][..]),
        ("net/", &["storage", "raft", "node", "service", "server", "cli"]),
        ("storage/", &["net", "raft", "node", "service", "server", "cli"]),
        ("raft/", &["node", "service", "server", "cli"]),
        ("node/", &["service", "server", "cli"]),
        ("service/", &["server", "cli"]),
    ] {
        for (name, code) in files() {
            if !name.starts_with(layer) {
                continue;
            }
            for higher in above {
                let import = format!("crate::{higher}");
                let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
                let found = code.filter(|line| line.contains(&import)).collect::<Vec<_>>();
                assert!(found.is_empty(), "{name} imports {import}, which is above it: {found:?}");
            }
        }
    }
}

#[test]
fn core_and_storage_read_no_clock_and_no_randomness() {
    for (name, code) in files() {
        // The IO thread paces the `synced` marker; nothing that is written depends on it.
        if !(name.starts_with("core/") || name.starts_with("storage/"))
            || name == "storage/log/io.rs"
        {
            continue;
        }
        for needle in ["SystemTime", "Instant::now", "rand::", "std::env"] {
            assert!(!code.contains(needle), "{name} uses {needle}");
        }
    }
}

#[test]
fn files_and_lines_are_short() {
    for (name, code) in files() {
        let lines = code.lines().count();
        assert!(lines <= LINES_MAX, "{name} has {lines} lines, the limit is {LINES_MAX}");
        for (number, line) in code.lines().enumerate() {
            // A message to a person is easier to find in one piece; an address has no spaces.
            if line.contains('"') || line.contains("://") || line.ends_with('\\') {
                continue;
            }
            let width = line.chars().count();
            assert!(width <= LINE_WIDTH_MAX, "{name}:{} is {width} wide", number + 1);
        }
    }
}
