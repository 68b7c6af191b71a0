//! What a client with a policy believes, and of whom.

use std::collections::BTreeSet;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use super::fake::{Act, Fake, SharedTrail, Twist};
use super::trail::{now_s, policy, sign, witnessed_policy};
use crate::{
    Alarm, CallError, CheckpointOptions, Client, ConnectError, Event, Kind, Level, Options,
    ProducerId, Prove, ReadOptions, Reason, Rejected, RolledBack, Salt, TrustMode, Verification,
};

/// A trail of 12 records, all of them signed for, and a client with the policy that has seen
/// nothing.
async fn signed() -> (Fake, Client) {
    let fake = Fake::start(3).await;
    append(&fake.client().await, 10).await;
    fake.trail().publish();
    let client = fake.verifier().await;
    (fake, client)
}

pub(super) async fn append(client: &Client, count: usize) {
    let producer = client.producer(ProducerId([6; 16]), "test").open().await.expect("opens");
    let events = (0..count).map(|_| Event::new("a", "b", "c"));
    producer.append_bulk(events).await.expect("recorded");
}

/// The same trail again, which then goes its own way.
pub(super) fn copy(fake: &Fake) -> SharedTrail {
    Arc::new(Mutex::new(fake.trail().clone()))
}

pub(super) fn change<T>(
    trail: &SharedTrail,
    change: impl FnOnce(&mut super::trail::Trail) -> T,
) -> T {
    change(&mut trail.lock().expect("lock"))
}

/// Who was accused, and of what.
fn accused(client: &Client) -> Vec<(u64, String)> {
    let mut alarms = client.alarms();
    let alarms = std::iter::from_fn(|| alarms.try_next());
    alarms
        .filter_map(|alarm| match alarm {
            Alarm::NodeLied(lie) => Some((lie.node_id, lie.what)),
            _ => None,
        })
        .collect()
}

async fn newest(client: &Client) -> Result<u64, CallError> {
    let found = client.checkpoint(CheckpointOptions::default()).await?;
    Ok(found.expect("there is one").checkpoint.size)
}

#[tokio::test]
async fn what_a_policy_accepts_is_verified() {
    let (fake, client) = signed().await;
    let record = client.get(5, Level::Any).await.expect("reads");
    assert_eq!(record.verification.checkpoint_size(), Some(12));
    let file = record.proof_file().expect("a proof").expect("fits");
    assert_eq!(file.verify(&policy()).expect("verifies").index, 5);
    let mut records = client.read(.., ReadOptions::default()).await.expect("opens");
    while let Some(record) = records.next().await.transpose().expect("reads") {
        assert!(record.verification.is_verified(), "record {}", record.index);
    }
    let head = client.tree_head(Level::Any).await.expect("answers");
    assert_eq!(head.verification.checkpoint_size(), Some(12));
    let checkpoint = client.newest_checkpoint().expect("was seen");
    let keys = client.key_history(&checkpoint).await.expect("proven");
    assert_eq!((keys.len(), keys[0].verification.is_verified()), (1, true));
    assert_eq!(accused(&client), []);

    let nobody = fake.client().await;
    let record = nobody.get(5, Level::Any).await.expect("reads");
    assert_eq!((record.verification, record.proof()), (Verification::Unverified, None));
    let record = nobody.get_with(5, Level::Any, Prove::Always).await.expect("reads");
    assert_eq!(record.verification, Verification::Unverified, "nobody says whom to believe");
    record.proof_file().expect("a proof").expect("fits").verify(&policy()).expect("verifies");
    let record = client.get_with(5, Level::Any, Prove::Never).await.expect("reads");
    assert_eq!(record.verification, Verification::Unverified);
}

#[tokio::test]
async fn what_no_checkpoint_covers_yet_is_pending() {
    let (fake, client) = signed().await;
    append(&client, 2).await;
    let verification =
        async |index| client.get(index, Level::Any).await.expect("reads").verification;
    assert_eq!(verification(14).await, Verification::Pending);
    assert_eq!(verification(3).await.checkpoint_size(), Some(12));
    let head = client.tree_head(Level::Any).await.expect("answers");
    assert_eq!(head.verification, Verification::Pending);
    fake.trail().publish();
    assert_eq!(verification(14).await.checkpoint_size(), Some(15));
}

