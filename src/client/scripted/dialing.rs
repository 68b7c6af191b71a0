//! Connections over TLS: what is believed, what is refused, and what a person is told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use indelible_core::{Policy, ProducerId, TrailId};
use indelible_proto::{Reason, Rejected};
use indelible_tls::issue::{Issued, Leaf};
use indelible_tls::{Certificate, Name, Revoked};

use super::doors::{
    DAY, Doors, NodeFiles, ProfileDir, TRAIL, authority, client_leaf, node_leaf, now,
};
use super::fake::{Act, Fake};
use super::policy;
use crate::connect::channel;
use crate::{
    AppendError, CallError, Client, ConnectError, DialError, Event, Level, Options, Profile, Tls,
    Transport,
};

fn event(number: u64) -> Event {
    Event::new("alice", "invoice.delete", format!("invoice/{number}"))
}

fn patient(options: Options) -> Options {
    Options {
        // What is final is told at once, so these are not waited for.
        reach_timeout: Duration::from_secs(60),
        connect_timeout: Duration::from_secs(20),
        request_timeout: Duration::from_secs(60),
        ..options
    }
}

fn options(files: &ProfileDir) -> Options {
    patient(Options::from_profile(files.file("client.toml")).expect("a profile"))
}

/// The error of a client that no node lets in, or that believes none. It is told long before the
/// `reach_timeout`.
async fn refused(options: Options) -> String {
    let (began, limit) = (Instant::now(), options.reach_timeout);
    let Err(error) = Client::connect_with(options).await else { panic!("the node let it in") };
    assert!(matches!(error, ConnectError::Refused { .. }), "{error}");
    assert!(began.elapsed() < limit, "{error}");
    error.to_string()
}

