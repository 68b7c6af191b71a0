//! `indelible status`: the nodes, how far each is, and whether they agree.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::time::SystemTime;

use indelible_client::NodeStatus;
use indelible_client::v1::{ClusterView, Role, ServingState};
use serde_json::{Value, json};

use super::{Global, output};

/// Nothing beyond the options of every command.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) async fn run(global: &Global, _args: Args) -> anyhow::Result<ExitCode> {
    let client = global.connect().await?;
    let nodes = client.status().await;
    let status = Status::new(&nodes, SystemTime::now());
    if global.json {
        output::print(status.json(&nodes))?;
    } else {
        output::print(status.headline(&nodes))?;
        output::print(status.table(&nodes))?;
    }
    if let Some(size) = status.rolled_back_from {
        eprintln!(
            "error: a checkpoint of {size} leaves was signed and is not in this trail: every disk was rolled back, and \
             appends are refused"
        );
        eprintln!("hint: find out what was lost; `indelible accept-rollback` goes on without it");
    }
    status.clocks(&nodes).iter().for_each(|line| eprintln!("{line}"));
    for (tree_size, roots) in &status.forks {
        eprintln!("error: the nodes disagree: tree size {tree_size} has the roots {roots}");
        eprintln!("hint: stop writing, keep every data directory, and run `indelible check`");
    }
    warn_of_change(&nodes);
    let keyless = without_log_key(&nodes);
    if !keyless.is_empty() {
        eprintln!(
            "warning: no log key on {}: a node without it publishes no checkpoints while it leads",
            name_nodes(&keyless)
        );
        eprintln!(
            "hint: `indelible node-key --config ITS_CONFIG --log-key FILE`, and start it again"
        );
    }
    let sound = status.leader.is_some()
        && status.forks.is_empty()
        && status.rolled_back_from.is_none()
        && status.clocks(&nodes).is_empty();
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the nodes' views add up to.
struct Status {
    term: u64,
    /// Of the highest term.
    leader: Option<u64>,
    /// Highest number of applied entries.
    applied_max: u64,
    /// Leaves of a signed checkpoint that is not in this trail.
    rolled_back_from: Option<u64>,
    /// Tree sizes at which two nodes have different roots, with those roots.
    forks: Vec<(u64, String)>,
    /// The group, as the node that has applied most says; and the id that the next node gets.
    members: BTreeSet<u64>,
    next_node_id: u64,
    /// Of this machine's clock.
    now_unix_s: u64,
}

impl Status {
    fn new(nodes: &[NodeStatus], now: SystemTime) -> Status {
        let views = || nodes.iter().filter_map(|node| node.view.as_ref().ok());
        let term = views().map(|view| view.term).max().unwrap_or(0);
        let newest = views().filter(|view| view.term == term);
        let leader = newest.map(|view| view.leader_id).find(|leader_id| *leader_id != 0);
        let applied_max = views().map(|view| view.applied_index).max().unwrap_or(0);
        let rolled_back_from =
            views().map(|view| view.rolled_back_from).max().filter(|size| *size > 0);
        let now_unix_s =
            now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let newest = views().max_by_key(|view| view.applied_index);
        let members = newest.iter().flat_map(|view| &view.nodes).map(|node| node.id).collect();
        let next_node_id = newest.map_or(0, |view| view.next_node_id);
        let forks = forks(views());
        Status {
            term,
            leader,
            applied_max,
            rolled_back_from,
            forks,
            members,
            next_node_id,
            now_unix_s,
        }
    }

    fn headline(&self, nodes: &[NodeStatus]) -> String {
        let view = nodes.iter().find_map(|node| node.view.as_ref().ok());
        let trail = view.map_or_else(String::new, |view| {
            format!("{} (trail {})\n", view.origin, hex::encode(&view.trail_id))
        });
        let answered = nodes.iter().filter(|node| node.view.is_ok()).count();
        let leader = match self.leader {
            Some(id) => format!("node {id} leads term {}", self.term),
            None => format!("no leader in term {}: nothing can be appended now", self.term),
        };
        format!("{trail}{leader}; {answered} of {} nodes answer\n", nodes.len())
    }

