//! Every limit in one place, with what must hold between them.

use std::time::Duration;

/// One event, encoded, in bytes.
pub const EVENT_BYTES_MAX: usize = 256 * 1024;
/// Events in one batch entry.
pub const BATCH_EVENTS_MAX: usize = 4096;
/// Head and body of one batch entry together, in bytes.
pub const ENTRY_BYTES_MAX: usize = 1024 * 1024;
/// Events of one append request.
pub const APPEND_EVENTS_MAX: usize = 4096;
/// Encoded events of one append request together, in bytes.
pub const APPEND_BYTES_MAX: usize = 512 * 1024;
/// A gRPC message on the client port, in bytes.
pub const CLIENT_MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// Entries of one replication request together, in bytes; one entry is always sent.
pub const REPLICATION_BYTES_MAX: usize = 2 * 1024 * 1024;
/// A gRPC message on the raft port, in bytes.
pub const RAFT_MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Payload of a membership entry, in bytes.
pub const MEMBERSHIP_BYTES_MAX: usize = 64 * 1024;
/// Members of a group, voters and learners.
pub const MEMBERS_MAX: usize = 16;
/// Name, principal or address in a request, in bytes.
pub const NAME_BYTES_MAX: usize = 256;
/// Producers that a trail knows at most; past it `OpenProducer` is refused.
pub const PRODUCERS_MAX: usize = 1_000_000;
/// Of these, how many are kept for the nodes, which record with producers of their own what
/// operators do.
pub const PRODUCERS_OF_NODES: usize = 1_024;
/// Append bytes that wait in a leader before it answers BUSY.
pub const ADMISSION_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Batch entries that a leader has proposed and not yet applied.
pub const PROPOSALS_IN_FLIGHT_MAX: usize = 8;
/// Entries kept in memory for replication, apply and fresh reads, in bytes.
pub const LOG_CACHE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Smallest setting of that: what may be on the way at once has to fit.
pub const LOG_CACHE_BYTES_MIN: usize = 16 * 1024 * 1024;
/// Operations that wait for the IO thread.
pub const IO_QUEUE_MAX: usize = 1024;
/// Smallest segment size that `init` accepts, in bytes. Small ones are for tests.
pub const SEGMENT_BYTES_MIN: u64 = 4 * 1024;
/// Segment size unless `init` is told otherwise, in bytes.
pub const SEGMENT_BYTES_DEFAULT: u64 = 64 * 1024 * 1024;
/// Largest segment size, in bytes: offsets stay far below 2^32.
pub const SEGMENT_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// The file of notes, in bytes, before it is written anew without the older ones.
pub const NOTES_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Notes that are kept then, besides those that count.
pub const NOTES_KEPT: usize = 1024;
/// Records of one message of a read stream, in bytes; one record is always sent.
pub const READ_BYTES_MAX: usize = 256 * 1024;
/// Records of one message of a read stream.
pub const READ_RECORDS_MAX: usize = 1024;
/// Read streams of one node that are open at once.
pub const READ_STREAMS_MAX: usize = 256;
/// Entries of one message of a mending stream, in bytes; one entry is always sent.
pub const MENDING_BYTES_MAX: usize = 1024 * 1024;
/// Mending streams that one node serves at once: a peer that is refused comes again.
pub const MENDING_STREAMS_MAX: usize = 8;
/// ... to one node. A node asks one peer for one stream at a time.
pub const MENDING_STREAMS_OF_A_NODE_MAX: usize = 2;
/// Segments in one answer about segments.
pub const MENDING_SEGMENTS_MAX: usize = 4096;
/// Damaged places that wait in a node to be mended; more are found again by the next scrub.
pub const DAMAGES_MAX: usize = 256;
/// Files in `quarantine/` past which damaged bytes are only noted, by their digest.
pub const QUARANTINE_FILES_MAX: usize = 1024;
/// The same for the bytes of those files together.
pub const QUARANTINE_BYTES_MAX: u64 = 8 * 1024 * 1024 * 1024;
/// Findings that wait in a node until they are in the trail; the newest are dropped past it.
pub const FINDINGS_MAX: usize = 256;
/// One finding, encoded, in bytes.
pub const FINDING_BYTES_MAX: usize = 8 * 1024;
/// Records and proofs of one key history, in bytes: some 1,000 changes of the membership.
pub const KEY_HISTORY_BYTES_MAX: usize = 960 * 1024;
/// Tiles and entry bundles that one node reads at once for the public log.
pub const TILE_READS_MAX: usize = 64;
/// A signed note: text and signatures, in bytes.
pub const NOTE_BYTES_MAX: usize = 64 * 1024;
/// Signatures of one note. C2SP wants room for 16.
pub const NOTE_SIGNATURES_MAX: usize = 64;
/// A `.tlog-proof` file, in bytes: note, 64 hashes, and leaf, salt and event in base64.
pub const PROOF_FILE_BYTES_MAX: usize = 512 * 1024;
/// A block of records in a bundle, in bytes; what a verifier holds at a time.
pub const BUNDLE_BLOCK_BYTES_MAX: usize = 1024 * 1024;
/// Older checkpoints in one bundle.
pub const BUNDLE_OLDER_MAX: usize = 256;
/// Records of the key history in one bundle.
pub const BUNDLE_KEYS_MAX: usize = 16 * 1024;
/// Events of the key history in one bundle together, in bytes.
pub const BUNDLE_KEYS_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Checkpoints to sign, or notes to keep, that wait for the thread that does it.
pub const PUBLICATION_QUEUE_MAX: usize = 256;
/// Witnesses of one node's configuration: all of them fit a note beside every member.
pub const WITNESSES_MAX: usize = 16;
/// How far ahead of a node's own clock, in seconds, the time of an accepted rollback may be.
pub const ACCEPTED_AHEAD_MAX_S: u64 = 60;
/// Pieces of evidence of one sort that a node keeps: the first ones. A peer can make some at will.
pub const EVIDENCE_OF_A_SORT_MAX: usize = 64;
/// A policy file, in bytes.
pub const POLICY_BYTES_MAX: usize = 64 * 1024;
/// Logs, witnesses and groups of one policy together. C2SP wants room for 96.
pub const POLICY_NAMES_MAX: usize = 256;
/// Leaves of one range proof that is asked for by itself. Their hashes come with it.
pub const PROVE_LEAVES_MAX: u64 = 4096;
/// How long a request may wait for a checkpoint, in milliseconds.
pub const PROOF_WAIT_MS_MAX: u32 = 60_000;
/// Alarms that a client keeps for whoever listens late.
pub const CLIENT_ALARMS_MAX: usize = 256;
/// Trees that a client remembers to be of one history with the newest checkpoint that it has seen.
pub const CLIENT_LINKED_MAX: usize = 64;
/// Receipts that a client keeps until a checkpoint covers them.
pub const CLIENT_RECEIPTS_MAX: usize = 262_144;
/// Appends and checkpoints that wait for a client's settling task.
pub const CLIENT_SETTLE_QUEUE_MAX: usize = 1024;
/// Producers whose last acknowledged seq a client remembers.
pub const CLIENT_PRODUCERS_MAX: usize = 4096;
/// Connections of a client port.
pub const CLIENT_CONNECTIONS_MAX: usize = 4096;
/// Those of one address that have shown no certificate.
pub const CLIENT_UNKNOWN_CONNECTIONS_MAX: usize = 256;
/// All of those, of every address; one more closes the oldest.
pub const CLIENT_UNKNOWN_CONNECTIONS_ALL_MAX: usize = 1024;
/// How long a connection of theirs may stay.
pub const CLIENT_UNKNOWN_AGE_MAX: Duration = Duration::from_secs(60);
/// Connections of a raft port on which no node has proved to be; one more closes the oldest.
pub const RAFT_UNPROVEN_CONNECTIONS_MAX: usize = 64;
/// Connections of a raft port on which one node has proved to be; one more closes the oldest.
pub const RAFT_CONNECTIONS_OF_A_NODE_MAX: usize = 8;
/// Connections of an HTTP port; one more closes the oldest.
pub const HTTP_CONNECTIONS_MAX: usize = 1024;
/// How long the other end may take to begin, and to finish, its TLS handshake. Over HTTP also to
/// send the headers of a request, from the end of the request before: there is no other limit of an
/// idle HTTP connection.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// How long a connection may stay without a first request.
pub const FIRST_REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// How long a client's connection may stay without a request.
pub const CLIENT_IDLE_MAX: Duration = Duration::from_secs(600);
/// How long a client's connection may stay, more or less.
pub const CLIENT_AGE_MAX: Duration = Duration::from_secs(3600);
/// How long an HTTP request may take, its answer included.
pub const HTTP_REQUEST_DEADLINE: Duration = Duration::from_secs(60);
/// How long requests that are under way may take after their connection was told to end.
pub const GOODBYE_GRACE: Duration = Duration::from_secs(90);
/// Requests of one connection that are served at once, of a caller without a certificate.
pub const STREAMS_UNKNOWN_MAX: u32 = 64;
/// The same on a raft port, where there are few: replication, and one short question at a time.
pub const RAFT_STREAMS_MAX: u32 = 24;
/// The same for a client with a certificate.
pub const STREAMS_KNOWN_MAX: u32 = 256;
/// Streams of a connection that the other end may reset before it is closed.
pub const RESET_STREAMS_MAX: usize = 64;
/// Headers of one request together, in bytes.
pub const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// A request on the client port, in bytes, with what gRPC adds to the message.
pub const REQUEST_BYTES_MAX: usize = 2 * CLIENT_MESSAGE_BYTES_MAX;
/// A request on the raft port before a node has proved to be there, in bytes.
pub const HANDSHAKE_BYTES_MAX: usize = 4 * 1024;
/// How long the body of a request may take.
pub const BODY_DEADLINE: Duration = Duration::from_secs(10);
/// What an unfinished request is taken to hold besides its bytes.
pub const BODY_OVERHEAD_BYTES: u32 = 16 * 1024;
/// Unfinished requests of a client port together, in bytes. What refused ones need for a moment
/// comes on top: about as much again with 100 connections (docs/performance.md).
pub const CLIENT_BODIES_BYTES_MAX: usize = 160 * 1024 * 1024;
/// Unfinished requests of callers without a certificate together, in bytes: they ask for health.
pub const CLIENT_UNKNOWN_BODIES_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Unfinished requests of a raft port together, before a node has proved to be there, in bytes.
pub const RAFT_BODIES_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Unfinished requests of one proven node, in bytes.
pub const RAFT_BODIES_OF_A_NODE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Unfinished requests of an HTTP port together, in bytes.
pub const HTTP_BODIES_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Requests of a client port that are streams of messages, at once. They have no deadline.
pub const CLIENT_STREAMED_REQUESTS_MAX: usize = 16;
/// The same for one connection of a raft port: replication needs one.
pub const RAFT_STREAMED_REQUESTS_MAX: usize = 4;
/// How far above the highest term that a node knows of the term of a message may be. Elections
/// raise it by one; a jump would use terms up for ever.
pub const TERM_JUMP_MAX: u64 = 1 << 20;
/// Findings of one peer that a leader records in a minute.
pub const FINDINGS_OF_A_NODE_A_MINUTE_MAX: usize = 10;

