//! Real files through the parsers, a few lines in full, and lines that try to deceive.

use indelible_core::Kind;
use indelible_core::limits::EVENT_BYTES_MAX;
use indelible_proto::v1::{Event, Outcome};
use indelible_proto::{event_json, validate_event};
use prost::Message;
use serde_json::{Value, json};

use super::{ACTION_RAW, Format, Parsed, parse_line};

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/");

/// Parses a line and checks what holds for every line.
fn parse(format: Format, number: u64, line: &[u8], year: Option<i16>) -> Parsed {
    let parsed = parse_line(format, "test", number, line, year);
    let raw = parsed.event.raw.as_ref().unwrap();
    assert_eq!(raw.bytes, line, "raw is the line");
    let bytes = parsed.event.encode_to_vec();
    validate_event(&bytes).unwrap_or_else(|error| panic!("line {number}: {error}"));
    let again = parse_line(format, "test", number, line, year);
    assert_eq!(again.event.encode_to_vec(), bytes, "the same line gives the same bytes");
    assert_eq!(again.recognized, parsed.recognized);
    parsed
}

fn parse_file(format: Format, file: &str, year: Option<i16>) -> Vec<Parsed> {
    let content = std::fs::read(format!("{DATA}{file}")).expect("the file is in tests/data");
    let content = content.strip_suffix(b"\n").unwrap_or(&content);
    let lines = content.split(|byte| *byte == b'\n');
    lines.zip(1..).map(|(line, number)| parse(format, number, line, year)).collect()
}

fn cloudtrail() -> Vec<Parsed> {
    parse_file(Format::Cloudtrail, "cloudtrail/ec2_proxy_s3_exfiltration.jsonl", None)
}

fn openssh(year: Option<i16>) -> Vec<Parsed> {
    parse_file(Format::Syslog, "openssh/OpenSSH_2k.log", year)
}

/// The event as JSON, without its raw.
fn view(event: &Event) -> Value {
    let mut json = event_json(Kind::Event, &event.encode_to_vec());
    assert_eq!(json.get("schema_violation"), None);
    json.as_object_mut().unwrap().remove("raw");
    json
}

fn count(parsed: &[Parsed], action: &str, outcome: Outcome) -> usize {
    let is_it = |event: &Event| event.action == action && event.outcome() == outcome;
    parsed.iter().filter(|parsed| is_it(&parsed.event)).count()
}

#[test]
fn every_cloudtrail_record_is_recognized() {
    let parsed = cloudtrail();
    assert_eq!(parsed.len(), 103);
    assert!(parsed.iter().all(|parsed| parsed.recognized));
    assert!(parsed.iter().all(|parsed| parsed.event.time_unix_ns > 0));
    assert_eq!(count(&parsed, "s3:GetObject", Outcome::Success), 2);
    assert_eq!(count(&parsed, "sts:AssumeRole", Outcome::Success), 5);
    let delegated = parsed.iter().filter(|parsed| !parsed.event.delegation.is_empty()).count();
    assert_eq!(delegated, 11);
}

#[test]
fn cloudtrail_records_in_full() {
    let parsed = cloudtrail();
    let first = |action: &str| {
        view(&parsed.iter().find(|parsed| parsed.event.action == action).unwrap().event)
    };
    let role = "MordorNginxStack-BankingWAFRole-9S3E0UAE1MM0";
    let bucket = "mordors3stack-s3bucket-llp2yingx64a";
    let expected = json!({
        "id": "bf575a0c-c344-4302-a468-00e6a84a127a",
        "time_unix_ns": 1_600_045_233_000_000_000_u64,
        "type": "aws.AwsApiCall",
        "action": "s3:ListObjects",
        "outcome": "success",
        "actor": {
            "id": format!("arn:aws:sts::123456789123:assumed-role/{role}/i-0317f6c6b66ae9c40"),
            "type": "service",
        },
        "delegation": [{
            "id": format!("arn:aws:iam::123456789123:role/{role}"), "type": "service", "name": role,
        }],
        "targets": [
            {"id": format!("arn:aws:s3:::{bucket}/"), "type": "AWS::S3::Object"},
            {"id": format!("arn:aws:s3:::{bucket}"), "type": "AWS::S3::Bucket"},
        ],
        "source": {
            "ip": "1.2.3.4",
            "user_agent": "[aws-cli/1.18.136 Python/3.8.5 Darwin/19.5.0 botocore/1.17.59]",
        },
        "resource": {"service.name": "s3.amazonaws.com"},
        "attributes": {
            "aws.account_id": "123456789123",
            "aws.region": "us-east-1",
            "aws.request_id": "9E67F4B1EA896060",
        },
    });
    assert_eq!(first("s3:ListObjects"), expected);

    let assumed = first("sts:AssumeRole");
    assert_eq!(assumed["actor"], json!({"id": "ec2.amazonaws.com", "type": "service"}));
    assert_eq!(assumed["targets"][0]["type"], "AWS::IAM::Role");
    let types = first("ec2:DescribeInstanceTypes");
    let pedro = "arn:aws:iam::123456789123:user/pedro";
    assert_eq!(types["actor"], json!({"id": pedro, "type": "user", "name": "pedro"}));
    assert_eq!(types["targets"], json!([{"id": "ec2.amazonaws.com", "type": "service"}]));
}

