//! Groups of real nodes, and what a test waits for.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indelible_client::connect::Transport;
use indelible_client::{Client, Level, Options, Profile};
use indelible_core::leaf::{commit, leaf_hash};
use indelible_core::merkle::Frontier;
use indelible_core::{Checkpoint, Hash, Kind, Leaf, Note, Policy, Salt};
use indelible_local::{LocalCluster, LocalError, LocalNode, LocalOptions};
use indelible_proto::v1::audit_log_client::AuditLogClient;
use indelible_proto::v1::cluster_client::ClusterClient;
use indelible_proto::{Reason, Rejected, v1};
use indelible_testkit::fail::{environment, timeout, within};
use tonic::transport::Channel;

/// Longest time that anything may take. Generous: the machine is shared.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub const BINARY: &str = env!("CARGO_BIN_EXE_indelible");

/// Three nodes with small segments, so that tests seal some.
pub fn three_nodes() -> LocalCluster {
    nodes_with(3, Some(128 * 1024), "")
}

pub fn nodes_with(nodes: u64, segment_bytes: Option<u64>, config: &str) -> LocalCluster {
    let options = LocalOptions {
        binary: BINARY.into(),
        nodes,
        segment_bytes,
        config: config.into(),
        clear_text: false,
    };
    start(options)
}

/// Starts a group, and remembers whose certificates its nodes ask for.
pub fn start(options: LocalOptions) -> LocalCluster {
    let cluster = match LocalCluster::start(options) {
        Ok(cluster) => cluster,
        Err(error @ LocalError::Init(_)) => panic!("{error}"),
        Err(error) => environment(error),
    };
    // Tests say themselves when a policy is to count.
    let profile = std::fs::read_to_string(cluster.profile()).unwrap();
    let lines = profile.lines().filter(|line| !line.starts_with("policy"));
    let bare = lines.collect::<Vec<_>>().join("\n");
    std::fs::write(bare_profile(&cluster), bare).unwrap();
    for node in &cluster.nodes {
        remember(node, &cluster);
    }
    cluster
}

/// As [`LocalCluster::configure`].
pub fn configure(cluster: &mut LocalCluster, id: u64) -> &mut LocalNode {
    cluster.configure(id).unwrap();
    let node = cluster.nodes.last().unwrap();
    remember(node, cluster);
    cluster.node(id).unwrap()
}

/// Signs the certificate of a node that `node-key` has made.
pub async fn certify(cluster: &mut LocalCluster, id: u64) {
    let (endpoints, ca) = (cluster.endpoints(), cluster.dir().join("ca"));
    let tls = cluster.node(id).unwrap().data_dir.join("tls");
    let request = tls.join("node.csr");
    let args = ["cert", "sign", request.to_str().unwrap(), "--ca", ca.to_str().unwrap()];
    stdout(&indelible_at(&endpoints, &args).await);
    std::fs::copy(ca.join("ca.crt"), tls.join("ca.crt")).unwrap();
}

/// An administrator's profile without a policy.
pub fn bare_profile(cluster: &LocalCluster) -> PathBuf {
    cluster.dir().join("bare.toml")
}

/// Profiles by the client addresses that they are good for.
static PROFILES: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());

fn remember(node: &LocalNode, cluster: &LocalCluster) {
    let mut profiles = PROFILES.lock().unwrap_or_else(PoisonError::into_inner);
    profiles.insert(node.client_addr.clone(), bare_profile(cluster));
}

/// The profile that is good for the node at `addr`.
pub fn profile_for(addr: &str) -> Option<PathBuf> {
    PROFILES.lock().unwrap_or_else(PoisonError::into_inner).get(addr).cloned()
}

fn transport(addr: &str) -> Transport {
    let profile = profile_for(addr).unwrap_or_else(|| panic!("{addr} is no node of a group"));
    Transport::Tls(Profile::read(profile).unwrap().tls().unwrap())
}

/// What `init` wrote: whose signatures count.
pub fn policy_file(cluster: &LocalCluster) -> PathBuf {
    cluster.policy()
}

/// The same, read.
pub fn policy(cluster: &LocalCluster) -> Policy {
    std::fs::read_to_string(policy_file(cluster)).unwrap().parse().unwrap()
}

/// For a client that does not give up during an election.
pub fn options(cluster: &LocalCluster) -> Options {
    let profile = Profile::read(bare_profile(cluster)).unwrap().options().unwrap();
    let endpoints = cluster.endpoints();
    Options { request_timeout: PATIENCE, endpoints, ..profile }
}

