//! How a command reaches the cluster.

use std::time::Duration;

use anyhow::Context;
use indelible_client::{Client, Options};

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
        Client::connect_with(options).await.context("connect")
    }
}
