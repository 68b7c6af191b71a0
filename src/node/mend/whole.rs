//! Opening a log that may be damaged: survey, ask the peers, rebuild, until it opens.
//!
//! All of this happens before openraft exists, so the node neither votes nor acknowledges before
//! its log is whole. What is mended stays mended if a later step fails or the process dies.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indelible_lineage::Draw;
use indelible_proto::raft::StandingResponse;
use indelible_proto::v1;
use tokio::sync::oneshot;

use super::members::Members;
use super::place::{Place, announced_finding, finding, mended_finding};
use super::supply::{self, Next, Own, Supplier};
use super::{SharedNumbers, Starting};
use crate::disk::{Dir, DiskError, SlotsError};
use crate::node::findings::{Findings, outcome};
use crate::node::{NodeConfig, StartError};
use crate::raft::mending::{Source, Standing};
use crate::storage::hard_state::{HARD_STATE_FILE, HardState, HardStateFile, StoredVote};
use crate::storage::identity::Genesis;
use crate::storage::ledger::{Ledger, LedgerError};
use crate::storage::log::{Done, Log, LogError, LogOptions, SyncPolicy};
use crate::storage::mend::{ClosedLog, MendError, Mended, SegmentSource, Survey};
use crate::storage::notes::Notes;
use crate::storage::recovery::{OpenError, SEGMENTS_DIR};
use crate::storage::start::{NewBoot, root_of};
use crate::storage::{Storage, StorageError, StorageOptions, segment};

/// Something is said about it at least this often.
const SAY_AGAIN: Duration = Duration::from_secs(5);
/// How long a node that gives up still answers its peers: they need what it says, and have to ask
/// each other meanwhile.
const LINGER: Duration = Duration::from_secs(10);
/// What a start has of it.
const PATIENCE: Patience = Patience { mendings: 10_000, pause: Duration::from_millis(300) };

/// For how long a start goes on. For peers it waits without end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Mendings of one log that it tries. A disk that damages what was just mended is broken.
    pub(super) mendings: usize,
    /// Between two rounds of asking peers.
    pub(super) pause: Duration,
}

/// A log that opens, and what comes with it.
pub struct Whole {
    /// All that is on the disk.
    pub storage: Storage,
    /// What was found, to be recorded.
    pub findings: Findings,
    /// What was counted.
    pub numbers: SharedNumbers,
    /// Who else there is.
    pub members: Members,
}

/// Opens a data directory; mends it first if it is damaged, waiting for peers as long as it takes.
pub async fn open_whole(config: &NodeConfig, starting: &Starting) -> Result<Whole, StartError> {
    let findings = {
        let dir = config.data_dir.clone();
        blocking(move || Findings::open(&dir).map_err(disk)).await?
    };
    let numbers = SharedNumbers::default();
    let opening = Opening {
        dir: config.data_dir.clone(),
        cache_bytes_max: config.storage.log_cache_bytes,
        patience: PATIENCE,
        starting,
        findings: findings.clone(),
        numbers: numbers.clone(),
    };
    let storage = opening.run().await?;
    let members = members_of(&storage.ledger, storage.genesis.as_ref());
    Ok(Whole { storage, findings, numbers, members })
}

/// A node whose log shows that a term had a leader never votes in a lower one: what was mended may
/// be of a later term than its vote, and than what `synced` says. Completes when that is durable.
pub async fn raise_vote(log: &Log) -> Result<(), StartError> {
    let Some(last) = log.last() else { return Ok(()) };
    if log.vote().is_some_and(|vote| vote.term >= last.term) {
        return Ok(());
    }
    let vote = StoredVote { term: last.term, node_id: last.leader, committed: true };
    saved("save the vote", |done| log.save_vote(vote, done)).await
}

/// Forgets which boots of its peers a node has admitted: its disk was put back together with
/// theirs, and each was copied at another moment. Completes when that is durable.
pub async fn forget_peers(log: &Log) -> Result<(), StartError> {
    saved("forget the boots of peers", |done| log.forget_peers(done)).await
}

async fn saved(what: &str, save: impl FnOnce(Done)) -> Result<(), StartError> {
    let (done, saved) = oneshot::channel();
    save(Box::new(move |result| {
        // The receiver waits below.
        let _ = done.send(result);
    }));
    match saved.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(StartError::Raft(format!("{what}: {error}"))),
        Err(error) => Err(StartError::Raft(error.to_string())),
    }
}

