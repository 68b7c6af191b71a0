//! Client SDK of Indelible: exactly-once appends, verified reads, load balancing over the nodes.
//!
//! Append an event; it is on the disks of a majority when this returns, and recorded once whatever
//! happened on the way:
//!
//! ```no_run
//! # use indelible_client::{AppendError, Client, Event, ProducerId};
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::from_profile("cluster/admin.toml").await?;
//! let producer = client.producer(ProducerId(*b"billing-frontend"), "billing").open().await?;
//! let event = Event::new("alice", "invoice.delete", "invoice/4711");
//! let receipt = producer.append(event).await?;
//! println!("recorded at {}", receipt.index);
//! # Ok(()) }
//! ```
//!
//! A profile says where the nodes are, and with which certificates this client and they prove who
//! they are ([`Options::from_profile`]). Nothing is sent in clear text unless
//! [`Options::clear_text`] says so.
//!
//! Have it proven: a majority of the nodes has signed for it, and the file convinces anybody who
//! has the policy, with no node at hand:
//!
//! ```no_run
//! # use indelible_client::{AckLevel, Client, Event, Options, ProducerId};
//! # async fn example(policy: &str, id: ProducerId) -> Result<(), Box<dyn std::error::Error>> {
//! let profile = Options::from_profile("client.toml")?;
//! let options = Options { policy: Some(policy.parse()?), ..profile };
//! let client = Client::connect_with(options).await?;
//! let producer = client.producer(id, "billing").ack(AckLevel::Proven).open().await?;
//! let event = Event::new("alice", "invoice.delete", "invoice/4711");
//! let receipt = producer.append(event.clone()).await?;
//! match receipt.proof_file(&event) {
//!     Some(proof) => println!("{}", proof?),
//!     None => println!("recorded; the proof is pending"),
//! }
//! # Ok(()) }
//! ```
//!
//! Read it back as verified: its content is what its leaf commits to, the leaf is in the tree of a
//! checkpoint that the policy accepts, and that checkpoint is of one history with all seen before:
//!
//! ```no_run
//! # use indelible_client::{Client, Level};
//! # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
//! let record = client.get(17, Level::Linearizable).await?;
//! assert!(record.verification.is_verified());
//! println!("{}", record.proof_file().expect("it came with a proof")?);
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
//! `table.rs`). [`connect`] is the only place that opens connections. `producer/` sends to the
//! leader, `reader.rs` and `stream.rs` read from the followers. What to do with which refusal is in
//! `call.rs`, the table of refusals in `indelible_proto::reason`. `trust/` is whom a client
//! believes, and why. Nothing here depends on how the nodes work inside.

mod backoff;
mod call;
mod checkpoint;
mod cluster;
pub mod connect;
mod error;
mod leader;
mod node;
mod nodes;
mod options;
mod producer;
mod profile;
mod reader;
mod record;
#[cfg(test)]
mod scripted;
mod stream;
mod table;
mod topology;
mod trust;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use indelible_core::limits::CLIENT_PRODUCERS_MAX;
use tokio::time::{Instant, timeout, timeout_at};

pub use checkpoint::{CheckpointOptions, NodeCheckpoint};
pub use cluster::NodeStatus;
pub use connect::{DialError, Identity, Tls, TlsError, TlsFiles, TlsPem, Transport};
pub use error::{AppendError, CallError, ConnectError};
pub use indelible_core::proof_file::ProofFile;
pub use indelible_core::{Kind, Leaf, LeafIndex, Policy, ProducerId, RangeProof, Salt};
pub use indelible_proto::v1::{self, Event, Outcome};
pub use indelible_proto::{LeaderHint, Reason, Rejected};
pub use options::{BUFFER_BYTES_DEFAULT, Options, WINDOW_DEFAULT};
pub use producer::partial::Part;
pub use producer::receipt::{AckLevel, Receipt, Receipts, Run};
pub use producer::{Producer, ProducerOptions, Ticket};
pub use profile::{Profile, ProfileError};
pub use reader::{Consistency, Inclusion, Level, Prove, TreeHead};
pub use record::Record;
pub use stream::{ReadOptions, RecordStream};
pub use trust::alarm::{Alarm, Alarms};
pub use trust::evidence::{BrokenReceipt, Evidence, Fork, Lie, RolledBack, Unsettled};
pub use trust::proof::Proof;
pub use trust::signed::SignedCheckpoint;
pub use trust::{FileError, FirstUseError, TrustMode, Verification};

use table::{Link, Table};
use topology::{AbortOnDrop, Topology};
use trust::{Trust, settle};

/// A connected cluster. Cloning shares the connections; they close with the last clone, producer
/// and stream.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    options: Options,
    table: Arc<Table>,
    trust: Trust,
    /// The last seq of each producer that was acknowledged to this client.
    acknowledged: Mutex<HashMap<ProducerId, u64>>,
    _topology: AbortOnDrop,
}

/// A client that does not keep the connections open.
#[derive(Clone)]
pub(crate) struct WeakClient(Weak<Inner>);

impl WeakClient {
    pub(crate) fn upgrade(&self) -> Option<Client> {
        Some(Client { inner: self.0.upgrade()? })
    }
}