#[tokio::test]
async fn a_proof_that_is_held_back_is_asked_of_another_node() {
    let (fake, client) = signed().await;
    assert_eq!(newest(&client).await.expect("signed"), 12);
    fake.node(2).twist(Twist { get: Some(|response| response.proof = None), ..Twist::default() });
    for _ in 0..4 {
        let record = client.get(5, Level::Any).await.expect("reads");
        assert!(record.verification.is_verified());
    }
    assert_eq!(accused(&client), [], "it may have lost its checkpoints");
}

#[tokio::test]
async fn a_node_that_shows_another_record_is_named_and_not_asked_again() {
    let (fake, client) = signed().await;
    let altered = copy(&fake);
    change(&altered, |trail| trail.alter(5));
    fake.node(2).show(&altered);
    let read = async || {
        let record = client.get(5, Level::Any).await.expect("another node is honest");
        assert!(record.verification.is_verified());
    };
    // Which follower is asked is left to chance.
    while fake.node(2).calls().is_empty() {
        read().await;
    }
    for _ in 0..4 {
        read().await;
    }
    let calls = fake.node(2).calls().len();
    let lies = accused(&client);
    assert_eq!((calls, lies.len()), (1, 1), "{lies:?}");
    assert!(lies[0].0 == 2 && lies[0].1.contains("root"), "{lies:?}");
    // In a stream, as well.
    fake.node(3).show(&altered);
    let mut records = client.read(.., ReadOptions::default()).await.expect("opens");
    let mut count = 0;
    while let Some(record) = records.next().await.transpose().expect("the leader is honest") {
        assert_eq!((record.index, record.verification.is_verified()), (count, true));
        count += 1;
    }
    assert_eq!(count, 12);
}

#[tokio::test]
async fn one_stolen_key_and_the_logs_convince_nobody() {
    let (fake, client) = signed().await;
    let forged = copy(&fake);
    change(&forged, |trail| {
        trail.alter(5);
        trail.published = Some(sign(trail.size(), trail.root(), &[2], now_s(), false));
    });
    for id in [1, 2, 3] {
        fake.node(id).show(&forged);
    }
    // A client that has seen nothing does not believe it; one that has says who lies.
    let record = client.get(5, Level::Any).await.expect("reads");
    assert_eq!(record.verification, Verification::Pending);
    let (fake, client) = signed().await;
    assert_eq!(newest(&client).await.expect("signed"), 12);
    fake.node(2).show(&forged);
    fake.node(3).show(&forged);
    let record = client.get(5, Level::Any).await.expect("the leader is honest");
    assert_eq!(record.verification.checkpoint_size(), Some(12));
    let mut liars: Vec<u64> = accused(&client).into_iter().map(|(id, _)| id).collect();
    liars.sort_unstable();
    assert_eq!(liars, [2, 3]);
}

#[tokio::test]
async fn two_signed_histories_are_a_fork_and_stay_one() {
    for grown in [0, 3] {
        let (fake, client) = signed().await;
        assert_eq!(newest(&client).await.expect("signed"), 12);
        let forked = copy(&fake);
        change(&forked, |trail| {
            trail.alter(5);
            for _ in 0..grown {
                let copy = trail.records[5].clone();
                trail.records.push(copy);
            }
            trail.publish();
        });
        fake.node(2).show(&forked);
        fake.node(3).show(&forked);
        let error = client.get(5, Level::Any).await.expect_err("a fork");
        let CallError::Fork(fork) = error else { panic!("{error}") };
        assert_eq!((fork.ours.checkpoint.size, fork.theirs.checkpoint.size), (12, 12 + grown));
        assert_eq!(fork.evidence.notes, [fork.ours.note.clone(), fork.theirs.note.clone()]);
        // Honest nodes do not make it undone.
        fake.node(2).show(&fake.trail);
        fake.node(3).show(&fake.trail);
        assert!(matches!(client.get(5, Level::Any).await, Err(CallError::Fork(_))));
        assert!(matches!(newest(&client).await, Err(CallError::Fork(_))));
        let Some(Alarm::Fork(alarm)) = client.alarms().try_next() else { panic!("no alarm") };
        assert_eq!(alarm, fork);
        assert_eq!(accused(&client), [], "nobody can tell who signed in good faith");
    }
}

