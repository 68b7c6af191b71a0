//! Signed notes, checkpoints and keys: the vectors of C2SP, Go's and our own, and everything that
//! is nearly a note.

use crate::checkpoint::CheckpointError;
use crate::key::{KeyError, SignatureError, Signed};
use crate::limits::{NOTE_BYTES_MAX, NOTE_SIGNATURES_MAX};
use crate::merkle::{Frontier, verify_inclusion};
use crate::note::NoteError;
use crate::{Checkpoint, Hash, KeyType, Note, NoteSignature, SignerKey, VerifierKey};

/// C2SP signed-note, "Example" of verifier keys.
const C2SP_KEY: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
const C2SP_NOTE: &str = "This is an example message.

— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=
";

/// C2SP signed-note, the example at its beginning: a text with an empty line of its own.
const C2SP_POEM: &str = "Ognuno sta solo sul cuor della terra
trafitto da un raggio di sole:

ed è subito sera.

— quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=
";

/// Example of Go's sumdb/note.
const GO_SECRET: &str =
    "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
const GO_KEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
const GO_NOTE: &str = "If you think cryptography is the answer to your problem,
then you don't know what your problem is.

— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=
";

/// C2SP tlog-cosignature's example checkpoint; its keys are not published.
const C2SP_CHECKPOINT: &str = "example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==
";

/// Vectors that were computed by another program: log seed 00..1f, witness seed 20..3f.
pub(super) const LOG_KEY: &str =
    "audit.example.com/t1+3c9d8996+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4";
pub(super) const WITNESS_KEY: &str =
    "witness.example.org/w1+f3c080b6+BCmsuuFBvMrwsi4alNNNC8c2HlJtC/4SyJeUvJMilm3X";
pub(super) const TIME: u64 = 1_700_000_000;
pub(super) const CHECKPOINT_NOTE: &str = "audit.example.com/t1
5
GqaNMHSQWlgfhMu9D3U3lJBP2ARRvEwT5p2aU7xZUCw=

— audit.example.com/t1 PJ2JlgMmnuGbupZz1GBkYohjzSbEua8+oWjWys1KMQWkrDXyiCq4NINOMSR6NfUGNa76fiT1hP2bIvwh5PRVQgzucgc=
— witness.example.org/w1 88CAtgAAAABlU/EARnavhWB5UkBIQVOwlHJ4Xa/uA//uFNXDxVN7Z9QnCfhWZ9ugGGMxzoaBw7RZnDdGDav2aqJEDCiyat+jm8twCA==
";

pub(super) fn log_key() -> SignerKey {
    let seed = std::array::from_fn(|n| n as u8);
    SignerKey::new("audit.example.com/t1", KeyType::Log, seed).unwrap()
}

pub(super) fn witness_key() -> SignerKey {
    let seed = std::array::from_fn(|n| n as u8 + 0x20);
    SignerKey::new("witness.example.org/w1", KeyType::Cosigner, seed).unwrap()
}

/// Leaf hash of any bytes; the vectors' leaves are words.
fn hash_of(leaf: &str) -> Hash {
    use sha2::Digest;
    Hash(sha2::Sha256::new().chain_update([0]).chain_update(leaf).finalize().into())
}

#[test]
fn c2sp_signed_note_example() {
    let key: VerifierKey = C2SP_KEY.parse().unwrap();
    assert_eq!(key.to_string(), C2SP_KEY);
    let note = Note::parse(C2SP_NOTE).unwrap();
    assert_eq!(note.text, "This is an example message.\n");
    assert_eq!(key.verify(&note.text, &note.signatures[0]), Ok(Signed { unix_s: None }));
    assert_eq!(note.to_string(), C2SP_NOTE);
    let wrong = key.verify("This is an example massage.\n", &note.signatures[0]);
    assert_eq!(wrong, Err(SignatureError::Wrong));
}

#[test]
fn notes_split_at_the_last_empty_line() {
    let note = Note::parse(C2SP_POEM).unwrap();
    assert!(note.text.ends_with("di sole:\n\ned è subito sera.\n"));
    assert_eq!(note.signatures.len(), 1);
    assert_eq!(note.to_string(), C2SP_POEM);
}

#[test]
fn go_note_example() {
    let secret: SignerKey = GO_SECRET.parse().unwrap();
    assert_eq!(secret.verifier().to_string(), GO_KEY);
    assert_eq!(secret.to_secret_text(), GO_SECRET);
    let note = Note::parse(GO_NOTE).unwrap();
    secret.verifier().verify(&note.text, &note.signatures[0]).unwrap();
    assert!(!format!("{secret:?}").contains(&GO_SECRET[40..]));
    let bytes = format!("{:?}", &[0x81u8, 0x0a, 0x14]);
    assert!(!format!("{secret:?}").contains(bytes.trim_matches(['[', ']'])));
}

