//! Proof of a node's key, bound to one connection (docs/adr/0010).
//!
//! The signed text begins with a line that no cosignature begins with, so that neither can be taken
//! for the other; and it ends with what only the two ends of this TLS session know, so that it
//! proves nothing on another connection.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use indelible_core::TrailId;
use indelible_lineage::Boot;

use crate::storage::synced::Promise;

/// First line of what is signed.
const CONTEXT: &[u8] = b"indelible/peer/v2\n";

/// What a node says of itself to another one, on one connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claim<'a> {
    pub(super) trail: &'a TrailId,
    /// Who says it.
    pub(super) from: u64,
    /// To whom.
    pub(super) to: u64,
    /// Which boot of the sender.
    pub(super) boot: Boot,
    /// Where its log ends.
    pub(super) last_log_index: u64,
    /// Whom it has promised to follow.
    pub(super) promise: Promise,
    /// `EXPORTER-indelible-peer-v1` of the TLS session; zero in clear text.
    pub(super) binding: [u8; 32],
}

impl Claim<'_> {
    fn text(&self) -> Vec<u8> {
        let mut text = CONTEXT.to_vec();
        text.extend_from_slice(&self.trail.0);
        let Promise { term, leader } = self.promise;
        for number in [self.from, self.to, self.last_log_index, term, leader, self.boot.number] {
            text.extend_from_slice(&number.to_le_bytes());
        }
        text.extend_from_slice(&self.boot.hash);
        text.extend_from_slice(&self.binding);
        text
    }

    /// 64 bytes.
    pub(super) fn sign(&self, key: &SigningKey) -> Vec<u8> {
        key.sign(&self.text()).to_bytes().to_vec()
    }

    /// Whether who has this key said so.
    pub(super) fn is_signed(&self, public_key: &[u8; 32], proof: &[u8]) -> bool {
        let (Ok(key), Ok(proof)) =
            (VerifyingKey::from_bytes(public_key), Signature::from_slice(proof))
        else {
            return false;
        };
        key.verify_strict(&self.text(), &proof).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_of_one_claim_on_one_connection() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let public = key.verifying_key().to_bytes();
        let trail = TrailId([1; 16]);
        let boot = Boot { number: 5, hash: [5; 32] };
        let promise = Promise { term: 4, leader: 1 };
        let (last_log_index, binding) = (9, [3; 32]);
        let claim = Claim { trail: &trail, from: 2, to: 1, boot, last_log_index, promise, binding };
        let proof = claim.sign(&key);
        assert!(claim.is_signed(&public, &proof));
        let other = TrailId([2; 16]);
        for changed in [
            Claim { trail: &other, ..claim },
            Claim { from: 3, ..claim },
            Claim { to: 3, ..claim },
            Claim { from: 1, to: 2, ..claim },
            Claim { boot: Boot { number: 6, ..boot }, ..claim },
            Claim { boot: Boot { hash: [6; 32], ..boot }, ..claim },
            Claim { promise: Promise { term: 5, ..promise }, ..claim },
            Claim { promise: Promise { leader: 2, ..promise }, ..claim },
            Claim { last_log_index: 8, ..claim },
            Claim { binding: [4; 32], ..claim },
        ] {
            assert!(!changed.is_signed(&public, &proof), "{changed:?}");
        }
        let stranger = SigningKey::from_bytes(&[8; 32]).verifying_key().to_bytes();
        assert!(!claim.is_signed(&stranger, &proof));
        assert!(!claim.is_signed(&public, &proof[1..]) && !claim.is_signed(&public, &[]));
    }
}
