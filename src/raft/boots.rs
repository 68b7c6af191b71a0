//! Boots on the wire: what this node shows of its own, and what a peer has shown (docs/adr/0011,
//! rules 6 and 7).

use bytes::Bytes;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use indelible_core::TrailId;
use indelible_core::limits::HANDSHAKE_BYTES_MAX;
use indelible_lineage::{Boot, Draw, Lineage, Statement};
use indelible_proto::raft as pb;

use crate::storage::hard_state::SignedBoot;

/// Bytes of a draw.
const DRAW_SIZE: usize = 16;
/// Draws in one message: half of what a handshake may have.
const DRAWS_MAX: usize = HANDSHAKE_BYTES_MAX / 2 / DRAW_SIZE;

/// All boots of this node, as it shows them.
pub(super) struct OwnBoots {
    trail: TrailId,
    node: u64,
    key: SigningKey,
    lineage: Lineage,
    /// This boot.
    newest: SignedBoot,
}

/// What one message shows of a node's boots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    /// The boot of the node, or an earlier one if `more`.
    pub(super) boot: SignedBoot,
    /// Draws that lead to it, if they were asked for.
    pub(super) draws: Vec<Draw>,
    /// Whether another message goes on from there.
    pub(super) more: bool,
}

impl OwnBoots {
    pub(super) fn new(trail: TrailId, node: u64, key: SigningKey, lineage: Lineage) -> Self {
        let newest = sign(&trail, node, &key, lineage.newest());
        OwnBoots { trail, node, key, lineage, newest }
    }

    /// This boot.
    pub(super) fn newest(&self) -> SignedBoot {
        self.newest
    }

    pub(super) fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    /// What is shown to a peer that has asked for the draws after a boot, or for none.
    pub(super) fn show(&self, after: Option<u64>) -> Shown {
        let draws = after.map_or(&[][..], |after| self.lineage.draws_after(after));
        let step = draws.get(..DRAWS_MAX).filter(|part| part.len() < draws.len());
        let (Some(step), Some(after)) = (step, after) else {
            return Shown { boot: self.newest, draws: draws.to_vec(), more: false };
        };
        let boot = self.lineage.boot(after + DRAWS_MAX as u64).expect("it has so many draws");
        let boot = sign(&self.trail, self.node, &self.key, boot);
        Shown { boot, draws: step.to_vec(), more: true }
    }

    /// How many messages it may take to show all of it, and a few for the answers.
    pub(super) fn messages_max(&self) -> usize {
        self.lineage.draws().len() / DRAWS_MAX + 4
    }

    /// Whether this node has signed such a boot.
    pub(super) fn is_own(&self, boot: &SignedBoot) -> bool {
        let key = self.key.verifying_key().to_bytes();
        is_signed(&self.trail, self.node, &key, boot)
    }
}

fn sign(trail: &TrailId, node: u64, key: &SigningKey, boot: Boot) -> SignedBoot {
    let text = Statement { trail: &trail.0, node, boot }.text();
    SignedBoot { boot, signature: key.sign(&text).to_bytes() }
}

/// Whether the node with this key has signed a boot.
pub(super) fn is_signed(
    trail: &TrailId,
    node: u64,
    public_key: &[u8; 32],
    signed: &SignedBoot,
) -> bool {
    let Ok(key) = VerifyingKey::from_bytes(public_key) else { return false };
    let text = Statement { trail: &trail.0, node, boot: signed.boot }.text();
    key.verify_strict(&text, &Signature::from_bytes(&signed.signature)).is_ok()
}

impl Shown {
    /// As a message has it; none if it makes no sense.
    pub(super) fn from_pb(boot: Option<&pb::Boot>, draws: &[u8], more: bool) -> Option<Shown> {
        let boot = from_pb(boot?)?;
        if !draws.len().is_multiple_of(DRAW_SIZE) || draws.len() > DRAWS_MAX * DRAW_SIZE {
            return None;
        }
        let draws = draws
            .chunks_exact(DRAW_SIZE)
            .map(|draw| Draw(draw.try_into().expect("chunks of this size")));
        Some(Shown { boot, draws: draws.collect(), more })
    }

