//! Which boots a peer admits, and what a refused node does, without sockets.

use std::sync::atomic::{AtomicBool, Ordering};

use ed25519_dalek::SigningKey;
use indelible_core::TrailId;
use indelible_core::limits::SEGMENT_BYTES_MIN;
use indelible_lineage::{Draw, Lineage};
use tokio::sync::watch;

use super::*;
use crate::net::Connection;
use crate::net::connection::Proven;
use crate::raft::boots::OwnBoots;
use crate::raft::peers::{Introduction, Known};
use crate::raft::types::Membership;
use crate::storage::log::{Log, LogOptions, SyncPolicy};
use crate::storage::start::NewBoot;

const TRAIL: TrailId = TrailId([1; 16]);

fn key(node: u64) -> SigningKey {
    SigningKey::from_bytes(&[node as u8; 32])
}

fn root(node: u64) -> Boot {
    Boot::root(&TRAIL.0, node, &key(node).verifying_key().to_bytes())
}

/// The boots of a node that has drawn these numbers.
fn boots_of(node: u64, draws: &[u8]) -> OwnBoots {
    let draws = draws.iter().map(|draw| Draw([*draw; 16])).collect();
    OwnBoots::new(TRAIL, node, key(node), Lineage::of(root(node), draws))
}

/// Node 1, which knows of node 2.
struct Judge {
    _dir: tempfile::TempDir,
    peers: Peers,
    known: watch::Sender<Known>,
}

impl Judge {
    fn new() -> Judge {
        let dir = tempfile::tempdir().unwrap();
        let options = LogOptions {
            segment_bytes: SEGMENT_BYTES_MIN,
            trail_id: TRAIL,
            cache_bytes_max: 1 << 20,
            boot: NewBoot { root: root(1), draw: Draw([9; 16]) },
            first_index_any: false,
            sync: SyncPolicy::Never,
        };
        let (log, _) = Log::open(dir.path(), options).unwrap();
        let me = Introduction {
            node_id: 1,
            trail_id: TRAIL,
            key: key(1),
            segment_bytes: SEGMENT_BYTES_MIN,
            data_dir: dir.path().to_owned(),
        };
        let (known, known_rx) = watch::channel(Known::default());
        let peers = Peers::new(me, log, BTreeMap::new(), known_rx);
        Judge { _dir: dir, peers, known }
    }

    /// A membership comes that has node 2 with this boot.
    fn learns(&self, boots: &OwnBoots) {
        self.learns_key(boots, [0; 32]);
    }

    fn learns_key(&self, boots: &OwnBoots, public_key: [u8; 32]) {
        let peer = Peer { boot: Some(boots.newest()), public_key, ..Peer::default() };
        let (voters, nodes) = ([2].into(), BTreeMap::from([(2, peer)]));
        let membership = Membership::new(vec![voters], nodes).unwrap();
        self.known.send_modify(|known| known.membership = membership);
    }

    /// A handshake with node 2, which shows what it is asked for.
    async fn meets(&self, boots: &OwnBoots) -> Result<(), Refusal> {
        let mut after = None;
        for _message in 0..boots.messages_max() {
            let shown = boots.show(after);
            after = self.peers.admit_boot(2, &shown).await?.asks_after(&shown);
            if after.is_none() {
                return Ok(());
            }
        }
        panic!("it is asked for more than there is");
    }

    fn remembers(&self) -> Option<u64> {
        self.peers.log.peer(2).map(|peer| peer.signed.boot.number)
    }
}

#[tokio::test]
async fn a_boot_is_admitted_however_many_were_missed_and_an_older_one_is_not() {
    let judge = Judge::new();
    judge.learns(&boots_of(2, &[1]));
    judge.meets(&boots_of(2, &[1])).await.unwrap();
    let newest: Vec<u8> = (1..200).collect();
    judge.meets(&boots_of(2, &newest)).await.unwrap();
    assert_eq!(judge.remembers(), Some(199));
    let older = judge.meets(&boots_of(2, &newest[..198])).await.unwrap_err();
    assert!(matches!(older, Refusal::NotAdmitted { why: NotAdmitted::Older { .. }, .. }));
    // F1: wiped, at its first start and at any later one.
    let wiped: Vec<u8> = (1..=250).rev().collect();
    for starts in [1, 2, 199, 200, 250] {
        let refused = judge.meets(&boots_of(2, &wiped[..starts])).await.unwrap_err();
        let Refusal::NotAdmitted { remembered, .. } = &refused else { panic!("{refused}") };
        assert_eq!(remembered.boot.number, 199, "it is shown the newest one");
    }
    assert_eq!(judge.remembers(), Some(199), "nothing of that is remembered");
}

