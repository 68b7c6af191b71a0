//! What is in files and configurations: who may read it, and where a node listens.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use indelible_client::Level;
use indelible_local::{LocalCluster, free_ports};
use indelible_testkit::fail::{environment, within};
use indelible_tls::Role;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::load::Load;
use super::wire::{Forge, HTTP, drained, tls};
use crate::harness::{
    BINARY, PATIENCE, client, eventually, indelible, leader, nodes_with, stdout, view,
};

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

/// What `serve` says if it refuses to run.
async fn refused_start(config: &Path) -> String {
    let mut serve = tokio::process::Command::new(BINARY);
    serve.arg("serve").arg("--config").arg(config).stdin(Stdio::null()).kill_on_drop(true);
    let output = within(PATIENCE, "serve refuses", serve.output()).await.unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Every file and folder below one that others have access to.
fn open_to_others(folder: &Path) -> Vec<String> {
    let mut open = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if mode(&path) & 0o077 != 0 {
            open.push(format!("{} {:o}", path.display(), mode(&path)));
        }
        if path.is_dir() {
            open.extend(open_to_others(&path));
        }
    }
    open
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a25_an_insecure_node_listens_on_loopback_only() {
    let mut cluster = nodes_with(1, None, "");
    client(&cluster).await;
    let node = &mut cluster.nodes[0];
    assert!(node.stop().unwrap().success());
    let config = std::fs::read_to_string(&node.config).unwrap();
    let everywhere = |name: &str, addr: &str| {
        let port = addr.rsplit_once(':').unwrap().1;
        format!("{name} = \"0.0.0.0:{port}\"\n")
    };
    for (name, addr) in [
        ("client_listen", &node.client_addr),
        ("raft_listen", &node.raft_addr),
        ("http_listen", &node.http_addr),
        ("metrics_addr", &format!("127.0.0.1:{}", free_ports(1).unwrap()[0])),
    ] {
        for (mode, hint) in [("off", "indelible cert"), ("accept", "tls.migration = true")] {
            let insecure = format!("{config}{}tls.mode = \"{mode}\"\n", everywhere(name, addr));
            std::fs::write(&node.config, insecure).unwrap();
            let said = refused_start(&node.config).await;
            let wanted = [&format!("tls.mode = \"{mode}\" with 0.0.0.0:"), "hint:", hint];
            assert!(wanted.iter().all(|wanted| said.contains(*wanted)), "{name} {mode}: {said}");
        }
    }
    let probe = config.replace("probe_addr = \"127.0.0.1", "probe_addr = \"0.0.0.0");
    std::fs::write(&node.config, probe).unwrap();
    let said = refused_start(&node.config).await;
    assert!(said.contains("probe_addr") && said.contains("not a loopback address"), "{said}");

    // On the way to TLS, and never silently.
    let listen = everywhere("client_listen", &node.client_addr);
    let moving = format!("{config}{listen}tls.mode = \"accept\"\ntls.migration = true\n");
    std::fs::write(&node.config, moving).unwrap();
    node.start().unwrap();
    client(&cluster).await;
    let node = &cluster.nodes[0];
    assert!(node.log_text().contains("clear text is accepted beside TLS"), "{}", node.log_tail());
    assert_eq!(super::wire::metric(node, "indelible_insecure").await, 1.0);
}

/// The children of this process may dump core, unless they turn it off themselves.
fn allow_core_dumps() {
    let maximum = getrlimit(Resource::Core).maximum;
    if maximum == Some(0) {
        environment("core dumps cannot be allowed; hint: ulimit -H -c unlimited");
    }
    setrlimit(Resource::Core, Rlimit { current: maximum, maximum }).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s15_files_are_private() {
    allow_core_dumps();
    let mut cluster = nodes_with(1, Some(8 * 1024), "");
    let sdk = client(&cluster).await;
    let load = Load::start(&sdk, b"private segments").await;
    load.goes_on(100).await;
    load.finish(&cluster, &sdk).await;
    let (proof, export) = (cluster.dir().join("one.proof"), cluster.dir().join("all.jsonl"));
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let proof_path = path(&proof);
    let append = [
        ["append", "--actor", "a", "--action", "b"],
        ["--target", "c", "--proof", &proof_path, "--json"],
    ]
    .concat();
    stdout(&indelible(&cluster, &append).await);
    stdout(&indelible(&cluster, &["export", "-o", &path(&export)]).await);
    for file in [&proof, &export] {
        assert_eq!(mode(file), 0o600, "{}", file.display());
    }

    let dir = cluster.dir().to_owned();
    let node = &mut cluster.nodes[0];
    assert_eq!(mode(&node.data_dir), 0o700);
    let open = open_to_others(&node.data_dir);
    let public = |line: &String| line.contains("/tls/node.crt ") || line.contains("/tls/ca.crt ");
    assert!(open.iter().all(public), "{open:#?}");
    for file in ["genesis", "LOCK", "derived/index/db", "identity", "log_key", "tls/node.key"] {
        assert_eq!(mode(&node.data_dir.join(file)), 0o600, "{file}");
    }
    for file in ["ca/ca.key", "admin/client.key"] {
        assert_eq!(mode(&dir.join(file)), 0o600, "{file}");
    }
    assert_eq!((mode(&dir.join("ca")), mode(&dir.join("admin"))), (0o700, 0o700));
    let dumps = format!("/proc/{}/limits", node.pid().unwrap());
    let dumps = std::fs::read_to_string(dumps).unwrap();
    let dumps = dumps.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    let soft_and_hard: Vec<_> = dumps.split_whitespace().skip(4).take(2).collect();
    assert_eq!(soft_and_hard, ["0", "0"], "{dumps}");

    // What others can read is no secret any more.
    assert!(node.stop().unwrap().success());
    for file in ["identity", "log_key", "tls/node.key"] {
        let file = node.data_dir.join(file);
        for open in [0o640, 0o604, 0o620] {
            set_mode(&file, open);
            let said = refused_start(&node.config).await;
            let wanted = [file.to_str().unwrap(), &format!("{open:o}"), "hint: chmod 600"];
            assert!(wanted.iter().all(|wanted| said.contains(*wanted)), "{said}");
        }
        set_mode(&file, 0o600);
    }
    set_mode(&node.data_dir, 0o755);
    node.start().unwrap();
    client(&cluster).await;
    let node = &cluster.nodes[0];
    assert!(node.log_text().contains("it is 0700 now"), "{}", node.log_tail());
    // Nor does a client show a key that others know.
    set_mode(&dir.join("admin/client.key"), 0o640);
    let status = indelible(&cluster, &["status"]).await;
    let said = String::from_utf8_lossy(&status.stderr).into_owned();
    assert!(!status.status.success() && said.contains("chmod 600"), "{said}");
}

/// The status line of an answer, over TLS; why there is none.
async fn get(addr: &str, who: Option<&indelible_tls::issue::Issued>, path: &str) -> String {
    let ask = async {
        let mut stream = tls(addr, who, HTTP).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut first = [0; 12];
        stream.read_exact(&mut first).await?;
        drained("an answer", PATIENCE, stream).await;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&first).into_owned())
    };
    within(PATIENCE, path, ask).await.unwrap_or_else(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_for_operators() {
    let metrics = format!("127.0.0.1:{}", free_ports(1).unwrap()[0]);
    let cluster = nodes_with(1, None, &format!("metrics_addr = \"{metrics}\"\n"));
    client(&cluster).await;
    let (node, forge) = (&cluster.nodes[0], Forge::of(&cluster));
    assert_eq!(get(&node.http_addr, None, "/livez").await, "HTTP/1.1 200");
    assert_eq!(get(&node.http_addr, None, "/metrics").await, "HTTP/1.1 404");
    let admin = forge.issue(Role::Admin("admin".into()));
    assert_eq!(get(&node.http_addr, Some(&admin), "/metrics").await, "HTTP/1.1 404");
    let addr = node.probe_addr.clone();
    let probed = tokio::task::spawn_blocking(move || crate::http::get(&addr, "/metrics"));
    assert_eq!(probed.await.unwrap().status, 200);

    let refusal = get(&metrics, None, "/metrics").await;
    assert!(refusal.contains("CertificateRequired"), "{refusal}");
    let scraper = forge.client("prometheus");
    assert_eq!(get(&metrics, Some(&scraper), "/metrics").await, "HTTP/1.1 200");
}

/// Passes connections on from one address to another, as address translation does.
async fn forward(from: &str, to: String, tasks: &mut JoinSet<()>) {
    let listener = TcpListener::bind(from).await.unwrap();
    tasks.spawn(async move {
        while let Ok((mut inside, _)) = listener.accept().await {
            let to = to.clone();
            tokio::spawn(async move {
                let mut outside = TcpStream::connect(to).await?;
                copy_bidirectional(&mut inside, &mut outside).await
            });
        }
    });
}

/// Moves a node's sockets elsewhere, and forwards from where others look for it.
async fn move_behind_forwarders(cluster: &mut LocalCluster, tasks: &mut JoinSet<()>) {
    for node in &mut cluster.nodes {
        assert!(node.stop().unwrap().success());
        let mut config = std::fs::read_to_string(&node.config).unwrap();
        let ports = free_ports(3).unwrap();
        let advertised = [&node.client_addr, &node.raft_addr, &node.http_addr];
        for ((name, addr), port) in ["client", "raft", "http"].iter().zip(advertised).zip(ports) {
            config.push_str(&format!("{name}_listen = \"0.0.0.0:{port}\"\n"));
            forward(addr, format!("127.0.0.1:{port}"), tasks).await;
        }
        std::fs::write(&node.config, config).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listen_and_advertise_are_separate() {
    let mut cluster = nodes_with(3, None, "");
    client(&cluster).await;
    let mut tasks = JoinSet::new();
    move_behind_forwarders(&mut cluster, &mut tasks).await;
    for node in &mut cluster.nodes {
        node.start().unwrap();
    }
    let sdk = client(&cluster).await;
    let leads = leader(&cluster).await;
    let load = Load::start(&sdk, b"translated ports").await;
    load.goes_on(20).await;
    for node in &cluster.nodes {
        let view = eventually("a view", || view(&node.client_addr)).await;
        let said = view.nodes.iter().find(|member| member.id == node.id).unwrap();
        assert_eq!(said.client_addr, node.client_addr, "members know what is advertised");
        assert_eq!(said.raft_addr, node.raft_addr);
        assert_eq!(get(&node.http_addr, None, "/livez").await, "HTTP/1.1 200");
    }
    // A leader that is reached through a forwarder only leads all the same.
    assert!(sdk.tree_head(Level::Linearizable).await.is_ok(), "node {leads} leads");
    load.finish(&cluster, &sdk).await;
    drop(tasks);
}
