//! A start of a node whose log is damaged.

use std::time::Duration;

use super::fake::{Fake, first_failures};
use super::*;
use crate::node::findings::Findings;
use crate::node::mend::whole::{Opening, Patience};
use crate::node::mend::{SharedNumbers, Starting};
use crate::node::start::StartError;
use crate::storage::StorageError;
use crate::storage::identity::{Genesis, GenesisNode, Identity};

/// The trail began with node 1 and these.
fn began_with(dir: &Path, peers: &[(u64, String)]) {
    let node = |id: u64, addr: &str| GenesisNode {
        id,
        client_addr: addr.into(),
        raft_addr: addr.into(),
        http_addr: addr.into(),
        public_key: [id as u8; 32],
    };
    let others = peers.iter().map(|(id, addr)| node(*id, addr));
    let nodes = std::iter::once(node(1, "127.0.0.1:1")).chain(others).collect();
    let identity = Identity {
        node_id: 1,
        trail_id: TRAIL,
        origin: "example.com/log".into(),
        segment_bytes: SEGMENT_BYTES,
        secret_key: [1; 32],
        public_key: [1; 32],
    };
    Identity::write_new(dir, &identity).unwrap();
    Genesis::write_new(dir, &Genesis { trail_id: TRAIL, nodes }).unwrap();
}

/// Starts node 1 as far as it takes to mend its log. These entries have no genesis, so no ledger
/// follows from them; the log is whole before that is found.
async fn start(dir: &Path, patience: Patience) -> Result<(), StartError> {
    let identity = Identity::read(dir).unwrap();
    let mending = Mending::new(TRAIL, 1);
    let starting = Starting { identity, mending, doing: tokio::sync::watch::Sender::default() };
    let opening = Opening {
        dir: dir.to_owned(),
        cache_bytes_max: 1 << 20,
        patience,
        starting: &starting,
        findings: Findings::open(dir).unwrap(),
        numbers: SharedNumbers::default(),
    };
    match opening.run().await {
        Ok(_) | Err(StartError::Storage(StorageError::Ledger(_))) => Ok(()),
        Err(error) => Err(error),
    }
}

/// It gave up after so many rounds, as if it had mended the log each time.
#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_peers_has_no_end() {
    let (dir, original) = (damaged(), closed(&entries(COUNT)));
    let mut two = Fake::new(2, closed_source(original.path()));
    let refuse = first_failures(8);
    two.standing = Box::new(move |_| refuse());
    began_with(dir.path(), &[(2, two.serve().await)]);
    let patience = Patience { mendings: 3, pause: Duration::from_millis(1) };
    start(dir.path(), patience).await.unwrap();
    assert_log(dir.path(), &entries(COUNT));
}
