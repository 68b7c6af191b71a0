//! Mending while the node runs: what the scrub or a read has found, one segment at a time, with
//! appends going on. And the comparison of sealed segments with the peers'.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use indelible_proto::v1;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::compare::{Compared, Divergence, compare};
use super::members::Members;
use super::place::{Place, announced_finding, finding, mended_finding};
use super::supply::{self, Next, Own, Supplier};
use super::{SharedNumbers, Starting, Suspect, Suspects};
use crate::node::config::NodeConfig;
use crate::node::fatal::{Fatal, Stop};
use crate::node::findings::{Findings, outcome, what};
use crate::node::leadership::Leadership;
use crate::node::scrub::{self, Scrub};
use crate::node::start::StartError;
use crate::raft::mending::{Asker, Digests, Sealed};
use crate::raft::peers::Known;
use crate::storage::evidence;
use crate::storage::ledger::Ledger;
use crate::storage::log::Log;
use crate::storage::mend::{MendError, Mended};
use crate::storage::recovery::SEGMENTS_DIR;
use crate::storage::segment;

/// Between two attempts to mend a place that nobody could give.
const AGAIN: Duration = Duration::from_secs(1);
/// The same after a while.
const AGAIN_MAX: Duration = Duration::from_secs(60);
/// How long a start waits for its peers' segments.
const COMPARE: Duration = Duration::from_secs(2);
/// How long a node that must stop waits for its finding to get into the trail.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What mending needs.
pub struct Options {
    /// Rates, and where the data is.
    pub config: NodeConfig,
    /// The log.
    pub log: Log,
    /// What follows from it.
    pub ledger: Ledger,
    /// Asks peers.
    pub asker: Asker,
    /// Who the peers are.
    pub known: watch::Receiver<Known>,
    /// Who leads: the leader speaks about others.
    pub leadership: watch::Receiver<Leadership>,
    /// Where findings go.
    pub findings: Findings,
    /// What is counted.
    pub numbers: SharedNumbers,
    /// Stops the node.
    pub stop: Stop,
    /// What the scrub has read.
    pub digests: Arc<Digests>,
    /// Where damage is reported to.
    pub suspects: Suspects,
}

/// Starts the scrub, and the task that mends what is reported.
pub fn start(
    options: Options,
    reported: mpsc::Receiver<Suspect>,
    tasks: &mut JoinSet<()>,
) -> std::io::Result<Scrub> {
    let scrub = Scrub::start(scrub::Options {
        node_id: options.asker.node_id,
        log: options.log.clone(),
        ledger: options.ledger.clone(),
        findings: options.findings.clone(),
        bytes_per_s: options.config.storage.scrub_bytes_per_s,
        every: Duration::from_secs(options.config.storage.scrub_every_s),
        digests: options.digests.clone(),
        numbers: options.numbers.clone(),
        suspects: options.suspects.clone(),
    })?;
    let mender = Mender {
        options,
        passes: Some(scrub.passes()),
        hurry: scrub.hurry_handle(),
        waiting: BTreeMap::new(),
        strangers: BTreeSet::new(),
    };
    tasks.spawn(mender.run(reported));
    Ok(scrub)
}

/// Findings about one member that has another history: it may make up a new one at each look.
const STRANGER_FINDINGS_MAX: usize = 16;

/// A place that waits to be mended.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    due: Instant,
    pause: Duration,
}

struct Mender {
    options: Options,
    /// Counts passes of the scrub; none once it has ended.
    passes: Option<watch::Receiver<u64>>,
    hurry: scrub::Hurry,
    waiting: BTreeMap<Suspect, Waiting>,
    /// Divergences of members that have been reported: the node, and the first entry of the
    /// segment. At most [`STRANGER_FINDINGS_MAX`] of each.
    strangers: BTreeSet<(u64, u64)>,
}

