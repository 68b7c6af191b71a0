//! Receipts, and the check that makes them worth something.
//!
//! A node could answer anything. So nothing is reported as recorded before the commitment has been
//! recomputed from the bytes that *this* process sent, and kind, size and seq of the leaf are the
//! ones that were asked for.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use indelible_core::leaf::{LEAF_SIZE, commit, leaf_hash};
use indelible_core::merkle::ProofError;
use indelible_core::proof_file::{Extra, ProofFile};
use indelible_core::{Hash, Kind, Leaf, LeafIndex, Salt};
use indelible_proto::v1::{self, AppendResponse, Event};
use prost::Message;

use crate::trust::proof::Unbelieved;
use crate::{Client, Proof, Verification};

/// How much is true of an event when its append returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum AckLevel {
    /// It is on the disks of a majority.
    #[default]
    Durable,
    /// ... and in the tree of a checkpoint that a majority has signed; the proof comes with it.
    Proven,
    /// ... and a witness outside the group has signed that checkpoint too.
    Witnessed,
}

impl AckLevel {
    pub(crate) fn to_wire(self) -> v1::AckLevel {
        match self {
            AckLevel::Durable => v1::AckLevel::Durable,
            AckLevel::Proven => v1::AckLevel::Proven,
            AckLevel::Witnessed => v1::AckLevel::Witnessed,
        }
    }

    fn from_wire(level: v1::AckLevel) -> AckLevel {
        match level {
            v1::AckLevel::Proven => AckLevel::Proven,
            v1::AckLevel::Witnessed => AckLevel::Witnessed,
            v1::AckLevel::Unspecified | v1::AckLevel::Durable => AckLevel::Durable,
        }
    }
}

/// That one event is in the trail, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Position in the trail.
    pub index: LeafIndex,
    /// The producer's number for the event.
    pub seq: u64,
    /// What the tree commits to.
    pub leaf: Leaf,
    /// With the event's bytes, opens the leaf's commitment.
    pub salt: Salt,
    /// Recorded by an earlier attempt or an earlier run of the producer; this is that receipt.
    pub duplicate: bool,
    /// A tree size that covers the event: reads at this level see it.
    pub tree_size: u64,
    /// The level that was reached. Below the one that was asked for: the event is recorded, and its
    /// proof is pending.
    pub ack: AckLevel,
    /// Whether the policy accepts the checkpoint that it was proven against.
    pub verification: Verification,
    proof: Option<Arc<Proof>>,
}

impl Receipt {
    /// The checkpoint whose tree the event is in, and the proof. `None` while that is pending.
    pub fn proof(&self) -> Option<&Proof> {
        self.proof.as_deref()
    }

    /// A file that proves the event, this one, to anybody who has the policy, with no node at hand.
    /// `None` while the proof is pending.
    ///
    /// NB: the event must be the one that was appended, encoded by the same version of the schema:
    /// whoever verifies the file finds out otherwise. [`Receipt::proof_file_of`] takes its bytes.
    pub fn proof_file(&self, event: &Event) -> Option<Result<ProofFile, ProofError>> {
        self.proof_file_of(&event.encode_to_vec())
    }

    /// [`Receipt::proof_file`] for an event as it was encoded.
    pub fn proof_file_of(&self, event: &[u8]) -> Option<Result<ProofFile, ProofError>> {
        let content = Some((self.salt, event.to_vec()));
        let extra = Extra { leaf: self.leaf.encode(), content };
        Some(self.proof.as_ref()?.file(self.index, &extra))
    }
}

/// Consecutive seqs at consecutive leaf indexes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Seq of the first event.
    pub first_seq: u64,
    /// Leaf index of the first event.
    pub first_index: LeafIndex,
    /// Events in the run, at least one.
    pub count: u64,
    /// Recorded before this append.
    pub duplicate: bool,
}

/// Receipts of many events, 80 bytes each, in the order in which they were appended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Receipts {
    runs: Vec<Run>,
    /// 64 bytes an event.
    leaves: Bytes,
    /// 16 bytes an event.
    salts: Bytes,
    tree_size: u64,
    ack: AckLevel,
    verification: Verification,
    /// One for each run that the response had, in order; none while they are pending.
    proofs: Vec<Arc<Proof>>,
}

impl Receipts {
    /// Events.
    pub fn count(&self) -> usize {
        self.leaves.len() / LEAF_SIZE
    }

    /// Events that an earlier append had recorded already.
    pub fn duplicates(&self) -> u64 {
        self.runs.iter().filter(|run| run.duplicate).map(|run| run.count).sum()
    }

