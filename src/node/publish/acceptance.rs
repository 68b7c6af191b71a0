//! Whose word counts for an accepted rollback: the trail's.
//!
//! What was accepted makes notes void, and with them the proof of a fork. So a node takes it from
//! nobody's word: whoever tells of it names the record that an operator has left in the trail, and
//! the time in that record counts once this node has applied it. A leader can write such a record;
//! then it is there for everybody to see.

use indelible_core::leaf::{LEAF_SIZE, Leaf};
use indelible_core::{Kind, limits::ACCEPTED_AHEAD_MAX_S};
use indelible_proto::v1;
use prost::Message;

use crate::storage::ledger::{Ledger, LedgerError};
use crate::storage::notes::Acceptance;

/// What the record of an accepted rollback calls it.
pub(super) const ACTION: &str = "accept-rollback";

/// What this node makes of an acceptance that it was told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// The record is in this node's own trail.
    Recorded,
    /// This node has not applied so much, or its clock is behind the one that was recorded.
    NotYet,
    /// Its trail has something else there.
    Invented,
}

/// Looks for the record of an acceptance in this node's own trail. `now` is its clock, in Unix
/// seconds.
pub(super) fn look_up(ledger: &Ledger, told: Acceptance, now: u64) -> Result<Told, LedgerError> {
    if !is_possible(&told, now) {
        return Ok(Told::NotYet);
    }
    let Some(record) = ledger.record(told.leaf)? else { return Ok(Told::NotYet) };
    let is_operation = kind(&record.leaf) == Some(Kind::Operation);
    let operation = v1::Operation::decode(record.event).ok().filter(|_| is_operation);
    let is_it = |operation: &v1::Operation| {
        operation.action == ACTION && operation.accepted_unix_s == told.unix_s
    };
    Ok(if operation.is_some_and(|operation| is_it(&operation)) {
        Told::Recorded
    } else {
        Told::Invented
    })
}

/// Whether an acceptance can be of that time, as this node's clock says.
pub(super) fn is_possible(told: &Acceptance, now: u64) -> bool {
    told.unix_s <= now.saturating_add(ACCEPTED_AHEAD_MAX_S)
}

/// The time that an acceptance is of: not before the newest signature of what was lost, and never
/// far ahead of this node's clock, whatever time somebody has signed.
pub(super) fn time(now: u64, newest_signature: u64) -> u64 {
    now.max(newest_signature.min(now.saturating_add(ACCEPTED_AHEAD_MAX_S)))
}

fn kind(leaf: &[u8; LEAF_SIZE]) -> Option<Kind> {
    Leaf::decode(leaf).ok().map(|leaf| leaf.kind)
}
