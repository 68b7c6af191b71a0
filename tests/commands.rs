//! The command line, as a person uses it.

use serde_json::Value;

use crate::harness::{CLOUDTRAIL, client, data, indelible, indelible_at, stdout, three_nodes};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn append_get_read_status_import_and_check() {
    let mut cluster = three_nodes();
    client(&cluster).await;
    let append =
        ["--json", "append", "--actor", "alice", "--action", "DELETE", "--target", "invoice/7"];
    let receipt: Value =
        serde_json::from_str(&stdout(&indelible(&cluster, &append).await)).unwrap();
    let index = receipt["index"].as_u64().expect("an index").to_string();

    let got: Value =
        serde_json::from_str(&stdout(&indelible(&cluster, &["get", &index]).await)).unwrap();
    assert_eq!(got["kind"], "event");
    assert_eq!(got["event"]["actor"]["id"], "alice");
    assert!(got["received"].as_str().unwrap().starts_with("20"));

    let path = data(CLOUDTRAIL);
    let import = ["import", "--format", "cloudtrail", path.to_str().unwrap()];
    let text = stdout(&indelible(&cluster, &import).await);
    let summary: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((&summary["events"], &summary["recorded"]), (&103.into(), &103.into()));
    let text = stdout(&indelible(&cluster, &import).await);
    let again: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((&again["recorded"], &again["duplicates"]), (&0.into(), &103.into()));
    assert_eq!(again["first_index"], summary["first_index"]);
    assert_eq!(again["last_index"], summary["last_index"]);

    let read = indelible(&cluster, &["read", "--from", "0", "--level", "linearizable"]).await;
    let lines: Vec<Value> =
        stdout(&read).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (index, line) in lines.iter().enumerate() {
        assert_eq!(line["index"], index);
    }
    assert_eq!(lines[0]["kind"], "membership", "leaf 0 is the genesis");
    let first = std::fs::read_to_string(&path).unwrap().lines().next().unwrap().to_owned();
    let at = summary["first_index"].as_u64().unwrap() as usize;
    assert_eq!(lines[at]["event"]["raw"]["text"], first);

    let status = stdout(&indelible(&cluster, &["status"]).await);
    assert!(status.contains("leader") && status.contains("follower"), "{status}");
    let transferred = indelible(&cluster, &["transfer-leader", "--reason", "a test"]).await;
    stdout(&transferred);

    // Errors are for people.
    let none = indelible_at(&["127.0.0.1:1".into()], &["status"]).await;
    assert!(!none.status.success());
    let missing = indelible(&cluster, &["get", "999999999"]).await;
    assert!(!missing.status.success());
    let message = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(message.contains("tree size"), "{message}");
    let running = cluster.nodes[0].data_dir.to_str().unwrap().to_owned();
    let locked = indelible(&cluster, &["check", &running]).await;
    assert!(!locked.status.success(), "a running node is not checked");

    crate::harness::stop_and_compare(&mut cluster);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_finds_a_flipped_byte_and_the_node_refuses_to_start_on_it() {
    let mut cluster = three_nodes();
    client(&cluster).await;
    let path = data(CLOUDTRAIL);
    stdout(
        &indelible(&cluster, &["import", "--format", "cloudtrail", path.to_str().unwrap()]).await,
    );
    let node = cluster.node(1).unwrap();
    assert!(node.stop().unwrap().success());
    let segment = node.data_dir.join("segments/00000000000000000000.seg");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[5000] ^= 0x10;
    std::fs::write(&segment, bytes).unwrap();
    let dir = node.data_dir.to_str().unwrap().to_owned();
    let check = indelible_at(&[], &["check", &dir]).await;
    assert_eq!(check.status.code(), Some(1));
    let text = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(text.contains("00000000000000000000.seg"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_probes_tell_leader_and_followers_apart() {
    let cluster = three_nodes();
    client(&cluster).await;
    let leads = crate::harness::leader(&cluster).await;
    for node in &cluster.nodes {
        let leader = if node.id == leads { 200 } else { 503 };
        let replica = if node.id == leads { 503 } else { 200 };
        for (path, status) in
            [("/livez", 200), ("/readyz", 200), ("/leader", leader), ("/replica", replica)]
        {
            crate::harness::eventually(&format!("{path} of node {}", node.id), || async {
                let (code, _) = get(&node.probe_addr, path).await;
                (code == status).then_some(())
            })
            .await;
        }
        let (code, text) = get(&node.probe_addr, "/metrics").await;
        assert_eq!(code, 200);
        assert!(text.contains("indelible_tree_size"), "{text}");
    }
}

async fn get(addr: &str, path: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut socket = tokio::net::TcpStream::connect(addr).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let code = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (code, answer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_says_everything_once() {
    let dir = tempfile::tempdir().unwrap();
    let bad = dir.path().join("bad.toml");
    std::fs::write(&bad, "no_such_field = 1\n").unwrap();
    let bad = bad.to_str().unwrap();
    for (args, once) in [
        (&["init", "no-such.toml"][..], "No such file"),
        (&["init", bad], "unknown field"),
        (&["serve", "--config", "no-such.toml"], "No such file"),
        (&["check", "no-such-folder"], "No such file"),
        (&["cert", "show", "no-such.crt"], "No such file"),
        (&["status", "--profile", "no-such.toml"], "No such file"),
        (&["verify", "--policy", "no-such.txt", bad], "No such file"),
    ] {
        let output = indelible_at(&[], args).await;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {text}");
        assert_eq!(text.matches(once).count(), 1, "{args:?}: {text}");
    }
}

/// Runs `cert` with these arguments; what it prints, and its exit code.
async fn cert(args: &[&str]) -> (String, Option<i32>) {
    let output = indelible_at(&[], &[&["cert"], args].concat()).await;
    let text = [output.stdout, output.stderr].concat();
    (String::from_utf8_lossy(&text).into_owned(), output.status.code())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cert_show_prints_certificates_requests_and_lists_and_fails_for_a_refused_chain() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let [ca, other, out] = ["ca", "other", ""].map(path);
    let trail = "0123456789abcdef0123456789abcdef";
    for folder in [&ca, &other] {
        let (text, code) = cert(&["ca", "--ca", folder, "--trail", trail]).await;
        assert_eq!(code, Some(0), "{text}");
    }
    let made = cert(&["client", "app", "--ca", &ca, "--out", &out]).await;
    assert_eq!(made.1, Some(0), "{}", made.0);

    let (crt, roots) = (path("app.crt"), path("ca/ca.crt"));
    let (text, code) = cert(&["show", &crt, "--roots", &roots]).await;
    assert!(code == Some(0) && text.contains("leads to a root"), "{text}");
    for format in [&["--json"][..], &[]] {
        let show = ["show", &crt, "--roots", &path("other/ca.crt")];
        let (text, code) = cert(&[&show, format].concat()).await;
        assert!(code == Some(1) && text.contains("refused"), "{text}");
    }

    let (_, code) = cert(&["revoke", &crt, "--ca", &ca]).await;
    assert_eq!(code, Some(0));
    let crl = path("ca/ca.crl");
    let serial = cert(&["show", &crt, "--json"]).await.0;
    let serial: Value = serde_json::from_str(&serial).unwrap();
    let serial = serial["certificates"][0]["serial"].as_str().unwrap().to_owned();
    let (text, code) = cert(&["show", &crt, "--roots", &roots, "--crl", &crl]).await;
    assert!(code == Some(1) && text.contains("revoked"), "{text}");
    let (text, code) = cert(&["show", &crl, "--roots", &roots]).await;
    assert!(code == Some(0) && text.contains(&serial) && text.contains("by a root"), "{text}");
    let (text, code) = cert(&["show", &crl, "--roots", &path("other/ca.crt")]).await;
    assert!(code == Some(1) && text.contains("no root has the name"), "{text}");
    let (text, code) = cert(&["show", &crl, "--json"]).await;
    let list: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &list["lists"][0]["revoked"][0]["serial"]), (Some(0), &serial.into()));

    let (text, code) = cert(&["renew", &crt, "--request"]).await;
    assert_eq!(code, Some(0), "{text}");
    let (text, code) = cert(&["show", &path("app.csr")]).await;
    assert!(code == Some(0) && text.contains("client/app"), "{text}");
    std::fs::write(dir.path().join("nothing"), "hello").unwrap();
    let (text, code) = cert(&["show", &path("nothing")]).await;
    assert!(code == Some(1) && text.contains("no certificate, request or rev"), "{text}");
}
