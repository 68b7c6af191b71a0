//! What is done to the files, and what may come of it.

use std::fmt;
use std::path::Path;

use super::files::{
    FRAMES_START, Frame, a_sealed, edit, frames, sealed, the_active, the_sealed_with,
};
use super::rewrite::rewrite;

/// Above the table.
pub const INTRODUCTION: &str = "\
# Tamper matrix

Written by `INDELIBLE_WRITE_DOCS=1 cargo test --test it tamper`, and compared with what is seen on every run. Three nodes are filled and
stopped; one file of one node is changed; all three are started again. In every case every record that the changed node hands out is compared with
what was recorded, and none differs.

*Mended*: the damage was found, the right bytes are back, `indelible check` is content, sealed segments are those of the other nodes byte by byte, and
a finding is in the trail. Damaged segments are in `quarantine/`, and the right bytes came from a peer; tree files were mended out of the segments. *Rebuilt*: what was damaged was thrown away and made again, out of
the segments or out of the notes of this node and its peers. *Unaffected*: nothing that counts was changed
(derived state that is missing altogether is computed as at a first start). *Refused*: the process ended with the exit code and a message that says what to do.
";

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Mended,
    Rebuilt,
    Unaffected,
    /// The process's exit code.
    Refused(i32),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Mended => f.write_str("mended"),
            Outcome::Rebuilt => f.write_str("rebuilt"),
            Outcome::Unaffected => f.write_str("unaffected"),
            Outcome::Refused(code) => write!(f, "refused, exit code {code}"),
        }
    }
}

/// One row.
pub struct Case {
    pub what: &'static str,
    pub how: &'static str,
    /// Changes the data directory; its untouched copy is the second argument.
    pub tamper: fn(&Path, &Path),
    /// Outcomes that are right. More than one only where the moment of the stop decides.
    pub expected: &'static [Outcome],
}

impl Case {
    pub fn name(&self) -> String {
        format!("{}, {}", self.what, self.how)
    }

    pub fn outcome_text(&self) -> String {
        self.expected.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
    }
}

const MENDED: &[Outcome] = &[Outcome::Mended];
const REBUILT: &[Outcome] = &[Outcome::Rebuilt];
const UNAFFECTED: &[Outcome] = &[Outcome::Unaffected];
const REFUSED: &[Outcome] = &[Outcome::Refused(1)];
const OLD_FILES: &[Outcome] = &[Outcome::Refused(7)];
const DIVERGED: &[Outcome] = &[Outcome::Refused(7), Outcome::Mended];

/// Flips one bit of the file at what `at` finds.
fn flip(path: &Path, at: impl FnOnce(&[u8]) -> usize) {
    edit(path, |bytes| {
        let at = at(bytes);
        bytes[at] ^= 0x10;
    });
}

fn cut(path: &Path, at: impl FnOnce(&[u8]) -> usize) {
    edit(path, |bytes| {
        let at = at(bytes);
        bytes.truncate(at);
    });
}

fn remove(path: &Path) {
    std::fs::remove_file(path).unwrap();
}

/// Where the frame in the middle starts.
fn middle(bytes: &[u8]) -> usize {
    let frames = frames(bytes);
    frames[frames.len() / 2].offset
}

/// Offset of the last frame that has a body, and of its body.
fn last_batch(bytes: &[u8]) -> (usize, usize) {
    let frames = frames(bytes);
    let last = frames.iter().rev().find(|frame| frame.body > 0).unwrap();
    (last.offset, last.body_at())
}

/// Exchanges two stretches of the same size.
fn exchange(bytes: &mut [u8], one: usize, other: usize, size: usize) {
    let first = bytes[one..one + size].to_vec();
    let second = bytes[other..other + size].to_vec();
    bytes[one..one + size].copy_from_slice(&second);
    bytes[other..other + size].copy_from_slice(&first);
}

fn case(
    what: &'static str,
    how: &'static str,
    tamper: fn(&Path, &Path),
    expected: &'static [Outcome],
) -> Case {
    Case { what, how, tamper, expected }
}

/// All rows, in the order of the table.
pub fn cases() -> Vec<Case> {
    [segments(), states(), derived()].into_iter().flatten().collect()
}

