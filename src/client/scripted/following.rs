//! The group gets other nodes, and a client with a policy follows, or not.

use std::sync::Arc;

use super::auditing::{append, change, copy};
use super::fake::{Fake, Twist};
use super::trail::{KEYS, policy, witnessed_policy};
use crate::{
    CallError, CheckpointOptions, Client, Level, Options, Policy, TrustMode, Verification,
};

/// Five nodes of which the first three vote, a trail that they have signed, and a client with their
/// policy.
async fn signed() -> (Fake, Client) {
    let fake = Fake::start(5).await;
    fake.vote(&[1, 2, 3]);
    append(&fake.client().await, 10).await;
    fake.trail().publish();
    let client = fake.verifier().await;
    follow(&client).await.expect("there is nothing to follow");
    (fake, client)
}

/// The group changes from some voters to others, and these sign the trail.
fn change_voters(fake: &Fake, to: &[u64], signing: &[u64]) {
    fake.trail().change_members(&[to]);
    fake.trail().publish_by(signing);
    fake.vote(to);
}

/// As [`Client::follow_keys`], up to the newest checkpoint there is. Asking for that may have
/// followed by itself.
async fn follow(client: &Client) -> Result<(), CallError> {
    let newest = CheckpointOptions::default();
    let witnessed = CheckpointOptions { witnessed: true, ..newest };
    let mut found = client.checkpoint(newest).await?.expect("there is one");
    if !found.is_verified() {
        found = client.checkpoint(witnessed).await?.unwrap_or(found);
    }
    client.follow_keys(&found).await.map(drop)
}

fn of_nodes(ids: &[u64]) -> Policy {
    KEYS.policy(ids)
}

fn believed(client: &Client) -> Policy {
    Arc::unwrap_or_clone(client.policy().expect("there is one"))
}

#[tokio::test]
async fn one_node_after_the_other_is_replaced_and_the_client_goes_on() {
    let (fake, client) = signed().await;
    for voters in [[1, 2, 4], [1, 4, 5]] {
        change_voters(&fake, &voters, &voters);
        follow(&client).await.expect("both nodes that stay have signed");
        assert_eq!(believed(&client), of_nodes(&voters));
        let record = client.get(5, Level::Any).await.expect("reads");
        assert!(record.verification.is_verified());
    }
    // Those who have left do not count any more, and whoever stayed away believes only them.
    append(&client, 1).await;
    fake.trail().publish_by(&[2, 3]);
    assert_eq!(
        client.get(15, Level::Any).await.expect("reads").verification,
        Verification::Pending
    );
    fake.trail().publish_by(&[4, 5]);
    assert!(client.get(15, Level::Any).await.expect("reads").verification.is_verified());
    let late = fake.verifier().await;
    assert_eq!(late.get(15, Level::Any).await.expect("reads").verification, Verification::Pending);
    let error = follow(&late).await.expect_err("too few of its nodes are left");
    assert!(error.to_string().contains("does not accept the checkpoint"), "{error}");
    assert_eq!(believed(&late), policy());
}

#[tokio::test]
async fn a_read_follows_by_itself() {
    let (fake, client) = signed().await;
    change_voters(&fake, &[1, 2, 4], &[1, 2, 4]);
    // As soon as the client has heard of it, and has a checkpoint that covers it.
    while believed(&client) == policy() {
        let record = client.get(5, Level::Any).await.expect("reads");
        assert!(record.verification.is_verified());
        tokio::task::yield_now().await;
    }
    assert_eq!(believed(&client), of_nodes(&[1, 2, 4]));
}