/// A client that does not give up during an election, of a group whose first entry is on a majority:
/// before, the others would not know that they may elect.
pub async fn client(cluster: &LocalCluster) -> Client {
    let connect = || {
        let options = options(cluster);
        async move { Client::connect_with(options).await.ok() }
    };
    let client = eventually("a node answers", connect).await;
    within(PATIENCE, "a leader", client.wait_for_leader()).await;
    client.tree_head(Level::Linearizable).await.expect("a leader that can serve reads");
    client
}

/// Asks until there is an answer. Fails the test after [`PATIENCE`].
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, ask: impl Fn() -> F) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        if began.elapsed() >= PATIENCE {
            timeout(format_args!("{what}: not within {PATIENCE:?}"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Asks one node until it answers: it may lag for a moment, or an election may be under way. Any
/// other refusal fails the test.
pub async fn patiently<T, F>(ask: impl Fn() -> F) -> T
where
    F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
{
    eventually("the node answers", || async {
        let status = match ask().await {
            Ok(response) => return Some(response.into_inner()),
            Err(status) => status,
        };
        let reason = Rejected::from_status(&status).map(|rejected| rejected.reason);
        let passing = [Reason::StaleReplica, Reason::NoLeader, Reason::LeaseExpired];
        assert!(reason.is_some_and(|reason| passing.contains(&reason)), "{status:?}");
        None
    })
    .await
}

pub async fn channel(addr: &str) -> Channel {
    let transport = transport(addr);
    let connect = || async { indelible_client::connect::channel(addr, &transport).await.ok() };
    eventually("a node listens", connect).await
}

pub async fn audit_log(addr: &str) -> AuditLogClient<Channel> {
    AuditLogClient::new(channel(addr).await).max_decoding_message_size(4 << 20)
}

pub async fn view(addr: &str) -> Option<v1::ClusterView> {
    let channel = indelible_client::connect::channel(addr, &transport(addr)).await.ok()?;
    let answer = ClusterClient::new(channel).get_cluster(v1::GetClusterRequest {}).await;
    Some(answer.ok()?.into_inner())
}

/// The newest note of the node at `addr` that covers `size` leaves, as soon as there is one.
pub async fn note(addr: &str, size: u64) -> String {
    let ask = || async {
        let request = v1::GetCheckpointRequest { size_min: size, wait_ms: 5_000, witnessed: false };
        let note =
            audit_log(addr).await.get_checkpoint(request).await.ok()?.into_inner().checkpoint;
        let covers = Note::parse(&note)
            .is_ok_and(|note| Checkpoint::parse(&note.text).unwrap().size >= size);
        covers.then_some(note)
    };
    eventually("a checkpoint", ask).await
}

/// Who leads, as a majority of the running nodes says.
pub async fn leader(cluster: &LocalCluster) -> u64 {
    eventually("a leader that says so itself", || async {
        for node in &cluster.nodes {
            if let Some(view) = view(&node.client_addr).await
                && view.role() == v1::Role::Leader
                && view.quorum_ack_age_ms.is_some_and(|age| age < 1000)
            {
                return Some(view.node_id);
            }
        }
        None
    })
    .await
}

/// How a node's process ends by itself.
pub async fn ended(node: &mut LocalNode) -> ExitStatus {
    let began = Instant::now();
    while node.is_running() {
        if began.elapsed() >= PATIENCE {
            timeout(format_args!(
                "node {} still runs; its log ends with {}",
                node.id,
                node.log_tail()
            ));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    node.wait().unwrap()
}

/// Runs the command line tool against a cluster.
pub async fn indelible(cluster: &LocalCluster, args: &[&str]) -> Output {
    indelible_at(&cluster.endpoints(), args).await
}

pub async fn indelible_at(endpoints: &[String], args: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(BINARY);
    for name in ["POLICY", "TRUST_ON_FIRST_USE", "CHECKPOINT_FILE", "PROFILE", "CLEAR_TEXT"] {
        command.env_remove(format!("INDELIBLE_{name}"));
    }
    match endpoints.iter().find_map(|addr| profile_for(addr)) {
        Some(profile) => command.env("INDELIBLE_PROFILE", profile),
        None => command.env("INDELIBLE_CLEAR_TEXT", "true"),
    };
    command.kill_on_drop(true).env("INDELIBLE_ENDPOINTS", endpoints.join(",")).args(args);
    within(PATIENCE, &format!("indelible {args:?}"), command.output()).await.unwrap()
}

/// Its standard output, if it succeeded.
pub fn stdout(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{}\n{text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// Real audit data (tests/data/README.md).
pub fn data(file: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(file);
    assert!(path.exists(), "{} is missing", path.display());
    path
}

pub const CLOUDTRAIL: &str = "cloudtrail/ec2_proxy_s3_exfiltration.jsonl";
pub const SSHD: &str = "openssh/OpenSSH_2k.log";

/// A whole trail, read from one node, with every hash recomputed here.
pub struct Trail {
    pub records: Vec<(Leaf, Vec<u8>)>,
    pub root: Hash,
}

impl Trail {
    /// Reads `size` records from the node at `addr`, waiting until it has them.
    pub async fn read(addr: &str, size: u64) -> Trail {
        let request = v1::ReadRequest {
            from: 0,
            to: size,
            follow: true,
            level: Some(v1::ReadLevel { level: Some(v1::read_level::Level::Any(true)) }),
            ..Default::default()
        };
        let mut stream = audit_log(addr).await.read(request).await.unwrap().into_inner();
        let mut frontier = Frontier::default();
        let mut records = Vec::new();
        while let Some(response) = stream.message().await.unwrap() {
            for record in response.records {
                assert_eq!(record.index, frontier.size(), "no gaps");
                let leaf = Leaf::decode(&record.leaf).unwrap();
                let salt = Salt::from_slice(&record.salt).unwrap();
                assert_eq!(commit(&salt, &record.event), leaf.commitment, "leaf {}", record.index);
                frontier.append(leaf_hash(&leaf.encode()));
                records.push((leaf, record.event.to_vec()));
            }
        }
        assert_eq!(frontier.size(), size);
        Trail { records, root: frontier.root() }
    }

    /// The same trail from every node, or the test fails.
    pub async fn read_everywhere(cluster: &LocalCluster, client: &Client) -> Trail {
        let size = client.tree_head(Level::Linearizable).await.unwrap().tree_size;
        let mut first: Option<Trail> = None;
        for node in &cluster.nodes {
            let trail = Trail::read(&node.client_addr, size).await;
            let request = v1::ProveConsistencyRequest { old_size: size, new_size: size };
            let mut direct = audit_log(&node.client_addr).await;
            let head = direct.prove_consistency(request).await.unwrap().into_inner();
            assert_eq!(head.new_root, trail.root.0.to_vec(), "node {} says another root", node.id);
            if let Some(first) = &first {
                assert_eq!(first.root, trail.root, "node {} has another root", node.id);
            } else {
                first = Some(trail);
            }
        }
        first.unwrap()
    }

    /// Events of each producer by its first `opened`, in trail order; asserts that seqs are 1, 2,
    /// 3, ... and that no leaf's stamp goes backwards.
    pub fn events_by_producer(&self) -> BTreeMap<Vec<u8>, Vec<Vec<u8>>> {
        use prost::Message;
        let mut names: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        let mut events: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
        let mut received = 0;
        for (index, (leaf, event)) in self.records.iter().enumerate() {
            assert!(leaf.received >= received, "leaf {index}: received goes backwards");
            received = leaf.received;
            match leaf.kind {
                Kind::ProducerOpened => {
                    let opened = v1::ProducerOpened::decode(&event[..]).unwrap();
                    names.insert(index as u64, opened.producer_id.to_vec());
                }
                Kind::Event => {
                    let producer = names.get(&leaf.opened).expect("opened before it appends");
                    let list = events.entry(producer.clone()).or_default();
                    list.push(event.clone());
                    assert_eq!(leaf.seq, list.len() as u64, "leaf {index}: a gap or a repetition");
                }
                _ => {}
            }
        }
        events
    }
}

/// Stops every node in an orderly way, then compares sealed segments byte by byte and lets `check`
/// re-read everything.
pub fn stop_and_compare(cluster: &mut LocalCluster) -> usize {
    let mut segments: BTreeMap<String, (u64, Vec<u8>)> = BTreeMap::new();
    let mut compared = 0;
    for node in &mut cluster.nodes {
        if node.is_running() {
            assert!(node.stop().unwrap().success(), "node {}: {}", node.id, node.log_tail());
        }
        let check = std::process::Command::new(BINARY).arg("check").arg(&node.data_dir).output();
        let check = check.unwrap();
        let text = String::from_utf8_lossy(&check.stdout);
        assert!(check.status.success(), "check of node {}: {text}", node.id);
        let dir = node.data_dir.join("segments");
        let mut names: Vec<_> =
            std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        // The last one, and one preallocated ahead of it, are not sealed.
        for name in names.iter().take(names.len().saturating_sub(2)) {
            let bytes = std::fs::read(dir.join(name)).unwrap();
            let name = name.to_string_lossy().into_owned();
            match segments.get(&name) {
                Some((other, expected)) => {
                    assert!(
                        *expected == bytes,
                        "segment {name}: nodes {other} and {} differ",
                        node.id
                    );
                    compared += 1;
                }
                None => drop(segments.insert(name, (node.id, bytes))),
            }
        }
    }
    eprintln!("{compared} sealed segments compared");
    compared
}

/// All files below a folder, and the folders that they are in.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_folder(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}
