//! Witnesses outside the group: a small one of our own, that keeps its word in memory.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use base64::Engine;
use indelible_core::merkle::verify_consistency;
use indelible_core::policy::Witness as Named;
use indelible_core::{
    Checkpoint, Hash, KeyType, Note, NoteSignature, Policy, SignerKey, VerifierKey,
};
use indelible_local::LocalCluster;
use indelible_proto::reason::{Reason, Rejected, key};
use indelible_proto::v1;

use crate::harness::{audit_log, client, eventually, leader, nodes_with, view};
use crate::publication::{Caller, leader_addr, policy};

/// C2SP tlog-witness, `add-checkpoint` alone.
pub struct Witness {
    key: SignerKey,
    /// The log that it knows; none yet.
    pub log: OnceLock<VerifierKey>,
    newest: Mutex<(u64, Hash)>,
    /// Requests so far.
    asked: AtomicU64,
    /// How far its clock is ahead, in seconds.
    pub ahead_s: AtomicU64,
    url: String,
    served: tokio::task::JoinHandle<()>,
}

impl Witness {
    pub async fn start(name: &str, seed: u8) -> Arc<Witness> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/w", listener.local_addr().unwrap());
        Arc::new_cyclic(|witness: &std::sync::Weak<Witness>| {
            let router = Router::new()
                .route("/w/add-checkpoint", post(add_checkpoint))
                .with_state(witness.clone());
            let served = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
            let key = SignerKey::new(name, KeyType::Cosigner, [seed; 32]).unwrap();
            let newest = Mutex::new((0, Hash::default()));
            let (log, asked, ahead_s) = Default::default();
            Witness { key, log, newest, asked, ahead_s, url, served }
        })
    }

    /// How often it was asked.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    fn config(&self) -> String {
        let (name, key) = (&self.key.verifier().name, self.key.verifier());
        format!("[[witness]]\nname = \"{name}\"\nkey = \"{key}\"\nurl = \"{}\"\n", self.url)
    }

    /// Status, content type and body.
    pub fn answer(&self, body: &str) -> (u16, &'static str, String) {
        let no = |status: u16, why: &str| (status, "text/plain", format!("{why}\n"));
        let Some((head, note)) = body.split_once("\n\n") else { return no(400, "no note") };
        let mut lines = head.lines();
        let old = lines.next().and_then(|line| line.strip_prefix("old ")?.parse::<u64>().ok());
        let Some(old) = old else { return no(400, "no old size") };
        let proof: Vec<Hash> = lines
            .map(|line| base64::engine::general_purpose::STANDARD.decode(line).unwrap())
            .map(|bytes| Hash::from_slice(&bytes).unwrap())
            .collect();
        let note = Note::parse(note).unwrap();
        let checkpoint = Checkpoint::parse(&note.text).unwrap();
        let Some(log) = self.log.get().filter(|log| log.name == checkpoint.origin) else {
            return no(404, "unknown log");
        };
        let signed = |line: &NoteSignature| log.verify(&note.text, line).is_ok();
        if !note.signatures.iter().any(signed) {
            return no(403, "no signature of the log");
        }
        if old > checkpoint.size {
            return no(400, "old is larger");
        }
        let mut newest = self.newest.lock().unwrap();
        let (size, root) = *newest;
        if old != size || (old == checkpoint.size && root != checkpoint.root) {
            return (409, "text/x.tlog.size", format!("{size}\n"));
        }
        let consistent = match size {
            0 => proof.is_empty(),
            _ => verify_consistency(size, checkpoint.size, &proof, &root, &checkpoint.root).is_ok(),
        };
        if !consistent {
            return no(422, "not consistent");
        }
        *newest = (checkpoint.size, checkpoint.root);
        let now = unix_s() + self.ahead_s.load(Ordering::SeqCst);
        let line = self.key.cosign(&checkpoint, now);
        (200, "text/plain", line.to_string())
    }
}

pub fn unix_s() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

