//! One node's durable state.
pub mod check;
pub mod frame;
pub mod hard_state;
pub mod identity;
pub mod index;
pub mod ledger;
pub mod log;
pub mod recovery;
pub mod segment;
pub mod synced;
pub mod tree;
