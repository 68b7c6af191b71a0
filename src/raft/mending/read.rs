//! What an open log gives to peers: whole entries, and nothing of what is damaged.

use std::ops::Range;

use indelible_core::{TrailId, chain};

use crate::storage::log::{Log, LogError};
use crate::storage::mend::Fetched;

/// Some entries, and where to go on.
pub(super) struct Part {
    pub(super) entries: Vec<Fetched>,
    /// The entry to go on with; everything before it is in `entries`, or damaged here.
    pub(super) next: u64,
}

/// Whole entries from the start of a range, as many as have `bytes_max` bytes, at least one unless
/// all are damaged. The range must not reach past the log's end.
pub(super) fn whole_entries(
    log: &Log,
    trail_id: &TrailId,
    range: Range<u64>,
    bytes_max: usize,
) -> Result<Part, LogError> {
    match linked(log, trail_id, range.clone(), bytes_max) {
        Ok(Some(part)) => Ok(part),
        Ok(None) | Err(LogError::Corrupt { .. }) => one_by_one(log, range, bytes_max),
        Err(error) => Err(error),
    }
}

/// The fast way: one long read, the links computed. None if they do not hold.
fn linked(
    log: &Log,
    trail_id: &TrailId,
    range: Range<u64>,
    bytes_max: usize,
) -> Result<Option<Part>, LogError> {
    let mut link = match range.start.checked_sub(1) {
        None => chain::genesis(trail_id),
        Some(before) => log.chain_at(before)?,
    };
    let next = range.end;
    let mut entries = Vec::new();
    for entry in log.read(range, bytes_max)? {
        link = chain::link_entry(&link, &entry);
        entries.push(Fetched { entry, chain: link });
    }
    let last = entries.last().map(|last| last.entry.id.index);
    let holds = match last {
        None => true,
        Some(last) => log.chain_at(last)? == link,
    };
    let next = last.map_or(next, |last| last + 1);
    Ok(holds.then_some(Part { entries, next }))
}

/// The slow way, past damage: each entry alone, with the link in its frame.
fn one_by_one(log: &Log, range: Range<u64>, bytes_max: usize) -> Result<Part, LogError> {
    let mut part = Part { entries: Vec::new(), next: range.start };
    let mut bytes = 0;
    for index in range {
        match log.locate(index).and_then(|location| log.read_at(location)) {
            Ok((entry, chain)) if entry.id.index == index => {
                bytes += entry.payload_bytes();
                if bytes > bytes_max && !part.entries.is_empty() {
                    return Ok(part);
                }
                part.entries.push(Fetched { entry, chain });
            }
            // Another entry than the one asked for is no more use than a damaged one.
            Ok(_) | Err(LogError::Corrupt { .. }) => {}
            Err(error) => return Err(error),
        }
        part.next = index + 1;
    }
    Ok(part)
}
