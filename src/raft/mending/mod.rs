//! Mending: nodes give each other what damage has taken from one of them.
//!
//! The service runs on the raft port from the moment the process runs, before its own log is open
//! and while that is being mended itself: three nodes, each damaged elsewhere, mend each other. It
//! answers whoever shows a node's certificate, and needs no handshake: nothing in its answers is
//! taken on trust, entries must carry the right commitments and link, on both sides, to what the
//! asker has (docs/adr/0007). `ask` is the other end of it.

mod ask;
mod read;
mod service;
mod standing;

pub use ask::{AskError, Asker, Entries};
pub use service::{Mending, NoteSource, Source};
pub use standing::{Digests, Sealed, Standing};
