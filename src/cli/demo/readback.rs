//! The reading side: everything from one node, with every hash recomputed here.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use indelible_client::Transport;
use indelible_client::connect::channel;
use indelible_core::leaf::{commit, leaf_hash};
use indelible_core::limits::CLIENT_MESSAGE_BYTES_MAX;
use indelible_core::merkle::Frontier;
use indelible_core::{Hash, Kind, Leaf, Salt};
use indelible_proto::v1;
use indelible_proto::v1::audit_log_client::AuditLogClient;
use tonic::Code;
use tonic::transport::Channel;

use super::record::Recorded;

/// How long a node may take to start.
const STARTING_MAX: Duration = Duration::from_secs(60);
/// Between two questions whether it has.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// What one node has.
pub(super) struct Readback {
    /// Events of the demonstration.
    pub(super) events: u64,
    /// Acknowledged events that are not where their receipts say.
    pub(super) missing: u64,
    /// Seqs that occur more than once.
    pub(super) twice: u64,
    /// Seqs that come after a higher one.
    pub(super) out_of_order: u64,
    /// Records read.
    pub(super) tree_size: u64,
    /// Recomputed from the records.
    pub(super) root: Hash,
}

impl Readback {
    pub(super) fn is_sound(&self, recorded: &Recorded) -> bool {
        (self.missing, self.twice, self.out_of_order) == (0, 0, 0)
            && self.events == recorded.count()
    }
}

/// Reads `tree_size` records of the node at `addr`, waiting until it has them.
pub(super) async fn read_back(
    addr: &str,
    transport: &Transport,
    tree_size: u64,
    recorded: &Recorded,
) -> anyhow::Result<Readback> {
    let mut client = connect(addr, transport).await?;
    let request = v1::ReadRequest {
        from: 0,
        to: tree_size,
        // A node that is catching up sends the rest when it has it.
        follow: true,
        level: Some(v1::ReadLevel { level: Some(v1::read_level::Level::Any(true)) }),
        ..Default::default()
    };
    // A node that was just started says so until it is whole.
    let deadline = Instant::now() + STARTING_MAX;
    let mut stream = loop {
        match client.read(request).await {
            Ok(response) => break response.into_inner(),
            Err(status) if status.code() == Code::Unavailable && Instant::now() < deadline => {
                tokio::time::sleep(ASK_AGAIN).await;
            }
            Err(status) => return Err(status.into()),
        }
    };
    let mut check = Check::new(recorded);
    while let Some(response) = stream.message().await? {
        for record in response.records {
            check.record(&record)?;
        }
    }
    Ok(check.finish())
}

/// A node that was just started may not listen yet.
async fn connect(addr: &str, transport: &Transport) -> anyhow::Result<AuditLogClient<Channel>> {
    loop {
        match channel(addr, transport).await {
            Ok(channel) => {
                let client = AuditLogClient::new(channel);
                return Ok(client.max_decoding_message_size(CLIENT_MESSAGE_BYTES_MAX));
            }
            Err(error) if error.is_final() => return Err(error.into()),
            Err(_) => tokio::time::sleep(ASK_AGAIN).await,
        }
    }
}

struct Check<'a> {
    recorded: &'a Recorded,
    frontier: Frontier,
    /// How often each seq was seen, by seq - 1.
    seen: Vec<u32>,
    misplaced: u64,
    out_of_order: u64,
    last_seq: u64,
}

impl<'a> Check<'a> {
    fn new(recorded: &'a Recorded) -> Self {
        let seen = vec![0; recorded.indexes.len()];
        Check {
            recorded,
            frontier: Frontier::default(),
            seen,
            misplaced: 0,
            out_of_order: 0,
            last_seq: 0,
        }
    }

    fn record(&mut self, record: &v1::Record) -> anyhow::Result<()> {
        let index = self.frontier.size();
        if record.index != index {
            bail!("record {} came where {index} was due", record.index);
        }
        let leaf = Leaf::decode(&record.leaf)?;
        let salt = Salt::from_slice(&record.salt).context("read a salt")?;
        if commit(&salt, &record.event) != leaf.commitment {
            bail!("record {index} does not match its commitment");
        }
        self.frontier.append(leaf_hash(&leaf.encode()));
        if leaf.kind == Kind::Event && leaf.opened == self.recorded.opened {
            self.event(leaf.seq, index);
        }
        Ok(())
    }

    fn event(&mut self, seq: u64, index: u64) {
        let position = (seq - 1) as usize;
        self.out_of_order += u64::from(seq <= self.last_seq);
        self.last_seq = seq;
        self.misplaced += u64::from(self.recorded.indexes.get(position) != Some(&index));
        if let Some(seen) = self.seen.get_mut(position) {
            *seen += 1;
        }
    }

    fn finish(self) -> Readback {
        let absent = self.seen.iter().filter(|seen| **seen == 0).count() as u64;
        Readback {
            events: self.seen.iter().map(|seen| u64::from(*seen)).sum(),
            missing: absent + self.misplaced,
            twice: self.seen.iter().filter(|seen| **seen > 1).count() as u64,
            out_of_order: self.out_of_order,
            tree_size: self.frontier.size(),
            root: self.frontier.root(),
        }
    }
}
