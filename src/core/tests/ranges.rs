//! Range proofs against the RFC's own words, and against tampering.

use rand::Rng;

use super::tree::{random_leaves, source};
use super::{naive_path, naive_root, random_hash, seeded};
use crate::merkle::{Frontier, ProofError, node_hash, root_at, verify_inclusion};
use crate::{Checkpoint, Hash, RangeProof};

/// Sizes up to here are tested without gaps.
const EXHAUSTIVE: usize = 24;

/// The roots that cover `from..to`, by the RFC's recursion: a subtree is complete if it has a power
/// of two of leaves.
fn naive_cover(leaves: &[Hash], start: usize, from: usize, to: usize) -> Vec<Hash> {
    let end = start + leaves.len();
    if leaves.is_empty() || to <= start || end <= from {
        return Vec::new();
    }
    if from <= start && end <= to && leaves.len().is_power_of_two() {
        return vec![naive_root(leaves)];
    }
    let k = super::split(leaves.len());
    let mut cover = naive_cover(&leaves[..k], start, from, to);
    cover.extend(naive_cover(&leaves[k..], start + k, from, to));
    cover
}

fn check(leaves: &[Hash], from: usize, to: usize) {
    let size = leaves.len();
    let place = format!("{from}..{to} of {size}");
    let proof = RangeProof::prove(from as u64, to as u64, size as u64, source(leaves)).unwrap();
    assert_eq!(proof.left, naive_cover(leaves, 0, 0, from), "{place}");
    assert_eq!(proof.right, naive_cover(leaves, 0, to, size), "{place}");
    assert_eq!(proof.root(leaves[from..to].iter().copied()), Ok(naive_root(leaves)), "{place}");
    assert_eq!(proof.start().unwrap().root(), naive_root(&leaves[..from]), "{place}");
    for index in from..to {
        let path = proof.inclusion(&leaves[from..to], index as u64).unwrap();
        assert_eq!(path, naive_path(index, leaves), "leaf {index} by {place}");
    }
}

#[test]
fn all_ranges_of_all_small_trees() {
    let leaves = random_leaves(&mut seeded(), EXHAUSTIVE);
    for size in 0..=EXHAUSTIVE {
        for to in 0..=size {
            (0..=to).for_each(|from| check(&leaves[..size], from, to));
        }
    }
}

#[test]
fn random_ranges_of_larger_trees() {
    let mut rng = seeded();
    let leaves = random_leaves(&mut rng, 2_000);
    for _ in 0..40 {
        let size = rng.random_range(EXHAUSTIVE..=leaves.len());
        let to = rng.random_range(1..=size);
        let from = to - rng.random_range(0..=to.min(20));
        check(&leaves[..size], from, to);
    }
}

#[test]
fn sizes_near_the_end_of_u64() {
    // A tree whose leaves are all alike has one hash for each level.
    let alike: Vec<Hash> =
        std::iter::successors(Some(Hash([7; 32])), |hash| Some(node_hash(hash, hash)))
            .take(64)
            .collect();
    let node = |level: u8, _: u64| Ok::<_, ()>(alike[level as usize]);
    for size in [u64::MAX, u64::MAX - 1, 1 << 63, (1 << 63) + 1, (1 << 63) - 1] {
        let root = root_at(size, node).unwrap();
        for from in [0, 1, size / 2 - 1, size / 2, size - 7, size] {
            let to = size.min(from.saturating_add(3));
            let proof = RangeProof::prove(from, to, size, node).unwrap();
            let leaves = vec![alike[0]; (to - from) as usize];
            assert_eq!(proof.root(leaves.iter().copied()), Ok(root), "{from}..{to} of {size}");
            for index in from..to {
                let path = proof.inclusion(&leaves, index).unwrap();
                verify_inclusion(index, size, &alike[0], &path, &root).unwrap();
            }
        }
    }
}

