//! Tiles: the examples of the specification, and that the tiles of a tree are all of it.

use std::collections::BTreeSet;

use super::record;
use crate::TileId;
use crate::tile::{TileLevel, TilePathError, decode_entry_bundle, encode_entry_bundle, new_tiles};

fn tile(level: u8, index: u64, width: u16) -> TileId {
    TileId { level: TileLevel::Hashes(level), index, width }
}

#[test]
fn paths() {
    let cases = [
        (tile(0, 1_234_067, 256), "tile/0/x001/x234/067"),
        (tile(0, 0, 256), "tile/0/000"),
        (tile(1, 999, 17), "tile/1/999.p/17"),
        (tile(63, 1_000, 1), "tile/63/x001/000.p/1"),
        (tile(0, 1_000_000, 255), "tile/0/x001/x000/000.p/255"),
        (tile(0, u64::MAX, 256), "tile/0/x018/x446/x744/x073/x709/x551/615"),
        (TileId { level: TileLevel::Entries, index: 273, width: 112 }, "tile/entries/273.p/112"),
    ];
    for (id, path) in cases {
        assert_eq!(id.path(), path);
        assert_eq!(path.parse(), Ok(id));
    }
}

#[test]
fn paths_of_no_tile() {
    for path in [
        "",
        "tile",
        "tile/",
        "tile/0",
        "tile/0/",
        "/tile/0/000",
        "tile/00/000",
        "tile/64/000",
        "tile/-1/000",
        "tile/a/000",
        "tile/0/0",
        "tile/0/0000",
        "tile/0/x000/000",
        "tile/0/x001",
        "tile/0/001/000",
        "tile/0/x000/x001/000",
        "tile/0/000/",
        "tile/0/+01",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/01",
        "tile/0/000.p/",
        "tile/0/000.p",
        "tile/0/x000.p/5",
        "tile/0/000.p/5/5",
        "tile/0/x018/x446/x744/x073/x709/x551/616",
        "tile/0/x999/x999/x999/x999/x999/x999/x999/999",
        "tile/entries/0",
        "tile/Entries/000",
        "tile/0/000?",
    ] {
        assert_eq!(path.parse::<TileId>(), Err(TilePathError), "{path:?}");
    }
}

/// The example of the specification: a tree of 70,000.
#[test]
fn tiles_of_a_tree() {
    let tiles: Vec<TileId> = new_tiles(0, 70_000).collect();
    assert_eq!(tiles.iter().filter(|tile| tile.level == TileLevel::Hashes(0)).count(), 274);
    for (partial, available) in [
        (tile(0, 273, 112), true),
        (tile(1, 1, 17), true),
        (tile(2, 0, 1), true),
        (tile(2, 0, 2), false),
    ] {
        assert_eq!(tiles.contains(&partial), available, "{partial}");
        assert_eq!(partial.is_in(70_000), available, "{partial}");
    }
    assert!(tile(1, 0, 256).is_in(70_000) && !tile(0, 274, 1).is_in(70_000));
    assert_eq!(tile(0, 273, 5).available(70_000), 112);
    // A tree of 256: one full tile of level 0, one of width 1 above it.
    assert_eq!(new_tiles(0, 256).collect::<Vec<_>>(), [tile(0, 0, 256), tile(1, 0, 1)]);
    assert_eq!(new_tiles(0, 0).count(), 0);
    assert_eq!(new_tiles(256, 257).collect::<Vec<_>>(), [tile(0, 1, 1)]);
    assert_eq!(new_tiles(1, 3).collect::<Vec<_>>(), [tile(0, 0, 3)]);
}

#[test]
fn tiles_near_the_end_of_u64() {
    let last = tile(7, 0, 255);
    assert!(last.is_in(u64::MAX));
    assert_eq!(last.nodes().last(), Some((56, 254)));
    assert_eq!(tile(8, 0, 1).available(u64::MAX), 0);
    assert_eq!(tile(63, u64::MAX, 1).available(u64::MAX), 0);
    assert_eq!(tile(0, u64::MAX, 256).available(u64::MAX), 0);
    assert_eq!(tile(0, u64::MAX / 256, 255).available(u64::MAX), 255);
    assert_eq!(
        new_tiles(u64::MAX - 1, u64::MAX).collect::<Vec<_>>(),
        [tile(0, u64::MAX >> 8, 255)]
    );
}

/// Tile by tile as a tree grows, every complete node of every eighth level once and no other.
#[test]
fn the_tiles_of_a_growing_tree_hold_its_nodes() {
    let mut held = BTreeSet::new();
    let mut sizes =
        vec![0u64, 1, 2, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537, 70_000, 131_072];
    sizes.extend((131_072..140_000).step_by(1_111));
    for pair in sizes.windows(2) {
        for id in new_tiles(pair[0], pair[1]) {
            assert!(id.is_in(pair[1]), "{id} of {}", pair[1]);
            assert_eq!(id.path().parse(), Ok(id));
            held.extend(id.nodes());
        }
        let expected: u64 = (0..8).map(|level| pair[1] >> (8 * level)).sum();
        assert_eq!(held.len() as u64, expected, "size {}", pair[1]);
    }
}

#[test]
fn entry_bundles() {
    let leaves: Vec<[u8; 64]> = (0..5).map(|n| record(n).0.encode()).collect();
    let bundle = encode_entry_bundle(&leaves);
    assert_eq!((bundle.len(), &bundle[..2]), (5 * 66, &[0, 64][..]));
    assert_eq!(decode_entry_bundle(&bundle), Some(leaves));
    assert_eq!(decode_entry_bundle(&[]), Some(Vec::new()));
    for length in (1..bundle.len()).filter(|length| length % 66 != 0) {
        assert_eq!(decode_entry_bundle(&bundle[..length]), None, "{length} bytes");
    }
    let mut wrong = bundle;
    wrong[67] = 63;
    assert_eq!(decode_entry_bundle(&wrong), None);
    // The vector's entries are words of seven letters, which no leaf of ours is.
    let vector = "0007656e7472792d300007656e7472792d310007656e7472792d320007656e7472792d330007656e7472792d34";
    let words = encode_entry_bundle((0..5).map(|n| format!("entry-{n}")));
    assert_eq!(hex::encode(&words), vector);
    assert_eq!(decode_entry_bundle(&words), None);
}
