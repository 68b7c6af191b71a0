//! A caller of the SDK that never stops, and must not notice what happens to the nodes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use indelible_client::{Client, Event, Level, ProducerId, Receipt};
use indelible_local::LocalCluster;
use prost::Message;
use tokio::task::JoinHandle;

use crate::harness::{Trail, eventually};

/// Appends, and reads again, one event after the other.
pub struct Load {
    id: ProducerId,
    done: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<Vec<(Event, Receipt)>>,
}

impl Load {
    /// As a caller of `sdk`, from now on.
    pub async fn start(sdk: &Client, id: &[u8; 16]) -> Load {
        let id = ProducerId(*id);
        let producer = sdk.producer(id, "load").open().await.unwrap();
        let (done, stop): (Arc<AtomicU64>, Arc<AtomicBool>) = Default::default();
        let (sdk, counted, stopped) = (sdk.clone(), done.clone(), stop.clone());
        let task = tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let number = counted.load(Ordering::Relaxed);
                let event = indelible::cli::generate::event(number);
                let receipt = producer.append(event.clone()).await.expect("an append");
                let read = sdk.get(receipt.index, Level::Linearizable).await.expect("a read");
                assert_eq!(read.leaf, receipt.leaf);
                acknowledged.push((event, receipt));
                counted.fetch_add(1, Ordering::Relaxed);
            }
            acknowledged
        });
        Load { id, done, stop, task }
    }

    /// Waits for so many further calls: what was done before did not stop them.
    pub async fn goes_on(&self, calls: u64) {
        let target = self.done.load(Ordering::Relaxed) + calls;
        eventually("the load goes on", || async {
            assert!(!self.task.is_finished(), "a call failed");
            (self.done.load(Ordering::Relaxed) >= target).then_some(())
        })
        .await;
    }

    /// Stops. Every call has succeeded, and everything that was acknowledged is in the trail of
    /// every node, once.
    pub async fn finish(self, cluster: &LocalCluster, sdk: &Client) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let acknowledged = self.task.await.expect("no call failed");
        let trail = Trail::read_everywhere(cluster, sdk).await;
        let events = &trail.events_by_producer()[&self.id.0.to_vec()];
        assert_eq!(events.len(), acknowledged.len(), "never lost, never twice");
        for (event, receipt) in &acknowledged {
            let (leaf, bytes) = &trail.records[usize::try_from(receipt.index).unwrap()];
            assert_eq!((*leaf, bytes), (receipt.leaf, &event.encode_to_vec()), "never altered");
        }
        eprintln!("{} calls", acknowledged.len());
        acknowledged.len()
    }
}
