//! What an audit says: one JSON line for each thing, each alert once.

use std::collections::BTreeSet;
use std::sync::Arc;

use indelible_client::{Alarm, CallError, Evidence};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::metrics::Metrics;
use crate::cli::output;

/// Alerts that are remembered so that none is printed twice. Past that they may repeat.
const REMEMBERED_MAX: usize = 4096;

/// Where lines go, and what was said already.
pub(super) struct Alerts {
    said: BTreeSet<(&'static str, Option<u64>, String)>,
    count: u64,
    metrics: Arc<Metrics>,
}

/// Something that a person has to look at.
pub(super) struct Alert {
    /// Which kind: a word that programs can match.
    pub(super) kind: &'static str,
    /// The node that it is about, if it is about one.
    pub(super) node: Option<u64>,
    /// For people.
    pub(super) what: String,
    pub(super) evidence: Option<Evidence>,
}

impl Alerts {
    pub(super) fn new(metrics: Arc<Metrics>) -> Alerts {
        Alerts { said: BTreeSet::new(), count: 0, metrics }
    }

    /// Alerts so far.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Prints it, unless the same was said before.
    pub(super) fn raise(&mut self, alert: Alert) -> anyhow::Result<()> {
        let Alert { kind, node, what, evidence } = alert;
        if self.said.len() >= REMEMBERED_MAX {
            self.said.clear();
        }
        if !self.said.insert((kind, node, what.clone())) {
            return Ok(());
        }
        self.count += 1;
        self.metrics.alert(kind);
        let mut line = line();
        line.insert("alert".into(), kind.into());
        if let Some(node) = node {
            line.insert("node".into(), node.into());
        }
        line.insert("what".into(), what.into());
        if let Some(evidence) = evidence {
            let notes: Vec<&str> = evidence.notes.iter().map(|note| &**note).collect();
            line.insert("evidence".into(), json!({ "answer": evidence.answer, "notes": notes }));
        }
        Ok(output::print(Value::Object(line))?)
    }

    /// What is over may be said again when it comes again.
    pub(super) fn over(&mut self, kind: &'static str, node: u64) {
        self.said.retain(|(said, about, _)| (*said, *about) != (kind, Some(node)));
    }

    /// Prints what was checked.
    pub(super) fn event(&self, event: &'static str, fields: Value) -> anyhow::Result<()> {
        let mut line = line();
        line.insert("event".into(), event.into());
        if let Value::Object(fields) = fields {
            line.extend(fields);
        }
        Ok(output::print(Value::Object(line))?)
    }
}

fn line() -> Map<String, Value> {
    let mut line = Map::new();
    line.insert("time".into(), format!("{:.3}", Timestamp::now()).into());
    line
}

/// What the client has found out by itself.
pub(super) fn of_alarm(alarm: &Alarm) -> Alert {
    let what = first_line(alarm);
    let (kind, node, evidence) = match alarm {
        Alarm::NodeLied(lie) => ("lied", Some(lie.node_id), Some(lie.evidence.clone())),
        Alarm::Fork(fork) => ("fork", None, Some(fork.evidence.clone())),
        Alarm::RolledBack(_) => ("rolled_back", None, None),
        Alarm::ReceiptBroken(broken) => {
            ("receipt_broken", Some(broken.node_id), Some(broken.evidence.clone()))
        }
        Alarm::Unsettled(_) => ("unsettled", None, None),
    };
    Alert { kind, node, what, evidence }
}

/// A call's error, if it is one that a person has to look at.
pub(super) fn of_error(error: &CallError) -> Option<Alert> {
    let what = first_line(error);
    match error {
        CallError::NodeLied { node_id, evidence, .. } => {
            let evidence = Some((**evidence).clone());
            Some(Alert { kind: "lied", node: Some(*node_id), what, evidence })
        }
        CallError::Fork(fork) => {
            Some(Alert { kind: "fork", node: None, what, evidence: Some(fork.evidence.clone()) })
        }
        CallError::RolledBack(_) => {
            Some(Alert { kind: "rolled_back", node: None, what, evidence: None })
        }
        _ => None,
    }
}

fn first_line(text: &impl ToString) -> String {
    text.to_string().lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_alert_is_counted_once_until_it_is_over() {
        let mut alerts = Alerts::new(Arc::new(Metrics::new()));
        let stale =
            |node| Alert { kind: "stale", node: Some(node), what: "old".into(), evidence: None };
        for (alert, count) in [(stale(1), 1), (stale(1), 1), (stale(2), 2)] {
            alerts.raise(alert).expect("prints");
            assert_eq!(alerts.count(), count);
        }
        alerts.over("stale", 1);
        alerts.raise(stale(2)).expect("prints");
        alerts.raise(stale(1)).expect("prints");
        assert_eq!(alerts.count(), 3);
    }
}
