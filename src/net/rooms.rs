//! How many connections a port holds, and which one goes when there is one too many.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use indelible_core::limits::{
    CLIENT_CONNECTIONS_MAX, CLIENT_UNKNOWN_CONNECTIONS_ALL_MAX, CLIENT_UNKNOWN_CONNECTIONS_MAX,
    HTTP_CONNECTIONS_MAX, RAFT_CONNECTIONS_OF_A_NODE_MAX, RAFT_UNPROVEN_CONNECTIONS_MAX,
};

use super::connection::Control;

/// Which connections a port holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// Many, and not too many of one address that has not shown a certificate.
    Clients,
    /// Some that nothing is proven of, the oldest of which makes room, and some of each node.
    Nodes,
    /// Some.
    Http,
}

/// The connections of one port.
#[derive(Debug)]
pub(super) struct Room {
    rule: Rule,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    open: BTreeMap<u64, (IpAddr, Arc<Control>)>,
    /// On a client port, of each address: those of `open` that have shown no certificate.
    unknown: HashMap<IpAddr, BTreeSet<u64>>,
    /// How many these are.
    unknown_count: usize,
}

impl Room {
    pub(super) fn new(rule: Rule) -> Arc<Room> {
        Arc::new(Room { rule, state: Mutex::default() })
    }

    /// A place for one more connection, or why there is none, in one word.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr) -> Result<Place, &'static str> {
        let mut state = self.lock();
        match self.rule {
            Rule::Clients if state.open.len() >= fit(CLIENT_CONNECTIONS_MAX) => {
                return Err("connections");
            }
            Rule::Clients => state.make_room_for_an_unknown(address),
            Rule::Http => state.close_oldest(fit(HTTP_CONNECTIONS_MAX), |_| true),
            Rule::Nodes => state.make_room_for_a_node(),
        }
        let serial = state.next;
        state.next += 1;
        let control = Arc::new(Control::new());
        state.open.insert(serial, (address, control.clone()));
        let unknown = (self.rule == Rule::Clients).then_some(address);
        if unknown.is_some() {
            state.unknown.entry(address).or_default().insert(serial);
            state.unknown_count += 1;
        }
        Ok(Place { room: self.clone(), serial, unknown, control })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// On a raft port those that show no certificate make room for each other, those that name a
    /// node and prove nothing (mending) too, and those of each node that has proved to be there.
    fn make_room_for_a_node(&mut self) {
        let max = RAFT_UNPROVEN_CONNECTIONS_MAX;
        self.close_oldest(max, |one| !one.is_known() && one.proven().is_none());
        self.close_oldest(max, |one| one.is_known() && one.proven().is_none());
        let nodes: BTreeSet<u64> =
            self.open.values().filter_map(|(_, one)| Some(one.proven()?.node)).collect();
        for node in nodes {
            // The new one may be this node's: so there are never more than one too many.
            self.close_oldest(RAFT_CONNECTIONS_OF_A_NODE_MAX + 1, |one| {
                one.proven().is_some_and(|proven| proven.node == node)
            });
        }
    }

    /// One more that has shown no certificate: of an address that has too many of them its oldest
    /// goes, and of too many in all the oldest of the address that has most of them.
    fn make_room_for_an_unknown(&mut self, address: IpAddr) {
        let of_address = self.unknown.get(&address).map_or(0, BTreeSet::len);
        if of_address >= CLIENT_UNKNOWN_CONNECTIONS_MAX {
            self.close_oldest_unknown(address);
        }
        while self.unknown_count >= fit(CLIENT_UNKNOWN_CONNECTIONS_ALL_MAX) {
            let most = self.unknown.iter().max_by_key(|(_, serials)| serials.len());
            let Some(address) = most.map(|(address, _)| *address) else { return };
            self.close_oldest_unknown(address);
        }
    }

    fn close_oldest_unknown(&mut self, address: IpAddr) {
        let oldest = self.unknown.get(&address).and_then(BTreeSet::first).copied();
        let Some(serial) = oldest else { return };
        self.known(serial, address);
        if let Some((_, control)) = self.open.remove(&serial) {
            control.close();
        }
    }

