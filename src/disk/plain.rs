//! Small files that are not part of a trail: configuration, process information.

use std::fs;
use std::io::BufReader;
use std::path::Path;

use super::DiskError;

fn failed(operation: &'static str, path: &Path, source: std::io::Error) -> DiskError {
    DiskError { operation, path: path.to_owned(), source }
}

/// A whole text file.
pub fn read_text(path: &Path) -> Result<String, DiskError> {
    fs::read_to_string(path).map_err(|source| failed("read", path, source))
}

/// A whole file.
pub fn read_bytes(path: &Path) -> Result<Vec<u8>, DiskError> {
    fs::read(path).map_err(|source| failed("read", path, source))
}

/// A file of any size, to be read from its beginning to its end.
pub fn open_for_reading(path: &Path) -> Result<BufReader<fs::File>, DiskError> {
    let file = fs::File::open(path).map_err(|source| failed("open", path, source))?;
    Ok(BufReader::with_capacity(64 * 1024, file))
}

/// Writes a whole text file; nothing of a trail, so nothing is synced.
pub fn write_text(path: &Path, text: &str) -> Result<(), DiskError> {
    fs::write(path, text).map_err(|source| failed("write", path, source))
}

/// Names of the entries of a folder, in order.
pub fn list(path: &Path) -> Result<Vec<String>, DiskError> {
    let entries = fs::read_dir(path).map_err(|source| failed("list", path, source))?;
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}