#[test]
fn subtrees_append_as_their_leaves_do() {
    let leaves = random_leaves(&mut seeded(), 64);
    for level in 0..5u8 {
        for start in (0..32).step_by(1 << level) {
            let end = start + (1 << level);
            let (mut one, mut other) = (Frontier::new(), Frontier::new());
            leaves[..end].iter().for_each(|leaf| one.append(*leaf));
            leaves[..start].iter().for_each(|leaf| other.append(*leaf));
            other.append_subtree(level, naive_root(&leaves[start..end]));
            assert_eq!(one, other, "level {level} at {start}");
        }
    }
}

#[test]
fn tampered_range_proofs_lead_elsewhere() {
    let mut rng = seeded();
    let leaves = random_leaves(&mut rng, 21);
    for size in 1..=leaves.len() {
        for from in 0..size {
            let to = rng.random_range(from..=size);
            let root = naive_root(&leaves[..size]);
            let range = || leaves[from..to].iter().copied();
            let good =
                RangeProof::prove(from as u64, to as u64, size as u64, source(&leaves[..size]))
                    .unwrap();
            let checkpoint = Checkpoint::new("a", size as u64, root);
            good.verify(range(), &checkpoint).unwrap();
            for position in 0..good.left.len() + good.right.len() {
                let mut bad = good.clone();
                let hash = match position.checked_sub(good.left.len()) {
                    None => &mut bad.left[position],
                    Some(position) => &mut bad.right[position],
                };
                hash.0[rng.random_range(0..32)] ^= 1 << rng.random_range(0..8);
                assert!(matches!(bad.verify(range(), &checkpoint), Err(ProofError::Root { .. })));
            }
            let mut more = good.clone();
            more.right.push(random_hash(&mut rng));
            assert!(matches!(more.verify(range(), &checkpoint), Err(ProofError::Length { .. })));
            let mut fewer = good.clone();
            if fewer.left.pop().is_some() {
                assert!(matches!(
                    fewer.verify(range(), &checkpoint),
                    Err(ProofError::Length { .. })
                ));
                // Moved to the other side: the number is right, the place is not.
                fewer.right.insert(0, good.left[good.left.len() - 1]);
                assert!(fewer.verify(range(), &checkpoint).is_err());
            }
            let count = (to - from) as u64;
            let long = good.verify(range().chain([Hash([1; 32])]), &checkpoint);
            assert_eq!(long, Err(ProofError::Leaves { expected: count, actual: count + 1 }));
            if count > 0 {
                let short = good.verify(range().skip(1), &checkpoint);
                assert_eq!(short, Err(ProofError::Leaves { expected: count, actual: count - 1 }));
                let mut swapped: Vec<Hash> = range().collect();
                swapped[0] = random_hash(&mut rng);
                assert!(matches!(good.verify(swapped, &checkpoint), Err(ProofError::Root { .. })));
            }
            let other = Checkpoint::new("a", size as u64 + 1, root);
            assert!(matches!(good.verify(range(), &other), Err(ProofError::OtherTree { .. })));
        }
    }
}

#[test]
fn numbers_that_make_no_range_are_refused() {
    for (from, to, size) in [(1, 0, 5), (0, 6, 5), (6, 6, 5), (u64::MAX, 0, u64::MAX)] {
        let proof = RangeProof { from, to, size, left: Vec::new(), right: Vec::new() };
        assert_eq!(proof.root([]), Err(ProofError::Range { from, to, size }));
        assert_eq!(proof.inclusion(&[], 0), Err(ProofError::Range { from, to, size }));
    }
    let proof = RangeProof { from: 0, to: u64::MAX, size: u64::MAX, left: vec![], right: vec![] };
    assert!(matches!(proof.root([]), Err(ProofError::Leaves { .. })));
    assert!(matches!(proof.inclusion(&[], 0), Err(ProofError::Leaves { .. })));
    let empty = RangeProof { from: 0, to: 0, size: 0, left: vec![], right: vec![] };
    assert_eq!(empty.root([]), Ok(crate::merkle::empty_root()));
    assert!(matches!(empty.inclusion(&[], 0), Err(ProofError::Index { .. })));
}
