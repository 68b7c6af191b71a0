//! How far a node has copied the log, how fast it goes, and how long it still takes. Pure.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use indelible_client::NodeStatus;
use indelible_client::v1::Role;

/// What the leader lets a new voter lack: its `VOTER_LAG_BYTES_MAX`. Only the time left depends on
/// it.
const NEAR_BYTES: u64 = 16 * 1024 * 1024;
/// A rate is that of this long.
const WINDOW: Duration = Duration::from_secs(10);

/// How far a node is at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Copied {
    /// Entries that it has, and that the leader has.
    entries: (u64, u64),
    /// The same in bytes of segments; none if one of the two did not say.
    bytes: Option<(u64, u64)>,
    /// Whether it is a voter already.
    pub(super) is_voter: bool,
}

impl Copied {
    /// Of the node `id`, out of what the nodes say; none if the leader does not know it.
    pub(super) fn of(id: u64, nodes: &[NodeStatus]) -> Option<Copied> {
        let views = || nodes.iter().filter_map(|node| node.view.as_ref().ok());
        let leads = views().filter(|view| view.role() == Role::Leader);
        let leader = leads.max_by_key(|view| view.term)?;
        let member = leader.nodes.iter().find(|member| member.id == id)?;
        let own = views().find(|view| view.node_id == id);
        // Indexes begin at 0.
        let has = member.matched_index.map_or(0, |matched| matched + 1);
        Some(Copied {
            entries: (has, leader.last_log_index + 1),
            bytes: own.map(|own| (own.log_bytes.min(leader.log_bytes), leader.log_bytes)),
            is_voter: member.voter,
        })
    }

    /// What it lacks, in bytes if they are known, else in entries.
    fn missing(&self) -> u64 {
        let (has, all) = self.bytes.unwrap_or(self.entries);
        all.saturating_sub(has)
    }
}

/// The looks of the last seconds.
#[derive(Debug, Default)]
pub(super) struct Copying {
    /// When the first look was.
    began: Option<Instant>,
    /// When, since the first one, and what was seen.
    looks: VecDeque<(Duration, Copied)>,
    /// When it had more entries than at the look before.
    moved: Duration,
}

impl Copying {
    /// Takes a look, `at` this long after the first one.
    pub(super) fn look(&mut self, at: Duration, copied: Copied) {
        if self.looks.back().is_none_or(|(_, last)| last.entries.0 < copied.entries.0) {
            self.moved = at;
        }
        self.looks.push_back((at, copied));
        while self.looks.len() > 2 && at - self.looks[1].0 >= WINDOW {
            self.looks.pop_front();
        }
    }

    /// How long this has been looked at.
    pub(super) fn since_begun(&mut self) -> Duration {
        self.began.get_or_insert_with(Instant::now).elapsed()
    }

    /// Whether the leader was seen to know the node.
    pub(super) fn is_begun(&self) -> bool {
        !self.looks.is_empty()
    }

    /// For how long it has copied nothing, `at` this long after the first look.
    pub(super) fn stands_still(&self, at: Duration) -> Duration {
        at.saturating_sub(self.moved)
    }

    /// Bytes, or entries where bytes are not known, a second: copied, and come nearer to the
    /// leader.
    fn rates(&self) -> Option<(f64, f64)> {
        let ((began, first), (ended, last)) = (self.looks.front()?, self.looks.back()?);
        let seconds = (*ended - *began).as_secs_f64();
        if seconds <= 0.0 || first.bytes.is_some() != last.bytes.is_some() {
            return None;
        }
        let has = |copied: &Copied| copied.bytes.unwrap_or(copied.entries).0 as f64;
        let copied = (has(last) - has(first)) / seconds;
        Some((copied, (first.missing() as f64 - last.missing() as f64) / seconds))
    }

