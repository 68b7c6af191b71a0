//! The command on files that are right, wrong, and none of ours.

use std::path::PathBuf;

use bytes::Bytes;
use indelible_core::bundle::{BundleHeader, BundleWriter, KeyRecord};
use indelible_core::proof_file::Extra;
use indelible_core::{
    Checkpoint, Hash, KeyType, Kind, Leaf, Note, Policy, ProofFile, RangeProof, Salt, SignerKey,
    TrailId, node_key_name,
};
use indelible_proto::v1;
use indelible_testkit::{TestKeys, TestRecord, TestTree, trail};
use prost::Message;
use tempfile::TempDir;

use super::report::{Outcome, Report};
use super::{NO_POLICY, Terms, WRONG, exit_code, files, split_views};
use crate::cli::generate;

const ORIGIN: &str = "log.example.com/audit";
const KEYS: TestKeys = TestKeys::of(ORIGIN);
const TIME: u64 = 1_763_692_000;
const SIZE: u64 = 20;

/// A trail of one membership and 19 events, and a folder for files about it.
struct Trail {
    dir: TempDir,
    records: Vec<(Leaf, Bytes)>,
}

/// The genesis: nodes 1, 2 and 3.
fn membership() -> Vec<u8> {
    let sets: [&[u64]; 1] = [&[1, 2, 3]];
    let membership = trail::membership(TrailId([7; 16]), &sets, |id| KEYS.node_public(id));
    v1::MembershipRecord { membership: Some(membership), ..Default::default() }.encode_to_vec()
}

impl Trail {
    fn new() -> Trail {
        let records = (0..SIZE).map(|n| {
            let (kind, event) = match n {
                0 => (Kind::Membership, membership()),
                _ => (Kind::Event, generate::event(n).encode_to_vec()),
            };
            let received = TIME * 1_000_000_000 + n;
            let event = event.into();
            let record = TestRecord { kind, opened: 0, seq: n, received, event };
            (record.leaf(&salt(n)), record.event)
        });
        Trail { dir: TempDir::new().unwrap(), records: records.collect() }
    }

    fn tree(&self) -> TestTree {
        TestTree::of(self.records.iter().map(|(leaf, _)| leaf))
    }

    fn checkpoint(&self, size: u64) -> Checkpoint {
        self.tree().checkpoint(ORIGIN, size)
    }

    fn note(&self, size: u64) -> Note {
        signed(&self.checkpoint(size))
    }

    fn proof(&self, index: u64) -> ProofFile {
        let whole = self.range(0);
        let (leaf, event) = &self.records[index as usize];
        let content = Some((salt(index), event.to_vec()));
        ProofFile {
            extra: Some(Extra { leaf: leaf.encode(), content }.encode()),
            index,
            proof: whole.inclusion(self.tree().hashes(), index).unwrap(),
            checkpoint: self.note(SIZE),
        }
    }

    /// The records from `from` to the end.
    fn range(&self, from: u64) -> RangeProof {
        self.tree().range(from, SIZE, SIZE)
    }

