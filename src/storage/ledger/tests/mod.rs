//! Tests of the ledger as a whole.

pub(crate) mod damage;
mod rules;
pub(crate) mod trail;
