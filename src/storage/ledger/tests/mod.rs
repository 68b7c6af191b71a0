//! Tests of the ledger as a whole.

mod rules;
pub(crate) mod trail;
