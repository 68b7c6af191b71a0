//! Every record that says whose keys count, with its proof.

use indelible_core::limits::KEY_HISTORY_BYTES_MAX;
use indelible_core::{Hash, RangeProof};
use indelible_proto::reason::{Reason, Rejected, key};
use indelible_proto::v1;
use prost::Message;

use super::proofs::range_proof;
use super::read_stream::record;
use crate::node::duplicates::failed;
use crate::storage::ledger::{Ledger, LedgerError, StoredRecord};

/// The history up to a tree size that this node has, proved against the root of that size. Blocks.
///
/// NB: that what is listed is in the trail is proved; that nothing is left out is this node's word.
/// Whoever needs to know that reads the trail.
pub(super) fn key_history(
    ledger: &Ledger,
    size: u64,
    root: &Hash,
) -> Result<v1::KeyHistoryResponse, Rejected> {
    let mut history = v1::KeyHistoryResponse { tree_size: size, ..Default::default() };
    let mut bytes = 0;
    for leaf in ledger.key_records(size).map_err(|error| failed(&error))? {
        let (found, proof) = proved(ledger, leaf, size, root).map_err(|error| failed(&error))?;
        let (found, proof) = (record(found), range_proof(proof));
        // Tag and length of each take at most four bytes.
        bytes += found.encoded_len() + proof.encoded_len() + 8;
        if bytes > KEY_HISTORY_BYTES_MAX {
            let message = format!(
                "the key history up to leaf {leaf} takes {bytes} bytes, the limit is \
                 {KEY_HISTORY_BYTES_MAX}; hint: ask for a smaller tree_size, and read the trail from there on"
            );
            return Err(Rejected::new(Reason::TooLarge, message)
                .with(key::LIMIT, KEY_HISTORY_BYTES_MAX as u64));
        }
        history.records.push(found);
        history.proofs.push(proof);
    }
    Ok(history)
}

fn proved(
    ledger: &Ledger,
    leaf: u64,
    size: u64,
    root: &Hash,
) -> Result<(StoredRecord, RangeProof), LedgerError> {
    let what = "the list of keys names it";
    let found = ledger.record(leaf)?.ok_or(LedgerError::Damaged { leaf, what })?;
    let proof = ledger.prove_records(std::slice::from_ref(&found), size, root)?;
    Ok((found, proof))
}