#[test]
fn c2sp_checkpoint_example() {
    let note = Note::parse(C2SP_CHECKPOINT).unwrap();
    let checkpoint = Checkpoint::parse(&note.text).unwrap();
    assert_eq!(
        (checkpoint.origin.as_str(), checkpoint.size),
        ("example.com/behind-the-sofa", 20852163)
    );
    assert_eq!(checkpoint.to_string(), note.text);
    assert_eq!(note.signatures[1].signature.len(), 72);
    assert_eq!(note.to_string(), C2SP_CHECKPOINT);
}

#[test]
fn our_vectors_are_reproduced_byte_for_byte() {
    assert_eq!(log_key().verifier().to_string(), LOG_KEY);
    assert_eq!(witness_key().verifier().to_string(), WITNESS_KEY);
    let origin_hash = crate::checkpoint::origin_hash("audit.example.com/t1").to_string();
    assert_eq!(origin_hash, "5025a64c255c5f6d42b2f55b72a691e8bd6c5446ca8221cf9d3928a2eb9ad595");
    let leaf = hash_of("entry-0").to_string();
    assert_eq!(leaf, "40766b2033429026f53d54502679a839706b4741f8dcaf3a8bba5f41b5ffe075");
    let mut frontier = Frontier::new();
    let empty = frontier.root().to_string();
    assert_eq!(empty, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    (0..5).for_each(|n| frontier.append(hash_of(&format!("entry-{n}"))));
    let checkpoint = Checkpoint::new("audit.example.com/t1", 5, frontier.root());
    let signatures = vec![log_key().sign(&checkpoint), witness_key().cosign(&checkpoint, TIME)];
    let note = Note { text: checkpoint.to_string(), signatures };
    assert_eq!(note.to_string(), CHECKPOINT_NOTE);
    assert_eq!(Note::parse(CHECKPOINT_NOTE).unwrap(), note);
    let verify = |key: &SignerKey, n: usize| key.verifier().verify(&note.text, &note.signatures[n]);
    assert_eq!(verify(&log_key(), 0), Ok(Signed { unix_s: None }));
    assert_eq!(verify(&witness_key(), 1), Ok(Signed { unix_s: Some(TIME) }));
    assert_eq!(verify(&log_key(), 1), Err(SignatureError::OtherKey));
    // The inclusion proof of the vectors' .tlog-proof.
    let proof = [
        "J0ebarMh0u5HdFL2i6UndI6GPK/o+9HfK/idFXDRtpc=",
        "LyelCCwdQq+kiKw1Cp/EOQwIT1T3Hs3/hZ6Y24QptHk=",
        "GUu1otW9EOXRqm/V1CmAs1bK8dpiPNmYfEv6L4F3Htc=",
    ];
    let proof = proof.map(|text| crate::text::decode_hash(text).unwrap());
    verify_inclusion(2, 5, &hash_of("entry-2"), &proof, &checkpoint.root).unwrap();
}

/// Every bit of a cosignature counts, the time included.
#[test]
fn flipped_bits_are_noticed() {
    let note = Note::parse(CHECKPOINT_NOTE).unwrap();
    for (key, signature) in [(log_key(), &note.signatures[0]), (witness_key(), &note.signatures[1])]
    {
        for bit in 0..signature.signature.len() * 8 {
            let mut flipped = signature.clone();
            flipped.signature[bit / 8] ^= 1 << (bit % 8);
            let refused = key.verifier().verify(&note.text, &flipped).unwrap_err();
            let expected = matches!(refused, SignatureError::Wrong | SignatureError::Time { .. });
            assert!(expected, "bit {bit}: {refused}");
        }
        for length in (0..100).filter(|length| *length != signature.signature.len()) {
            let mut other = signature.clone();
            other.signature.resize(length, 0);
            let refused = key.verifier().verify(&note.text, &other);
            assert!(matches!(refused, Err(SignatureError::Length { .. })), "{length} bytes");
        }
    }
}

#[test]
fn a_cosignature_is_no_log_signature_and_the_other_way_round() {
    let seed = [7; 32];
    let log = SignerKey::new("a", KeyType::Log, seed).unwrap();
    let cosigner = SignerKey::new("a", KeyType::Cosigner, seed).unwrap();
    assert_ne!(log.verifier().key_id(), cosigner.verifier().key_id());
    let checkpoint = Checkpoint::new("a", 1, Hash([1; 32]));
    // The bytes of one under the name of the other.
    let mut cosigned = cosigner.cosign(&checkpoint, 5);
    cosigned.signature.drain(..8);
    cosigned.key_id = log.verifier().key_id();
    let refused = log.verifier().verify(&checkpoint.to_string(), &cosigned);
    assert_eq!(refused, Err(SignatureError::Wrong));
}

#[test]
fn times_go_from_zero_to_the_last_one_that_is_allowed() {
    let checkpoint = Checkpoint::new("a", 1, Hash([1; 32]));
    let key = witness_key();
    for unix_s in [0, 1, TIME, i64::MAX as u64] {
        let signature = key.cosign(&checkpoint, unix_s);
        let signed = key.verifier().verify(&checkpoint.to_string(), &signature);
        assert_eq!(signed, Ok(Signed { unix_s: Some(unix_s) }));
    }
    let mut late = key.cosign(&checkpoint, 0);
    late.signature[0] = 0x80;
    let refused = key.verifier().verify(&checkpoint.to_string(), &late);
    assert_eq!(refused, Err(SignatureError::Time { unix_s: 1 << 63 }));
}

#[test]
fn what_is_nearly_a_note() {
    let line = "— a AAAAAAA=\n";
    assert!(Note::parse(&format!("text\n\n{line}")).is_ok());
    assert!(Note::parse(&format!("\n\n{line}")).is_ok());
    let cases = [
        (String::new(), NoteError::Unsigned),
        ("text\n".into(), NoteError::Unsigned),
        ("text\n\n".into(), NoteError::Unsigned),
        (format!("text\n{line}"), NoteError::Unsigned),
        (format!("text\n\n{line}\n"), NoteError::Unsigned),
        (format!("text\n\n{}", line.trim_end()), NoteError::Cut),
        (format!("text\r\n\r\n{line}"), NoteError::Control { character: '\r' }),
        (format!("te\txt\n\n{line}"), NoteError::Control { character: '\t' }),
        (format!("te\0xt\n\n{line}"), NoteError::Control { character: '\0' }),
        (format!("text\n\n{line}rest\n"), NoteError::Line { line: 2 }),
        ("text\n\n- a AAAAAAA=\n".into(), NoteError::Line { line: 1 }),
        ("text\n\n—a AAAAAAA=\n".into(), NoteError::Line { line: 1 }),
        ("text\n\n—  AAAAAAA=\n".into(), NoteError::Line { line: 1 }),
        ("text\n\n— a\n".into(), NoteError::Line { line: 1 }),
        ("text\n\n— a  AAAAAAA=\n".into(), NoteError::Line { line: 1 }),
        ("text\n\n— a AAAAAAA= \n".into(), NoteError::Line { line: 1 }),
        ("text\n\n— a+b AAAAAAA=\n".into(), NoteError::Line { line: 1 }),
        ("text\n\n— a\u{a0}b AAAAAAA=\n".into(), NoteError::Line { line: 1 }),
        // Base64 without padding, with bits beyond the last byte, and with nothing signed.
        ("text\n\n— a AAAAAAA\n".into(), NoteError::Line { line: 1 }),
        ("text\n\n— a AAAAAAB=\n".into(), NoteError::Line { line: 1 }),
        ("text\n\n— a AAAAAA==\n".into(), NoteError::Line { line: 1 }),
    ];
    for (text, error) in cases {
        assert_eq!(Note::parse(&text), Err(error), "{text:?}");
    }
}

#[test]
fn notes_have_limits() {
    let note = |signatures: usize| format!("text\n\n{}", "— a AAAAAAA=\n".repeat(signatures));
    assert_eq!(
        Note::parse(&note(NOTE_SIGNATURES_MAX)).unwrap().signatures.len(),
        NOTE_SIGNATURES_MAX
    );
    assert_eq!(Note::parse(&note(NOTE_SIGNATURES_MAX + 1)), Err(NoteError::TooManySignatures));
    let large = format!("{}{}", "x".repeat(NOTE_BYTES_MAX), note(1));
    assert_eq!(Note::parse(&large), Err(NoteError::TooLarge { actual: large.len() }));
    // One line of that length is refused before it is decoded.
    let line = format!("— a {}\n", "A".repeat(NOTE_BYTES_MAX));
    assert!(matches!(NoteSignature::parse_line(&line), Err(NoteError::TooLarge { .. })));
}

#[test]
fn signature_lines() {
    for line in CHECKPOINT_NOTE.split_inclusive('\n').skip(4) {
        let signature = NoteSignature::parse_line(line).unwrap();
        assert_eq!(signature.to_string(), line);
        NoteSignature::parse_line(line.trim_end()).unwrap_err();
        NoteSignature::parse_line(&format!("{line}{line}")).unwrap_err();
    }
}

#[test]
fn what_is_nearly_a_checkpoint() {
    let root = "GqaNMHSQWlgfhMu9D3U3lJBP2ARRvEwT5p2aU7xZUCw=";
    let parse = |text: String| Checkpoint::parse(&text);
    assert_eq!(parse(format!("a\n18446744073709551615\n{root}\n")).unwrap().size, u64::MAX);
    let extended = format!("a b\n0\n{root}\nmore\nand more\n");
    assert_eq!(parse(extended.clone()).unwrap().extensions, ["more", "and more"]);
    assert_eq!(parse(extended.clone()).unwrap().to_string(), extended);
    let cases = [
        (String::new(), CheckpointError::Lines),
        (format!("a\n5\n{root}"), CheckpointError::Lines),
        ("a\n5\n".into(), CheckpointError::Lines),
        (format!("\n5\n{root}\n"), CheckpointError::Empty { line: 1 }),
        (format!("a\n5\n{root}\n\n"), CheckpointError::Empty { line: 4 }),
        (format!("a\n5\n{root}\n\nx\n"), CheckpointError::Empty { line: 4 }),
        (format!("a\r\n5\r\n{root}\r\n"), CheckpointError::Control),
        (format!("a\n05\n{root}\n"), CheckpointError::Size),
        (format!("a\n+5\n{root}\n"), CheckpointError::Size),
        (format!("a\n5 \n{root}\n"), CheckpointError::Size),
        (format!("a\n18446744073709551616\n{root}\n"), CheckpointError::Size),
        ("a\n5\nGqaNMHSQWlgfhMu9D3U3lJBP2ARRvEwT5p2aU7xZUC==\n".into(), CheckpointError::Root),
        ("a\n5\nGqaNMHSQWlgfhMu9D3U3lJBP2ARRvEwT5p2aU7xZUCx=\n".into(), CheckpointError::Root),
        (format!("a\n5\n{}\n", root.trim_end_matches('=')), CheckpointError::Root),
    ];
    for (text, error) in cases {
        assert_eq!(parse(text.clone()), Err(error), "{text:?}");
    }
}

#[test]
fn what_is_nearly_a_key() {
    let refused = |text: &str| text.parse::<VerifierKey>().unwrap_err();
    for text in
        ["", "a", "a+3c9d8996", "a+3c9d899+AQ==", "a+3C9D8996+AQ==", "a+3c9d8996+", "a+3c9d8996+AQ"]
    {
        assert_eq!(refused(text), KeyError::Form, "{text:?}");
    }
    let (_, rest) = LOG_KEY.split_once('+').unwrap();
    assert!(matches!(refused(&format!("a+{rest}")), KeyError::Id { .. }));
    assert!(matches!(refused(&format!("a b+{rest}")), KeyError::Name { .. }));
    assert!(matches!(refused(&format!("+{rest}")), KeyError::Name { .. }));
    assert!(matches!(refused(&format!("{LOG_KEY}\n")), KeyError::Form));
    let with = |bytes: &[u8]| format!("a+00000000+{}", crate::text::encode_base64(bytes));
    assert!(matches!(refused(&with(&[6; 33])), KeyError::Type { actual: 6, .. }));
    assert!(matches!(refused(&with(&[1; 32])), KeyError::Length { actual: 31, .. }));
    assert!(matches!(refused(&with(&[4; 34])), KeyError::Length { actual: 33, .. }));
    // A key of small order, for which anybody can sign: all zeros is one.
    let weak = [&[4u8][..], &[0; 32]].concat();
    assert!(matches!(refused(&with(&weak)), KeyError::Point { .. }));
    let secret = |text: &str| text.parse::<SignerKey>().unwrap_err();
    assert_eq!(secret(GO_KEY), KeyError::SecretForm);
    assert_eq!(secret("PRIVATE+KEY+"), KeyError::SecretForm);
    assert!(matches!(secret(&GO_SECRET.replace("c74f20a3", "c74f20a4")), KeyError::Id { .. }));
}

#[test]
fn secret_keys_come_back() {
    for key in [log_key(), witness_key()] {
        let again: SignerKey = key.to_secret_text().parse().unwrap();
        assert_eq!(again.verifier(), key.verifier());
        assert_eq!(again.to_secret_text(), key.to_secret_text());
    }
}

#[test]
#[should_panic(expected = "signs no logs")]
fn a_cosigner_signs_no_logs() {
    witness_key().sign(&Checkpoint::new("a", 1, Hash([1; 32])));
}
