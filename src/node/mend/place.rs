//! A damaged place, as people and the trail are told of it.

use std::path::PathBuf;

use indelible_proto::v1;

use crate::node::findings::{outcome, what};
use crate::storage::ledger::{DERIVED_DIR, TREE_DIR, TreeMended};
use crate::storage::mend::{Damage, Mended};
use crate::storage::tree;

/// A damaged place.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) file: PathBuf,
    pub(super) offset: u64,
    pub(super) from: u64,
    pub(super) to: Option<u64>,
    pub(super) what: String,
}

impl From<&Damage> for Place {
    fn from(damage: &Damage) -> Place {
        Place {
            file: damage.file.clone(),
            offset: damage.offset,
            from: damage.from,
            to: damage.to,
            what: damage.what.clone(),
        }
    }
}

impl Place {
    pub(super) fn describe(&self) -> String {
        let to = self.to.map_or("on".into(), |to| format!("to {}", to.saturating_sub(1)));
        let Place { offset, from, what, .. } = self;
        format!("{} at offset {offset}, entries {from} {to}: {what}", self.file.display())
    }
}

/// A finding about it.
pub(super) fn finding(node_id: u64, place: &Place, outcome: &str, detail: String) -> v1::Finding {
    let name = |path: &std::path::Path| Some(path.file_name()?.to_str()?.to_owned());
    let file = name(&place.file).unwrap_or_default();
    let folder = place.file.parent().and_then(name).filter(|folder| folder == "segments");
    let file = folder.map_or(file.clone(), |folder| format!("{folder}/{file}"));
    v1::Finding {
        reporter: node_id,
        node_id,
        what: what::DAMAGE.into(),
        place: format!("{file} at {}", place.offset),
        first_entry: place.from,
        next_entry: place.to.unwrap_or(place.from),
        outcome: outcome.into(),
        detail,
    }
}

/// What is announced of a place before it is mended, and recorded if the node stops meanwhile.
pub(super) fn announced_finding(node_id: u64, place: &Place) -> v1::Finding {
    let detail = format!("{}; the node stopped while this was being mended", place.what);
    finding(node_id, place, outcome::PENDING, detail)
}

/// What is written of a place that was mended.
pub(super) fn mended_finding(node_id: u64, place: &Place, mended: &Mended) -> v1::Finding {
    let entries: u64 = mended.fetched.iter().map(|range| range.end - range.start).sum();
    let mut detail = format!("{}; {entries} entries came from peers", place.what);
    if let Some(end) = mended.end {
        detail.push_str(&format!("; the log ends before entry {end}"));
    }
    for path in &mended.quarantined {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        detail.push_str(&format!("; quarantine/{name}"));
    }
    for what in &mended.unkept {
        detail.push_str(&format!("; quarantine/ is full, without {what}"));
    }
    let to = place.to.or(mended.end);
    finding(node_id, &Place { to, ..place.clone() }, outcome::MENDED, detail)
}

/// What is written of tree files that were mended. It names leaves, and no entries.
pub(super) fn tree_finding(node_id: u64, mended: &TreeMended) -> v1::Finding {
    let TreeMended { nodes, levels, leaves } = mended;
    let names = levels.iter().map(|level| tree::file_name(usize::from(*level)));
    let names = names.collect::<Vec<_>>().join(", ");
    v1::Finding {
        reporter: node_id,
        node_id,
        what: what::DAMAGE.into(),
        place: format!("{DERIVED_DIR}/{TREE_DIR}/{names}"),
        first_entry: 0,
        next_entry: 0,
        outcome: outcome::MENDED.into(),
        detail: format!(
            "{nodes} hashes over the leaves {} to {} were not what they had to be; computed again from the segments",
            leaves.start,
            leaves.end - 1
        ),
    }
}