fn segments() -> Vec<Case> {
    let sealed_segment = "sealed segment";
    let active = "active segment";
    vec![
        case(sealed_segment, "bit in the header", |dir, _| flip(&a_sealed(dir), |_| 20), MENDED),
        case(
            sealed_segment,
            "bit in a frame's header",
            |dir, _| flip(&a_sealed(dir), |bytes| middle(bytes) + 33),
            MENDED,
        ),
        case(
            sealed_segment,
            "bit in a leaf",
            |dir, _| flip(&a_sealed(dir), |bytes| frames(bytes)[0].head_at() + 16 + 40),
            MENDED,
        ),
        case(
            sealed_segment,
            "bit in an event",
            |dir, _| {
                flip(&a_sealed(dir), |bytes| {
                    let frame = *frames(bytes).iter().find(|frame| frame.body > 0).unwrap();
                    frame.body_at() + frame.body - 1
                });
            },
            MENDED,
        ),
        case(
            sealed_segment,
            "bit in the footer",
            |dir, _| flip(&a_sealed(dir), |bytes| bytes.len() - 20),
            MENDED,
        ),
        case(sealed_segment, "cut at a frame", |dir, _| cut(&a_sealed(dir), middle), MENDED),
        case(
            sealed_segment,
            "cut one byte after a frame begins",
            |dir, _| cut(&a_sealed(dir), |bytes| middle(bytes) + 1),
            MENDED,
        ),
        case(
            sealed_segment,
            "cut one byte before a frame begins",
            |dir, _| cut(&a_sealed(dir), |bytes| middle(bytes) - 1),
            MENDED,
        ),
        case(sealed_segment, "cut to nothing", |dir, _| cut(&a_sealed(dir), |_| 0), MENDED),
        case(
            sealed_segment,
            "cut after its header",
            |dir, _| cut(&a_sealed(dir), |_| FRAMES_START),
            MENDED,
        ),
        case(sealed_segment, "deleted", |dir, _| remove(&a_sealed(dir)), MENDED),
        case(
            sealed_segment,
            "the first one deleted",
            |dir, _| remove(&dir.join("segments").join(&sealed(dir)[0])),
            MENDED,
        ),
        case(sealed_segment, "two exchanged", |dir, _| swap_segments(dir), MENDED),
        case(
            sealed_segment,
            "two equal-length salts of one batch exchanged",
            |dir, _| edit(&the_sealed_with(dir, has_two), |bytes| swap_salts(bytes)),
            MENDED,
        ),
        case(
            active,
            "two equal-length records exchanged",
            |dir, _| edit(&the_active(dir), |bytes| swap_frames(bytes)),
            MENDED,
        ),
        case(active, "bit in the header", |dir, _| flip(&the_active(dir), |_| 20), MENDED),
        case(
            active,
            "bit in a frame's header",
            |dir, _| flip(&the_active(dir), |bytes| middle(bytes) + 33),
            MENDED,
        ),
        case(
            active,
            "bit in the last event",
            |dir, _| flip(&the_active(dir), |bytes| last_batch(bytes).1 + 16),
            MENDED,
        ),
        case(
            active,
            "cut at the last record",
            |dir, _| cut(&the_active(dir), |bytes| last_batch(bytes).0),
            MENDED,
        ),
        case(
            active,
            "cut inside the last record",
            |dir, _| cut(&the_active(dir), |bytes| last_batch(bytes).1),
            MENDED,
        ),
        case(active, "deleted", |dir, _| remove(&the_active(dir)), MENDED),
        case("all segments", "deleted", |dir, _| remove_segments(dir), MENDED),
        case(
            "all segments",
            "one event altered, every checksum and the chain computed again",
            rewrite,
            DIVERGED,
        ),
    ]
}

