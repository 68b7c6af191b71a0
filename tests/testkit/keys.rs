//! Keys of trails that tests make up, and what is signed with them.

use indelible_core::policy::Witness;
use indelible_core::{Checkpoint, KeyType, Note, Policy, SignerKey, node_key_name};

/// Name of the witness outside the group.
const WITNESS: &str = "witness.example.org/w";

/// The keys of one trail. They follow from the origin and the node's id, so two tests with the same
/// origin have the same keys.
#[derive(Debug, Clone, Copy)]
pub struct TestKeys {
    origin: &'static str,
}

impl TestKeys {
    /// The keys of the trail of this name.
    pub const fn of(origin: &'static str) -> TestKeys {
        TestKeys { origin }
    }

    /// The key of a node; its id is below 100.
    pub fn node(&self, id: u64) -> SignerKey {
        let seed = u8::try_from(id).ok().filter(|id| *id < 100).expect("an id below 100");
        signer(&node_key_name(self.origin, id), KeyType::Cosigner, seed)
    }

    /// The public half of a node's key, as in a membership.
    pub fn node_public(&self, id: u64) -> [u8; 32] {
        self.node(id).verifier().public_key
    }

    /// The log key.
    pub fn log(&self) -> SignerKey {
        signer(self.origin, KeyType::Log, 100)
    }

    /// The key of a witness outside the group, the same for all trails.
    pub fn witness(&self) -> SignerKey {
        signer(WITNESS, KeyType::Cosigner, 200)
    }

    /// A majority of these nodes has to sign: what `indelible init` gives to auditors.
    pub fn policy(&self, nodes: &[u64]) -> Policy {
        let nodes = nodes.iter().map(|id| self.node(*id).verifier().clone()).collect();
        Policy::majority(self.log().verifier().clone(), nodes).expect("a valid policy")
    }

    /// A majority of these nodes and the witness have to sign.
    pub fn witnessed_policy(&self, nodes: &[u64]) -> Policy {
        let key = self.witness().verifier().clone();
        let witness = Witness { name: "w".into(), key, url: None };
        self.policy(nodes).with_witnesses(vec![witness], 1).expect("a valid policy")
    }

    /// The checkpoint, signed by the log and cosigned by these nodes.
    pub fn note(&self, checkpoint: &Checkpoint, nodes: &[u64], unix_s: u64) -> Note {
        let mut signatures = vec![self.log().sign(checkpoint)];
        signatures.extend(nodes.iter().map(|id| self.node(*id).cosign(checkpoint, unix_s)));
        Note { text: checkpoint.to_string(), signatures }
    }
}

fn signer(name: &str, key_type: KeyType, seed: u8) -> SignerKey {
    SignerKey::new(name, key_type, [seed; 32]).expect("a valid name")
}
