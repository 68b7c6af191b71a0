//! Witnesses outside the group: the leader shows them its newest note, on their own clock.
//!
//! Nothing waits for a witness but an append that asks to be witnessed. All witnesses are shown the
//! same note, so that their signatures end up on one; one request each is under way, and a witness
//! that is slow misses a turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indelible_core::{Note, NoteSignature, VerifierKey};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::cosigner::unix_s;
use super::notebook;
use super::shared::{Published, Shared};
use super::witness_http::{NotWitnessed, Witness};
use crate::node::clock::Clock;
use crate::node::leadership::Leadership;
use crate::node::reads::{Level, Reads};
use crate::storage::ledger::Ledger;

/// How often a witness may correct this node about its size in one turn.
const CORRECTIONS_MAX: usize = 2;

/// What metrics say about a witness.
#[derive(Debug)]
pub struct WitnessFigures {
    /// Its name in the configuration.
    pub name: String,
    /// Size of the last checkpoint that it has signed for this leader.
    pub size: AtomicU64,
    /// When that was, in Unix seconds; 0 = never.
    pub signed_unix_s: AtomicU64,
    /// Requests that ended without a signature.
    pub failures: AtomicU64,
}

impl WitnessFigures {
    pub(super) fn new(name: &str) -> WitnessFigures {
        let (size, signed_unix_s, failures) = Default::default();
        WitnessFigures { name: name.to_owned(), size, signed_unix_s, failures }
    }
}

/// A witness, and what is known of it.
struct Known {
    witness: Arc<Witness>,
    figures: Arc<WitnessFigures>,
    /// The size from which it is asked to grow; 0 until it has said another.
    size: u64,
    is_busy: bool,
}

/// What the task works with.
pub(super) struct Witnesses {
    known: Vec<Known>,
    every: Duration,
    ledger: Ledger,
    reads: Reads,
    notebook: notebook::Handle,
    shared: Arc<Shared>,
    leadership: watch::Receiver<Leadership>,
    clock: Arc<Clock>,
}

/// How a turn with one witness ended.
struct Turn {
    /// Position in `known`.
    at: usize,
    shown: Arc<Published>,
    /// The size that the witness is known to have.
    size: u64,
    ended: Result<NoteSignature, NotWitnessed>,
}

impl Witnesses {
    #[expect(clippy::too_many_arguments, reason = "called once")]
    pub(super) fn new(
        witnesses: Vec<(String, VerifierKey, String)>,
        every: Duration,
        ledger: Ledger,
        reads: Reads,
        notebook: notebook::Handle,
        shared: Arc<Shared>,
        leadership: watch::Receiver<Leadership>,
        clock: Arc<Clock>,
        figures: &[Arc<WitnessFigures>],
    ) -> Witnesses {
        let known = witnesses.into_iter().zip(figures).map(|((name, key, url), figures)| Known {
            witness: Arc::new(Witness::new(name, key, &url)),
            figures: figures.clone(),
            size: 0,
            is_busy: false,
        });
        let known = known.collect();
        Witnesses { known, every, ledger, reads, notebook, shared, leadership, clock }
    }

