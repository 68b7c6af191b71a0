//! Trust on first use: the keys that the first node names are taken for the trail's.

use indelible_core::{Policy, VerifierKey};
use indelible_proto::v1::ClusterView;

use super::file::{FileError, write_pinned};
use super::keys::voters;
use crate::Client;

/// There is nothing to trust on first use.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FirstUseError {
    /// What the first node says of the trail's keys makes no policy.
    #[error(
        "node {node_id} does not say whose keys sign the trail: {what}\n\
         hint: get the policy file that `indelible init` wrote, and use that"
    )]
    NoKeys {
        /// Which node.
        node_id: u64,
        /// What is missing or wrong.
        what: String,
    },
    /// It cannot be kept for the next time.
    #[error("{0}")]
    File(#[from] FileError),
}

impl Client {
    /// Pins what the first node that has answered says, unless there is a policy already.
    pub(crate) fn trust_on_first_use(&self) -> Result<(), FirstUseError> {
        if self.trust().policy().is_some() {
            return Ok(());
        }
        let Some(view) = self.table().first_view() else { return Ok(()) };
        let policy = policy_of(&view)
            .map_err(|what| FirstUseError::NoKeys { node_id: view.node_id, what })?;
        tracing::warn!(origin = view.origin, node_id = view.node_id, "keys trusted on first use");
        if let Some(path) = &self.options().checkpoint_file {
            write_pinned(path, &policy)?;
        }
        self.trust().pin(policy);
        Ok(())
    }
}

/// A majority of the voters that a node names.
fn policy_of(view: &ClusterView) -> Result<Policy, String> {
    let log: VerifierKey = view.log_key.parse().map_err(|error| format!("the log key: {error}"))?;
    if log.name != view.origin {
        return Err(format!("the log key is that of {}, the trail is {}", log.name, view.origin));
    }
    let nodes = voters(&view.origin, &view.nodes)?;
    Policy::majority(log, nodes).map_err(|error| error.to_string())
}