    /// Closes connections of a sort until, with one more, there are at most `max`: each time the
    /// oldest of the address that has most of them. So a flood from some addresses leaves the
    /// others alone.
    fn close_oldest(&mut self, max: usize, sort: impl Fn(&Control) -> bool) {
        if self.open.len() < max {
            return;
        }
        let mut alike: HashMap<IpAddr, VecDeque<u64>> = HashMap::new();
        let mut count = 0;
        for (serial, (address, _)) in self.open.iter().filter(|(_, (_, control))| sort(control)) {
            alike.entry(*address).or_default().push_back(*serial);
            count += 1;
        }
        while count + 1 > max {
            let most = alike.values_mut().max_by_key(|serials| serials.len());
            let Some(serial) = most.and_then(VecDeque::pop_front) else { return };
            count -= 1;
            if let Some((_, control)) = self.open.remove(&serial) {
                control.close();
            }
        }
    }

    fn leave(&mut self, serial: u64, unknown: Option<IpAddr>) {
        self.open.remove(&serial);
        if let Some(address) = unknown {
            self.known(serial, address);
        }
    }

    /// A connection has shown a certificate, or has ended: it does not count as unknown any more.
    fn known(&mut self, serial: u64, address: IpAddr) {
        let Some(serials) = self.unknown.get_mut(&address) else { return };
        if serials.remove(&serial) {
            self.unknown_count -= 1;
        }
        if serials.is_empty() {
            self.unknown.remove(&address);
        }
    }
}

/// Open files that the process may have, in hundredths of what all limits together need.
static SHARE: AtomicUsize = AtomicUsize::new(100);

/// A limit of connections, less if the process may not open so many files.
fn fit(max: usize) -> usize {
    max * SHARE.load(Ordering::Relaxed) / 100
}

/// What the log, the index and all connections together may have open.
const FILES_MAX: usize = CLIENT_CONNECTIONS_MAX + 3 * HTTP_CONNECTIONS_MAX + 1024;

/// Makes connections fit the number of files that this process may open. False if they are fewer
/// than the limits of the ports allow.
pub fn fit_open_files(files: u64) -> bool {
    let share = usize::try_from(files).unwrap_or(usize::MAX).saturating_mul(100) / FILES_MAX;
    SHARE.store(share.clamp(1, 100), Ordering::Relaxed);
    share >= 100
}

/// A connection's place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    room: Arc<Room>,
    serial: u64,
    unknown: Option<IpAddr>,
    pub(super) control: Arc<Control>,
}