/// Runs something that blocks.
async fn blocking<T, E>(
    run: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, StartError>
where
    T: Send + 'static,
    E: Into<StartError> + Send + 'static,
{
    match tokio::task::spawn_blocking(run).await {
        Ok(result) => result.map_err(Into::into),
        Err(error) => Err(StartError::Raft(error.to_string())),
    }
}

fn members_of(ledger: &Ledger, genesis: Option<&Genesis>) -> Members {
    let newest = ledger.membership();
    let newest = newest.and_then(|(_, bytes)| crate::raft::membership::decode(&bytes).ok());
    newest.map_or_else(|| Members::of_genesis(genesis), |membership| Members::of(&membership))
}

/// What a round of mending came to.
enum Round {
    /// One place is whole again.
    Mended(Mended),
    /// Peers must be asked again: why.
    Wait(String),
    /// Nobody has it: what each has said.
    Lost(String),
    /// The majority has another log.
    Diverged(String),
}

/// What is said while waiting: once per change, and now and then.
#[derive(Default)]
struct WaitLog(Option<(String, Instant)>);

impl WaitLog {
    fn say(&mut self, place: &Place, why: &str) {
        let news = self.0.as_ref().is_none_or(|(said, at)| said != why || at.elapsed() > SAY_AGAIN);
        if news {
            tracing::warn!(
                damage = place.describe(),
                why,
                "this node waits for peers to mend its log"
            );
            self.0 = Some((why.to_owned(), Instant::now()));
        }
    }
}

/// The hard state of a log that is closed; a new one if it was never opened.
fn hard_state(dir: &std::path::Path) -> Result<HardState, StorageError> {
    let dir = Dir::open(dir, true).map_err(disk)?;
    if !dir.exists(HARD_STATE_FILE).map_err(disk)? {
        return Ok(HardState::default());
    }
    match HardStateFile::open(&dir) {
        Ok(file) => Ok(file.value().clone()),
        Err(SlotsError::Damaged { path }) => Err(OpenError::NoHardState { path }.into()),
        Err(SlotsError::Disk(error)) => Err(disk(error)),
    }
}

fn disk(error: DiskError) -> StorageError {
    OpenError::from(error).into()
}

/// What a failed mending means for the start.
fn judge(error: MendError) -> Result<Round, StorageError> {
    match supply::sort(error) {
        Next::Wait(why) => Ok(Round::Wait(why)),
        Next::Lost(why) => Ok(Round::Lost(why)),
        Next::Diverged(why) => Ok(Round::Diverged(why)),
        Next::Failed(MendError::Open(error)) => Err(error.into()),
        Next::Failed(MendError::Disk(error)) => Err(disk(error)),
        Next::Failed(error) => Ok(Round::Wait(error.to_string())),
    }
}

/// A start.
pub(super) struct Opening<'a> {
    /// The data directory.
    pub(super) dir: PathBuf,
    /// Entries kept in memory, in bytes.
    pub(super) cache_bytes_max: usize,
    pub(super) patience: Patience,
    pub(super) starting: &'a Starting,
    pub(super) findings: Findings,
    pub(super) numbers: SharedNumbers,
}

