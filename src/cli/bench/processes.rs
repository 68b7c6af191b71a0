//! CPU time and memory of this process and of the nodes on this machine, from /proc.

use std::path::Path;
use std::time::Duration;

use crate::disk::{list, read_text};

/// This process first, then every `indelible serve`.
pub(super) struct Processes {
    pids: Vec<u32>,
}

impl Processes {
    pub(super) fn find() -> Processes {
        let own = std::process::id();
        let others = list(Path::new("/proc")).unwrap_or_default();
        let nodes = others.iter().filter_map(|name| name.parse().ok()).filter(|pid| is_node(*pid));
        let pids = std::iter::once(own).chain(nodes.filter(|pid| *pid != own)).collect();
        Processes { pids }
    }

    /// User and system time of all of them so far. Processes that ended meanwhile are missing.
    pub(super) fn cpu(&self) -> Duration {
        self.pids.iter().filter_map(|pid| cpu(*pid)).sum()
    }

    /// Resident memory of the largest node.
    pub(super) fn node_rss_bytes_max(&self) -> u64 {
        self.pids.iter().skip(1).filter_map(|pid| rss_bytes(*pid)).max().unwrap_or(0)
    }
}

fn proc_text(pid: u32, file: &str) -> Option<String> {
    read_text(Path::new(&format!("/proc/{pid}/{file}"))).ok()
}

fn is_node(pid: u32) -> bool {
    let Some(line) = proc_text(pid, "cmdline") else { return false };
    let mut words = line.split('\0');
    words.next().is_some_and(|program| program.ends_with("indelible"))
        && words.next() == Some("serve")
}

/// utime and stime, fields 14 and 15 of `stat`, in clock ticks. The name before them may hold
/// spaces.
fn cpu(pid: u32) -> Option<Duration> {
    let stat = proc_text(pid, "stat")?;
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11).map(str::parse::<u64>);
    let ticks = fields.next()?.ok()? + fields.next()?.ok()?;
    Some(Duration::from_secs(1) * ticks as u32 / rustix::param::clock_ticks_per_second() as u32)
}

fn rss_bytes(pid: u32) -> Option<u64> {
    let statm = proc_text(pid, "statm")?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