#[test]
fn cloudtrail_failures_and_parameters() {
    let line = br#"{"eventTime":"2024-05-01T10:00:00Z","eventSource":"iam.amazonaws.com",
        "eventName":"DeleteRole","errorCode":"AccessDenied","errorMessage":"not you",
        "userIdentity":{"type":"Root","principalId":"42"},"requestParameters":{"roleName":"r"}}"#;
    let event = parse(Format::Cloudtrail, 1, line, None).event;
    let expected = json!({
        "id": "test:1", "time_unix_ns": 1_714_557_600_000_000_000_u64, "action": "iam:DeleteRole",
        "outcome": "failure", "reason": "AccessDenied: not you",
        "actor": {"id": "42", "type": "user"}, "targets": [{"id": "r", "type": "role"}],
        "resource": {"service.name": "iam.amazonaws.com"},
    });
    assert_eq!(view(&event), expected);

    let login = br#"{"eventSource":"signin.amazonaws.com","eventName":"ConsoleLogin",
        "errorMessage":"Failed authentication","responseElements":{"ConsoleLogin":"Failure"}}"#;
    let event = parse(Format::Cloudtrail, 1, login, None).event;
    assert_eq!(event.outcome(), Outcome::Failure);
    assert_eq!(event.actor.unwrap().id, "signin.amazonaws.com");

    let instances = br#"{"eventSource":"ec2.amazonaws.com","eventName":"StopInstances",
        "requestParameters":{"instancesSet":{"items":[{"instanceId":"i-1"},{"instanceId":"i-2"}]}}}"#;
    let targets = parse(Format::Cloudtrail, 1, instances, None).event.targets;
    assert_eq!(targets.iter().map(|target| &*target.id).collect::<Vec<_>>(), ["i-1", "i-2"]);
}

#[test]
fn sshd_lines_are_recognized() {
    for year in [None, Some(2023)] {
        let parsed = openssh(year);
        assert_eq!(parsed.len(), 2_000);
        let recognized = parsed.iter().filter(|parsed| parsed.recognized).count();
        assert!(recognized >= 1_980, "{recognized}");
        let timed = parsed.iter().filter(|parsed| parsed.event.time_unix_ns > 0).count();
        assert_eq!(timed, if year.is_some() { recognized } else { 0 });
    }
    let parsed = openssh(None);
    assert_eq!(count(&parsed, "LOGIN", Outcome::Success), 1);
    assert_eq!(count(&parsed, "SESSION_OPEN", Outcome::Success), 1);
    assert_eq!(count(&parsed, "SESSION_CLOSE", Outcome::Success), 1);
    let containing = |needles: &[&str]| {
        let text = |parsed: &Parsed| {
            String::from_utf8_lossy(&parsed.event.raw.as_ref().unwrap().bytes).into_owned()
        };
        let contains = |line: &String| needles.iter().any(|needle| line.contains(needle));
        parsed.iter().map(text).filter(contains).count()
    };
    let failed = containing(&["Failed ", "Invalid user "]);
    assert_eq!(count(&parsed, "LOGIN", Outcome::Failure), failed);
    let refused = containing(&["authentication failure;", "more authentication failure"]);
    assert_eq!(count(&parsed, "AUTHENTICATE", Outcome::Failure), refused);
    let mapping = containing(&["POSSIBLE BREAK-IN ATTEMPT!"]);
    assert_eq!(count(&parsed, "REVERSE_MAPPING_CHECK", Outcome::Failure), mapping);
    let gone = containing(&["Received disconnect", "Connection closed", "Disconnecting:"]);
    assert_eq!(count(&parsed, "DISCONNECT", Outcome::Unknown), gone);
}

