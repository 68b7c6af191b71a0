//! Each rule, kept and broken.

use jiff::civil::{Date, date};

use super::{Advisories, Checked, Lock, Rules, packages_of_metadata, read_database};

const LOCK: &str = r#"
version = 4
[[package]]
name = "indelible"
version = "0.1.0"
dependencies = ["sled", "ring"]

[[package]]
name = "sled"
version = "0.34.7"
source = "registry+https://github.com/rust-lang/crates.io-index"
checksum = "01"
dependencies = ["fxhash", "rand 0.8.8"]

[[package]]
name = "fxhash"
version = "0.2.1"
source = "registry+https://github.com/rust-lang/crates.io-index"
checksum = "02"

[[package]]
name = "rand"
version = "0.8.8"
source = "registry+https://github.com/rust-lang/crates.io-index"
checksum = "03"

[[package]]
name = "ring"
version = "0.17.14"
source = "registry+https://github.com/rust-lang/crates.io-index"
checksum = "04"
"#;

const METADATA: &str = r#"{"packages": [
  {"name": "indelible", "version": "0.1.0", "license": "Apache-2.0", "id": "x"},
  {"name": "sled", "version": "0.34.7", "license": "MIT/Apache-2.0"}]}"#;

const RULES: &str = r#"
licences = ["Apache-2.0", "MIT", "ISC", "Unicode-3.0"]
banned = ["openssl"]
once = ["ring"]
[[accepted]]
id = "RUSTSEC-2025-0057"
through = "sled"
reason = "derived state"
review = "2027-05-31"
"#;

const ADVISORIES: &str = r#"
date = "2026-08-21"
commit = "bf5c"
advisories = [
  { id = "RUSTSEC-2025-0057", package = "fxhash", kind = "unmaintained", patched = [], unaffected = [] },
  { id = "RUSTSEC-2025-0009", package = "ring", kind = "vulnerability", patched = [">=0.17.12"], unaffected = ["<0.3"] },
]
"#;

const TODAY: Date = date(2026, 11, 27);

/// The problems of a tree in which one text is changed.
fn problems_at(today: Date, from: &str, to: &str) -> String {
    let texts = [LOCK, METADATA, RULES, ADVISORIES];
    assert!(from.is_empty() || texts.iter().any(|text| text.contains(from)), "{from}");
    let [lock, metadata, rules, advisories] = texts.map(|text| match from {
        "" => text.to_owned(),
        _ => text.replace(from, to),
    });
    let checked = Checked {
        locks: vec![Lock::parse(&lock).unwrap()],
        packages: packages_of_metadata(&metadata).unwrap(),
        rules: Rules::parse(&rules).unwrap(),
        advisories: Advisories::parse(&advisories).unwrap(),
    };
    checked.problems(today).join("\n")
}

fn problems(from: &str, to: &str) -> String {
    problems_at(TODAY, from, to)
}

/// Exactly one problem, which says this.
fn assert_problem(from: &str, to: &str, says: &str) {
    let found = problems(from, to);
    assert!(found.contains(says) && found.lines().count() == 1, "{from} -> {to}: {found:?}");
}

#[test]
fn a_good_tree_has_no_problem() {
    assert_eq!(problems("", ""), "");
}

#[test]
fn sources() {
    let ring =
        "source = \"registry+https://github.com/rust-lang/crates.io-index\"\nchecksum = \"04\"";
    let git = "source = \"git+https://github.com/x/ring?rev=1#1\"";
    assert_problem(ring, git, "ring 0.17.14 comes from git+https://github.com/x/ring");
    let other = ring.replace("rust-lang", "others");
    assert_problem(ring, &other, "comes from registry+https://github.com/others");
    assert_problem(ring, "", "ring 0.17.14 is taken from a folder");
    assert_problem("\nchecksum = \"04\"", "", "ring 0.17.14 has no checksum");
}

#[test]
fn names() {
    assert_problem("name = \"rand\"", "name = \"openssl\"", "openssl 0.8.8 is banned");
    let two = "name = \"ring\"\nversion = \"0.16.0\"\n[[package]]\nname = \"ring\"";
    let two = two.replacen("\n[[", "\nsource = \"registry+https://github.com/rust-lang/crates.io-index\"\nchecksum = \"05\"\n[[", 1);
    let found = problems("name = \"ring\"", &two);
    assert!(found.contains("ring is there in the versions 0.16.0, 0.17.14"), "{found}");
}

