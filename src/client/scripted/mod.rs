//! Tests against scripted nodes.

mod appending;
mod auditing;
mod dialing;
mod doors;
mod fake;
mod following;
mod reading;
mod services;
mod settling;
mod trail;

pub(crate) use trail::policy;
