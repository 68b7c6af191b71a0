//! The chain of a node's boots.

use sha3::{Digest, Sha3_256};

/// First byte of what is hashed for the root of a lineage.
const ROOT: u8 = 0x14;
/// First byte of what is hashed for each boot.
const BOOT: u8 = 0x15;
/// First line of the text of a [`Statement`].
const CONTEXT: &[u8] = b"indelible/boot/v1\n";

/// What a node draws at random when it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Draw(pub [u8; 16]);

/// One boot of one node. Two boots with the same hash have the same boots before them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Boot {
    /// Which one: 0 is the root, before the node has ever started.
    pub number: u64,
    /// SHA3-256 over the boot before, the number and the draw.
    pub hash: [u8; 32],
}

impl Boot {
    /// What the lineage of a node begins with: SHA3-256(0x14 ‖ trail ‖ node ‖ public key). So
    /// nodes of one id with two keys have nothing in common.
    pub fn root(trail: &[u8; 16], node: u64, public_key: &[u8; 32]) -> Boot {
        let mut hasher = Sha3_256::new();
        hasher.update([ROOT]);
        hasher.update(trail);
        hasher.update(node.to_le_bytes());
        hasher.update(public_key);
        Boot { number: 0, hash: hasher.finalize().into() }
    }

    /// The boot after this one: SHA3-256(0x15 ‖ hash ‖ number ‖ draw).
    #[must_use]
    pub fn next(self, draw: Draw) -> Boot {
        let number = self.number.checked_add(1).expect("no node starts 2^64 times");
        let mut hasher = Sha3_256::new();
        hasher.update([BOOT]);
        hasher.update(self.hash);
        hasher.update(number.to_le_bytes());
        hasher.update(draw.0);
        Boot { number, hash: hasher.finalize().into() }
    }
}

/// All boots of a node: the file `lineage`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Lineage {
    root: Boot,
    /// One for each boot, the oldest first.
    draws: Vec<Draw>,
    /// The newest boot; follows from the rest.
    newest: Boot,
}

impl Lineage {
    /// The lineage of a node that has never started.
    pub fn new(root: Boot) -> Lineage {
        assert_eq!(root.number, 0, "a lineage begins at its root");
        Lineage { root, draws: Vec::new(), newest: root }
    }

    /// A lineage as it is stored.
    pub fn of(root: Boot, draws: Vec<Draw>) -> Lineage {
        let newest = draws.iter().fold(root, |boot, draw| boot.next(*draw));
        Lineage { root, draws, newest }
    }

    /// The newest boot, or the root.
    pub fn newest(&self) -> Boot {
        self.newest
    }

    /// The boot with this number. None: there was none yet. Hashes up to there.
    pub fn boot(&self, number: u64) -> Option<Boot> {
        let count = usize::try_from(number).ok().filter(|count| *count <= self.draws.len())?;
        Some(self.draws[..count].iter().fold(self.root, |boot, draw| boot.next(*draw)))
    }

    /// All draws, the oldest first: what is stored.
    pub fn draws(&self) -> &[Draw] {
        &self.draws
    }

    /// What a peer that remembers boot `number` has to see to admit the newest one; nothing if
    /// there was no such boot yet.
    pub fn draws_after(&self, number: u64) -> &[Draw] {
        let first = usize::try_from(number).unwrap_or(usize::MAX).min(self.draws.len());
        &self.draws[first..]
    }

    /// Adds a boot.
    pub fn push(&mut self, draw: Draw) {
        self.newest = self.newest.next(draw);
        self.draws.push(draw);
    }
}

/// What a node signs of a boot. The signature can be shown to anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statement<'a> {
    /// The trail.
    pub trail: &'a [u8; 16],
    /// The node.
    pub node: u64,
    /// Its boot.
    pub boot: Boot,
}

impl Statement<'_> {
    /// The bytes to sign. The first line is that of no other text that the key signs.
    pub fn text(&self) -> Vec<u8> {
        let mut text = CONTEXT.to_vec();
        text.extend_from_slice(self.trail);
        text.extend_from_slice(&self.node.to_le_bytes());
        text.extend_from_slice(&self.boot.number.to_le_bytes());
        text.extend_from_slice(&self.boot.hash);
        text
    }
}
