//! The manifest of derived files, `derived/sums` (docs/FORMAT.md): written when a ledger is
//! closed, removed when it is opened.
//!
//! The tree files and sled's have parts that nothing reads, where damage would go unnoticed. While
//! the node is down the manifest covers every byte of them. It is text, for people; any file has
//! exactly one form, so that no change of it is harmless.

use std::fmt::Write;

use crate::disk::{Dir, DiskError, TreeFile, files_below};

/// Name of the manifest in the directory of derived state.
pub(crate) const SUMS_FILE: &str = "sums";
const TITLE: &str = "indelible sums v1\n";
const CHUNK: usize = 1024 * 1024;

/// What the manifest says of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sum {
    /// Path below the directory of derived state, parts separated by `/`.
    pub(crate) name: String,
    /// In bytes.
    pub(crate) length: u64,
    /// CRC32C of all of it.
    pub(crate) crc: u32,
}

/// Writes the manifest of what is in the directory. Nobody writes there any more.
pub(super) fn write(derived: &Dir) -> Result<(), DiskError> {
    let mut sums = Vec::new();
    for file in files_below(derived.path())? {
        if file.name != SUMS_FILE {
            sums.push(sum(derived, &file)?);
        }
    }
    // Crash before: no manifest; the next start and the offline check take the node for one that
    // crashed.
    derived.write_new(SUMS_FILE, 0o600, render(&sums).as_bytes())
}

/// Removes the manifest, durably.
pub(super) fn remove(derived: &Dir) -> Result<(), DiskError> {
    if derived.exists(SUMS_FILE)? {
        derived.remove(SUMS_FILE)?;
    }
    // Crash before: the manifest is there and still true, as nothing was changed yet.
    derived.sync()
}

/// Length and checksum of a file.
pub(crate) fn sum(derived: &Dir, file: &TreeFile) -> Result<Sum, DiskError> {
    let open = derived.open_file_read_only(&file.name)?;
    let (mut length, mut crc) = (0, 0);
    let mut chunk = vec![0; CHUNK.min(file.length as usize + 1)];
    loop {
        let count = open.read_at(&mut chunk, length)?;
        if count == 0 {
            return Ok(Sum { name: file.name.clone(), length, crc });
        }
        length += count as u64;
        crc = crc32c::crc32c_append(crc, &chunk[..count]);
    }
}

/// The manifest as text: a title, a line for each file, and the checksum of all that.
fn render(sums: &[Sum]) -> String {
    let mut text = String::from(TITLE);
    for Sum { name, length, crc } in sums {
        writeln!(text, "{crc:08x} {length} {name}").expect("a string takes everything");
    }
    let crc = crc32c::crc32c(text.as_bytes());
    writeln!(text, "{crc:08x}").expect("a string takes everything");
    text
}

/// Reads a manifest; none if it is damaged.
pub(crate) fn parse(bytes: &[u8]) -> Option<Vec<Sum>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut lines: Vec<&str> = text.strip_prefix(TITLE)?.lines().collect();
    lines.pop()?;
    let sums = lines.into_iter().map(parse_line).collect::<Option<Vec<_>>>()?;
    // The one form, checksum included.
    (render(&sums).as_bytes() == bytes).then_some(sums)
}

fn parse_line(line: &str) -> Option<Sum> {
    let (crc, rest) = line.split_once(' ')?;
    let (length, name) = rest.split_once(' ')?;
    Some(Sum {
        name: name.into(),
        length: length.parse().ok()?,
        crc: u32::from_str_radix(crc, 16).ok()?,
    })
}
