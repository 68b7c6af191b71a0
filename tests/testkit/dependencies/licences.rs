//! Licences of packages, as their manifests state them.

use serde::Deserialize;

/// A package of `cargo metadata`.
#[derive(Debug, Deserialize)]
pub struct Package {
    name: String,
    version: String,
    license: Option<String>,
}

/// Reads what `cargo metadata --format-version 1` prints.
pub fn packages_of_metadata(json: &str) -> Result<Vec<Package>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    Ok(serde_json::from_str::<Metadata>(json)?.packages)
}

impl Package {
    pub(super) fn check_licence(&self, allowed: &[String], problems: &mut Vec<String>) {
        let Package { name, version, license } = self;
        match license.as_deref().map(|text| Expression::is_allowed(text, allowed)) {
            Some(Ok(true)) => {}
            Some(Ok(false)) => problems.push(format!(
                "{name} {version} has the licence {:?}, which is not allowed; hint: allowed is {}",
                license.as_deref().unwrap_or_default(),
                allowed.join(", ")
            )),
            Some(Err(word)) => problems
                .push(format!("{name} {version}: the licence has the unexpected word {word:?}")),
            None => problems.push(format!("{name} {version} states no licence")),
        }
    }
}

/// An SPDX expression, read from left to right: AND binds closer than OR. The old form "MIT/Apache"
/// means OR.
struct Expression<'a> {
    words: std::iter::Peekable<std::vec::IntoIter<String>>,
    allowed: &'a [String],
}

impl Expression<'_> {
    /// Whether some choice that the expression offers consists of allowed licences only. Refuses
    /// with the word that does not belong there.
    fn is_allowed(text: &str, allowed: &[String]) -> Result<bool, String> {
        let spaced = text.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
        let words: Vec<String> = spaced.split_whitespace().map(str::to_owned).collect();
        let mut expression = Expression { words: words.into_iter().peekable(), allowed };
        let is_allowed = expression.any()?;
        match expression.words.next() {
            Some(word) => Err(word),
            None => Ok(is_allowed),
        }
    }

    fn any(&mut self) -> Result<bool, String> {
        let mut is_allowed = self.all()?;
        while self.words.next_if(|word| word == "OR").is_some() {
            is_allowed |= self.all()?;
        }
        Ok(is_allowed)
    }

    fn all(&mut self) -> Result<bool, String> {
        let mut is_allowed = self.one()?;
        while self.words.next_if(|word| word == "AND").is_some() {
            is_allowed &= self.one()?;
        }
        Ok(is_allowed)
    }

    fn one(&mut self) -> Result<bool, String> {
        let word = self.words.next().ok_or("the end")?;
        if word == "(" {
            let is_allowed = self.any()?;
            let end = self.words.next().ok_or("the end")?;
            return if end == ")" { Ok(is_allowed) } else { Err(end) };
        }
        if matches!(word.as_str(), ")" | "AND" | "OR" | "WITH") {
            return Err(word);
        }
        let mut name = word;
        if self.words.next_if(|word| word == "WITH").is_some() {
            name = format!("{name} WITH {}", self.words.next().ok_or("the end")?);
        }
        Ok(self.allowed.contains(&name))
    }
}
