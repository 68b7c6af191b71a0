//! A model of what nodes remember of each other (docs/adr/0011-lineage.md): three nodes and a
//! fourth, every order of starts, crashes between any two writes, elections, entries, notes and
//! changes of the group, while somebody deletes, restores or copies the files of one node.
//!
//! The [`rules`] are those of `indelible-lineage`, which the node calls too; each can be taken out.
//! [`truth`] knows what the nodes do not, and says whether a promise is broken; [`health`] whether
//! the group would come back. Start reading at [`action`]: what may happen, then [`exchange`].
//!
//! What is left out: content of events, mending (a node whose log lacks what `hard_state` names
//! does not start), joint configurations (a change is one entry), and the handshake's proof of the
//! key, without which nobody can say anything in a node's name.

pub mod action;
pub mod disk;
pub mod exchange;
pub mod health;
pub mod limits;
pub mod model;
pub mod node;
pub mod rules;
pub mod state;
pub mod truth;

pub use limits::Limits;
pub use model::{LIVE, SAFE};
pub use rules::Rules;
pub use state::Setting;