    fn table(&self, nodes: &[NodeStatus]) -> comfy_table::Table {
        let mut table = output::table();
        table.set_header([
            "NODE",
            "ADDRESS",
            "ROLE",
            "STATE",
            "TERM",
            "APPLIED",
            "LAG",
            "TREE SIZE",
            "ROOT",
            "CHECKPOINT",
            "LOG KEY",
        ]);
        for node in nodes {
            let id = node.node_id.map_or_else(|| "?".to_owned(), |id| id.to_string());
            let addr = node.addr.clone();
            table.add_row(match &node.view {
                Err(error) => vec![id, addr, "unreachable".into(), error.clone()],
                Ok(view) => vec![
                    id,
                    addr,
                    role(view).to_owned(),
                    self.state(view).to_owned(),
                    view.term.to_string(),
                    view.applied_index.to_string(),
                    self.lag(view).to_string(),
                    view.tree_size.to_string(),
                    hex::encode(&view.root).chars().take(16).collect(),
                    self.checkpoint(view),
                    if view.log_key.is_empty() { "no" } else { "yes" }.to_owned(),
                ],
            });
        }
        table
    }

    fn json(&self, nodes: &[NodeStatus]) -> Value {
        let view = nodes.iter().find_map(|node| node.view.as_ref().ok());
        let nodes: Vec<Value> = nodes
            .iter()
            .map(|node| match &node.view {
                Err(error) => json!({ "id": node.node_id, "addr": node.addr, "error": error }),
                Ok(view) => json!({
                    "id": node.node_id,
                    "addr": node.addr,
                    "role": role(view),
                    "state": self.state(view),
                    "term": view.term,
                    "leader": view.leader_id,
                    "applied": view.applied_index,
                    "committed": view.committed_index,
                    "lag": self.lag(view),
                    "tree_size": view.tree_size,
                    "root": hex::encode(&view.root),
                    "checkpoint_size": view.checkpoint_size,
                    "checkpoint_unix_s": view.checkpoint_unix_s,
                    "rolled_back_from": (view.rolled_back_from != 0).then_some(view.rolled_back_from),
                    "clock_hold": (!view.clock_hold.is_empty()).then_some(&view.clock_hold),
                    "clock_offset_ms": view.clock_offset_ms,
                    "stamps_ahead_ms": view.stamps_ahead_ms,
                    "checkpoint_clocks": view.checkpoint_clocks,
                    "mended": view.mended,
                    "log_key": !view.log_key.is_empty(),
                    "changing": view.joint,
                    "unsigned_change": (view.unsigned_change != 0).then_some(view.unsigned_change),
                    "boot_count": view.boot_count,
                    "version": view.version,
                }),
            })
            .collect();
        json!({
            "trail_id": view.map(|view| hex::encode(&view.trail_id)),
            "origin": view.map(|view| &view.origin),
            "leader": self.leader,
            "term": self.term,
            "agree": self.forks.is_empty(),
            "nodes": nodes,
        })
    }

    /// What is wrong with time, as the leader says.
    fn clocks(&self, nodes: &[NodeStatus]) -> Vec<String> {
        let mut views = nodes.iter().filter_map(|node| node.view.as_ref().ok());
        let leader = views.find(|view| view.role() == Role::Leader && view.term == self.term);
        let Some(view) = leader else { return Vec::new() };
        let mut lines = Vec::new();
        let hint = match view.clock_hold.as_str() {
            "no-majority" => "is a majority of the nodes reachable from the leader?",
            "step" => {
                "compare the clocks of all nodes with another source; if they are right, `indelible accept-clock`"
            }
            _ => "compare the clocks of all nodes with another source",
        };
        if !view.clock_hold.is_empty() {
            let hold = &view.clock_hold;
            lines.push(format!(
                "error: appends are refused because of the clocks ({hold}); hint: {hint}"
            ));
        }
        if view.stamps_ahead_ms > 0 {
            lines.push(format!(
                "error: the newest stamp is {} ms ahead of the nodes' clocks: records get equal stamps until they have \
                 come so far; hint: compare the clocks of all nodes with another source",
                view.stamps_ahead_ms
            ));
        }
        lines
    }

