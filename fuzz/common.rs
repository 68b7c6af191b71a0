//! What the targets share: inputs to begin with, keys that are known, and a trail that they have
//! signed.

use std::fs;
use std::path::Path;

use indelible_core::bundle::{BundleHeader, BundleWriter, KeyRecord, Older};
use indelible_core::leaf::{commit, leaf_hash};
use indelible_core::merkle::{Frontier, consistency_proof, inclusion_proof, node_hash};
use indelible_core::proof_file::Extra;
use indelible_core::{
    BatchBuilder, Checkpoint, Hash, KeyType, Kind, Leaf, Note, Policy, ProofFile, RangeProof, Salt,
    SignerKey,
};

pub const ORIGIN: &str = "log.example.com/fuzz";
pub const SIZE: u64 = 300;
const TIME: u64 = 1_700_000_000;

/// Writes inputs to begin with into the folder that SEEDS names, if there is one. Called before
/// the fuzzer reads its corpus.
pub fn write_seeds(seeds: &[Vec<u8>]) {
    let Some(dir) = std::env::var_os("SEEDS") else { return };
    fs::create_dir_all(&dir).unwrap();
    for (n, seed) in seeds.iter().enumerate() {
        fs::write(Path::new(&dir).join(format!("seed-{n}")), seed).unwrap();
    }
}

/// Batches of several sizes: size of the head in two bytes, head, body.
pub fn batches() -> Vec<Vec<u8>> {
    let batch = |count: u64| {
        let mut builder = BatchBuilder::default();
        for n in 0..count {
            let (leaf, salt, event) = record(n);
            builder.push(&leaf, &salt, &event);
        }
        let (head, body) = builder.finish();
        [&(head.len() as u16).to_le_bytes()[..], &head, &body].concat()
    };
    [0, 1, 3, 20].map(batch).to_vec()
}

pub fn log_key() -> SignerKey {
    SignerKey::new(ORIGIN, KeyType::Log, [1; 32]).unwrap()
}

pub fn witness_key() -> SignerKey {
    SignerKey::new("witness.example.org/w1", KeyType::Cosigner, [2; 32]).unwrap()
}

pub fn policy() -> Policy {
    let (log, witness) = (log_key().verifier().clone(), witness_key().verifier().clone());
    Policy::majority(log, vec![witness]).unwrap()
}

pub fn record(n: u64) -> (Leaf, Salt, Vec<u8>) {
    let (salt, event) = (Salt([n as u8; 16]), format!("event number {n}").into_bytes());
    let leaf = Leaf {
        kind: if n == 0 || n == 200 { Kind::Membership } else { Kind::Event },
        retention_class: 0,
        event_size: event.len() as u32,
        received: TIME * 1_000_000_000 + n,
        opened: 2,
        seq: n + 1,
        commitment: commit(&salt, &event),
    };
    (leaf, salt, event)
}

pub fn hashes() -> Vec<Hash> {
    (0..SIZE).map(|n| leaf_hash(&record(n).0.encode())).collect()
}

pub fn checkpoint(size: u64) -> Checkpoint {
    let mut frontier = Frontier::new();
    hashes()[..size as usize].iter().for_each(|hash| frontier.append(*hash));
    Checkpoint::new(ORIGIN, size, frontier.root())
}

pub fn signed(checkpoint: &Checkpoint) -> Note {
    let signatures = vec![log_key().sign(checkpoint), witness_key().cosign(checkpoint, TIME)];
    Note { text: checkpoint.to_string(), signatures }
}

fn node(hashes: &[Hash], level: u8, index: u64) -> Hash {
    match level {
        0 => hashes[index as usize],
        _ => {
            let (left, right) =
                (node(hashes, level - 1, 2 * index), node(hashes, level - 1, 2 * index + 1));
            node_hash(&left, &right)
        }
    }
}

pub fn proof_file(index: u64, with_content: bool) -> ProofFile {
    let hashes = hashes();
    let (leaf, salt, event) = record(index);
    let content = with_content.then_some((salt, event));
    let source = |level, index| Ok::<_, ()>(node(&hashes, level, index));
    ProofFile {
        extra: Some(Extra { leaf: leaf.encode(), content }.encode()),
        index,
        proof: inclusion_proof(index, SIZE, source).unwrap(),
        checkpoint: signed(&checkpoint(SIZE)),
    }
}

pub fn bundle(from: u64, to: u64, older: &[u64]) -> Vec<u8> {
    let hashes = hashes();
    let source = |level, index| Ok::<_, ()>(node(&hashes, level, index));
    let older = older.iter().map(|size| Older {
        size: *size,
        note: (size % 2 == 1).then(|| signed(&checkpoint(*size))),
        proof: consistency_proof(*size, SIZE, source).unwrap(),
    });
    let keys = [0, 200].into_iter().map(|index| {
        let (leaf, salt, event) = record(index);
        let proof = inclusion_proof(index, SIZE, source).unwrap();
        KeyRecord { index, leaf, salt, event, proof }
    });
    let header = BundleHeader {
        policy: Some(policy()),
        note: signed(&checkpoint(SIZE)),
        proof: RangeProof::prove(from, to, SIZE, source).unwrap(),
        older: older.collect(),
        keys: keys.collect(),
    };
    let mut writer = BundleWriter::new(Vec::new(), header).unwrap();
    for n in from..to {
        let (leaf, salt, event) = record(n);
        writer.push(&leaf, (n % 7 != 6).then_some((&salt, event.as_slice()))).unwrap();
    }
    writer.finish().unwrap()
}
