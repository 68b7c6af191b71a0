//! A start of a node whose log is damaged.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use indelible_core::EntryKind;
use tokio::net::TcpListener;

use super::fake::{Fake, first_failures};
use super::*;
use crate::node::findings::Findings;
use crate::node::mend::whole::{Opening, Patience};
use crate::node::mend::{SharedNumbers, Starting};
use crate::node::start::StartError;
use crate::raft::membership;
use crate::raft::types::{Membership, Peer};
use crate::storage::StorageError;
use crate::storage::identity::{Genesis, GenesisNode, Identity};
use crate::storage::mend::tests::support::frames;

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
        secret_key: [1; 32].into(),
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
    let doing = tokio::sync::watch::Sender::default();
    let starting = Starting { identity, credentials: Credentials::clear(), mending, doing };
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

/// The new segments are in place before anything can be recorded. A crash in between left nothing
/// but the quarantine to say that there had been damage.
#[tokio::test(flavor = "multi_thread")]
async fn damage_is_on_record_before_it_is_mended() {
    let (dir, original) = (damaged(), closed(&entries(COUNT)));
    let mut two = Fake::new(2, closed_source(original.path()));
    let (seen, path) = (Arc::new(Mutex::new(Vec::new())), dir.path().to_owned());
    let noted = seen.clone();
    two.entries = Box::new(move |_| {
        // What a start would find now.
        let waiting = Findings::open(&path).unwrap().waiting_count();
        noted.lock().unwrap().push(waiting);
        None
    });
    began_with(dir.path(), &[(2, two.serve().await)]);
    start(dir.path(), Patience { mendings: 3, pause: Duration::from_millis(1) }).await.unwrap();
    let seen = seen.lock().unwrap();
    assert!(!seen.is_empty() && seen.iter().all(|waiting| *waiting == 1), "{seen:?}");
    // ... and is the one that says how it ended.
    assert_eq!(Findings::open(dir.path()).unwrap().waiting_count(), 1);
}

/// The entries of a log in which node 3 votes from entry 24 on.
fn with_a_membership(three: &str) -> Vec<Entry> {
    let peer = |id: u64, addr: &str| Peer {
        client_addr: addr.into(),
        raft_addr: addr.into(),
        http_addr: addr.into(),
        public_key: [id as u8; 32],
        trail_id: TRAIL,
        boot: None,
    };
    let nodes = [1, 2, 3].map(|id| (id, peer(id, if id == 3 { three } else { "127.0.0.1:1" })));
    let voters = vec![BTreeSet::from([1, 2, 3])];
    let membership = Membership::new(voters, BTreeMap::from(nodes)).unwrap();
    let mut entries = entries(COUNT);
    entries[24].kind = EntryKind::Membership;
    entries[24].head = membership::encode(&membership);
    entries[24].body = Bytes::new();
    entries
}

/// Damages the frame of the membership so that a start sees it.
fn damage_membership(dir: &Path) -> u64 {
    let first = *firsts(dir).iter().rfind(|first| **first <= 24).unwrap();
    let frame = frames(dir, first).into_iter().find(|(_, header)| header.id.index == 24);
    let (place, _) = frame.unwrap();
    change(dir, first, |bytes| {
        bytes[place.offset as usize + 50] ^= 1;
        bytes[10] ^= 1;
    });
    first
}

/// The newest membership is damaged, and the end of the log. Node 2 alone, the whole group but for
/// node 1 as far as can be read, was taken to know where the log ends.
#[tokio::test(flavor = "multi_thread")]
async fn voters_of_a_mended_membership_are_asked_about_the_end() {
    let behind = |dir: &Path, first: u64| firsts(dir).into_iter().filter(move |one| *one > first);
    // Of one damage, or of two with whole segments between them.
    for between in [1, 2] {
        // Node 3's log needs its address first.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let entries = with_a_membership(&listener.local_addr().unwrap().to_string());
        let (dir, three) = (closed(&entries), closed(&entries));
        let two = closed(&entries[..50]);
        Fake::new(3, closed_source(three.path())).serve_on(listener);
        let two = serve_closed(2, two.path()).await;
        began_with(dir.path(), &[two]);
        set_marker(dir.path(), COUNT, 20);
        let first = damage_membership(dir.path());
        for first in behind(dir.path(), first).skip(between) {
            std::fs::remove_file(path_of(dir.path(), first)).unwrap();
        }
        let patience = Patience { mendings: 9, pause: Duration::from_millis(1) };
        start(dir.path(), patience).await.unwrap();
        assert_log(dir.path(), &entries);
    }
}

/// A log of these entries without the segments that begin with 33 to 42.
fn with_a_hole(entries: &[Entry]) -> TempDir {
    let dir = closed(entries);
    set_marker(dir.path(), entries.len() as u64, 20);
    let firsts = firsts(dir.path());
    let lost: Vec<u64> = firsts.into_iter().filter(|first| (33..43).contains(first)).collect();
    assert!(!lost.is_empty());
    lost.iter().for_each(|first| std::fs::remove_file(path_of(dir.path(), *first)).unwrap());
    dir
}

/// Node 2 has another end, and node 3, which has what joins, does not answer at first: then what
/// node 1 has after the hole is not to be doubted.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_doubted_before_all_have_answered() {
    for failures in 1..4 {
        let (dir, two) = (with_a_hole(&entries(COUNT)), closed(&other_end(COUNT)));
        let three = closed(&entries(COUNT));
        let two = serve_closed(2, two.path()).await;
        let mut fake = Fake::new(3, closed_source(three.path()));
        let refuse = first_failures(failures);
        fake.entries = Box::new(move |_| refuse().err().map(Err));
        began_with(dir.path(), &[two, (3, fake.serve().await)]);
        let patience = Patience { mendings: 3, pause: Duration::from_millis(1) };
        start(dir.path(), patience).await.unwrap();
        assert_log(dir.path(), &entries(COUNT));
    }
}

/// What node 1 has after the hole was never committed, and what was in the hole may have been: the
/// log was cut where the hole began, and what node 1 had acknowledged in it was gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_hole_before_an_uncommitted_end_is_filled_all_the_same() {
    for next in [COUNT - 8, COUNT + 6] {
        let dir = with_a_hole(&other_end(next));
        let (two, three) = (closed(&entries(COUNT - 5)), closed(&entries(COUNT)));
        let peers = [serve_closed(2, two.path()).await, serve_closed(3, three.path()).await];
        began_with(dir.path(), &peers);
        let patience = Patience { mendings: 3, pause: Duration::from_millis(1) };
        start(dir.path(), patience).await.unwrap();
        assert_log(dir.path(), &entries(COUNT));
    }
    // But not if the marker says that it is committed.
    let dir = with_a_hole(&other_end(COUNT));
    set_marker(dir.path(), COUNT, COUNT);
    let three = closed(&entries(COUNT));
    let peers = [serve_closed(2, three.path()).await, serve_closed(3, three.path()).await];
    began_with(dir.path(), &peers);
    let patience = Patience { mendings: 3, pause: Duration::from_millis(1) };
    let error = start(dir.path(), patience).await.unwrap_err();
    assert!(matches!(error, StartError::Diverged(_)), "{error}");
}
