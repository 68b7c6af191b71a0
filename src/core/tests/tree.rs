//! The tree against the RFC's recursive definitions, and proofs against every kind of tampering.

use rand::Rng;
use rand::rngs::StdRng;

use super::{naive_path, naive_root, naive_subproof, random_hash, seeded};
use crate::merkle::{
    Frontier, ProofError, consistency_proof, consistency_proof_length, empty_root, inclusion_proof,
    inclusion_proof_length, node_hash, root_at, verify_consistency, verify_inclusion,
};
use crate::{FormatError, Hash};

/// Sizes up to here are tested without gaps.
const EXHAUSTIVE: usize = 70;

pub(super) fn random_leaves(rng: &mut StdRng, count: usize) -> Vec<Hash> {
    (0..count).map(|_| random_hash(rng)).collect()
}

/// A source that hashes the leaves each time; refuses incomplete nodes.
pub(super) fn source(leaves: &[Hash]) -> impl Fn(u8, u64) -> Result<Hash, String> {
    move |level, index| {
        let (start, end) = (index << level, (index + 1) << level);
        let range = leaves.get(start as usize..end as usize);
        range.map(naive_root).ok_or_else(|| format!("node ({level}, {index}) is not complete"))
    }
}

#[test]
fn roots_agree() {
    let leaves = random_leaves(&mut seeded(), 300);
    let mut frontier = Frontier::new();
    for size in 0..=leaves.len() {
        let root = naive_root(&leaves[..size]);
        assert_eq!(frontier.size(), size as u64);
        assert_eq!(frontier.root(), root);
        assert_eq!(root_at(size as u64, source(&leaves[..size])).unwrap(), root);
        let again = Frontier::from_peaks(size as u64, &frontier.peaks()).unwrap();
        assert_eq!((&again, again.root()), (&frontier, root));
        if let Some(leaf) = leaves.get(size) {
            frontier.append(*leaf);
        }
    }
}

#[test]
fn frontier_refuses_wrong_peak_counts() {
    let peaks = [Hash::default(); 4];
    for (size, count) in [(0, 1), (1, 0), (1, 2), (7, 2), (7, 4), (8, 3)] {
        let refused = Frontier::from_peaks(size, &peaks[..count]);
        assert!(matches!(refused, Err(FormatError::Length { .. })), "{size} with {count} peaks");
    }
}

#[test]
fn frontier_reports_each_complete_node_once() {
    let leaves = random_leaves(&mut seeded(), 100);
    let mut frontier = Frontier::new();
    let mut nodes = std::collections::BTreeMap::new();
    for leaf in &leaves {
        frontier.append_with(*leaf, |level, index, hash| {
            assert_eq!(nodes.insert((level, index), *hash), None, "({level}, {index}) twice");
        });
    }
    for (&(level, index), hash) in &nodes {
        assert_eq!(source(&leaves)(level, index).as_ref(), Ok(hash));
    }
    // 100 leaves have 200 - popcount(100) complete nodes.
    assert_eq!(nodes.len(), 197);
}

#[test]
fn inclusion_for_all_small_sizes() {
    let leaves = random_leaves(&mut seeded(), EXHAUSTIVE);
    for size in 1..=EXHAUSTIVE {
        let root = naive_root(&leaves[..size]);
        for index in 0..size {
            check_inclusion(&leaves[..size], index, &root);
        }
    }
}

fn check_inclusion(leaves: &[Hash], index: usize, root: &Hash) {
    let (index_u64, size) = (index as u64, leaves.len() as u64);
    let proof = inclusion_proof(index_u64, size, source(leaves)).unwrap();
    assert_eq!(proof, naive_path(index, leaves), "leaf {index} of {size}");
    assert_eq!(inclusion_proof_length(index_u64, size), proof.len(), "leaf {index} of {size}");
    verify_inclusion(index_u64, size, &leaves[index], &proof, root).unwrap();
}

#[test]
fn consistency_for_all_small_sizes() {
    let leaves = random_leaves(&mut seeded(), EXHAUSTIVE);
    let roots: Vec<Hash> = (0..=EXHAUSTIVE).map(|size| naive_root(&leaves[..size])).collect();
    for new in 0..=EXHAUSTIVE {
        for old in 0..=new {
            check_consistency(&leaves[..new], old, &roots[old], &roots[new]);
        }
    }
}