#[tokio::test]
async fn a_bad_consistency_proof_is_a_lie_of_whoever_gave_it() {
    let (fake, client) = signed().await;
    assert_eq!(newest(&client).await.expect("signed"), 12);
    append(&client, 3).await;
    fake.trail().publish();
    let twist = Twist {
        consistency: Some(|response| response.proof[0] = Bytes::from_static(&[1; 32])),
        ..Twist::default()
    };
    fake.node(2).twist(twist);
    fake.node(3).twist(twist);
    assert_eq!(newest(&client).await.expect("the leader proves it"), 16);
    // One may be caught twice: settling asks as well.
    let liars: BTreeSet<u64> = accused(&client).into_iter().map(|(id, _)| id).collect();
    assert_eq!(liars, BTreeSet::from([2, 3]));
}

#[tokio::test]
async fn a_root_that_nobody_signed_is_a_lie() {
    let (fake, client) = signed().await;
    assert_eq!(newest(&client).await.expect("signed"), 12);
    let altered = copy(&fake);
    change(&altered, |trail| trail.alter(5));
    fake.node(2).show(&altered);
    fake.node(3).show(&altered);
    let head = client.tree_head(Level::Any).await.expect("the leader answers");
    assert_eq!((head.node_id, head.verification.checkpoint_size()), (1, Some(12)));
    assert_eq!(accused(&client).len(), 2);
}

#[tokio::test]
async fn a_broken_signature_is_a_lie() {
    let (fake, client) = signed().await;
    let spoilt = |response: &mut indelible_proto::v1::GetCheckpointResponse| {
        // The text is another one than the one that was signed.
        response.checkpoint = response.checkpoint.replacen("\n12\n", "\n13\n", 1);
    };
    fake.node(2).twist(Twist { checkpoint: Some(spoilt), ..Twist::default() });
    fake.node(3).twist(Twist { checkpoint: Some(spoilt), ..Twist::default() });
    assert_eq!(newest(&client).await.expect("the leader's is sound"), 12);
    assert_eq!(accused(&client).len(), 2);
    // Each node's own is what an auditor asks for.
    let all = client.checkpoints().await;
    let sound: Vec<_> = all.iter().map(|node| (node.node_id, node.checkpoint.is_ok())).collect();
    assert_eq!(sound, [(1, true), (2, false), (3, false)]);
}

#[tokio::test]
async fn an_old_checkpoint_says_nothing_about_now() {
    let (fake, client) = signed().await;
    fake.trail().publish_at(now_s() - 120);
    let error = client.get(5, Level::Any).await.expect_err("stale");
    assert!(matches!(error, CallError::StaleCheckpoint { size: 12, .. }), "{error}");
    let options = Options {
        policy: Some(policy()),
        checkpoint_age_max: Duration::from_secs(3600),
        ..fake.options()
    };
    let patient = fake.connect(options).await;
    assert!(patient.get(5, Level::Any).await.expect("reads").verification.is_verified());
    // One fresh node is enough.
    let fresh = copy(&fake);
    change(&fresh, |trail| trail.publish());
    fake.node(1).show(&fresh);
    assert!(client.get(5, Level::Any).await.expect("reads").verification.is_verified());
    assert_eq!(accused(&client), []);
}

#[tokio::test]
async fn a_node_that_lags_is_no_rollback_and_a_trail_that_ends_early_is_one() {
    let (fake, client) = signed().await;
    let early = copy(&fake);
    // By another client: this one has no receipts to settle, which would find it out as well.
    append(&fake.client().await, 4).await;
    fake.trail().publish();
    assert_eq!(newest(&client).await.expect("signed"), 17);
    fake.node(2).show(&early);
    fake.node(3).show(&early);
    let record = client.get(5, Level::Any).await.expect("the leader proves the early checkpoint");
    assert_eq!(record.verification.checkpoint_size(), Some(12));
    // What was signed before is still true; what is signed after tells.
    fake.node(1).show(&early);
    client.get(5, Level::Any).await.expect("proven by what was linked before");
    change(&early, |trail| trail.publish_at(now_s() + 5));
    let error = client.get(5, Level::Any).await.expect_err("it is all gone");
    let CallError::RolledBack(rolled_back) = &error else { panic!("{error}") };
    let RolledBack::Checkpoint { checkpoint, tree_size: 12, reported: 3 } = &**rolled_back else {
        panic!("{error}")
    };
    let reported = change(&early, |trail| trail.reported.clone());
    assert_eq!(reported, vec![checkpoint.note.to_string(); 3]);
    let Some(Alarm::RolledBack(_)) = client.alarms().try_next() else { panic!("no alarm") };
    assert_eq!(accused(&client), [], "they lost their disks, and did not lie");
}

