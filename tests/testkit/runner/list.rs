//! `tests/FLAKY.md`: tests that were flaky before.

/// The names in that file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct FlakyList(Vec<String>);

impl FlakyList {
    /// Reads the file: a line "- `name`: when, and what was seen" for each test.
    pub fn parse(text: &str) -> FlakyList {
        let names = text.lines().filter_map(|line| line.strip_prefix("- `")?.split_once('`'));
        FlakyList(names.map(|(name, _)| name.to_owned()).collect())
    }

    /// Whether the test was flaky before.
    pub fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|known| known == name)
    }
}
