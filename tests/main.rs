//! The integration binary: real processes, real files, free ports, no sleep as synchronisation.
//!
//! [`harness`] runs groups and waits for what they say of themselves; the other modules are one
//! promise each.

#![expect(unreachable_pub, reason = "a test binary has no readers of its interface")]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the answer")]

mod add_node;
mod attacks;
mod auditing;
mod bad_input;
mod chaos;
mod clocks;
mod commands;
mod departure;
mod forgery;
mod full_disk;
mod harness;
mod http;
mod log_key;
mod membership;
mod mending;
mod provable;
mod publication;
mod reads;
mod restarts;
mod tamper;
mod thief;
mod tidy;
mod tiles;
mod two_faced;
mod wiped;
mod witness;
