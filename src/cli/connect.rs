//! How a command reaches the cluster.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::builder::FalseyValueParser;
use indelible_client::{Client, Options, Policy, Profile, TrustMode};

/// Keeps what every command has apart from what is its own.
const HEADING: &str = "Options of every command";
/// Where nodes are looked for in clear text, if nothing says it: those of a local cluster.
const LOCAL_ENDPOINTS: [&str; 3] = ["127.0.0.1:7101", "7102", "7103"];

/// Options of every command.
#[derive(Debug, Clone, clap::Args)]
pub struct Global {
    /// How to reach the cluster, and as whom: endpoints, certificates and policy
    #[arg(
        long,
        global = true,
        help_heading = HEADING,
        env = "INDELIBLE_PROFILE",
        hide_env_values = true,
        value_name = "FILE"
    )]
    pub profile: Option<PathBuf>,
    /// Nodes to ask first, instead of those of the profile; a bare port repeats the host before it
    #[arg(
        long,
        global = true,
        help_heading = HEADING,
        env = "INDELIBLE_ENDPOINTS",
        hide_env_values = true,
        value_name = "HOST:PORT,...",
        value_delimiter = ','
    )]
    pub endpoints: Vec<String>,
    /// Connect without TLS, to nodes with `[tls] mode = "off"`: neither end proves who it is
    #[arg(
        long,
        global = true,
        help_heading = HEADING,
        env = "INDELIBLE_CLEAR_TEXT",
        hide_env_values = true,
        value_parser = FalseyValueParser::new()
    )]
    pub clear_text: bool,
    /// Print JSON instead of a table
    #[arg(long, global = true, help_heading = HEADING)]
    pub json: bool,
    /// How long to try before giving up, in seconds [default: 30; import: 300]
    #[arg(
        long,
        global = true,
        help_heading = HEADING,
        value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub timeout: Option<u64>,
    /// Whose signatures make the trail believable, instead of the profile's: what `init` wrote
    #[arg(
        long,
        global = true,
        help_heading = HEADING,
        env = "INDELIBLE_POLICY",
        hide_env_values = true,
        value_name = "FILE"
    )]
    pub policy: Option<PathBuf>,
    /// Without a policy: believe the keys that the first node names, and keep them
    #[arg(
        long,
        global = true,
        help_heading = HEADING,
        env = "INDELIBLE_TRUST_ON_FIRST_USE",
        hide_env_values = true,
        value_parser = FalseyValueParser::new()
    )]
    pub trust_on_first_use: bool,
    /// Where to keep the newest checkpoint that was seen, so that the next run notices a rollback
    #[arg(
        long,
        global = true,
        help_heading = HEADING,
        env = "INDELIBLE_CHECKPOINT_FILE",
        hide_env_values = true,
        value_name = "FILE"
    )]
    pub checkpoint_file: Option<PathBuf>,
}

impl Global {
    /// How long the command may try; without `--timeout`, this many seconds.
    pub fn timeout_or(&self, seconds: u64) -> Duration {
        Duration::from_secs(self.timeout.unwrap_or(seconds))
    }

    /// For a cluster of our own: its profile, and nothing that the user has said of another one.
    pub(super) fn of_local(&self, profile: PathBuf) -> Global {
        Global {
            profile: Some(profile),
            endpoints: Vec::new(),
            clear_text: false,
            policy: None,
            trust_on_first_use: false,
            checkpoint_file: None,
            ..self.clone()
        }
    }

    /// Connects; some node has answered when this returns. Keys that are trusted on first use count
    /// only where they are kept: a command that forgets them would believe the next ones as well.
    pub async fn connect(&self) -> anyhow::Result<Client> {
        let options = self.options().await?;
        let asked = options.trust;
        let options = without_memory(options);
        if options.trust != asked {
            eprintln!(
                "note: --trust-on-first-use keeps nothing without --checkpoint-file FILE, so nothing is called verified"
            );
        }
        Client::connect_with(options).await.context("connect")
    }

    /// For a command whose output is what was trusted on first use.
    pub(super) async fn connect_to_pin(&self) -> anyhow::Result<Client> {
        Client::connect_with(self.options().await?).await.context("connect")
    }

