//! Tiles: how a tree is served as static files
//! ([c2sp.org/tlog-tiles](https://c2sp.org/tlog-tiles)).
//!
//! A tile is 256 consecutive hashes of every eighth level of the tree, an *entry bundle* the 256
//! leaves below a tile of level 0. The last ones of a tree are partial; which they are follows from
//! its size.

use std::fmt;
use std::str::FromStr;

use crate::leaf::LEAF_SIZE;
use crate::text::decode_decimal;

/// Hashes of a full tile, leaves of a full entry bundle.
pub const TILE_WIDTH: u16 = 256;
/// Levels of the tree that one level of tiles spans.
const TILE_HEIGHT: u32 = 8;
/// The highest level that a path may name. From 8 on all tiles of a `u64` are empty.
const TILE_LEVEL_MAX: u8 = 63;
/// Bytes of an entry in a bundle: its length, then the leaf.
const BUNDLE_ENTRY_SIZE: usize = 2 + LEAF_SIZE;

/// What a tile holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TileLevel {
    /// Leaves: an entry bundle.
    Entries,
    /// Hashes of the tree's level `8 * n`.
    Hashes(u8),
}

/// Names a tile or an entry bundle. As text it is the path below the log's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TileId {
    /// What it holds.
    pub level: TileLevel,
    /// Position within its level.
    pub index: u64,
    /// Hashes or leaves in it: 1 to 256; fewer than 256 is a partial tile.
    pub width: u16,
}

/// A path that names no tile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no tile has this path; they are tile/LEVEL/INDEX[.p/WIDTH] and tile/entries/INDEX[.p/WIDTH]"
)]
pub struct TilePathError;

impl TileId {
    /// Hashes or leaves that this tile has in a tree of `size` leaves: 0 if there is no such tile,
    /// 256 if it is full. Whether a tile of a smaller width may be served depends on the sizes that
    /// were published.
    pub fn available(&self, size: u64) -> u16 {
        let hashes = size.checked_shr(self.tree_level()).unwrap_or(0);
        let Some(first) = self.index.checked_mul(TILE_WIDTH.into()) else { return 0 };
        hashes.saturating_sub(first).min(TILE_WIDTH.into()) as u16
    }

    /// Whether it is one of the tiles that a tree of `size` leaves is made of: a full one, or the
    /// last one of its level at just this width.
    pub fn is_in(&self, size: u64) -> bool {
        self.width > 0 && self.width == self.available(size)
    }

    /// Its hashes in order, as complete nodes `(level, index)` of the tree. For an entry bundle
    /// they are the hashes of its leaves.
    ///
    /// Nodes of a tile that is not in the tree make no sense: ask [`TileId::available`] first.
    pub fn nodes(&self) -> impl Iterator<Item = (u8, u64)> + use<> {
        let level = self.tree_level().min(u32::from(u8::MAX)) as u8;
        let first = self.index.saturating_mul(TILE_WIDTH.into());
        (0..u64::from(self.width)).map(move |position| (level, first.saturating_add(position)))
    }

    /// The path below the log's prefix, without a slash in front.
    pub fn path(&self) -> String {
        self.to_string()
    }

    /// The level of the tree whose hashes it holds.
    fn tree_level(&self) -> u32 {
        match self.level {
            TileLevel::Entries => 0,
            TileLevel::Hashes(level) => TILE_HEIGHT * u32::from(level),
        }
    }
}

/// Every tile of the tree with `size` leaves that one with `old` leaves has not: what a mirror
/// fetches, and what a store of tiles adds. Entry bundles have the ids of level 0.
pub fn new_tiles(old: u64, size: u64) -> impl Iterator<Item = TileId> {
    (0..=7u8).flat_map(move |level| {
        let shift = TILE_HEIGHT * u32::from(level);
        let (from, to) = (old >> shift, size >> shift);
        let width = u64::from(TILE_WIDTH);
        // The tile in which the old tree ends is another one if it has grown.
        let tiles = if from < to { from / width..to.div_ceil(width) } else { 0..0 };
        tiles.map(move |index| TileId {
            level: TileLevel::Hashes(level),
            index,
            width: (to - index * width).min(width) as u16,
        })
    })
}

impl fmt::Display for TileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.level {
            TileLevel::Entries => write!(f, "tile/entries/")?,
            TileLevel::Hashes(level) => write!(f, "tile/{level}/")?,
        }
        // Groups of three digits, an x before all but the last. A u64 has seven.
        let mut power = 1000u64.pow(6);
        while power > 1 {
            if self.index >= power {
                write!(f, "x{:03}/", self.index / power % 1000)?;
            }
            power /= 1000;
        }
        write!(f, "{:03}", self.index % 1000)?;
        if self.width < TILE_WIDTH { write!(f, ".p/{}", self.width) } else { Ok(()) }
    }
}

/// From the path below the log's prefix. Every tile has one path.
impl FromStr for TileId {
    type Err = TilePathError;

    fn from_str(path: &str) -> Result<TileId, TilePathError> {
        let tile = parse(path).ok_or(TilePathError)?;
        // Zeros in front, in whichever place, and groups without an x are not what it is called.
        if tile.to_string() == path { Ok(tile) } else { Err(TilePathError) }
    }
}

/// Takes more than is allowed: the caller compares.
fn parse(path: &str) -> Option<TileId> {
    let (level, rest) = path.strip_prefix("tile/")?.split_once('/')?;
    let level = match level {
        "entries" => TileLevel::Entries,
        number => {
            let level = decode_decimal(number).filter(|level| *level <= TILE_LEVEL_MAX.into())?;
            TileLevel::Hashes(level as u8)
        }
    };
    let (index, width) = match rest.split_once(".p/") {
        Some((index, width)) => {
            (index, decode_decimal(width).filter(|width| (1..256).contains(width))? as u16)
        }
        None => (rest, TILE_WIDTH),
    };
    let mut number = 0u64;
    for group in index.split('/') {
        let digits = group.strip_prefix('x').unwrap_or(group);
        if digits.len() != 3 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        number = number.checked_mul(1000)?.checked_add(digits.parse().ok()?)?;
    }
    Some(TileId { level, index: number, width })
}

/// An entry bundle: each entry with its length before it, 16 bits, big-endian. Ours are leaves.
///
/// Panics if an entry is longer than its length can say.
pub fn encode_entry_bundle(entries: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Vec<u8> {
    let mut bundle = Vec::new();
    for entry in entries {
        let entry = entry.as_ref();
        let length = u16::try_from(entry.len()).expect("an entry has at most 65,535 bytes");
        bundle.extend_from_slice(&length.to_be_bytes());
        bundle.extend_from_slice(entry);
    }
    bundle
}

/// The leaves of an entry bundle; `None` if it is none of ours, all of whose entries have 64 bytes.
pub fn decode_entry_bundle(bundle: &[u8]) -> Option<Vec<[u8; LEAF_SIZE]>> {
    if !bundle.len().is_multiple_of(BUNDLE_ENTRY_SIZE) {
        return None;
    }
    let leaf = |entry: &[u8]| {
        let (length, leaf) = entry.split_first_chunk::<2>()?;
        let expected = *length == (LEAF_SIZE as u16).to_be_bytes();
        leaf.try_into().ok().filter(|_| expected)
    };
    bundle.chunks_exact(BUNDLE_ENTRY_SIZE).map(leaf).collect()
}