#[tokio::test]
async fn the_checkpoint_file_remembers_from_run_to_run() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("checkpoint");
    let (fake, _client) = signed().await;
    let options = || Options {
        policy: Some(policy()),
        checkpoint_file: Some(path.clone()),
        ..fake.options()
    };
    let early = copy(&fake);
    let first = fake.connect(options()).await;
    append(&first, 4).await;
    fake.trail().publish();
    assert_eq!(newest(&first).await.expect("signed"), 17);
    drop(first);
    let second = fake.connect(options()).await;
    assert_eq!(second.newest_checkpoint().map(|seen| seen.checkpoint.size), Some(17));
    for id in [1, 2, 3] {
        fake.node(id).show(&early);
    }
    assert!(matches!(newest(&second).await, Err(CallError::RolledBack(_))));
    // A file of another trail, or one that nobody has signed, is refused.
    let note = sign(5, indelible_core::Hash([1; 32]), &[1], now_s(), false);
    std::fs::write(&path, note).expect("writes");
    let Err(ConnectError::File(error)) = Client::connect_with(options()).await else {
        panic!("it connected")
    };
    assert!(error.to_string().contains("quorum"), "{error}");
}

#[tokio::test]
async fn trust_on_first_use_pins_what_it_sees() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("checkpoint");
    let (fake, _client) = signed().await;
    let options = || Options {
        trust: TrustMode::OnFirstUse,
        checkpoint_file: Some(path.clone()),
        ..fake.options()
    };
    let first = fake.connect(options()).await;
    assert_eq!(first.policy().as_deref(), Some(&policy()));
    assert!(first.get(5, Level::Any).await.expect("reads").verification.is_verified());
    drop(first);
    let kept = std::fs::read_to_string(dir.path().join("checkpoint.policy")).expect("was kept");
    assert_eq!(kept.parse::<crate::Policy>().expect("parses"), policy());
    // Others who come later with other keys are not believed.
    let forked = copy(&fake);
    change(&forked, |trail| {
        trail.alter(5);
        trail.published = Some(sign(trail.size(), trail.root(), &[], now_s(), false));
    });
    for id in [1, 2, 3] {
        fake.node(id).show(&forked);
    }
    let second = fake.connect(options()).await;
    let error = second.get(5, Level::Any).await.expect_err("it contradicts what was seen");
    assert!(matches!(error, CallError::NodeLied { .. }), "{error}");
}

#[tokio::test]
async fn a_policy_that_wants_a_witness_is_served_by_way_of_one() {
    let (fake, _client) = signed().await;
    let client = fake.connect(Options { policy: Some(witnessed_policy()), ..fake.options() }).await;
    let verification =
        async |index| client.get(index, Level::Any).await.expect("reads").verification;
    assert_eq!(verification(5).await, Verification::Pending, "no witness has signed anything");
    let pending = client.checkpoint(CheckpointOptions::default()).await.expect("answers");
    let lacks = pending.and_then(|pending| pending.lacks.clone()).expect("it lacks something");
    assert!(lacks.contains('w'), "{lacks}");
    fake.trail().witness();
    append(&client, 4).await;
    fake.trail().publish();
    assert_eq!(verification(5).await.checkpoint_size(), Some(12), "by way of the witnessed one");
    assert_eq!(verification(14).await, Verification::Pending, "no witness has seen that yet");
    fake.trail().witness();
    assert_eq!(verification(14).await.checkpoint_size(), Some(17));
    assert_eq!(accused(&client), []);
}

