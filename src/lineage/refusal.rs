//! What a node does when a peer does not admit it.

use crate::{Boot, Lineage};

/// What a node does when a peer shows a boot with the node's own signature instead of admitting
/// it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterRefusal {
    /// Nothing: the boot is one of its own, so the refusal was of a message that came late.
    GoOn,
    /// Another process has started from a copy of this disk while this one ran. It says so and
    /// goes on: the peers that have admitted this boot are with it.
    Alarm,
    /// This disk is wiped, or older than one that was started: the node stops for good.
    Stop,
}

/// Decides that from the node's own lineage. `is_admitted`: some peer has admitted this very boot.
/// The caller has verified the signature, so a peer can show only what this node's key has signed.
pub fn after_refusal(own: &Lineage, shown: Boot, is_admitted: bool) -> AfterRefusal {
    if own.boot(shown.number) == Some(shown) {
        return AfterRefusal::GoOn;
    }
    if is_admitted { AfterRefusal::Alarm } else { AfterRefusal::Stop }
}
