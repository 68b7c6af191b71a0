//! Tests against scripted nodes.

mod appending;
mod fake;
mod reading;
