//! Bytes on disk: the only place that calls `std::fs`.
//!
//! Everything durable goes through a [`Dir`] and the [`File`]s it opens, so that the rules are in
//! one place: positions are explicit (nothing seeks), a name is durable only after [`Dir::sync`], a
//! length only after [`File::sync_all`], and every error says which operation failed on which path.
//! [`SlotFile`] keeps a small value in two checksummed slots, so that a torn write leaves the value
//! before it. [`StagedFile`] does the same for keys and certificates. [`DirLock`] keeps a second
//! process out, and [`free_bytes`] says how much room is left.
//!
//! Invariant: this layer knows no format above a slot, and never retries a failed sync.
//!
//! A [`Recorder`] can listen to a directory: tests rebuild from it every state that a crash could
//! leave, and let a sync fail.

mod dir;
mod error;
mod file;
mod lock;
mod plain;
pub mod recorder;
#[cfg(test)]
pub(crate) mod replay;
mod slots;
mod space;
mod staged;
mod trees;

pub use dir::Dir;
pub use error::DiskError;
pub use file::File;
pub use lock::{DirLock, LOCK_FILE, LockError};
pub use plain::{list, open_for_reading, read_bytes, read_text, write_text};
pub use recorder::Recorder;
pub use slots::{SLOT_FILE_SIZE, SLOT_STRIDE, SlotFile, SlotKind, SlotsError};
pub use space::free_bytes;
pub use staged::{
    StagedFile, create_private_folder, make_private, read_secret, write_public_new,
    write_secret_new,
};
pub use trees::{ScratchDir, TreeFile, files_below, remove_tree, wait_unlocked};
