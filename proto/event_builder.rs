//! Building an event by hand: actor, action and target are all that it needs.

use crate::v1::{Actor, Event, Outcome, Target};

impl Event {
    /// Who (`actor`: an id) did what (`action`: a verb, "LOGIN") to what (`target`: an id). None of
    /// them may be empty. Everything else is a public field, or one of the `with_` functions.
    ///
    /// ```
    /// use indelible_proto::v1::{Event, Outcome};
    ///
    /// let event = Event::new("alice", "LOGIN", "billing-db").with_outcome(Outcome::Success);
    /// # use prost::Message;
    /// # indelible_proto::validate_event(&event.encode_to_vec()).unwrap();
    /// ```
    pub fn new(
        actor: impl Into<String>,
        action: impl Into<String>,
        target: impl Into<String>,
    ) -> Event {
        Event {
            actor: Some(Actor { id: actor.into(), ..Actor::default() }),
            action: action.into(),
            targets: vec![Target { id: target.into(), ..Target::default() }],
            ..Event::default()
        }
    }

    /// Whether it succeeded.
    #[must_use]
    pub fn with_outcome(mut self, outcome: Outcome) -> Event {
        self.set_outcome(outcome);
        self
    }

    /// What kind of thing happened, dotted and lower-case: "user.login.failure".
    #[must_use]
    pub fn with_type(mut self, event_type: impl Into<String>) -> Event {
        self.r#type = event_type.into();
        self
    }

    /// When it happened: Unix time in nanoseconds, UTC.
    #[must_use]
    pub fn with_time(mut self, time_unix_ns: i64) -> Event {
        self.time_unix_ns = time_unix_ns;
        self
    }

    /// An attribute more; the last value set for a key counts.
    #[must_use]
    pub fn with_attribute(mut self, key: impl Into<String>, value: impl Into<String>) -> Event {
        self.attributes.insert(key.into(), value.into());
        self
    }
}