    fn bundle(&self, from: u64) -> Vec<u8> {
        let (leaf, event) = &self.records[0];
        let key = KeyRecord {
            index: 0,
            leaf: *leaf,
            salt: salt(0),
            event: event.to_vec(),
            proof: self.range(0).inclusion(self.tree().hashes(), 0).unwrap(),
        };
        let header = BundleHeader {
            policy: Some(KEYS.policy(&[1, 2, 3])),
            note: self.note(SIZE),
            proof: self.range(from),
            older: Vec::new(),
            keys: vec![key],
        };
        let mut writer = BundleWriter::new(Vec::new(), header).unwrap();
        for (n, (leaf, event)) in (from..).zip(&self.records[from as usize..]) {
            writer.push(leaf, Some((&salt(n), event))).unwrap();
        }
        writer.finish().unwrap()
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn verify(&self, bytes: impl AsRef<[u8]>, terms: &Terms) -> Report {
        files::verify(&self.file("file", bytes), terms, false)
    }
}

fn salt(n: u64) -> Salt {
    Salt([n as u8; 16])
}

fn signed(checkpoint: &Checkpoint) -> Note {
    let mut note = KEYS.note(checkpoint, &[1], TIME);
    note.signatures.push(KEYS.node(3).cosign(checkpoint, TIME + 1));
    note
}

fn terms(policy: Option<Policy>, against: &[Checkpoint]) -> Terms {
    let against = against.iter().map(|old| ("old".to_owned(), old.clone())).collect();
    Terms { policy, against, notes: Vec::new() }
}

fn wrong(report: &Report) -> &str {
    match &report.outcome {
        Outcome::Wrong(error) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn all_three_kinds_of_file_verify() {
    let trail = Trail::new();
    let by = terms(Some(KEYS.policy(&[1, 2, 3])), &[]);
    let files = [
        ("checkpoint", trail.note(SIZE).to_string().into_bytes()),
        ("proof", trail.proof(7).to_string().into_bytes()),
        ("bundle", trail.bundle(0)),
        ("bundle", trail.bundle(12)),
    ];
    for (kind, bytes) in files {
        let report = trail.verify(&bytes, &by);
        assert_eq!(
            (report.kind, &report.outcome),
            (kind, &Outcome::Verified),
            "{}",
            report.to_text()
        );
        assert_eq!(report.notes, Vec::<String>::new());
        let json = report.to_json();
        assert_eq!((&json["verified"], &json["checkpoint"]["size"]), (&true.into(), &SIZE.into()));
        assert_eq!(json["signed"]["unix_s"], TIME);
        assert_eq!(json["signed"]["time"], "2025-11-21T02:26:40Z");
        assert!(
            report.to_text().contains("signed       2025-11-21T02:26:40Z"),
            "{}",
            report.to_text()
        );
        // Nothing else is believed.
        assert_eq!(trail.verify(&bytes, &terms(None, &[])).outcome, Outcome::Unverified);
        let by_others = terms(Some(KEYS.policy(&[1, 4, 5])), &[]);
        assert!(wrong(&trail.verify(&bytes, &by_others)).contains("quorum nodes is not reached"));
    }
    let json = trail.verify(trail.bundle(5), &by).to_json();
    assert_eq!(
        (&json["events"], &json["from"], &json["withheld"]),
        (&15.into(), &5.into(), &0.into())
    );
    assert!(json["events_per_s"].as_f64().unwrap() > 0.0);
    let json = trail.verify(trail.proof(7).to_string(), &by).to_json();
    assert_eq!(json["record"]["event"]["id"], "generated-7");
}

#[test]
fn exit_codes() {
    let trail = Trail::new();
    let file = trail.file("c", trail.note(SIZE).to_string());
    let report =
        |policy: Option<Policy>, no_policy| files::verify(&file, &terms(policy, &[]), no_policy);
    let right = KEYS.policy(&[1, 2, 3]);
    assert_eq!(exit_code(&[report(Some(right.clone()), false)], &[]), 0);
    assert_eq!(exit_code(&[report(None, true)], &[]), 0);
    assert_eq!(exit_code(&[report(None, false)], &[]), NO_POLICY);
    let one_wrong =
        [report(Some(right), false), report(Some(KEYS.policy(&[2])), false), report(None, false)];
    assert_eq!(exit_code(&one_wrong, &[]), WRONG);
    let missing = files::verify(&trail.dir.path().join("none"), &terms(None, &[]), true);
    assert!(wrong(&missing).contains("none"), "{missing:?}");
}

#[test]
fn what_was_changed_is_named() {
    let trail = Trail::new();
    let by = terms(Some(KEYS.policy(&[1, 2, 3])), &[]);
    let mut bundle = trail.bundle(0);
    let event = &trail.records[7].1;
    let at = bundle.windows(event.len()).position(|bytes| bytes == event).unwrap();
    bundle[at] ^= 1;
    let report = trail.verify(&bundle, &by);
    assert!(wrong(&report).starts_with("leaf 7: the event or its salt was changed"), "{report:?}");
    assert!(report.to_text().contains(": WRONG: leaf 7: "));
    // Wrong without a policy, too.
    assert_eq!(exit_code(&[trail.verify(&bundle, &terms(None, &[]))], &[]), WRONG);
    let mut proof = trail.proof(7);
    proof.index = 6;
    assert!(wrong(&trail.verify(proof.to_string(), &by)).starts_with("leaf 6: "));
    let note = trail.note(SIZE).to_string().replace("\n20\n", "\n21\n");
    assert!(wrong(&trail.verify(note, &by)).contains("signature of"));
}

#[test]
fn what_is_none_of_ours_says_so() {
    let trail = Trail::new();
    let by = terms(None, &[]);
    assert_eq!(wrong(&trail.verify("", &by)), "the file is empty");
    let policy = KEYS.policy(&[1, 2, 3]).to_string();
    assert!(wrong(&trail.verify(policy, &by)).contains("hint: give it with --policy"));
    for bytes in [&b"hello\n"[..], b"\xff\xfe", b"INDB", &[b'x'; 600 * 1024]] {
        let report = trail.verify(bytes, &by);
        assert!(
            wrong(&report).starts_with("neither a checkpoint nor a proof nor an export"),
            "{report:?}"
        );
    }
    let folder = files::verify(trail.dir.path(), &by, false);
    assert!(folder.is_wrong());
}

#[test]
fn kept_checkpoints() {
    let trail = Trail::new();
    let right = KEYS.policy(&[1, 2, 3]);
    let by = |old: &Checkpoint| terms(Some(right.clone()), std::slice::from_ref(old));
    let note = trail.note(SIZE).to_string();
    let how = |report: Report| report.against[0].how;
    assert_eq!(how(trail.verify(&note, &by(&trail.checkpoint(SIZE)))), "same");
    assert_eq!(how(trail.verify(trail.proof(7).to_string(), &by(&trail.checkpoint(SIZE)))), "same");
    assert_eq!(how(trail.verify(trail.bundle(0), &by(&trail.checkpoint(9)))), "recomputed");
    let cannot = trail.verify(&note, &by(&trail.checkpoint(9)));
    assert!(wrong(&cannot).contains("nothing here tells whether"), "{cannot:?}");
    let cannot = trail.verify(trail.bundle(12), &by(&trail.checkpoint(9)));
    assert!(
        wrong(&cannot).contains("no proof from size 9; hint: export from leaf 0"),
        "{cannot:?}"
    );
    let other = Checkpoint { root: Hash([1; 32]), ..trail.checkpoint(SIZE) };
    assert!(wrong(&trail.verify(&note, &by(&other))).contains("two histories were shown"));
    let other = Checkpoint { root: Hash([1; 32]), ..trail.checkpoint(9) };
    assert!(wrong(&trail.verify(trail.bundle(0), &by(&other))).contains("history was changed"));
    let newer = Checkpoint::new(ORIGIN, SIZE + 1, Hash([1; 32]));
    assert!(wrong(&trail.verify(&note, &by(&newer))).contains("is newer"));
    let foreign = Checkpoint::new("b", SIZE, trail.checkpoint(SIZE).root);
    assert!(wrong(&trail.verify(&note, &by(&foreign))).contains("is a checkpoint of b"));
}

#[test]
fn a_kept_checkpoint_that_the_policy_does_not_believe_is_told() {
    let trail = Trail::new();
    let policy = trail.file("policy", KEYS.policy(&[1, 2, 3]).to_string());
    let good = trail.file("good", trail.note(9).to_string());
    let proof = trail.file("proof", trail.proof(3).to_string());
    let mut unsigned = trail.note(9);
    unsigned.signatures.truncate(1);
    let unsigned = trail.file("unsigned", unsigned.to_string());
    let terms = Terms::load(Some(&policy), &[good, unsigned, proof]).unwrap();
    let sizes: Vec<u64> = terms.against.iter().map(|(_, old)| old.size).collect();
    assert_eq!((sizes, terms.notes.len()), (vec![9, 9, SIZE], 1));
    assert!(
        terms.notes[0].contains("unsigned: the policy does not believe it"),
        "{:?}",
        terms.notes
    );
    assert!(Terms::load(Some(&trail.dir.path().join("none")), &[]).is_err());
}

#[test]
fn keys_of_the_trail_that_differ_from_the_policy_are_told() {
    let trail = Trail::new();
    let verify =
        |nodes: &[u64]| trail.verify(trail.bundle(0), &terms(Some(KEYS.policy(nodes)), &[]));
    let notes = verify(&[1, 3, 9]).notes.join("\n");
    assert!(
        notes.contains("node 2, a voter since leaf 0 or before, is not in the policy"),
        "{notes}"
    );
    assert!(notes.contains("node 9 of the policy is not in the membership of leaf 0"), "{notes}");
    assert!(notes.contains("another policy than yours"), "{notes}");
    let other = SignerKey::new(node_key_name(ORIGIN, 2), KeyType::Cosigner, [99; 32]).unwrap();
    let nodes = vec![
        KEYS.node(1).verifier().clone(),
        other.verifier().clone(),
        KEYS.node(3).verifier().clone(),
    ];
    let other = Policy::majority(KEYS.log().verifier().clone(), nodes).unwrap();
    let report = trail.verify(trail.bundle(0), &terms(Some(other), &[]));
    assert_eq!(report.outcome, Outcome::Verified);
    assert!(report.notes.iter().any(|note| note.contains("node 2 has another key")), "{report:?}");
}

#[test]
fn two_files_with_two_histories_are_found_out() {
    let trail = Trail::new();
    let by = terms(Some(KEYS.policy(&[1, 2, 3])), &[]);
    // The same keys sign another root of the same size.
    let other = signed(&Checkpoint { root: Hash([1; 32]), ..trail.checkpoint(SIZE) });
    let first = files::verify(&trail.file("first", trail.bundle(0)), &by, false);
    let second = files::verify(&trail.file("second", other.to_string()), &by, false);
    assert_eq!((&first.outcome, &second.outcome), (&Outcome::Verified, &Outcome::Verified));
    let reports = [first, second];
    let views = split_views(&reports);
    assert!(views[0].contains("two histories were shown"), "{views:?}");
    assert_eq!(exit_code(&reports, &views), WRONG);
    let third = files::verify(&trail.file("third", trail.note(9).to_string()), &by, false);
    assert!(split_views(&[third]).is_empty());
}