/// Whether all of these are in it; every text says what to do.
fn says(text: &str, parts: &[&str]) {
    for part in parts.iter().chain(&["hint: "]) {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

/// Nodes behind TLS, with a client's certificate of their authority.
async fn group(count: u64) -> (Fake, Arc<Doors>, NodeFiles, Issued) {
    let authority = authority();
    let files = NodeFiles::by(&authority);
    let doors = Doors::new(&files);
    let fake = Fake::start_behind(count, Some(&doors)).await;
    let issued = authority.issue(&client_leaf()).expect("issues");
    (fake, doors, files, issued)
}

#[tokio::test]
async fn a_profile_is_all_that_a_client_needs() {
    let (fake, _doors, node, issued) = group(3).await;
    let files = ProfileDir::new(&fake.nodes[0].addr, &node.ca, Some(&issued));
    let client = Client::connect_with(options(&files)).await.expect("a node lets it in");
    let producer = client.producer(ProducerId([1; 16]), "one").open().await.expect("opens");
    let receipt = producer.append(event(1)).await.expect("is recorded");
    let record = client.get(receipt.index, Level::Linearizable).await.expect("reads");
    assert_eq!(record.index, receipt.index);
    // The members that it learned of are reached in the same way.
    let status = client.status().await;
    assert_eq!(status.iter().filter(|node| node.view.is_ok()).count(), 3, "{status:?}");
}

#[tokio::test]
async fn clear_text_and_tls_do_not_understand_each_other_and_say_so() {
    let (fake, _doors, node, issued) = group(1).await;
    let clear_text = patient(fake.options());
    says(&refused(clear_text).await, &["speaks TLS", "INDELIBLE_PROFILE"]);

    let plain = Fake::start(1).await;
    let files = ProfileDir::new(&plain.nodes[0].addr, &node.ca, Some(&issued));
    says(&refused(options(&files)).await, &["speaks no TLS", "mode = \"off\"", "--clear-text"]);
}

#[tokio::test]
async fn another_port_of_a_node_is_told_as_such() {
    // gRPC without our services, as on the raft port; HTTP answers 404, which is the same.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let addr = listener.local_addr().expect("bound").to_string();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let empty = tonic::service::Routes::default();
    let server = tonic::transport::Server::builder().add_routes(empty);
    tokio::spawn(server.serve_with_incoming(incoming));
    let mut options = Options::new([addr]).expect("valid");
    options.clear_text = true;
    says(&refused(patient(options)).await, &["no client port", "raft port", "client_addr"]);
}

#[tokio::test]
async fn an_http_port_behind_tls_is_told_as_such() {
    let authority = authority();
    let issued = authority.issue(&client_leaf()).expect("issues");
    let node = authority.issue(&node_leaf(TRAIL)).expect("issues");
    let files =
        ProfileDir::new(&answer_as(&node, b"http/1.1").await, authority.cert_pem(), Some(&issued));
    says(&refused(options(&files)).await, &["no client port", "HTTP port"]);
}

/// A chain of errors as the command line prints it.
fn printed(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(&format!(": {inner}"));
        source = inner.source();
    }
    text
}

#[tokio::test]
async fn a_node_of_another_authority_is_not_believed() {
    let (fake, _doors, _node, issued) = group(1).await;
    let files = ProfileDir::new(&fake.nodes[0].addr, authority().cert_pem(), Some(&issued));
    says(&refused(options(&files)).await, &["not issued by", "ca.crt", "made anew"]);
}

#[tokio::test]
async fn a_node_of_another_trail_is_not_believed() {
    let (authority, other) = (authority(), TrailId([8; 16]));
    let files = NodeFiles::of(&authority, &node_leaf(other));
    let doors = Doors::of_trail(&files, other);
    let fake = Fake::start_behind(1, Some(&doors)).await;
    let issued = authority.issue(&client_leaf()).expect("issues");
    let profile = ProfileDir::new(&fake.nodes[0].addr, &files.ca, Some(&issued));
    says(&refused(options(&profile)).await, &["not believed", "another trail"]);
}

#[tokio::test]
async fn a_client_that_answers_as_a_node_is_not_believed() {
    let authority = authority();
    let node = NodeFiles::by(&authority);
    // Somebody has a client's certificate of the right authority, and the node's address.
    let thief = authority.issue(&client_leaf()).expect("issues");
    let addr = answer_as(&thief, b"h2").await;
    let files = ProfileDir::new(&addr, &node.ca, Some(&thief));
    says(&refused(options(&files)).await, &["not believed"]);
}

/// A server with this certificate, which speaks this protocol.
async fn answer_as(issued: &Issued, protocol: &[u8]) -> String {
    use indelible_tls::pki_types::pem::PemObject;
    use indelible_tls::pki_types::{CertificateDer, PrivateKeyDer};
    use indelible_tls::rustls::{ServerConfig, crypto::ring::default_provider};
    let cert = CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).expect("a key");
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![cert], key)
        .expect("a configuration");
    config.alpn_protocols = vec![protocol.to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let addr = listener.local_addr().expect("bound").to_string();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let _ = acceptor.accept(tcp).await;
        }
    });
    addr
}

#[tokio::test]
async fn a_node_with_an_expired_certificate_is_not_believed() {
    let authority = authority();
    let leaf = node_leaf(TRAIL);
    let leaf = Leaf { not_before: Some(now() - 5 * DAY), not_after: Some(now() - DAY), ..leaf };
    let files = NodeFiles::of(&authority, &leaf);
    let fake = Fake::start_behind(1, Some(&Doors::new(&files))).await;
    let issued = authority.issue(&client_leaf()).expect("issues");
    let profile = ProfileDir::new(&fake.nodes[0].addr, &files.ca, Some(&issued));
    says(&refused(options(&profile)).await, &["has expired", "indelible cert renew", "clock"]);
}

#[tokio::test]
async fn an_expired_client_is_told_which_certificate_and_since_when() {
    let authority = authority();
    let files = NodeFiles::by(&authority);
    let fake = Fake::start_behind(1, Some(&Doors::new(&files))).await;
    let (begin, end) = (now() - 5 * DAY, now() - DAY);
    let leaf = Leaf { not_before: Some(begin), not_after: Some(end), ..client_leaf() };
    let issued = authority.issue(&leaf).expect("issues");
    let profile = ProfileDir::new(&fake.nodes[0].addr, &files.ca, Some(&issued));
    let end = prost_types::Timestamp { seconds: end, nanos: 0 }.to_string();
    let day = end.split('T').next().expect("a day");
    let text = refused(options(&profile)).await;
    says(&text, &["client.crt", "expired", day, "indelible cert client"]);
}

