//! The background task that keeps one [`NodeTask`] for every address in the table.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::connect::Transport;
use crate::node::NodeTask;
use crate::table::Table;

/// The owner of the node tasks.
pub(crate) struct Topology {
    table: Arc<Table>,
    transport: Transport,
    connect_timeout: Duration,
}

impl Topology {
    /// Starts it; it ends, with all connections, when the guard is dropped.
    pub(crate) fn start(
        table: Arc<Table>,
        transport: Transport,
        connect_timeout: Duration,
    ) -> AbortOnDrop {
        AbortOnDrop(tokio::spawn(Topology { table, transport, connect_timeout }.run()))
    }

    async fn run(self) {
        let mut changes = self.table.subscribe();
        let mut tasks: BTreeMap<String, AbortOnDrop> = BTreeMap::new();
        loop {
            changes.mark_unchanged();
            let addresses = self.table.addresses();
            tasks.retain(|addr, _| addresses.contains(addr));
            self.table.retain(&addresses);
            if tasks.len() != addresses.len() {
                for addr in addresses {
                    tasks.entry(addr).or_insert_with_key(|addr| self.start_node(addr));
                }
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    fn start_node(&self, addr: &str) -> AbortOnDrop {
        let task = NodeTask {
            addr: addr.to_owned(),
            table: self.table.clone(),
            transport: self.transport.clone(),
            connect_timeout: self.connect_timeout,
        };
        AbortOnDrop(tokio::spawn(task.run()))
    }
}

/// A task that does not outlive its owner.
pub(crate) struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
