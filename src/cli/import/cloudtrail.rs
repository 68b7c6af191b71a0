//! AWS CloudTrail records:
//! <https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-event-reference-record-contents.html>.

use std::collections::BTreeMap;

use indelible_proto::v1::{Actor, Event, Outcome, Source, Target};
use serde_json::Value;

use super::json::{Object, nested, object, text};
use super::{Parsed, unix_ns};

/// Request parameters that name what a call is about, with the target's type.
const PARAMETERS: [(&str, &str); 19] = [
    ("bucketName", "bucket"),
    ("instanceId", "instance"),
    ("roleName", "role"),
    ("roleArn", "role"),
    ("userName", "user"),
    ("groupName", "group"),
    ("groupId", "security_group"),
    ("policyArn", "policy"),
    ("policyName", "policy"),
    ("functionName", "function"),
    ("keyId", "key"),
    ("secretId", "secret"),
    ("tableName", "table"),
    ("volumeId", "volume"),
    ("snapshotId", "snapshot"),
    ("topicArn", "topic"),
    ("queueUrl", "queue"),
    ("trailName", "trail"),
    ("stackName", "stack"),
];

/// Request parameters that list what a call is about: `{"items": [{key: id}, ...]}`.
const SETS: [(&str, &str, &str); 3] = [
    ("instancesSet", "instanceId", "instance"),
    ("volumeSet", "volumeId", "volume"),
    ("snapshotSet", "snapshotId", "snapshot"),
];

/// Targets of one event at most; the others are in `raw`.
const TARGETS_MAX: usize = 64;

/// The event of a record: an object with `eventSource` and `eventName`.
pub(super) fn parse(line: &[u8]) -> Option<Parsed> {
    let record = object(line)?;
    let service = text(&record, "eventSource")?;
    let name = text(&record, "eventName")?;
    let service_prefix = service.split('.').next().unwrap_or(service);
    let (outcome, reason) = outcome(&record);
    let (actor, delegation) = who(&record, service);
    let event = Event {
        id: owned(text(&record, "eventID")),
        // The second is what log shippers put in its place.
        time_unix_ns: ["eventTime", "@timestamp"]
            .iter()
            .find_map(|key| unix_ns(text(&record, key)?))
            .unwrap_or(0),
        r#type: text(&record, "eventType").map(|kind| format!("aws.{kind}")).unwrap_or_default(),
        action: format!("{service_prefix}:{name}"),
        outcome: outcome.into(),
        actor: Some(actor),
        delegation,
        targets: targets(&record, service),
        source: source(&record),
        reason,
        resource: BTreeMap::from([("service.name".to_owned(), service.to_owned())]),
        attributes: attributes(&record),
        ..Event::default()
    };
    Some(Parsed { event, recognized: true })
}

fn owned(text: Option<&str>) -> String {
    text.unwrap_or_default().to_owned()
}

/// Outcome and reason. A record without an error code is of a call that succeeded; console logins
/// alone say in their response that they did not.
fn outcome(record: &Object) -> (Outcome, String) {
    let message = text(record, "errorMessage");
    if let Some(code) = text(record, "errorCode") {
        let reason = message.map_or(code.to_owned(), |message| format!("{code}: {message}"));
        return (Outcome::Failure, reason);
    }
    let response = nested(record, "responseElements");
    match response.and_then(|response| text(response, "ConsoleLogin")) {
        Some("Failure") => (Outcome::Failure, owned(message)),
        _ => (Outcome::Success, String::new()),
    }
}

/// Who called, and through which role.
fn who(record: &Object, service: &str) -> (Actor, Vec<Actor>) {
    let nobody = Object::new();
    let identity = nested(record, "userIdentity").unwrap_or(&nobody);
    let kind = text(identity, "type").unwrap_or_default();
    let id = ["arn", "principalId", "invokedBy", "userName", "accountId"]
        .iter()
        .find_map(|key| text(identity, key))
        .unwrap_or(service);
    let actor = Actor {
        id: id.to_owned(),
        r#type: actor_type(kind).to_owned(),
        name: owned(text(identity, "userName")),
    };
    let issuer = nested(identity, "sessionContext")
        .and_then(|context| nested(context, "sessionIssuer"))
        .filter(|_| kind == "AssumedRole");
    let delegation = issuer.and_then(|issuer| {
        let id = text(issuer, "arn").or_else(|| text(issuer, "principalId"))?;
        Some(Actor {
            id: id.to_owned(),
            r#type: actor_type(text(issuer, "type").unwrap_or_default()).to_owned(),
            name: owned(text(issuer, "userName")),
        })
    });
    (actor, delegation.into_iter().collect())
}

/// The event schema's type of a CloudTrail identity. A role is a service's unless a person assumed
/// it, which the record does not say.
fn actor_type(kind: &str) -> &'static str {
    match kind {
        "AssumedRole" | "Role" | "AWSService" => "service",
        "IAMUser" | "Root" | "FederatedUser" | "SAMLUser" | "WebIdentityUser"
        | "IdentityCenterUser" | "Directory" => "user",
        _ => "system",
    }
}

/// What the call was about: the resources that the record lists, or what the request names, or
/// at least the service.
fn targets(record: &Object, service: &str) -> Vec<Target> {
    let mut targets = resources(record);
    if targets.is_empty() {
        targets = nested(record, "requestParameters").map(parameters).unwrap_or_default();
    }
    if targets.is_empty() {
        targets.push(target(service, "service"));
    }
    targets.truncate(TARGETS_MAX);
    targets
}

fn target(id: &str, kind: &str) -> Target {
    Target { id: id.to_owned(), r#type: kind.to_owned(), name: String::new() }
}

fn resources(record: &Object) -> Vec<Target> {
    let resources = record.get("resources").and_then(Value::as_array);
    let resources = resources.into_iter().flatten().filter_map(Value::as_object);
    resources
        .filter_map(|resource| {
            let id = text(resource, "ARN").or_else(|| text(resource, "ARNPrefix"))?;
            Some(target(id, text(resource, "type").unwrap_or_default()))
        })
        .collect()
}

fn parameters(parameters: &Object) -> Vec<Target> {
    let single =
        PARAMETERS.iter().filter_map(|(key, kind)| Some(target(text(parameters, key)?, kind)));
    let listed = SETS.iter().flat_map(|(set, key, kind)| {
        let items = nested(parameters, set).and_then(|set| set.get("items")?.as_array());
        let items = items.into_iter().flatten().filter_map(Value::as_object);
        items.filter_map(move |item| Some(target(text(item, key)?, kind)))
    });
    single.chain(listed).collect()
}

/// Where the call came from. The address is the name of an AWS service where one called.
fn source(record: &Object) -> Option<Source> {
    let source = Source {
        ip: owned(text(record, "sourceIPAddress")),
        user_agent: owned(text(record, "userAgent")),
    };
    (source != Source::default()).then_some(source)
}

fn attributes(record: &Object) -> BTreeMap<String, String> {
    [
        ("aws.region", "awsRegion"),
        ("aws.account_id", "recipientAccountId"),
        ("aws.request_id", "requestID"),
    ]
    .iter()
    .filter_map(|(name, key)| Some((name.to_string(), text(record, key)?.to_owned())))
    .collect()
}