/// A wiped founder has met this node before that had the first entry.
#[tokio::test]
async fn what_was_admitted_without_a_membership_has_to_follow_from_it_later() {
    let judge = Judge::new();
    let (wiped, genuine) = (boots_of(2, &[7]), boots_of(2, &[1]));
    judge.meets(&wiped).await.unwrap();
    let hash = |boots: &OwnBoots| boots.newest().boot.hash;
    assert!(judge.peers.is_current(2, &hash(&wiped)));
    judge.learns(&genuine);
    assert!(!judge.peers.is_current(2, &hash(&wiped)), "its sessions end");
    judge.meets(&wiped).await.unwrap_err();
    // NB: nor is the genuine one let in, as both cannot be right: this peer has seen a wiped disk.
    judge.meets(&genuine).await.unwrap_err();
    // Without that, what was met first settles itself by draws.
    let judge = Judge::new();
    judge.meets(&boots_of(2, &[1, 2])).await.unwrap();
    judge.learns(&genuine);
    assert!(!judge.peers.is_current(2, &hash(&boots_of(2, &[1, 2]))));
    judge.meets(&boots_of(2, &[1, 2])).await.unwrap();
    assert!(judge.peers.is_current(2, &hash(&boots_of(2, &[1, 2]))));
}

/// F5.
#[tokio::test]
async fn f5_an_earlier_boot_that_answers_keeps_a_later_one_out() {
    let judge = Judge::new();
    judge.learns(&boots_of(2, &[1]));
    judge.meets(&boots_of(2, &[1])).await.unwrap();
    judge.meets(&boots_of(2, &[1, 2])).await.unwrap();
    let is_there = Arc::new(AtomicBool::new(true));
    let answers = is_there.clone();
    judge.peers.set_asks(Box::new(move |node, boot| {
        assert_eq!((node, boot.number), (2, 2), "the one that is remembered is asked");
        let answers = answers.clone();
        Box::pin(async move { answers.load(Ordering::Relaxed) })
    }));
    let copy = boots_of(2, &[1, 2, 3]);
    let refused = judge.meets(&copy).await.unwrap_err();
    assert_eq!(refused, Refusal::RunsAlready { node: 2, boot: 2 });
    assert_eq!(judge.remembers(), Some(2), "nothing is remembered of the copy");
    // The same boot is not asked about itself.
    judge.meets(&boots_of(2, &[1, 2])).await.unwrap();
    is_there.store(false, Ordering::Relaxed);
    judge.meets(&copy).await.unwrap();
}

/// F3: a node that has signed on after it said where its log ends is no older copy.
#[tokio::test]
async fn f3_only_what_was_known_when_a_handshake_began_is_held_against_a_node() {
    let judge = Judge::new();
    judge.peers.set_cosigned(Arc::new(|node| (node == 2).then_some(105)));
    let check = |last, since| judge.peers.check_cosigned(2, last, since);
    let began = Instant::now();
    assert_eq!(check(105, began).await, Ok(()));
    // It said 100, and has signed entry 105 meanwhile.
    assert_eq!(check(100, began).await, Err(Refusal::Again { node: 2 }));
    assert_eq!(check(106, Instant::now()).await, Ok(()));
    // One that says 100 in a handshake that began after the signature was seen has lost it.
    let lost = check(100, Instant::now()).await;
    assert_eq!(lost, Err(Refusal::LostSignature { node: 2, theirs: 100, known: 105 }));
    assert_eq!(judge.peers.check_cosigned(3, 0, Instant::now()).await, Ok(()));
}