fn states() -> Vec<Case> {
    vec![
        case("`identity`", "bit", |dir, _| flip(&dir.join("identity"), |_| 50), REFUSED),
        case("`identity`", "deleted", |dir, _| remove(&dir.join("identity")), REFUSED),
        case("`genesis`", "bit", |dir, _| flip(&dir.join("genesis"), |_| 40), REFUSED),
        case(
            "`hard_state`",
            "bit in one of its two slots",
            |dir, _| flip(&dir.join("hard_state"), |_| 24),
            UNAFFECTED,
        ),
        case(
            "`hard_state`",
            "bit in both slots",
            |dir, _| {
                flip(&dir.join("hard_state"), |_| 24);
                flip(&dir.join("hard_state"), |_| 4096 + 24);
            },
            OLD_FILES,
        ),
        case("`hard_state`", "deleted", |dir, _| remove(&dir.join("hard_state")), OLD_FILES),
        case(
            "`lineage`",
            "bit in one of its two copies",
            |dir, _| flip(&dir.join("lineage"), |_| 70),
            UNAFFECTED,
        ),
        case(
            "`lineage`",
            "one of its two copies deleted",
            |dir, _| remove(&dir.join("lineage.copy")),
            UNAFFECTED,
        ),
        case(
            "`lineage`",
            "both copies deleted, of a node that has started once",
            |dir, _| {
                remove(&dir.join("lineage"));
                remove(&dir.join("lineage.copy"));
            },
            UNAFFECTED,
        ),
        case(
            "`synced`",
            "bit in both slots",
            |dir, _| {
                flip(&dir.join("synced"), |_| 20);
                flip(&dir.join("synced"), |_| 4096 + 20);
            },
            MENDED,
        ),
        case("`synced`", "deleted", |dir, _| remove(&dir.join("synced")), MENDED),
        case(
            "`signed`",
            "bit in both slots",
            |dir, _| {
                flip(&dir.join("signed"), |_| 20);
                flip(&dir.join("signed"), |_| 4096 + 20);
            },
            REBUILT,
        ),
        case("`signed`", "deleted", |dir, _| remove(&dir.join("signed")), REBUILT),
        case(
            "`notes`",
            "bit in the middle",
            |dir, _| flip(&dir.join("notes"), |bytes| bytes.len() / 2),
            REBUILT,
        ),
        case(
            "`notes`",
            "cut in the middle",
            |dir, _| cut(&dir.join("notes"), |bytes| bytes.len() / 2),
            UNAFFECTED,
        ),
        case("`notes`", "deleted", |dir, _| remove(&dir.join("notes")), REBUILT),
        case(
            "`log_key`",
            "bit",
            |dir, _| flip(&dir.join("log_key"), |bytes| bytes.len() - 8),
            REFUSED,
        ),
    ]
}

fn derived() -> Vec<Case> {
    vec![
        case(
            "`derived/`",
            "deleted",
            |dir, _| std::fs::remove_dir_all(dir.join("derived")).unwrap(),
            UNAFFECTED,
        ),
        case(
            "tree file, level 0",
            "cut in the middle",
            |dir, _| cut(&dir.join("derived/tree/00"), |bytes| bytes.len() / 2),
            REBUILT,
        ),
        case(
            "tree file, level 0",
            "bit in the middle",
            |dir, _| flip(&dir.join("derived/tree/00"), |bytes| bytes.len() / 2),
            MENDED,
        ),
        case(
            "tree file, level 3",
            "bit in the middle",
            |dir, _| flip(&dir.join("derived/tree/03"), |bytes| bytes.len() / 2),
            MENDED,
        ),
        case(
            "all tree files",
            "overwritten with zeroes, except their last hashes",
            |dir, _| zero_trees(dir),
            MENDED,
        ),
        case(
            "index",
            "deleted",
            |dir, _| std::fs::remove_dir_all(dir.join("derived/index")).unwrap(),
            REBUILT,
        ),
        case("`derived/sums`", "deleted", |dir, _| remove(&dir.join("derived/sums")), UNAFFECTED),
    ]
}

fn swap_segments(dir: &Path) {
    let names = sealed(dir);
    let path = |position: usize| dir.join("segments").join(&names[position]);
    let aside = dir.join("segments/aside");
    std::fs::rename(path(0), &aside).unwrap();
    std::fs::rename(path(1), path(0)).unwrap();
    std::fs::rename(aside, path(1)).unwrap();
}

/// Whether the frame is a batch of two records or more.
fn has_two(frame: &Frame) -> bool {
    frame.head >= 16 + 2 * 64
}

fn swap_salts(bytes: &mut [u8]) {
    let frame = *frames(bytes).iter().find(|frame| has_two(frame)).unwrap();
    exchange(bytes, frame.body_at(), frame.body_at() + 16, 16);
}

fn swap_frames(bytes: &mut [u8]) {
    let frames = frames(bytes);
    let same = |pair: &[Frame]| {
        pair[0].body > 0 && (pair[0].head, pair[0].body) == (pair[1].head, pair[1].body)
    };
    let pair = frames.windows(2).find(|pair| same(pair)).expect("two entries of one size");
    exchange(bytes, pair[0].offset, pair[1].offset, pair[0].bytes());
}

/// The last hash of a level may be a peak: with another one the node would start anew.
fn zero_trees(dir: &Path) {
    for entry in std::fs::read_dir(dir.join("derived/tree")).unwrap() {
        edit(&entry.unwrap().path(), |bytes| {
            let end = bytes.len() - 32;
            bytes[..end].fill(0);
        });
    }
}

fn remove_segments(dir: &Path) {
    std::fs::remove_dir_all(dir.join("segments")).unwrap();
    std::fs::create_dir(dir.join("segments")).unwrap();
}