    /// Until the node stops.
    pub(super) async fn run(mut self) {
        let mut tick = tokio::time::interval(self.every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut leadership = self.leadership.clone();
        let mut newest = self.shared.newest.subscribe();
        let mut turns: JoinSet<Turn> = JoinSet::new();
        // The note of this turn, with the witnesses' signatures so far.
        let mut merged: Option<Note> = None;
        let mut led: Option<Leadership> = None;
        loop {
            let is_ready = |now: &Leadership| matches!(now, Leadership::Ready(_));
            let Ok(leads) = leadership.wait_for(is_ready).await.map(|leads| leads.clone()) else {
                return;
            };
            if newest.wait_for(Option::is_some).await.is_err() {
                return;
            }
            if led.as_ref() != Some(&leads) {
                // What the witnesses said was for the leader of then to judge.
                self.known.iter_mut().for_each(|known| known.size = 0);
                led = Some(leads);
            }
            tokio::select! {
                _ = tick.tick() => {
                    let shown = newest.borrow().clone();
                    if let Some(shown) = shown.filter(|_| self.shared.rolled_back().is_none()) {
                        merged = Note::parse(&shown.note).ok();
                        self.show(&shown, &mut turns);
                    }
                }
                Some(Ok(turn)) = turns.join_next() => self.ended(turn, &mut merged).await,
            }
        }
    }

    fn show(&mut self, shown: &Arc<Published>, turns: &mut JoinSet<Turn>) {
        for (at, known) in self.known.iter_mut().enumerate() {
            if known.is_busy || known.size > shown.checkpoint.size {
                continue;
            }
            known.is_busy = true;
            let (witness, ledger) = (known.witness.clone(), self.ledger.clone());
            let (size, shown) = (known.size, shown.clone());
            turns.spawn_blocking(move || take_turn(at, &witness, &ledger, size, shown));
        }
    }

    async fn ended(&mut self, turn: Turn, merged: &mut Option<Note>) {
        let Turn { at, shown, size, ended } = turn;
        let known = &mut self.known[at];
        known.is_busy = false;
        known.size = size;
        let name = known.witness.name.clone();
        match ended {
            Ok(line) => {
                known.figures.size.store(size, Ordering::Relaxed);
                known.figures.signed_unix_s.store(unix_s(), Ordering::Relaxed);
                if let Some(unix_s) = known.witness.signed_at(&shown.checkpoint, &line) {
                    self.clock.witnessed(unix_s);
                }
                self.add(&shown, line, merged).await;
            }
            Err(error) => {
                known.figures.failures.fetch_add(1, Ordering::Relaxed);
                let is_judged = match error {
                    NotWitnessed::OtherSize(theirs) => self.is_ahead(&name, theirs).await,
                    NotWitnessed::OtherRoot(theirs) => {
                        self.has_another_history(&name, theirs).await
                    }
                    error => {
                        tracing::warn!(witness = name, %error, "not witnessed");
                        true
                    }
                };
                if !is_judged {
                    // It is asked again, as if nothing was known of it, and will say the same.
                    self.known[at].size = 0;
                }
            }
        }
    }

    /// Adds a witness's signature to the note that was shown to it.
    async fn add(&self, shown: &Published, line: NoteSignature, merged: &mut Option<Note>) {
        let text = shown.checkpoint.to_string();
        let note = match merged.as_mut().filter(|merged| merged.text == text) {
            Some(merged) => {
                put(merged, line);
                merged.clone()
            }
            // An answer to an earlier turn.
            None => {
                let Ok(mut note) = Note::parse(&shown.note) else { return };
                put(&mut note, line);
                note
            }
        };
        if let Err(error) = self.notebook.offer(note.to_string()).await {
            tracing::warn!(%error, "a witnessed note does not count");
        }
    }

    /// A witness has signed more than this leader has published. Another leader may have shown it
    /// that; if it is more than the trail has, everything was rolled back. False if nobody can tell
    /// now.
    async fn is_ahead(&self, name: &str, theirs: u64) -> bool {
        let leads = self.leads().await;
        if leads && theirs > self.ledger.head().borrow().tree_size {
            self.claims(name, theirs, "a larger tree than the trail is");
        }
        leads
    }

    /// A witness holds another root at a size that it has signed: what it has signed is not in the
    /// trail, which has grown beyond that size since. False if nobody can tell now.
    async fn has_another_history(&self, name: &str, theirs: u64) -> bool {
        let leads = self.leads().await;
        if leads {
            self.claims(name, theirs, "another tree than the trail was at that size");
        }
        leads
    }

    /// Whether this node leads, confirmed by a majority just now.
    async fn leads(&self) -> bool {
        self.reads.barrier(Level::Linearizable).await.is_ok()
            && matches!(&*self.leadership.borrow(), Leadership::Ready(_))
    }

    fn claims(&self, name: &str, theirs: u64, what: &str) {
        let ours = self.ledger.head().borrow().tree_size;
        let accepted = self.shared.accepted_unix_s() > 0;
        tracing::error!(
            witness = name,
            theirs,
            ours,
            accepted,
            "a witness knows {what}; hint: every disk was rolled back, or the witness is wrong"
        );
        // A witness's word says no time. Once a rollback was accepted it may be about what was lost
        // then: from there on only notes count.
        if !accepted && self.shared.claimed.borrow().is_none_or(|claimed| claimed < theirs) {
            self.shared.find(0, "rollback", theirs, "pending", format!("witness {name} knows it"));
            self.shared.claimed.send_replace(Some(theirs));
        }
    }
}

/// Puts a line in the place of the one that its key has already.
fn put(note: &mut Note, line: NoteSignature) {
    note.signatures.retain(|old| (&old.name, old.key_id) != (&line.name, line.key_id));
    note.signatures.push(line);
}

/// Shows a note to a witness, growing from the size that it has. Blocks.
fn take_turn(
    at: usize,
    witness: &Witness,
    ledger: &Ledger,
    mut old: u64,
    shown: Arc<Published>,
) -> Turn {
    let size = shown.checkpoint.size;
    let text = shown.checkpoint.to_string();
    let mut ended = Err(NotWitnessed::OtherSize(old));
    for _ in 0..CORRECTIONS_MAX {
        let proof = match ledger.prove_consistency(old, size) {
            Ok(proof) => proof,
            Err(error) => {
                ended = Err(NotWitnessed::Unreachable(format!("no proof for it: {error}")));
                break;
            }
        };
        ended = witness.add_checkpoint(old, &proof, &shown.note, &text);
        match ended {
            Ok(_) => {
                old = size;
                break;
            }
            Err(NotWitnessed::OtherSize(theirs)) if theirs != old => {
                old = theirs;
                if theirs > size {
                    break;
                }
            }
            // Asked to grow from the size that it has, it says that size again, or that the proof
            // does not hold.
            Err(NotWitnessed::OtherSize(_) | NotWitnessed::Refused { status: 422, .. }) => {
                ended = Err(NotWitnessed::OtherRoot(old));
                break;
            }
            Err(_) => break,
        }
    }
    Turn { at, shown, size: old, ended }
}