#[test]
fn sshd_lines_in_full() {
    let parse = |line: &str| view(&parse(Format::Syslog, 7, line.as_bytes(), Some(2023)).event);
    let resource = json!({"host.name": "LabSZ", "service.name": "sshd"});
    let (host, root) =
        (json!({"id": "LabSZ", "type": "host"}), json!({"id": "root", "type": "account"}));

    let line = "Dec 10 07:13:56 LabSZ sshd[24227]: message repeated 5 times: \
        [ Failed password for root from 5.36.59.76 port 42393 ssh2]";
    let expected = json!({
        "id": "test:7", "time_unix_ns": 1_702_192_436_000_000_000_u64,
        "type": "user.login.failure", "action": "LOGIN", "outcome": "failure",
        "reason": line.split_once(": ").unwrap().1,
        "actor": {"id": "root", "type": "user"}, "targets": [&host, &root],
        "source": {"ip": "5.36.59.76"}, "resource": &resource,
        "attributes": {"process.pid": "24227", "source.port": "42393", "syslog.repeated": "5"},
    });
    assert_eq!(parse(line), expected);

    let line = "Dec 10 07:13:31 LabSZ sshd[24227]: pam_unix(sshd:auth): authentication failure; \
        logname= uid=0 euid=0 tty=ssh ruser= rhost=5.36.59.76.dynamic-dsl-ip.omantel.net.om  \
        user=root";
    let expected = json!({
        "id": "test:7", "time_unix_ns": 1_702_192_411_000_000_000_u64,
        "type": "user.authenticate.failure", "action": "AUTHENTICATE", "outcome": "failure",
        "reason": line.split_once("]: ").unwrap().1,
        "actor": {"id": "root", "type": "user"}, "targets": [&host, &root],
        "source": {"ip": "5.36.59.76.dynamic-dsl-ip.omantel.net.om"}, "resource": &resource,
        "attributes": {"process.pid": "24227"},
    });
    assert_eq!(parse(line), expected);

    let disconnect = parse(
        "Dec 10 07:07:45 LabSZ sshd[24206]: Received disconnect from 52.80.34.196: 11: Bye Bye \
         [preauth]",
    );
    assert_eq!(disconnect["action"], "DISCONNECT");
    assert_eq!(disconnect["actor"], json!({"id": "52.80.34.196", "type": "system"}));
    assert_eq!(disconnect["targets"], json!([&host]));

    let log = parse("Dec  1 07:07:38 LabSZ sshd[1]: pam_unix(sshd:auth): check pass; user unknown");
    assert_eq!((&log["action"], &log["type"]), (&json!("LOG"), &json!("log")));
    assert_eq!(log["actor"], json!({"id": "sshd", "type": "service"}));
}

#[test]
fn a_time_without_a_year_stays_text() {
    let line = b"Dec 10 06:55:46 LabSZ sshd[1]: Connection closed by 1.2.3.4 [preauth]";
    let event = parse(Format::Syslog, 1, line, None).event;
    assert_eq!(event.time_unix_ns, 0);
    assert_eq!(event.attributes["syslog.timestamp"], "Dec 10 06:55:46");
    // A day that the year does not have.
    let line = b"Feb 29 06:55:46 LabSZ sshd[1]: x";
    assert_eq!(parse(Format::Syslog, 1, line, Some(2023)).event.time_unix_ns, 0);
    assert!(parse(Format::Syslog, 1, line, Some(2024)).event.time_unix_ns > 0);
}

#[test]
fn rfc_5424_and_rfc_3339_headers() {
    let line = "<38>1 2023-12-10T06:55:46.5+01:00 web sshd 42 ID47 [a b=\"x] \\\" y\"][c] \
        \u{feff}Accepted publickey for alice from 10.0.0.1 port 22 ssh2";
    let expected = json!({
        "id": "test:1", "time_unix_ns": 1_702_187_746_500_000_000_u64,
        "type": "user.login.success", "action": "LOGIN", "outcome": "success",
        "actor": {"id": "alice", "type": "user"},
        "targets": [{"id": "web", "type": "host"}, {"id": "alice", "type": "account"}],
        "source": {"ip": "10.0.0.1"},
        "resource": {"host.name": "web", "service.name": "sshd"},
        "attributes": {
            "process.pid": "42", "source.port": "22", "syslog.facility": "4",
            "syslog.message_id": "ID47", "syslog.severity": "6",
            "syslog.structured_data": "[a b=\"x] \\\" y\"][c]",
        },
    });
    assert_eq!(view(&parse(Format::Syslog, 1, line.as_bytes(), None).event), expected);

    let nothing = parse(Format::Syslog, 1, b"<0>1 - - - - - -", None);
    assert!(nothing.recognized);
    assert_eq!(nothing.event.actor.unwrap().id, "-");

    let line = b"2023-12-10T06:55:46+00:00 web sudo: pam_unix(sudo:session): session opened for \
        user root(uid=0) by alice(uid=1000)";
    let event = parse(Format::Syslog, 1, line, None).event;
    assert_eq!((&*event.action, event.time_unix_ns), ("SESSION_OPEN", 1_702_191_346_000_000_000));
    assert_eq!(event.actor.unwrap().id, "root");
}

