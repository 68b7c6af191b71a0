//! Findings: what this node has found damaged or against the rules, on its way into the trail.
//!
//! A finding is kept in `findings/` until it is recorded, so that a restart loses none: nothing is
//! ever mended in silence. The leader writes them, as records of kind 8 by its own producer; a
//! follower sends its own to the leader (rpc `RecordFinding`). If an answer is lost, a finding may
//! be in the trail twice.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use indelible_core::limits::{FINDING_BYTES_MAX, FINDINGS_MAX, FINDINGS_OF_A_NODE_A_MINUTE_MAX};
use indelible_proto::v1;
use prost::Message;
use sha3::{Digest, Sha3_256};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tonic::Status;

use super::leadership::Leadership;
use super::operations::Operations;
use crate::disk::{Dir, DiskError};
use crate::raft::network::Network;
use crate::raft::peers::Known;
use crate::raft::service::FindingSink;

/// Folder of the data directory.
const FINDINGS_DIR: &str = "findings";
/// Between two attempts to record what is waiting.
const AGAIN: Duration = Duration::from_millis(200);
/// The same after a while.
const AGAIN_MAX: Duration = Duration::from_secs(5);
/// How long the leader may take.
const RECORD: Duration = Duration::from_secs(10);
/// Text of a finding for people, in bytes.
const DETAIL_BYTES_MAX: usize = 2048;

/// What a finding says of its outcome.
pub mod outcome {
    /// What was damaged is as it was.
    pub const MENDED: &str = "mended";
    /// It cannot be mended, and the node does not go on with it.
    pub const REFUSED: &str = "refused";
    /// Nothing is decided yet.
    pub const PENDING: &str = "pending";
}

/// What a finding is about.
pub mod what {
    /// Bytes on a disk are not what was written.
    pub const DAMAGE: &str = "damage";
    /// A node's trail is not the one that the majority has.
    pub const DIVERGENCE: &str = "divergence";
    /// The nodes' clocks are not what the trail's stamps say.
    pub const CLOCK: &str = "clock";
}

/// The findings of this node that are not in the trail yet. Cheap to clone.
#[derive(Clone)]
pub struct Findings {
    inner: Arc<Inner>,
}

struct Inner {
    data_dir: PathBuf,
    /// By what they are about, so that the same one does not wait twice.
    waiting: Mutex<BTreeMap<Key, v1::Finding>>,
    changed: Notify,
}

/// What a finding is about, whatever its outcome: name of its file.
type Key = String;

impl Findings {
    /// With those that were not recorded before the last stop. Blocks.
    pub fn open(data_dir: &Path) -> Result<Findings, DiskError> {
        let dir = folder(data_dir)?;
        let mut waiting = BTreeMap::new();
        for name in dir.list()?.into_iter().filter(|name| !name.ends_with(".tmp")) {
            let bytes = dir.read_file(&name)?.unwrap_or_default();
            match v1::Finding::decode(&bytes[..]) {
                Ok(finding) => drop(waiting.insert(name, finding)),
                // It is a copy of what the log has said: not worth stopping for.
                Err(error) => tracing::error!(%error, name, "a finding on disk is damaged"),
            }
        }
        let data_dir = data_dir.to_owned();
        let inner = Inner { data_dir, waiting: Mutex::new(waiting), changed: Notify::new() };
        Ok(Findings { inner: Arc::new(inner) })
    }

