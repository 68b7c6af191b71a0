//! Proof files: the vector, our own, and every way in which one can be wrong.

use super::notes::{CHECKPOINT_NOTE, LOG_KEY, TIME, WITNESS_KEY, log_key, witness_key};
use super::{naive_path, naive_root, record};
use crate::leaf::leaf_hash;
use crate::limits::{EVENT_BYTES_MAX, PROOF_FILE_BYTES_MAX};
use crate::merkle::{ProofError, verify_inclusion};
use crate::policy::PolicyError;
use crate::proof_file::{Extra, ProofFileError};
use crate::text::encode_base64;
use crate::{Checkpoint, Hash, Note, Policy, ProofFile, Salt};

fn vector() -> String {
    format!(
        "c2sp.org/tlog-proof@v1
index 2
J0ebarMh0u5HdFL2i6UndI6GPK/o+9HfK/idFXDRtpc=
LyelCCwdQq+kiKw1Cp/EOQwIT1T3Hs3/hZ6Y24QptHk=
GUu1otW9EOXRqm/V1CmAs1bK8dpiPNmYfEv6L4F3Htc=

{CHECKPOINT_NOTE}"
    )
}

fn policy() -> Policy {
    format!("log {LOG_KEY}\nwitness w1 {WITNESS_KEY}\nquorum w1\n").parse().unwrap()
}

#[test]
fn the_vector_verifies_and_is_reproduced_byte_for_byte() {
    let file = ProofFile::parse(&vector()).unwrap();
    assert_eq!(file.to_string(), vector());
    assert_eq!((file.index, file.proof.len(), &file.extra), (2, 3, &None));
    let trusted = policy().check(&file.checkpoint).unwrap();
    assert_eq!((trusted.unix_s, trusted.signers.len()), (TIME, 2));
    let leaf = Hash({
        use sha2::Digest;
        sha2::Sha256::new().chain_update([0]).chain_update("entry-2").finalize().into()
    });
    let Checkpoint { size, root, .. } = trusted.checkpoint;
    verify_inclusion(file.index, size, &leaf, &file.proof, &root).unwrap();
    // Its leaf is not of ours, and travels apart.
    assert_eq!(file.verify(&policy()), Err(ProofFileError::NoLeaf));
}

/// The proof of record `index` in a trail of 7 records, signed by log and witness.
fn proof_of(index: u64, with_content: bool) -> ProofFile {
    let hashes: Vec<Hash> = (0..7).map(|n| leaf_hash(&record(n).0.encode())).collect();
    let checkpoint = Checkpoint::new("audit.example.com/t1", 7, naive_root(&hashes));
    let signatures = vec![log_key().sign(&checkpoint), witness_key().cosign(&checkpoint, TIME)];
    let (leaf, salt, event) = record(index);
    let content = with_content.then_some((salt, event));
    ProofFile {
        extra: Some(Extra { leaf: leaf.encode(), content }.encode()),
        index,
        proof: naive_path(index as usize, &hashes),
        checkpoint: Note { text: checkpoint.to_string(), signatures },
    }
}

#[test]
fn proofs_of_our_records() {
    for index in 0..7 {
        for with_content in [false, true] {
            let file = proof_of(index, with_content);
            assert_eq!(ProofFile::parse(&file.to_string()).unwrap(), file);
            let proven = file.verify(&policy()).unwrap();
            let (leaf, salt, event) = record(index);
            assert_eq!((proven.index, proven.leaf), (index, leaf));
            assert_eq!(proven.content, with_content.then_some((salt, event)));
            assert_eq!((proven.trusted.checkpoint.size, proven.trusted.unix_s), (7, TIME));
            assert_eq!(file.check_inclusion().unwrap().checkpoint, proven.trusted.checkpoint);
        }
    }
}

#[test]
fn extra_lines_have_two_lengths() {
    let file = proof_of(3, true);
    let bytes = file.extra.clone().unwrap();
    assert_eq!(bytes.len(), 80 + record(3).2.len());
    for length in 0..bytes.len() {
        let refused =
            ProofFile { extra: Some(bytes[..length].to_vec()), ..file.clone() }.verify(&policy());
        match length {
            64 => assert!(refused.is_ok()),
            80.. => {
                assert!(matches!(refused, Err(ProofFileError::Size { index: 3, .. })), "{length}")
            }
            _ => assert_eq!(refused, Err(ProofFileError::ExtraLength { actual: length })),
        }
    }
    // An empty event is one that is there.
    let empty = Extra { leaf: [1; 64], content: Some((Salt([2; 16]), Vec::new())) };
    assert_eq!(Extra::decode(&empty.encode()), Ok(empty));
    let long =
        Extra { leaf: [1; 64], content: Some((Salt([2; 16]), vec![0; EVENT_BYTES_MAX + 1])) };
    assert!(matches!(Extra::decode(&long.encode()), Err(ProofFileError::ExtraLength { .. })));
}