    /// Size and age of the newest checkpoint that a node holds.
    fn checkpoint(&self, view: &ClusterView) -> String {
        match view.checkpoint_unix_s {
            0 => "none".into(),
            signed => {
                let age = self.now_unix_s.saturating_sub(signed);
                let few = output::few_clocks(view.checkpoint_clocks as usize);
                format!("{}, {age} s ago{few}", view.checkpoint_size)
            }
        }
    }

    /// What the node does, or that it was removed: it may not have found out.
    fn state(&self, view: &ClusterView) -> &'static str {
        let is_member = self.members.contains(&view.node_id);
        if !is_member && !self.members.is_empty() && view.node_id < self.next_node_id {
            return "removed";
        }
        state(view)
    }

    /// Entries that another node has applied and this one has not.
    fn lag(&self, view: &ClusterView) -> u64 {
        self.applied_max - view.applied_index
    }
}

/// Says whether the voters are changing, and whether the last change was signed for.
fn warn_of_change(nodes: &[NodeStatus]) {
    let views = || nodes.iter().filter_map(|node| node.view.as_ref().ok());
    if views().any(|view| view.role() == Role::Leader && view.joint) {
        eprintln!(
            "note: a change of voters is under way: it waits up to 10 s for a checkpoint that a majority of the old and of the \
             new voters have signed"
        );
    }
    for view in views().filter(|view| view.unsigned_change > 0) {
        eprintln!(
            "warning: node {} finished a change of voters without a checkpoint of both majorities at tree size {}\n\
             hint: auditors may not be able to follow it: `indelible policy`, and hand them the new policy file",
            view.node_id, view.unsigned_change
        );
    }
}

/// Members that are known to have no log key: by their own word, or by their leader's.
fn without_log_key(nodes: &[NodeStatus]) -> Vec<u64> {
    let views = || nodes.iter().filter_map(|node| node.view.as_ref().ok());
    let members = views().flat_map(|view| &view.nodes);
    let keyless = members.filter(|member| member.has_log_key == Some(false)).map(|node| node.id);
    let has_it: BTreeSet<u64> =
        views().filter(|view| !view.log_key.is_empty()).map(|view| view.node_id).collect();
    let keyless: BTreeSet<u64> = keyless.filter(|id| !has_it.contains(id)).collect();
    keyless.into_iter().collect()
}

/// "node 4", or "nodes 4, 5".
pub(super) fn name_nodes(ids: &[u64]) -> String {
    let list: Vec<String> = ids.iter().map(u64::to_string).collect();
    format!("{} {}", if ids.len() == 1 { "node" } else { "nodes" }, list.join(", "))
}

/// Tree sizes with more than one root. There must never be one.
fn forks<'a>(views: impl Iterator<Item = &'a ClusterView>) -> Vec<(u64, String)> {
    let mut roots: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for view in views {
        let root = hex::encode(&view.root);
        let known = roots.entry(view.tree_size).or_default();
        if !known.contains(&root) {
            known.push(root);
        }
    }
    roots.retain(|_, roots| roots.len() > 1);
    roots.into_iter().map(|(tree_size, roots)| (tree_size, roots.join(" and "))).collect()
}

fn role(view: &ClusterView) -> &'static str {
    match view.role() {
        Role::Leader => "leader",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
        Role::Learner => "learner",
        Role::Unspecified => "unknown",
    }
}

