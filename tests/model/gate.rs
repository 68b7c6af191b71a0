//! What the gate searches: each model holds with all rules, and breaks without any one of them.
//!
//! What breaks is found depth first, in a second. `indelible-model NAME without=RULE` searches
//! breadth first and prints one of the shortest stories; docs/adr/0011-lineage.md tells those.
//! Places are counted from 0: node 1 is at place 0.

use indelible_model::disk::Files;
use indelible_model::{LIVE, Limits, Rules, SAFE, Setting};
use stateright::{Checker, HasDiscoveries, Model};

/// Searches everything within the limits.
fn holds(name: &str, limits: Limits) {
    let setting = Setting { rules: Rules::ALL, limits, is_recovery_checked: true };
    let checker = setting.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    println!("{name}: {} states", checker.unique_state_count());
    checker.assert_properties();
}

/// Fails unless `promise` is broken when the rules are these.
fn breaks(promise: &'static str, rules: Rules, limits: Limits) {
    assert_ne!(rules, Rules::ALL, "a rule is taken out");
    let is_recovery_checked = promise == LIVE;
    let setting = Setting { rules, limits, is_recovery_checked };
    let checker = setting.checker().finish_when(HasDiscoveries::AnyFailures).spawn_dfs().join();
    let path = checker.discovery(promise);
    let path = path.unwrap_or_else(|| panic!("holds in {} states", checker.unique_state_count()));
    println!("{:?}", path.into_actions());
}

#[test]
fn restarts_and_elections() {
    holds("quiet", Limits { starts: 1, restarts: 0, ..Limits::QUIET });
}

#[test]
fn files_are_deleted() {
    holds("wiped", Limits { starts: 1, ..Limits::WIPED });
}

#[test]
fn files_are_deleted_before_and_after_the_first_entry() {
    holds("genesis", Limits::GENESIS);
}

#[test]
fn hard_state_is_put_back() {
    holds("restored", Limits { starts: 1, restored: Files::HARD_STATE, ..Limits::RESTORED });
}

#[test]
fn a_copy_is_started() {
    holds("copied", Limits::COPIED);
}

/// A node votes in a boot that it has not written, crashes, and draws another number.
#[test]
fn without_durable_first_a_healthy_node_is_refused() {
    let rules = Rules { durable_first: false, ..Rules::ALL };
    breaks(LIVE, rules, Limits { starts: 1, restarts: 1, ..Limits::QUIET });
}

/// A crash between `hard_state` and `lineage`.
#[test]
fn without_finish_start_a_healthy_node_does_not_start() {
    let rules = Rules { finish_start: false, ..Rules::ALL };
    breaks(LIVE, rules, Limits { starts: 1, restarts: 1, ..Limits::QUIET });
}

/// F2: `hard_state` of an earlier boot is put back. The node has voted for a new leader, forgets
/// it, and acknowledges to the old one.
#[test]
fn without_same_boot_a_vote_is_forgotten() {
    let rules = Rules { same_boot: false, ..Rules::ALL };
    breaks(SAFE, rules, Limits { restored: Files::HARD_STATE, ..Limits::RESTORED });
}

/// `segments` and `synced` of an earlier boot are put back, and the other files are new.
#[test]
fn without_log_end_a_log_is_forgotten() {
    let rules = Rules { log_end: false, ..Rules::ALL };
    breaks(SAFE, rules, Limits { restored: Files::LOG, ..Limits::RESTORED });
}

/// `hard_state` of this very boot is put back. The log shows that a later leader was followed.
#[test]
fn without_the_promise_of_the_log_a_vote_is_forgotten() {
    let rules = Rules { log_names_promise: false, ..Rules::ALL };
    let limits = Limits { starts: 1, events: 2, restored: Files::HARD_STATE, ..Limits::RESTORED };
    breaks(SAFE, rules, limits);
}

/// F1: a node is wiped but for its identity, and votes with an empty log.
#[test]
fn without_extend_a_wiped_node_loses_what_it_has_acknowledged() {
    let rules = Rules { extend: false, ..Rules::ALL };
    breaks(SAFE, rules, Limits { starts: 1, ..Limits::WIPED });
}

/// F1 for a peer that has never met the wiped node.
#[test]
fn without_boots_in_the_membership_a_stranger_cannot_tell() {
    let rules = Rules { boot_in_membership: false, ..Rules::ALL };
    breaks(SAFE, rules, Limits::GENESIS);
}

/// The whole disk as it was earlier in this boot. The peer that helps it holds a later signature.
#[test]
fn without_signatures_a_peer_ignores_what_it_holds() {
    let rules = Rules { signatures: false, ..Rules::ALL };
    breaks(SAFE, rules, Limits { restored: Files::LOG, ..Limits::NOTED });
}

/// The whole disk as it was earlier in this boot. The leader that it helps has had a vote of it
/// since.
#[test]
fn without_heard_a_leader_ignores_what_it_has_had() {
    let rules = Rules { heard: false, ..Rules::ALL };
    breaks(SAFE, rules, Limits { starts: 1, restored: Files::HARD_STATE, ..Limits::RESTORED });
}

/// F5: the copy of a running node takes its place.
#[test]
fn without_asking_the_old_boot_a_copy_takes_its_place() {
    let rules = Rules { ask_the_old_boot: false, ..Rules::ALL };
    breaks(SAFE, rules, Limits::COPIED);
}
