//! Between openraft's messages and those of `proto/indelible/v1/raft.proto`.

use indelible_core::{Entry as LogEntry, EntryId, EntryKind};
use indelible_proto::raft as pb;
use openraft::raft::{StreamAppendError, StreamAppendResult, VoteRequest, VoteResponse};
use tonic::Status;

use super::types::{LogId, TypeConfig, Vote, entry_id, log_id};
use crate::storage::hard_state::StoredVote;

pub(super) fn log_id_to_pb(id: &LogId) -> pb::LogId {
    pb::LogId { term: id.leader_id.term, leader: id.leader_id.node_id, index: id.index }
}

pub(super) fn log_id_from_pb(id: pb::LogId) -> LogId {
    log_id(EntryId { index: id.index, term: id.term, leader: id.leader })
}

pub(super) fn vote_to_pb(vote: &Vote) -> pb::Vote {
    pb::Vote {
        term: vote.leader_id.term,
        node_id: vote.leader_id.node_id,
        committed: vote.committed,
    }
}

/// A vote is in every message; without one the message is not ours.
pub(super) fn vote_from_pb(vote: Option<pb::Vote>) -> Result<Vote, Status> {
    let vote = vote.ok_or_else(|| Status::invalid_argument("message without a vote"))?;
    Ok(super::types::raft_vote(stored_vote(&vote)))
}

pub(super) fn stored_vote(vote: &pb::Vote) -> StoredVote {
    StoredVote { term: vote.term, node_id: vote.node_id, committed: vote.committed }
}

pub(super) fn entry_to_pb(entry: LogEntry) -> pb::Entry {
    pb::Entry {
        term: entry.id.term,
        leader: entry.id.leader,
        index: entry.id.index,
        kind: entry.kind.as_u8().into(),
        head: entry.head,
        body: entry.body,
    }
}

pub(super) fn entry_from_pb(entry: pb::Entry) -> Result<LogEntry, Status> {
    let kind = u8::try_from(entry.kind).ok().and_then(EntryKind::from_u8).ok_or_else(|| {
        Status::invalid_argument(format!("entry {}: kind {} is unknown", entry.index, entry.kind))
    })?;
    let id = EntryId { index: entry.index, term: entry.term, leader: entry.leader };
    Ok(LogEntry { id, kind, head: entry.head, body: entry.body })
}

pub(super) fn result_to_pb(result: &StreamAppendResult<TypeConfig>) -> pb::append_response::Result {
    use pb::append_response::Result as Pb;
    match result {
        Ok(matched) => Pb::Matched(pb::Matched { log_id: matched.as_ref().map(log_id_to_pb) }),
        Err(StreamAppendError::Conflict(id)) => Pb::Conflict(log_id_to_pb(id)),
        Err(StreamAppendError::HigherVote(vote)) => Pb::HigherVote(vote_to_pb(vote)),
    }
}

pub(super) fn result_from_pb(
    result: Option<pb::append_response::Result>,
) -> Result<StreamAppendResult<TypeConfig>, Status> {
    use pb::append_response::Result as Pb;
    match result {
        Some(Pb::Matched(matched)) => Ok(Ok(matched.log_id.map(log_id_from_pb))),
        Some(Pb::Conflict(id)) => Ok(Err(StreamAppendError::Conflict(log_id_from_pb(id)))),
        Some(Pb::HigherVote(vote)) => {
            Ok(Err(StreamAppendError::HigherVote(vote_from_pb(Some(vote))?)))
        }
        None => Err(Status::invalid_argument("append response without a result")),
    }
}

pub(super) fn vote_request_to_pb(request: &VoteRequest<TypeConfig>) -> pb::VoteRequest {
    pb::VoteRequest {
        vote: Some(vote_to_pb(&request.vote)),
        last_log_id: request.last_log_id.as_ref().map(log_id_to_pb),
        leadership_transfer: request.leadership_transfer,
    }
}

pub(super) fn vote_request_from_pb(
    request: pb::VoteRequest,
) -> Result<VoteRequest<TypeConfig>, Status> {
    Ok(VoteRequest {
        vote: vote_from_pb(request.vote)?,
        last_log_id: request.last_log_id.map(log_id_from_pb),
        leadership_transfer: request.leadership_transfer,
    })
}

pub(super) fn vote_response_to_pb(response: &VoteResponse<TypeConfig>) -> pb::VoteResponse {
    pb::VoteResponse {
        vote: Some(vote_to_pb(&response.vote)),
        granted: response.vote_granted,
        last_log_id: response.last_log_id.as_ref().map(log_id_to_pb),
    }
}

pub(super) fn vote_response_from_pb(
    response: pb::VoteResponse,
) -> Result<VoteResponse<TypeConfig>, Status> {
    Ok(VoteResponse {
        vote: vote_from_pb(response.vote)?,
        vote_granted: response.granted,
        last_log_id: response.last_log_id.map(log_id_from_pb),
    })
}

/// Which entry the log has at that place, in the words of an error.
pub(super) fn describe(id: &LogId) -> String {
    let EntryId { index, term, leader } = entry_id(id);
    format!("entry {index} of term {term} by node {leader}")
}
