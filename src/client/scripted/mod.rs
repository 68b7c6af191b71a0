//! Tests against scripted nodes.

mod appending;
mod auditing;
mod fake;
mod following;
mod reading;
mod services;
mod settling;
mod trail;

pub(crate) use trail::policy;
