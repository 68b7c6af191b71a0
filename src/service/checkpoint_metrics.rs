//! What the metrics say about checkpoints, read off the publication when somebody asks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::{Registry, Unit};

use super::metrics::Level;
use crate::node::publish::{Publication, Published};

type OfWitness<M> = Family<Vec<(&'static str, String)>, M>;

/// All of them.
#[derive(Default)]
pub(super) struct CheckpointMetrics {
    size: Level,
    age: Level,
    clocks: Level,
    witnessed_size: Level,
    rolled_back_from: Level,
    rounds: Counter,
    cosigned: Counter,
    refusals: Counter,
    other_roots: Counter,
    contradictions: Counter,
    witness_size: OfWitness<Level>,
    witness_lag: OfWitness<Level>,
    witness_failures: OfWitness<Counter>,
}

impl CheckpointMetrics {
    /// All at zero.
    pub(super) fn register(registry: &mut Registry) -> CheckpointMetrics {
        let all = CheckpointMetrics::default();
        let levels = [
            ("checkpoint_size", "Leaves that the newest checkpoint covers", &all.size),
            ("checkpoint_clocks", "Clocks that the newest checkpoint's time is from", &all.clocks),
            (
                "checkpoint_witnessed_size",
                "As checkpoint_size, with a witness",
                &all.witnessed_size,
            ),
            (
                "rolled_back_from",
                "Leaves of a checkpoint that reaches past the trail; 0 = none",
                &all.rolled_back_from,
            ),
        ];
        for (name, help, level) in levels {
            registry.register(name, help, level.clone());
        }
        let help = "Time since the newest checkpoint was signed";
        registry.register_with_unit("checkpoint_age", help, Unit::Seconds, all.age.clone());
        let counters = [
            ("publication_rounds", "Checkpoints composed as the leader", &all.rounds),
            ("cosigned", "Checkpoints cosigned by this node", &all.cosigned),
            ("cosign_refusals", "Refusals to cosign a root that is not ours", &all.refusals),
            ("other_roots", "Nodes that answered this leader with another root", &all.other_roots),
            (
                "contradictions",
                "Notes that contradict this node's trail, or reach past it while it leads",
                &all.contradictions,
            ),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        let help = "Leaves of the last checkpoint that the witness has signed for this leader";
        registry.register("witness_size", help, all.witness_size.clone());
        let help = "Leaves of the trail that the witness has not signed";
        registry.register("witness_lag", help, all.witness_lag.clone());
        let help = "Requests to the witness that ended without a signature";
        registry.register("witness_failures", help, all.witness_failures.clone());
        all
    }

    /// Takes over how things stand; the trail has `tree_size` leaves.
    pub(super) fn read(&self, publication: &Publication, tree_size: u64) {
        let newest = publication.newest();
        let size = |note: &Published| note.checkpoint.size;
        self.size.set(newest.as_deref().map_or(0, size));
        self.witnessed_size.set(publication.newest_witnessed().as_deref().map_or(0, size));
        self.rolled_back_from.set(publication.rolled_back().unwrap_or(0));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        // Before the first checkpoint: since ever, so that whoever watches it is told.
        self.clocks.set(newest.as_deref().map_or(0, |newest| u64::from(newest.clocks())));
        self.age.set(now.saturating_sub(newest.map_or(0, |newest| newest.unix_s)));
        let counters = publication.counters();
        take(&self.rounds, &counters.composed);
        take(&self.cosigned, &counters.cosigned);
        take(&self.refusals, &counters.other_roots_asked);
        take(&self.other_roots, &counters.other_roots_answered);
        take(&self.contradictions, &counters.contradictions);
        for witness in publication.witnesses() {
            let label = vec![("witness", witness.name.clone())];
            let size = witness.size.load(Ordering::Relaxed);
            self.witness_size.get_or_create(&label).set(size);
            self.witness_lag.get_or_create(&label).set(tree_size.saturating_sub(size));
            take(&self.witness_failures.get_or_create(&label), &witness.failures);
        }
    }
}

/// Lets a counter say what another one says.
fn take(counter: &Counter, source: &AtomicU64) {
    counter.inner().store(source.load(Ordering::Relaxed), Ordering::Relaxed);
}
