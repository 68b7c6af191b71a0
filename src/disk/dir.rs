//! One directory: names come, go and become durable here.

use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, RenameFlags};

use super::error::At;
use super::recorder::{Op, Recorder, Tap};
use super::{DiskError, File};

/// A directory that exists. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Dir {
    path: PathBuf,
    /// Where operations are reported in tests.
    tap: Tap,
    /// False only where tests trade durability for speed: syncs do nothing.
    syncs: bool,
}

impl Dir {
    /// Opens a directory; an error if it does not exist. With `syncs` false nothing is ever made
    /// durable: for tests.
    pub fn open(path: &Path, syncs: bool) -> Result<Dir, DiskError> {
        Self::open_tapped(path, syncs, Tap::default())
    }

    /// As [`Self::open`]; every operation on it and below it is reported to `recorder`.
    pub fn open_recorded(
        path: &Path,
        syncs: bool,
        recorder: Arc<Recorder>,
    ) -> Result<Dir, DiskError> {
        Self::open_tapped(path, syncs, Tap::new(recorder))
    }

    fn open_tapped(path: &Path, syncs: bool, tap: Tap) -> Result<Dir, DiskError> {
        if !std::fs::metadata(path).at("open directory", path)?.is_dir() {
            return Err(io::Error::from(io::ErrorKind::NotADirectory)).at("open directory", path);
        }
        Ok(Dir { path: path.to_owned(), tap, syncs })
    }

    /// Makes a directory and all above it that are missing. Not durable: for `init` and tests.
    pub fn create_all(path: &Path) -> Result<(), DiskError> {
        std::fs::create_dir_all(path).at("create directory", path)
    }

    /// The directory `name` in this one, made durably if it does not exist.
    pub fn subdir(&self, name: &str) -> Result<Dir, DiskError> {
        let path = self.path.join(name);
        if !self.exists(name)? {
            self.tap.before("create directory", &path, || Op::MakeDir { name: name.into() })?;
            std::fs::create_dir(&path).at("create directory", &path)?;
        }
        // Crash before: the directory is missing or empty, and whoever needs it makes it again.
        // Synced even if it was there: the crash may have been between making it and this line.
        self.sync()?;
        Ok(Dir { path, tap: self.tap.of(name), syncs: self.syncs })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn tap(&self) -> &Tap {
        &self.tap
    }

    pub(super) fn syncs(&self) -> bool {
        self.syncs
    }

    /// Whether something has this name.
    pub fn exists(&self, name: &str) -> Result<bool, DiskError> {
        let path = self.path.join(name);
        path.try_exists().at("stat", &path)
    }

    /// Names in the directory, sorted.
    pub fn list(&self) -> Result<Vec<String>, DiskError> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path).at("list", &self.path)? {
            let name = entry.at("list", &self.path)?.file_name();
            // A name that is not UTF-8 is none of ours.
            names.extend(name.into_string());
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Opens a file for reading and writing.
    pub fn open_file(&self, name: &str) -> Result<File, DiskError> {
        let path = self.path.join(name);
        let file = std::fs::OpenOptions::new().read(true).write(true).open(&path);
        Ok(File::new(file.at("open", &path)?, self, name))
    }

    /// Opens a file for reading.
    pub fn open_file_read_only(&self, name: &str) -> Result<File, DiskError> {
        let path = self.path.join(name);
        Ok(File::new(std::fs::File::open(&path).at("open", &path)?, self, name))
    }

    /// Makes an empty file with these permission bits; replaces what had the name. The name is not
    /// durable before [`Self::sync`].
    pub fn create_file(&self, name: &str, mode: u32) -> Result<File, DiskError> {
        let path = self.path.join(name);
        self.tap.before("create", &path, || Op::Create { name: name.into() })?;
        let mut options = std::fs::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(mode);
        Ok(File::new(options.open(&path).at("create", &path)?, self, name))
    }

    /// All bytes of a file; none if there is no such file.
    pub fn read_file(&self, name: &str) -> Result<Option<Vec<u8>>, DiskError> {
        let path = self.path.join(name);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(DiskError::new("read", &path, error)),
        }
    }

    /// Gives a file another name in this directory, replacing what had it. Not durable before
    /// [`Self::sync`].
    pub fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        let path = self.path.join(from);
        self.tap.before("rename", &path, || Op::Rename { from: from.into(), to: to.into() })?;
        std::fs::rename(&path, self.path.join(to)).at("rename", &path)
    }

    /// As [`Self::rename`]; an error, and nothing done, if something has the new name already.
    pub fn rename_new(&self, from: &str, to: &str) -> Result<(), DiskError> {
        let (path, target) = (self.path.join(from), self.path.join(to));
        self.tap.before("rename", &path, || Op::Rename { from: from.into(), to: to.into() })?;
        rustix::fs::renameat_with(CWD, &path, CWD, &target, RenameFlags::NOREPLACE)
            .at("create", &target)
    }

    /// Gives a file a second name in another directory of the same tree; where the file system
    /// knows no links, its bytes are copied. An error if the name is taken. Durable on return.
    pub fn keep_in(&self, name: &str, other: &Dir, to: &str) -> Result<(), DiskError> {
        let (path, target) = (self.path.join(name), other.path.join(to));
        self.tap
            .before("link", &path, || Op::Link { name: name.into(), to: other.tap.name(to) })?;
        match std::fs::hard_link(&path, &target) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(DiskError::new("create", &target, error));
            }
            Err(_) => {
                let bytes = std::fs::read(&path).at("read", &path)?;
                return other.write_new(to, 0o600, &bytes);
            }
        }
        // Crash before: the second name is gone, and whoever needs it makes it again.
        other.sync()
    }

    /// Removes a file. Not durable before [`Self::sync`].
    pub fn remove(&self, name: &str) -> Result<(), DiskError> {
        let path = self.path.join(name);
        self.tap.before("remove", &path, || Op::Remove { name: name.into() })?;
        std::fs::remove_file(&path).at("remove", &path)
    }

    /// Makes the names in the directory durable.
    pub fn sync(&self) -> Result<(), DiskError> {
        self.tap.before_sync("sync", &self.path, || Op::SyncDir)?;
        if !self.syncs {
            return Ok(());
        }
        let dir = std::fs::File::open(&self.path).at("open directory", &self.path)?;
        dir.sync_all().at("sync", &self.path)
    }

    /// Writes a whole new file durably: readers see all of it or none. An error if the name is
    /// taken.
    pub fn write_new(&self, name: &str, mode: u32, bytes: &[u8]) -> Result<(), DiskError> {
        let temporary = format!("{name}.tmp");
        let file = self.create_file(&temporary, mode)?;
        file.write_all_at(bytes, 0)?;
        // Crash before the rename is durable: a file with the temporary name, which the next writer
        // replaces.
        file.sync_all()?;
        self.rename_new(&temporary, name)?;
        // Crash after: the file is there, whole.
        self.sync()
    }
}
