//! Going on with a time that was held back, because an operator says that it is right.

use indelible_proto::reason::{Reason, Rejected};
use tokio::sync::watch;

use super::Clock;
use super::rules::{Decision, Hold, Reading, Reference, decide};
use crate::node::leadership::Leadership;
use crate::node::operations::{Operations, Why};

/// What the record of it calls it.
pub const ACTION: &str = "accept-clock";

impl Clock {
    /// Takes the time that a majority's clocks say, however far ahead it is. Returns the leaf of
    /// the record, which is stamped at that time or later, and the time.
    pub async fn accept(
        &self,
        operations: &Operations,
        leadership: &watch::Receiver<Leadership>,
        why: &Why,
    ) -> Result<(u64, u64), Rejected> {
        let now = leadership.borrow().clone();
        if !matches!(now, Leadership::Ready(_)) {
            return Err(now.rejection());
        }
        let (agreed_ns, step) = self.held()?;
        let detail = format!(
            "the clocks of a majority are {} ms ahead of the time that was agreed on before",
            step / 1_000_000
        );
        // Crash before: nothing is accepted. After: the record's own stamp is the new time, so
        // every later leader counts from there.
        let index = operations.record_clock(ACTION, detail, why, agreed_ns).await?;
        let boot_ns = Reading::now().boot_ns;
        self.lock().reference = Some(Reference { agreed_ns, boot_ns });
        self.bump();
        Ok((index, agreed_ns))
    }

    /// The time that is held back, and by how much it is ahead.
    fn held(&self) -> Result<(u64, u64), Rejected> {
        let now = Reading::now();
        let state = self.lock();
        let known = self.known(&state, &now, 0);
        match (decide(&known, &self.settings), known.agreed) {
            (Decision::Refuse(Hold::Step(step)), Some(agreed)) => Ok((agreed, step)),
            _ => {
                let message = "the clocks of a majority are not ahead of the time that was agreed on before: there is \
                               nothing to accept; hint: `indelible status` says why appends are refused";
                Err(Rejected::new(Reason::Invalid, message))
            }
        }
    }
}