    /// How long it takes until the node lacks little enough to be a voter; none if it comes no
    /// nearer.
    fn left(&self) -> Option<Duration> {
        let (_, last) = self.looks.back()?;
        let near = if last.bytes.is_some() { NEAR_BYTES } else { 0 };
        let missing = last.missing().saturating_sub(near) as f64;
        let (_, nearer) = self.rates()?;
        (nearer > 0.0).then(|| Duration::from_secs_f64((missing / nearer).min(1e7)))
    }
}

impl fmt::Display for Copying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: f64 = 1024.0 * 1024.0;
        let Some((_, last)) = self.looks.back() else { return Ok(()) };
        let (entries, all) = last.entries;
        if let Some((has, all)) = last.bytes {
            write!(f, "{:.1} of {:.1} MiB, ", has as f64 / MIB, all as f64 / MIB)?;
        }
        write!(f, "{entries} of {all} entries")?;
        if let Some((copied, _)) = self.rates() {
            match last.bytes {
                Some(_) => write!(f, ", {:.1} MiB/s", copied / MIB)?,
                None => write!(f, ", {copied:.0} entries/s")?,
            }
        }
        match self.left() {
            Some(left) => write!(f, ", a voter in about {} s", left.as_secs()),
            None if self.looks.len() > 1 => write!(f, ", it comes no nearer"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use indelible_client::v1::{ClusterView, Node};

    const MIB: u64 = 1024 * 1024;

    fn copied(has_mib: u64, all_mib: u64) -> Copied {
        let bytes = Some((has_mib * MIB, all_mib * MIB));
        Copied { entries: (has_mib * 10, all_mib * 10), bytes, is_voter: false }
    }

    #[test]
    fn the_time_left_is_that_until_it_lacks_little_enough() {
        let mut copying = Copying::default();
        copying.look(Duration::ZERO, copied(0, 300));
        assert_eq!(copying.to_string(), "0.0 of 300.0 MiB, 0 of 3000 entries");
        for second in 1..=4 {
            copying.look(Duration::from_secs(second), copied(5 * second, 300 + second));
        }
        // 5 MiB a second come, and 1 is appended: 4 nearer, and 284 - 16 to go.
        let text = copying.to_string();
        let expected = "20.0 of 304.0 MiB, 200 of 3040 entries, 5.0 MiB/s, a voter in about 67 s";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_node_that_is_slower_than_the_trail_is_said_to_be() {
        let mut copying = Copying::default();
        copying.look(Duration::ZERO, copied(10, 300));
        copying.look(Duration::from_secs(1), copied(11, 310));
        assert!(copying.to_string().ends_with("it comes no nearer"), "{copying}");
        assert_eq!(copying.stands_still(Duration::from_secs(1)), Duration::ZERO);
        for second in 2..40 {
            copying.look(Duration::from_secs(second), copied(11, 310));
        }
        // Also while nobody answers.
        assert_eq!(copying.stands_still(Duration::from_secs(50)), Duration::from_secs(49));
        assert!(copying.looks.len() <= 12, "{}", copying.looks.len());
    }

    #[test]
    fn the_leader_of_the_newest_term_and_the_node_itself_say_how_far_it_is() {
        let member = Node { id: 4, matched_index: Some(6), ..Default::default() };
        let view = |node_id, term, leads, log_bytes| {
            let role = if leads { Role::Leader } else { Role::Learner };
            let nodes = if leads { vec![member.clone()] } else { vec![] };
            let view = ClusterView { node_id, term, nodes, log_bytes, ..Default::default() };
            let view = ClusterView { role: role.into(), last_log_index: 9, ..view };
            NodeStatus { addr: format!("n{node_id}:1"), node_id: Some(node_id), view: Ok(view) }
        };
        let nodes = [view(1, 2, true, 1), view(2, 3, true, 900), view(4, 3, false, 700)];
        let copied = Copied::of(4, &nodes).unwrap();
        assert_eq!((copied.entries, copied.bytes), ((7, 10), Some((700, 900))));
        assert_eq!(Copied::of(4, &nodes[..2]).unwrap().bytes, None);
        assert_eq!(Copied::of(5, &nodes), None);
    }
}
