//! The other half of the promises: no healthy node is refused for good, no healthy group stops.
//!
//! Looked at in every state: what if nothing more goes wrong from here on? Then every node that
//! nobody has touched must start, must be admitted by every other one, and if they are a majority
//! they must elect a leader. This is decided by taking those steps.

use crate::node::Run;
use crate::state::{FOURTH, Setting, State};

/// What a healthy group cannot do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stuck {
    /// A node whose disk nobody has touched does not start.
    NotStarted(usize),
    /// Of two such nodes, one does not admit the other.
    Refused(usize, usize),
    /// They are a majority, and elect nobody.
    NoLeader,
    /// No disk was touched, and the trail cannot begin.
    NoTrail,
}

/// Whether a group comes back if nothing more goes wrong.
pub fn recovers(setting: &Setting, state: &State) -> Result<(), Stuck> {
    let mut limits = setting.limits;
    (limits.starts, limits.restarts, limits.terms) = (u8::MAX, u8::MAX, u8::MAX);
    let setting = &Setting { limits, ..*setting };
    let mut state = state.clone();
    state.cut = 0;
    let healthy: Vec<usize> = (0..state.nodes.len())
        .filter(|place| !(limits.copy && *place == FOURTH))
        .filter(|place| !(state.truth.touched && *place == limits.target))
        .collect();
    for place in &healthy {
        start(setting, &mut state, *place).ok_or(Stuck::NotStarted(*place))?;
    }
    for one in &healthy {
        for other in healthy.iter().filter(|other| *other > one) {
            let is_met = state.meet(setting, *one, *other);
            is_met.then_some(()).ok_or(Stuck::Refused(*one, *other))?;
        }
    }
    elects(setting, &mut state, &healthy)
}

/// A node comes up, whatever it was doing. A crashed start takes one write more.
fn start(setting: &Setting, state: &mut State, place: usize) -> Option<()> {
    if matches!(state.nodes[place].run, Run::Starting) {
        state.nodes[place].run = Run::Down;
    }
    for _ in 0..3 {
        if state.nodes[place].process().is_none() {
            state.start(setting, place)?;
        }
    }
    state.nodes[place].process().map(|_| ())
}

fn elects(setting: &Setting, state: &mut State, healthy: &[usize]) -> Result<(), Stuck> {
    let last = |state: &State, place: usize| state.nodes[place].disk.last();
    let most = healthy.iter().copied().max_by_key(|place| last(state, *place));
    let Some(most) = most else { return Ok(()) };
    if state.nodes[most].disk.members().is_none() {
        let founders = (0..3).all(|place| healthy.contains(&place));
        if !founders || !setting.limits.genesis {
            return Ok(());
        }
        // What it had heard already is heard again, and changes nothing.
        for other in [1, 2] {
            state.ask_empty(setting, other);
        }
        state.begin_trail(setting).ok_or(Stuck::NoTrail)?;
        return elects(setting, state, healthy);
    }
    let members = state.nodes[most].disk.members().expect("looked at above").clone();
    let places = healthy.iter().filter(|place| members.has(state.nodes[**place].id));
    let places = places.fold(0_u8, |places, place| places | 1 << place);
    let is_candidate = members.has(state.nodes[most].id);
    if !is_candidate || !members.is_majority(state.ids(places)) {
        return Ok(());
    }
    // All of them vote: none may refuse.
    state.elect(setting, most, places & !(1 << most)).ok_or(Stuck::NoLeader)?;
    Ok(())
}
