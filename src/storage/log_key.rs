//! The log key: what signs as the trail itself (docs/FORMAT.md, "Log key").
//!
//! The same on all nodes that have it. Alone it satisfies no policy, as it is asked to sign only
//! what a majority of the nodes has cosigned; so it is kept like a secret, but a stolen one forges
//! nothing.

use std::path::{Path, PathBuf};

use indelible_core::key::KeyError;
use indelible_core::{KeyType, SignerKey};

use zeroize::Zeroizing;

use crate::disk::{Dir, DiskError, read_secret};

/// Name of the file; only its owner may read it.
pub const LOG_KEY_FILE: &str = "log_key";

/// Why the log key could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LogKeyError {
    /// The file holds no secret key.
    #[error("{}: {source}; hint: copy it from another node of the trail", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: KeyError,
    },
    /// It is the key of something else.
    #[error("{} holds a key of {actual:?}, the trail's origin is {expected:?}", path.display())]
    Origin {
        /// The file.
        path: PathBuf,
        /// The trail's origin.
        expected: String,
        /// The key's name.
        actual: String,
    },
    /// It is a cosigner's key.
    #[error("{} holds a cosigner's key, not a log's", path.display())]
    Type {
        /// The file.
        path: PathBuf,
    },
    /// The file exists already, or could not be read or written.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Writes the file durably, readable by its owner only; refuses to replace one.
pub fn write_new(dir: &Path, key: &SignerKey) -> Result<(), LogKeyError> {
    let text = format!("{}\n", key.to_secret_text());
    // Crash before the return: there is no log key, and `init` starts over. After: there is one,
    // whole.
    Ok(Dir::open(dir, true)?.write_new(LOG_KEY_FILE, 0o600, text.as_bytes())?)
}

/// Reads the file of a data directory; none if this node was not given the key.
pub fn read(dir: &Path, origin: &str) -> Result<Option<SignerKey>, LogKeyError> {
    let folder = Dir::open(dir, true)?;
    if !folder.exists(LOG_KEY_FILE)? {
        return Ok(None);
    }
    let path = dir.join(LOG_KEY_FILE);
    let bytes = Zeroizing::new(read_secret(&path)?);
    parse(&String::from_utf8_lossy(&bytes), origin, &path).map(Some)
}

/// The log key of a trail, out of the text of such a file.
pub fn parse(text: &str, origin: &str, path: &Path) -> Result<SignerKey, LogKeyError> {
    let path = path.to_owned();
    let key: SignerKey = match text.trim_end().parse() {
        Ok(key) => key,
        Err(source) => return Err(LogKeyError::Key { path, source }),
    };
    let verifier = key.verifier();
    if verifier.key_type != KeyType::Log {
        return Err(LogKeyError::Type { path });
    }
    if verifier.name != origin {
        let (expected, actual) = (origin.to_owned(), verifier.name.clone());
        return Err(LogKeyError::Origin { path, expected, actual });
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_back_by_its_owner_and_never_replaced() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        assert!(read(dir.path(), "log.example/t").unwrap().is_none());
        let key = SignerKey::new("log.example/t", KeyType::Log, [7; 32]).unwrap();
        write_new(dir.path(), &key).unwrap();
        assert!(write_new(dir.path(), &key).is_err());
        let again = read(dir.path(), "log.example/t").unwrap().unwrap();
        assert_eq!(again.verifier(), key.verifier());
        let mode = dir.path().join(LOG_KEY_FILE).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn the_key_of_something_else_is_refused() {
        let path = Path::new("log_key");
        let key = |name: &str, kind| SignerKey::new(name, kind, [7; 32]).unwrap().to_secret_text();
        let other = parse(&key("b", KeyType::Log), "a", path).unwrap_err();
        assert!(matches!(other, LogKeyError::Origin { .. }), "{other}");
        let cosigner = parse(&key("a", KeyType::Cosigner), "a", path).unwrap_err();
        assert!(matches!(cosigner, LogKeyError::Type { .. }), "{cosigner}");
        let broken = parse("PRIVATE+KEY+a+00000000+AAAA", "a", path).unwrap_err();
        assert!(matches!(broken, LogKeyError::Key { .. }), "{broken}");
    }
}