#[tokio::test]
async fn proofs_of_what_exists_are_asked_of_nodes_that_have_it() {
    let (fake, client) = signed().await;
    let early = copy(&fake);
    append(&client, 4).await;
    fake.trail().publish();
    fake.node(2).show(&early);
    fake.node(3).show(&early);
    let note = fake.trail().published.clone().expect("signed");
    let checkpoint = client.trust().check(&note).expect("sound");
    let mut record = client.get_with(3, Level::Any, Prove::Never).await.expect("reads");
    client.prove_record(&mut record, &checkpoint).await.expect("the leader has that tree");
    assert_eq!(record.verification.checkpoint_size(), Some(17));
    let range = client.range_proof(2, 15, &checkpoint).await.expect("the leader has that tree");
    let hashes = fake.trail().leaf_hashes(2, 15);
    let hashes: Option<Vec<_>> = hashes.chunks(32).map(indelible_core::Hash::from_slice).collect();
    range.verify(hashes.expect("32 bytes"), &checkpoint.checkpoint).expect("verifies");
    client.prove_consistency(12, Some(17)).await.expect("the leader has that tree");
    assert!(client.prove_consistency(12, Some(99)).await.is_err());
    // Another record than that of the tree is not called proven.
    record.index = 4;
    let error = client.prove_record(&mut record, &checkpoint).await.expect_err("another record");
    assert!(matches!(error, CallError::NotProven { .. }), "{error}");
}

#[tokio::test]
async fn unverified_means_that_nothing_is_asked_for() {
    let (fake, _client) = signed().await;
    let options =
        Options { policy: Some(policy()), trust: TrustMode::Unverified, ..fake.options() };
    let client = fake.connect(options).await;
    let record = client.get(5, Level::Any).await.expect("reads");
    assert_eq!((record.verification, record.proof()), (Verification::Unverified, None));
    assert_eq!((client.policy(), client.unsettled()), (None, 0));
}

/// Under which id somebody answers is a word of its own.
#[tokio::test]
async fn a_liar_under_another_nodes_id_has_only_itself_banned() {
    let (fake, _client) = signed().await;
    let altered = copy(&fake);
    change(&altered, |trail| trail.alter(5));
    fake.node(2).show(&altered);
    fake.node(2).view.send_modify(|view| view.node_id = 3);
    let client = fake.verifier().await;
    // As node 3 stands in the membership at its own address, that one is asked.
    for _ in 0..8 {
        let record = client.get(5, Level::Any).await.expect("reads");
        assert!(record.verification.is_verified());
    }
    assert!(!fake.node(3).calls().is_empty() && fake.node(2).calls().is_empty());
    // Alone, it is asked, and found out.
    let options = Options {
        endpoints: vec![fake.node(2).addr.clone()],
        policy: Some(policy()),
        ..fake.options()
    };
    let client = Client::connect_with(options).await.expect("it answers");
    while fake.node(2).calls().is_empty() {
        let record = client.get(5, Level::Any).await.expect("another node is honest");
        assert!(record.verification.is_verified());
    }
    let calls = fake.node(3).calls().len();
    while fake.node(3).calls().len() == calls {
        client.get(5, Level::Any).await.expect("node 3 is asked as before");
    }
}

/// A client that has seen 12, and was then shown a tree of 14 by everybody: nobody has signed it,
/// and what it holds beyond 12 is invented.
async fn shown_an_invented_tree() -> (Fake, Client, SharedTrail) {
    let (fake, client) = signed().await;
    assert_eq!(newest(&client).await.expect("signed"), 12);
    let forged = copy(&fake);
    change(&forged, |trail| {
        for seq in [60, 61] {
            trail.push(Kind::Event, 1, seq, Salt::default(), b"nobody did this");
        }
        trail.published = Some(sign(14, trail.root(), &[], now_s(), false));
    });
    for node in &fake.nodes {
        node.show(&forged);
    }
    let record = client.get(5, Level::Any).await.expect("reads");
    assert_eq!(record.verification.checkpoint_size(), Some(12), "it is in both trees");
    for node in &fake.nodes {
        node.show(&fake.trail);
    }
    append(&fake.client().await, 4).await;
    (fake, client, forged)
}

#[tokio::test]
async fn what_a_node_invents_beyond_the_newest_checkpoint_is_never_verified() {
    let (fake, client, forged) = shown_an_invented_tree().await;
    fake.trail().publish();
    assert_eq!(newest(&client).await.expect("signed"), 17);
    fake.node(2).show(&forged);
    let honest = fake.trail().records[13].clone();
    let calls = fake.node(2).calls().len();
    while fake.node(2).calls().len() == calls {
        let record = client.get(13, Level::Any).await.expect("another node is honest");
        assert!(record.verification.is_verified());
        assert_eq!(record.event, honest.event);
    }
}

