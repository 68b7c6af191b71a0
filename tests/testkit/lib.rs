//! What the tests of Indelible share, and the tools of its gate.
//!
//! Tests: [`fail`] says in which words a test fails that may run again; [`local`] starts real nodes;
//! [`certificates`] says who somebody is; [`keys`], [`trail`] and [`tree`] make up trails, and
//! everything that is signed and proven of them.
//! The gate: [`runner`] runs `cargo test` and judges what failed; [`dependencies`] checks the
//! packages that the program is built from.

pub mod certificates;
pub mod dependencies;
pub mod fail;
pub mod keys;
pub mod runner;
pub mod trail;
pub mod tree;

pub use certificates::Certificates;
pub use indelible_local as local;
pub use keys::TestKeys;
pub use trail::TestRecord;
pub use tree::TestTree;