const _: () = {
    // A request may wait for a proof while its connection comes of age.
    assert!(GOODBYE_GRACE.as_millis() > PROOF_WAIT_MS_MAX as u128);
    assert!(CLIENT_UNKNOWN_CONNECTIONS_ALL_MAX < CLIENT_CONNECTIONS_MAX);
    // All connections to a raft port that prove nothing, with and without a certificate, can begin
    // all their requests at once, and there is room for the handshake of one that means it.
    assert!(
        2 * RAFT_UNPROVEN_CONNECTIONS_MAX
            * RAFT_STREAMS_MAX as usize
            * (BODY_OVERHEAD_BYTES as usize + HANDSHAKE_BYTES_MAX)
            < RAFT_BODIES_BYTES_MAX
    );
    assert!(
        NOTE_BYTES_MAX + (EVENT_BYTES_MAX + 80) / 3 * 4 + 64 * 45 + 128 <= PROOF_FILE_BYTES_MAX
    );
    // A record of the largest event fits a block.
    assert!(EVENT_BYTES_MAX + 128 <= BUNDLE_BLOCK_BYTES_MAX);
    // Every member and as many witnesses can sign a note.
    assert!(NOTE_SIGNATURES_MAX > 2 * MEMBERS_MAX);
    assert!(NOTE_SIGNATURES_MAX > 1 + MEMBERS_MAX + WITNESSES_MAX);
    // A lone event of the largest size fits an entry, a request and a message.
    assert!(EVENT_BYTES_MAX + 1024 <= ENTRY_BYTES_MAX);
    assert!(EVENT_BYTES_MAX <= APPEND_BYTES_MAX);
    // A request fits an entry with leaf (64) and salt (16) for each of its events, so that it is
    // never split.
    assert!(APPEND_BYTES_MAX + APPEND_EVENTS_MAX * 80 + 16 <= ENTRY_BYTES_MAX);
    assert!(APPEND_EVENTS_MAX <= BATCH_EVENTS_MAX);
    // ... and its message, with a tag and a length for each event.
    assert!(APPEND_BYTES_MAX + APPEND_EVENTS_MAX * 8 + 4096 <= CLIENT_MESSAGE_BYTES_MAX);
    // One entry past the cap still fits the raft port.
    assert!(REPLICATION_BYTES_MAX + ENTRY_BYTES_MAX + 64 * 1024 <= RAFT_MESSAGE_BYTES_MAX);
    assert!(MENDING_BYTES_MAX + ENTRY_BYTES_MAX + 64 * 1024 <= RAFT_MESSAGE_BYTES_MAX);
    // A segment in an answer has less than 128 bytes.
    assert!(MENDING_SEGMENTS_MAX * 128 <= RAFT_MESSAGE_BYTES_MAX);
    assert!(FINDING_BYTES_MAX <= EVENT_BYTES_MAX);
    // The first damaged segments are kept, however large they are.
    assert!(4 * SEGMENT_BYTES_MAX <= QUARANTINE_BYTES_MAX);
    // Records of a read message, 100 bytes each besides its event, a note and a range proof.
    assert!(
        READ_BYTES_MAX + EVENT_BYTES_MAX + READ_RECORDS_MAX * 100 + NOTE_BYTES_MAX + 8 * 1024
            <= CLIENT_MESSAGE_BYTES_MAX
    );
    // The hashes of a range fit a message.
    assert!(PROVE_LEAVES_MAX as usize * 32 + 8192 <= CLIENT_MESSAGE_BYTES_MAX);
    assert!(KEY_HISTORY_BYTES_MAX + 1024 <= CLIENT_MESSAGE_BYTES_MAX);
    assert!(PROPOSALS_IN_FLIGHT_MAX * ENTRY_BYTES_MAX <= LOG_CACHE_BYTES_MIN);
};
