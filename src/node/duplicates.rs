//! What a repeated append gets back: the first receipt, or "same seq, other content". Looked up
//! outside apply, from the records themselves.

use indelible_core::Leaf;
use indelible_core::leaf::commit;
use indelible_core::limits::{READ_BYTES_MAX, READ_RECORDS_MAX};
use indelible_proto::reason::{Reason, Rejected, key};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::batcher::{Append, Appended, AppendedRun, unknown};
use crate::storage::ledger::{Ledger, LedgerError, StoredRecord};

/// Looks the receipts up off the runtime's threads and sends them. Records from `fresh_from` on
/// were recorded by this very request.
pub fn answer_later(
    ledger: Ledger,
    append: Append,
    fresh_from: u64,
    reply: oneshot::Sender<Result<Appended, Rejected>>,
    permit: OwnedSemaphorePermit,
) {
    tokio::task::spawn_blocking(move || {
        // The requester may have gone.
        let _ = reply.send(receipts(&ledger, &append, fresh_from));
        drop(permit);
    });
}

/// The receipts of events that are all recorded. Compares every event with the stored record
/// through its salt.
pub fn receipts(ledger: &Ledger, append: &Append, fresh_from: u64) -> Result<Appended, Rejected> {
    let seqs = append.first_seq..append.end_seq();
    let mut found = Found::default();
    for run in ledger.runs(&append.producer, seqs).map_err(|error| unreadable(&error))? {
        let mut leaf = run.first_leaf;
        let end = run.first_leaf + run.count;
        while leaf < end {
            let records = ledger
                .records(leaf..end, READ_BYTES_MAX, READ_RECORDS_MAX)
                .map_err(|error| unreadable(&error))?;
            assert!(!records.is_empty(), "an applied leaf has a record");
            for record in records {
                let seq = run.first_seq + (record.index - run.first_leaf);
                found.add(append, seq, &record, seq < fresh_from)?;
                leaf = record.index + 1;
            }
        }
    }
    if found.records != append.events.len() {
        let expected = append.first_seq + found.records as u64;
        let message = format!("seq {expected} is not recorded; hint: send from {expected}");
        return Err(Rejected::new(Reason::SeqGap, message).with(key::EXPECTED, expected));
    }
    Ok(Appended {
        runs: found.runs,
        leaves: found.leaves.into(),
        salts: found.salts.into(),
        tree_size: ledger.head().borrow().tree_size,
    })
}

#[derive(Default)]
struct Found {
    records: usize,
    runs: Vec<AppendedRun>,
    leaves: Vec<u8>,
    salts: Vec<u8>,
}

impl Found {
    fn add(
        &mut self,
        append: &Append,
        seq: u64,
        record: &StoredRecord,
        duplicate: bool,
    ) -> Result<(), Rejected> {
        let conflict = || {
            let message = format!(
                "seq {seq} is recorded at leaf {} with other content; hint: never reuse a seq",
                record.index
            );
            Rejected::new(Reason::SeqConflict, message)
        };
        let position = usize::try_from(seq - append.first_seq).map_err(|_| conflict())?;
        let event = append.events.get(position).ok_or_else(conflict)?;
        let leaf = Leaf::decode(&record.leaf).map_err(|_| conflict())?;
        let same = leaf.seq == seq
            && leaf.kind == append.kind
            && leaf.retention_class == append.retention_class
            && leaf.commitment == commit(&record.salt, event);
        if !same {
            return Err(conflict());
        }
        self.records += 1;
        self.leaves.extend_from_slice(&record.leaf);
        self.salts.extend_from_slice(&record.salt.0);
        match self.runs.last_mut() {
            Some(run)
                if run.duplicate == duplicate
                    && run.first_seq + u64::from(run.count) == seq
                    && run.first_leaf + u64::from(run.count) == record.index =>
            {
                run.count += 1;
            }
            _ => self.runs.push(AppendedRun {
                first_seq: seq,
                first_leaf: record.index,
                count: 1,
                duplicate,
            }),
        }
        Ok(())
    }
}

/// The events are recorded, but their receipts cannot be read here: no answer about the events.
fn unreadable(error: &LedgerError) -> Rejected {
    unknown(&format!("the receipt cannot be read: {}", failed(error).message))
}

/// A node-local failure, never an answer about an event.
pub fn failed(error: &LedgerError) -> Rejected {
    if matches!(error, LedgerError::Closed) {
        return Rejected::new(Reason::Stopping, "the node is stopping");
    }
    tracing::error!(%error, "cannot read the trail");
    Rejected::new(Reason::Damaged, format!("this node cannot read the trail: {error}"))
}
