//! Admitting a peer's boot, and what this node does when a peer does not admit its own
//! (docs/adr/0011, rules 6 and 7 and the one for copies).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use indelible_lineage::{Admission, AfterRefusal, Boot, NotAdmitted, admit, after_refusal};
use indelible_proto::raft as pb;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::boots::{self, Shown};
use super::peers::{Peers, Refusal};
use super::removals::is_majority_besides;
use super::types::Peer;
use crate::storage::hard_state::{PeerBoot, SignedBoot};

/// Asks a node whether this boot of it still answers, on the connections that there are.
pub(super) type AskOldBoot = Box<dyn Fn(u64, Boot) -> BoxFuture<'static, bool> + Send + Sync>;

/// The last entry of the tree that a node has cosigned last, as far as this node can tell. Reads
/// the disk.
pub(super) type Cosigned = Arc<dyn Fn(u64) -> Option<u64> + Send + Sync>;

/// How long a node goes on while its peers say that another process of it runs: it may be the last
/// moment of that one.
const RUNS_ALREADY_MAX: Duration = Duration::from_secs(10);

/// A peer that does not say it again within this time does not say it any more: it is called once a
/// second.
const RUNS_ALREADY_AGAIN: Duration = Duration::from_secs(4);

/// Messages in which a peer may show its boots: a hundred thousand of them. What was shown is
/// remembered, so that the next handshake goes on from there.
const THEIRS_MAX: usize = 1024;

/// What came of checking a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// No membership has it. Nothing is remembered.
    Stranger,
    /// Its boot is remembered durably.
    Admitted,
    /// It has to show its draws after this boot first.
    Needs(u64),
}

impl Answer {
    /// After which boot the peer has to show draws in its next message; none if it is done.
    pub(super) fn asks_after(self, shown: &Shown) -> Option<u64> {
        match self {
            Answer::Needs(after) => Some(after),
            Answer::Admitted | Answer::Stranger => shown.more.then_some(shown.boot.boot.number),
        }
    }
}

impl Peers {
    /// Says where signatures of peers are found. Once.
    pub fn set_cosigned(&self, cosigned: Cosigned) {
        assert!(self.cosigned.set(cosigned).is_ok(), "one notebook for each node");
    }

    /// Whether a peer's log, which ends with this entry, can reach what it has cosigned: nobody
    /// signs past its own durable log (rule 8).
    ///
    /// It may have signed since it said where its log ends. So what was not known at `since` is
    /// compared with what it says next time.
    pub(super) async fn check_cosigned(
        &self,
        node: u64,
        last_log_index: u64,
        since: Instant,
    ) -> Result<(), Refusal> {
        let Some(cosigned) = self.cosigned.get().cloned() else { return Ok(()) };
        let found = tokio::task::spawn_blocking(move || cosigned(node)).await;
        let reached = match found {
            Ok(Some(reached)) => reached,
            Ok(None) => return Ok(()),
            Err(error) => return Err(Refusal::Storage(error.to_string())),
        };
        if last_log_index >= reached {
            return Ok(());
        }
        let known = {
            let mut state = self.lock();
            let known = state.cosigned.at(node, since);
            state.cosigned.note(node, reached, Instant::now());
            known
        };
        match last_log_index < known {
            true => Err(Refusal::LostSignature { node, theirs: last_log_index, known }),
            false => Err(Refusal::Again { node }),
        }
    }

    /// Compares the boot that a peer shows with the one that is remembered. A later one is durable
    /// when this returns, before anything else is said to that peer.
    pub(super) async fn admit_boot(&self, node: u64, shown: &Shown) -> Result<Answer, Refusal> {
        match self.judge(node, shown)? {
            Admission::Newer => {}
            decided => return Ok(answer(decided)),
        }
        let old = self.log.peer(node).map(|peer| peer.signed.boot);
        if let Some(old) = old.filter(|old| *old != shown.boot.boot)
            && let Some(asks) = self.asks.get()
            && asks(node, old).await
        {
            return Err(Refusal::RunsAlready { node, boot: old.number });
        }
        let _one = self.saving.lock().await;
        // Another message of it may have come first.
        match self.judge(node, shown)? {
            Admission::Newer => {}
            decided => return Ok(answer(decided)),
        }
        let is_first_contact = self.boot_in_membership(node).is_none();
        let (done, saved) = oneshot::channel();
        let done = Box::new(move |result| {
            let _ = done.send(result);
        });
        // Crash before the answer: it is admitted, and shows the same boot again.
        self.log.save_peer(node, PeerBoot { signed: shown.boot, is_first_contact }, done);
        let saved = saved.await.map_err(|error| Refusal::Storage(error.to_string()))?;
        saved.map_err(|error| Refusal::Storage(error.to_string()))?;
        Ok(Answer::Admitted)
    }

    /// Decides by what is remembered. An error if the boot is not admitted.
    pub(super) fn judge(&self, node: u64, shown: &Shown) -> Result<Admission, Refusal> {
        let (in_membership, remembered) = (self.boot_in_membership(node), self.log.peer(node));
        let draws = (!shown.draws.is_empty()).then_some(&shown.draws[..]);
        let first = in_membership.map(|signed| signed.boot);
        let admitted = remembered.map(|peer| peer.admitted());
        match admit(first, admitted, shown.boot.boot, draws) {
            Admission::Not(why) => {
                let (NotAdmitted::Older { remembered: number, .. }
                | NotAdmitted::Forked { remembered: number, .. }) = why;
                let known = remembered.map(|peer| peer.signed).into_iter().chain(in_membership);
                let mut known = known.filter(|signed| signed.boot.number == number);
                let remembered = known.next().expect("one of the two is compared with");
                let remembered = Box::new(remembered);
                Err(Refusal::NotAdmitted { node, why, remembered })
            }
            decided => Ok(decided),
        }
    }

