//! Files of secrets and certificates: whole or not there, and never another file's replacement by
//! accident.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};

use super::DiskError;
use super::error::At;

/// Permission bits of a file that only its owner reads.
const SECRET_MODE: u32 = 0o600;
/// Permission bits of a file that everybody may read.
const PUBLIC_MODE: u32 = 0o644;

/// A file that is on the disk under another name, and gets its own by a commit.
#[derive(Debug)]
pub struct StagedFile {
    path: PathBuf,
    draft: PathBuf,
}

impl StagedFile {
    /// Writes a secret, readable by its owner only, whatever the umask.
    pub fn secret(path: &Path, bytes: &[u8]) -> Result<StagedFile, DiskError> {
        StagedFile::write(path, SECRET_MODE, bytes)
    }

    /// Writes something that is no secret.
    pub fn public(path: &Path, bytes: &[u8]) -> Result<StagedFile, DiskError> {
        StagedFile::write(path, PUBLIC_MODE, bytes)
    }

    fn write(path: &Path, mode: u32, bytes: &[u8]) -> Result<StagedFile, DiskError> {
        let mut draft = OsString::from(path);
        draft.push(".new");
        let draft = PathBuf::from(draft);
        // A draft of a run that was stopped. Removed, not opened: it may have other permissions.
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(DiskError::new("remove", &draft, error));
            }
            _ => {}
        }
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true).mode(mode);
        let mut file = options.open(&draft).at("create", &draft)?;
        file.write_all(bytes).at("write", &draft)?;
        // Crash before a commit: a draft, which the next run removes.
        file.sync_all().at("sync", &draft)?;
        Ok(StagedFile { path: path.to_owned(), draft })
    }

    /// Gives the file its name; an error, and nothing done, if the name is taken.
    pub fn commit_new(self) -> Result<(), DiskError> {
        let renamed =
            rustix::fs::renameat_with(CWD, &self.draft, CWD, &self.path, RenameFlags::NOREPLACE);
        if let Err(error) = renamed {
            // The error that matters is the first one.
            drop(fs::remove_file(&self.draft));
            return Err(DiskError::new("create", &self.path, error));
        }
        self.sync_name()
    }

    /// Gives the file the name, the owner and the group of the one that it replaces.
    pub fn commit_over(self) -> Result<(), DiskError> {
        let old = fs::metadata(&self.path).at("read", &self.path)?;
        let new = fs::metadata(&self.draft).at("read", &self.draft)?;
        if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
            std::os::unix::fs::chown(&self.draft, Some(old.uid()), Some(old.gid()))
                .at("change the owner of", &self.draft)?;
        }
        fs::rename(&self.draft, &self.path).at("replace", &self.path)?;
        self.sync_name()
    }

    fn sync_name(&self) -> Result<(), DiskError> {
        let folder = folder_of(&self.path);
        // Crash before: either name, the content whole.
        fs::File::open(folder).and_then(|folder| folder.sync_all()).at("sync", folder)
    }
}

/// Writes a secret into a new file, durably and readable by its owner only; an error if the name is
/// taken.
pub fn write_secret_new(path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
    StagedFile::secret(path, bytes)?.commit_new()
}

/// Writes a new file that everybody may read, durably; an error if the name is taken.
pub fn write_public_new(path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
    StagedFile::public(path, bytes)?.commit_new()
}

/// Makes a folder that only its owner enters, and those above it that are missing.
pub fn create_private_folder(path: &Path) -> Result<(), DiskError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).at("create", path)
}

/// Makes a folder one that only its owner enters. True if it was not.
pub fn make_private(path: &Path) -> Result<bool, DiskError> {
    let mode = fs::metadata(path).at("read", path)?.mode() & 0o777;
    if mode & 0o077 == 0 {
        return Ok(false);
    }
    let private = fs::Permissions::from_mode(mode & 0o700);
    fs::set_permissions(path, private).at("change the permissions of", path)?;
    Ok(true)
}

/// Reads a secret; refuses one that others can read or replace, as they may have done so. The
/// caller wipes the bytes.
pub fn read_secret(path: &Path) -> Result<Vec<u8>, DiskError> {
    let mode = fs::metadata(path).at("read", path)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        let what = format!("its permissions are {mode:o}, others have access; hint: chmod 600");
        let source = io::Error::new(io::ErrorKind::PermissionDenied, what);
        return Err(DiskError::new("read the secret", path, source));
    }
    fs::read(path).at("read", path)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn a_secret_is_its_owners_and_replaces_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("key");
        // Somebody prepared the draft so as to read along.
        fs::write(temp.path().join("key.new"), "old").unwrap();
        write_secret_new(&path, b"one").unwrap();
        assert_eq!((read_secret(&path).unwrap(), mode(&path)), (b"one".to_vec(), 0o600));
        let error = write_secret_new(&path, b"two").unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn a_commit_replaces_the_file_that_is_there_and_only_that() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("cert");
        let missing = StagedFile::public(&path, b"one").unwrap().commit_over().unwrap_err();
        assert_eq!(missing.source.kind(), io::ErrorKind::NotFound);
        write_public_new(&path, b"one").unwrap();
        let staged = StagedFile::public(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one", "not before the commit");
        staged.commit_over().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("key");
        write_public_new(&path, b"one").unwrap();
        let said = read_secret(&path).unwrap_err().to_string();
        assert!(said.contains("permissions are 644") && said.contains("hint:"), "{said}");
    }

    #[test]
    fn a_private_folder_is_its_owners() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a/b");
        create_private_folder(&path).unwrap();
        assert_eq!((mode(&path), mode(&temp.path().join("a"))), (0o700, 0o700));
        create_private_folder(&path).unwrap();
    }
}
