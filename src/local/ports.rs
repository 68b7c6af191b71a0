//! Ports for nodes.

use std::net::TcpListener;
use std::ops::Range;
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::LocalError;

/// Where ports are searched. The system gives ports of this range to no outgoing connection.
const PORTS: Range<u16> = 12_000..32_000;

/// `count` ports that nobody listens on now.
///
/// They stay free while a node is down: the system gives them to no connection, and this process
/// gives them to no other node until the whole range was used.
pub fn free_ports(count: usize) -> Result<Vec<u16>, LocalError> {
    static NEXT: OnceLock<Mutex<u16>> = OnceLock::new();
    // Another process begins elsewhere.
    let first = || Mutex::new(rand::random_range(PORTS));
    let mut next = NEXT.get_or_init(first).lock().unwrap_or_else(PoisonError::into_inner);
    let mut found = Vec::with_capacity(count);
    for _ in PORTS {
        if found.len() == count {
            break;
        }
        let port = *next;
        *next = if port + 1 < PORTS.end { port + 1 } else { PORTS.start };
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            found.push(port);
        }
    }
    if found.len() < count {
        let (first, last) = (PORTS.start, PORTS.end - 1);
        return Err(LocalError::Ports { wanted: count, found: found.len(), first, last });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_given_once() {
        let mut ports = free_ports(100).unwrap();
        ports.extend(free_ports(100).unwrap());
        assert!(ports.iter().all(|port| PORTS.contains(port)));
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 200);
    }

    #[test]
    fn a_port_that_somebody_listens_on_is_skipped() {
        let next = free_ports(1).unwrap()[0] + 1;
        let taken: Vec<_> = (next..next.saturating_add(50))
            .map(|port| TcpListener::bind(("127.0.0.1", port)))
            .collect();
        let taken: Vec<u16> =
            taken.iter().flatten().map(|socket| socket.local_addr().unwrap().port()).collect();
        let found = free_ports(10).unwrap();
        assert!(found.iter().all(|port| !taken.contains(port)), "{found:?}");
    }
}
