//! Records as they are read: nothing is handed out before the commitment fits the bytes.

use std::sync::Arc;

use bytes::Bytes;
use indelible_core::leaf::{commit, leaf_hash};
use indelible_core::merkle::ProofError;
use indelible_core::proof_file::{Extra, ProofFile};
use indelible_core::{FormatError, Hash, Leaf, LeafIndex, Salt};
use indelible_proto::v1;

use crate::error::Fault;
use crate::trust::evidence::Evidence;
use crate::{Proof, Verification};

/// A record of the trail whose event is the one that its leaf commits to. Whether the leaf is in
/// the tree of a checkpoint that is to be believed, its `verification` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Position in the trail.
    pub index: LeafIndex,
    /// What the tree commits to.
    pub leaf: Leaf,
    /// Opens the commitment. All zero in records that the nodes derive (leadership, membership).
    pub salt: Salt,
    /// The bytes that the producer sent.
    pub event: Bytes,
    /// How far it was verified that this is the record at this position.
    pub verification: Verification,
    proof: Option<Arc<Proof>>,
}

impl Record {
    /// The checkpoint that it was held against, and the proof. Whether that is to be believed, the
    /// `verification` says.
    pub fn proof(&self) -> Option<&Proof> {
        self.proof.as_deref()
    }

    /// A file that proves it to anybody who has the policy, with no node at hand. `None` if it came
    /// without a proof.
    pub fn proof_file(&self) -> Option<Result<ProofFile, ProofError>> {
        let extra =
            Extra { leaf: self.leaf.encode(), content: Some((self.salt, self.event.to_vec())) };
        Some(self.proof.as_ref()?.file(self.index, &extra))
    }

    pub(crate) fn proven(&mut self, proof: &Arc<Proof>) {
        self.verification = proof.verification;
        self.proof = Some(proof.clone());
    }
    /// The leaf's hash in the tree.
    pub fn leaf_hash(&self) -> Hash {
        leaf_hash(&self.leaf.encode())
    }

    /// From the wire, if it is the record at `index` and holds what its leaf commits to; otherwise
    /// what does not fit.
    pub(crate) fn verify(record: v1::Record, index: LeafIndex) -> Result<Record, Fault> {
        if record.index != index {
            return Err(format!("record {} was sent for record {index}", record.index).into());
        }
        // A leaf of a later version is no lie.
        let leaf = Leaf::decode(&record.leaf).map_err(|error: FormatError| error.to_string())?;
        let salt = Salt::from_slice(&record.salt)
            .ok_or_else(|| format!("a salt of {} bytes", record.salt.len()))?;
        let fits = leaf.event_size as usize == record.event.len()
            && commit(&salt, &record.event) == leaf.commitment;
        if !fits {
            let what =
                format!("its event at index {index} is not the one that the leaf commits to");
            let answer = format!(
                "record {index}: leaf {}, salt {salt}, event {}",
                hex::encode(&record.leaf),
                hex::encode(&record.event)
            );
            return Err(Fault::Lie(what, Evidence::new([], answer)));
        }
        let (event, verification) = (record.event, Verification::Unverified);
        Ok(Record { index, leaf, salt, event, verification, proof: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use indelible_testkit::TestRecord;

    #[test]
    fn a_record_with_any_other_byte_is_refused() {
        let (salt, event) = (Salt([7; 16]), Bytes::from_static(b"who did what"));
        let record = TestRecord::event(2, 1, 5, event.clone());
        let (leaf, good) = (record.leaf(&salt), record.to_wire(9, &salt));
        let record = Record::verify(good.clone(), 9).expect("verifies");
        assert_eq!((record.index, record.leaf, &record.event), (9, leaf, &event));
        assert!(Record::verify(good.clone(), 8).is_err());
        let fields: [fn(&mut v1::Record) -> &mut Bytes; 2] = [|r| &mut r.salt, |r| &mut r.event];
        for field in fields {
            for byte in 0..field(&mut good.clone()).len() {
                let mut bad = good.clone();
                let mut bytes = field(&mut bad).to_vec();
                bytes[byte] ^= 1;
                *field(&mut bad) = bytes.into();
                assert!(Record::verify(bad, 9).is_err());
            }
        }
        let cut = v1::Record { event: event.slice(1..), ..good };
        assert!(Record::verify(cut, 9).is_err());
    }
}
