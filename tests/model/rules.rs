//! The rules, each of which can be taken out.

/// Which rules hold. With all of them the model holds; without any one of them it does not (see
/// `gate.rs` for what happens then).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// What a start draws is on the disk before the node says anything.
    pub durable_first: bool,
    /// `hard_state` and `lineage` must be of the same boot.
    pub same_boot: bool,
    /// A `hard_state` that is one boot ahead of `lineage` is a start that a crash has cut off, and
    /// the next start finishes it.
    pub finish_start: bool,
    /// `hard_state` names the end of the log; a log that lacks it does not vote.
    pub log_end: bool,
    /// Before the log is changed under a new promise, `synced` names that promise; a start raises
    /// its own to it.
    pub log_names_promise: bool,
    /// Peers admit only boots that extend the one that they remember.
    pub extend: bool,
    /// The membership says with which boot each node was added.
    pub boot_in_membership: bool,
    /// A node whose log lacks what it has cosigned, as far as its peer knows, is not admitted.
    pub signatures: bool,
    /// A process refuses a node whose promise or log is behind what this very process has had from
    /// it. Nothing of that is on a disk.
    pub heard: bool,
    /// A peer that has a session with a boot asks that one before it admits a later one.
    pub ask_the_old_boot: bool,
}

impl Rules {
    /// What is to be built.
    pub const ALL: Rules = Rules {
        durable_first: true,
        same_boot: true,
        finish_start: true,
        log_end: true,
        log_names_promise: true,
        extend: true,
        boot_in_membership: true,
        signatures: true,
        heard: true,
        ask_the_old_boot: true,
    };
}

impl Rules {
    /// The rule with this name.
    pub fn by_name(&mut self, name: &str) -> Option<&mut bool> {
        Some(match name {
            "durable_first" => &mut self.durable_first,
            "same_boot" => &mut self.same_boot,
            "finish_start" => &mut self.finish_start,
            "log_end" => &mut self.log_end,
            "log_names_promise" => &mut self.log_names_promise,
            "extend" => &mut self.extend,
            "boot_in_membership" => &mut self.boot_in_membership,
            "signatures" => &mut self.signatures,
            "heard" => &mut self.heard,
            "ask_the_old_boot" => &mut self.ask_the_old_boot,
            _ => return None,
        })
    }
}
