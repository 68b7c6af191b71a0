//! Limits and shapes of requests. What is refused here was never stored, and the message says which
//! limit it hit.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use indelible_core::limits::{
    APPEND_BYTES_MAX, APPEND_EVENTS_MAX, EVENT_BYTES_MAX, NAME_BYTES_MAX, PROOF_WAIT_MS_MAX,
    PROVE_LEAVES_MAX,
};
use indelible_core::{Kind, ProducerId};
use indelible_proto::reason::{Reason, Rejected, key};
use indelible_proto::{v1, validate_event};

use super::caller::Caller;
use crate::node::batcher::{Append, Open};
use crate::node::operations::Why;
use crate::node::reads::Level;

/// An append request within all limits, its events free of double readings.
pub fn append(request: v1::AppendRequest) -> Result<Append, Rejected> {
    let producer = producer_id(&request.producer_id)?;
    let kind = match request.kind() {
        v1::Kind::Unspecified | v1::Kind::Event => Kind::Event,
        v1::Kind::Heartbeat => Kind::Heartbeat,
        v1::Kind::Gap => Kind::Gap,
        other => {
            return Err(invalid(format!(
                "kind {}: clients append kinds 1 (event), 6 (heartbeat) and 7 (gap)",
                other.as_str_name()
            )));
        }
    };
    let retention_class = u16::try_from(request.retention_class).map_err(|_| {
        invalid(format!("retention_class {}, the limit is {}", request.retention_class, u16::MAX))
    })?;
    let events = request.events;
    if events.is_empty() {
        return Err(invalid("a request without events"));
    }
    if events.len() > APPEND_EVENTS_MAX {
        return Err(too_large("events in a request", events.len(), APPEND_EVENTS_MAX));
    }
    if request.first_seq == 0 || request.first_seq.checked_add(events.len() as u64).is_none() {
        return Err(invalid(format!("first_seq {}: seqs begin at 1", request.first_seq)));
    }
    check_events(&events, request.first_seq)?;
    Ok(Append {
        producer,
        epoch: request.epoch,
        first_seq: request.first_seq,
        kind,
        retention_class,
        events,
        stamp_min: 0,
    })
}

fn check_events(events: &[Bytes], first_seq: u64) -> Result<(), Rejected> {
    let total: usize = events.iter().map(Bytes::len).sum();
    for (position, event) in events.iter().enumerate() {
        let seq = first_seq + position as u64;
        if event.len() > EVENT_BYTES_MAX {
            return Err(too_large(&format!("bytes in event {seq}"), event.len(), EVENT_BYTES_MAX));
        }
        validate_event(event).map_err(|error| invalid(format!("event {seq}: {error}")))?;
    }
    if total > APPEND_BYTES_MAX {
        return Err(too_large("bytes of events in a request", total, APPEND_BYTES_MAX));
    }
    Ok(())
}

/// A request to open a producer, within all limits.
pub fn open(request: v1::OpenProducerRequest, caller: Caller) -> Result<Open, Rejected> {
    if request.name.len() > NAME_BYTES_MAX {
        return Err(too_large("bytes in name", request.name.len(), NAME_BYTES_MAX));
    }
    if !matches!(request.public_key.len(), 0 | 32) {
        return Err(invalid(format!(
            "public_key of {} bytes, not 0 or 32",
            request.public_key.len()
        )));
    }
    Ok(Open {
        producer: producer_id(&request.producer_id)?,
        name: request.name,
        public_key: request.public_key,
        principal: caller.principal,
        authentication: caller.authentication,
        of_node: false,
    })
}

/// What a read asks for; unset means linearizable.
pub fn level(level: Option<v1::ReadLevel>) -> Result<Level, Rejected> {
    use v1::read_level::Level as Pb;
    match level.and_then(|level| level.level) {
        None | Some(Pb::Linearizable(true)) => Ok(Level::Linearizable),
        Some(Pb::AtLeast(size)) => Ok(Level::AtLeast(size)),
        Some(Pb::Any(true)) => Ok(Level::Any),
        Some(Pb::Linearizable(false) | Pb::Any(false)) => {
            Err(invalid("a read level that is set to false; hint: leave it out"))
        }
    }
}

/// How long a caller wants to wait for a checkpoint.
pub fn checkpoint_wait(wait_ms: u32) -> Result<Duration, Rejected> {
    match wait_ms {
        ms if ms > PROOF_WAIT_MS_MAX => Err(invalid(format!(
            "wait_ms {ms}, the limit is {PROOF_WAIT_MS_MAX}; hint: ask again instead"
        ))),
        ms => Ok(Duration::from_millis(ms.into())),
    }
}

/// The leaves that a proof is asked for; one, unless the request names a range.
pub fn prove_range(request: &v1::ProveRequest) -> Result<Range<u64>, Rejected> {
    let end = match request.to {
        0 => request.index.saturating_add(1),
        to => to,
    };
    match end.checked_sub(request.index) {
        None | Some(0) => Err(invalid(format!("no leaf is in {}..{end}", request.index))),
        Some(leaves) if leaves > PROVE_LEAVES_MAX => {
            Err(too_large("leaves in a range", leaves as usize, PROVE_LEAVES_MAX as usize))
        }
        Some(_) => Ok(request.index..end),
    }
}

/// A reason that an operator must give: kept in the trail, so it has a limit.
pub fn why(reason: String, caller: Caller) -> Result<Why, Rejected> {
    match reason.trim().len() {
        0 => Err(invalid("no reason; hint: say why, it is recorded in the trail")),
        len if len > NAME_BYTES_MAX => Err(too_large("bytes in reason", len, NAME_BYTES_MAX)),
        _ => Ok(Why { principal: caller.principal, reason }),
    }
}

fn producer_id(bytes: &[u8]) -> Result<ProducerId, Rejected> {
    match ProducerId::from_slice(bytes) {
        Some(id) if id != ProducerId::default() => Ok(id),
        Some(_) => {
            Err(invalid("producer_id is all zero; hint: 16 random bytes, kept for its life"))
        }
        None => Err(invalid(format!("producer_id of {} bytes, not 16", bytes.len()))),
    }
}

/// A request that makes no sense.
pub fn invalid(message: impl Into<String>) -> Rejected {
    Rejected::new(Reason::Invalid, message)
}

fn too_large(what: &str, value: usize, limit: usize) -> Rejected {
    Rejected::new(Reason::TooLarge, format!("{value} {what}, the limit is {limit}"))
        .with(key::LIMIT, limit as u64)
}