    /// Where the events are, in the order in which they were appended.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// A tree size that covers all of them.
    pub fn tree_size(&self) -> u64 {
        self.tree_size
    }

    /// The level that all of them have reached.
    pub fn ack(&self) -> AckLevel {
        self.ack
    }

    /// How far all of them were verified.
    pub fn verification(&self) -> Verification {
        self.verification
    }

    /// The leaves, 64 bytes each, in order.
    pub(crate) fn leaves(&self) -> &[u8] {
        &self.leaves
    }

    /// What they were proven against.
    pub(crate) fn proofs(&self) -> &[Arc<Proof>] {
        &self.proofs
    }

    /// The receipt of the event at this position of the append.
    pub fn get(&self, position: usize) -> Option<Receipt> {
        if position >= self.count() {
            return None;
        }
        let mut before = position as u64;
        let run = self.runs.iter().find(|run| {
            let inside = before < run.count;
            if !inside {
                before -= run.count;
            }
            inside
        })?;
        let leaf = &self.leaves[position * LEAF_SIZE..][..LEAF_SIZE];
        let index = run.first_index + before;
        Some(Receipt {
            index,
            seq: run.first_seq + before,
            leaf: Leaf::decode(leaf).ok()?,
            salt: Salt::from_slice(&self.salts[position * Salt::SIZE..][..Salt::SIZE])?,
            duplicate: run.duplicate,
            tree_size: self.tree_size,
            ack: self.ack,
            verification: self.verification,
            proof: self.proofs.iter().find(|proof| proof.range().contains(&index)).cloned(),
        })
    }

    /// All receipts, in order.
    pub fn iter(&self) -> impl Iterator<Item = Receipt> {
        (0..self.count()).filter_map(|position| self.get(position))
    }

    /// The receipts of a part of the append; shares the bytes.
    pub(super) fn slice(&self, range: Range<usize>) -> Receipts {
        let mut runs = Vec::with_capacity(1);
        let (mut start, end) = (0u64, range.end as u64);
        for run in &self.runs {
            let from = (range.start as u64).max(start);
            let to = end.min(start + run.count);
            if from < to {
                let skipped = from - start;
                runs.push(Run {
                    first_seq: run.first_seq + skipped,
                    first_index: run.first_index + skipped,
                    count: to - from,
                    duplicate: run.duplicate,
                });
            }
            start += run.count;
        }
        Receipts {
            runs,
            leaves: self.leaves.slice(range.start * LEAF_SIZE..range.end * LEAF_SIZE),
            salts: self.salts.slice(range.start * Salt::SIZE..range.end * Salt::SIZE),
            tree_size: self.tree_size,
            ack: self.ack,
            verification: self.verification,
            proofs: self.proofs.clone(),
        }
    }

    /// Puts the receipts of several appends one behind the other.
    pub(super) fn concat(mut parts: Vec<Receipts>) -> Receipts {
        if parts.len() <= 1 {
            return parts.pop().unwrap_or_default();
        }
        let join = |field: fn(&Receipts) -> &Bytes| -> Bytes {
            parts.iter().flat_map(|part| field(part).iter().copied()).collect::<Vec<u8>>().into()
        };
        Receipts {
            leaves: join(|part| &part.leaves),
            salts: join(|part| &part.salts),
            tree_size: parts.iter().map(|part| part.tree_size).max().unwrap_or(0),
            ack: parts.iter().map(|part| part.ack).min().unwrap_or_default(),
            verification: parts
                .iter()
                .map(|part| part.verification)
                .reduce(Verification::weaker)
                .unwrap_or_default(),
            proofs: parts.iter().flat_map(|part| part.proofs.iter().cloned()).collect(),
            runs: parts.into_iter().flat_map(|part| part.runs).collect(),
        }
    }
}

/// What was sent, as far as a receipt must match it.
pub(super) struct Sent<'a> {
    pub(super) first_seq: u64,
    pub(super) events: &'a [Bytes],
    pub(super) kind: Kind,
    /// Leaf index of the record that opened the producer; older epochs' duplicates have another.
    pub(super) opened: LeafIndex,
}

/// The receipts in a response, with the proofs that it has for them; or the first seq that does not
/// fit, and why.
pub(super) fn verify_proven(
    client: &Client,
    sent: &Sent,
    mut response: AppendResponse,
) -> Result<Receipts, (u64, String)> {
    let ack = AckLevel::from_wire(response.ack());
    let (note, proofs) =
        (std::mem::take(&mut response.checkpoint), std::mem::take(&mut response.proofs));
    let mut receipts = verify(sent, response)?;
    if client.policy().is_some() {
        receipts.verification = Verification::Pending;
    }
    if ack > AckLevel::Durable {
        receipts.prove(client, &note, proofs).map_err(|what| (sent.first_seq, what))?;
        receipts.ack = ack;
    }
    Ok(receipts)
}

