//! What the client knows about the nodes, shared by everything that calls them.
//!
//! One mutex over a few small maps, held for microseconds and never across an await; whoever waits
//! for a change subscribes to a counter. Written by the node tasks ([`crate::node`]) and by callers
//! that were refused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use indelible_core::limits::{CLIENT_MESSAGE_BYTES_MAX, MEMBERS_MAX};
use indelible_proto::v1::audit_log_client::AuditLogClient;
use indelible_proto::v1::cluster_client::ClusterClient;
use indelible_proto::v1::{ClusterView, Node, ServingState};
use indelible_proto::{LeaderHint, Rejected};
use tokio::sync::{Notify, watch};
use tonic::transport::Channel;

use crate::error::Trouble;
use crate::leader::LeaderView;
use crate::trust::evidence::Lie;

/// The shared table.
pub(crate) struct Table {
    state: Mutex<State>,
    /// Counts changes.
    changed: watch::Sender<u64>,
    /// Highest tree size seen in any answer: the session's read-your-writes token.
    tree_size_seen: AtomicU64,
}

#[derive(Default)]
struct State {
    /// As given to the client.
    seeds: Vec<String>,
    /// Every address there is a task for.
    nodes: BTreeMap<String, NodeState>,
    leader: LeaderView,
    /// The newest membership, and the applied index of the view that it came in.
    members: Vec<Node>,
    members_applied: u64,
    /// Of the first view: a node of another trail is not listened to.
    trail_id: Option<Bytes>,
    /// Connections made so far.
    links: u64,
    /// Addresses that are not asked again, and why: under which id somebody lies there is a word of
    /// the liar's. They stay connected: what they say of who leads harms nobody, as the leader has
    /// to prove what it says too.
    liars: BTreeMap<String, Lie>,
    /// Who answered first.
    first_view: Option<ClusterView>,
}

/// One address.
#[derive(Default, Clone)]
struct NodeState {
    /// While connected.
    link: Option<Link>,
    /// The last view that came from there.
    view: Option<ClusterView>,
    /// Why it is not connected.
    error: Option<Trouble>,
}

/// A connection to a node that has said who it is. Cloning shares it.
#[derive(Clone)]
pub(crate) struct Link {
    /// Address, `host:port`.
    pub(crate) addr: Arc<str>,
    /// Who answers there.
    pub(crate) node_id: u64,
    /// Differs for every connection ever made.
    pub(crate) generation: u64,
    /// Calls under way through it.
    pub(crate) in_flight: Arc<AtomicUsize>,
    channel: Channel,
    suspect: Arc<Notify>,
}

impl Link {
    pub(crate) fn audit(&self) -> AuditLogClient<Channel> {
        AuditLogClient::new(self.channel.clone())
            .max_decoding_message_size(CLIENT_MESSAGE_BYTES_MAX)
    }

    pub(crate) fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel.clone()).max_decoding_message_size(CLIENT_MESSAGE_BYTES_MAX)
    }

    /// A call met a transport error: the node's task connects anew.
    pub(crate) fn suspect(&self) {
        self.suspect.notify_one();
    }

    /// Counts a call as under way until the guard is dropped.
    pub(crate) fn begin(&self) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(self.in_flight.clone())
    }
}

