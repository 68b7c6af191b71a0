//! The model as stateright searches it.

use stateright::{Model, Property};

use crate::action::Action;
use crate::health::recovers;
use crate::state::{Setting, State};

/// Name of the first promise.
pub const SAFE: &str = "no acknowledged entry is lost, and there is no second history";
/// Name of the second one.
pub const LIVE: &str = "no healthy node is refused for good, and no healthy group stops";

impl Model for Setting {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::first(self)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        Setting::actions(self, state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        self.step(state, action)
    }

    fn properties(&self) -> Vec<Property<Setting>> {
        vec![
            Property::always(SAFE, |_, state: &State| state.truth.broken.is_none()),
            Property::always(LIVE, |setting: &Setting, state| {
                !setting.is_recovery_checked || recovers(setting, state).is_ok()
            }),
            // A search in which nothing happens would find nothing wrong.
            Property::sometimes("an entry is acknowledged", |_, state: &State| {
                state.truth.committed.len() > 1
            }),
            Property::sometimes("two nodes are elected", |_, state: &State| {
                state.truth.elected.len() > 1
            }),
        ]
    }

    fn within_boundary(&self, state: &State) -> bool {
        !state.truth.beyond
    }
}