/// Whoever connects as a node that no membership has may show any key, and a boot that the node has
/// shown to somebody.
#[tokio::test]
async fn a_stranger_with_another_key_does_not_become_the_member_that_is_added_later() {
    let judge = Judge::new();
    let boots = boots_of(2, &[1]);
    let shows =
        |key: [u8; 32]| Connection::of(Proven { node: 2, key, boot: boots.newest().boot.hash });
    let (itself, thief) = (shows(key(2).verifying_key().to_bytes()), shows([9; 32]));
    assert_eq!(judge.peers.sender(&thief), Some(2), "strangers are heard, as this node may lag");
    judge.learns_key(&boots, key(2).verifying_key().to_bytes());
    judge.meets(&boots).await.unwrap();
    assert_eq!(judge.peers.sender(&itself), Some(2));
    assert_eq!(judge.peers.sender(&thief), None);
    let welcome = |key: &[u8]| pb::Welcome {
        public_key: key.to_vec().into(),
        boot: Some(boots::to_pb(&boots.newest())),
        ..pb::Welcome::default()
    };
    assert!(judge.peers.holds(2, &welcome(key(2).verifying_key().as_bytes())));
    assert!(!judge.peers.holds(2, &welcome(&[9; 32])));
}

/// Nothing of it is signed: whoever could say it once, or alone, could stop any node.
#[tokio::test]
async fn a_node_is_a_copy_only_if_most_of_the_others_say_so_again_and_again() {
    let began = Instant::now();
    let of_three = || {
        let judge = Judge::new();
        let nodes = BTreeMap::from([1, 2, 3].map(|id| (id, Peer::default())));
        let membership = Membership::new(vec![[1, 2, 3].into()], nodes).unwrap();
        judge.known.send_modify(|known| known.membership = membership);
        judge
    };
    // Whether it stops after these have said so, so many seconds after the beginning.
    let stops = |judge: &Judge, by: &[u64], seconds: &[u64]| {
        for second in seconds {
            for id in by {
                let now = began + Duration::from_secs(*second);
                judge.peers.told_to_run_already(*id, now);
            }
        }
        judge.peers.refused_for_good.borrow().is_some()
    };
    let judge = of_three();
    // Nobody, a node that is no voter, this node itself, and one of the two others.
    assert!(!stops(&judge, &[0, 9, 1, 2], &[0, 3, 6, 9, 12, 15, 18]));
    assert!(!stops(&judge, &[2, 3], &[20, 23, 26, 29]), "the third one not for long enough");
    assert!(stops(&judge, &[2, 3], &[30]));
    // After a pause it is news again, and who has admitted it knows better.
    let judge = of_three();
    assert!(!stops(&judge, &[2, 3], &[0, 3, 6, 20, 23, 26]));
    judge.peers.set_admitted();
    assert!(!stops(&judge, &[2, 3], &[29, 32, 35, 38, 41]));
}

#[tokio::test]
async fn a_refused_node_believes_only_its_own_signature() {
    let shown = |boots: &OwnBoots| {
        let remembered = Some(boots::to_pb(&boots.newest()));
        pb::Refused { remembered, ..pb::Refused::default() }
    };
    let why = |judge: &Judge| judge.peers.refused_for_good.borrow().clone();
    let judge = Judge::new();
    // A lie: it is not this node's signature; and a message that came late.
    let forged = OwnBoots::new(TRAIL, 1, key(2), Lineage::of(root(1), vec![Draw([5; 16])]));
    for harmless in [shown(&forged), shown(&boots_of(1, &[9])), pb::Refused::default()] {
        judge.peers.refused_with(2, &harmless);
        assert_eq!(why(&judge), None);
    }
    // A copy of it was started, and peers have admitted this one.
    judge.peers.set_admitted();
    let elsewhere = shown(&boots_of(1, &[9, 10]));
    judge.peers.refused_with(2, &elsewhere);
    assert!(why(&judge).is_none() && judge.peers.lock().is_alarmed);
    // No peer has admitted this one: it is the older disk.
    let judge = Judge::new();
    judge.peers.refused_with(2, &elsewhere);
    assert!(judge.peers.refused_for_good().await.contains("not one of the 1 boots of this disk"));
}