async fn add_checkpoint(State(witness): State<std::sync::Weak<Witness>>, body: String) -> Response {
    let Some(witness) = witness.upgrade() else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let (status, kind, answer) = witness.answer(&body);
    witness.asked.fetch_add(1, Ordering::SeqCst);
    let status = StatusCode::from_u16(status).unwrap();
    (status, [(header::CONTENT_TYPE, kind)], answer).into_response()
}

/// A group that asks these witnesses five times a second.
pub async fn watched_by(witnesses: &[&Arc<Witness>]) -> LocalCluster {
    let mut config = String::from("witness_interval_ms = 200\n");
    witnesses.iter().for_each(|witness| config.push_str(&witness.config()));
    let cluster = nodes_with(3, Some(128 * 1024), &config);
    client(&cluster).await;
    cluster
}

/// The policy of `init`, and some of these witnesses.
pub fn with_witnesses(policy: Policy, witnesses: &[&Arc<Witness>], needed: usize) -> Policy {
    let named = |witness: &&Arc<Witness>| {
        let key = witness.key.verifier().clone();
        Named { name: key.name.clone(), key, url: None }
    };
    policy.with_witnesses(witnesses.iter().map(named).collect(), needed).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn witnesses_sign_what_the_group_publishes_and_nobody_waits_for_them_in_vain() {
    let one = Witness::start("witness.example/one", 1).await;
    let two = Witness::start("witness.example/two", 2).await;
    let mut cluster = watched_by(&[&one, &two]).await;
    let mut caller = Caller::open(&cluster, b"a witnessed call").await;
    // They do not know the log: what there is instead is said, and nothing else waits.
    let response = caller.append(&cluster, 3, v1::AckLevel::Witnessed, 3_000).await;
    assert_eq!(response.ack(), v1::AckLevel::Proven);

    let plain = policy(&cluster);
    let log = plain.logs()[0].key.clone();
    for witness in [&one, &two] {
        witness.log.set(log.clone()).unwrap();
    }
    let response = caller.append(&cluster, 3, v1::AckLevel::Witnessed, 30_000).await;
    assert_eq!(response.ack(), v1::AckLevel::Witnessed);
    let note = Note::parse(&response.checkpoint).unwrap();
    with_witnesses(plain.clone(), &[&one, &two], 1).check(&note).unwrap();
    let both = with_witnesses(plain.clone(), &[&one, &two], 2);
    let newest = || async {
        let request = v1::GetCheckpointRequest { size_min: 1, wait_ms: 1000, witnessed: true };
        let answer = audit_log(&leader_addr(&cluster).await).await.get_checkpoint(request).await;
        Note::parse(&answer.ok()?.into_inner().checkpoint).ok()
    };
    eventually("both witnesses' signatures on one note", || async {
        both.check(&newest().await?).ok()
    })
    .await;
    // Every node shows it.
    for node in &cluster.nodes {
        eventually("a witnessed note on every node", || async {
            let request = v1::GetCheckpointRequest { size_min: 1, wait_ms: 1000, witnessed: true };
            let answer = audit_log(&node.client_addr).await.get_checkpoint(request).await.ok()?;
            both.check(&Note::parse(&answer.into_inner().checkpoint).ok()?).ok()
        })
        .await;
    }

    // The next leader does not know how far they are: they tell it.
    let dies = leader(&cluster).await;
    cluster.node(dies).unwrap().kill().unwrap();
    one.served.abort();
    let response = caller.append(&cluster, 3, v1::AckLevel::Witnessed, 30_000).await;
    assert_eq!(response.ack(), v1::AckLevel::Witnessed, "one of the two is enough");
    let note = Note::parse(&response.checkpoint).unwrap();
    with_witnesses(plain, &[&one, &two], 1).check(&note).unwrap();
    two.served.abort();
}

/// What the leader says once it refuses appends for a rollback.
async fn refused(cluster: &LocalCluster) -> Rejected {
    eventually("appends are refused", || async {
        let request = v1::OpenProducerRequest {
            producer_id: b"another caller!!".to_vec().into(),
            ..Default::default()
        };
        let mut leader = audit_log(&leader_addr(cluster).await).await;
        let status = leader.open_producer(request).await.err()?;
        Rejected::from_status(&status).filter(|rejected| rejected.reason == Reason::RolledBack)
    })
    .await
}

/// Everything was rolled back by a little, and the trail has grown beyond it since.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_witness_of_another_history_stops_appends() {
    let witness = Witness::start("witness.example/four", 4).await;
    let cluster = watched_by(&[&witness]).await;
    *witness.newest.lock().unwrap() = (2, Hash([1; 32]));
    witness.log.set(policy(&cluster).logs()[0].key.clone()).unwrap();
    let rejected = refused(&cluster).await;
    assert_eq!(rejected.metadata.get(key::CHECKPOINT_SIZE), Some(&2));
}

