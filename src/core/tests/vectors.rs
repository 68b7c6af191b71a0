//! Every vector of tests/data/vectors/trail.json, which a program in another language computed.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;

use super::record;
use crate::batch::BatchBuilder;
use crate::leaf::{commit, leaf_hash};
use crate::merkle::{
    Frontier, consistency_proof, empty_root, inclusion_proof, root_at, verify_consistency,
    verify_inclusion,
};
use crate::{Batch, Entry, EntryId, EntryKind, Hash, Leaf, Salt, TrailId, chain};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/vectors/trail.json");
/// Leaves that the vectors speak of.
const LEAVES: u64 = 300;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vectors {
    #[serde(rename = "about")]
    _about: String,
    leaves: Vec<LeafVector>,
    chain: ChainVectors,
    roots: BTreeMap<u64, String>,
    inclusion: Vec<InclusionVector>,
    consistency: Vec<ConsistencyVector>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LeafVector {
    event: String,
    salt: String,
    leaf: String,
    leaf_hash: String,
}

#[derive(Deserialize)]
struct ChainVectors {
    links: Vec<LinkVector>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LinkVector {
    index: i64,
    #[serde(default)]
    term: u64,
    #[serde(default)]
    leader: u64,
    #[serde(default)]
    kind: u8,
    head: Option<String>,
    #[serde(default)]
    leaves: Vec<u64>,
    chain: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InclusionVector {
    index: u64,
    size: u64,
    proof: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConsistencyVector {
    old: u64,
    new: u64,
    proof: Vec<String>,
}

fn vectors() -> Vectors {
    let text = std::fs::read_to_string(PATH).expect("the vectors are in tests/data");
    serde_json::from_str(&text).unwrap()
}

fn hash(text: &str) -> Hash {
    Hash::from_slice(&hex::decode(text).unwrap()).unwrap()
}

fn hashes(texts: &[String]) -> Vec<Hash> {
    texts.iter().map(|text| hash(text)).collect()
}

/// A source of complete nodes as a store would keep them: level by level.
fn levels() -> Vec<Vec<Hash>> {
    let mut levels: Vec<Vec<Hash>> = vec![Vec::new(); 16];
    let mut frontier = Frontier::new();
    for n in 0..LEAVES {
        frontier.append_with(leaf_hash(&record(n).0.encode()), |level, index, hash| {
            assert_eq!(levels[level as usize].len() as u64, index, "nodes complete in order");
            levels[level as usize].push(*hash);
        });
    }
    levels
}

#[test]
fn leaves_and_leaf_hashes() {
    let vectors = vectors();
    assert_eq!(vectors.leaves.len(), 8);
    for (n, vector) in vectors.leaves.iter().enumerate() {
        let bytes = hex::decode(&vector.leaf).unwrap();
        let salt = Salt::from_slice(&hex::decode(&vector.salt).unwrap()).unwrap();
        let (leaf, own_salt, event) = record(n as u64);
        assert_eq!((vector.event.as_bytes(), salt), (event.as_slice(), own_salt));
        assert_eq!(leaf.encode().as_slice(), bytes);
        assert_eq!(Leaf::decode(&bytes).unwrap(), leaf);
        assert_eq!(commit(&salt, vector.event.as_bytes()), leaf.commitment);
        assert_eq!(leaf_hash(&leaf.encode()), hash(&vector.leaf_hash));
    }
}

#[test]
fn chain_links() {
    let links = vectors().chain.links;
    assert_eq!(links.len(), 7);
    let trail = TrailId(std::array::from_fn(|n| n as u8));
    let mut previous = chain::genesis(&trail);
    assert_eq!((links[0].index, hash(&links[0].chain)), (-1, previous));
    for link in &links[1..] {
        let (head, body) = match &link.head {
            Some(head) => (Bytes::from(hex::decode(head).unwrap()), Bytes::new()),
            None => batch_of(&link.leaves),
        };
        let index = u64::try_from(link.index).unwrap();
        let id = EntryId { index, term: link.term, leader: link.leader };
        let kind = EntryKind::from_u8(link.kind).unwrap();
        let entry = Entry { id, kind, head, body };
        previous = chain::link_entry(&previous, &entry);
        assert_eq!(previous, hash(&link.chain), "link of entry {index}");
    }
}

fn batch_of(leaves: &[u64]) -> (Bytes, Bytes) {
    let mut builder = BatchBuilder::default();
    for n in leaves {
        let (leaf, salt, event) = record(*n);
        builder.push(&leaf, &salt, &event);
    }
    let (head, body) = builder.finish();
    Batch::decode(&head, &body).unwrap().verify().unwrap();
    (head, body)
}

#[test]
fn roots() {
    let levels = levels();
    let roots = vectors().roots;
    assert_eq!(roots.len(), 17);
    let mut frontier = Frontier::new();
    for size in 0..=LEAVES {
        if let Some(root) = roots.get(&size) {
            assert_eq!(frontier.root(), hash(root), "root of {size} from the frontier");
            let from_nodes = root_at(size, |level, index| node(&levels, level, index));
            assert_eq!(from_nodes.unwrap(), hash(root), "root of {size} from nodes");
        }
        frontier.append(leaf_hash(&record(size).0.encode()));
    }
    assert_eq!(empty_root(), hash(&roots[&0]));
}

#[test]
fn inclusion_proofs() {
    let (vectors, levels) = (vectors(), levels());
    assert_eq!(vectors.inclusion.len(), 8);
    for InclusionVector { index, size, proof } in vectors.inclusion {
        let root = root_at(size, |level, index| node(&levels, level, index)).unwrap();
        let made = inclusion_proof(index, size, |level, index| node(&levels, level, index));
        assert_eq!(made.unwrap(), hashes(&proof), "leaf {index} in {size}");
        let leaf = levels[0][index as usize];
        verify_inclusion(index, size, &leaf, &hashes(&proof), &root).unwrap();
    }
}

#[test]
fn consistency_proofs() {
    let (vectors, levels) = (vectors(), levels());
    assert_eq!(vectors.consistency.len(), 8);
    for ConsistencyVector { old, new, proof } in vectors.consistency {
        let root = |size| root_at(size, |level, index| node(&levels, level, index)).unwrap();
        let made = consistency_proof(old, new, |level, index| node(&levels, level, index));
        assert_eq!(made.unwrap(), hashes(&proof), "{old} to {new}");
        verify_consistency(old, new, &hashes(&proof), &root(old), &root(new)).unwrap();
    }
}

fn node(levels: &[Vec<Hash>], level: u8, index: u64) -> Result<Hash, String> {
    let nodes = levels.get(level as usize).ok_or("no such level")?;
    nodes.get(index as usize).copied().ok_or_else(|| format!("no node ({level}, {index})"))
}