impl Mender {
    async fn run(mut self, mut reported: mpsc::Receiver<Suspect>) {
        loop {
            let due = self.waiting.values().map(|waiting| waiting.due).min();
            let due = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                suspect = reported.recv() => {
                    let Some(suspect) = suspect else { return };
                    let now = Waiting { due: Instant::now(), pause: AGAIN };
                    self.waiting.entry(suspect).or_insert(now);
                }
                () = due => {}
                () = next_pass(&mut self.passes) => self.compare().await,
            }
            self.mend_due().await;
            self.options.numbers.pending.set(self.waiting.len() as u64);
        }
    }

    async fn mend_due(&mut self) {
        let now = Instant::now();
        let due = |(_, waiting): &(&Suspect, &Waiting)| waiting.due <= now;
        let suspects: Vec<Suspect> = self.waiting.iter().filter(due).map(|(one, _)| *one).collect();
        for suspect in suspects {
            let done = match suspect {
                Suspect::Segment(first) => self.mend(first).await,
                Suspect::Somewhere => {
                    self.hurry.hurry();
                    true
                }
            };
            if done {
                self.waiting.remove(&suspect);
            } else if let Some(waiting) = self.waiting.get_mut(&suspect) {
                waiting.due = Instant::now() + waiting.pause;
                waiting.pause = (waiting.pause * 2).min(AGAIN_MAX);
            }
        }
    }

    /// Mends one segment; true if there is nothing more to do.
    async fn mend(&mut self, first: u64) -> bool {
        let Options { log, asker, numbers, .. } = &self.options;
        let node_id = asker.node_id;
        let known = self.options.known.borrow().membership.clone();
        let peers = Members::of(&known).others(node_id);
        // A hole in an open log is never at its end, so nothing about its end is asked.
        let supplier = Supplier::new(asker.clone(), peers, Own::default());
        let place = Place {
            file: self.options.config.data_dir.join(SEGMENTS_DIR).join(segment::file_name(first)),
            offset: 0,
            from: first,
            to: log.sealed_segments().iter().find(|one| one.first == first).map(|one| one.next),
            what: "found while the node ran".into(),
        };
        let log = log.clone();
        let findings = self.options.findings.clone();
        let announced = announced_finding(node_id, &place);
        let mended = tokio::task::spawn_blocking(move || {
            // Once the new bytes are in place, nothing else says that there was damage.
            findings.announce(announced.clone());
            let mended = mend_segment(&log, first, supplier);
            let nothing = mended.as_ref().is_ok_and(|mended| *mended == Mended::default());
            if nothing || matches!(mended, Err(MendError::Gone { .. })) {
                findings.withdraw(&announced);
            }
            mended
        });
        let Ok(mended) = mended.await else { return true };
        let first_attempt =
            self.waiting.get(&Suspect::Segment(first)).is_none_or(|one| one.pause == AGAIN);
        let (outcome, why) = match mended {
            Ok(mended) if mended == Mended::default() => return true,
            Ok(mended) => {
                if first_attempt {
                    numbers.damages_found.add(1);
                }
                numbers.mended.add(1);
                self.options.findings.record(mended_finding(node_id, &place, &mended));
                return true;
            }
            Err(MendError::Gone { .. }) => return true,
            Err(error) => match supply::sort(error) {
                Next::Wait(why) => (outcome::PENDING, why),
                Next::Lost(why) | Next::Diverged(why) => (outcome::PENDING, why),
                Next::Failed(error) => (outcome::PENDING, error.to_string()),
            },
        };
        if first_attempt {
            numbers.damages_found.add(1);
            tracing::error!(damage = place.describe(), why, "cannot be mended now");
            self.options.findings.record(finding(node_id, &place, outcome, why));
        }
        false
    }

    /// Compares sealed segments with the peers'.
    async fn compare(&mut self) {
        let known = self.options.known.borrow().membership.clone();
        let (asker, log) = (self.options.asker.clone(), self.options.log.clone());
        let members = Members::of(&known);
        let compared = compared(&log, &self.options.digests, &asker, &members).await;
        if let Some(outvoted) = compared.outvoted {
            let message = describe(&outvoted);
            keep_evidence(&self.options.config, &outvoted, &message);
            let finding = divergence_finding(asker.node_id, &outvoted, message.clone());
            self.options.findings.record(finding);
            // If no leader takes it, it stays on the disk.
            let _ = tokio::time::timeout(LAST_WORDS, self.options.findings.recorded()).await;
            self.options.stop.stop(Fatal::Diverged(message));
            return;
        }
        self.strangers.retain(|(node, _)| known.get_node(node).is_some());
        let leads = matches!(&*self.options.leadership.borrow(), Leadership::Ready(_));
        for stranger in compared.strangers {
            for node in &stranger.nodes {
                let key = (*node, stranger.theirs.first);
                let reported = self.strangers.range((*node, 0)..=(*node, u64::MAX)).count();
                if self.strangers.contains(&key) || reported >= STRANGER_FINDINGS_MAX {
                    continue;
                }
                let message = format!("node {node}: {}", describe(&stranger));
                tracing::error!(message, "a peer has another history");
                if leads {
                    self.strangers.insert(key);
                    let finding = divergence_finding(*node, &stranger, message);
                    self.options.findings.record(finding);
                }
            }
        }
    }
}