    /// Has a finding recorded, sooner or later. Returns at once; a waiting one about the same is
    /// replaced.
    pub fn record(&self, finding: v1::Finding) {
        let findings = self.clone();
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || findings.record_now(finding))),
            // A thread of its own may block.
            Err(_) => findings.record_now(finding),
        }
    }

    /// As [`Self::record`]; on return it will outlive the process. Blocks.
    pub fn record_now(&self, mut finding: v1::Finding) {
        truncate(&mut finding.detail);
        truncate(&mut finding.place);
        tracing::warn!(
            node = finding.node_id,
            what = finding.what,
            place = finding.place,
            first = finding.first_entry,
            next = finding.next_entry,
            outcome = finding.outcome,
            detail = finding.detail,
            "finding"
        );
        let key = key_of(&finding);
        let mut waiting = self.waiting();
        if waiting.len() >= FINDINGS_MAX && !waiting.contains_key(&key) {
            tracing::error!("{FINDINGS_MAX} findings wait to be recorded: this one is dropped");
            return;
        }
        if let Err(error) = self.keep(&key, &finding) {
            tracing::error!(%error, "cannot keep a finding on disk; it is recorded if this process lives");
        }
        waiting.insert(key, finding);
        drop(waiting);
        self.inner.changed.notify_one();
    }

    /// Keeps on disk what may have to be recorded: it is, after a restart, unless this process says
    /// more about the same, or withdraws it. Durable on return. Blocks.
    pub fn announce(&self, mut finding: v1::Finding) {
        truncate(&mut finding.detail);
        truncate(&mut finding.place);
        let key = key_of(&finding);
        let waiting = self.waiting();
        if waiting.contains_key(&key) {
            return;
        }
        if let Err(error) = self.keep(&key, &finding) {
            tracing::error!(%error, place = finding.place, "cannot announce a finding on disk");
        }
    }

    /// What was announced is nothing. Blocks.
    pub fn withdraw(&self, finding: &v1::Finding) {
        let key = key_of(finding);
        let waiting = self.waiting();
        if waiting.contains_key(&key) {
            return;
        }
        // Crash before: it is recorded as pending, for nothing.
        let removed = folder(&self.inner.data_dir).and_then(|dir| match dir.exists(&key)? {
            true => dir.remove(&key).and_then(|()| dir.sync()),
            false => Ok(()),
        });
        if let Err(error) = removed {
            tracing::warn!(%error, "an announced finding stays on disk and will be recorded");
        }
    }

    /// How many are not in the trail yet.
    pub fn waiting_count(&self) -> usize {
        self.waiting().len()
    }

    /// Completes when all are in the trail.
    pub async fn recorded(&self) {
        while self.waiting_count() > 0 {
            tokio::time::sleep(AGAIN).await;
        }
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<Key, v1::Finding>> {
        self.inner.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, key: &str, finding: &v1::Finding) -> Result<(), DiskError> {
        let dir = folder(&self.inner.data_dir)?;
        let bytes = finding.encode_to_vec();
        if dir.read_file(key)?.as_ref() == Some(&bytes) {
            return Ok(());
        }
        let temporary = format!("{key}.tmp");
        let file = dir.create_file(&temporary, 0o600)?;
        file.write_all_at(&bytes, 0)?;
        file.sync_all()?;
        // Crash before: the earlier finding about the same, or none; what it is about is on the
        // disk still and is found again. After: this one.
        dir.rename(&temporary, key)?;
        dir.sync()
    }

    /// Forgets a finding that is in the trail, unless another about the same has come meanwhile.
    fn done(&self, key: &str, recorded: &v1::Finding) {
        let mut waiting = self.waiting();
        if waiting.get(key) != Some(recorded) {
            return;
        }
        waiting.remove(key);
        let removed = folder(&self.inner.data_dir).and_then(|dir| {
            dir.remove(key)?;
            // Crash before: it is recorded once more.
            dir.sync()
        });
        if let Err(error) = removed {
            tracing::warn!(%error, "a recorded finding stays on disk and will be recorded again");
        }
    }
}

fn folder(data_dir: &Path) -> Result<Dir, DiskError> {
    Dir::open(data_dir, true)?.subdir(FINDINGS_DIR)
}

fn key_of(finding: &v1::Finding) -> Key {
    let mut about = finding.clone();
    // How far damage at the end of a log goes is known only once it is mended.
    about.next_entry = 0;
    about.outcome.clear();
    about.detail.clear();
    hex::encode(&Sha3_256::digest(about.encode_to_vec())[..16])
}

