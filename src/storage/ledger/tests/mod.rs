//! Tests of the ledger as a whole.

pub(crate) mod damage;
mod model;
mod rules;
mod scripts;
mod scrub;
mod tiles;
pub(crate) mod trail;