/// A user name is the attacker's to choose.
#[test]
fn names_that_look_like_messages() {
    let parse = |message: &str| {
        let line = format!("Dec 10 06:55:46 h sshd[1]: {message}");
        parse(Format::Syslog, 1, line.as_bytes(), None).event
    };
    let event = parse("Invalid user root from 1.1.1.1 from 6.6.6.6");
    assert_eq!(event.source.unwrap().ip, "6.6.6.6");
    assert_eq!(event.actor.unwrap().id, "root from 1.1.1.1");
    let event = parse(
        "Failed password for invalid user Accepted password for root from 1.1.1.1 port 1 ssh2 \
         from 6.6.6.6 port 2 ssh2",
    );
    assert_eq!((event.outcome(), &*event.source.unwrap().ip), (Outcome::Failure, "6.6.6.6"));
    let event = parse("input_userauth_request: invalid user Accepted password for x from 1.1.1.1");
    assert_eq!((&*event.action, event.outcome()), ("LOG", Outcome::Unknown));
    let event = parse("Invalid user  from 6.6.6.6");
    assert_eq!(event.actor.unwrap().id, "6.6.6.6");
}

#[test]
fn json_lines_in_full() {
    let line =
        br#"{"id":7,"time":"2024-05-01T10:00:00.000000001Z","type":"user.login","action":"LOGIN",
        "outcome":"denied","actor":{"id":"alice","type":"user","name":"A","mfa":true},
        "target":"db-1","targets":[{"name":"db-2","zone":"a"},[1]],"reason":"because",
        "source_ip":"10.0.0.1","user_agent":"curl","attributes":{"k":"v","n":{"m":1.5}},
        "resource":{"service.name":"web"},"extra":{"deep":{"deeper":{"deepest":{"x":[1]}}}},
        "list":[1,"a"],"none":null,"empty":""}"#;
    let expected = json!({
        "id": "7", "time_unix_ns": 1_714_557_600_000_000_001_u64, "type": "user.login",
        "action": "LOGIN", "outcome": "failure",
        "actor": {"id": "alice", "type": "user", "name": "A"},
        "targets": [{"id": "db-1"}, {"id": "db-2", "name": "db-2"}],
        "reason": "because", "source": {"ip": "10.0.0.1", "user_agent": "curl"},
        "resource": {"service.name": "web"},
        "attributes": {
            "actor.mfa": "true", "k": "v", "n.m": "1.5", "target.zone": "a", "targets.1": "[1]",
            "extra.deep.deeper.deepest": "{\"x\":[1]}", "list": "[1,\"a\"]", "empty": "",
        },
    });
    let parsed = parse(Format::Jsonl, 3, line, None);
    assert!(parsed.recognized);
    assert_eq!(view(&parsed.event), expected);

    let parsed = parse(Format::Jsonl, 3, br#"{"action":"LOGIN","outcome":"maybe"}"#, None);
    let expected = json!({
        "id": "test:3", "action": "LOGIN", "outcome": "unknown",
        "actor": {"id": "test", "type": "service"}, "targets": [{"id": "test:3", "type": "line"}],
        "attributes": {"outcome": "maybe"},
    });
    assert_eq!((view(&parsed.event), parsed.recognized), (expected, false));
    let parsed = parse(Format::Jsonl, 3, br#"{"actor":"alice","target":"x"}"#, None);
    assert_eq!((&*parsed.event.action, parsed.recognized), (ACTION_RAW, false));
}

#[test]
fn json_times() {
    let time = |value: &str| {
        let line = format!(r#"{{"actor":"a","action":"b","time":{value}}}"#);
        parse(Format::Jsonl, 1, line.as_bytes(), None).event.time_unix_ns
    };
    let ns = 1_714_557_600_000_000_000;
    for value in ["1714557600", "1714557600000", "1714557600000000", "1714557600000000000"] {
        assert_eq!(time(value), ns, "{value}");
    }
    assert_eq!(time("\"2024-05-01T12:00:00+02:00\""), ns);
    for value in ["-1", "null", "\"yesterday\"", "1e300", "\"1969-12-31T23:59:59Z\""] {
        assert_eq!(time(value), 0, "{value}");
    }
}

#[test]
fn json_attributes_have_limits() {
    let many: Vec<String> = (0..1_000).map(|n| format!(r#""k{n}":"{n}""#)).collect();
    let line = format!(r#"{{"actor":"a","action":"b",{}}}"#, many.join(","));
    let event = parse(Format::Jsonl, 1, line.as_bytes(), None).event;
    assert_eq!(event.attributes.len(), 129);
    assert_eq!(event.attributes["import.attributes_omitted"], "872");
}

#[test]
fn what_no_parser_understands_is_kept() {
    let lines: [(&[u8], &str); 7] = [
        (b"", "text/plain"),
        (b"\r", "text/plain"),
        (b"hello", "text/plain"),
        (b"[1,2]", "text/plain"),
        (b"{\"a\":", "text/plain"),
        (b"\xff\xfe\x00", "application/octet-stream"),
        (b"<999>1 x", "text/plain"),
    ];
    for format in [Format::Jsonl, Format::Cloudtrail, Format::Syslog] {
        for (line, media_type) in lines {
            let parsed = parse(format, 9, line, None);
            let expected = json!({
                "id": "test:9", "action": "IMPORT_RAW", "outcome": "unknown",
                "actor": {"id": "test", "type": "service"},
                "targets": [{"id": "test:9", "type": "line"}],
            });
            assert_eq!((view(&parsed.event), parsed.recognized), (expected, false));
            assert_eq!(parsed.event.raw.unwrap().media_type, media_type);
        }
    }
    let unnamed = parse_line(Format::Jsonl, "", 1, b"x", None).event;
    validate_event(&unnamed.encode_to_vec()).unwrap();
}

#[test]
fn carriage_returns_are_kept_and_not_looked_at() {
    let line = b"Dec 10 06:55:46 h sshd[1]: Invalid user bob from 6.6.6.6\r";
    assert_eq!(parse(Format::Syslog, 1, line, None).event.source.unwrap().ip, "6.6.6.6");
}

#[test]
fn lines_near_the_limit() {
    // Attributes that say the line again go first, and the line stays.
    let values: Vec<String> =
        (0..60).map(|n| format!(r#""k{n}":"{}""#, "x".repeat(4_000))).collect();
    let line = format!(r#"{{"actor":"a","action":"b",{}}}"#, values.join(","));
    let parsed = parse(Format::Jsonl, 1, line.as_bytes(), None);
    assert!(parsed.recognized && parsed.event.attributes.is_empty());
    // Then everything else.
    let line = format!(r#"{{"actor":"a","action":"b","reason":"{}"}}"#, "x".repeat(200_000));
    let parsed = parse(Format::Jsonl, 1, line.as_bytes(), None);
    assert!(!parsed.recognized && parsed.event.reason.is_empty());
    // A line that is too large alone cannot be an event; it is kept, and refused later.
    let line = vec![b'x'; EVENT_BYTES_MAX];
    let event = parse_line(Format::Jsonl, "test", 1, &line, None).event;
    assert_eq!(event.raw.as_ref().unwrap().bytes, line);
    validate_event(&event.encode_to_vec()).unwrap_err();
}

/// Damage of any kind gives an event all the same.
#[test]
fn damaged_lines_never_panic() {
    let files = [
        (Format::Cloudtrail, cloudtrail().swap_remove(80)),
        (Format::Jsonl, cloudtrail().swap_remove(80)),
        (Format::Syslog, openssh(None).swap_remove(30)),
    ];
    for (format, parsed) in files {
        let line = parsed.event.raw.unwrap().bytes;
        for end in 0..line.len() {
            parse(format, 1, &line[..end], Some(2023));
            parse(format, 1, &line[end..], Some(2023));
            let mut damaged = line.to_vec();
            damaged[end] ^= 1 << (end % 8);
            parse(format, 1, &damaged, Some(2023));
        }
    }
}