#[tokio::test]
async fn what_a_node_invents_beyond_the_newest_checkpoint_makes_no_fork() {
    let (fake, client, _) = shown_an_invented_tree().await;
    let (root, nodes) = (fake.trail().root_at(14), [1, 2, 3]);
    fake.trail().published = Some(sign(14, root, &nodes, now_s(), false));
    assert_eq!(newest(&client).await.expect("of one history with 12"), 14);
    assert!(client.get(13, Level::Any).await.expect("reads").verification.is_verified());
    assert_eq!(accused(&client), []);
}

/// The leader has signed one history with one follower, and another with the other: both followers
/// are honest, and neither is to be accused.
#[tokio::test]
async fn an_honest_node_that_was_shown_the_other_history_is_not_accused() {
    let (fake, client) = signed().await;
    append(&fake.client().await, 4).await;
    let other = copy(&fake);
    change(&other, |trail| {
        trail.alter(5);
        let (root, nodes) = (trail.root_at(14), [1, 3]);
        trail.published = Some(sign(14, root, &nodes, now_s(), false));
    });
    fake.trail().publish_by(&[1, 2]);
    assert_eq!(newest(&client).await.expect("signed"), 17);
    fake.node(3).show(&other);
    let calls = fake.node(3).calls().len();
    let error = loop {
        match client.get(3, Level::Any).await {
            Ok(_) => assert_eq!(fake.node(3).calls().len(), calls, "two histories, and no alarm"),
            Err(error) => break error,
        }
    };
    let CallError::Fork(fork) = error else { panic!("{error}") };
    assert_eq!((fork.ours.checkpoint.size, fork.theirs.checkpoint.size), (17, 14));
    assert_eq!(accused(&client), [], "nobody can tell who signed in good faith");
}

#[tokio::test]
async fn what_is_known_to_exist_is_asked_of_another_node() {
    let (fake, client) = signed().await;
    assert_eq!(newest(&client).await.expect("signed"), 12);
    // "There is no such record", say two of three.
    for id in [2, 3] {
        let refusal = || Rejected::new(Reason::NotFound, "no such record");
        fake.node(id).script((0..4).map(|_| Act::Refuse(refusal())));
    }
    for _ in 0..4 {
        let record = client.get(5, Level::Linearizable).await.expect("it was signed");
        assert!(record.verification.is_verified());
    }
    // "The trail ends here", say two of three, with roots that are right.
    let short = copy(&fake);
    change(&short, |trail| trail.records.truncate(8));
    for id in [2, 3] {
        fake.node(id).show(&short);
    }
    for level in [Level::Linearizable, Level::AtLeast(9)] {
        assert_eq!(client.tree_head(level).await.expect("answers").tree_size, 12);
        let options = ReadOptions { level, ..ReadOptions::default() };
        let mut records = client.read(.., options).await.expect("opens");
        let mut count = 0;
        while records.next().await.transpose().expect("reads").is_some() {
            count += 1;
        }
        assert_eq!(count, 12);
    }
}

#[tokio::test]
async fn a_checkpoint_that_nobody_signed_accuses_nobody() {
    let (fake, client) = signed().await;
    fake.node(2).twist(Twist {
        checkpoint: Some(|response| {
            let root = indelible_core::Hash([1; 32]);
            response.checkpoint = sign(12, root, &[], now_s(), false);
        }),
        ..Twist::default()
    });
    let found = client.checkpoints().await.into_iter().find(|node| node.node_id == 2);
    let found = found.expect("it answers").checkpoint.expect("a note").expect("there is one");
    assert!(!found.is_verified() && found.checkpoint.root == indelible_core::Hash([1; 32]));
    let error = client.key_history(&found).await.expect_err("nobody can prove that");
    assert!(matches!(error, CallError::NotProven { .. }), "{error}");
    let error = client.range_proof(1, 3, &found).await.expect_err("nor that");
    assert!(matches!(error, CallError::NotProven { .. }), "{error}");
    assert_eq!(accused(&client), []);
}