#[tokio::test]
async fn new_nodes_are_not_believed_on_their_own_word() {
    let (fake, client) = signed().await;
    // Whoever holds the log key can write any membership, and sign for it with its own nodes.
    let forged = copy(&fake);
    change(&forged, |trail| {
        trail.change_members(&[&[3, 4, 5]]);
        trail.publish_by(&[3, 4, 5]);
    });
    for node in &fake.nodes {
        node.show(&forged);
    }
    fake.vote(&[3, 4, 5]);
    follow(&client).await.expect_err("its own nodes have not signed");
    assert_eq!(believed(&client), policy());
    // What was proven before still is, and nothing after it.
    let verification =
        async |index| client.get(index, Level::Any).await.expect("reads").verification;
    assert_eq!(verification(5).await.checkpoint_size(), Some(12));
    assert_eq!(verification(12).await, Verification::Pending);
    // Those that it does believe hand over only together with those who come.
    change(&forged, |trail| trail.publish_by(&[1, 2]));
    let error = follow(&client).await.expect_err("the new nodes have not signed");
    assert!(
        error.to_string().contains("the new nodes do not stand behind the checkpoint"),
        "{error}"
    );
    assert_eq!(believed(&client), policy());
    change(&forged, |trail| trail.publish_by(&[1, 2, 4, 5]));
    follow(&client).await.expect("both have");
    assert_eq!(believed(&client), of_nodes(&[3, 4, 5]));
}

#[tokio::test]
async fn what_all_nodes_have_to_sign_is_followed_by_hand_and_stays_so() {
    let (fake, _client) = signed().await;
    let all: Policy =
        policy().to_string().replace("group nodes 2 ", "group nodes all ").parse().expect("one");
    let options = Options { policy: Some(all.clone()), ..fake.options() };
    let client = fake.connect(options).await;
    // The leader alone has decided this, and the others have only signed that it has.
    change_voters(&fake, &[1, 4, 5], &[1, 2, 3, 4, 5]);
    for _ in 0..3 {
        assert!(client.get(5, Level::Any).await.expect("reads").verification.is_verified());
    }
    assert_eq!(believed(&client), all);
    for voters in [&[1, 4][..], &[1, 4, 5]] {
        change_voters(&fake, voters, &[1, 2, 3, 4, 5]);
        follow(&client).await.expect("all have signed");
    }
    let nodes = of_nodes(&[1, 4, 5]).nodes().cloned().collect();
    assert_eq!(believed(&client), all.with_nodes(nodes).expect("a policy"));
}

#[tokio::test]
async fn another_history_leads_nowhere() {
    let (fake, client) = signed().await;
    let forked = copy(&fake);
    change(&forked, |trail| {
        trail.alter(5);
        trail.change_members(&[&[1, 2, 4]]);
        trail.publish_by(&[1, 2, 4]);
    });
    for node in &fake.nodes {
        node.show(&forked);
    }
    // Not held against what was seen, so far.
    let found = client.checkpoints().await.remove(0).checkpoint.expect("answers");
    let error = client.follow_keys(&found.expect("there is one")).await.expect_err("a fork");
    assert!(matches!(error, CallError::Fork(_)), "{error}");
    assert_eq!(believed(&client), policy());
}

#[tokio::test]
async fn a_change_that_is_under_way_is_followed_to_its_end() {
    let (fake, client) = signed().await;
    fake.trail().change_members(&[&[1, 2, 3], &[3, 4, 5]]);
    fake.trail().publish_by(&[1, 2, 4, 5]);
    fake.vote(&[1, 2, 3, 4, 5]);
    follow(&client).await.expect("both majorities have signed");
    assert_eq!(believed(&client), of_nodes(&[3, 4, 5]));
    change_voters(&fake, &[3, 4, 5], &[3, 4]);
    follow(&client).await.expect("there is nothing to follow");
    assert!(client.get(5, Level::Any).await.expect("reads").verification.is_verified());
}

