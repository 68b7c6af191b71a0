//! What became of events that took more than one request.

use std::fmt;
use std::ops::Range;

use super::receipt::Receipts;
use crate::AppendError;

/// Events of one request, and what became of them: all or none of them are recorded.
#[derive(Debug, Clone)]
pub struct Part {
    /// Which, counted from 0 in what was appended together.
    pub events: Range<usize>,
    /// Their receipts, or why there are none.
    pub outcome: Result<Receipts, AppendError>,
}

/// One line for each part that has no receipts, and how many events have.
pub(crate) struct Lines<'a>(pub(crate) &'a [Part]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let recorded = self.0.iter().filter(|part| part.outcome.is_ok());
        let recorded: usize = recorded.map(|part| part.events.len()).sum();
        let all = self.0.last().map_or(0, |part| part.events.end);
        write!(f, "{recorded} of {all} events are recorded")?;
        for part in self.0 {
            if let Err(error) = &part.outcome {
                let (first, last) = (part.events.start, part.events.end - 1);
                let line = error.to_string();
                let line = line.lines().next().unwrap_or_default();
                write!(f, "\nevents {first} to {last}: {line}")?;
            }
        }
        Ok(())
    }
}

/// The receipts of all, or the one error that says what became of each.
pub(super) fn whole(mut parts: Vec<Part>) -> Result<Receipts, AppendError> {
    if let [only] = &mut parts[..] {
        return only.outcome.clone();
    }
    let is_not_sent = |part: &Part| matches!(part.outcome, Err(AppendError::NotSent { .. }));
    if parts.iter().all(|part| part.outcome.is_ok()) {
        return Ok(Receipts::concat(
            parts.into_iter().filter_map(|part| part.outcome.ok()).collect(),
        ));
    }
    if parts.iter().all(is_not_sent) {
        return parts.swap_remove(0).outcome;
    }
    Err(AppendError::Partial(parts))
}