#[test]
fn licences() {
    let with = |licence: &str| problems("MIT/Apache-2.0", licence);
    for good in [
        "MIT",
        "MIT OR GPL-3.0",
        "GPL-3.0/MIT",
        "GPL-3.0 / MIT",
        "Apache-2.0 AND ISC",
        "Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT",
        "(MIT OR GPL-3.0) AND Unicode-3.0",
        "GPL-3.0 AND ISC OR MIT",
    ] {
        assert_eq!(with(good), "", "{good}");
    }
    for bad in
        ["GPL-3.0", "MIT AND GPL-3.0", "MIT WITH some-exception", "(MIT OR ISC) AND GPL-3.0", "mit"]
    {
        assert!(with(bad).contains("sled 0.34.7 has the licence"), "{bad}: {}", with(bad));
    }
    for senseless in ["", "MIT OR", "AND MIT", "MIT ISC", "(MIT", "MIT)", "MIT WITH"] {
        assert!(with(senseless).contains("unexpected word"), "{senseless}");
    }
    assert!(problems("\"MIT/Apache-2.0\"", "null").contains("sled 0.34.7 states no licence"));
}

#[test]
fn advisories() {
    assert_problem("0.17.14", "0.17.11", "ring 0.17.11 has RUSTSEC-2025-0009 (vulnerability)");
    assert_problem("0.17.14", "0.17.12-alpha.1", "has RUSTSEC-2025-0009");
    assert_eq!(problems("0.17.14", "0.2.9"), "", "unaffected");
    // The acceptance is of another advisory, or nothing needs it any more.
    let found = problems("RUSTSEC-2025-0057\"\nthrough", "RUSTSEC-2025-0058\"\nthrough");
    assert!(found.contains("fxhash 0.2.1 has RUSTSEC-2025-0057 (unmaintained)"), "{found}");
    assert!(found.contains("RUSTSEC-2025-0058 is accepted and concerns no package"), "{found}");
    // Needed by something else, too.
    let ring = "dependencies = [\"sled\", \"ring\"]";
    let both = "dependencies = [\"sled\", \"ring\", \"fxhash\"]";
    assert!(problems(ring, both).contains("fxhash 0.2.1 has RUSTSEC-2025-0057"));
}

#[test]
fn a_review_that_is_due_fails() {
    assert_eq!(problems_at(date(2027, 5, 31), "", ""), "");
    let found = problems_at(date(2027, 6, 1), "", "");
    assert!(found.contains("RUSTSEC-2025-0057 was accepted until 2027-05-31"), "{found}");
}

#[test]
fn the_snapshot_reads_back() {
    let dir = tempfile::tempdir().unwrap();
    let write = |package: &str, file: &str, text: &str| {
        let folder = dir.path().join("crates").join(package);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(file), text).unwrap();
    };
    let head = "```toml\n[advisory]\nid = \"RUSTSEC-2025-0009\"\npackage = \"ring\"\n";
    let versions = "[versions]\npatched = [\">= 0.17.12, < 0.18\"]\n```\n\n# Prose\n";
    write("ring", "RUSTSEC-2025-0009.md", &format!("{head}{versions}"));
    let withdrawn = head.replace("0009", "0010") + "withdrawn = \"2025-02-02\"\n";
    write("ring", "RUSTSEC-2025-0010.md", &format!("{withdrawn}{versions}"));
    let read = read_database(dir.path(), TODAY, "abc".into()).unwrap();
    let again = Advisories::parse(&read.to_toml()).unwrap();
    assert_eq!((again.date, again.commit.as_str()), (TODAY, "abc"));
    let [advisory] = &again.advisories[..] else { panic!("{again:?}") };
    assert_eq!(
        (advisory.id.as_str(), advisory.kind.as_str()),
        ("RUSTSEC-2025-0009", "vulnerability")
    );
    assert_eq!(advisory.patched[0].to_string(), ">=0.17.12, <0.18");
    write("ring", "RUSTSEC-2025-0011.md", "# Prose only\n");
    let error = read_database(dir.path(), TODAY, "abc".into()).unwrap_err();
    assert!(error.to_string().contains("RUSTSEC-2025-0011.md does not begin with"), "{error}");
}
