//! The checkpoint file: the newest checkpoint that a client has seen, kept for its next run, and
//! beside it the policy that accepted it.
//!
//! The only file of the client, and the only place of it that touches files (tests/tidy.rs names
//! it): the layer `disk` belongs to the server, which the client does not depend on.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use indelible_core::limits::{NOTE_BYTES_MAX, POLICY_BYTES_MAX};
use indelible_core::{Checkpoint, Note, Policy, VerifierKey};
use sha2::{Digest, Sha256};

/// How often the file is replaced at most. What is newer is written when the client goes.
const PACE: Duration = Duration::from_secs(1);

/// The checkpoint file, or what is kept beside it, is of no use.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FileError {
    /// It cannot be read or written.
    #[error("{operation} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the operating system says.
        source: Arc<io::Error>,
    },
    /// It does not hold what it should.
    #[error(
        "{}: {what}\nhint: it must be of the same trail as the policy; move it away to begin anew, which \
         forgets what was seen",
        .path.display()
    )]
    Unfit {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

/// The file, and what is still to be written to it.
pub(crate) struct CheckpointFile {
    path: PathBuf,
    /// The policy that the client was given; none if it pins what it sees.
    given: Option<Policy>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Newer than what the file holds, and the policy that accepts it.
    unwritten: Option<(Arc<str>, Arc<Policy>)>,
    /// When the file was last replaced.
    written: Option<Instant>,
    /// The policy that was last written beside it.
    policy: Option<Arc<Policy>>,
}

impl CheckpointFile {
    pub(crate) fn new(path: &Path, given: Option<Policy>) -> CheckpointFile {
        CheckpointFile { path: path.to_owned(), given, state: Mutex::default() }
    }

    /// The signed note in it; none if there is no file yet.
    pub(crate) fn read(&self) -> Result<Option<String>, FileError> {
        read_text(&self.path, NOTE_BYTES_MAX)
    }

    /// That its content does not do.
    pub(crate) fn unfit(&self, what: String) -> FileError {
        FileError::Unfit { path: self.path.clone(), what }
    }

    /// Writes a newer checkpoint, now or when the last one is a second old. Takes a few
    /// milliseconds once a second, on whichever thread comes.
    pub(crate) fn offer(&self, note: &Arc<str>, policy: &Arc<Policy>) {
        let mut state = self.state();
        state.unwritten = Some((note.clone(), policy.clone()));
        if state.written.is_none_or(|written| written.elapsed() >= PACE) {
            self.write(&mut state);
        }
    }

    /// Writes a checkpoint now, and the policy that accepts it as the one before does.
    pub(crate) fn follow(&self, note: &Arc<str>, policy: &Arc<Policy>) {
        let mut state = self.state();
        state.unwritten = Some((note.clone(), policy.clone()));
        self.write(&mut state);
    }

    /// A failure is logged: the checkpoint that the file still holds is older, and as true.
    fn write(&self, state: &mut State) {
        let Some((note, policy)) = state.unwritten.take() else { return };
        state.written = Some(Instant::now());
        if let Err(error) = self.try_write(state, &note, policy) {
            tracing::warn!(%error, "the checkpoint file was not written");
        }
    }

    fn try_write(
        &self,
        state: &mut State,
        note: &str,
        policy: Arc<Policy>,
    ) -> Result<(), FileError> {
        // Another process may share the file, and be ahead.
        let read = |note: &str| {
            let note = Note::parse(note).ok()?;
            Some((Checkpoint::parse(&note.text).ok()?.size, note))
        };
        let there = self.read().ok().flatten().and_then(|there| read(&there));
        let is_ahead = there.as_ref().map(|(size, _)| *size) > read(note).map(|(size, _)| size);
        if !is_ahead {
            replace(&self.path, note)?;
        } else if there.is_some_and(|(_, there)| policy.check(&there).is_err()) {
            return Ok(());
        }
        if state.policy.as_ref() != Some(&policy) {
            // Crash before: a checkpoint that this policy accepts beside an earlier one, which
            // accepts it too if this one came of it, and counts for nothing otherwise.
            let origin = self.given.as_ref().map(follows).unwrap_or_default();
            replace(&policy_path(&self.path), &format!("{origin}{policy}"))?;
            state.policy = Some(policy);
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds this lock")
    }
}

impl Drop for CheckpointFile {
    fn drop(&mut self) {
        let mut state = self.state();
        self.write(&mut state);
        drop(state);
    }
}

/// The policy that is kept beside the checkpoint file: which accepted the checkpoint in it, or was
/// pinned on first use.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) policy: Policy,
    text: String,
}

impl Kept {
    /// None if there is none yet.
    pub(crate) fn read(checkpoint_file: &Path) -> Result<Option<Kept>, FileError> {
        let path = policy_path(checkpoint_file);
        let Some(text) = read_text(&path, POLICY_BYTES_MAX)? else { return Ok(None) };
        let parsed = text.parse::<Policy>();
        let policy = parsed.map_err(|error| FileError::Unfit { path, what: error.to_string() })?;
        Ok(Some(Kept { policy, text }))
    }

    /// Whether it is what this policy became.
    pub(crate) fn follows(&self, given: &Policy) -> bool {
        self.text.starts_with(&follows(given))
    }

    /// Whether it is for the same log, and accepts this note.
    pub(crate) fn accepts(&self, note: &str, given: &Policy) -> bool {
        let is_known = |key: &VerifierKey| given.logs().iter().any(|log| log.key == *key);
        let note = Note::parse(note).ok();
        self.policy.logs().iter().all(|log| is_known(&log.key))
            && note.is_some_and(|note| self.policy.check(&note).is_ok())
    }
}

/// The first line of a policy that another one became.
fn follows(given: &Policy) -> String {
    format!("# follows {}\n", hex::encode(Sha256::digest(given.to_string())))
}

/// Keeps a policy for the next run.
pub(crate) fn write_pinned(checkpoint_file: &Path, policy: &Policy) -> Result<(), FileError> {
    replace(&policy_path(checkpoint_file), &policy.to_string())
}

fn policy_path(checkpoint_file: &Path) -> PathBuf {
    let mut name = checkpoint_file.as_os_str().to_owned();
    name.push(".policy");
    name.into()
}

fn read_text(path: &Path, bytes_max: usize) -> Result<Option<String>, FileError> {
    let failed = |source| failed("read", path, source);
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
        Ok(metadata) if metadata.len() > bytes_max as u64 => {
            let what = format!("{} bytes, the limit is {bytes_max}", metadata.len());
            return Err(FileError::Unfit { path: path.to_owned(), what });
        }
        Ok(_) => {}
    }
    fs::read_to_string(path).map(Some).map_err(failed)
}

