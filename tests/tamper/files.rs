//! Where things are in a data directory, read by docs/FORMAT.md and not by the code under test.

use std::path::{Path, PathBuf};

/// Offset of the first frame of a segment.
pub const FRAMES_START: usize = 96;
const FRAME_HEADER: usize = 96;
const FOOTER_MAGIC: &[u8] = b"INDSEALD";

/// One frame of a segment file.
#[derive(Debug, Clone, Copy)]
pub struct Frame {
    pub offset: usize,
    pub head: usize,
    pub body: usize,
}

impl Frame {
    /// With header and padding.
    pub fn bytes(&self) -> usize {
        (FRAME_HEADER + self.head + self.body).next_multiple_of(8)
    }

    pub fn head_at(&self) -> usize {
        self.offset + FRAME_HEADER
    }

    pub fn body_at(&self) -> usize {
        self.head_at() + self.head
    }
}

/// The frames of a segment.
pub fn frames(bytes: &[u8]) -> Vec<Frame> {
    let mut found = Vec::new();
    let mut offset = FRAMES_START;
    while bytes.get(offset..offset + 4) == Some(b"INDF") {
        let size = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let frame = Frame { offset, head: size(offset + 12), body: size(offset + 16) };
        offset += frame.bytes();
        found.push(frame);
    }
    found
}

/// Names of all segment files, in order.
pub fn segments(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir.join("segments")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".seg")).collect();
    names.sort();
    names
}

/// Names of the sealed ones.
pub fn sealed(dir: &Path) -> Vec<String> {
    let is_sealed = |name: &String| {
        std::fs::read(dir.join("segments").join(name)).unwrap().ends_with(FOOTER_MAGIC)
    };
    segments(dir).into_iter().filter(is_sealed).collect()
}

/// A sealed segment in the middle of the trail.
pub fn a_sealed(dir: &Path) -> PathBuf {
    let names = sealed(dir);
    dir.join("segments").join(&names[names.len() / 2])
}

/// The first sealed segment that has such a frame.
pub fn the_sealed_with(dir: &Path, wanted: impl Fn(&Frame) -> bool) -> PathBuf {
    let mut paths = sealed(dir).into_iter().map(|name| dir.join("segments").join(name));
    let has = |path: &PathBuf| frames(&std::fs::read(path).unwrap()).iter().any(&wanted);
    paths.find(has).expect("a sealed segment with such a frame")
}

/// The segment that was written last.
pub fn the_active(dir: &Path) -> PathBuf {
    dir.join("segments").join(segments(dir).last().unwrap())
}

/// Changes a file's bytes.
pub fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}