impl Receipts {
    /// Holds every run against its proof, and the checkpoint against the policy. That the
    /// checkpoint is of one history with others is not waited for here: it is looked after in the
    /// background.
    fn prove(
        &mut self,
        client: &Client,
        note: &str,
        proofs: Vec<v1::RangeProof>,
    ) -> Result<(), String> {
        if proofs.len() != self.runs.len() {
            return Err(format!("{} proofs for {} runs", proofs.len(), self.runs.len()));
        }
        let checkpoint = client.trust().check(note)?;
        let verification = match client.trust().one_history() {
            Ok(()) => checkpoint.verification,
            Err(_) => Verification::Pending,
        };
        let mut leaves = self.leaves.chunks_exact(LEAF_SIZE);
        for (run, proof) in self.runs.iter().zip(proofs) {
            let hashes: Vec<Hash> =
                leaves.by_ref().take(run.count as usize).filter_map(hash_of).collect();
            let proven = Unbelieved::new(checkpoint.clone(), proof, run.first_index, hashes)?;
            self.proofs.push(proven.believed(verification));
        }
        self.verification = verification;
        Ok(())
    }
}

fn hash_of(leaf: &[u8]) -> Option<Hash> {
    Some(leaf_hash(leaf.try_into().ok()?))
}

/// The receipts in a response, or the first seq that does not fit and why.
fn verify(sent: &Sent, response: AppendResponse) -> Result<Receipts, (u64, String)> {
    let count = sent.events.len();
    let lengths = [
        ("leaves", response.leaves.len(), count * LEAF_SIZE),
        ("salts", response.salts.len(), count * Salt::SIZE),
    ];
    for (what, actual, expected) in lengths {
        if actual != expected {
            return Err((sent.first_seq, format!("{what}: {actual} bytes for {count} events")));
        }
    }
    let receipts = Receipts {
        runs: verify_runs(sent, &response)?,
        leaves: response.leaves,
        salts: response.salts,
        tree_size: response.tree_size,
        ..Receipts::default()
    };
    for (position, event) in sent.events.iter().enumerate() {
        let seq = sent.first_seq + position as u64;
        let receipt = receipts.get(position).ok_or((seq, "the leaf cannot be decoded".into()))?;
        check(sent, seq, &receipt, event).map_err(|what| (seq, what.to_owned()))?;
    }
    Ok(receipts)
}

/// The runs, if they cover exactly what was sent.
fn verify_runs(sent: &Sent, response: &AppendResponse) -> Result<Vec<Run>, (u64, String)> {
    let mut next_seq = sent.first_seq;
    let end = sent.first_seq + sent.events.len() as u64;
    let mut runs = Vec::with_capacity(response.runs.len());
    for run in &response.runs {
        let count = u64::from(run.count);
        let last = run.first_leaf.checked_add(count);
        if run.first_seq != next_seq || count == 0 || count > end - next_seq {
            return Err((
                next_seq,
                format!("run {} + {count} is not what was sent", run.first_seq),
            ));
        }
        if last.is_none_or(|last| last > response.tree_size) {
            let what = format!("leaf {} is past tree size {}", run.first_leaf, response.tree_size);
            return Err((next_seq, what));
        }
        next_seq += count;
        let (first_seq, first_index) = (run.first_seq, run.first_leaf);
        runs.push(Run { first_seq, first_index, count, duplicate: run.duplicate });
    }
    if next_seq != end {
        return Err((next_seq, format!("no receipt from seq {next_seq} on")));
    }
    Ok(runs)
}

