//! A data directory with a log and a ledger, driven as a node drives them: append, durable,
//! committed, applied.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc;

use bytes::Bytes;
use indelible_core::{Entry, EntryId, EntryKind, Hash, Kind, ProducerId, Salt, TrailId};
use indelible_lineage::Draw;
use indelible_proto::v1::ProducerOpened;
pub(crate) use indelible_testkit::TestRecord;
use indelible_testkit::trail;
use prost::Message;
use tempfile::TempDir;

use crate::storage::identity::Identity;
use crate::storage::ledger::{Applied, CommitPolicy, Ledger, LedgerError};
use crate::storage::log::{Log, LogOptions, SyncPolicy};
use crate::storage::start::NewBoot;

pub(crate) const TRAIL: TrailId = TrailId([7; 16]);
/// Small, so that a few entries fill some.
pub(crate) const SEGMENT_BYTES: u64 = 4096;

/// Commits after every entry, and waits: so that tests of a few entries go through index and tree
/// files.
pub(crate) const EVERY_ENTRY: CommitPolicy =
    CommitPolicy { leaves: 1, entries: 1, bytes: 1, producers: 1, wait: true };
/// Commits only when told.
pub(crate) const NEVER: CommitPolicy = CommitPolicy {
    leaves: u64::MAX,
    entries: u64::MAX,
    bytes: u64::MAX,
    producers: usize::MAX,
    wait: true,
};

/// A running node's storage.
pub(crate) struct Trail {
    pub(crate) dir: TempDir,
    pub(crate) policy: CommitPolicy,
    pub(crate) log: Log,
    pub(crate) ledger: Ledger,
    pub(crate) term: u64,
    pub(crate) leader: u64,
    /// What the leader stamps next.
    pub(crate) clock: u64,
    /// Newest opening of each producer that was opened through `open`.
    pub(crate) openings: BTreeMap<ProducerId, u64>,
    salts: u64,
}

impl Trail {
    /// A new trail, without entries.
    pub(crate) fn new(policy: CommitPolicy) -> Trail {
        Self::with_segments(policy, SEGMENT_BYTES)
    }

    pub(crate) fn with_segments(policy: CommitPolicy, segment_bytes: u64) -> Trail {
        let dir = scratch_dir();
        let identity = Identity {
            node_id: 1,
            trail_id: TRAIL,
            origin: "audit.example/test".into(),
            segment_bytes,
            secret_key: [1; 32].into(),
            public_key: [2; 32],
        };
        Identity::write_new(dir.path(), &identity).expect("write the identity");
        crate::storage::prepare(dir.path()).expect("make the first files");
        let (log, ledger) = open(dir.path(), policy).expect("open a new trail");
        Trail {
            dir,
            policy,
            log,
            ledger,
            term: 1,
            leader: 1,
            clock: 1000,
            openings: BTreeMap::new(),
            salts: 0,
        }
    }