    /// This disk was put back with those of all other nodes: it knows that it is older.
    pub fn set_rolled_back(&self) {
        self.lock().is_rolled_back = true;
    }

    /// The founders with the boots in which they were admitted here; none if one was not yet.
    pub fn founders(&self) -> Option<BTreeMap<u64, Peer>> {
        let with_boot = |(id, peer): (&u64, &Peer)| {
            let boot = match *id == self.node_id() {
                true => self.own.newest(),
                false => self.log.peer(*id)?.signed,
            };
            Some((*id, Peer { boot: Some(boot), ..peer.clone() }))
        };
        self.genesis().iter().map(with_boot).collect()
    }

    /// How many messages a handshake may take.
    pub(super) fn messages_max(&self) -> usize {
        self.own.messages_max() + THEIRS_MAX
    }

    /// Whether what was settled in a handshake with this boot of a node still holds: no later one
    /// was admitted, and no membership has come that asks for more.
    pub(super) fn is_current(&self, node: u64, boot: &[u8; 32]) -> bool {
        match (self.log.peer(node), self.boot_in_membership(node)) {
            (Some(peer), Some(first)) if peer.is_first_contact => {
                peer.signed.boot == first.boot && first.boot.hash == *boot
            }
            (Some(peer), _) => peer.signed.boot.hash == *boot,
            (None, Some(first)) => first.boot.hash == *boot,
            (None, None) => false,
        }
    }

    /// Notes that a peer has admitted this boot.
    pub(super) fn set_admitted(&self) {
        let mut state = self.lock();
        state.is_admitted = true;
        state.runs_already.clear();
    }

    /// A peer has shown why it does not admit this node. A boot that it shows is signed by this
    /// node's key, so it need not be believed.
    pub(super) fn refused_with(&self, by: u64, refused: &pb::Refused) {
        if refused.removed {
            self.removals().heard(by);
        }
        if refused.runs_already {
            self.told_to_run_already(by, Instant::now());
            return;
        }
        let Some(shown) = refused.remembered.as_ref().and_then(boots::from_pb) else { return };
        if !self.own.is_own(&shown) {
            let why = "it shows a boot that this node's key has not signed";
            if self.is_refusal_news(by, why) {
                tracing::warn!(by, "a peer refuses this node, but {why}");
            }
            return;
        }
        let (own, is_admitted) = (self.own.lineage(), self.lock().is_admitted);
        match after_refusal(own, shown.boot, is_admitted) {
            AfterRefusal::GoOn => {}
            AfterRefusal::Alarm => self.alarm(by, &shown),
            // There are boots that this disk does not know: so said whoever started it.
            AfterRefusal::Stop if self.lock().is_rolled_back => {}
            AfterRefusal::Stop => self.stop(format!(
                "node {by} remembers boot {} of this node, signed with its key, which is not one of the {} boots of this \
                 disk: it was wiped, or is an older copy; hint: node ids are never reused, keep the disk for the \
                 inquiry and add a new node",
                shown.boot.number,
                own.newest().number,
            )),
        }
    }

    fn alarm(&self, by: u64, shown: &SignedBoot) {
        if std::mem::replace(&mut self.lock().is_alarmed, true) {
            return;
        }
        tracing::error!(
            by,
            boot = shown.boot.number,
            "another process has started from a copy of this node's disk, and that peer follows it; this node goes on; \
             hint: find the copy and stop it"
        );
    }

    /// A peer says that it hears another process of this node. Nothing is signed, so a majority of
    /// the other voters has to say it, again and again.
    fn told_to_run_already(&self, by: u64, now: Instant) {
        let voters = self.voters();
        let said: Vec<u64> = {
            let mut state = self.lock();
            if state.is_admitted || !voters.contains(&by) {
                return;
            }
            let (since, last) = state.runs_already.entry(by).or_insert((now, now));
            if now - *last > RUNS_ALREADY_AGAIN {
                *since = now;
            }
            *last = now;
            let all = state.runs_already.iter();
            let (is_long, is_new) = (
                |since: Instant| now - since >= RUNS_ALREADY_MAX,
                |last: Instant| now - last <= RUNS_ALREADY_AGAIN,
            );
            all.filter(|(_, (since, last))| is_long(*since) && is_new(*last))
                .map(|(id, _)| *id)
                .collect()
        };
        if is_majority_besides(self.node_id(), &voters, &said) {
            self.stop(format!(
                "nodes {said:?} say that another process of this node runs: this disk is a copy; hint: stop that process \
                 first, if this one is to run"
            ));
        }
    }

    fn stop(&self, why: String) {
        self.refused_for_good.send_if_modified(|refused| {
            let is_news = refused.is_none();
            refused.get_or_insert(why);
            is_news
        });
    }

    /// Completes when a peer has shown that this node must not go on; says why.
    pub fn refused_for_good(&self) -> impl Future<Output = String> + use<> {
        let mut refused = self.refused_for_good.subscribe();
        async move {
            match refused.wait_for(Option::is_some).await.map(|refused| refused.clone()) {
                Ok(Some(why)) => why,
                Ok(None) | Err(_) => std::future::pending().await,
            }
        }
    }
}

fn answer(admission: Admission) -> Answer {
    match admission {
        Admission::Needs { after } => Answer::Needs(after),
        Admission::Current | Admission::Newer | Admission::Not(_) => Answer::Admitted,
    }
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