impl Client {
    /// Connects to the cluster of a profile file, see [`Options::from_profile`].
    ///
    /// # Errors
    /// As those of [`Client::connect_with`]; [`ConnectError::Profile`] and [`ConnectError::Tls`] if
    /// the profile or a file that it names is of no use.
    pub async fn from_profile(path: impl AsRef<Path>) -> Result<Client, ConnectError> {
        Client::connect_with(Options::from_profile(path)?).await
    }

    /// Connects to a cluster; one endpoint that answers is enough.
    ///
    /// # Errors
    /// [`ConnectError::NoTransport`] if the options have neither certificates nor leave to speak
    /// clear text; [`ConnectError::Refused`] if no node lets this client in or none is to be
    /// believed; [`ConnectError::NoNode`] if none answered within the `reach_timeout`; the others
    /// if the policy or the checkpoint file does not belong to the trail.
    pub async fn connect_with(options: Options) -> Result<Client, ConnectError> {
        let (transport, addresses) = (options.transport()?, options.addresses()?);
        let trust = Trust::new(&options)?;
        let table = Arc::new(Table::new(addresses));
        let _topology = Topology::start(table.clone(), transport, options.connect_timeout);
        let acknowledged = Mutex::default();
        let inner = Arc::new(Inner { options, table, trust, acknowledged, _topology });
        let client = Client { inner };
        client.wait_for_node().await?;
        if client.options().trust == TrustMode::OnFirstUse {
            client.trust_on_first_use()?;
        }
        client.check_origin()?;
        if client.trust().policy().is_some() {
            let weak = WeakClient(Arc::downgrade(&client.inner));
            let _ = client.trust().settling.set(settle::Handle::start(weak));
        }
        Ok(client)
    }

    /// What is wrong with the trail or with a node, whichever call or background task found it.
    /// Every caller hears all of them, those raised before too.
    pub fn alarms(&self) -> Alarms {
        Alarms::new(&self.trust().alarms)
    }

    /// Who has to have signed now: [`Options::policy`] or what was pinned on first use, with the
    /// nodes that the group has now as far as it was followed ([`Client::follow_keys`]).
    pub fn policy(&self) -> Option<Arc<Policy>> {
        self.trust().policy()
    }

    /// Acknowledged events that no checkpoint has covered yet. Always 0 without a policy.
    pub fn unsettled(&self) -> usize {
        self.trust().settling.get().map_or(0, settle::Handle::waiting)
    }

    /// Waits until all acknowledged events are covered by a checkpoint, or have raised an alarm,
    /// but not longer than this. Returns whether they are.
    pub async fn settled(&self, limit: Duration) -> bool {
        match self.trust().settling.get() {
            Some(settling) => timeout(limit, settling.settled()).await.is_ok(),
            None => true,
        }
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

    pub(crate) fn trust(&self) -> &Trust {
        &self.inner.trust
    }

    /// A node is not to be believed: from now on it is not asked any more.
    pub(crate) fn accuse(&self, link: &Link, what: String, evidence: Evidence) -> CallError {
        let (node_id, addr) = (link.node_id, link.addr.to_string());
        let lie = Lie { node_id, addr, what, evidence };
        self.table().ban(&lie);
        self.trust().alarms.raise(Alarm::NodeLied(lie.clone()));
        lie.into()
    }

    /// The last seq of a producer that was acknowledged to this client; 0 if none.
    pub(crate) fn last_acknowledged(&self, producer: ProducerId) -> u64 {
        self.acknowledged().get(&producer).copied().unwrap_or(0)
    }

    /// Remembers it, for as many producers as the limit allows.
    pub(crate) fn note_acknowledged(&self, producer: ProducerId, seq: u64) {
        let mut acknowledged = self.acknowledged();
        if acknowledged.len() >= CLIENT_PRODUCERS_MAX && !acknowledged.contains_key(&producer) {
            return;
        }
        let last = acknowledged.entry(producer).or_default();
        *last = seq.max(*last);
    }

    fn acknowledged(&self) -> MutexGuard<'_, HashMap<ProducerId, u64>> {
        self.inner.acknowledged.lock().expect("nothing panics while it holds this lock")
    }

    /// Refuses a policy of another trail before anything is asked.
    fn check_origin(&self) -> Result<(), ConnectError> {
        let Some((policy, view)) = self.policy().zip(self.table().first_view()) else {
            return Ok(());
        };
        if view.origin == policy.origin() {
            return Ok(());
        }
        let (expected, actual) = (policy.origin().to_owned(), view.origin);
        Err(ConnectError::OtherTrail { node_id: view.node_id, expected, actual })
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
            if self.table().is_hopeless() {
                return Err(ConnectError::Refused { errors: errors(nodes) });
            }
            if timeout_at(deadline, changes.changed()).await.is_err() {
                let (waited, errors) = (started.elapsed(), errors(nodes));
                return Err(ConnectError::NoNode { waited, errors });
            }
        }
    }
}

/// What stands in the way of those that are not connected.
fn errors(nodes: Vec<(String, Result<Link, String>)>) -> Vec<(String, String)> {
    nodes.into_iter().filter_map(|(addr, link)| Some((addr, link.err()?))).collect()
}