    /// A new trail with its genesis.
    pub(crate) fn started(policy: CommitPolicy) -> Trail {
        let mut trail = Self::new(policy);
        trail.membership(&[1, 2, 3]).expect("apply the genesis");
        trail
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn derived(&self) -> std::path::PathBuf {
        self.path().join("derived")
    }

    /// Closes the node and starts it again.
    pub(crate) fn reopen(self) -> Result<Trail, LedgerError> {
        self.restart(|_| {})
    }

    /// Closes the node, lets `change` change its files, and starts it again.
    pub(crate) fn restart(self, change: impl FnOnce(&Path)) -> Result<Trail, LedgerError> {
        self.ledger.close();
        self.restart_dropped(change)
    }

    /// Drops everything without closing the ledger, as if the process had been killed after its
    /// last commit.
    pub(crate) fn crash(self) -> Result<Trail, LedgerError> {
        self.restart_dropped(|_| {})
    }

    pub(crate) fn restart_dropped(self, change: impl FnOnce(&Path)) -> Result<Trail, LedgerError> {
        let Trail { dir, policy, log, ledger, term, leader, clock, openings, salts } = self;
        drop(ledger);
        log.close();
        drop(log);
        change(dir.path());
        let (log, ledger) = open(dir.path(), policy)?;
        Ok(Trail { dir, policy, log, ledger, term, leader, clock, openings, salts })
    }

    /// Stops everything; the directory stays.
    pub(crate) fn close(self) -> TempDir {
        self.ledger.close();
        drop(self.ledger);
        self.log.close();
        self.dir
    }

    /// Appends, commits and applies one entry.
    pub(crate) fn entry(
        &mut self,
        kind: EntryKind,
        head: Bytes,
        body: Bytes,
    ) -> Result<Applied, LedgerError> {
        let entry = self.append_only(kind, head, body);
        self.log.set_committed(entry.id.index + 1);
        self.ledger.apply(&entry)
    }

    /// Appends an entry that is not committed.
    pub(crate) fn append_only(&mut self, kind: EntryKind, head: Bytes, body: Bytes) -> Entry {
        let index = self.log.last().map_or(0, |id| id.index + 1);
        let id = EntryId { index, term: self.term, leader: self.leader };
        let entry = Entry { id, kind, head, body };
        let (done, wait) = mpsc::channel();
        self.log.append(
            vec![entry.clone()],
            Box::new(move |outcome| done.send(outcome).expect("the test waits")),
        );
        wait.recv().expect("the log answers").expect("the log writes");
        entry
    }

    pub(crate) fn blank(&mut self) -> Result<Applied, LedgerError> {
        self.entry(EntryKind::Blank, Bytes::new(), Bytes::new())
    }

    pub(crate) fn membership(&mut self, nodes: &[u64]) -> Result<Applied, LedgerError> {
        self.entry(EntryKind::Membership, membership(TRAIL, nodes), Bytes::new())
    }

    /// Appends a batch of these records.
    pub(crate) fn batch(&mut self, records: &[TestRecord]) -> Result<Applied, LedgerError> {
        let (head, body) = self.encode(records);
        self.entry(EntryKind::Batch, head, body)
    }

    pub(crate) fn encode(&mut self, records: &[TestRecord]) -> (Bytes, Bytes) {
        let salted = records.iter().map(|record| {
            self.salts += 1;
            let mut salt = Salt::default();
            salt.0[..8].copy_from_slice(&self.salts.to_le_bytes());
            (record.clone(), salt)
        });
        trail::batch(salted)
    }

    /// An opening, stamped now.
    pub(crate) fn opening(&mut self, id: ProducerId, epoch: u64) -> TestRecord {
        let event = ProducerOpened {
            producer_id: Bytes::copy_from_slice(&id.0),
            epoch,
            name: format!("producer {id}"),
            principal: "test".into(),
            authentication: "none".into(),
            public_key: Bytes::new(),
        };
        let event = event.encode_to_vec().into();
        TestRecord {
            kind: Kind::ProducerOpened,
            opened: 0,
            seq: epoch,
            received: self.tick(),
            event,
        }
    }

    /// Opens a producer under its next epoch.
    pub(crate) fn open(&mut self, id: ProducerId) -> Result<Applied, LedgerError> {
        let epoch = self.ledger.producer(&id).map_or(0, |producer| producer.epoch) + 1;
        let opening = self.opening(id, epoch);
        let applied = self.batch(&[opening])?;
        self.openings.insert(id, applied.first_leaf);
        Ok(applied)
    }

    /// An event of a producer, stamped now.
    pub(crate) fn event(&mut self, id: ProducerId, seq: u64) -> TestRecord {
        let opened = self.openings.get(&id).copied().unwrap_or(u64::MAX);
        let event = format!("event {seq} of {id}{:>100}", "").into();
        TestRecord { kind: Kind::Event, opened, seq, received: self.tick(), event }
    }

    /// Appends events of a producer in one batch.
    pub(crate) fn events(
        &mut self,
        id: ProducerId,
        seqs: std::ops::RangeInclusive<u64>,
    ) -> Result<Applied, LedgerError> {
        let records: Vec<TestRecord> = seqs.map(|seq| self.event(id, seq)).collect();
        self.batch(&records)
    }

    pub(crate) fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    pub(crate) fn size(&self) -> u64 {
        self.ledger.head().borrow().tree_size
    }

    pub(crate) fn root(&self) -> Hash {
        self.ledger.head().borrow().root
    }
}

/// A directory in memory where there is one: sled syncs whether a test needs it or not.
pub(crate) fn scratch_dir() -> TempDir {
    crate::storage::log::tests::support::temp_dir()
}

/// Opens what is in a directory.
pub(crate) fn open(dir: &Path, policy: CommitPolicy) -> Result<(Log, Ledger), LedgerError> {
    let log = open_log(dir);
    let ledger = Ledger::open_with(log.clone(), dir, TRAIL, policy);
    if ledger.is_err() {
        log.close();
    }
    Ok((log, ledger?))
}

pub(crate) fn open_log(dir: &Path) -> Log {
    try_open_log(dir).expect("the log opens")
}

/// The log of a directory; none if it refuses.
pub(crate) fn try_open_log(dir: &Path) -> Option<Log> {
    let identity = Identity::read(dir).expect("there is an identity");
    let options = LogOptions {
        segment_bytes: identity.segment_bytes,
        trail_id: TRAIL,
        cache_bytes_max: 1024 * 1024,
        boot: NewBoot::of(&identity, Draw([1; 16])),
        first_index_any: false,
        sync: SyncPolicy::Never,
    };
    Some(Log::open(dir, options).ok()?.0)
}

/// The payload of a membership entry with one set of voters.
pub(crate) fn membership(trail: TrailId, nodes: &[u64]) -> Bytes {
    trail::membership(trail, &[nodes], |id| [id as u8; 32]).encode_to_vec().into()
}

/// The producer that tests call by this letter.
pub(crate) fn producer(letter: char) -> ProducerId {
    ProducerId([letter as u8; 16])
}