#[tokio::test]
async fn a_history_that_ends_early_leads_nobody_back() {
    let (fake, client) = signed().await;
    change_voters(&fake, &[1, 2, 4], &[1, 2, 4]);
    follow(&client).await.expect("answers");
    for id in 1..=5 {
        let early = Twist {
            keys: Some(|history| {
                history.records.truncate(1);
                history.proofs.truncate(1);
            }),
            ..Twist::default()
        };
        fake.node(id).twist(early);
    }
    append(&client, 1).await;
    fake.trail().publish_by(&[1, 2, 4]);
    follow(&client).await.expect("there is nothing to follow");
    assert_eq!(believed(&client), of_nodes(&[1, 2, 4]));
    // Nor one who begins with the newer policy.
    let options = Options { policy: Some(of_nodes(&[1, 2, 4])), ..fake.options() };
    let fresh = fake.connect(options).await;
    let error = follow(&fresh).await.expect_err("its nodes are in no membership shown");
    assert!(matches!(error, CallError::NotFollowed { .. }), "{error}");
    assert_eq!(believed(&fresh), of_nodes(&[1, 2, 4]));
}

#[tokio::test]
async fn what_was_followed_is_remembered_for_the_policy_that_it_follows() {
    let (fake, _client) = signed().await;
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("checkpoint");
    let with = |policy: Policy| Options {
        policy: Some(policy),
        checkpoint_file: Some(path.clone()),
        ..fake.options()
    };
    let client = fake.connect(with(policy())).await;
    change_voters(&fake, &[1, 2, 4], &[1, 2, 4]);
    follow(&client).await.expect("answers");
    change_voters(&fake, &[1, 4, 5], &[1, 4, 5]);
    follow(&client).await.expect("answers");
    drop(client);
    // With the first policy alone, nothing of this could be believed.
    let again = fake.connect(with(policy())).await;
    assert_eq!(believed(&again), of_nodes(&[1, 4, 5]));
    assert_eq!(again.newest_checkpoint().expect("was kept").checkpoint.size, 14);
    let checkpoint = again.checkpoint(CheckpointOptions::default()).await.expect("answers");
    assert!(checkpoint.expect("there is one").is_verified());
    drop(again);
    // Under a policy that its nodes do not satisfy, what was seen was seen all the same.
    let other = fake.connect(with(of_nodes(&[2, 3]))).await;
    assert_eq!(other.newest_checkpoint().expect("was kept").checkpoint.size, 14);
    assert_eq!(believed(&other), of_nodes(&[2, 3]));
    drop(other);
    // Another policy is another beginning.
    let other = fake.connect(with(of_nodes(&[1, 4]))).await;
    assert_eq!(believed(&other), of_nodes(&[1, 4]));
    drop(other);
    // What was trusted on first use is followed as well.
    let pinning = || Options {
        trust: TrustMode::OnFirstUse,
        checkpoint_file: Some(dir.path().join("pinned")),
        ..fake.options()
    };
    let first = fake.connect(pinning()).await;
    assert_eq!(believed(&first), of_nodes(&[1, 4, 5]));
    change_voters(&fake, &[1, 4, 2], &[1, 4, 2]);
    follow(&first).await.expect("answers");
    drop(first);
    assert_eq!(believed(&fake.connect(pinning()).await), of_nodes(&[1, 2, 4]));
}

#[tokio::test]
async fn what_a_policy_asks_for_besides_stays() {
    let (fake, _client) = signed().await;
    let options = Options { policy: Some(witnessed_policy()), ..fake.options() };
    let client = fake.connect(options).await;
    change_voters(&fake, &[1, 2, 4], &[1, 2, 4]);
    follow(&client).await.expect_err("no witness has signed");
    assert_eq!(believed(&client), witnessed_policy());
    fake.trail().witness_by(&[1, 2, 4]);
    let nodes = of_nodes(&[1, 2, 4]).nodes().cloned().collect();
    let expected = witnessed_policy().with_nodes(nodes).expect("a policy");
    follow(&client).await.expect("the witness has, too");
    assert_eq!(believed(&client), expected);
    // What only its author can tell is not followed, and reads go on as far as they can.
    let any = policy().to_string().replace("group nodes 2 ", "group nodes 1 ");
    let options = Options { policy: Some(any.parse().expect("a policy")), ..fake.options() };
    let client = fake.connect(options).await;
    let error = follow(&client).await.expect_err("one of three");
    assert!(error.to_string().contains("neither a majority nor all"), "{error}");
    assert!(client.get(5, Level::Any).await.expect("reads").verification.is_verified());
}