impl Place {
    /// The other end has shown a certificate that counts: its address is not held against it.
    pub(super) fn known(&mut self) {
        self.control.set_known();
        if let Some(address) = self.unknown.take() {
            self.room.lock().known(self.serial, address);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.lock().leave(self.serial, self.unknown);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::connection::{Connection, Proven, Security};

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[tokio::test]
    async fn an_address_without_certificates_cannot_take_all_places() {
        let room = Room::new(Rule::Clients);
        let mut places: Vec<Place> = (0..CLIENT_UNKNOWN_CONNECTIONS_MAX)
            .map(|_| room.enter(HERE).expect("there is room"))
            .collect();
        let next = room.enter(HERE).expect("the oldest of the address makes room");
        places[0].control.closed().await;
        assert!(room.enter("10.0.0.1".parse().unwrap()).is_ok());
        drop(next);
        places[0].known();
        let next = room.enter(HERE).expect("one is known now");
        drop((places, next));
        let state = room.lock();
        assert!(state.open.is_empty() && state.unknown.is_empty() && state.unknown_count == 0);
    }

    #[tokio::test]
    async fn of_all_that_are_unknown_the_address_with_most_makes_room() {
        let room = Room::new(Rule::Clients);
        let address = |host: u16| IpAddr::from([10, 0, (host >> 8) as u8, host as u8]);
        let quiet = room.enter(address(999)).expect("there is room");
        // Two of each, so that no address has too many for itself.
        let many: Vec<Place> = (0..CLIENT_UNKNOWN_CONNECTIONS_ALL_MAX - 1)
            .map(|number| room.enter(address(number as u16 / 2)).expect("there is room"))
            .collect();
        assert_eq!(room.lock().unknown_count, CLIENT_UNKNOWN_CONNECTIONS_ALL_MAX);
        let next = room.enter(address(1000)).expect("one of those makes room");
        let state = room.lock();
        assert_eq!(state.unknown_count, CLIENT_UNKNOWN_CONNECTIONS_ALL_MAX);
        assert!(state.open.contains_key(&quiet.serial) && state.open.contains_key(&next.serial));
        let closed: Vec<&Place> =
            many.iter().filter(|place| !state.open.contains_key(&place.serial)).collect();
        assert!(matches!(closed[..], [one] if one.serial % 2 == 1), "the older one of a pair");
    }

    #[tokio::test]
    async fn a_client_port_holds_so_many_connections() {
        let room = Room::new(Rule::Clients);
        let known = || {
            let mut place = room.enter(HERE)?;
            place.known();
            Ok(place)
        };
        let places: Result<Vec<Place>, &str> =
            (0..CLIENT_CONNECTIONS_MAX).map(|_| known()).collect();
        let mut places = places.expect("there is room");
        assert_eq!(room.enter(HERE).map(drop), Err("connections"));
        places.pop();
        assert!(room.enter(HERE).is_ok(), "one has left");
    }

    #[tokio::test]
    async fn a_flood_from_one_address_leaves_the_others_alone() {
        let room = Room::new(Rule::Nodes);
        let quiet = room.enter("10.0.0.1".parse().unwrap()).unwrap();
        let flood: Vec<Place> =
            (0..3 * RAFT_UNPROVEN_CONNECTIONS_MAX).map(|_| room.enter(HERE).unwrap()).collect();
        flood[0].control.closed().await;
        let still_open = room.lock().open.contains_key(&quiet.serial);
        assert!(still_open, "the oldest of all, and the only one of its address");
    }

    #[tokio::test]
    async fn strangers_and_http_have_so_many_places() {
        for (rule, max) in [
            (Rule::Clients, CLIENT_UNKNOWN_CONNECTIONS_ALL_MAX),
            (Rule::Http, HTTP_CONNECTIONS_MAX),
        ] {
            let room = Room::new(rule);
            let quiet = room.enter(HERE).unwrap();
            // Never more of an address than a client port holds.
            let address = |number: usize| IpAddr::from([10, 0, 0, (number % 8) as u8]);
            let flood: Vec<Place> =
                (0..max).map(|number| room.enter(address(number)).unwrap()).collect();
            assert_eq!(room.lock().open.len(), max, "{rule:?}");
            assert!(room.lock().open.contains_key(&quiet.serial), "{rule:?}");
            drop((quiet, flood));
            assert!(room.lock().open.is_empty());
        }
    }

    #[tokio::test]
    async fn the_oldest_unproven_connection_makes_room_and_nodes_stay() {
        let room = Room::new(Rule::Nodes);
        let proven = |node: u64| {
            let place = room.enter(HERE).unwrap();
            let remote = "127.0.0.1:9".parse().unwrap();
            let connection = Connection::new(
                remote,
                Security::Clear,
                place.control.clone(),
                Arc::new(tokio::sync::Semaphore::new(1)),
            );
            assert!(connection.set_proven(Proven { node, key: [2; 32], boot: [1; 32] }));
            assert!(
                !connection.set_proven(Proven { node: node + 1, key: [2; 32], boot: [1; 32] }),
                "it is one node's"
            );
            place
        };
        let nodes: Vec<Place> = (1..=3).flat_map(|node| [proven(node), proven(node)]).collect();
        let places: Vec<Place> =
            (0..RAFT_UNPROVEN_CONNECTIONS_MAX + 2).map(|_| room.enter(HERE).unwrap()).collect();
        places[0].control.closed().await;
        places[1].control.closed().await;
        let open = room.lock().open.len();
        assert_eq!(open, RAFT_UNPROVEN_CONNECTIONS_MAX + nodes.len());
        let many: Vec<Place> = (0..=RAFT_CONNECTIONS_OF_A_NODE_MAX).map(|_| proven(9)).collect();
        let _last = room.enter(HERE).unwrap();
        many[0].control.closed().await;
    }
}
