//! One running node without its sockets: what the services call.
//!
//! Reading order: [`config`] says what a node is told; [`start`] puts a [`Node`] together;
//! [`leadership`] is what everything asks first; [`clock`] says what time it is; [`batcher`] is the
//! way of an append into the log, [`reads`] what a read waits for, [`duplicates`] what a repeated
//! append gets back; [`membership`] changes the group, [`hand_over`] moves leadership, and [`view`]
//! describes both; [`publish`] is how checkpoints come about. [`mend`] makes a damaged log whole,
//! at start and while the node runs; [`scrub`] looks for damage, [`findings`] takes what was found
//! into the trail, [`fatal`] is what a node must not go on with, and [`departure`] finds out that
//! it was removed.
//!
//! Invariant: nothing here decides whether an event is recorded. The batcher guesses, apply
//! decides.

pub mod batcher;
pub mod bootstrap;
pub mod clock;
pub mod config;
pub mod departure;
pub mod duplicates;
pub mod fatal;
pub mod findings;
pub mod hand_over;
mod joint;
pub mod leadership;
pub mod membership;
pub mod mend;
pub mod operations;
mod progress;
pub mod publish;
pub mod reads;
pub mod scrub;
pub mod space;
pub mod start;
pub mod view;

pub use config::NodeConfig;
pub use start::{Node, StartError};
