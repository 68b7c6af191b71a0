//! Tests against scripted nodes.

mod appending;
mod auditing;
mod fake;
mod reading;
mod services;
mod settling;
mod trail;