impl Opening<'_> {
    pub(super) async fn run(&self) -> Result<Storage, StartError> {
        let identity = self.starting.identity.clone();
        let (trail_id, segment_bytes) = (identity.trail_id, identity.segment_bytes);
        let mut closed = self.lock().await?;
        let root = root_of(&identity);
        // Before anything is said to anybody, or asked.
        closed = blocking(move || -> Result<_, StorageError> {
            closed.check_start(root)?;
            Ok(closed)
        })
        .await?;
        self.serve_note().await;
        let dir = self.dir.clone();
        let (source, genesis) = blocking(move || -> Result<_, StorageError> {
            let source = SegmentSource::open(&dir, trail_id, segment_bytes).map_err(disk)?;
            Ok((Arc::new(source), Genesis::read(&dir)?))
        })
        .await?;
        let mut said = WaitLog::default();
        let mut supplier: Option<Supplier> = None;
        let mut mendings = 0;
        while mendings < self.patience.mendings {
            let survey;
            (closed, survey) = self.survey(closed, &source).await?;
            let mut asking = match supplier.take() {
                Some(supplier) => supplier,
                None if survey.damage.is_empty() => Supplier::nobody(self.starting.asker()),
                None => self.supplier(&source, genesis.as_ref(), &survey).await?,
            };
            self.numbers.pending.set(survey.damage.len() as u64);
            let Some(damage) = survey.damage.first() else {
                match self.open(closed).await? {
                    Opened::Whole(storage) => return Ok(*storage),
                    Opened::Damaged(met) => {
                        if asking.peer_count() == 0 {
                            asking = self.supplier(&source, genesis.as_ref(), &survey).await?;
                        }
                        supplier = Some(self.scrub(met, asking).await?);
                        mendings += 1;
                    }
                }
                closed = self.lock().await?;
                continue;
            };
            let place = Place::from(damage);
            self.starting.does(&format!("mending: {}", place.describe()));
            let (round, back);
            (closed, back, round) = self.round(closed, survey, &place, asking).await?;
            match round {
                Round::Mended(mended) => {
                    self.numbers.damages_found.add(1);
                    self.numbers.mended.add(1);
                    mendings += 1;
                    // What was cut off may have been a membership: then another one counts.
                    let cut = mended.end.is_some();
                    self.record(&place, mended).await;
                    if cut {
                        continue;
                    }
                }
                Round::Wait(why) => {
                    said.say(&place, &why);
                    tokio::time::sleep(self.patience.pause).await;
                }
                Round::Lost(why) => return Err(self.give_up(&place, &why, &back).await),
                Round::Diverged(why) => {
                    let message = format!("{}; {why}", place.describe());
                    return Err(StartError::Diverged(message));
                }
            }
            supplier = Some(back);
        }
        let message = "the log is damaged again as soon as it is mended; hint: replace the disk";
        Err(StartError::Damaged(message.into()))
    }

    async fn lock(&self) -> Result<ClosedLog, StartError> {
        let identity = &self.starting.identity;
        let (trail_id, segment_bytes) = (identity.trail_id, identity.segment_bytes);
        let dir = self.dir.clone();
        blocking(move || {
            ClosedLog::lock(&dir, trail_id, segment_bytes)
                .map_err(|error| StorageError::Open(OpenError::from(error)))
        })
        .await
    }

    /// Looks at the disk, and tells peers what it has.
    async fn survey(
        &self,
        closed: ClosedLog,
        source: &Arc<SegmentSource>,
    ) -> Result<(ClosedLog, Survey), StartError> {
        let (segments, dir) = (source.clone(), self.dir.clone());
        let (closed, survey, standing) = blocking(move || -> Result<_, StorageError> {
            let survey = closed.survey()?;
            let (end, hard) = (segments.end().map_err(disk)?, hard_state(&dir)?);
            let standing = Standing {
                last: end.last,
                tail_damaged: !end.certain || survey.lacks_end(),
                committed: survey.marker.map_or(0, |marker| marker.committed),
                term: hard.vote.map_or(0, |vote| vote.term),
                boot_count: hard.boot_count(),
                ..Standing::default()
            };
            Ok((closed, survey, standing))
        })
        .await?;
        let segments = source.clone();
        self.starting.mending.set_source(Source::Closed { segments, standing });
        Ok((closed, survey))
    }

    /// Whom to ask, and what this node knows of itself.
    async fn supplier(
        &self,
        source: &Arc<SegmentSource>,
        genesis: Option<&Genesis>,
        survey: &Survey,
    ) -> Result<Supplier, StartError> {
        let (source, genesis, dir) = (source.clone(), genesis.cloned(), self.dir.clone());
        let committed = survey.marker.map_or(0, |marker| marker.committed);
        let (members, hard) = blocking(move || -> Result<_, StorageError> {
            let members = Members::read(&source, genesis.as_ref()).map_err(disk)?;
            Ok((members, hard_state(&dir)?))
        })
        .await?;
        let peers = members.others(self.starting.identity.node_id);
        // Of all that are known: a membership that is mended may name others than `peers`.
        let boots: BTreeMap<u64, u64> =
            hard.peers().map(|(id, peer)| (id, peer.signed.boot.number)).collect();
        let term = hard.vote.map_or(0, |vote| vote.term);
        let Members { voters, since: voters_since, .. } = members;
        let own = Own { term, committed, voters, voters_since, boots };
        Ok(Supplier::new(self.starting.asker(), peers, own))
    }

    /// Mends the first damage, with each peer in turn as the first to be asked.
    async fn round(
        &self,
        closed: ClosedLog,
        survey: Survey,
        place: &Place,
        mut supplier: Supplier,
    ) -> Result<(ClosedLog, Supplier, Round), StartError> {
        let (findings, announced) = (self.findings.clone(), self.announced(place));
        blocking(move || -> Result<_, StorageError> {
            // Once the new bytes are in place, nothing else says that there was damage.
            findings.announce(announced);
            supplier.restart();
            let mut round = Round::Wait("there is no peer to ask".into());
            // Each peer once, and then with the doubt whether what is here counts.
            let attempts = supplier.peer_count() + 1;
            for attempt in 1..=attempts {
                if attempt == attempts && attempts > 1 {
                    supplier.doubt();
                }
                match closed.rebuild(&survey, &mut |want| supplier.supply(want)) {
                    Ok(mended) => {
                        supplier.mended();
                        round = Round::Mended(mended);
                        break;
                    }
                    Err(error @ (MendError::Refused { .. } | MendError::DoesNotJoin { .. })) => {
                        round = judge(error)?;
                        supplier.rotate();
                    }
                    Err(error) => {
                        round = judge(error)?;
                        // Whoever was asked first may be why.
                        supplier.rotate();
                        break;
                    }
                }
            }
            Ok((closed, supplier, round))
        })
        .await
    }

    fn announced(&self, place: &Place) -> v1::Finding {
        announced_finding(self.starting.identity.node_id, place)
    }

    async fn record(&self, place: &Place, mended: Mended) {
        let finding = mended_finding(self.starting.identity.node_id, place, &mended);
        let findings = self.findings.clone();
        // If the process is on its way out, the quarantine still tells.
        let _ = tokio::task::spawn_blocking(move || findings.record_now(finding)).await;
    }

    /// Nobody has it. Peers may need our answer to come to the same conclusion, or to mend theirs.
    async fn give_up(&self, place: &Place, why: &str, supplier: &Supplier) -> StartError {
        let message = format!(
            "{}; {why}; hint: nothing was changed; bring back a node that has these entries",
            place.describe()
        );
        self.starting.does(&format!("damaged everywhere: {message}"));
        let node_id = self.starting.identity.node_id;
        let finding = finding(node_id, place, outcome::REFUSED, message.clone());
        let findings = self.findings.clone();
        let _ = tokio::task::spawn_blocking(move || findings.record_now(finding)).await;
        if supplier.peer_count() > 0 {
            tokio::time::sleep(LINGER).await;
        }
        StartError::Damaged(message)
    }

    /// Opens a log that the survey found whole. What only a full read finds, the ledger may run
    /// into while it catches up; then the sealed segments are scrubbed and mended. None: survey
    /// again.
    async fn open(&self, closed: ClosedLog) -> Result<Opened, StartError> {
        self.starting.does("opening the log");
        let options = StorageOptions {
            cache_bytes_max: self.cache_bytes_max,
            draw: Draw(rand::random()),
            sync: SyncPolicy::Always,
        };
        let dir = self.dir.clone();
        let opened = tokio::task::spawn_blocking(move || {
            let storage = Storage::open_locked(&dir, &options, closed.unlock())?;
            check_keys(&storage)?;
            Ok(storage)
        });
        match opened.await.map_err(|error| StartError::Raft(error.to_string()))? {
            Ok(storage) => Ok(Opened::Whole(Box::new(storage))),
            Err(StorageError::Ledger(error)) if is_damage(&error) => {
                tracing::error!(%error, "the log opens, but an entry in it is damaged");
                Ok(Opened::Damaged(error))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Scrubs all sealed segments with the log open, and mends what is damaged. An error if there
    /// is nothing: then mending does not help against what the ledger has met.
    async fn scrub(
        &self,
        met: LedgerError,
        mut supplier: Supplier,
    ) -> Result<Supplier, StartError> {
        let identity = self.starting.identity.clone();
        let options = LogOptions {
            segment_bytes: identity.segment_bytes,
            trail_id: identity.trail_id,
            cache_bytes_max: self.cache_bytes_max,
            boot: NewBoot::of(&identity, Draw(rand::random())),
            first_index_any: false,
            sync: SyncPolicy::Always,
        };
        let dir = self.dir.clone();
        let (log, _) =
            blocking(move || Log::open(&dir, options).map_err(StorageError::from)).await?;
        let mut said = WaitLog::default();
        let mut mended_any = false;
        for segment in log.sealed_segments() {
            loop {
                let log = log.clone();
                let damage = self.damage_of(segment.first, &met, segment.next);
                let (findings, announced) = (self.findings.clone(), self.announced(&damage));
                let (back, done) = blocking(move || -> Result<_, StorageError> {
                    supplier.restart();
                    if log.scrub_segment(segment.first, &mut |_| {}).is_ok() {
                        return Ok((supplier, Ok(None)));
                    }
                    findings.announce(announced);
                    let mended = log.mend_segment(segment.first, &mut |want| supplier.supply(want));
                    if mended.is_ok() {
                        supplier.mended();
                    }
                    Ok((supplier, mended.map(Some)))
                })
                .await?;
                supplier = back;
                let why = match done {
                    Ok(None) => break,
                    Ok(Some(mended)) => {
                        self.numbers.damages_found.add(1);
                        self.numbers.mended.add(1);
                        self.record(&damage, mended).await;
                        mended_any = true;
                        break;
                    }
                    Err(error) => match judge(error)? {
                        Round::Wait(why) => why,
                        Round::Lost(why) => {
                            return Err(self.give_up(&damage, &why, &supplier).await);
                        }
                        Round::Diverged(why) => return Err(StartError::Diverged(why)),
                        Round::Mended(_) => break,
                    },
                };
                self.starting.does(&format!("mending: {}", damage.describe()));
                said.say(&damage, &why);
                supplier.rotate();
                tokio::time::sleep(self.patience.pause).await;
            }
        }
        blocking(move || -> Result<(), StorageError> {
            log.close();
            Ok(())
        })
        .await?;
        if mended_any { Ok(supplier) } else { Err(StorageError::Ledger(met).into()) }
    }

    fn damage_of(&self, first: u64, met: &LedgerError, next: u64) -> Place {
        Place {
            file: self.dir.join(SEGMENTS_DIR).join(segment::file_name(first)),
            offset: 0,
            from: first,
            to: Some(next),
            what: met.to_string(),
        }
    }

    /// The newest note on the disk, for peers that ask before the publisher runs.
    async fn serve_note(&self) {
        let dir = self.dir.clone();
        let read = move || Notes::open(&dir).ok()?.newest().map(|note| Arc::from(&note.text[..]));
        // NB: read once, here: later the file belongs to the publisher.
        let note: Option<Arc<str>> = tokio::task::spawn_blocking(read).await.ok().flatten();
        self.starting.mending.set_note(Arc::new(move |_, answer: &mut StandingResponse| {
            answer.note = note.as_deref().unwrap_or_default().to_owned();
        }));
    }
}

/// Reads what a start needs of sealed segments, which it does not scan: the newest keys of the
/// trail. Closes everything if the entry that has them is damaged, so that it can be mended.
fn check_keys(storage: &Storage) -> Result<(), StorageError> {
    let Storage { ledger, log, .. } = storage;
    let read = || -> Result<(), LedgerError> {
        match ledger.key_records(ledger.head().borrow().tree_size)?.pop() {
            Some(leaf) => ledger.record(leaf).map(drop),
            None => Ok(()),
        }
    };
    match read() {
        Err(LedgerError::Log(error)) if matches!(*error, LogError::Corrupt { .. }) => {
            ledger.close();
            log.close();
            Err(LedgerError::Log(error).into())
        }
        // Damaged tree files are mended later.
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Whether mending can help.
fn is_damage(error: &LedgerError) -> bool {
    match error {
        LedgerError::Log(error) => matches!(**error, LogError::Corrupt { .. }),
        LedgerError::Damaged { .. } | LedgerError::Entry { .. } => true,
        _ => false,
    }
}

/// What came of opening.
enum Opened {
    Whole(Box<Storage>),
    Damaged(LedgerError),
}
