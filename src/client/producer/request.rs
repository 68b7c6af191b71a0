//! What fits one request.

use bytes::Bytes;
use indelible_core::limits::{APPEND_BYTES_MAX, APPEND_EVENTS_MAX, EVENT_BYTES_MAX};
use indelible_proto::validate_event;

use crate::AppendError;

/// The request's bytes, if a node would accept it. `first` is the position of its first event in
/// what is appended together. Refusing here what a node would refuse keeps one
/// caller's bad event out of a request that others share: refused there, it would stop the
/// producer, as what comes behind it could not keep its seq.
pub(super) fn check_request(
    first_seq: Option<u64>,
    first: usize,
    events: &[Bytes],
) -> Result<usize, AppendError> {
    let invalid = |message: String| Err(AppendError::Invalid(message));
    if events.is_empty() {
        return invalid("there are no events to append".into());
    }
    if first_seq == Some(0) {
        return invalid("the first seq is 0\nhint: seqs start at 1".into());
    }
    if events.len() > APPEND_EVENTS_MAX {
        return invalid(format!("{} events, the limit is {APPEND_EVENTS_MAX}", events.len()));
    }
    let mut bytes = 0;
    for (position, event) in events.iter().enumerate() {
        check_event(event).map_err(|what| {
            let which = match (position + first, events.len()) {
                (0, 1) => "the event".into(),
                (position, _) => format!("event {position}"),
            };
            AppendError::Invalid(format!("{which} {what}"))
        })?;
        bytes += event.len();
    }
    if bytes > APPEND_BYTES_MAX {
        return invalid(format!("{bytes} bytes of events, the limit is {APPEND_BYTES_MAX}"));
    }
    Ok(bytes)
}

fn check_event(event: &[u8]) -> Result<(), String> {
    if event.len() > EVENT_BYTES_MAX {
        return Err(format!("has {} bytes, the limit is {EVENT_BYTES_MAX}", event.len()));
    }
    validate_event(event).map_err(|error| format!("is not valid: {error}"))
}

/// Splits events, in order, into what fits one request each.
pub(super) fn chunks(events: Vec<Bytes>) -> Vec<Vec<Bytes>> {
    let mut chunks: Vec<Vec<Bytes>> = vec![Vec::new()];
    let mut bytes = 0;
    for event in events {
        let chunk = chunks.last_mut().expect("there is one from the start");
        if chunk.len() == APPEND_EVENTS_MAX
            || (!chunk.is_empty() && bytes + event.len() > APPEND_BYTES_MAX)
        {
            bytes = 0;
            chunks.push(Vec::new());
        }
        bytes += event.len();
        chunks.last_mut().expect("there is one from the start").push(event);
    }
    chunks
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use prost::Message;

    use super::*;
    use indelible_proto::v1::Event;

    /// A valid event of this size.
    fn event(size: usize) -> Bytes {
        let mut event = Event::new("a", "b", "c");
        let rest = size - event.encode_to_vec().len();
        // Tag and length of the added field take two to four bytes.
        let header =
            [2..130, 3..16387, 4..2_097_156].iter().position(|sizes| sizes.contains(&rest));
        event.reason = "r".repeat(rest - header.map_or(0, |position| position + 2));
        let event = Bytes::from(event.encode_to_vec());
        assert_eq!(event.len(), size);
        event
    }

    #[test]
    fn chunks_fit_a_request_and_keep_the_order() {
        let (big, small) = (event(EVENT_BYTES_MAX), event(20));
        let sizes = |events| chunks(events).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(vec![small.clone(); APPEND_EVENTS_MAX]), [APPEND_EVENTS_MAX]);
        assert_eq!(sizes(vec![small.clone(); APPEND_EVENTS_MAX + 1]), [APPEND_EVENTS_MAX, 1]);
        assert_eq!(sizes(vec![big.clone(), big.clone(), big.clone(), small.clone()]), [2, 2]);
        assert!(chunks(vec![big, small]).iter().all(|chunk| check_request(None, 0, chunk).is_ok()));
    }

    #[test]
    fn what_a_node_would_refuse_is_refused_here() {
        let (big, small) = (event(EVENT_BYTES_MAX), event(20));
        assert!(check_request(None, 0, &[]).is_err());
        assert!(check_request(Some(0), 0, from_ref(&small)).is_err());
        assert!(check_request(None, 0, &vec![small.clone(); APPEND_EVENTS_MAX + 1]).is_err());
        assert!(check_request(None, 0, from_ref(&big)).is_ok());
        assert!(check_request(None, 0, &[big.clone(), big.clone()]).is_ok());
        assert!(check_request(None, 0, &[big.clone(), big, small]).is_err());
        let nobody = Event::new("", "b", "c").encode_to_vec();
        assert!(check_request(None, 0, &[nobody.into()]).is_err());
        // Over the size limit is said first, before the content is looked at.
        let error = check_request(None, 0, &[Bytes::from(vec![0; EVENT_BYTES_MAX + 1])]);
        assert!(error.expect_err("too large").to_string().contains("262144"));
    }
}