#[tokio::test]
async fn a_foreign_client_is_told_that_its_authority_is_another() {
    let (fake, _doors, node, _issued) = group(1).await;
    let foreign = authority().issue(&client_leaf()).expect("issues");
    // The alert must not be lost in the connection's end, however the two meet.
    for _ in 0..20 {
        let files = ProfileDir::new(&fake.nodes[0].addr, &node.ca, Some(&foreign));
        let text = refused(options(&files)).await;
        says(&text, &["client.crt", "not issued by an authority that the node accepts"]);
    }
}

#[tokio::test]
async fn a_client_of_another_trail_is_told_that_its_name_does_not_count() {
    let authority = authority();
    let files = NodeFiles::by(&authority);
    let fake = Fake::start_behind(1, Some(&Doors::new(&files))).await;
    let name = Name::new(TrailId([8; 16]), client_leaf().name.role).expect("valid");
    let issued = authority.issue(&Leaf::new(name)).expect("issues");
    let profile = ProfileDir::new(&fake.nodes[0].addr, &files.ca, Some(&issued));
    says(&refused(options(&profile)).await, &["another trail", "indelible cert show"]);
}

fn revocation(authority: &indelible_tls::issue::Authority, issued: &Issued) -> String {
    let leaf = &Certificate::from_pem(issued.cert_pem.as_bytes()).expect("a certificate")[0];
    let revoked = Revoked { serial: leaf.serial.clone(), at: now() };
    authority.revoke(&[revoked], 1).expect("a list")
}

#[tokio::test]
async fn a_revoked_client_is_told_so() {
    let authority = authority();
    let issued = authority.issue(&client_leaf()).expect("issues");
    let crl = Some(revocation(&authority, &issued));
    let files = NodeFiles { crl, ..NodeFiles::by(&authority) };
    let fake = Fake::start_behind(1, Some(&Doors::new(&files))).await;
    let profile = ProfileDir::new(&fake.nodes[0].addr, &files.ca, Some(&issued));
    says(&refused(options(&profile)).await, &["client.crt", "is revoked", "indelible cert client"]);
}

/// Nodes that know this client no more.
fn unauthenticated() -> Rejected {
    Rejected::new(Reason::Unauthenticated, "no client certificate was shown")
}

#[tokio::test]
async fn a_client_without_a_certificate_is_told_to_get_one() {
    let (fake, _doors, node, _issued) = group(1).await;
    fake.nodes[0].close(Some(unauthenticated()));
    let files = ProfileDir::new(&fake.nodes[0].addr, &node.ca, None);
    let text = refused(options(&files)).await;
    says(&text, &["no client certificate was shown", "UNAUTHENTICATED", "INDELIBLE_PROFILE"]);
}

#[tokio::test]
async fn refused_calls_are_not_repeated_and_the_node_stays() {
    let (fake, _doors, node, issued) = group(3).await;
    let files = ProfileDir::new(&fake.nodes[0].addr, &node.ca, Some(&issued));
    let client = Client::connect_with(options(&files)).await.expect("a node lets it in");
    let producer = client.producer(ProducerId([1; 16]), "one").open().await.expect("opens");
    producer.append(event(1)).await.expect("is recorded");
    let links = || client.table().links().iter().map(|link| link.generation).collect::<Vec<_>>();
    client.status().await;
    let before = links();

    let forbidden = Rejected::new(Reason::Forbidden, "client billing may not change the group");
    fake.nodes[0].close(Some(forbidden));
    let Err(error) = client.remove_node(3, "a test").await else { panic!("it was allowed") };
    assert!(matches!(&error, CallError::Rejected(why) if why.reason == Reason::Forbidden));
    says(&error.to_string(), &["may not change the group", "admin certificate"]);
    fake.nodes[0].close(None);

    let calls = fake.nodes[0].calls().len();
    fake.nodes[0].script([Act::Refuse(unauthenticated())]);
    let Err(error) = producer.append(event(2)).await else { panic!("it was recorded") };
    assert!(matches!(&error, AppendError::Rejected(why) if why.reason == Reason::Unauthenticated));
    says(&error.to_string(), &["INDELIBLE_PROFILE"]);
    assert_eq!(fake.nodes[0].calls().len(), calls + 1);

    // One node asked, and no other after it.
    let asked = || fake.nodes.iter().map(|node| node.calls().len()).sum::<usize>();
    let before_reading = asked();
    for node in &fake.nodes {
        node.script([Act::Refuse(unauthenticated())]);
    }
    let Err(error) = client.get(0, Level::Any).await else { panic!("it was read") };
    assert!(matches!(&error, CallError::Rejected(why) if why.reason == Reason::Unauthenticated));
    assert_eq!(asked(), before_reading + 1);
    assert_eq!(links(), before, "the connections are the same");
}