    /// What the command line, the environment and the profile say together.
    pub(super) async fn options(&self) -> anyhow::Result<Options> {
        let mut options = self.reaching()?;
        options.request_timeout = self.timeout_or(30);
        if let Some(seconds) = self.timeout {
            options.reach_timeout = Duration::from_secs(seconds);
        }
        if let Some(path) = &self.policy {
            options.policy = Some(read_policy(path).await?);
        }
        if options.policy.is_none() && self.trust_on_first_use {
            options.trust = TrustMode::OnFirstUse;
        }
        options.checkpoint_file.clone_from(&self.checkpoint_file);
        Ok(options)
    }

    /// Endpoints, and what is spoken with them.
    fn reaching(&self) -> anyhow::Result<Options> {
        let Some(path) = &self.profile else {
            let mut options = match self.endpoints.is_empty() {
                true => Options::new(LOCAL_ENDPOINTS)?,
                false => Options::new(&self.endpoints).context("read --endpoints")?,
            };
            options.clear_text = self.clear_text;
            return Ok(options);
        };
        let mut profile = Profile::read(path).context("read the profile")?;
        if !self.endpoints.is_empty() {
            profile.endpoints.clone_from(&self.endpoints);
        }
        if self.policy.is_some() {
            profile.policy = None;
        }
        if !self.clear_text {
            return profile.options().context("use the profile");
        }
        let policy = profile.policy();
        let options = Options::new(&profile.endpoints).context("read the endpoints")?;
        Ok(Options { clear_text: true, policy: policy.context("use the profile")?, ..options })
    }
}

/// Nobody is trusted on first use who would be forgotten with the command.
fn without_memory(mut options: Options) -> Options {
    if options.trust == TrustMode::OnFirstUse && options.checkpoint_file.is_none() {
        options.trust = TrustMode::Policy;
    }
    options
}

/// Reads a policy file.
pub(super) async fn read_policy(path: &Path) -> anyhow::Result<Policy> {
    let text = tokio::fs::read_to_string(path).await;
    let text = text.with_context(|| format!("read the policy {}", path.display()))?;
    text.parse().with_context(|| format!("read the policy {}", path.display()))
}

/// An argument that must not be empty: it is kept in the trail, for those who ask why.
pub(super) fn parse_reason(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("say why: it is recorded in the trail".into()),
        reason => Ok(reason.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        global: Global,
    }

    fn reaching(args: &[&str]) -> anyhow::Result<Options> {
        Line::try_parse_from(["test"].iter().chain(args))?.global.reaching()
    }

    #[test]
    fn nothing_is_sent_in_clear_text_unless_it_is_asked_for() {
        let silent = reaching(&["--endpoints", "127.0.0.1:7101"]).expect("endpoints");
        let error = silent.transport().expect_err("nothing says how");
        assert!(error.to_string().contains("--profile"), "{error}");
        let asked = reaching(&["--clear-text"]).expect("the local nodes");
        assert_eq!(asked.endpoints.len(), 3);
        assert!(asked.transport().is_ok());
    }

    #[test]
    fn the_command_line_counts_more_than_the_profile() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("client.toml");
        let text = "endpoints = [\"a:1\"]\nca = \"missing\"\npolicy = \"missing too\"\n";
        crate::disk::write_text(&path, text).expect("writes");
        let profile = ["--profile", path.to_str().expect("a path")];
        let error = reaching(&profile).expect_err("its certificates are missing");
        assert!(format!("{error:#}").contains("missing"), "{error:#}");
        let line =
            [&profile[..], &["--clear-text", "--endpoints", "b:2", "--policy", "p"]].concat();
        let options = reaching(&line).expect("nothing of the profile is needed");
        assert_eq!(options.endpoints, ["b:2"]);
        assert!(options.clear_text && options.policy.is_none());
    }

    #[tokio::test]
    async fn first_use_counts_only_where_it_is_kept() {
        let trust = async |args: &[&str]| {
            let args = [&["test", "--clear-text", "--trust-on-first-use"], args].concat();
            let line = Line::try_parse_from(args).expect("a command line");
            without_memory(line.global.options().await.expect("options")).trust
        };
        assert_eq!(trust(&[]).await, TrustMode::Policy);
        assert_eq!(trust(&["--checkpoint-file", "seen"]).await, TrustMode::OnFirstUse);
    }

    #[test]
    fn a_reason_says_something() {
        assert_eq!(parse_reason(" the disk is old "), Ok("the disk is old".into()));
        for empty in ["", " ", "\t\n"] {
            assert!(parse_reason(empty).is_err(), "{empty:?} was accepted");
        }
    }
}
