//! Whole directory trees: for derived state, which is thrown away and computed again, and for
//! looking at files that another library owns.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;

use super::DiskError;
use super::error::At;

/// How often [`wait_unlocked`] tries, and how long it waits in between.
const LOCK_TRIES: u32 = 10_000;
const LOCK_WAIT: Duration = Duration::from_millis(1);

/// A file below a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeFile {
    /// Its path below the directory, parts separated by `/`.
    pub name: String,
    /// Its length in bytes.
    pub length: u64,
}

/// All files below a directory, by name; none if there is no such directory. Names that are not
/// UTF-8 are shown lossily.
pub fn files_below(path: &Path) -> Result<Vec<TreeFile>, DiskError> {
    let mut files = Vec::new();
    let mut pending = vec![(path.to_owned(), String::new())];
    while let Some((dir, prefix)) = pending.pop() {
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(DiskError::new("list", &dir, error)),
        };
        for entry in entries {
            let entry = entry.at("list", &dir)?;
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            let metadata = entry.metadata().at("stat", &entry.path())?;
            if metadata.is_dir() {
                pending.push((entry.path(), format!("{name}/")));
            } else {
                files.push(TreeFile { name, length: metadata.len() });
            }
        }
    }
    files.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

/// Removes a directory and everything below it, if it is there. Not durable.
pub fn remove_tree(path: &Path) -> Result<(), DiskError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(DiskError::new("remove", path, error))
        }
        _ => Ok(()),
    }
}

/// A directory that is removed when this value is dropped.
#[derive(Debug)]
pub struct ScratchDir(PathBuf);

impl ScratchDir {
    /// Makes a directory below `parent`, whose name begins with `name` and which nobody else has.
    pub fn create_unique(parent: &Path, name: &str) -> Result<ScratchDir, DiskError> {
        let process = std::process::id();
        for number in 0.. {
            let path = parent.join(format!("{name}-{process}-{number}"));
            match std::fs::create_dir(&path) {
                Ok(()) => return Ok(ScratchDir(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(DiskError::new("create directory", &path, error)),
            }
        }
        unreachable!("a directory has fewer names than there are numbers")
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Copies all files below `from` into it. Nothing is made durable.
    pub fn copy_from(&self, from: &Path) -> Result<(), DiskError> {
        for file in files_below(from)? {
            let (source, target) = (from.join(&file.name), self.0.join(&file.name));
            let parent = target.parent().unwrap_or(&self.0);
            std::fs::create_dir_all(parent).at("create directory", parent)?;
            std::fs::copy(&source, &target).at("copy", &source)?;
        }
        Ok(())
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        // Nothing depends on it; a system cleans its directory for temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Waits until nobody holds a lock (flock) on this file: for libraries that let go of their files
/// some time after their handle is dropped. A file that does not exist is not locked.
pub fn wait_unlocked(path: &Path) -> Result<(), DiskError> {
    for _ in 0..LOCK_TRIES {
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(DiskError::new("open", path, error)),
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(LOCK_WAIT),
            Err(error) => return Err(DiskError::new("lock", path, error)),
        }
    }
    Err(DiskError::new("lock", path, io::Error::from(io::ErrorKind::TimedOut)))
}