/// What is wrong decides what is said, in the order of the checks.
#[test]
fn every_check_has_its_say() {
    let good = proof_of(3, true);
    let with = |change: &dyn Fn(&mut ProofFile)| {
        let mut file = good.clone();
        change(&mut file);
        file.verify(&policy()).unwrap_err()
    };
    let extra = |offset: usize, value: u8| {
        with(&|file: &mut ProofFile| file.extra.as_mut().unwrap()[offset] = value)
    };
    assert!(matches!(extra(0, 2), ProofFileError::Leaf(_)), "version");
    assert!(matches!(extra(1, 99), ProofFileError::Leaf(_)), "kind");
    assert!(matches!(extra(4, 99), ProofFileError::Size { actual: 14, expected: 99, .. }), "size");
    assert!(matches!(extra(40, 99), ProofFileError::Commitment { .. }), "commitment");
    assert!(matches!(extra(70, 99), ProofFileError::Commitment { .. }), "salt");
    assert!(matches!(extra(90, 99), ProofFileError::Commitment { .. }), "event");
    // Bound by the tree alone: the time when it was received.
    let received = extra(8, 99);
    assert!(matches!(received, ProofFileError::Proof { source: ProofError::Root { .. }, .. }));
    let length = with(&|file| file.proof.truncate(1));
    assert!(matches!(length, ProofFileError::Proof { source: ProofError::Length { .. }, .. }));
    let index = with(&|file| file.index = 7);
    assert!(matches!(index, ProofFileError::Proof { source: ProofError::Index { .. }, .. }));
    for other in [0, 1, 2, 4, 5, 6, u64::MAX] {
        assert!(matches!(with(&|file| file.index = other), ProofFileError::Proof { .. }));
    }
    let root = with(&|file| file.checkpoint = Note::parse(CHECKPOINT_NOTE).unwrap());
    assert!(matches!(root, ProofFileError::Proof { .. }));
    let origin = with(&|file| file.checkpoint.text = file.checkpoint.text.replace("t1", "t2"));
    assert!(matches!(origin, ProofFileError::Policy(PolicyError::Origin { .. })));
    let unsigned = with(&|file| file.checkpoint.signatures.truncate(1));
    assert!(matches!(unsigned, ProofFileError::Policy(PolicyError::Quorum { .. })));
    let text = with(&|file| file.checkpoint.text = "nonsense\n".into());
    assert!(matches!(text, ProofFileError::Checkpoint(_)));
}

#[test]
fn every_bit_of_a_file_counts() {
    let text = proof_of(3, true).to_string();
    let good = ProofFile::parse(&text).unwrap().verify(&policy()).unwrap();
    for bit in 0..text.len() * 8 {
        let mut bytes = text.clone().into_bytes();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let Ok(flipped) = String::from_utf8(bytes) else { continue };
        let verified = ProofFile::parse(&flipped).and_then(|file| file.verify(&policy()));
        assert!(verified.is_err() || verified.as_ref() == Ok(&good), "bit {bit}: {verified:?}");
        assert!(verified.is_err(), "bit {bit}");
    }
}

#[test]
fn what_is_nearly_a_proof_file() {
    let hash = encode_base64(&[1; 32]);
    let with = |head: &str| ProofFile::parse(&format!("{head}{CHECKPOINT_NOTE}"));
    let v1 = "c2sp.org/tlog-proof@v1\n";
    assert!(with(&format!("{v1}index 0\n\n")).is_ok());
    assert!(with(&format!("{v1}extra AQ==\nindex 18446744073709551615\n{hash}\n\n")).is_ok());
    let long = format!("{hash}\n").repeat(64);
    assert!(with(&format!("{v1}index 0\n{long}\n")).is_ok());
    let line = |head: &str| match with(head) {
        Err(ProofFileError::Line { line, .. }) => line,
        other => panic!("{head:?}: {other:?}"),
    };
    assert_eq!(line(&format!("{v1}\n")), 2);
    assert_eq!(line(&format!("{v1}index 00\n\n")), 2);
    assert_eq!(line(&format!("{v1}index 1 \n\n")), 2);
    assert_eq!(line(&format!("{v1}index 18446744073709551616\n\n")), 2);
    assert_eq!(line(&format!("{v1}extra \nindex 1\n\n")), 2);
    assert_eq!(line(&format!("{v1}extra AQ\nindex 1\n\n")), 2);
    assert_eq!(line(&format!("{v1}extra AR==\nindex 1\n\n")), 2);
    assert_eq!(line(&format!("{v1}extra AQ==\nextra AQ==\nindex 1\n\n")), 3);
    assert_eq!(line(&format!("{v1}index 1\nextra AQ==\n\n")), 3);
    assert_eq!(line(&format!("{v1}index 1\n{hash} \n\n")), 3);
    assert_eq!(line(&format!("{v1}index 1\r\n\r\n")), 2);
    assert_eq!(line(&format!("{v1}index 0\n{long}{hash}\n\n")), 67);
    assert_eq!(with("c2sp.org/tlog-proof@v2\nindex 1\n\n"), Err(ProofFileError::Header));
    assert_eq!(with(""), Err(ProofFileError::Header));
    assert!(matches!(ProofFile::parse(""), Err(ProofFileError::Line { line: 1, .. })));
    assert!(matches!(ProofFile::parse(&format!("{v1}index 1\n\n")), Err(ProofFileError::Note(_))));
    let large = "x".repeat(PROOF_FILE_BYTES_MAX + 1);
    assert!(matches!(ProofFile::parse(&large), Err(ProofFileError::TooLarge { .. })));
}

#[test]
fn the_largest_event_fits() {
    let mut file = proof_of(3, true);
    let content = Some((Salt([1; 16]), vec![7; EVENT_BYTES_MAX]));
    file.extra = Some(Extra { leaf: [1; 64], content }.encode());
    assert_eq!(ProofFile::parse(&file.to_string()), Ok(file));
}