    /// The draws as a message has them.
    pub(super) fn draws_to_pb(&self) -> Bytes {
        self.draws.iter().flat_map(|draw| draw.0).collect()
    }
}

/// A boot as a message has it.
pub(super) fn to_pb(signed: &SignedBoot) -> pb::Boot {
    pb::Boot {
        number: signed.boot.number,
        hash: Bytes::copy_from_slice(&signed.boot.hash),
        signature: Bytes::copy_from_slice(&signed.signature),
    }
}

/// A boot from a message; none if it makes no sense.
pub(super) fn from_pb(boot: &pb::Boot) -> Option<SignedBoot> {
    let (hash, signature) = (boot.hash[..].try_into().ok()?, boot.signature[..].try_into().ok()?);
    let boot = Boot { number: boot.number, hash };
    (boot.number > 0).then_some(SignedBoot { boot, signature })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRAIL: TrailId = TrailId([1; 16]);

    fn own(starts: usize) -> OwnBoots {
        let key = SigningKey::from_bytes(&[7; 32]);
        let root = Boot::root(&TRAIL.0, 2, &key.verifying_key().to_bytes());
        let draws = (0..starts).map(|number| {
            let mut draw = [0; 16];
            draw[..8].copy_from_slice(&(number as u64).to_le_bytes());
            Draw(draw)
        });
        OwnBoots::new(TRAIL, 2, key, Lineage::of(root, draws.collect()))
    }

    fn sent(shown: &Shown) -> Shown {
        let boot = to_pb(&shown.boot);
        Shown::from_pb(Some(&boot), &shown.draws_to_pb(), shown.more).unwrap()
    }

    #[test]
    fn a_boot_is_signed_by_its_node_for_its_trail() {
        let own = own(3);
        let (newest, key) = (own.newest(), own.key.verifying_key().to_bytes());
        assert!(own.is_own(&newest) && is_signed(&TRAIL, 2, &key, &newest));
        let later = Boot { number: 4, ..newest.boot };
        for other in [
            SignedBoot { boot: later, ..newest },
            SignedBoot { boot: Boot { hash: [0; 32], ..newest.boot }, ..newest },
            SignedBoot { signature: [0; 64], ..newest },
        ] {
            assert!(!own.is_own(&other), "{other:?}");
        }
        assert!(!is_signed(&TrailId([2; 16]), 2, &key, &newest));
        assert!(!is_signed(&TRAIL, 3, &key, &newest));
    }

    #[test]
    fn what_is_asked_for_is_shown_in_messages_of_bounded_size() {
        let own = own(2 * DRAWS_MAX + 3);
        assert_eq!(own.show(None), Shown { boot: own.newest(), draws: Vec::new(), more: false });
        let (mut after, mut messages) = (1, 0);
        loop {
            let shown = own.show(Some(after));
            assert_eq!(sent(&shown), shown);
            assert!(
                own.is_own(&shown.boot) && shown.draws_to_pb().len() <= HANDSHAKE_BYTES_MAX / 2
            );
            let from = own.lineage().boot(after).unwrap();
            let led = shown.draws.iter().fold(from, |boot, draw| boot.next(*draw));
            assert_eq!(led, shown.boot.boot);
            (after, messages) = (led.number, messages + 1);
            if !shown.more {
                break;
            }
        }
        assert_eq!((after, messages), (own.newest().boot.number, 3));
        assert!(messages <= own.messages_max());
    }

    #[test]
    fn nonsense_is_no_boot() {
        let good = to_pb(&own(1).newest());
        assert!(Shown::from_pb(Some(&good), &[0; 32], false).is_some());
        assert!(Shown::from_pb(None, &[], false).is_none());
        assert!(Shown::from_pb(Some(&good), &[0; 17], false).is_none());
        assert!(
            Shown::from_pb(Some(&good), &vec![0; HANDSHAKE_BYTES_MAX / 2 + 16], false).is_none()
        );
        for bad in [
            pb::Boot { number: 0, ..good.clone() },
            pb::Boot { hash: Bytes::from_static(b"short"), ..good.clone() },
            pb::Boot { signature: Bytes::new(), ..good.clone() },
        ] {
            assert!(from_pb(&bad).is_none(), "{bad:?}");
        }
    }
}
