//! Asking all voters for their clocks, again and again.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use indelible_proto::raft as pb;
use indelible_proto::v1;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Clock;
use super::rules::{ROUND_TRIP_MAX_NS, Reading, Sample, stamps_ahead};
use crate::node::findings::{Findings, outcome, what};
use crate::node::leadership::Leadership;
use crate::raft::network::Network;
use crate::raft::types::Peer;

/// Between two rounds of a leader: several fit into the time that an offset counts.
const LEADING: Duration = Duration::from_secs(1);
/// Between two rounds of another node, which needs the time when it comes to lead.
const FOLLOWING: Duration = Duration::from_secs(3);
/// After a round without a majority.
const AGAIN: Duration = Duration::from_millis(200);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_nanos(ROUND_TRIP_MAX_NS);
/// How long a round waits for the rest once a majority has answered.
const REST: Duration = Duration::from_millis(100);

/// What the task works with.
pub struct Options {
    /// For asking.
    pub network: Network,
    /// Whether this node leads: then it asks more often, and records what it finds.
    pub leadership: watch::Receiver<Leadership>,
    /// Where findings go.
    pub findings: Findings,
}

/// Asks for as long as the node runs.
pub async fn run(clock: Arc<Clock>, options: Options) {
    let mut leadership = options.leadership.clone();
    loop {
        round(&clock, &options.network).await;
        let leads = matches!(&*leadership.borrow_and_update(), Leadership::Ready(_));
        clock.report(leads, &options.findings);
        let pause = match (clock.lock().vain.is_some(), leads) {
            (true, _) => AGAIN,
            (false, true) => LEADING,
            (false, false) => FOLLOWING,
        };
        tokio::select! {
            () = clock.wanted.notified() => {}
            () = tokio::time::sleep(pause) => {}
            // Who comes to lead looks at once.
            changed = leadership.changed() => if changed.is_err() { return },
        }
    }
}

/// One question to every voter. Ends when all have answered, a moment after a majority has, or
/// when no answer would count any more.
async fn round(clock: &Clock, network: &Network) {
    let asked = clock.voters().into_iter();
    let mut answers: FuturesUnordered<_> =
        asked.map(|(id, peer)| async move { (id, ask(network, id, &peer).await) }).collect();
    let mut deadline = Instant::now() + ANSWER;
    loop {
        match tokio::time::timeout_at(deadline, answers.next()).await {
            Ok(Some((id, Some(sample)))) => {
                clock.observe(id, sample);
                if clock.agreed(&clock.lock(), &Reading::now()).is_some() {
                    deadline = deadline.min(Instant::now() + REST);
                }
            }
            Ok(Some((_, None))) => {}
            Ok(None) | Err(_) => break,
        }
    }
    clock.round_ended();
}

/// A peer's clock, if it says it in time.
async fn ask(network: &Network, node: u64, peer: &Peer) -> Option<Sample> {
    let link = network.control(node, peer);
    // A new connection takes longer than the question: it is not part of the round trip.
    let open = link.open(ANSWER).await.ok()?;
    let (mut client, request) = open.request(pb::ClockRequest {});
    let sent = Reading::now();
    let answer = tokio::time::timeout(ANSWER, client.clock(request)).await;
    let got = Reading::now();
    let answer = match answer {
        Ok(Ok(answer)) => answer.into_inner(),
        Ok(Err(status)) => {
            link.failed(open.serial(), &status);
            return None;
        }
        // The connection stays: votes and heartbeats use it, and find out themselves.
        Err(_) => return None,
    };
    let agreed = (answer.agreed_unix_ns > 0).then_some(answer.agreed_unix_ns);
    Sample::measure(sent, got, answer.unix_ns, agreed)
}

impl Clock {
    /// Every voter but this node.
    fn voters(&self) -> Vec<(u64, Peer)> {
        let known = self.known.borrow();
        let peers = known.membership.voter_ids().filter(|id| *id != self.me);
        peers.filter_map(|id| Some((id, known.membership.get_node(&id)?.clone()))).collect()
    }

    /// Takes into the trail what the last round has found.
    fn report(&self, leads: bool, findings: &Findings) {
        let now = Reading::now();
        let mut state = self.lock();
        // Whoever has taken the step says so: the leader may have heard of the time from a peer.
        let cold_step = state.cold_step.take();
        let agreed = self.agreed(&state, &now);
        let ahead = agreed.and_then(|agreed| stamps_ahead(self.last(0), agreed));
        // Once by each leader: it is its stamps that are ahead.
        let told = std::mem::replace(&mut state.ahead_told, leads && ahead.is_some());
        drop(state);
        if let Some(ms) = cold_step.map(|step| step / 1_000_000) {
            let detail = format!(
                "no node that answered remembered the time when they were started: what their clocks say is taken, \
                 {ms} ms after everything that was known"
            );
            self.find("cold start", detail, findings);
        }
        if let Some(ms) = ahead.filter(|_| leads && !told).map(|ahead| ahead / 1_000_000) {
            let detail = format!(
                "the newest stamp is {ms} ms ahead of what a majority of the nodes' clocks says: records get equal \
                 stamps until the clocks have come so far"
            );
            self.find("stamps ahead", detail, findings);
        }
    }

    fn find(&self, place: &str, detail: String, findings: &Findings) {
        findings.record(v1::Finding {
            node_id: self.me,
            what: what::CLOCK.into(),
            place: place.into(),
            outcome: outcome::PENDING.into(),
            detail,
            ..Default::default()
        });
    }
}