/// Puts a file in the place of another.
fn replace(path: &Path, text: &str) -> Result<(), FileError> {
    let mut name = path.as_os_str().to_owned();
    // Processes that share the file do not write into each other's drafts.
    name.push(format!(".{}.tmp", std::process::id()));
    let draft = PathBuf::from(name);
    let mut file = File::create(&draft).map_err(|source| failed("create", &draft, source))?;
    file.write_all(text.as_bytes()).map_err(|source| failed("write", &draft, source))?;
    file.sync_all().map_err(|source| failed("sync", &draft, source))?;
    // Crash here: the old file stands, and a draft that nobody reads.
    fs::rename(&draft, path).map_err(|source| failed("replace", path, source))?;
    // Crash here: the old file or the new one, both whole. The old one is an older checkpoint: the
    // next run proves that what it sees extends that one.
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|source| failed("sync", dir, source))
}

fn failed(operation: &'static str, path: &Path, source: io::Error) -> FileError {
    FileError::Io { operation, path: path.to_owned(), source: Arc::new(source) }
}

#[cfg(test)]
mod tests {
    use indelible_core::Hash;

    use super::*;

    fn note(size: u64) -> Arc<str> {
        let text = Checkpoint::new("example.com/trail", size, Hash([1; 32])).to_string();
        format!("{text}\n\u{2014} example.com/trail AAAAAAAA\n").into()
    }

    fn policy() -> Arc<Policy> {
        Arc::new(crate::scripted::policy())
    }

    #[test]
    fn the_newest_is_there_after_the_client_went() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("checkpoint");
        let file = CheckpointFile::new(&path, None);
        assert_eq!(file.read().expect("reads"), None);
        file.offer(&note(1), &policy());
        assert_eq!(file.read().expect("reads").as_deref(), Some(&*note(1)), "the first at once");
        file.offer(&note(2), &policy());
        file.offer(&note(3), &policy());
        drop(file);
        let again = CheckpointFile::new(&path, None);
        assert_eq!(again.read().expect("reads").as_deref(), Some(&*note(3)));
        // Another process was faster.
        again.offer(&note(2), &policy());
        assert_eq!(again.read().expect("reads").as_deref(), Some(&*note(3)));
        let left: Vec<_> = fs::read_dir(dir.path()).expect("lists").collect();
        assert_eq!(left.len(), 2, "no drafts are left: {left:?}");
    }

    #[test]
    fn a_file_that_is_too_large_is_not_read() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("checkpoint");
        fs::write(&path, vec![b'a'; NOTE_BYTES_MAX + 1]).expect("writes");
        let error = CheckpointFile::new(&path, None).read().expect_err("too large");
        assert!(error.to_string().contains("the limit is"), "{error}");
    }
}