#[tokio::test]
async fn a_status_of_a_proxy_that_lets_nobody_in_is_final_too() {
    for (status, reason) in [
        (tonic::Status::unauthenticated("who are you?"), Reason::Unauthenticated),
        (tonic::Status::permission_denied("not you"), Reason::Forbidden),
    ] {
        let crate::error::Failure::Rejected(rejected) = status.into() else {
            panic!("it would be tried again")
        };
        assert_eq!(rejected.reason, reason);
    }
}

#[tokio::test]
async fn a_certificate_is_replaced_under_a_running_client() {
    let authority = authority();
    let old = authority.issue(&client_leaf()).expect("issues");
    let node = NodeFiles::by(&authority);
    let doors = Doors::new(&node);
    let fake = Fake::start_behind(3, Some(&doors)).await;
    let files = ProfileDir::new(&fake.nodes[0].addr, &node.ca, Some(&old));
    let client = Client::connect_with(options(&files)).await.expect("a node lets it in");
    let producer = client.producer(ProducerId([1; 16]), "one").open().await.expect("opens");
    producer.append(event(1)).await.expect("is recorded");

    // First a file that is no certificate: the old one stays.
    files.write("client.crt", "-----BEGIN CERTIFICATE-----\nhalf");
    doors.change(&node);
    producer.append(event(2)).await.expect("is recorded with the certificate that was read");

    // A key that others can read is not taken up either: they may have put it there.
    files.renew(&super::doors::authority().issue(&client_leaf()).expect("issues"));
    files.set_mode("client.key", 0o640);
    doors.change(&node);
    producer.append(event(3)).await.expect("is recorded with the certificate that was read");

    // The new one, and the old one is revoked.
    files.renew(&authority.issue(&client_leaf()).expect("issues"));
    let crl = Some(revocation(&authority, &old));
    doors.change(&NodeFiles { crl, ..node });
    producer.append(event(4)).await.expect("is recorded with the new certificate");
    assert_eq!(fake.recorded().len(), 4);
}

#[tokio::test]
async fn the_authority_is_replaced_under_a_running_client() {
    let (old, new) = (authority(), authority());
    let old_client = old.issue(&client_leaf()).expect("issues");
    let doors = Doors::new(&NodeFiles::by(&old));
    let fake = Fake::start_behind(3, Some(&doors)).await;
    let files = ProfileDir::new(&fake.nodes[0].addr, old.cert_pem(), Some(&old_client));
    let client = Client::connect_with(options(&files)).await.expect("a node lets it in");
    let producer = client.producer(ProducerId([1; 16]), "one").open().await.expect("opens");
    producer.append(event(1)).await.expect("is recorded");

    let both = format!("{}{}", old.cert_pem(), new.cert_pem());
    files.write("ca.crt", &both);
    doors.change(&NodeFiles { ca: both, ..NodeFiles::by(&new) });
    producer.append(event(2)).await.expect("is recorded by a node with a new certificate");

    files.renew(&new.issue(&client_leaf()).expect("issues"));
    doors.change(&NodeFiles::by(&new));
    producer.append(event(3)).await.expect("is recorded for a client with a new certificate");
    assert_eq!(fake.recorded().len(), 3);
}