/// A call under way.
pub(crate) struct InFlight(Arc<AtomicUsize>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The leader and how to reach it.
#[derive(Clone)]
pub(crate) struct Route {
    pub(crate) term: u64,
    pub(crate) link: Link,
}

impl Route {
    /// Which leadership this is. Another one means that what is unacknowledged is sent again (rule
    /// R1).
    pub(crate) fn leadership(&self) -> (u64, u64) {
        (self.term, self.link.node_id)
    }
}

impl Table {
    pub(crate) fn new(seeds: Vec<String>) -> Table {
        Table {
            state: Mutex::new(State { seeds, ..State::default() }),
            changed: watch::Sender::new(0),
            tree_size_seen: AtomicU64::new(0),
        }
    }

    /// Wakes on every change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Every address worth a connection: the seeds, the members that no connected seed already is,
    /// and the address of a leader hint.
    pub(crate) fn addresses(&self) -> BTreeSet<String> {
        let state = self.state();
        let mut addresses: BTreeSet<String> = state.seeds.iter().cloned().collect();
        let reached = |id| {
            let honest = state.seeds.iter().filter(|seed| !state.liars.contains_key(*seed));
            let mut seeds = honest.filter_map(|seed| state.nodes.get(seed));
            seeds.any(|node| node.link.as_ref().is_some_and(|link| link.node_id == id))
        };
        let members = state.members.iter().filter(|member| !reached(member.id)).take(MEMBERS_MAX);
        addresses.extend(members.map(|member| member.client_addr.clone()));
        if state.leader.leader.is_some_and(|id| !reached(id)) {
            addresses.extend(state.leader.addr.clone());
        }
        addresses
    }

    /// Forgets addresses that no task is for any more.
    pub(crate) fn retain(&self, addresses: &BTreeSet<String>) {
        self.state().nodes.retain(|addr, _| addresses.contains(addr));
    }

    /// A node answered on a fresh connection. Refused if it belongs to another trail.
    pub(crate) fn connected(
        &self,
        addr: &str,
        channel: Channel,
        suspect: Arc<Notify>,
        view: ClusterView,
    ) -> Result<(), String> {
        let mut state = self.state();
        state.links += 1;
        let link = Link {
            addr: addr.into(),
            node_id: view.node_id,
            generation: state.links,
            in_flight: Arc::default(),
            channel,
            suspect,
        };
        state.observe(addr, view)?;
        let node = state.nodes.entry(addr.to_owned()).or_default();
        node.link = Some(link);
        node.error = None;
        drop(state);
        self.wake();
        Ok(())
    }

    /// A node pushed its view.
    pub(crate) fn observe(&self, addr: &str, view: ClusterView) -> Result<(), String> {
        self.state().observe(addr, view)?;
        self.wake();
        Ok(())
    }

    /// A connection is gone, or was never made. A leader that cannot be reached is still the
    /// leader: only the cluster says who follows.
    pub(crate) fn disconnected(&self, addr: &str, error: Trouble) {
        let mut state = self.state();
        let node = state.nodes.entry(addr.to_owned()).or_default();
        node.link = None;
        node.view = None;
        node.error = Some(error);
        drop(state);
        self.wake();
    }

    /// A node refused a call because it does not lead.
    pub(crate) fn refused(&self, link: &Link, rejected: &Rejected) {
        let mut state = self.state();
        let mut changed = state.leader.deny(link.node_id);
        if let Some(LeaderHint { id, .. }) = &rejected.leader
            && *id != link.node_id
        {
            changed |= rejected.leader.as_ref().is_some_and(|hint| state.leader.hint(hint));
        }
        drop(state);
        if changed {
            self.wake();
        }
    }

    /// The leader, if one is known and connected.
    pub(crate) fn leader(&self) -> Option<Route> {
        let state = self.state();
        let id = state.leader.leader?;
        let link = state.honest().into_iter().find(|link| link.node_id == id)?;
        Some(Route { term: state.leader.term, link: link.clone() })
    }

    /// A node is not asked again by this client.
    pub(crate) fn ban(&self, lie: &Lie) {
        self.state().liars.entry(lie.addr.clone()).or_insert_with(|| lie.clone());
        self.wake();
    }

    /// If nodes are connected, and none of them is to be believed: why.
    pub(crate) fn only_liars(&self) -> Option<Lie> {
        let state = self.state();
        let mut links = state.links();
        let first = links.next()?;
        let lie = state.liars.get(&*first.addr)?;
        links.all(|link| state.liars.contains_key(&*link.addr)).then(|| lie.clone())
    }

    /// One connection for each node that is to be believed, in order of id.
    pub(crate) fn links(&self) -> Vec<Link> {
        one_a_node(self.state().honest())
    }

    /// One connection for each node, in order of id.
    pub(crate) fn links_of_all(&self) -> Vec<Link> {
        let state = self.state();
        one_a_node(state.named_first(state.links()))
    }

    /// What the first node that answered said.
    pub(crate) fn first_view(&self) -> Option<ClusterView> {
        self.state().first_view.clone()
    }

    /// One connection per node, and whether the node leads; nodes that are not ready to serve reads
    /// are left out unless there is no other.
    pub(crate) fn readers(&self) -> Vec<(Link, bool)> {
        let state = self.state();
        let mut seen = BTreeSet::new();
        let serves = |node: &NodeState| {
            let ready = [ServingState::Serving, ServingState::ReadOnly];
            node.view.as_ref().is_some_and(|view| ready.contains(&view.state()))
        };
        let mut pick = |all: bool| -> Vec<(Link, bool)> {
            let is_ready = |link: &&Link| state.nodes.get(&*link.addr).is_some_and(serves);
            let links = state.honest().into_iter().filter(|link| all || is_ready(link));
            let links = links.filter(|link| seen.insert(link.node_id));
            links.map(|link| (link.clone(), state.leader.leader == Some(link.node_id))).collect()
        };
        let ready = pick(false);
        if ready.is_empty() { pick(true) } else { ready }
    }

    /// Whether this very connection is still the node's.
    pub(crate) fn is_current(&self, link: &Link) -> bool {
        let state = self.state();
        let current = state.nodes.get(&*link.addr).and_then(|node| node.link.as_ref());
        current.is_some_and(|current| current.generation == link.generation)
    }

    /// The newest membership.
    pub(crate) fn members(&self) -> Vec<Node> {
        self.state().members.clone()
    }

    /// Whether every address has been tried.
    pub(crate) fn is_settled(&self) -> bool {
        let addresses = self.addresses();
        let state = self.state();
        let tried = |node: &NodeState| node.link.is_some() || node.error.is_some();
        addresses.iter().all(|addr| state.nodes.get(addr).is_some_and(tried))
    }

    /// Every address with its connection, or the error that it has instead.
    pub(crate) fn connections(&self) -> Vec<(String, Result<Link, String>)> {
        let state = self.state();
        let nodes = state.nodes.iter();
        nodes
            .map(|(addr, node)| {
                let error = || match &node.error {
                    Some(trouble) => trouble.text.clone(),
                    None => "not connected yet".to_owned(),
                };
                (addr.clone(), node.link.clone().ok_or_else(error))
            })
            .collect()
    }

    /// Whether every address was tried, and another attempt helps with none.
    pub(crate) fn is_hopeless(&self) -> bool {
        let addresses = self.addresses();
        let state = self.state();
        let is_final = |node: &NodeState| {
            node.link.is_none() && node.error.as_ref().is_some_and(|trouble| trouble.is_final)
        };
        addresses.iter().all(|addr| state.nodes.get(addr).is_some_and(is_final))
    }

    /// Why writes are held up, for people.
    pub(crate) fn why_no_leader(&self) -> String {
        let state = self.state();
        match (state.leader.leader, state.links().count()) {
            (_, 0) => {
                let mut errors = state.nodes.iter().filter_map(|(addr, node)| {
                    node.error.as_ref().map(|trouble| format!(" ({addr}: {})", trouble.text))
                });
                format!("no node is connected{}", errors.next().unwrap_or_default())
            }
            (None, _) => format!("no leader is known (term {})", state.leader.term),
            (Some(id), _) => match state.liars.values().find(|lie| lie.node_id == id) {
                Some(lie) => format!("{lie}; it leads term {}", state.leader.term),
                None => format!("node {id} leads term {} but is not connected", state.leader.term),
            },
        }
    }

    /// Keeps the highest tree size.
    pub(crate) fn saw_tree_size(&self, tree_size: u64) {
        self.tree_size_seen.fetch_max(tree_size, Ordering::Relaxed);
    }

    /// The highest tree size in any answer so far.
    pub(crate) fn tree_size_seen(&self) -> u64 {
        self.tree_size_seen.load(Ordering::Relaxed)
    }

    fn wake(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds this lock")
    }
}

/// The first of each node, in order of id.
fn one_a_node(mut links: Vec<&Link>) -> Vec<Link> {
    links.sort_by_key(|link| link.node_id);
    links.dedup_by_key(|link| link.node_id);
    links.into_iter().cloned().collect()
}

impl State {
    fn links(&self) -> impl Iterator<Item = &Link> {
        self.nodes.values().filter_map(|node| node.link.as_ref())
    }

    /// Those that are to be believed, and are in the group.
    fn honest(&self) -> Vec<&Link> {
        let links = self.links().filter(|link| !self.liars.contains_key(&*link.addr));
        self.named_first(links.filter(|link| !self.is_removed(link.node_id)))
    }

    /// Whether a node was removed from the group, as most of the others say, and at least two: one
    /// alone may lie. What such a node serves is old; it may be one of the seeds all the same.
    fn is_removed(&self, id: u64) -> bool {
        let connected = self.nodes.iter().filter(|(addr, _)| !self.liars.contains_key(*addr));
        let connected = connected.filter_map(|(_, node)| Some((node.link.as_ref()?, node)));
        let others = connected.filter(|(link, _)| link.node_id != id);
        // A node that is not in the group yet has an id that none has had.
        let views = others.filter_map(|(link, node)| {
            let view = node.view.as_ref().filter(|view| view.next_node_id > id)?;
            Some((link.node_id, view.nodes.iter().any(|member| member.id == id)))
        });
        let is_member: BTreeMap<u64, bool> = views.collect();
        let without = is_member.values().filter(|is_member| !**is_member).count();
        without >= 2 && without * 2 > is_member.len()
    }

    /// First those at the address that the membership names for their id: others may say the same
    /// of themselves.
    fn named_first<'a>(&self, links: impl Iterator<Item = &'a Link>) -> Vec<&'a Link> {
        let is_named = |link: &Link| {
            let mut members = self.members.iter();
            members.any(|member| member.id == link.node_id && *member.client_addr == *link.addr)
        };
        let mut links: Vec<&Link> = links.collect();
        links.sort_by_key(|link| !is_named(link));
        links
    }

    fn observe(&mut self, addr: &str, view: ClusterView) -> Result<(), String> {
        let trail_id = self.trail_id.get_or_insert_with(|| view.trail_id.clone());
        if *trail_id != view.trail_id {
            return Err(format!(
                "node {} belongs to trail {}, not to {}",
                view.node_id,
                hex::encode(&view.trail_id),
                hex::encode(trail_id),
            ));
        }
        self.leader.observe(&view);
        if self.first_view.is_none() {
            self.first_view = Some(view.clone());
        }
        if !view.nodes.is_empty() && view.applied_index >= self.members_applied {
            self.members_applied = view.applied_index;
            self.members.clone_from(&view.nodes);
        }
        self.nodes.entry(addr.to_owned()).or_default().view = Some(view);
        self.forget_a_term_that_is_gone();
        Ok(())
    }

    /// A leader had the votes of a majority, and votes are durable: if a majority of the members
    /// is in lower terms, their disks were put back, and what was known of leaders is void.
    fn forget_a_term_that_is_gone(&mut self) {
        let views = self.nodes.values().filter_map(|node| node.view.as_ref());
        let lower: BTreeSet<u64> = views
            .filter(|view| view.term < self.leader.term)
            .map(|view| view.node_id)
            .filter(|id| self.members.iter().any(|member| member.id == *id))
            .collect();
        if lower.len() * 2 <= self.members.len() {
            return;
        }
        self.leader = LeaderView::default();
        for view in self.nodes.values().filter_map(|node| node.view.as_ref()) {
            self.leader.observe(view);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(node_id: u64, term: u64, leader_id: u64) -> ClusterView {
        let nodes = (1..=3).map(|id| Node { id, ..Default::default() }).collect();
        ClusterView { node_id, term, leader_id, nodes, ..Default::default() }
    }

    fn leader(table: &Table) -> (u64, Option<u64>) {
        let state = table.state();
        (state.leader.term, state.leader.leader)
    }

    #[test]
    fn one_node_that_lags_does_not_undo_a_leader() {
        let table = Table::new(Vec::new());
        for node in 1..=3 {
            table.observe(&format!("n{node}:1"), view(node, 7, 2)).unwrap();
        }
        table.observe("n1:1", view(1, 6, 3)).unwrap();
        assert_eq!(leader(&table), (7, Some(2)));
        // The same node under another name counts once.
        table.observe("alias:1", view(1, 6, 3)).unwrap();
        assert_eq!(leader(&table), (7, Some(2)));
    }

    /// It stays connected as a seed, and its checkpoint stays the one of its last day.
    #[tokio::test]
    async fn a_removed_node_is_not_asked_for_anything() {
        let table = Table::new(vec!["n2:1".into()]);
        let member = |id| Node { id, ..Default::default() };
        let connect = |id: u64, members: &[u64], next_node_id| {
            let nodes = members.iter().map(|id| member(*id)).collect();
            let view = ClusterView { nodes, next_node_id, ..view(id, 7, 1) };
            let view = ClusterView { state: ServingState::Serving.into(), ..view };
            let channel = tonic::transport::Endpoint::from_static("http://localhost:1");
            let (addr, suspect) = (format!("n{id}:1"), Arc::default());
            table.connected(&addr, channel.connect_lazy(), suspect, view).unwrap();
        };
        let readers = || {
            let readers = table.readers();
            readers.iter().map(|(link, _)| link.node_id).collect::<BTreeSet<u64>>()
        };
        connect(2, &[1, 2, 3], 4);
        connect(1, &[1, 3, 4], 5);
        // The word of one node is not enough.
        assert_eq!(readers(), [1, 2].into());
        connect(3, &[1, 3, 4], 5);
        connect(4, &[1, 3, 4], 5);
        assert_eq!(readers(), [1, 3, 4].into());
        assert_eq!(table.links().len(), 3);
        // A node that is to be added is none that was removed.
        connect(5, &[1, 3, 4], 5);
        assert_eq!(readers(), [1, 3, 4, 5].into());
    }

    #[test]
    fn a_majority_in_lower_terms_undoes_what_was_known() {
        let table = Table::new(Vec::new());
        for node in 1..=3 {
            table.observe(&format!("n{node}:1"), view(node, 7, 2)).unwrap();
        }
        for node in [1, 3] {
            table.observe(&format!("n{node}:1"), view(node, 4, 3)).unwrap();
        }
        table.disconnected("n2:1", "gone".into());
        table.observe("n1:1", view(1, 4, 3)).unwrap();
        assert_eq!(leader(&table), (4, Some(3)));
    }
}