fn check_consistency(leaves: &[Hash], old: usize, old_root: &Hash, new_root: &Hash) {
    let (old_u64, new) = (old as u64, leaves.len() as u64);
    let proof = consistency_proof(old_u64, new, source(leaves)).unwrap();
    let naive = if old == 0 { Vec::new() } else { naive_subproof(old, leaves, true) };
    assert_eq!(proof, naive, "{old} to {new}");
    assert_eq!(consistency_proof_length(old_u64, new), proof.len(), "{old} to {new}");
    verify_consistency(old_u64, new, &proof, old_root, new_root).unwrap();
}

#[test]
fn random_larger_sizes() {
    let mut rng = seeded();
    let leaves = random_leaves(&mut rng, 5_000);
    for _ in 0..60 {
        let new = rng.random_range(EXHAUSTIVE..=leaves.len());
        let (old, index) = (rng.random_range(1..=new), rng.random_range(0..new));
        let root = naive_root(&leaves[..new]);
        check_inclusion(&leaves[..new], index, &root);
        check_consistency(&leaves[..new], old, &naive_root(&leaves[..old]), &root);
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
    let powers = (1..64).flat_map(|n| [(1 << n) - 1, 1 << n, (1u64 << n) + 1]);
    let sizes: Vec<u64> = powers.chain([u64::MAX - 1, u64::MAX]).collect();
    for &new in &sizes {
        let root = root_at(new, node).unwrap();
        for &old in sizes.iter().filter(|old| **old <= new) {
            let proof = consistency_proof(old, new, node).unwrap();
            let old_root = root_at(old, node).unwrap();
            verify_consistency(old, new, &proof, &old_root, &root).unwrap();
            let proof = inclusion_proof(old - 1, new, node).unwrap();
            verify_inclusion(old - 1, new, &Hash([7; 32]), &proof, &root).unwrap();
        }
    }
}

/// Every proof that differs from `proof` in one hash: flipped, dropped, added, or two swapped.
fn mutations(rng: &mut StdRng, proof: &[Hash]) -> Vec<Vec<Hash>> {
    let mut all = Vec::new();
    for position in 0..proof.len() {
        let mut flipped = proof.to_vec();
        flipped[position].0[rng.random_range(0..32)] ^= 1 << rng.random_range(0..8);
        all.push(flipped);
        let mut dropped = proof.to_vec();
        dropped.remove(position);
        all.push(dropped);
        let mut swapped = proof.to_vec();
        swapped.swap(position, (position + 1) % proof.len());
        all.push(swapped);
    }
    for position in 0..=proof.len() {
        for extra in proof.iter().copied().chain([random_hash(rng), Hash::default()]) {
            let mut added = proof.to_vec();
            added.insert(position, extra);
            all.push(added);
        }
    }
    all.retain(|mutation| mutation != proof);
    all
}

#[test]
fn tampered_inclusion_proofs_are_refused() {
    let mut rng = seeded();
    let leaves = random_leaves(&mut rng, 40);
    for size in 1..=leaves.len() {
        let root = naive_root(&leaves[..size]);
        for index in 0..size {
            let proof = naive_path(index, &leaves[..size]);
            let (index, size, leaf) = (index as u64, size as u64, &leaves[index]);
            for mutation in mutations(&mut rng, &proof) {
                let result = verify_inclusion(index, size, leaf, &mutation, &root);
                assert!(result.is_err(), "leaf {index} of {size}: {mutation:?}");
            }
            for other in (0..=size + 1).filter(|other| *other != index) {
                let result = verify_inclusion(other, size, leaf, &proof, &root);
                assert!(result.is_err(), "leaf {index} of {size} passes as {other}");
            }
            verify_inclusion(index, size, &random_hash(&mut rng), &proof, &root).unwrap_err();
            let other_root = random_hash(&mut rng);
            verify_inclusion(index, size, leaf, &proof, &other_root).unwrap_err();
        }
    }
}

/// Sizes other than the right one are refused by the length of the proof or by the sides that they
/// give its hashes. Sizes that give the same path cannot be told apart by a proof: that is why a
/// checkpoint signs the size with the root.
#[test]
fn inclusion_under_another_size() {
    let mut rng = seeded();
    let leaves = random_leaves(&mut rng, 40);
    let mut refused = 0;
    for size in 1..=leaves.len() {
        let root = naive_root(&leaves[..size]);
        for index in 0..size as u64 {
            let proof = naive_path(index as usize, &leaves[..size]);
            let (size, leaf) = (size as u64, &leaves[index as usize]);
            for other in (0..=45).filter(|other| *other != size) {
                let result = verify_inclusion(index, other, leaf, &proof, &root);
                let same_path = other > index && sides(index, other) == sides(index, size);
                assert_eq!(result.is_ok(), same_path, "leaf {index} of {size} as of {other}");
                refused += u32::from(result.is_err());
            }
        }
    }
    assert!(refused > 10_000, "refused {refused}");
}

/// For each hash of an inclusion proof whether it stands on the left, by the RFC's recursion.
fn sides(index: u64, size: u64) -> Vec<bool> {
    if size == 1 {
        return Vec::new();
    }
    let k = super::split(size as usize) as u64;
    let (mut sides, left) = match index < k {
        true => (sides(index, k), false),
        false => (sides(index - k, size - k), true),
    };
    sides.push(left);
    sides
}

/// The same for a consistency proof, and whether the old root is taken for the first hash.
fn shape(old: u64, new: u64, whole: bool) -> (bool, Vec<bool>) {
    if old == new {
        return (whole, Vec::new());
    }
    let k = super::split(new as usize) as u64;
    let ((whole, mut sides), left) = match old <= k {
        true => (shape(old, k, whole), false),
        false => (shape(old - k, new - k, false), true),
    };
    sides.push(left);
    (whole, sides)
}

#[test]
fn tampered_consistency_proofs_are_refused() {
    let mut rng = seeded();
    let leaves = random_leaves(&mut rng, 33);
    let roots: Vec<Hash> = (0..=leaves.len()).map(|size| naive_root(&leaves[..size])).collect();
    for new in 1..=leaves.len() {
        for old in 1..=new {
            let proof = naive_subproof(old, &leaves[..new], true);
            let verify = |proof: &[Hash], old_root: &Hash, new_root: &Hash| {
                verify_consistency(old as u64, new as u64, proof, old_root, new_root)
            };
            for mutation in mutations(&mut rng, &proof) {
                let result = verify(&mutation, &roots[old], &roots[new]);
                assert!(result.is_err(), "{old} to {new}: {mutation:?}");
            }
            verify(&proof, &random_hash(&mut rng), &roots[new]).unwrap_err();
            verify(&proof, &roots[old], &random_hash(&mut rng)).unwrap_err();
            if old != new {
                verify(&proof, &roots[new], &roots[old]).unwrap_err();
            }
        }
    }
}

/// As for inclusion: other sizes pass only where they give the same path.
#[test]
fn consistency_under_other_sizes() {
    let leaves = random_leaves(&mut seeded(), 20);
    let roots: Vec<Hash> = (0..=leaves.len()).map(|size| naive_root(&leaves[..size])).collect();
    for new in 1..=20usize {
        for old in 1..=new {
            let proof = naive_subproof(old, &leaves[..new], true);
            for (other_old, other_new) in (0..=24).flat_map(|n| (0..=24).map(move |m| (n, m))) {
                let result =
                    verify_consistency(other_old, other_new, &proof, &roots[old], &roots[new]);
                let same_path = (1..=other_new).contains(&other_old)
                    && shape(other_old, other_new, true) == shape(old as u64, new as u64, true);
                assert_eq!(
                    result.is_ok(),
                    same_path,
                    "{old} to {new} as {other_old} to {other_new}"
                );
            }
        }
    }
}

#[test]
fn trivial_consistency_is_strict() {
    let (a, b, empty) = (Hash([1; 32]), Hash([2; 32]), empty_root());
    // Equal sizes.
    verify_consistency(7, 7, &[], &a, &a).unwrap();
    verify_consistency(7, 7, &[], &a, &b).unwrap_err();
    verify_consistency(7, 7, &[a], &a, &a).unwrap_err();
    // From nothing.
    verify_consistency(0, 0, &[], &empty, &empty).unwrap();
    verify_consistency(0, 0, &[], &empty, &a).unwrap_err();
    verify_consistency(0, 0, &[], &a, &a).unwrap_err();
    verify_consistency(0, 5, &[], &empty, &a).unwrap();
    verify_consistency(0, 5, &[], &a, &a).unwrap_err();
    verify_consistency(0, 5, &[a], &empty, &a).unwrap_err();
    // Backwards.
    let backwards = verify_consistency(5, 4, &[], &a, &b);
    assert_eq!(backwards, Err(ProofError::Sizes { old: 5, new: 4 }));
    // A proof that is missing altogether.
    let missing = verify_consistency(6, 8, &[], &a, &b);
    assert_eq!(missing, Err(ProofError::Length { expected: 3, actual: 0 }));
}

#[test]
fn no_leaf_outside_the_tree() {
    let a = Hash([1; 32]);
    for (index, size) in [(0, 0), (1, 1), (5, 5), (u64::MAX, 5), (u64::MAX, u64::MAX)] {
        let result = verify_inclusion(index, size, &a, &[], &a);
        assert_eq!(result, Err(ProofError::Index { index, size }));
    }
}