/// Until the scrub has ended a pass. For ever if scrubbing is off: reads and peers still report.
async fn next_pass(passes: &mut Option<watch::Receiver<u64>>) {
    if let Some(counting) = passes {
        if counting.changed().await.is_ok() {
            return;
        }
        *passes = None;
    }
    std::future::pending().await
}

/// Mends one segment, with each peer in turn as the first to be asked. Nothing in the answer:
/// nothing was damaged.
fn mend_segment(log: &Log, first: u64, mut supplier: Supplier) -> Result<Mended, MendError> {
    let mut attempts = supplier.peer_count().max(1);
    loop {
        attempts -= 1;
        match log.mend_segment(first, &mut |want| supplier.supply(want)) {
            Err(MendError::Refused { .. } | MendError::DoesNotJoin { .. }) if attempts > 0 => {
                supplier.rotate();
            }
            done => return done,
        }
    }
}

/// Before openraft is built: a node whose sealed segments are not the majority's must not serve
/// them, nor vote. Peers that do not answer at once are compared later, by the scrub.
pub async fn compare_at_start(
    log: &Log,
    config: &NodeConfig,
    starting: &Starting,
    members: &Members,
) -> Result<(), StartError> {
    if log.sealed_segments().is_empty() {
        return Ok(());
    }
    let asker = starting.asker();
    let digests = Digests::default();
    let comparing = compared(log, &digests, &asker, members);
    let Ok(Compared { outvoted: Some(outvoted), .. }) =
        tokio::time::timeout(COMPARE, comparing).await
    else {
        return Ok(());
    };
    let message = describe(&outvoted);
    keep_evidence(config, &outvoted, &message);
    Err(StartError::Diverged(message))
}

async fn compared(log: &Log, digests: &Digests, asker: &Asker, members: &Members) -> Compared {
    let others = members.others(asker.node_id);
    let firsts: BTreeSet<u64> = log.sealed_segments().iter().map(|one| one.first).collect();
    let firsts = &firsts;
    let ask =
        |(node, addr): (u64, String)| async move { (node, asker.segments(&addr, firsts).await) };
    let answers = futures_util::future::join_all(others.into_iter().map(ask)).await;
    let peers: BTreeMap<u64, Vec<Sealed>> =
        answers.into_iter().filter_map(|(node, answer)| Some((node, answer.ok()?))).collect();
    let ours = log.sealed_segments();
    let ours: Vec<Sealed> = ours
        .into_iter()
        .map(|one| Sealed {
            first: one.first,
            next: one.next,
            bytes: one.bytes,
            digest: digests.get(one.first),
            chain: one.chain,
        })
        .collect();
    compare(&ours, &peers, members.addrs.len())
}

fn describe(divergence: &Divergence) -> String {
    let Divergence { ours, theirs, nodes } = divergence;
    let nodes: Vec<String> = nodes.iter().map(|node| format!("node {node}")).collect();
    format!(
        "segment {} ends with entry {} and link {} here, with entry {} and link {} on {}; hint: this node's history is not \
         theirs; keep its disk for the inquiry, remove it from the group and add a new node",
        segment::file_name(ours.first),
        ours.next - 1,
        ours.chain,
        theirs.next - 1,
        theirs.chain,
        nodes.join(", "),
    )
}

fn divergence_finding(node_id: u64, divergence: &Divergence, detail: String) -> v1::Finding {
    v1::Finding {
        reporter: node_id,
        node_id,
        what: what::DIVERGENCE.into(),
        place: format!("{SEGMENTS_DIR}/{}", segment::file_name(divergence.ours.first)),
        first_entry: divergence.ours.first,
        next_entry: divergence.ours.next,
        outcome: outcome::REFUSED.into(),
        detail,
    }
}

fn keep_evidence(config: &NodeConfig, divergence: &Divergence, message: &str) {
    let name = format!("divergence-{}.txt", divergence.ours.first);
    if let Err(error) = evidence::keep(&config.data_dir, &name, message.as_bytes()) {
        tracing::error!(%error, "cannot keep the evidence");
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    /// The channel's end was taken for a pass, again and again, as fast as a core could.
    #[test]
    fn a_scrub_that_is_off_is_waited_for_in_peace() {
        let (passed, passes) = watch::channel(0);
        let mut passes = Some(passes);
        assert_eq!(next_pass(&mut passes).now_or_never(), None);
        passed.send_replace(1);
        assert_eq!(next_pass(&mut passes).now_or_never(), Some(()));
        drop(passed);
        for _ in 0..3 {
            assert_eq!(next_pass(&mut passes).now_or_never(), None);
        }
    }
}
