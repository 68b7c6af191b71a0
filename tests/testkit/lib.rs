//! What the tests of Indelible share, and the tools of its gate.
//!
//! Tests: [`fail`] says in which words a test fails that may run again; [`local`] starts real nodes.
//! The gate: [`runner`] runs `cargo test` and judges what failed; [`dependencies`] checks the
//! packages that the program is built from.

pub mod dependencies;
pub mod fail;
pub mod runner;

pub use indelible_local as local;
