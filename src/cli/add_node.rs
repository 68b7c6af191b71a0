//! `indelible add-node`: adds a node to the group.

use std::process::ExitCode;

use anyhow::Context;
use bytes::Bytes;
use indelible_client::v1::AddNodeRequest;
use serde_json::json;

use super::connect::parse_reason;
use super::{Global, output};

/// Which node.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Its id: the one that its identity was made with. Ids are never used twice
    #[arg(long)]
    id: u64,
    /// Its public key, 64 hexadecimal digits, as `indelible node-key` printed it
    #[arg(long, value_name = "HEX", value_parser = parse_key)]
    public_key: Bytes,
    /// Where clients reach it
    #[arg(long, value_name = "HOST:PORT")]
    client_addr: String,
    /// Where the other nodes reach it
    #[arg(long, value_name = "HOST:PORT")]
    raft_addr: String,
    /// Where probes and metrics are
    #[arg(long, value_name = "HOST:PORT")]
    http_addr: String,
    /// Why; kept in the trail
    #[arg(long, value_parser = parse_reason)]
    reason: String,
}

pub(super) async fn run(global: &Global, args: Args) -> anyhow::Result<ExitCode> {
    let client = global.connect().await?;
    let request = AddNodeRequest {
        id: args.id,
        client_addr: args.client_addr,
        raft_addr: args.raft_addr,
        http_addr: args.http_addr,
        public_key: args.public_key,
        reason: args.reason,
    };
    let voters = client.add_node(request).await.with_context(|| format!("add node {}", args.id))?;
    print_voters(global, &voters)?;
    Ok(ExitCode::SUCCESS)
}

/// What a change of the group ends with.
pub(super) fn print_voters(global: &Global, voters: &[u64]) -> anyhow::Result<()> {
    if global.json {
        output::print(json!({ "voters": voters }))?;
    } else {
        let voters: Vec<String> = voters.iter().map(u64::to_string).collect();
        output::print(format_args!("the voters are nodes {}", voters.join(", ")))?;
    }
    Ok(())
}

fn parse_key(text: &str) -> Result<Bytes, String> {
    match hex::decode(text) {
        Ok(key) if key.len() == 32 => Ok(key.into()),
        _ => Err("a public key is 64 hexadecimal digits".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_key_is_32_bytes() {
        assert_eq!(parse_key(&"ab".repeat(32)).expect("valid").len(), 32);
        assert!(parse_key(&"ab".repeat(31)).is_err());
        assert!(parse_key(&"xy".repeat(32)).is_err());
    }
}
