//! Which boot of a node is which: the rules that tell a disk from an older copy of it
//! (docs/adr/0011-lineage.md).
//!
//! Each time a node starts it draws a number and chains it to those of its earlier boots: its
//! [`Lineage`]. The end of the chain is a [`Boot`]; the node signs it as a [`Statement`] and shows
//! it to its peers. A peer remembers the newest boot and [`admit`]s only what extends it. A wiped
//! disk and an older copy of a disk draw other numbers, so what they show extends nothing that a
//! peer has seen later than the copy. [`check_start`] finds files of different ages on one disk
//! without asking anybody.
//!
//! Pure functions over values: the node and the model in `tests/model` call the same code.

mod admission;
mod boot;
mod refusal;
mod start;

#[cfg(test)]
mod tests;

pub use admission::{Admission, Admitted, NotAdmitted, admit};
pub use boot::{Boot, Draw, Lineage, Statement};
pub use refusal::{AfterRefusal, after_refusal};
pub use start::{Bound, Found, LogEnd, Start, StartRefusal, check_start, log_reaches};