fn truncate(text: &mut String) {
    if text.len() > DETAIL_BYTES_MAX {
        let end = (0..=DETAIL_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
    }
}

/// What the recording task needs.
pub struct Options {
    /// This node.
    pub node_id: u64,
    /// Writes records while this node leads.
    pub operations: Arc<Operations>,
    /// For sending to the leader.
    pub network: Network,
    /// Who leads.
    pub leadership: watch::Receiver<Leadership>,
    /// Where the leader is.
    pub known: watch::Receiver<Known>,
}

/// Records what waits, for as long as the node runs.
pub async fn run(findings: Findings, options: Options) {
    let mut pause = AGAIN;
    loop {
        let next = findings.waiting().iter().next().map(|(key, one)| (key.clone(), one.clone()));
        let Some((key, finding)) = next else {
            findings.inner.changed.notified().await;
            pause = AGAIN;
            continue;
        };
        match record(&options, &finding).await {
            Ok(()) => {
                tracing::info!(place = finding.place, "finding recorded");
                let findings = findings.clone();
                // If it fails the process is on its way out.
                let _ = tokio::task::spawn_blocking(move || findings.done(&key, &finding)).await;
                pause = AGAIN;
            }
            Err(why) => {
                tracing::debug!(why, "a finding waits");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(AGAIN_MAX);
            }
        }
    }
}

/// One attempt, by this node if it leads, else by the leader.
async fn record(options: &Options, finding: &v1::Finding) -> Result<(), String> {
    let finding = v1::Finding { reporter: options.node_id, ..finding.clone() };
    let event = Bytes::from(finding.encode_to_vec());
    let leadership = options.leadership.borrow().clone();
    let leader = match leadership {
        Leadership::Ready(_) => {
            let recorded = options.operations.record_finding(event).await;
            return recorded.map_err(|rejected| rejected.to_string());
        }
        Leadership::Preparing(_) | Leadership::NoLeader => return Err("no leader".into()),
        Leadership::Follower(leader) => leader,
    };
    let peer = options.known.borrow().membership.get_node(&leader.id).cloned();
    let peer = peer.ok_or_else(|| format!("node {} has no address", leader.id))?;
    let link = options.network.control(leader.id, &peer);
    let open = link.open(RECORD).await.map_err(|error| error.to_string())?;
    let message = indelible_proto::raft::RecordFindingRequest { finding: event };
    let (mut client, request) = open.request(message);
    match tokio::time::timeout(RECORD, client.record_finding(request)).await {
        Ok(Ok(_)) => Ok(()),
        // Not a fault of the connection, which votes and heartbeats share.
        Ok(Err(status)) if status.code() == tonic::Code::FailedPrecondition => {
            Err(status.message().to_owned())
        }
        Ok(Err(status)) => Err(link.failed(open.serial(), &status).to_string()),
        Err(_) => Err(format!("no answer in {RECORD:?}")),
    }
}

/// What the raft service does with a peer's finding: records it if this node leads.
pub fn of_peers(
    operations: Arc<Operations>,
    leadership: watch::Receiver<Leadership>,
) -> FindingSink {
    let recorded = Arc::new(Recorded::default());
    Arc::new(move |peer, event| {
        let (operations, leadership) = (operations.clone(), leadership.clone());
        let counted = recorded.clone();
        async move {
            let event = of_peer(peer, &event)?;
            if !matches!(&*leadership.borrow(), Leadership::Ready(_)) {
                return Err(Status::failed_precondition("this node does not lead"));
            }
            counted.count(peer)?;
            tracing::info!(peer, "recording a finding of a peer");
            let recorded = operations.record_finding(event).await;
            recorded.map_err(|rejected| Status::failed_precondition(rejected.to_string()))
        }
        .boxed()
    })
}

/// What `peer` has found, with its name on it. Only what decodes to itself is committed to: these
/// bytes stay in the trail for ever.
fn of_peer(peer: u64, event: &Bytes) -> Result<Bytes, Status> {
    if event.len() > FINDING_BYTES_MAX {
        return Err(Status::invalid_argument(format!(
            "a finding of {} bytes, the limit is {FINDING_BYTES_MAX}",
            event.len()
        )));
    }
    let finding = v1::Finding::decode(&event[..])
        .map_err(|error| Status::invalid_argument(error.to_string()))?;
    if finding.encode_to_vec() != event[..] {
        return Err(Status::invalid_argument("a finding that is not encoded in the one way"));
    }
    Ok(v1::Finding { reporter: peer, ..finding }.encode_to_vec().into())
}

/// How many findings of each peer were recorded lately.
#[derive(Default)]
struct Recorded(Mutex<BTreeMap<u64, Vec<Instant>>>);

impl Recorded {
    /// Counts one more of `peer`, unless there were too many in the last minute: a peer must not
    /// fill the trail.
    fn count(&self, peer: u64) -> Result<(), Status> {
        let mut peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = peers.entry(peer).or_default();
        recent.retain(|recorded| recorded.elapsed() < Duration::from_secs(60));
        if recent.len() >= FINDINGS_OF_A_NODE_A_MINUTE_MAX {
            return Err(Status::failed_precondition(format!(
                "{FINDINGS_OF_A_NODE_A_MINUTE_MAX} findings of node {peer} were recorded in a minute, which is the limit"
            )));
        }
        recent.push(Instant::now());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(place: &str, outcome: &str) -> v1::Finding {
        v1::Finding {
            node_id: 2,
            what: what::DAMAGE.into(),
            place: place.into(),
            first_entry: 3,
            next_entry: 5,
            outcome: outcome.into(),
            reporter: 0,
            detail: "x".repeat(3 * DETAIL_BYTES_MAX),
        }
    }

    #[test]
    fn findings_outlive_the_process_until_they_are_recorded() {
        let temp = tempfile::tempdir().unwrap();
        let findings = Findings::open(temp.path()).unwrap();
        findings.record_now(finding("a", outcome::PENDING));
        findings.record_now(finding("b", outcome::MENDED));
        // About the same: the newer one takes its place.
        findings.record_now(finding("a", outcome::MENDED));
        assert_eq!(findings.waiting_count(), 2);
        drop(findings);

        let findings = Findings::open(temp.path()).unwrap();
        let waiting: Vec<_> = findings.waiting().clone().into_iter().collect();
        assert_eq!(waiting.len(), 2);
        assert!(waiting.iter().all(|(_, finding)| finding.outcome == outcome::MENDED));
        assert!(waiting.iter().all(|(_, finding)| finding.detail.len() == DETAIL_BYTES_MAX));
        for (key, recorded) in &waiting {
            // Another outcome was recorded: this one still waits.
            findings.done(key, &v1::Finding::default());
            assert!(findings.waiting().contains_key(key));
            findings.done(key, recorded);
        }
        assert_eq!(findings.waiting_count(), 0);
        assert_eq!(Findings::open(temp.path()).unwrap().waiting_count(), 0);
    }

    /// What is announced is recorded only if the process does not get to say more.
    #[test]
    fn what_was_announced_outlives_a_crash() {
        let temp = tempfile::tempdir().unwrap();
        let findings = Findings::open(temp.path()).unwrap();
        findings.announce(finding("a", outcome::PENDING));
        findings.announce(finding("b", outcome::PENDING));
        findings.withdraw(&finding("b", outcome::PENDING));
        assert_eq!(findings.waiting_count(), 0);
        let again = Findings::open(temp.path()).unwrap();
        assert_eq!(again.waiting_count(), 1);
        // How far it goes was not known before.
        let mended = v1::Finding { next_entry: 9, ..finding("a", outcome::MENDED) };
        findings.record_now(mended);
        findings.withdraw(&finding("a", outcome::PENDING));
        findings.announce(finding("a", outcome::PENDING));
        let again = Findings::open(temp.path()).unwrap();
        let outcomes: Vec<_> = again.waiting().values().map(|one| one.outcome.clone()).collect();
        assert_eq!(outcomes, [outcome::MENDED]);
    }

    #[test]
    fn there_are_never_more_than_the_limit() {
        let temp = tempfile::tempdir().unwrap();
        let findings = Findings::open(temp.path()).unwrap();
        for number in 0..FINDINGS_MAX + 3 {
            findings.record_now(finding(&number.to_string(), outcome::MENDED));
        }
        assert_eq!(findings.waiting_count(), FINDINGS_MAX);
        findings.record_now(finding("0", outcome::REFUSED));
        assert!(findings.waiting().values().any(|finding| finding.outcome == outcome::REFUSED));
    }

    #[test]
    fn only_findings_in_their_one_encoding_are_taken_from_peers() {
        let good = finding("a", outcome::MENDED).encode_to_vec();
        let named = of_peer(2, &good.clone().into()).unwrap();
        assert_eq!(v1::Finding::decode(&named[..]).unwrap().reporter, 2, "whoever it says it is");
        let mut unknown_field = good.clone();
        unknown_field.extend_from_slice(&[0xf8, 0x07, 0x01]);
        assert!(of_peer(2, &unknown_field.into()).is_err());
        assert!(of_peer(2, &vec![0xff; 10].into()).is_err());
        assert!(of_peer(2, &vec![0; FINDING_BYTES_MAX + 1].into()).is_err());
    }

    #[test]
    fn a_peer_cannot_fill_the_trail_with_findings() {
        let recorded = Recorded::default();
        for _ in 0..FINDINGS_OF_A_NODE_A_MINUTE_MAX {
            recorded.count(2).unwrap();
        }
        assert!(recorded.count(2).is_err());
        assert!(recorded.count(3).is_ok(), "each peer has its own");
    }
}