#[tokio::test]
async fn one_connection_is_offered_to_others() {
    use indelible_proto::v1::GetClusterRequest;
    use indelible_proto::v1::cluster_client::ClusterClient;
    let (fake, _doors, node, issued) = group(1).await;
    let addr = &fake.nodes[0].addr;
    let files = ProfileDir::new(addr, &node.ca, Some(&issued));
    let transport = options(&files).transport().expect("certificates");
    let channel_of = channel(addr, &transport).await.expect("connects");
    let view = ClusterClient::new(channel_of).get_cluster(GetClusterRequest {}).await;
    assert_eq!(view.expect("answers").into_inner().node_id, 1);

    let strange = Tls::from_pem(
        crate::TlsPem { ca: authority().cert_pem().into(), identity: None },
        Some(TRAIL),
    );
    let strange = Transport::Tls(strange.expect("certificates"));
    let error = channel(addr, &strange).await.expect_err("another authority");
    assert!(matches!(error, DialError::NotBelieved { .. }), "{error}");
}

#[test]
fn a_profile_says_where_its_files_are() {
    let authority = authority();
    let issued = authority.issue(&client_leaf()).expect("issues");
    let files = ProfileDir::new("127.0.0.1:7101", authority.cert_pem(), Some(&issued));
    let mut text = std::fs::read_to_string(files.file("client.toml")).expect("reads");
    text.push_str("policy = \"policy.txt\"\n");
    files.write("client.toml", &text);
    files.write("policy.txt", &policy().to_string());
    let profile = Profile::read(files.file("client.toml")).expect("a profile");
    assert_eq!(profile.ca, files.path().join("ca.crt"));
    assert_eq!(profile.trail, Some(TRAIL));
    let read = profile.options().expect("files");
    assert_eq!(read.policy.as_ref().map(Policy::to_string), Some(policy().to_string()));
    assert!(!read.clear_text);
    let shown = format!("{read:?}");
    assert!(!shown.contains("PRIVATE") && shown.contains("client.crt"), "{shown}");
}

#[test]
fn a_profile_that_is_of_no_use_says_why() {
    let authority = authority();
    let issued = authority.issue(&client_leaf()).expect("issues");
    let files = ProfileDir::new("127.0.0.1:7101", authority.cert_pem(), Some(&issued));
    let error = || match Options::from_profile(files.file("client.toml")) {
        Err(error) => {
            assert_eq!(printed(&error), error.to_string(), "nothing is said twice");
            error.to_string()
        }
        Ok(_) => panic!("it was taken"),
    };
    for mode in [0o640, 0o604, 0o620, 0o602] {
        files.set_mode("client.key", mode);
        says(&error(), &["client.key", &format!("{mode:04o}"), "chmod 600"]);
    }
    files.renew(&issued);
    Options::from_profile(files.file("client.toml")).expect("now it is good");

    files.renew(&Issued {
        cert_pem: authority.issue(&client_leaf()).expect("issues").cert_pem,
        key_pem: issued.key_pem.clone(),
    });
    says(&error(), &["client.key", "does not belong to cert"]);
    files.renew(&issued);
    files.write("ca.crt", "nothing");
    says(&error(), &["ca.crt", "certificate"]);
    std::fs::remove_file(files.file("ca.crt")).expect("removes");
    assert!(error().contains("ca.crt") && error().contains("No such file"), "{}", error());

    files.write("client.toml", "endpoints = [\"a:1\"]\nca = \"c\"\ncert = \"d\"\n");
    says(&error(), &["client.toml", "cert and key"]);
    files.write("client.toml", "endpoints = [\"a:1\"]\nca = \"c\"\ntrail = \"12\"\n");
    says(&error(), &["client.toml", "trail", "32 hexadecimal digits"]);
    files.write("client.toml", "endpoint = [\"a:1\"]\nca = \"c\"\n");
    says(&error(), &["client.toml", "endpoint"]);
}
