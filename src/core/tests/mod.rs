//! Tests of the whole package: the vectors, the tree against the RFC's own words, and the formats
//! against damage.

mod bundles;
mod formats;
mod notes;
mod policies;
mod proof_files;
mod ranges;
mod tiles;
mod tree;
mod vectors;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::merkle::{empty_root, node_hash};
use crate::{Hash, Kind, Leaf, Salt};

/// A generator whose seed is printed, and taken from INDELIBLE_SEED where that is set.
fn seeded() -> StdRng {
    let seed = match std::env::var("INDELIBLE_SEED") {
        Ok(text) => text.parse().expect("INDELIBLE_SEED is a number"),
        Err(_) => rand::rng().random(),
    };
    println!("INDELIBLE_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

fn random_hash(rng: &mut StdRng) -> Hash {
    Hash(rng.random())
}

/// A leaf with its salt and event, different for each `n`.
fn record(n: u64) -> (Leaf, Salt, Vec<u8>) {
    let event = format!("event number {n}").into_bytes();
    let salt = Salt([n as u8; 16]);
    let leaf = Leaf {
        kind: Kind::Event,
        retention_class: 0,
        event_size: event.len() as u32,
        received: 1_700_000_000_000_000_000 + n,
        opened: 2,
        seq: n + 1,
        commitment: crate::leaf::commit(&salt, &event),
    };
    (leaf, salt, event)
}

/// MTH of RFC 6962 section 2.1, word for word.
fn naive_root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => empty_root(),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            node_hash(&naive_root(left), &naive_root(right))
        }
    }
}

/// PATH of RFC 6962 section 2.1.1, word for word.
fn naive_path(m: usize, leaves: &[Hash]) -> Vec<Hash> {
    if leaves.len() == 1 {
        return Vec::new();
    }
    let k = split(leaves.len());
    let (left, right) = leaves.split_at(k);
    let (mut path, sibling) = match m < k {
        true => (naive_path(m, left), naive_root(right)),
        false => (naive_path(m - k, right), naive_root(left)),
    };
    path.push(sibling);
    path
}

/// SUBPROOF of RFC 6962 section 2.1.2, word for word.
fn naive_subproof(m: usize, leaves: &[Hash], whole: bool) -> Vec<Hash> {
    if m == leaves.len() {
        return if whole { Vec::new() } else { vec![naive_root(leaves)] };
    }
    let k = split(leaves.len());
    let (left, right) = leaves.split_at(k);
    let (mut proof, sibling) = match m <= k {
        true => (naive_subproof(m, left, whole), naive_root(right)),
        false => (naive_subproof(m - k, right, false), naive_root(left)),
    };
    proof.push(sibling);
    proof
}

/// The largest power of two below `count`.
fn split(count: usize) -> usize {
    1 << (count - 1).ilog2()
}
