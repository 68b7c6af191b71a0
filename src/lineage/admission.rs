//! What a peer decides about the boot that a node shows.

use crate::{Boot, Draw};

/// What a peer does with a boot that a node shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// The boot that is remembered.
    Current,
    /// A later one. It must be remembered durably before anything else is said to the node.
    Newer,
    /// It may be a later one: the node has to show its draws after this boot.
    Needs {
        /// Number of the boot that is remembered.
        after: u64,
    },
    /// Not the node that is remembered, or not any more.
    Not(NotAdmitted),
}

/// Why a boot is not admitted. The peer answers with the boot that it remembers and with the
/// node's signature of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAdmitted {
    /// A later boot was seen: a message that comes late, an original whose copy was started, or
    /// the older disk.
    #[error("boot {shown} is shown, but boot {remembered} was seen: an older copy of the disk")]
    Older {
        /// Number of the boot that is shown.
        shown: u64,
        /// Number of the boot that is remembered.
        remembered: u64,
    },
    /// The boot that was seen is not among its boots.
    #[error(
        "boot {shown} does not follow from boot {remembered}, which was seen: a wiped disk, or an \
         older copy of the disk"
    )]
    Forked {
        /// Number of the boot that is shown.
        shown: u64,
        /// Number of the boot that is remembered.
        remembered: u64,
    },
}

/// What a peer remembers of the newest boot of a node that it has admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Admitted {
    /// The boot.
    pub boot: Boot,
    /// It was admitted before this peer had a membership with the boot of that node: nobody can
    /// say yet that one extends the other.
    pub is_first_contact: bool,
}

/// Compares the boot that a node shows with what a peer remembers of it: the boot with which the
/// membership has it, and the newest one that was admitted. It must extend both. `draws` are those
/// after the boot that [`Admission::Needs`] names, or none yet.
///
/// It does not matter how many boots the peer has missed. Nothing remembered: this is the first
/// contact, between founders that have no log yet.
pub fn admit(
    in_membership: Option<Boot>,
    admitted: Option<Admitted>,
    shown: Boot,
    draws: Option<&[Draw]>,
) -> Admission {
    // What was admitted under the membership extends the boot in it.
    let is_settled = in_membership.is_none() || admitted.is_some_and(|a| !a.is_first_contact);
    let in_membership = in_membership.filter(|_| admitted.is_none() || !is_settled);
    let admitted = admitted.map(|admitted| admitted.boot);
    let remembered = || in_membership.into_iter().chain(admitted);
    let (Some(first), Some(last)) =
        (remembered().min_by_key(|b| b.number), remembered().max_by_key(|b| b.number))
    else {
        return Admission::Newer;
    };
    if remembered().all(|boot| boot == shown) {
        return Admission::Current;
    }
    let not = NotAdmitted::of(shown, last);
    if shown.number < last.number || remembered().any(|b| b.number == shown.number && b != shown) {
        return Admission::Not(not);
    }
    let needed = shown.number - first.number;
    let Some(draws) = draws.filter(|draws| draws.len() as u64 == needed) else {
        return Admission::Needs { after: first.number };
    };
    let mut chain = vec![first];
    chain.extend(draws.iter().scan(first, |boot, draw| {
        *boot = boot.next(*draw);
        Some(*boot)
    }));
    match remembered().chain([shown]).all(|boot| chain.contains(&boot)) {
        true => Admission::Newer,
        false => Admission::Not(not),
    }
}

impl NotAdmitted {
    fn of(shown: Boot, remembered: Boot) -> NotAdmitted {
        let (shown, remembered) = (shown.number, remembered.number);
        match shown < remembered {
            true => NotAdmitted::Older { shown, remembered },
            false => NotAdmitted::Forked { shown, remembered },
        }
    }
}
