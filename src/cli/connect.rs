//! How a command reaches the cluster.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::builder::FalseyValueParser;
use indelible_client::{Client, Options, Policy, TrustMode};

/// Keeps what every command has apart from what is its own.
const HEADING: &str = "Options of every command";

/// Options of every command.
#[derive(Debug, Clone, clap::Args)]
pub struct Global {
    /// Nodes to ask first, as host:port; a bare port repeats the host before it
    #[arg(
        long,
        global = true,
        help_heading = HEADING,
        env = "INDELIBLE_ENDPOINTS",
        hide_env_values = true,
        value_name = "HOST:PORT,...",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:7101,7102,7103"
    )]
    pub endpoints: Vec<String>,
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
    /// Whose signatures make the trail believable: the file that `init` wrote
    #[arg(
        long,
        global = true,
        help_heading = HEADING,
        env = "INDELIBLE_POLICY",
        hide_env_values = true,
        value_name = "FILE"
    )]
    pub policy: Option<PathBuf>,
    /// Without a policy: believe the keys that the first node names, from now on
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

    /// Connects; some node has answered when this returns.
    pub async fn connect(&self) -> anyhow::Result<Client> {
        let mut options = Options::new(&self.endpoints).context("read --endpoints")?;
        options.request_timeout = self.timeout_or(30);
        if let Some(seconds) = self.timeout {
            options.reach_timeout = Duration::from_secs(seconds);
        }
        if let Some(path) = &self.policy {
            options.policy = Some(read_policy(path).await?);
        } else if self.trust_on_first_use {
            options.trust = TrustMode::OnFirstUse;
        }
        options.checkpoint_file.clone_from(&self.checkpoint_file);
        Client::connect_with(options).await.context("connect")
    }
}

/// Reads a policy file.
pub(super) async fn read_policy(path: &Path) -> anyhow::Result<Policy> {
    let text = tokio::fs::read_to_string(path).await;
    let text = text.with_context(|| format!("read the policy {}", path.display()))?;
    text.parse().with_context(|| format!("read the policy {}", path.display()))
}