/// As above, and the trail has grown to the very size that the witness has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_witness_with_another_root_at_the_same_size_stops_appends() {
    let witness = Witness::start("witness.example/five", 5).await;
    let cluster = watched_by(&[&witness]).await;
    let size = eventually("a checkpoint", || async {
        let view = view(&leader_addr(&cluster).await).await?;
        (view.checkpoint_size == view.tree_size).then_some(view.tree_size)
    })
    .await;
    *witness.newest.lock().unwrap() = (size, Hash([1; 32]));
    witness.log.set(policy(&cluster).logs()[0].key.clone()).unwrap();
    // Asked without an append, which would let the trail grow beyond that size.
    eventually("the leader has heard it", || async {
        let view = view(&leader_addr(&cluster).await).await?;
        (view.rolled_back_from == size).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_witness_that_knows_more_than_the_trail_stops_appends_until_an_operator_accepts() {
    let witness = Witness::start("witness.example/three", 3).await;
    let cluster = watched_by(&[&witness]).await;
    let mut caller = Caller::open(&cluster, b"a warned caller!").await;
    witness.log.set(policy(&cluster).logs()[0].key.clone()).unwrap();
    caller.append(&cluster, 3, v1::AckLevel::Witnessed, 30_000).await;
    // As if all disks had been put back: the witness remembers more.
    *witness.newest.lock().unwrap() = (5000, Hash([1; 32]));
    let refused = refused(&cluster).await;
    assert_eq!(refused.metadata.get(key::CHECKPOINT_SIZE), Some(&5000));
    eventually("the loss is accepted", || async {
        let channel = crate::harness::channel(&leader_addr(&cluster).await).await;
        let mut cluster = v1::cluster_client::ClusterClient::new(channel);
        cluster.accept_rollback(v1::AcceptRollbackRequest { reason: "a drill".into() }).await.ok()
    })
    .await;
    // It says so again and again; it was heard.
    let response = caller.append(&cluster, 3, v1::AckLevel::Proven, 30_000).await;
    assert_eq!(response.ack(), v1::AckLevel::Proven);
}

/// What a witness says while no majority can confirm the leader is not forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_witness_that_nobody_could_judge_is_asked_again() {
    let witness = Witness::start("witness.example/six", 6).await;
    let mut cluster = watched_by(&[&witness]).await;
    let mut caller = Caller::open(&cluster, b"a patient caller").await;
    witness.log.set(policy(&cluster).logs()[0].key.clone()).unwrap();
    caller.append(&cluster, 3, v1::AckLevel::Witnessed, 30_000).await;
    let (leads, leads_at) = (leader(&cluster).await, leader_addr(&cluster).await);
    for node in cluster.nodes.iter_mut().filter(|node| node.id != leads) {
        node.kill().unwrap();
    }
    *witness.newest.lock().unwrap() = (5000, Hash([1; 32]));
    let before = witness.asked.load(Ordering::SeqCst);
    // One that was under way, one that nobody could judge, and another one.
    eventually("it is asked again", || async {
        (witness.asked.load(Ordering::SeqCst) >= before + 3).then_some(())
    })
    .await;
    assert_eq!(view(&leads_at).await.unwrap().rolled_back_from, 0, "there is no majority");
    for node in cluster.nodes.iter_mut().filter(|node| node.id != leads) {
        node.start().unwrap();
    }
    let rejected = refused(&cluster).await;
    assert_eq!(rejected.metadata.get(key::CHECKPOINT_SIZE), Some(&5000));
}