fn check(sent: &Sent, seq: u64, receipt: &Receipt, event: &[u8]) -> Result<(), &'static str> {
    let leaf = &receipt.leaf;
    if leaf.seq != seq {
        return Err("the leaf is of another seq");
    }
    if leaf.kind != sent.kind {
        return Err("the leaf is of another kind");
    }
    if leaf.opened != sent.opened && !receipt.duplicate {
        return Err("the leaf is of another producer");
    }
    if leaf.event_size as usize != event.len() {
        return Err("the leaf has another event size");
    }
    if leaf.commitment != commit(&receipt.salt, event) {
        return Err("the commitment is not to the event that was sent");
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use indelible_testkit::TestRecord;

    use super::*;

    const OPENED: u64 = 4;

    fn events(count: u64) -> Vec<Bytes> {
        (0..count).map(|number| Bytes::from(format!("event {number}"))).collect()
    }

    /// What an honest node answers.
    fn honest(first_seq: u64, events: &[Bytes], runs: &[(u32, u64, bool)]) -> AppendResponse {
        let mut leaves = Vec::new();
        let mut salts = Vec::new();
        for (position, event) in events.iter().enumerate() {
            let salt = Salt([position as u8; 16]);
            let record = TestRecord::event(OPENED, first_seq + position as u64, 1, event.clone());
            leaves.extend(record.leaf(&salt).encode());
            salts.extend(salt.0);
        }
        let mut seq = first_seq;
        let runs = runs.iter().map(|(count, first_leaf, duplicate)| {
            seq += u64::from(*count);
            v1::Run {
                first_seq: seq - u64::from(*count),
                first_leaf: *first_leaf,
                count: *count,
                duplicate: *duplicate,
            }
        });
        let runs = runs.collect();
        AppendResponse {
            runs,
            leaves: leaves.into(),
            salts: salts.into(),
            tree_size: 1000,
            ..Default::default()
        }
    }

    /// Receipts of runs at these leaf indexes, of these lengths.
    pub(crate) fn receipts_at(runs: &[(u64, u32)]) -> Receipts {
        let count: u32 = runs.iter().map(|(_, count)| count).sum();
        let runs: Vec<_> = runs.iter().map(|(first, count)| (*count, *first, false)).collect();
        let events = events(count.into());
        let mut response = honest(7, &events, &runs);
        response.tree_size = u64::MAX;
        let sent = Sent { first_seq: 7, events: &events, kind: Kind::Event, opened: OPENED };
        verify(&sent, response).expect("honest")
    }

    fn check_response(response: AppendResponse, events: &[Bytes]) -> Result<Receipts, u64> {
        let sent = Sent { first_seq: 7, events, kind: Kind::Event, opened: OPENED };
        verify(&sent, response).map_err(|(seq, _)| seq)
    }

    #[test]
    fn an_honest_receipt_is_taken_apart() {
        let events = events(5);
        let receipts =
            check_response(honest(7, &events, &[(2, 90, true), (3, 200, false)]), &events)
                .expect("verifies");
        assert_eq!((receipts.count(), receipts.duplicates()), (5, 2));
        let places: Vec<_> = receipts.iter().map(|r| (r.seq, r.index, r.duplicate)).collect();
        let expected =
            [(7, 90, true), (8, 91, true), (9, 200, false), (10, 201, false), (11, 202, false)];
        assert_eq!(places, expected);
        let middle = receipts.slice(1..4);
        let places: Vec<_> = middle.iter().map(|r| (r.seq, r.index, r.duplicate)).collect();
        assert_eq!(places, expected[1..4]);
        let whole = Receipts::concat(vec![receipts.slice(0..1), middle, receipts.slice(4..5)]);
        assert!(whole.iter().eq(receipts.iter()));
        assert_eq!(receipts.get(5), None);
    }

    #[test]
    fn every_flipped_byte_that_matters_is_found() {
        let events = events(3);
        let good = honest(7, &events, &[(3, 90, false)]);
        for byte in 0..good.leaves.len() {
            // Retention class and time are the leader's to say.
            if matches!(byte % LEAF_SIZE, 2 | 3 | 8..16) {
                continue;
            }
            let mut bad = good.clone();
            let mut leaves = bad.leaves.to_vec();
            leaves[byte] ^= 0x40;
            bad.leaves = leaves.into();
            assert!(check_response(bad, &events).is_err(), "leaf byte {byte} was not checked");
        }
        for byte in 0..good.salts.len() {
            let mut bad = good.clone();
            let mut salts = bad.salts.to_vec();
            salts[byte] ^= 1;
            bad.salts = salts.into();
            let seq = 7 + (byte / Salt::SIZE) as u64;
            assert_eq!(check_response(bad, &events), Err(seq), "salt byte {byte}");
        }
    }

    #[test]
    fn runs_must_cover_exactly_what_was_sent() {
        let events = events(3);
        let with = |runs: &[(u32, u64, bool)]| check_response(honest(7, &events, runs), &events);
        assert!(with(&[(3, 0, false)]).is_ok());
        for runs in [&[][..], &[(2, 0, false)], &[(4, 0, false)], &[(3, 998, false)]] {
            assert!(with(runs).is_err(), "{runs:?} was accepted");
        }
        let mut repeated = honest(7, &events, &[(2, 0, false), (1, 5, false)]);
        repeated.runs[1].first_seq = 8;
        assert_eq!(check_response(repeated, &events), Err(9));
    }
}
