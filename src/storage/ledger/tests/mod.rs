//! Tests of the ledger as a whole.

pub(crate) mod damage;
mod model;
mod rules;
mod scripts;
pub(crate) mod trail;
