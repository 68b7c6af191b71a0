//! Client SDK of Indelible: exactly-once appends, verified reads, load balancing over the nodes.
//!
//! Append an event; it is on the disks of a majority when this returns, and recorded once whatever
//! happened on the way:
//!
//! ```no_run
//! # use indelible_client::{AppendError, Client, Event, ProducerId};
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect(["127.0.0.1:7101", "127.0.0.1:7102"]).await?;
//! let producer = client.producer(ProducerId(*b"billing-frontend"), "billing").open().await?;
//! let event = Event::new("alice", "invoice.delete", "invoice/4711");
//! let receipt = producer.append(event).await?;
//! println!("recorded at {}", receipt.index);
//! # Ok(()) }
//! ```
//!
//! Read the trail, and go on reading as it grows; every record is checked against its leaf before
//! it is handed out:
//!
//! ```no_run
//! # async fn example(client: indelible_client::Client) -> Result<(), Box<dyn std::error::Error>> {
//! let options = indelible_client::ReadOptions { follow: true, ..Default::default() };
//! let mut records = client.read(0.., options).await?;
//! while let Some(record) = records.next().await.transpose()? {
//!     println!("{} {:?}", record.index, record.leaf.kind);
//! }
//! # Ok(()) }
//! ```
//!
//! One background task per node keeps a connection and listens to who leads (`node.rs`,
//! `table.rs`). `producer/` sends to the leader, `reader.rs` and `stream.rs` read from the
//! followers. What to do with which refusal is in `call.rs`, the table of refusals in
//! `indelible_proto::reason`. Nothing here depends on how the nodes work inside.

mod backoff;
mod call;
mod cluster;
mod error;
mod leader;
mod node;
mod nodes;
mod options;
mod producer;
mod reader;
mod record;
#[cfg(test)]
mod scripted;
mod stream;
mod table;
mod topology;

use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

pub use cluster::NodeStatus;
pub use error::{AppendError, CallError, ConnectError};
pub use indelible_core::{Kind, Leaf, LeafIndex, ProducerId, Salt};
pub use indelible_proto::v1::{self, Event, Outcome};
pub use indelible_proto::{LeaderHint, Reason, Rejected};
pub use options::{BUFFER_BYTES_DEFAULT, Options, WINDOW_DEFAULT};
pub use producer::receipt::{Receipt, Receipts, Run};
pub use producer::{Producer, ProducerOptions, Ticket};
pub use reader::{Consistency, Inclusion, Level, TreeHead};
pub use record::Record;
pub use stream::{ReadOptions, RecordStream};

use table::Table;
use topology::{AbortOnDrop, Topology};

/// A connected cluster. Cloning shares the connections; they close with the last clone, producer
/// and stream.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    options: Options,
    table: Arc<Table>,
    _topology: AbortOnDrop,
}

impl Client {
    /// Connects to a cluster; one endpoint that answers is enough. [`Options::new`] says how
    /// endpoints are written.
    ///
    /// # Errors
    /// [`ConnectError::NoNode`] if none answered within the `reach_timeout`.
    pub async fn connect<E: AsRef<str>>(
        endpoints: impl IntoIterator<Item = E>,
    ) -> Result<Client, ConnectError> {
        Client::connect_with(Options::new(endpoints)?).await
    }

    /// [`Client::connect`] with other than the default options.
    pub async fn connect_with(options: Options) -> Result<Client, ConnectError> {
        let table = Arc::new(Table::new(options.endpoints.clone()));
        let topology = Topology::start(table.clone(), options.connect_timeout);
        let client = Client { inner: Arc::new(Inner { options, table, _topology: topology }) };
        client.wait_for_node().await?;
        Ok(client)
    }

    /// A producer to be opened. The id is its identity for ever; the name is for people, at most
    /// 256 bytes.
    pub fn producer(&self, id: ProducerId, name: impl Into<String>) -> ProducerOptions {
        ProducerOptions::new(self.clone(), id, name.into())
    }

    /// The highest tree size seen in any answer: [`Level::AtLeast`] of it reads what this client
    /// wrote and never goes backwards. May be handed to another process.
    pub fn session(&self) -> u64 {
        self.table().tree_size_seen()
    }

    /// What it was connected with.
    pub fn options(&self) -> &Options {
        &self.inner.options
    }

    pub(crate) fn table(&self) -> &Table {
        &self.inner.table
    }

    async fn wait_for_node(&self) -> Result<(), ConnectError> {
        let started = Instant::now();
        let deadline = started + self.options().reach_timeout;
        let mut changes = self.table().subscribe();
        loop {
            changes.mark_unchanged();
            let nodes = self.table().connections();
            if nodes.iter().any(|(_, link)| link.is_ok()) {
                return Ok(());
            }
            if timeout_at(deadline, changes.changed()).await.is_err() {
                let errors = nodes.into_iter().filter_map(|(addr, link)| Some((addr, link.err()?)));
                let errors = errors.collect();
                return Err(ConnectError::NoNode { waited: started.elapsed(), errors });
            }
        }
    }
}
