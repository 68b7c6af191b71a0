//! Policies as text: lines of words (tlog-policy, "Policy file syntax and structure").

use std::fmt;
use std::str::FromStr;

use super::{Builder, NONE, Name, Policy, PolicyFault, PolicySyntaxError, Threshold, Witness};
use crate::VerifierKey;
use crate::limits::POLICY_BYTES_MAX;
use crate::text::decode_decimal;

const LOG_FORM: &str = "log KEY [URL]";
const WITNESS_FORM: &str = "witness NAME KEY [URL]";
const GROUP_FORM: &str = "group NAME all|any|NUMBER MEMBER...";
const QUORUM_FORM: &str = "quorum NAME|none";

impl FromStr for Policy {
    type Err = PolicySyntaxError;

    fn from_str(text: &str) -> Result<Policy, PolicySyntaxError> {
        let whole = |fault| PolicySyntaxError { line: 0, fault };
        if text.len() > POLICY_BYTES_MAX {
            return Err(whole(PolicyFault::TooLarge { actual: text.len() }));
        }
        if text.is_empty() {
            return Err(whole(PolicyFault::NoLog));
        }
        // A quorum line that was cut off could be another, weaker one.
        let lines = text.strip_suffix('\n').ok_or_else(|| whole(PolicyFault::Cut))?;
        let mut builder = Builder::default();
        for (position, line) in lines.split('\n').enumerate() {
            builder.line(line).map_err(|fault| PolicySyntaxError { line: position + 1, fault })?;
        }
        builder.finish().map_err(whole)
    }
}

impl Builder {
    fn line(&mut self, line: &str) -> Result<(), PolicyFault> {
        let control = |c: &char| (*c < ' ' && *c != '\t') || *c == '\u{7f}';
        if let Some(character) = line.chars().find(control) {
            return Err(PolicyFault::Control { character });
        }
        let words: Vec<&str> = line.split([' ', '\t']).filter(|word| !word.is_empty()).collect();
        match words.as_slice() {
            [] => Ok(()),
            [word, ..] if word.starts_with('#') => Ok(()),
            ["log", rest @ ..] => self.log_line(rest),
            ["witness", rest @ ..] => self.witness_line(rest),
            ["group", rest @ ..] => self.group_line(rest),
            ["quorum", rest @ ..] => match rest {
                [name] => self.quorum(name),
                _ => Err(PolicyFault::Form { form: QUORUM_FORM }),
            },
            [word, ..] => Err(PolicyFault::Keyword { word: (*word).to_owned() }),
        }
    }

    fn log_line(&mut self, words: &[&str]) -> Result<(), PolicyFault> {
        match words {
            [key] => self.log(key.parse::<VerifierKey>()?, None),
            [key, url] => self.log(key.parse::<VerifierKey>()?, Some((*url).to_owned())),
            _ => Err(PolicyFault::Form { form: LOG_FORM }),
        }
    }

    fn witness_line(&mut self, words: &[&str]) -> Result<(), PolicyFault> {
        let (name, key, url) = match words {
            [name, key] => (*name, *key, None),
            [name, key, url] => (*name, *key, Some((*url).to_owned())),
            _ => return Err(PolicyFault::Form { form: WITNESS_FORM }),
        };
        self.witness(Witness { name: name.to_owned(), key: key.parse()?, url })
    }

    fn group_line(&mut self, words: &[&str]) -> Result<(), PolicyFault> {
        let form = PolicyFault::Form { form: GROUP_FORM };
        let [name, threshold, members @ ..] = words else { return Err(form) };
        let threshold = match *threshold {
            "all" => Threshold::All,
            "any" => Threshold::Any,
            number => Threshold::Number(decode_decimal(number).ok_or(form)?),
        };
        self.group(name, threshold, members)
    }
}

/// Without comments; parsing it gives the same policy.
impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for log in &self.logs {
            write!(f, "log {}", log.key)?;
            write_url(f, log.url.as_deref())?;
        }
        for name in &self.names {
            match name {
                Name::Witness(Witness { name, key, url }) => {
                    write!(f, "witness {name} {key}")?;
                    write_url(f, url.as_deref())?;
                }
                Name::Group { name, threshold, members } => {
                    write!(f, "group {name} ")?;
                    match *threshold {
                        all if all == members.len() => write!(f, "all")?,
                        1 => write!(f, "any")?,
                        number => write!(f, "{number}")?,
                    }
                    let names = members.iter().map(|position| self.names[*position].name());
                    names.into_iter().try_for_each(|name| write!(f, " {name}"))?;
                    writeln!(f)?;
                }
            }
        }
        let quorum = self.quorum.map_or(NONE, |position| self.names[position].name());
        writeln!(f, "quorum {quorum}")
    }
}

fn write_url(f: &mut fmt::Formatter<'_>, url: Option<&str>) -> fmt::Result {
    match url {
        Some(url) => writeln!(f, " {url}"),
        None => writeln!(f),
    }
}
