//! How far a search goes.

use crate::disk::Files;

/// What may happen in one run, and how often.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The place of the node whose disk is touched.
    pub target: usize,
    /// Begins before there is a trail; otherwise with a trail of one entry that all three have.
    pub genesis: bool,
    /// A fourth node may be added.
    pub add: bool,
    /// One node may be removed.
    pub remove: bool,
    /// A copy of the target's disk may be started while the original runs.
    pub copy: bool,
    /// Starts of the target, crashed ones included; also of the node that is added, and of the
    /// copy.
    pub starts: u8,
    /// Starts of the others.
    pub restarts: u8,
    /// Terms.
    pub terms: u8,
    /// Events that are written.
    pub events: u8,
    /// Notes that one node sends to another.
    pub notes: u8,
    /// Images that are taken of the target's disk.
    pub images: u8,
    /// Times that files of it are deleted, or replaced by those of the image.
    pub touches: u8,
    /// Files that may be deleted.
    pub wiped: Files,
    /// Files that may be replaced by older ones.
    pub restored: Files,
}

impl Limits {
    /// Three nodes, no more than restarts and elections.
    pub const QUIET: Limits = Limits {
        target: 1,
        genesis: false,
        add: false,
        remove: false,
        copy: false,
        starts: 2,
        restarts: 2,
        terms: 2,
        events: 1,
        notes: 0,
        images: 0,
        touches: 0,
        wiped: Files(0),
        restored: Files(0),
    };

    /// Files of the second node are deleted.
    pub const WIPED: Limits = Limits {
        restarts: 0,
        touches: 1,
        wiped: Files(Files::ALL.0 & !Files::NOTES.0),
        ..Limits::QUIET
    };

    /// Files of the second node are replaced by older ones.
    pub const RESTORED: Limits = Limits {
        restarts: 0,
        images: 1,
        touches: 1,
        restored: Files(Files::LINEAGE.0 | Files::HARD_STATE.0 | Files::LOG.0),
        ..Limits::QUIET
    };

    /// The same, with notes that travel.
    pub const NOTED: Limits = Limits { starts: 1, restarts: 0, notes: 1, ..Limits::RESTORED };

    /// From the first start of all.
    pub const GENESIS: Limits = Limits {
        genesis: true,
        starts: 2,
        restarts: 2,
        touches: 1,
        wiped: Files(Files::ALL.0 & !Files::NOTES.0),
        ..Limits::QUIET
    };

    /// A fourth node is added, and its files are deleted.
    pub const ADDED: Limits = Limits {
        target: 3,
        add: true,
        starts: 2,
        restarts: 0,
        events: 0,
        touches: 1,
        wiped: Files(Files::ALL.0 & !Files::NOTES.0),
        ..Limits::QUIET
    };

    /// A copy of the second node's disk is started.
    pub const COPIED: Limits =
        Limits { copy: true, starts: 1, restarts: 0, terms: 1, touches: 1, ..Limits::QUIET };
}