fn state(view: &ClusterView) -> &'static str {
    match view.state() {
        ServingState::Serving if view.rolled_back_from != 0 => "rolled back",
        ServingState::Serving => "serving",
        ServingState::CatchingUp => "catching up",
        ServingState::Draining => "draining",
        ServingState::ReadOnly => "read only",
        ServingState::Unspecified => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use indelible_client::v1;

    use super::*;

    fn node(id: u64, term: u64, leader_id: u64, tree_size: u64, root: u8) -> NodeStatus {
        let view = ClusterView {
            node_id: id,
            term,
            leader_id,
            role: if id == leader_id { Role::Leader } else { Role::Follower }.into(),
            applied_index: tree_size,
            tree_size,
            root: vec![root; 32].into(),
            checkpoint_size: tree_size.saturating_sub(1),
            checkpoint_unix_s: 1_000,
            checkpoint_clocks: if id == 1 { 2 } else { 3 },
            ..Default::default()
        };
        NodeStatus { addr: format!("n{id}:1"), node_id: Some(id), view: Ok(view) }
    }

    #[test]
    fn the_highest_term_says_who_leads_and_lag_is_against_the_furthest() {
        let mut nodes = vec![node(1, 3, 1, 7, 1), node(2, 4, 2, 9, 2), node(3, 4, 0, 9, 2)];
        nodes.push(NodeStatus { addr: "n4:1".into(), node_id: None, view: Err("refused".into()) });
        let status = Status::new(&nodes, SystemTime::UNIX_EPOCH + Duration::from_secs(1_007));
        assert_eq!((status.leader, status.term), (Some(2), 4));
        let lags: Vec<u64> =
            nodes.iter().filter_map(|n| n.view.as_ref().ok()).map(|v| status.lag(v)).collect();
        assert_eq!(lags, [2, 0, 0]);
        assert!(status.forks.is_empty());
        let text = status.table(&nodes).to_string();
        assert!(text.contains("unreachable") && text.contains("refused"), "{text}");
        assert!(text.contains("6, 7 s ago (by 2 clocks)"), "{text}");
        assert!(text.contains("8, 7 s ago ") && !text.contains("by 3 clocks"), "{text}");
        assert_eq!(status.json(&nodes)["nodes"][1]["role"], "leader");
    }

    #[test]
    fn members_without_the_log_key_are_named_whoever_says_so() {
        let member = |id, has_log_key| v1::Node { id, has_log_key, ..Default::default() };
        let mut leads = node(1, 3, 1, 7, 1);
        let mut follows = node(2, 3, 1, 7, 1);
        if let Ok(view) = &mut leads.view {
            view.log_key = "a key".into();
            // Node 2 was restarted with the key a moment ago; node 4 does not answer this client.
            let (second, fourth) = (member(2, Some(false)), member(4, Some(false)));
            view.nodes = vec![member(1, Some(true)), second, member(3, None), fourth];
        }
        if let Ok(view) = &mut follows.view {
            view.log_key = "a key".into();
        }
        assert_eq!(without_log_key(&[leads, follows]), [4]);
        assert_eq!(name_nodes(&[4]), "node 4");
        assert_eq!(name_nodes(&[4, 5]), "nodes 4, 5");
    }

    #[test]
    fn a_node_that_was_removed_is_not_called_serving() {
        let member = |id| v1::Node { id, ..Default::default() };
        let mut nodes = [node(1, 3, 1, 9, 1), node(2, 3, 1, 7, 2), node(4, 3, 1, 0, 0)];
        for node in &mut nodes {
            let Ok(view) = &mut node.view else { continue };
            view.set_state(ServingState::Serving);
            view.nodes = [1, 2, 3].map(member).into();
            if view.node_id == 1 {
                view.nodes = [1, 3].map(member).into();
                view.next_node_id = 4;
            }
        }
        let status = Status::new(&nodes, SystemTime::now());
        let states: Vec<_> = nodes
            .iter()
            .filter_map(|node| node.view.as_ref().ok())
            .map(|view| status.state(view))
            .collect();
        // The last one is not in the group yet.
        assert_eq!(states, ["serving", "removed", "serving"]);
    }

    #[test]
    fn two_roots_for_one_size_are_shouted_about() {
        let status = Status::new(&[node(1, 3, 1, 7, 1), node(2, 3, 1, 7, 2)], SystemTime::now());
        assert_eq!(status.forks.len(), 1);
        assert_eq!(status.forks[0].0, 7);
    }
}
