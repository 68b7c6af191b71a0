//! Comparing sealed segments with those of the peers. They are byte-identical on all nodes; a node
//! whose own hold together, but differ from the majority's, has been rewritten behind its back.

use std::collections::BTreeMap;

use indelible_core::Chain;

use crate::raft::mending::Sealed;

/// The first segment in which two sides differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Divergence {
    /// As this node has it.
    pub(super) ours: Sealed,
    /// As the others have it.
    pub(super) theirs: Sealed,
    /// The nodes that have it so.
    pub(super) nodes: Vec<u64>,
}

/// What the comparison says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Compared {
    /// A majority has a segment that is not ours.
    pub(super) outvoted: Option<Divergence>,
    /// Single nodes that have a segment that is neither ours nor a majority's.
    pub(super) strangers: Vec<Divergence>,
}

/// Compares this node's sealed segments with its peers', in a group of so many voters.
pub(super) fn compare(
    ours: &[Sealed],
    peers: &BTreeMap<u64, Vec<Sealed>>,
    voters: usize,
) -> Compared {
    let mut differing: BTreeMap<u64, (Sealed, Sealed)> = BTreeMap::new();
    for (node, theirs) in peers {
        let theirs: BTreeMap<u64, &Sealed> =
            theirs.iter().map(|segment| (segment.first, segment)).collect();
        let first = ours.iter().find_map(|ours| {
            let theirs = *theirs.get(&ours.first)?;
            differ(ours, theirs).then_some((*ours, *theirs))
        });
        differing.extend(first.map(|pair| (*node, pair)));
    }
    let mut compared = Compared::default();
    // Those who differ in the same segment and in the same way are of one mind.
    let mut minds: BTreeMap<(u64, u64, Chain), Divergence> = BTreeMap::new();
    for (node, (ours, theirs)) in differing {
        minds
            .entry((theirs.first, theirs.next, theirs.chain))
            .or_insert_with(|| Divergence { ours, theirs, nodes: Vec::new() })
            .nodes
            .push(node);
    }
    for mind in minds.into_values() {
        if mind.nodes.len() > voters / 2 {
            compared.outvoted = Some(mind);
        } else {
            compared.strangers.push(mind);
        }
    }
    compared
}

fn differ(ours: &Sealed, theirs: &Sealed) -> bool {
    let digests = ours.digest.zip(theirs.digest).is_some_and(|(ours, theirs)| ours != theirs);
    (ours.next, ours.chain, ours.bytes) != (theirs.next, theirs.chain, theirs.bytes) || digests
}

#[cfg(test)]
mod tests {
    use super::*;
    use indelible_core::Hash;

    /// Three segments; those from `from` on are of another history, the one numbered `mark`.
    fn history(from: usize, mark: u8) -> Vec<Sealed> {
        (0..3usize)
            .map(|number| Sealed {
                first: number as u64 * 10,
                next: number as u64 * 10 + 10,
                bytes: 4096,
                digest: None,
                chain: Hash([if number >= from { mark } else { 0 }; 32]),
            })
            .collect()
    }

    #[test]
    fn the_majority_is_right_and_a_single_other_is_not() {
        let ours = history(3, 0);
        let peers = |two: Vec<Sealed>, three: Vec<Sealed>| BTreeMap::from([(2, two), (3, three)]);
        assert_eq!(compare(&ours, &peers(ours.clone(), ours.clone()), 3), Compared::default());

        let compared = compare(&ours, &peers(history(1, 7), history(1, 7)), 3);
        let outvoted = compared.outvoted.unwrap();
        assert_eq!((outvoted.ours.first, outvoted.nodes), (10, vec![2, 3]));

        // One that differs is a stranger, and so are two who differ each in another way.
        let compared = compare(&ours, &peers(ours.clone(), history(1, 7)), 3);
        assert_eq!(compared.outvoted, None);
        assert_eq!(compared.strangers[0].nodes, [3]);
        let compared = compare(&ours, &peers(history(1, 8), history(1, 7)), 3);
        assert_eq!((compared.outvoted, compared.strangers.len()), (None, 2));
    }

    #[test]
    fn digests_count_once_both_are_known_and_missing_segments_do_not() {
        let digest = |byte: u8| {
            let mut segments = history(3, 0);
            segments[2].digest = Some(Hash([byte; 32]));
            segments
        };
        let both = |other: Vec<Sealed>| BTreeMap::from([(2, other.clone()), (3, other)]);
        assert_eq!(compare(&digest(1), &both(history(3, 0)), 3), Compared::default());
        assert_eq!(compare(&digest(1), &both(digest(1)), 3), Compared::default());
        assert!(compare(&digest(1), &both(digest(2)), 3).outvoted.is_some());
        assert_eq!(compare(&digest(1), &both(digest(2)[..2].to_vec()), 3), Compared::default());
    }
}
